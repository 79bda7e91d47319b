//! What is not to be opened is left as it is; what fails stops commits; what is full says so.

use std::path::PathBuf;

use ltq_core::{
    Durability::{self, Disk, Memory, Os},
    LogName, LogOptions, Message, Offset, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{
        engine::{Caller, Engine},
        filesystem::FileSystem,
        format, identity,
    },
    model::{Model, commit, open, path, read_all, tiny},
};
use crate::simulation::{Chance, Faults, SimulatedDisk};

fn log() -> LogName {
    LogName::new("log")
}

fn append(at: u64, count: usize, len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let messages: Vec<_> = (0..count).map(|i| Message::new(vec![i as u8; len])).collect();
    batch.append(log(), Offset(at), Timestamp(at), Records::encode(&messages));
    batch
}

fn store(disk: &SimulatedDisk) -> Engine {
    let engine = open(tiny(disk)).unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    commit(&engine, batch, Disk).unwrap();
    for at in 0..10 {
        commit(&engine, append(at, 1, 100), Disk).unwrap();
    }
    engine
}

fn close(engine: &Engine) {
    engine.begin_closing();
    engine.finish_closing().unwrap();
}

/// Opening is refused for that reason, and nothing is written.
fn assert_refused(disk: &SimulatedDisk, why: &str) {
    let (files, operations) = (disk.files(), disk.operations());
    match open(tiny(disk)) {
        Err(StoreError::Open { why: found, .. }) => {
            assert!(found.contains(why), "{found:?} does not say {why:?}");
        }
        other => panic!("{why}: {other:?}"),
    }
    assert_eq!((files, operations), (disk.files(), disk.operations()), "{why}");
}

fn journal_files(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.extension().is_some_and(|it| it == "journal")).collect()
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let disk = SimulatedDisk::default();
    let engine = store(&disk);
    assert_refused(&disk, "another process has it open");
    close(&engine);
    open(tiny(&disk)).unwrap();
}

#[test]
fn a_store_that_was_dropped_can_be_opened_again() {
    let disk = SimulatedDisk::default();
    drop(store(&disk));
    let engine = open(tiny(&disk)).unwrap();
    assert_eq!(read_all(&engine, &log(), 0, 10).unwrap().len(), 10);
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let disk = SimulatedDisk::default();
    disk.create_dir_all(&path("")).unwrap();
    disk.put_file(&path("holiday.jpg"), b"sunny");
    assert_refused(&disk, "holiday.jpg");
}

#[test]
fn a_store_on_a_read_only_disk_is_refused() {
    let disk = SimulatedDisk::default();
    drop(store(&disk));
    disk.set_read_only(true);
    assert_refused(&disk, "lock");
}

#[test]
fn another_format_is_refused_by_its_number() {
    let files = ["identity", "checkpoint-0", "journal/0000000000000001.journal"];
    for (version, hint) in
        [(format::VERSION - 1, "an older one"), (format::VERSION + 1, "a newer one")]
    {
        for file in files {
            let disk = SimulatedDisk::default();
            let engine = store(&disk);
            engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
            drop(engine);
            disk.edit(&path(file), |bytes| {
                for at in identity::COPIES_AT.map(|at| at as usize) {
                    if at > 0 && file != "identity" {
                        continue;
                    }
                    bytes[at + 8..at + 10].copy_from_slice(&version.to_le_bytes());
                    let crc = crc32c::crc32c(&bytes[at..at + 60]);
                    bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
                }
            });
            assert_refused(&disk, &format!("it has format {version}"));
            assert_refused(&disk, hint);
        }
    }
}

#[test]
fn another_stores_files_are_refused() {
    for file in ["identity", "checkpoint-1", "journal/0000000000000001.journal"] {
        let (disk, other) = (SimulatedDisk::default(), SimulatedDisk::default());
        let (engine, theirs) = (store(&disk), store(&other));
        for engine in [&engine, &theirs] {
            engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
        }
        drop((engine, theirs));
        let mut stolen = Vec::new();
        other.edit(&path(file), |bytes| stolen.clone_from(bytes));
        disk.edit(&path(file), |bytes| *bytes = stolen);
        assert_refused(&disk, "another store");
    }
}

#[test]
fn files_in_each_others_place_are_refused() {
    let disk = SimulatedDisk::default();
    drop(store(&disk));
    drop(open(tiny(&disk)).unwrap());
    let files = journal_files(&disk);
    disk.swap(&files[0], &files[1]);
    assert_refused(&disk, "another file of the store");
}

#[test]
fn a_store_without_its_checkpoint_or_journal_or_identity_is_refused() {
    let disk = SimulatedDisk::default();
    let engine = store(&disk);
    // More than a journal file, so that the journal begins later.
    for round in 0..30 {
        commit(&engine, append(10 + 10 * round, 10, 1_000), Disk).unwrap();
    }
    close(&engine);
    for gone in [vec!["checkpoint-0", "checkpoint-1"], vec!["identity"], vec![".journal"]] {
        let less = disk.after_kill();
        for (file, _) in less.files() {
            if gone.iter().any(|gone| file.to_str().unwrap().ends_with(gone)) {
                less.remove(&file).unwrap();
            }
        }
        assert_refused(&less, "missing");
    }
}

