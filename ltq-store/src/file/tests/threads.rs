//! What only the whole store can show: its threads.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use ltq_core::{Durability, LogOptions, Message, Records};

use super::super::*;

fn log(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

fn append(log: LogName, at: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let records = Records::encode(&[Message::new(at.to_le_bytes().to_vec())]);
    batch.append(log, Offset(at), Timestamp(at), records);
    batch
}

async fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_of_many_tasks_share_syncs_and_all_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap());
    let mut tasks = Vec::new();
    for task in 0..16 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let mut batch = WriteBatch::new();
            batch.create_log(log(task), LogOptions::default());
            store.commit(batch, Durability::Memory).await.unwrap();
            for at in 0..50 {
                let durability =
                    [Durability::Disk, Durability::Os, Durability::Memory][(at % 3) as usize];
                let committed = store.commit(append(log(task), at), durability).await.unwrap();
                assert_eq!(committed.durability, durability);
                assert_eq!(store.bounds(&log(task)).unwrap().end, Offset(at + 1));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(stats.commits, 16 * 51);
    assert!(stats.syncs > 0 && stats.bytes_written > 16 * 50 * 100 && stats.disk_bytes > 1 << 20);
    drop(Arc::into_inner(store).unwrap());
    let store = FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap();
    let limits = ReadLimits { records: 100, bytes: 1 << 20 };
    for task in 0..16 {
        // The last one asked for a write, and got it.
        let end = store.bounds(&log(task)).unwrap().end;
        assert_eq!(end, Offset(50));
        assert!(!store.read(&log(task), Offset(0), limits).await.unwrap().is_empty());
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_did_not_ask_for_the_disk_is_synced_within_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    for (name, interval) in
        [("soon", Duration::from_millis(5)), ("late", Duration::from_secs(3_600))]
    {
        let options = FileStoreOptions::new(dir.path().join(name)).os_sync_interval(interval);
        let store = FileStore::open(options).await.unwrap();
        for durability in [Durability::Os, Durability::Memory] {
            let engine = Arc::clone(&store.engine);
            let is_synced = || engine.synced.load(SeqCst) == engine.front.lock().last_sequence();
            let mut shortest = Duration::MAX;
            // On a busy machine it may take a few rounds until nothing else delays it.
            for _ in 0..20 {
                let mut batch = WriteBatch::new();
                batch.put("k", "v");
                let began = Instant::now();
                store.commit(batch, durability).await.unwrap();
                if name == "late" {
                    eventually(|| engine.timed.load(SeqCst)).await;
                    assert!(!is_synced());
                    break;
                }
                eventually(is_synced).await;
                shortest = shortest.min(began.elapsed());
            }
            // The default would be a second each time.
            assert!(name == "late" || shortest < Duration::from_millis(500), "{shortest:?}");
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_at_rest_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::new(dir.path()).os_sync_interval(Duration::from_millis(1));
    let store = FileStore::open(options).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.put("k", "v");
    store.commit(batch, Durability::Os).await.unwrap();
    let engine = Arc::clone(&store.engine);
    // Once all is synced the thread has no time to look at any more.
    eventually(|| !engine.is_unsynced() && !engine.timed.load(SeqCst)).await;
    let before = store.stats();
    assert_eq!(before, store.stats());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_are_dropped_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap();
    for round in 0..50_u64 {
        let mut batch = WriteBatch::new();
        batch.put(round.to_le_bytes().to_vec(), "v");
        let commit = store.commit(batch, Durability::Disk);
        // Polled once and dropped.
        let polled = tokio::time::timeout(Duration::ZERO, commit).await;
        assert!(polled.is_err() || polled.unwrap().is_ok());
    }
    store.commit(WriteBatch::new(), Durability::Disk).await.unwrap();
    assert_eq!(store.values(b"").unwrap().len(), 50);
    store.close().await.unwrap();
    assert!(matches!(store.health(), Err(StoreError::Closed)));
}
