//! Promise 8, as a check and a repair keep it: what is damaged is found wherever it stands, told
//! by file, position, log and offset, and mended without touching what is whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ltq_core::{
    Durability::{Disk, Os},
    LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{
        CheckReport, FileKind, FileStore, FileStoreOptions, FileSystem, Loss, OpenMode, Repair,
        engine::{Caller, Engine},
        recovery,
        spill::Job,
    },
    model::{Model, Record, commit, open, path, tiny},
};
use crate::simulation::{Chance, SimulatedDisk};

pub(super) fn name(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

fn records(seed: u64, count: usize) -> Records {
    let len = |i: usize| 20 + 7 * i;
    let messages = (0..count).map(|i| Message::new(vec![seed as u8 ^ (i as u8) << 5; len(i)]));
    Records::encode(&messages.collect::<Vec<_>>())
}

pub(super) fn append(engine: &Engine, log: u64, count: usize) {
    let end = engine.state.read().logs[&name(log)].bounds.end;
    let mut batch = WriteBatch::new();
    batch.append(name(log), end, Timestamp(1_000 + end.0), records(end.0, count));
    batch.put(format!("key-{log}"), end.0.to_le_bytes().to_vec());
    commit(engine, batch, Disk).unwrap();
}

fn spill(engine: &Engine) {
    let jobs: Vec<_> = {
        let state = engine.state.read();
        let logs = state.logs.iter();
        logs.filter_map(|(name, log)| Job::collect(name, log, |_| true)).collect()
    };
    engine.spill(&mut engine.keeping.lock(), jobs).unwrap();
}

fn close(engine: &Engine) {
    engine.begin_closing();
    engine.finish_closing().unwrap();
}

/// A small store with some of everything: two checkpoints, a segment of each of two logs, and a
/// journal behind them.
pub(super) fn small() -> (SimulatedDisk, Model) {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(name(0), LogOptions::default()).create_log(name(1), LogOptions::default());
    commit(&engine, batch, Disk).unwrap();
    for _ in 0..3 {
        append(&engine, 0, 4);
        append(&engine, 1, 3);
    }
    spill(&engine);
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
    close(&engine);
    // This retires the journal so far.
    let engine = open(tiny(&disk)).unwrap();
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
    append(&engine, 0, 3);
    let mut batch = WriteBatch::new();
    batch.truncate(name(1), Offset(2)).delete("key-1").put("other", "value");
    batch.discard(name(0), Offset(5), Offset(7));
    commit(&engine, batch, Disk).unwrap();
    append(&engine, 1, 2);
    let model = Model::of(&engine).unwrap();
    close(&engine);
    (disk, model)
}

fn check(disk: &SimulatedDisk) -> Result<CheckReport, StoreError> {
    FileStore::check(&tiny(disk), |_| ())
}

pub(super) fn repair(disk: &SimulatedDisk, folder: &str) -> Result<Repair, StoreError> {
    FileStore::repair(&tiny(disk), folder, |_| ())
}

/// Checks, and that nothing was changed by it.
pub(super) fn look(disk: &SimulatedDisk) -> CheckReport {
    let before = (disk.operations(), disk.files());
    disk.set_read_only(true);
    let report = check(disk).unwrap();
    disk.set_read_only(false);
    assert_eq!(before, (disk.operations(), disk.files()), "a check writes nothing");
    report
}

fn flip(disk: &SimulatedDisk, file: &Path, at: usize, bit: u8) {
    disk.edit(file, |bytes| bytes[at] ^= 1 << bit);
}

/// The stretches that a report says to be lost.
fn lost(report: &CheckReport) -> Vec<(LogName, u64, u64)> {
    let losses = report.damage.iter().filter_map(|damage| match &damage.loss {
        Loss::Records { log, from, until } => Some((log.clone(), from.0, until.0)),
        _ => None,
    });
    losses.collect()
}

/// What comes back of a log, and where it is said to be damaged.
pub(super) fn read(engine: &Engine, log: &LogName) -> (Vec<Record>, Vec<(u64, u64)>) {
    let bounds = engine.state.read().logs[log].bounds;
    let (mut good, mut lost) = (Vec::new(), Vec::new());
    let mut next = bounds.first;
    while next < bounds.end {
        match engine.read(log, next, ReadLimits { records: 5, bytes: 1 << 20 }) {
            Ok(batches) => {
                assert!(!batches.is_empty());
                for batch in batches {
                    assert_eq!(batch.first, next);
                    batch.records.verify().unwrap();
                    for index in 0..batch.records.count() {
                        good.push((next.0, batch.time, batch.records.encoded(index).unwrap()));
                        next = next.plus(1);
                    }
                }
            }
            Err(StoreError::Discarded { from, until, .. }) => {
                assert!(from == next && until > from);
                next = until;
            }
            Err(StoreError::Damaged { from, until, .. }) => {
                let run = (from, until);
                assert!(from == next && until > from, "{run:?} at {next} of {log}");
                lost.push((from.0, until.0));
                next = until;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (good, lost)
}

/// A store holds the model's records, but for those that a report says to be lost.
fn assert_holds(engine: &Engine, model: &Model, report: &CheckReport, context: &str) {
    let lost = lost(report);
    for (name, expected) in &model.logs {
        let is_lost = |at: u64| {
            lost.iter().any(|(log, from, until)| log == name && (*from..*until).contains(&at))
        };
        let expected: Vec<_> =
            expected.records.iter().filter(|record| !is_lost(record.0)).cloned().collect();
        let (good, damaged) = read(engine, name);
        assert_eq!(good, expected, "{context}: {name}");
        let told = damaged.iter().flat_map(|&(from, until)| from..until);
        let said: Vec<_> = (0..1_000).filter(|&at| is_lost(at)).collect();
        assert_eq!(told.collect::<Vec<_>>(), said, "{context}: {name}");
    }
    let values_lost = report.damage.iter().any(|damage| matches!(damage.loss, Loss::Values(_)));
    if !values_lost {
        assert_eq!(engine.state.read().values, model.values, "{context}");
    }
}

#[test]
fn a_whole_store_is_clean_and_told_in_full() {
    let (disk, model) = small();
    let report = look(&disk);
    assert!(report.is_clean() && report.torn_end.is_none(), "{report:#?}");
    assert!(report.closed_in_order);
    let all: u64 = model.logs.values().map(|log| log.records.len() as u64).sum();
    assert_eq!(report.records, all);
    assert_eq!(report.values.len(), model.values.len());
    let bounds: Vec<_> =
        report.logs.iter().map(|info| (info.bounds.first, info.bounds.end)).collect();
    assert_eq!(bounds, [(Offset(0), Offset(15)), (Offset(2), Offset(11))]);
    for (kind, count) in [
        (FileKind::Identity, 1),
        (FileKind::Checkpoint, 2),
        (FileKind::Segment, 2),
        (FileKind::Journal, 1),
    ] {
        let found = report.files.iter().filter(|file| file.kind == kind && file.checked > 0);
        assert!(found.count() >= count, "{kind:?} in {:#?}", report.files);
    }
}

#[test]
fn progress_ends_where_all_was_looked_at() {
    let (disk, _) = small();
    let (mut calls, mut before, mut last) = (0, 0, None);
    FileStore::check(&tiny(&disk), |progress| {
        assert!(progress.done >= before && progress.done <= progress.total);
        (calls, before, last) = (calls + 1, progress.done, Some((progress.done, progress.total)));
        // Meanwhile nobody else has it.
        assert!(matches!(open(tiny(&disk)), Err(StoreError::Open { .. })));
    })
    .unwrap();
    let (done, total) = last.unwrap();
    assert!(calls > 10 && done == total, "{done} of {total} in {calls} steps");
}

#[test]
fn promise_8_a_flipped_bit_anywhere_in_a_store_is_found_and_told_by_its_place() {
    let (disk, _) = small();
    let whole = look(&disk);
    let (mut flips, mut told) = (0, BTreeMap::new());
    for file in whole.files.iter().filter(|file| file.kind != FileKind::Superfluous) {
        let place = path(&file.path);
        for at in 0..file.bytes {
            // Of what was never written some is enough.
            if at >= file.checked && at % 512 != 0 {
                continue;
            }
            let bit = (at % 8) as u8;
            flip(&disk, &place, at as usize, bit);
            let report = check(&disk).unwrap();
            let found = report.damage.iter().find(|damage| damage.file == file.path);
            if at < file.checked {
                let context = format!("byte {at} of {}: {:?}", file.path, report.damage);
                // That the store was closed is the last thing that was written: it may be torn.
                let torn = report.torn_end.as_ref().filter(|(path, _)| *path == file.path);
                let found = found.map(|found| found.position).or_else(|| torn.map(|torn| torn.1));
                let found = found.unwrap_or_else(|| panic!("not found: {context}"));
                assert!(found <= at, "{context}");
                for (log, from, until) in lost(&report) {
                    *told.entry((log, from, until)).or_insert(0) += 1;
                }
                flips += 1;
            } else {
                assert!(report.is_clean(), "byte {at} of {} counts", file.path);
                assert_eq!(report.records, whole.records);
            }
            flip(&disk, &place, at as usize, bit);
        }
    }
    assert!(flips > 4_000, "{flips}");
    // Each record was told by itself, and no stretch was longer than the block or batch it is in.
    for (log, first, end) in [(0, 0, 15), (1, 2, 11)] {
        for at in first..end {
            // What was discarded costs nothing.
            let kept = log == 1 || !(5..7).contains(&at);
            let alone = told.contains_key(&(name(log), at, at + 1));
            assert_eq!(alone, kept, "{log} at {at}: {told:?}");
        }
    }
    assert_eq!(look(&disk), whole);
}

#[test]
fn promise_8_a_repair_loses_what_it_says_and_nothing_else() {
    let (disk, model) = small();
    let whole = look(&disk);
    let mut costs = BTreeMap::new();
    for file in whole.files.iter().filter(|file| file.checked > 0) {
        for at in (0..file.checked).step_by(7) {
            let context = format!("byte {at} of {}", file.path);
            let disk = disk.after_kill();
            flip(&disk, &path(&file.path), at as usize, 3);
            let (mut damaged, found) = (Vec::new(), look(&disk));
            if found.is_clean() {
                assert!(found.torn_end.is_some(), "{context}");
                continue;
            }
            disk.edit(&path(&file.path), |bytes| damaged.clone_from(bytes));
            let done =
                repair(&disk, "damaged-1").unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(done.report, found, "{context}");
            assert_eq!(done.set_aside, std::slice::from_ref(&file.path), "{context}");
            let mut aside = Vec::new();
            disk.edit(&path("damaged-1").join(&file.path), |bytes| aside.clone_from(bytes));
            assert!(aside == damaged, "{context}: what was set aside is something else");
            // Nothing is found a second time, and nothing done.
            let again = look(&disk);
            assert!(again.is_clean(), "{context}: {:#?}", again.damage);
            assert_eq!(again.records, whole.records - found.lost_records(), "{context}");
            let operations = disk.operations();
            assert_eq!(repair(&disk, "damaged-2").unwrap().set_aside, [""; 0], "{context}");
            assert_eq!(disk.operations(), operations, "{context}");
            let engine = open(tiny(&disk)).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_holds(&engine, &model, &found, &context);
            let told = engine.counters.damaged_records.load(super::Relaxed);
            assert_eq!(told, 0, "{context}: known losses are found anew");
            *costs.entry(found.lost_records()).or_insert(0) += 1;
            // It goes on from there.
            append(&engine, 0, 2);
            close(&engine);
            assert!(look(&disk).is_clean(), "{context}");
        }
    }
    assert!(costs[&0] > 100 && costs[&1] > 30 && costs.keys().all(|it| *it <= 2), "{costs:?}");
}

#[test]
fn promise_8_a_sector_that_cannot_be_read_costs_what_it_holds_and_hides_nothing_else() {
    let (disk, model) = small();
    let whole = look(&disk);
    let mut costly = 0;
    // Where the journal cannot even tell of what it holds, a log may end before that.
    let holds = |engine: &Engine, report: &CheckReport, context: &str| {
        let untold = |loss: &Loss| !matches!(loss, Loss::Records { .. });
        if !report.damage.iter().any(|damage| untold(&damage.loss)) {
            return assert_holds(engine, &model, report, context);
        }
        for (name, expected) in &model.logs {
            let (good, _) = read(engine, name);
            assert!(good.iter().all(|record| expected.records.contains(record)), "{context}");
        }
    };
    for file in whole.files.iter().filter(|file| file.checked > 0) {
        for at in (0..file.checked).step_by(512) {
            let context = format!("sector at {at} of {}", file.path);
            let disk = disk.after_kill();
            disk.spoil(&path(&file.path), at);
            let found = look(&disk);
            if found.refused.is_none() {
                let engine = read_only(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
                holds(&engine, &found, &context);
                close(&engine);
            }
            let done = repair(&disk, "set-aside").unwrap_or_else(|e| panic!("{context}: {e}"));
            let again = look(&disk);
            assert!(again.is_clean(), "{context}: {:#?}", again.damage);
            let engine = open(tiny(&disk)).unwrap_or_else(|error| panic!("{context}: {error}"));
            holds(&engine, &done.report, &context);
            close(&engine);
            costly += u64::from(found.lost_records() > 0);
        }
    }
    assert!(costly > 3, "{costly}");
}

#[test]
fn promise_1_a_crash_at_any_operation_of_a_repair_costs_nothing_more() {
    let (disk, model) = small();
    let files = look(&disk).files;
    let segment = files.iter().find(|file| file.kind == FileKind::Segment).unwrap();
    let journal = files.iter().rfind(|file| file.kind == FileKind::Journal).unwrap();
    let damage = |disk: &SimulatedDisk| {
        flip(disk, &path(&segment.path), 64 + 48 + 12 + 8 * 12 + 30, 2);
        flip(disk, &path("checkpoint-1"), 90, 2);
        // The payload of the first batch behind the checkpoint.
        let bytes = records(12, 3).payload().clone();
        disk.edit(&path(&journal.path), |file| {
            let at = file.windows(bytes.len()).position(|window| window == &bytes[..]);
            file[at.unwrap_or(4_200) + 5] ^= 1;
        });
    };
    damage(&disk);
    let found = look(&disk);
    assert!(found.damage.len() >= 3 && found.lost_records() >= 2, "{:#?}", found.damage);
    let counted = disk.after_kill();
    let before = counted.operations();
    repair(&counted, "aside").unwrap();
    let operations = counted.operations() - before;
    for at in 1..=operations {
        for seed in 0..4 {
            let crashed = disk.after_kill();
            crashed.crash_at(crashed.operations() + at);
            assert!(repair(&crashed, "aside").is_err() || at == operations, "{at}");
            crashed.crash_at(u64::MAX);
            let crashed = if seed == 0 {
                crashed.after_kill()
            } else {
                crashed.after_power_cut(&mut Chance::new(at * 7 + seed))
            };
            let context = format!("crash at {at} of {operations}, {seed}");
            let opened = crashed.after_kill();
            let engine = open(tiny(&opened)).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_holds(&engine, &model, &found, &context);
            drop(engine);
            repair(&crashed, "once-more").unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(look(&crashed).is_clean(), "{context}");
            let engine = open(tiny(&crashed)).unwrap();
            assert_holds(&engine, &model, &found, &context);
        }
    }
}

#[test]
fn what_is_missing_or_cut_is_told_and_mended() {
    let (disk, model) = small();
    for file in look(&disk).files {
        let place = path(&file.path);
        let gone = disk.after_kill();
        gone.remove(&place).unwrap();
        let cut = disk.after_kill();
        cut.edit(&place, |bytes| bytes.truncate(file.checked as usize * 2 / 3));
        for (disk, how) in [(gone, "missing"), (cut, "cut")] {
            let context = format!("{} {how}", file.path);
            let report = look(&disk);
            let needed = file.checked > 0;
            if file.kind == FileKind::Journal && needed {
                // Nothing tells that there was more; all that is told is that it was not closed.
                assert!(report.refused.is_some() || !report.closed_in_order, "{context}");
                continue;
            }
            assert_eq!(report.is_clean(), !needed, "{context}: {report:#?}");
            let done = repair(&disk, "aside").unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(lost(&done.report).is_empty(), file.kind != FileKind::Segment, "{context}");
            assert!(look(&disk).is_clean(), "{context}");
            let engine = open(tiny(&disk)).unwrap();
            assert_holds(&engine, &model, &report, &context);
        }
    }
}

#[test]
fn what_is_beyond_repair_is_said_and_left_as_it_is() {
    let (disk, _) = small();
    for file in ["identity", "checkpoint-0", "checkpoint-1"] {
        disk.edit(&path(file), |bytes| bytes.fill(0));
    }
    let report = look(&disk);
    let refused = report.refused.unwrap();
    assert!(refused.to_string().contains("nothing of it tells"), "{refused}");
    let before = (disk.operations(), disk.files());
    assert_eq!(repair(&disk, "aside"), Err(refused));
    assert_eq!(before, (disk.operations(), disk.files()));
}

#[test]
fn what_is_set_aside_overwrites_nothing() {
    let (disk, _) = small();
    flip(&disk, &path("checkpoint-0"), 100, 0);
    for folder in ["", ".", "..", "a/b", "journal", "identity"] {
        let refused = repair(&disk, folder);
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{folder:?}: {refused:?}");
    }
    assert_eq!(look(&disk).damage.len(), 1);
}

#[test]
fn a_store_that_is_open_or_none_is_not_looked_at() {
    let (disk, _) = small();
    let engine = open(tiny(&disk)).unwrap();
    for refused in [check(&disk).err(), repair(&disk, "aside").err(), read_only(&disk).err()] {
        let Some(StoreError::Open { why, .. }) = refused else { panic!("{refused:?}") };
        assert!(why.contains("another process has it open"), "{why}");
    }
    drop(engine);
    let nothing = SimulatedDisk::default();
    assert!(matches!(check(&nothing), Err(StoreError::Open { .. })));
    assert!(matches!(read_only(&nothing), Err(StoreError::Open { .. })));
    nothing.create_dir_all(&path("")).unwrap();
    nothing.put_file(&path("holiday.jpg"), b"sunny");
    assert!(matches!(check(&nothing), Err(StoreError::Open { .. })));
    assert!(matches!(read_only(&nothing), Err(StoreError::Open { .. })));
    assert_eq!(nothing.operations(), 1);
}

#[test]
fn a_killed_store_is_clean_and_a_torn_end_is_told_apart() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(name(0), LogOptions::default());
    commit(&engine, batch, Disk).unwrap();
    append(&engine, 0, 3);
    let before = engine.front.lock().end_of_entries() as usize;
    let mut batch = WriteBatch::new();
    batch.append(name(0), Offset(3), Timestamp(9), records(3, 4));
    commit(&engine, batch, Os).unwrap();
    drop(engine);
    let report = look(&disk);
    assert!(report.is_clean() && report.torn_end.is_none() && !report.closed_in_order);
    assert_eq!(report.records, 7);
    let journal =
        disk.files().into_iter().find(|(file, _)| file.ends_with("0000000000000001.journal"));
    let journal = journal.unwrap().0;
    disk.edit(&journal, |bytes| bytes[before + 200] ^= 1);
    let report = look(&disk);
    assert!(report.is_clean(), "{:?}", report.damage);
    assert_eq!((report.torn_end.unwrap().1, report.records), (before as u64, 3));
}

fn read_only(disk: &SimulatedDisk) -> Result<Engine, StoreError> {
    recovery::open_read_only(&tiny(disk))
}

#[test]
fn a_store_opened_for_reading_shows_all_and_writes_nothing() {
    for closed in [true, false] {
        let (disk, mut model) = small();
        if !closed {
            let engine = open(tiny(&disk)).unwrap();
            (0..300).for_each(|_| append(&engine, 0, 4));
            model = Model::of(&engine).unwrap();
            drop(engine);
        }
        let before = (disk.operations(), disk.files());
        disk.set_read_only(true);
        let engine = read_only(&disk).unwrap();
        assert_eq!(Model::of(&engine).unwrap(), model);
        let mut batch = WriteBatch::new();
        batch.put("k", "v");
        let refused = engine.submit(batch, Os, Caller::Writes);
        assert!(matches!(&refused, Err(StoreError::Failed(why)) if why.contains("reading only")));
        assert!(matches!(open(tiny(&disk)), Err(StoreError::Open { .. })));
        close(&engine);
        disk.set_read_only(false);
        assert_eq!(before, (disk.operations(), disk.files()));
        assert_eq!(Model::of(&open(tiny(&disk)).unwrap()).unwrap(), model);
    }
}

#[tokio::test]
async fn a_real_directory_is_checked_and_read_without_a_change() {
    use ltq_core::{Durability, Store};
    let folder = tempfile::tempdir().unwrap();
    let options = || FileStoreOptions::new(folder.path());
    let store = FileStore::open(options()).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(name(0), LogOptions::default());
    batch.append(name(0), Offset(0), Timestamp(1), records(1, 5));
    store.commit(batch, Durability::Disk).await.unwrap();
    let running = FileStore::check(&options(), |_| ());
    assert!(matches!(running, Err(StoreError::Open { .. })), "{running:?}");
    store.close().await.unwrap();
    let all = |dir: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        files
    };
    let before = all(folder.path());
    let report = FileStore::check(&options(), |_| ()).unwrap();
    assert!(report.is_clean() && report.records == 5, "{report:?}");
    let store = FileStore::open_read_only(options()).await.unwrap();
    let limits = ReadLimits { records: 9, bytes: 1 << 20 };
    assert_eq!(store.read(&name(0), Offset(0), limits).await.unwrap()[0].records.count(), 5);
    assert!(matches!(store.health(), Err(StoreError::Failed(_))));
    assert!(FileStore::open(options()).await.is_err());
    store.close().await.unwrap();
    assert_eq!(before, all(folder.path()));
}

#[test]
fn a_file_that_nobody_may_write_is_enough() {
    // The lock is taken on a file that is opened for reading.
    let (disk, _) = small();
    let lock = disk.open(&path("lock"), OpenMode::Read).unwrap();
    assert!(lock.try_lock().unwrap());
    assert!(check(&disk).is_err());
    drop(lock);
    assert!(check(&disk).unwrap().is_clean());
    let _: Arc<dyn FileSystem> = Arc::new(disk);
}
