//! Opening again: what the journal tells a second time is written a second time, and a crash or a
//! full device on the way costs nothing.

use ltq_core::{Durability::Disk, LogName, LogOptions, Message, Offset, Records, StoreError};
use ltq_core::{Timestamp, WriteBatch};

use super::{
    super::engine::Engine,
    model::{Model, commit, open, path, tiny},
};
use crate::FileStoreOptions;
use crate::simulation::{Chance, SimulatedDisk};

fn log(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

/// Eight records of a KiB for one of three logs.
fn append(engine: &Engine, to: u64) {
    let at = engine.state.read().logs[&log(to)].bounds.end;
    let messages: Vec<_> = (0..8).map(|it| Message::new(vec![it + at.0 as u8; 1 << 10])).collect();
    let mut batch = WriteBatch::new();
    batch.append(log(to), at, Timestamp(at.0), Records::encode(&messages));
    batch.put("last", to.to_le_bytes().to_vec());
    commit(engine, batch, Disk).unwrap();
}

/// No checkpoint of its own accord.
fn options(disk: &SimulatedDisk) -> FileStoreOptions {
    tiny(disk).journal_bytes_max(4 << 20).reserve_bytes(0)
}

fn segments(disk: &SimulatedDisk) -> Vec<(std::path::PathBuf, usize)> {
    let mut files = disk.files();
    files.retain(|(path, _)| path.extension().is_some_and(|it| it == "segment"));
    files
}

/// A store with segments of before a checkpoint, since extended, and others made since; all of it
/// confirmed for power cuts.
fn used() -> (SimulatedDisk, Model) {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk)).unwrap();
    let mut batch = WriteBatch::new();
    for at in 0..4 {
        batch.create_log(log(at), LogOptions::default());
    }
    commit(&engine, batch, Disk).unwrap();
    (0..20).for_each(|round| append(&engine, round % 2));
    engine.keep_step().unwrap();
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
    let before = segments(&disk).len();
    (0..40).for_each(|round| append(&engine, round % 3));
    let mut batch = WriteBatch::new();
    batch
        .truncate(log(0), Offset(100))
        .delete_log(log(3))
        .create_log(log(3), LogOptions::default());
    commit(&engine, batch, Disk).unwrap();
    (0..8).for_each(|_| append(&engine, 3));
    engine.keep_step().unwrap();
    assert!(before > 0 && segments(&disk).len() > before + 2);
    let model = Model::of(&engine).unwrap();
    drop(engine);
    (disk.after_kill(), model)
}

