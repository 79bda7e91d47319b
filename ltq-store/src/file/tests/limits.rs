//! Promise 9: each limit does what it says; and what a log at rest costs.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    Durability::{Disk, Memory, Os},
    LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{
        engine::Engine,
        log::{Found, Log},
    },
    model::{Model, commit, open, tiny},
    sim::SimFs,
};
use crate::FileStoreOptions;

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

fn options(disk: &SimFs) -> FileStoreOptions {
    FileStoreOptions::new("/store").file_system(Arc::new(disk.clone()))
}

fn sizes(disk: &SimFs, kind: &str) -> Vec<usize> {
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
    let disk = SimFs::default();
    for tail_bytes in [256 << 10, 1 << 20] {
        let dir = format!("/store-{tail_bytes}");
        let options =
            FileStoreOptions::new(dir).file_system(Arc::new(disk.clone())).tail_bytes(tail_bytes);
        let engine = open(options).unwrap();
        create(&engine);
        append(&engine, 300);
        engine.keep_step().unwrap();
        let state = engine.state.read();
        assert!(state.tail_cost() <= tail_bytes && state.tail_cost() > tail_bytes / 2);
        let log = &state.logs[&log()];
        assert!(matches!(log.find(Offset(0), LIMITS), Found::Segment(_)));
        assert!(matches!(log.find(Offset(2_999), LIMITS), Found::Memory(_)));
        drop(state);
        assert_eq!(Model::of(&engine).unwrap().logs.values().next().unwrap().records.len(), 3_000);
    }
}

#[test]
fn segment_bytes_bounds_segments_and_truncation_frees_them() {
    let disk = SimFs::default();
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
    let disk = SimFs::default();
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
    let disk = SimFs::default();
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
    let disk = SimFs::default();
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
