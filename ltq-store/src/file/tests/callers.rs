//! What the thread that brings a batch does itself.

use std::time::Duration;

use ltq_core::{
    Committed,
    Durability::{self, Disk, Memory, Os},
    LogName, LogOptions, Message, Offset, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::engine::{Caller, Engine},
    model::{Model, commit, open, tiny},
};
use crate::FileStoreOptions;
use crate::simulation::SimulatedDisk;

fn store(options: impl FnOnce(FileStoreOptions) -> FileStoreOptions) -> (SimulatedDisk, Engine) {
    let disk = SimulatedDisk::default();
    let engine = open(options(tiny(&disk))).unwrap();
    (disk, engine)
}

/// The answer to a commit that is there when nobody but the caller did anything.
fn at_once(
    engine: &Engine,
    durability: Durability,
    caller: Caller,
) -> Option<Result<Committed, StoreError>> {
    let mut batch = WriteBatch::new();
    batch.put("k", "v");
    engine.submit(batch, durability, caller).unwrap().try_recv().ok()
}

#[test]
fn a_lone_commit_is_written_and_synced_by_its_caller() {
    let (_, engine) = store(|options| options);
    let syncs = engine.counters.syncs.load(super::Relaxed);
    let done = at_once(&engine, Disk, Caller::Syncs);
    assert_eq!(done, Some(Ok(Committed { durability: Disk })));
    assert_eq!(engine.counters.syncs.load(super::Relaxed), syncs + 1);
    assert!(!engine.is_unsynced());
    assert_eq!(at_once(&engine, Os, Caller::Syncs), Some(Ok(Committed { durability: Os })));
    assert!(engine.is_unsynced(), "what asked for less is not synced here");
}

#[test]
fn a_caller_that_must_not_wait_is_not_made_to() {
    let (_, engine) = store(|options| options);
    assert_eq!(at_once(&engine, Disk, Caller::Writes), None);
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), Some(Ok(Committed { durability: Disk })));
}

#[test]
fn caller_sync_max_of_nothing_leaves_syncs_to_the_stores_own_thread() {
    let (_, engine) = store(|options| options.caller_sync_max(Duration::ZERO));
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), None);
}

#[test]
fn nobody_lends_itself_to_syncs_that_take_long() {
    let (_, engine) = store(|options| options.caller_sync_max(Duration::from_millis(5)));
    engine.sync_pace.note(Duration::from_millis(6));
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), None);
    // The thread's own syncs are short again.
    for _ in 0..50 {
        let mut batch = WriteBatch::new();
        batch.put("k", "v");
        engine.submit(batch, Disk, Caller::Writes).unwrap();
        engine.commit_step(false).unwrap();
    }
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), Some(Ok(Committed { durability: Disk })));
}

#[test]
fn nobody_waits_behind_the_sync_or_write_of_another() {
    let (_, engine) = store(|options| options);
    let syncing = engine.syncing.lock();
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), None);
    drop(syncing);
    let writing = engine.writing.lock();
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), None);
    drop(writing);
    assert_eq!(at_once(&engine, Disk, Caller::Syncs), Some(Ok(Committed { durability: Disk })));
}

#[test]
fn promise_1_a_sync_that_fails_in_the_callers_hands_fails_its_commit_and_all_later_ones() {
    let (disk, engine) = store(|options| options);
    disk.fail_sync_in(0);
    let done = at_once(&engine, Disk, Caller::Syncs);
    assert!(
        matches!(&done, Some(Err(StoreError::Failed(why))) if why.contains("sync")),
        "{done:?}"
    );
    let later = engine.submit(WriteBatch::new(), Disk, Caller::Syncs);
    assert!(matches!(later, Err(StoreError::Failed(_))), "{later:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_of_several_workers_lends_one_of_them() {
    assert_eq!(super::workers::Workers::none(None).caller(), Caller::Syncs);
}

#[tokio::test]
async fn a_runtime_of_one_worker_is_not_held_up() {
    assert_eq!(super::workers::Workers::none(None).caller(), Caller::Writes);
}

/// A batch that touches two logs waits for whoever touched either of them before, however soon the
/// other one is through.
#[test]
fn promise_7_a_batch_overtakes_none_of_those_that_touch_the_same_logs() {
    let (_, engine) = store(|options| options);
    let (one, two) = (LogName::new("one"), LogName::new("two"));
    let mut create = WriteBatch::new();
    create.create_log(one.clone(), LogOptions::default());
    create.create_log(two.clone(), LogOptions::default());
    commit(&engine, create, Disk).unwrap();
    let append = |log: &LogName, at, body: &'static str| {
        let mut batch = WriteBatch::new();
        let records = Records::encode(&[Message::new(body)]);
        batch.append(log.clone(), Offset(at), Timestamp(at), records);
        batch
    };
    let submit = |batch, durability| engine.submit(batch, durability, Caller::Writes).unwrap();
    let writing = engine.writing.lock();
    let mut first = submit(append(&one, 0, "a"), Disk);
    let mut second = submit(append(&two, 0, "b"), Os);
    let mut both = append(&one, 1, "c");
    both.truncate(two, Offset(1));
    let mut third = submit(both, Memory);
    drop(writing);
    engine.flush(false).unwrap();
    assert!(second.try_recv().unwrap().is_ok());
    assert!(third.try_recv().is_err(), "the log's record before it is not to be seen yet");
    engine.flush(true).unwrap();
    assert!(first.try_recv().unwrap().is_ok() && third.try_recv().unwrap().is_ok());
    let model = Model::of(&engine).unwrap();
    let bodies: Vec<_> = model.logs[&one].records.iter().map(|it| it.2.last().copied()).collect();
    assert_eq!(bodies, [Some(b'a'), Some(b'c')]);
}
