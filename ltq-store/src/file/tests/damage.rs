//! Promise 8: what is damaged is never delivered, costs the records that it touches, and is told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

use ltq_core::{
    Durability::{Disk, Memory},
    LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::engine::Engine,
    model::{Model, Record, commit, open, path, tiny},
};
use crate::simulation::{Chance, Faults, SimulatedDisk};

const LIMITS: ReadLimits = ReadLimits { records: 50, bytes: 10_000 };
const PER_BATCH: usize = 4;

fn name(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

fn records(seed: u64, count: usize, len: usize) -> Records {
    let messages: Vec<_> =
        (0..count).map(|i| Message::new(vec![seed as u8 ^ (i as u8) << 5; len + i])).collect();
    Records::encode(&messages)
}

fn close(engine: &Engine) {
    engine.begin_closing();
    engine.finish_closing().unwrap();
}

/// A store with two logs of some batches each, and values.
fn fill(engine: &Engine, model: &mut Model, batches: u64, len: usize) {
    for round in 0..batches {
        for log in 0..2 {
            let mut batch = WriteBatch::new();
            let name = name(log);
            if !model.logs.contains_key(&name) {
                batch.create_log(name.clone(), LogOptions::default());
            }
            let at = model.logs.get(&name).map_or(0, |log| log.end);
            let records = records(round * 2 + log, PER_BATCH, len);
            batch.append(name, Offset(at), Timestamp(1_000 + round), records);
            if round % 4 == 1 {
                batch.put(format!("key-{log}"), vec![round as u8; 40]);
            }
            commit(engine, batch.clone(), Disk).unwrap();
            model.apply(&batch);
        }
    }
}

/// What is said to be lost: from, until, file and position.
type Lost = (u64, u64, String, u64);

/// What comes back of a log, and what is said to be lost.
fn read(engine: &Engine, log: &LogName) -> (Vec<Record>, Vec<Lost>) {
    let bounds = engine.state.read().logs[log].bounds;
    let (mut good, mut lost) = (Vec::new(), Vec::new());
    let mut next = bounds.first;
    while next < bounds.end {
        match engine.read(log, next, LIMITS) {
            Ok(batches) => {
                assert!(!batches.is_empty());
                for batch in batches {
                    assert_eq!(batch.first, next);
                    for index in 0..batch.records.count() {
                        let encoded = batch.records.encoded(index).unwrap();
                        good.push((next.0, batch.time, encoded));
                        next = next.plus(1);
                    }
                }
            }
            Err(StoreError::Damaged { from, until, file, position, .. }) => {
                assert!(from == next && until > next && until <= bounds.end);
                lost.push((from.0, until.0, file, position));
                next = until;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (good, lost)
}

/// Compares a store with what it held before the damage. Returns how many records are lost.
fn check(engine: &Engine, model: &Model, damaged: &Path, at: usize) -> u64 {
    let mut lost_records = 0;
    let context = format!("byte {at} of {}", damaged.display());
    for (name, expected) in &model.logs {
        let bounds = engine.state.read().logs.get(name).map(|log| log.bounds);
        let bounds = bounds.unwrap_or_else(|| panic!("{context}: {name} is gone"));
        assert_eq!((bounds.first.0, bounds.end.0), (expected.first, expected.end), "{context}");
        let (good, lost) = read(engine, name);
        for (from, until, file, position) in &lost {
            lost_records += until - from;
            assert_eq!(Path::new(file), damaged, "{context}");
            assert!((*position as usize) <= at + 64, "{context}: said to be at {position}");
        }
        let expected = expected.records.iter().filter(|record| {
            !lost.iter().any(|(from, until, ..)| (from..until).contains(&&record.0))
        });
        assert!(good.iter().eq(expected), "{context}: {name} holds something else");
    }
    let told = engine.counters.damaged_records.load(Relaxed);
    assert!(told >= lost_records, "{context}: {lost_records} lost and {told} told");
    if told == 0 {
        assert_eq!(engine.state.read().values, model.values, "{context}");
    }
    lost_records
}

/// Flips one bit of every `step`th byte of a file, one after the other. Returns how many records
/// each one cost.
fn flip_each(disk: &SimulatedDisk, model: &Model, file: &Path, step: usize) -> BTreeMap<u64, u64> {
    let len = disk.files().into_iter().find(|(path, _)| path == file).unwrap().1;
    let mut costs = BTreeMap::new();
    for at in (0..len).step_by(step) {
        let flipped = disk.after_kill();
        let mut is_zero = false;
        flipped.edit(file, |bytes| {
            is_zero = bytes[at.saturating_sub(200)..].iter().take(400).all(|&byte| byte == 0);
            bytes[at] ^= 1 << (at % 8);
        });
        // Of what was never written a little is enough.
        if is_zero && at % 64 != 0 {
            continue;
        }
        let engine = open(tiny(&flipped)).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        *costs.entry(check(&engine, model, file, at)).or_default() += 1;
    }
    costs
}

fn files(disk: &SimulatedDisk, part: &str) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.to_str().unwrap().contains(part)).collect()
}

#[test]
fn promise_8_a_flipped_bit_of_the_journal_costs_the_records_it_touches() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 6, 60);
    close(&engine);
    let journal = files(&disk, ".journal");
    let costs = flip_each(&disk, &model, journal.last().unwrap(), 1);
    // One record for a byte of a payload, two for where one ends, nothing for headers.
    assert!(costs[&1] > 6 * 2 * 4 * 60 && costs[&0] > 1_000, "{costs:?}");
    assert!(costs.keys().all(|&cost| cost <= 2), "{costs:?}");
}

