//! Promise 8 for blocks of full size, whose tables lie in many sectors: what stands around records
//! can be damaged anywhere, and costs nothing but its price in bytes.

use std::{collections::BTreeSet, ops::Range, path::PathBuf};

use ltq_core::{
    Durability::Disk, LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError,
    Timestamp, WriteBatch,
};

use super::{
    super::{CheckReport, FileStore, FileStoreOptions, Loss, engine::Engine, spill::Job},
    model::{commit, open, tiny},
};
use crate::simulation::SimulatedDisk;

const SECTOR: usize = 512;

fn log() -> LogName {
    LogName::new("log")
}

fn options(disk: &SimulatedDisk) -> FileStoreOptions {
    tiny(disk).tail_bytes(4 << 20).segment_bytes(4 << 20).journal_bytes_max(16 << 20)
}

/// A closed store with one segment, of some 300 KiB in records of so many bytes, unlike each other;
/// its file, and where in it the records are.
fn segment(len: usize, per_batch: usize) -> (SimulatedDisk, PathBuf, Vec<Range<usize>>) {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk)).unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    commit(&engine, batch, Disk).unwrap();
    let (count, mut number) = ((300 << 10) / len, 0_u32);
    let mut all = Vec::new();
    while all.len() < count {
        let messages: Vec<_> = (0..per_batch)
            .map(|_| {
                number += 1;
                let unlike = (0..).flat_map(|at: u32| {
                    (number.wrapping_mul(2_654_435_761) ^ at.wrapping_mul(40_503)).to_le_bytes()
                });
                Message::new(unlike.take(len).collect::<Vec<u8>>())
            })
            .collect();
        let records = Records::encode(&messages);
        let (at, time) = (Offset(all.len() as u64), Timestamp(1_000 + u64::from(number)));
        all.extend((0..records.count()).map(|index| records.encoded(index).unwrap()));
        let mut batch = WriteBatch::new();
        batch.append(log(), at, time, records);
        commit(&engine, batch, Disk).unwrap();
    }
    let job = Job::collect(&log(), &engine.state.read().logs[&log()], |_| true).unwrap();
    engine.spill(&mut engine.keeping.lock(), vec![job]).unwrap();
    engine.begin_closing();
    engine.finish_closing().unwrap();
    let files = disk.files().into_iter().map(|(path, _)| path);
    let file = files.filter(|path| path.extension().is_some_and(|it| it == "segment"));
    let [file] = file.collect::<Vec<_>>().try_into().expect("one segment");
    let content = disk.content(&file);
    let (mut places, mut from) = (Vec::new(), 0);
    for record in &all {
        let found = content[from..].windows(record.len()).position(|it| it == &record[..]);
        from += found.expect("it is in the segment");
        places.push(from..from + record.len());
        from += record.len();
    }
    (disk, file, places)
}

