//! Promise 9: each limit does what it says; and what a log at rest costs.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    Durability::{Disk, Memory, Os},
    LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{
        engine::{Caller, Engine},
        log::{Found, Log},
    },
    model::{Model, commit, open, tiny},
};
use crate::FileStoreOptions;
use crate::simulation::SimulatedDisk;

const LIMITS: ReadLimits = ReadLimits { records: 1, bytes: 1 };

fn log() -> LogName {
    LogName::new("log")
}

fn create(engine: &Engine) {
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    commit(engine, batch, Memory).unwrap();
}

/// Appends so many batches of 10 KiB.
fn append(engine: &Engine, batches: u64) {
    for _ in 0..batches {
        let at = engine.state.read().logs[&log()].bounds.end;
        let messages = vec![Message::new(vec![1; 1_024]); 10];
        let mut batch = WriteBatch::new();
        batch.append(log(), at, Timestamp(1), Records::encode(&messages));
        commit(engine, batch, Os).unwrap();
    }
}

fn options(disk: &SimulatedDisk) -> FileStoreOptions {
    FileStoreOptions::new("/store").file_system(Arc::new(disk.clone()))
}

fn sizes(disk: &SimulatedDisk, kind: &str) -> Vec<usize> {
    let files = disk.files().into_iter();
    files.filter(|(path, _)| path.to_str().unwrap().ends_with(kind)).map(|(_, len)| len).collect()
}

#[test]
fn options_out_of_bounds_are_refused_by_name() {
    let default = || FileStoreOptions::new("/nowhere");
    let refused = [
        ("tail_bytes", default().tail_bytes(1)),
        ("journal_file_bytes", default().journal_file_bytes(1)),
        ("journal_bytes_max", default().journal_bytes_max(255 << 20)),
        ("journal_bytes_max", default().journal_bytes_max(17 << 30)),
        ("journal_bytes_max", default().journal_file_bytes(u64::MAX)),
        ("segment_bytes", default().segment_bytes(1)),
        ("segment_bytes", default().segment_bytes(u64::MAX)),
        ("disk_bytes_max", default().disk_bytes_max(Some(256 << 20))),
        ("reserve_bytes", default().reserve_bytes(u64::MAX)),
        ("os_sync_interval", default().os_sync_interval(Duration::ZERO)),
        ("os_sync_interval", default().os_sync_interval(Duration::MAX)),
        ("caller_sync_max", default().caller_sync_max(Duration::from_millis(1001))),
    ];
    for (name, options) in refused {
        match options.check() {
            Err(StoreError::Invalid(why)) => assert!(why.contains(name), "{why}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(matches!(open(options), Err(StoreError::Invalid(_))));
    }
    default().check().unwrap();
    default().disk_bytes_max(Some(1 << 30)).check().unwrap();
}

#[test]
fn tail_bytes_bounds_what_is_in_memory_and_the_rest_is_read_from_segments() {
    let disk = SimulatedDisk::default();
    for tail_bytes in [256 << 10, 1 << 20] {
        let dir = format!("/store-{tail_bytes}");
        let options =
            FileStoreOptions::new(dir).file_system(Arc::new(disk.clone())).tail_bytes(tail_bytes);
        let engine = open(options).unwrap();
        create(&engine);
        append(&engine, 300);
        engine.keep_step().unwrap();
        let state = engine.state.read();
        assert!(state.tail_cost() <= tail_bytes / 4 * 3 && state.tail_cost() > tail_bytes / 3);
        let log = &state.logs[&log()];
        assert!(matches!(log.find(Offset(0), LIMITS), Found::Segment(_)));
        assert!(matches!(log.find(Offset(2_999), LIMITS), Found::Memory(_)));
        drop(state);
        assert_eq!(Model::of(&engine).unwrap().logs.values().next().unwrap().records.len(), 3_000);
    }
}

#[test]
fn segment_bytes_bounds_segments_and_truncation_frees_them() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk).segment_bytes(200 << 10)).unwrap();
    create(&engine);
    append(&engine, 300);
    let segments = sizes(&disk, ".segment");
    // A segment is closed with the block that fills it.
    assert!(segments.len() >= 10 && segments.iter().all(|&len| len <= (200 + 140) << 10));
    assert!(segments.iter().filter(|&&len| len > 200 << 10).count() >= segments.len() - 2);
    let mut batch = WriteBatch::new();
    let end = engine.state.read().logs[&log()].bounds.end;
    batch.truncate(log(), end);
    commit(&engine, batch, Disk).unwrap();
    engine.keep_step().unwrap();
    assert_eq!(sizes(&disk, ".segment").len(), 0);
    assert_eq!(engine.state.read().segment_bytes(), 0);
}

