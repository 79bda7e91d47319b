//! A process without descriptors for a while. Each runs in a process of its own: what it may have
//! open is nobody else's.

use std::{
    fs::File,
    process::Command,
    time::{Duration, Instant},
};

use ltq_core::{LogOptions, Message, Records};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::rocksdb::database::Family;

/// Runs the test of this name alone, in a process of its own. Whether this is that process.
fn alone(name: &str) -> bool {
    const CHILD: &str = "LTQ_STORE_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = format!("rocksdb::tests::descriptors::{name}");
    child.args(["--exact", &name, "--nocapture"]).env(CHILD, "1");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

fn may_have_open(files: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
}

/// All that others could still open.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

async fn append(store: &RocksDbStore, log: &LogName, bytes: usize) -> Result<(), StoreError> {
    let at = store.bounds(log).unwrap().end;
    let mut batch = WriteBatch::new();
    batch.append(
        log.clone(),
        at,
        Timestamp(at.0),
        Records::encode([&Message::new(vec![7; bytes])]),
    );
    store.commit(batch, Durability::Os).await.map(|_| ())
}

async fn store_with_log(dir: &std::path::Path, log: &LogName) -> RocksDbStore {
    let options = RocksDbStoreOptions::new(dir).tail_bytes(4 << 20).open_files_max(80);
    let store = RocksDbStore::open(options).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(log.clone(), LogOptions::default());
    store.commit(batch, Durability::Disk).await.unwrap();
    store
}

fn figure(store: &RocksDbStore, name: &str) -> u64 {
    store.figures().iter().find(|figure| figure.name == name).unwrap().value
}

fn is_short(error: &StoreError) -> bool {
    matches!(error, StoreError::Short { cause, .. } if cause.contains("Too many open files"))
}

/// Appends until that is done again.
async fn until_taken(store: &RocksDbStore, log: &LogName) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = append(store, log, 100).await {
        assert!(is_short(&error) && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until RocksDB has nothing under way.
async fn until_idle(store: &RocksDbStore) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while ["flushes", "compactions"]
        .iter()
        .any(|what| figure(store, &format!("ltq_rocksdb_running_{what}")) > 0)
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn promise_10_without_descriptors_nothing_is_written_and_all_is_well_when_there_are_some() {
    if !alone(
        "promise_10_without_descriptors_nothing_is_written_and_all_is_well_when_there_are_some",
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = LogName::new("orders");
    let store = store_with_log(dir.path(), &log).await;
    let limit = getrlimit(Resource::Nofile).current.unwrap();
    for round in 1..=2 {
        append(&store, &log, 100).await.unwrap();
        until_idle(&store).await;
        may_have_open(3);
        // More than the buffers hold, so that RocksDB would need another file.
        for _ in 0..40 {
            let error = append(&store, &log, 100_000).await.unwrap_err();
            assert!(is_short(&error), "{error}");
        }
        assert_eq!(figure(&store, "ltq_rocksdb_short"), 1);
        assert_eq!(figure(&store, "ltq_rocksdb_shortages_total"), round);
        assert_eq!(store.health(), Ok(()));
        // What is there can be read, and what was written is durable on demand.
        let limits = ReadLimits { records: 100, bytes: 1 << 20 };
        assert!(!store.read(&log, Offset(0), limits).await.unwrap().is_empty());
        store.commit(WriteBatch::new(), Durability::Disk).await.unwrap();
        may_have_open(limit);
        until_taken(&store, &log).await;
        assert_eq!(figure(&store, "ltq_rocksdb_short"), 0);
        assert_eq!(figure(&store, "ltq_rocksdb_spare_descriptors"), 10);
    }
    // Through some of RocksDB's files.
    for _ in 0..100 {
        append(&store, &log, 100_000).await.unwrap();
    }
    let end = store.bounds(&log).unwrap().end;
    assert_eq!(end, Offset(104));
    store.close().await.unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    assert_eq!(store.bounds(&log).unwrap().end, end);
    store.close().await.unwrap();
}

#[tokio::test]
async fn promise_10_what_rocksdb_is_at_has_the_descriptors_that_were_kept() {
    if !alone("promise_10_what_rocksdb_is_at_has_the_descriptors_that_were_kept") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = LogName::new("orders");
    let store = store_with_log(dir.path(), &log).await;
    append(&store, &log, 100_000).await.unwrap();
    may_have_open(200);
    let taken = take_all();
    let error = append(&store, &log, 100).await.unwrap_err();
    assert!(is_short(&error), "{error}");
    assert_eq!(figure(&store, "ltq_rocksdb_spare_descriptors"), 0);
    {
        // What it might have begun just before: a table, another log, a change of its manifest.
        let guard = store.engine.database().unwrap();
        let database = guard.as_ref().unwrap();
        let family = database.family(Family::Records).unwrap();
        database.raw().flush_cf(family).unwrap();
        database.raw().compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    drop(taken);
    until_taken(&store, &log).await;
    assert_eq!(figure(&store, "ltq_rocksdb_background_errors"), 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn tables_take_no_more_descriptors_than_they_may() {
    if !alone("tables_take_no_more_descriptors_than_they_may") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = LogName::new("orders");
    let store = store_with_log(dir.path(), &log).await;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for round in 0..100 {
        append(&store, &log, 100_000).await.unwrap();
        let guard = store.engine.database().unwrap();
        let database = guard.as_ref().unwrap();
        let family = database.family(Family::Records).unwrap();
        if round == 0 {
            // So that there is a table for each.
            let off = [("disable_auto_compactions", "true")];
            database.raw().set_options_cf(family, &off).unwrap();
        }
        database.raw().flush_cf(family).unwrap();
    }
    let tables = std::fs::read_dir(dir.path().join("db")).unwrap();
    let is_table = |it: std::io::Result<std::fs::DirEntry>| {
        it.unwrap().file_name().to_string_lossy().ends_with(".sst")
    };
    assert!(tables.filter_map(|it| is_table(it).then_some(())).count() >= 100);
    for at in 0..100 {
        let limits = ReadLimits { records: 1, bytes: 1 << 20 };
        assert_eq!(store.read(&log, Offset(at), limits).await.unwrap().len(), 1);
        // Ten are kept, and were open before.
        assert!(open() < before + 40, "{} files are open", open() - before);
    }
    store.close().await.unwrap();
}