#[test]
fn promise_8_a_flipped_bit_is_damage_too_when_only_a_later_entry_proves_it() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 2, 60);
    let journal = files(&disk, ".journal").remove(0);
    let end = engine.front.lock().end_of_entries() as usize;
    drop(engine);
    // The entries before the last one were synced before the last was written.
    let mut cut = 0;
    for at in (4096..end).step_by(3) {
        let flipped = disk.after_kill();
        flipped.edit(&journal, |bytes| bytes[at] ^= 4);
        let engine = open(tiny(&flipped)).unwrap();
        if engine.state.read().logs[&name(1)].bounds.end == Offset(4) {
            // It cannot be told from an end that was torn off. Nothing else is lost with it.
            cut += 1;
            assert_eq!(read(&engine, &name(0)).0, model.logs[&name(0)].records);
            assert_eq!(read(&engine, &name(1)).0, model.logs[&name(1)].records[..4]);
        } else {
            check(&engine, &model, &journal, at);
        }
    }
    assert!(cut > 50 && cut * 3 < (end - 4096) / 3, "{cut} of {}", (end - 4096) / 3);
}

#[test]
fn promise_8_a_flipped_bit_of_a_segment_costs_the_records_it_touches() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 70, 150);
    // Everything to segments.
    let jobs: Vec<_> = {
        let state = engine.state.read();
        let logs = state.logs.iter();
        logs.filter_map(|(name, log)| super::super::spill::Job::collect(name, log, |_| true))
            .collect()
    };
    engine.spill(&mut engine.keeping.lock(), jobs).unwrap();
    close(&engine);
    let segments = files(&disk, ".segment");
    let (first, last) = (segments.first().unwrap(), segments.last().unwrap());
    let forgotten = disk.after_kill();
    for journal in files(&disk, ".journal") {
        // What the journal says of them too must not come to the rescue.
        forgotten.edit(&journal, |bytes| assert!(!bytes.is_empty()));
    }
    for segment in [first, last] {
        let costs = flip_each(&forgotten, &model, segment, 37);
        assert!(costs.len() >= 2 && costs[&1] > 300, "{costs:?}");
    }
}

#[test]
fn a_flipped_bit_of_a_checkpoint_or_of_the_identity_costs_nothing() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 6, 60);
    close(&engine);
    for file in ["checkpoint-0", "checkpoint-1", "identity"] {
        let costs = flip_each(&disk, &model, &path(file), 1);
        assert_eq!(costs.keys().copied().collect::<Vec<_>>(), [0]);
    }
}