/// The records that come back whole, as they were; that the others are told is checked.
fn read(engine: &Engine, whole: &[u8], places: &[Range<usize>], context: &str) -> BTreeSet<usize> {
    let (mut next, mut good) = (Offset::ZERO, BTreeSet::new());
    let end = engine.state.read().logs[&log()].bounds.end;
    while next < end {
        match engine.read(&log(), next, ReadLimits { records: 1_000, bytes: 512 << 10 }) {
            Ok(batches) => {
                assert!(!batches.is_empty(), "{context}");
                for batch in batches {
                    assert_eq!(batch.first, next, "{context}");
                    for index in 0..batch.records.count() {
                        let place = places[next.0 as usize].clone();
                        let encoded = batch.records.encoded(index).unwrap();
                        assert_eq!(encoded, whole[place], "{context}: a wrong record at {next}");
                        good.insert(next.0 as usize);
                        next = next.plus(1);
                    }
                }
            }
            Err(StoreError::Damaged { from, until, .. }) => {
                assert!(from == next && until > next, "{context}: {from} to {until} at {next}");
                next = until;
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }
    good
}

fn lost(report: &CheckReport) -> BTreeSet<usize> {
    let losses = report.damage.iter().filter_map(|damage| match &damage.loss {
        Loss::Records { from, until, .. } => Some(from.0 as usize..until.0 as usize),
        _ => None,
    });
    losses.flatten().collect()
}

#[test]
fn promise_8_a_damaged_sector_of_a_full_block_costs_the_records_in_it_and_no_others() {
    let (mut harmless, mut costly) = (0, 0);
    // Tables of many sectors, of a few, and of less than one; times that change often, and rarely.
    for (len, per_batch) in [(40, 60), (60, 1), (1_000, 7), (20_000, 1)] {
        let (disk, file, places) = segment(len, per_batch);
        let whole = disk.content(&file);
        for sector in (0..whole.len()).step_by(SECTOR) {
            let sector = sector..(sector + SECTOR).min(whole.len());
            // In the middle of a large record some are enough.
            let inside = |it: &Range<usize>| it.start < sector.start && sector.end < it.end;
            if !(sector.start / SECTOR).is_multiple_of(8) && places.iter().any(inside) {
                continue;
            }
            let byte = sector.start + sector.start / SECTOR % sector.len();
            for damaged in [sector.clone(), byte..byte + 1] {
                let context = format!("{damaged:?} of {}, records of {len}", whole.len());
                disk.edit(&file, |bytes| {
                    bytes[damaged.clone()].iter_mut().for_each(|it| *it ^= 0xff)
                });
                let touched: BTreeSet<_> = places
                    .iter()
                    .enumerate()
                    .filter(|(_, it)| it.start < damaged.end && damaged.start < it.end)
                    .map(|(index, _)| index)
                    .collect();
                let report = FileStore::check(&options(&disk), |_| ()).unwrap();
                assert!(!report.is_clean(), "{context}: not found");
                assert!(
                    report.damage.iter().all(|it| it.position < damaged.end as u64),
                    "{context}"
                );
                assert_eq!(lost(&report), touched, "{context}: {:?}", report.damage);
                let copy = disk.after_kill();
                let engine = open(options(&copy)).unwrap();
                let good = read(&engine, &whole, &places, &context);
                assert_eq!(good.len() + touched.len(), places.len(), "{context}");
                assert!(good.is_disjoint(&touched), "{context}");
                harmless += usize::from(touched.is_empty());
                costly += usize::from(!touched.is_empty());
                disk.edit(&file, |bytes| bytes.copy_from_slice(&whole));
            }
        }
    }
    assert!(harmless > 100 && costly > 1_000, "{harmless} cost nothing, {costly} something");
}

#[test]
fn promise_8_a_repair_of_a_restored_block_loses_nothing_and_leaves_nothing_to_be_restored() {
    let (disk, file, places) = segment(100, 20);
    let whole = disk.content(&file);
    // The first header and all of the table that is in its sector.
    disk.edit(&file, |bytes| bytes[64..SECTOR].fill(0));
    let report = FileStore::repair(&options(&disk), "aside", |_| ()).unwrap().report;
    assert!(report.damage.iter().all(|damage| damage.loss == Loss::Nothing), "{report:?}");
    assert!(report.damage.len() >= 2, "header and table: {report:?}");
    assert!(FileStore::check(&options(&disk), |_| ()).unwrap().is_clean());
    let engine = open(options(&disk)).unwrap();
    assert_eq!(read(&engine, &whole, &places, "repaired").len(), places.len());
}

#[test]
fn what_stands_around_the_records_of_full_blocks_is_below_half_a_percent() {
    for len in [100, 1_000, 10_000] {
        let (disk, file, places) = segment(len, 100_000 / len);
        let records: usize = places.iter().map(|it| it.len() + ltq_core::TABLE_ENTRY_BYTES).sum();
        let all = disk.content(&file).len();
        // The last block is not full.
        assert!((all - records) * 1_000 < records * 5 + 600_000, "{all} for {records} of {len}");
    }
}