#[test]
fn the_journal_keeps_to_its_limit_and_its_files_to_theirs() {
    let disk = SimulatedDisk::default();
    let engine =
        open(options(&disk).journal_file_bytes(2 << 20).journal_bytes_max(8 << 20)).unwrap();
    create(&engine);
    let mut largest = 0;
    for _ in 0..100 {
        append(&engine, 20);
        let journal = sizes(&disk, ".journal");
        largest = largest.max(journal.iter().sum());
        assert!(journal.iter().all(|&len| len <= 2 << 20));
    }
    assert!(largest > 4 << 20 && largest <= 8 << 20, "{largest}");
    // Full files were used again, under new names.
    assert!(engine.front.lock().current().number > 8);
    let made = engine.counters.bytes_written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(made < 60 << 20, "{made} bytes for 20 MiB of records");
}

#[test]
fn a_batch_larger_than_a_journal_file_gets_one_of_its_own() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).journal_file_bytes(64 << 10)).unwrap();
    let mut batch = WriteBatch::new();
    for key in 0..3 {
        batch.put(vec![key], vec![key; 16 << 20]);
    }
    commit(&engine, batch, Disk).unwrap();
    let mut batch = WriteBatch::new();
    for key in 0..5 {
        batch.put(vec![key], vec![9; 16 << 20]);
    }
    let refused = commit(&engine, batch, Disk);
    assert!(matches!(refused, Err(StoreError::Full { limit, .. }) if limit == 64 << 20));
    drop(engine);
    let engine = open(options(&disk)).unwrap();
    assert_eq!(engine.state.read().values[&[2][..]], vec![2; 16 << 20]);
}

#[test]
fn a_log_at_rest_takes_less_than_a_kibibyte_and_no_file() {
    let per_log =
        2 * (size_of::<LogName>() + size_of::<Log>() + 64) + 2 * LogName::new("").as_str().len();
    assert!(per_log < 1_024, "{per_log}");
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk)).unwrap();
    let files = disk.files().len();
    for group in 0..100 {
        let mut batch = WriteBatch::new();
        for log in 0..100 {
            batch.create_log(LogName::new(format!("{group}-{log}")), LogOptions::default());
        }
        commit(&engine, batch, Os).unwrap();
    }
    assert!(disk.files().len() <= files + 2);
    assert_eq!(engine.state.read().logs.len(), 10_000);
}

fn appending(at: u64, messages: u64, len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let messages: Vec<_> = (0..messages).map(|_| Message::new(vec![3; len])).collect();
    batch.append(log(), Offset(at), Timestamp(1), Records::encode(&messages));
    batch
}

/// What is in memory, whether or not readers see it.
fn in_memory(engine: &Engine) -> u64 {
    engine.state.read().tail_cost() + engine.front.lock().unseen_bytes()
}

fn is_parked(engine: &Engine) -> bool {
    !engine.front.lock().parked().is_empty()
}

#[test]
fn promise_9_tails_never_take_more_than_their_budget() {
    let budget = 256 << 10;
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).tail_bytes(budget)).unwrap();
    create(&engine);
    let (mut answers, mut parked) = (Vec::new(), 0);
    for batch in 0..500_u64 {
        // Many come in before anything is synced or moved.
        answers.push(engine.submit(appending(4 * batch, 4, 1_000), Disk, Caller::Writes).unwrap());
        // Each chunk costs a little beside its records, which only counts once it is there.
        assert!(in_memory(&engine) <= budget + (64 << 10), "{}", in_memory(&engine));
        parked += u64::from(is_parked(&engine));
        if batch % 100 == 99 {
            for _ in 0..10 {
                engine.commit_step(false).unwrap();
                engine.keep_step().unwrap();
            }
            assert!(!is_parked(&engine));
        }
    }
    assert!(parked > 100, "nothing ever waited");
    for mut answer in answers {
        answer.try_recv().unwrap().unwrap();
    }
    assert_eq!(engine.state.read().logs[&log()].bounds.end, Offset(2_000));
}

#[test]
fn the_store_moves_records_to_segments_before_who_appends_must_wait() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).tail_bytes(1 << 20)).unwrap();
    create(&engine);
    let mut at = 0;
    while engine.state.read().tail_cost() <= (1 << 20) / 4 * 3 {
        let mut answer = engine.submit(appending(at, 10, 1_000), Os, Caller::Writes).unwrap();
        answer.try_recv().unwrap().unwrap();
        at += 10;
    }
    assert!(!is_parked(&engine));
    engine.keep_step().unwrap();
    let left = engine.state.read().tail_cost();
    assert!(left <= (1 << 20) / 2 && left > (1 << 20) / 3, "{left}");
}