#[test]
fn promise_8_a_missing_segment_is_told_and_the_rest_is_served() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 200, 200);
    close(&engine);
    let segments = files(&disk, ".segment");
    assert!(segments.len() > 2);
    let gone = &segments[1];
    super::super::filesystem::FileSystem::remove(&disk, gone).unwrap();
    let engine = open(tiny(&disk)).unwrap();
    let lost = check(&engine, &model, gone, usize::MAX - 64);
    assert!(lost > 0 && lost < 200 * PER_BATCH as u64);
    // Who reads on in the middle of it is told of what lies ahead.
    let log = (0..2).map(name).find(|log| !read(&engine, log).1.is_empty()).unwrap();
    let (from, until, ..) = read(&engine, &log).1.remove(0);
    match engine.read(&log, Offset(from + 1), LIMITS) {
        Err(StoreError::Damaged { from: told, until: end, .. }) => {
            assert_eq!((told, end), (Offset(from + 1), Offset(until)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn promise_8_a_segment_that_was_truncated_while_it_was_looked_for_is_no_damage() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 200, 200);
    let log = name(0);
    let (id, segment) = {
        let state = engine.state.read();
        let found = &state.logs[&log];
        (found.id, found.segments.first().unwrap().clone())
    };
    let mut batch = WriteBatch::new();
    batch.truncate(log.clone(), Offset(model.logs[&log].end));
    commit(&engine, batch, Disk).unwrap();
    for _ in 0..100 {
        engine.keep_step().unwrap();
    }
    // As a reader that found the segment before, and comes to its file only now.
    let found = engine.source(&log, id, segment.clone(), segment.first).err();
    assert!(matches!(found, Some(StoreError::Damaged { .. })), "{found:?}");
    assert_eq!(engine.counters.damaged_records.load(Relaxed), 0);
    close(&engine);
}

#[test]
fn promise_8_damage_is_still_told_after_a_checkpoint_and_a_restart() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(tiny(&disk)).unwrap();
    fill(&engine, &mut model, 3, 60);
    close(&engine);
    let journal = files(&disk, ".journal").pop().unwrap();
    let payload = records(2, PER_BATCH, 60).payload().clone();
    let mut at = 0;
    disk.edit(&journal, |bytes| {
        let found = bytes.windows(payload.len()).position(|window| window == &payload[..]);
        at = found.unwrap() + 30;
        bytes[at] ^= 1;
    });
    for _ in 0..3 {
        let engine = open(tiny(&disk)).unwrap();
        let (_, lost) = read(&engine, &name(0));
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].0, lost[0].1), (4, 5));
        let mut keeping = engine.keeping.lock();
        engine.checkpoint(&mut keeping, false).unwrap();
        drop(keeping);
        // What comes after is taken and kept.
        let mut batch = WriteBatch::new();
        let end = engine.state.read().logs[&name(0)].bounds.end;
        batch.append(name(0), end, Timestamp(2_000), records(9, 1, 10));
        commit(&engine, batch, Memory).unwrap();
        close(&engine);
    }
}

/// Memory and device differ after a sync that failed, and whatever is wanted of it is read again.
#[test]
fn promise_8_what_a_failed_sync_has_forgotten_is_not_called_damaged() {
    let mut refused = 0;
    for seed in 0..20 {
        let (disk, mut model) = (SimulatedDisk::default(), Model::default());
        let engine = open(tiny(&disk)).unwrap();
        fill(&engine, &mut model, 200, 300);
        disk.set_faults(Faults::default(), &Chance::new(seed));
        disk.fail_sync_in(seed % 4);
        let failed = engine.checkpoint(&mut engine.keeping.lock(), false).is_err();
        for offset in (0..10 * 800).map(|at| Offset(at % 800)) {
            match engine.read(&name(seed % 2), offset, LIMITS) {
                Ok(batches) => assert_eq!(batches[0].first, offset),
                Err(StoreError::Failed(_)) if failed => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert_eq!(engine.counters.damaged_records.load(Relaxed), 0);
        drop(engine);
        // The journal has what the device has not.
        let engine = open(tiny(&disk.after_power_cut(&mut Chance::new(seed)))).unwrap();
        for (name, expected) in &model.logs {
            assert_eq!(read(&engine, name), (expected.records.clone(), Vec::new()), "seed {seed}");
        }
    }
    assert_ne!(refused, 0, "no read found anything");
}