/// What may be read the next time is not called damaged, so that nobody sets out to repair it.
#[test]
fn an_identity_that_cannot_be_read_is_not_said_to_be_damaged() {
    let disk = SimulatedDisk::default();
    close(&store(&disk));
    let file = path("identity");
    disk.spoil(&file, identity::COPIES_AT[0]);
    drop(open(tiny(&disk.after_kill())).unwrap());
    disk.spoil(&file, identity::COPIES_AT[1]);
    assert_refused(&disk, "reading its identity failed: Input/output error");
}

#[test]
fn promise_1_a_failed_sync_fails_every_commit_that_waited_on_it() {
    let disk = SimulatedDisk::default();
    let engine = store(&disk);
    let mut first = engine.submit(append(10, 1, 10), Disk, Caller::Writes).unwrap();
    let mut put = WriteBatch::new();
    put.put("k", "v");
    let mut second = engine.submit(put.clone(), Disk, Caller::Writes).unwrap();
    disk.fail_sync_in(0);
    let _ = engine.commit_step(false);
    for answer in [&mut first, &mut second] {
        assert!(matches!(answer.try_recv(), Ok(Err(StoreError::Failed(_)))));
    }
    // And all that come later, whatever they ask for; but readers go on.
    for durability in [Memory, Os, Disk] {
        let later = engine.submit(put.clone(), durability, Caller::Writes);
        assert!(matches!(later, Err(StoreError::Failed(_))), "{later:?}");
    }
    assert!(matches!(engine.failure(), Some(StoreError::Failed(why)) if why.contains("sync")));
    assert_eq!(read_all(&engine, &log(), 0, 10).unwrap().len(), 10);
    assert_eq!(engine.state.read().logs[&log()].bounds.end, Offset(10));
    engine.begin_closing();
    assert!(matches!(engine.finish_closing(), Err(StoreError::Failed(_))));
    let engine = open(tiny(&disk)).unwrap();
    let end = engine.state.read().logs[&log()].bounds.end.0;
    assert!((10..=11).contains(&end));
}

/// The process starts again and the machine does not: what a failed sync left behind can be read,
/// is not on the disk, and the next sync says that all is well.
#[test]
fn promise_1_nothing_is_built_on_what_a_failed_sync_left_in_memory() {
    for seed in 0..40 {
        let disk = SimulatedDisk::default();
        let engine = store(&disk);
        disk.set_faults(Faults::default(), &Chance::new(seed));
        disk.fail_sync_in(0);
        let mut answer = engine.submit(append(10, 1, 2_000), Disk, Caller::Writes).unwrap();
        let _ = engine.commit_step(false);
        assert!(matches!(answer.try_recv(), Ok(Err(StoreError::Failed(_)))));
        drop(engine);
        let disk = disk.after_kill();
        let engine = open(tiny(&disk)).unwrap();
        let end = engine.state.read().logs[&log()].bounds.end.0;
        commit(&engine, append(end, 1, 100), Disk).unwrap();
        let expected = Model::of(&engine).unwrap();
        drop(engine);
        let disk = disk.after_power_cut(&mut Chance::new(seed));
        let engine = open(tiny(&disk)).unwrap();
        assert_eq!(Model::of(&engine).unwrap(), expected, "seed {seed}");
    }
}

#[test]
fn a_full_device_refuses_records_takes_small_changes_and_recovers() {
    let disk = SimulatedDisk::default();
    let engine = store(&disk);
    disk.set_capacity(Some(disk.used() + (600 << 10)));
    let mut end = 10;
    let full = loop {
        match commit(&engine, append(end, 10, 1_000), Durability::Os) {
            Ok(_) => end += 10,
            Err(error) => break error,
        }
        assert!(end < 3_000, "it never fills up");
    };
    assert!(matches!(&full, StoreError::Full { what, .. } if what.contains("device")), "{full}");
    assert!(engine.failure().is_none());
    // Cursors and truncations get through, thousands of them.
    for round in 0..2_000_u64 {
        let mut batch = WriteBatch::new();
        batch.put("cursor", round.to_le_bytes().to_vec());
        if round % 500 == 0 {
            batch.truncate(log(), Offset(round / 100));
        }
        commit(&engine, batch, Disk).unwrap();
    }
    // What the truncations gave back may be enough for some.
    if commit(&engine, append(end, 10, 1_000), Os).is_ok() {
        end += 10;
    }
    // Given up space is used again.
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(end));
    commit(&engine, batch, Disk).unwrap();
    let before = end;
    let mut refused = None;
    while end <= before + 200 && refused.is_none() {
        match commit(&engine, append(end, 10, 1_000), Os) {
            Ok(_) => end += 10,
            Err(error) => refused = Some(error),
        }
    }
    let taken = end - before;
    assert!(taken > 50, "only {taken} records were taken again: {refused:?}, {:?}", disk.files());
    let expected = Model::of(&engine).unwrap();
    drop(engine);
    disk.set_capacity(None);
    let engine = open(tiny(&disk)).unwrap();
    assert_eq!(Model::of(&engine).unwrap(), expected);
}