fn assert_all_there(disk: &SimulatedDisk, model: &Model, what: &str) {
    let engine = open(options(disk)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(&Model::of(&engine).unwrap(), model, "{what}");
    assert_eq!(engine.counters.damaged_records.load(super::Relaxed), 0, "{what}");
}

#[test]
fn promise_1_a_crash_at_any_operation_of_opening_costs_nothing() {
    let (disk, model) = used();
    let whole = disk.after_kill();
    let before = whole.operations();
    drop(open(options(&whole)).unwrap());
    let operations = whole.operations() - before;
    assert!(operations > 20, "{operations} operations, so few that nothing was written again");
    for crash_in in 1..=operations {
        for seed in 0..6 {
            let mut chance = Chance::new(crash_in * 31 + seed);
            let mut crashed = disk.after_kill();
            crashed.crash_at(crashed.operations() + crash_in);
            let mut what = format!("crash at {crash_in} of {operations}, seed {seed}");
            // Then perhaps at another.
            for _ in 0..=chance.below(2) {
                drop(open(options(&crashed)));
                let kill = chance.one_in(3);
                crashed =
                    if kill { crashed.after_kill() } else { crashed.after_power_cut(&mut chance) };
                let next = 1 + chance.below(operations);
                what += &format!(", {} and at {next}", if kill { "killed" } else { "cut" });
                crashed.crash_at(crashed.operations() + next);
            }
            crashed.crash_at(u64::MAX);
            assert_all_there(&crashed, &model, &what);
        }
    }
}

#[test]
fn promise_1_an_opening_that_finds_the_device_full_costs_nothing() {
    let (disk, model) = used();
    let (mut opened, mut refused) = (0, 0);
    for more in (0..48).map(|step| step * (8 << 10)) {
        let mut chance = Chance::new(more + 1);
        let full = disk.after_kill();
        full.set_capacity(Some((full.used() + more).saturating_sub(128 << 10)));
        match open(options(&full)) {
            Ok(engine) => {
                assert_eq!(Model::of(&engine).unwrap(), model, "{more}");
                opened += 1;
            }
            Err(StoreError::Open { why, .. }) if why.contains("device is full") => refused += 1,
            Err(error) => panic!("{more}: {error}"),
        }
        full.set_capacity(None);
        assert_all_there(&full.after_power_cut(&mut chance), &model, &format!("{more}, cut"));
        assert_all_there(&full.after_kill(), &model, &format!("{more}, killed"));
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

/// A read that fails is the end of the opening, and of nothing else.
#[test]
fn promise_1_a_read_of_opening_that_fails_costs_nothing() {
    let (disk, model) = used();
    let mut refused = 0;
    for read in 0.. {
        let disk = disk.after_kill();
        disk.fail_read_in(Some(read));
        let opened = open(options(&disk));
        let all_were_read = disk.may_fail_to_read();
        disk.fail_read_in(None);
        match opened {
            Ok(engine) => {
                assert_eq!(Model::of(&engine).unwrap(), model, "read {read} fails");
                drop(engine);
            }
            Err(StoreError::Open { .. } | StoreError::Io { .. }) => refused += 1,
            Err(error) => panic!("read {read} fails: {error}"),
        }
        assert_all_there(&disk.after_kill(), &model, &format!("after read {read} failed"));
        if all_were_read {
            break;
        }
    }
    assert!(refused > 5, "{refused} openings were refused");
}

#[test]
fn segments_whose_checkpoint_and_journal_are_gone_are_not_taken_for_leftovers() {
    let (disk, _) = used();
    for (file, _) in disk.files() {
        let name = file.to_str().unwrap();
        if name.contains("checkpoint") || name.ends_with(".journal") {
            super::FileSystem::remove(&disk, &file).unwrap();
        }
    }
    let files = disk.files();
    match open(options(&disk)) {
        Err(StoreError::Open { why, .. }) => assert!(why.contains("missing"), "{why}"),
        other => panic!("refused otherwise, or not at all: {:?}", other.err()),
    }
    assert_eq!(files, disk.files());
    // A journal whose beginning nobody can read is no better.
    disk.put_file(&path("journal/0000000000000001.journal"), &[0; 8192]);
    assert!(matches!(open(options(&disk)), Err(StoreError::Open { .. })));
    assert_eq!(segments(&disk).len(), files.len() - 2);
}

#[test]
fn promise_1_a_slice_of_records_comes_back_beside_a_larger_append() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk)).unwrap();
    let messages: Vec<_> = (0..9).map(|it| Message::new(vec![it as u8; 20 + it])).collect();
    // Its table counts from where the whole began.
    let slice = Records::encode(&messages).slice(4..9);
    assert!(slice.base() > 0);
    let mut batch = WriteBatch::new();
    batch.create_log(log(0), LogOptions::default()).create_log(log(1), LogOptions::default());
    batch.append(log(0), Offset(0), Timestamp(1), slice);
    batch.append(log(1), Offset(0), Timestamp(1), Records::encode(&[Message::new(vec![7; 4_000])]));
    commit(&engine, batch, Disk).unwrap();
    let model = Model::of(&engine).unwrap();
    assert_eq!(model.logs[&log(0)].records.len(), 5);
    drop(engine);
    assert_all_there(&disk, &model, "reopened");
}