#[test]
fn a_batch_larger_than_the_whole_budget_comes_in_alone() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).tail_bytes(64 << 10)).unwrap();
    create(&engine);
    // There is something in memory, too little to be moved for its own sake.
    commit(&engine, appending(0, 10, 1_000), Disk).unwrap();
    let mut large = engine.submit(appending(10, 300, 1_000), Disk, Caller::Writes).unwrap();
    assert!(is_parked(&engine));
    let mut behind = engine.submit(appending(310, 10, 1_000), Disk, Caller::Writes).unwrap();
    for answer in [&mut large, &mut behind] {
        let mut rounds = 0;
        while answer.try_recv().is_err() {
            engine.keep_step().unwrap();
            engine.commit_step(false).unwrap();
            rounds += 1;
            assert!(rounds < 10, "it waits for ever");
        }
    }
    engine.keep_step().unwrap();
    assert!(engine.state.read().tail_cost() <= 32 << 10);
    assert_eq!(Model::of(&engine).unwrap().logs.values().next().unwrap().records.len(), 320);
}

#[test]
fn a_batch_waits_for_memory_that_only_unsynced_ones_take_and_then_comes_in() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).tail_bytes(64 << 10)).unwrap();
    create(&engine);
    // Nothing can be moved to segments: readers do not see it yet.
    let mut unseen = engine.submit(appending(0, 60, 1_000), Disk, Caller::Writes).unwrap();
    let mut waits = engine.submit(appending(60, 60, 1_000), Disk, Caller::Writes).unwrap();
    engine.keep_step().unwrap();
    assert!(is_parked(&engine) && unseen.try_recv().is_err() && waits.try_recv().is_err());
    engine.commit_step(false).unwrap();
    unseen.try_recv().unwrap().unwrap();
    engine.keep_step().unwrap();
    assert!(!is_parked(&engine));
    engine.commit_step(false).unwrap();
    waits.try_recv().unwrap().unwrap();
}

#[test]
fn what_waits_for_memory_is_refused_when_the_device_has_no_room_for_what_is_there() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk).tail_bytes(64 << 10).reserve_bytes(0)).unwrap();
    create(&engine);
    engine.keep_step().unwrap();
    append(&engine, 3);
    let end = engine.state.read().logs[&log()].bounds.end.0;
    disk.set_capacity(Some(disk.used()));
    let refused = commit(&engine, appending(end, 60, 1_000), Disk);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    // Readers and small changes are not concerned.
    assert_eq!(Model::of(&engine).unwrap().logs.values().next().unwrap().records.len(), 30);
    let mut batch = WriteBatch::new();
    batch.put("cursor", "1");
    commit(&engine, batch, Disk).unwrap();
    disk.set_capacity(None);
    commit(&engine, appending(end, 60, 1_000), Disk).unwrap();
}

#[test]
fn promise_9_however_many_segments_are_read_few_files_stay_open() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    for at in 0..300 {
        let mut batch = WriteBatch::new();
        let records = Records::encode(&[Message::new(vec![at as u8; 70_000])]);
        batch.append(log(), Offset(at), Timestamp(at), records);
        commit(&engine, batch, Memory).unwrap();
    }
    assert!(sizes(&disk, ".segment").len() > 200);
    for _ in 0..2 {
        for at in 0..300 {
            let batches = engine.read(&log(), Offset(at), LIMITS).unwrap();
            assert_eq!((batches[0].first, batches[0].time), (Offset(at), Timestamp(at)));
            assert!(engine.handles.open_files() <= 128, "{}", engine.handles.open_files());
        }
    }
    assert!(engine.handles.open_files() >= 64, "those in use stay open");
}

#[test]
fn promise_9_messages_committed_one_by_one_cost_little_more_than_their_bytes() {
    let disk = SimulatedDisk::default();
    let engine = open(options(&disk)).unwrap();
    create(&engine);
    let mut bytes = 0;
    for at in 0..4_000 {
        let records = Records::encode(&[Message::new(vec![1; 100])]);
        bytes += records.byte_len() as u64;
        let mut batch = WriteBatch::new();
        batch.append(log(), Offset(at), Timestamp(at / 100), records);
        commit(&engine, batch, Memory).unwrap();
    }
    let cost = engine.state.read().tail_cost();
    assert!(cost <= bytes + bytes / 8, "{cost} bytes for {bytes}");
}
