//! What is given up comes back, in files and in memory.

use std::time::{Duration, Instant};

use ltq_core::{LogOptions, Message, Records};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

fn log() -> LogName {
    LogName::new("orders")
}

/// Records that do not compress.
fn records(chance: &mut SmallRng, count: usize, bytes: usize) -> Records {
    let mut body = || Message::new((0..bytes).map(|_| chance.random()).collect::<Vec<u8>>());
    Records::encode(&(0..count).map(|_| body()).collect::<Vec<_>>())
}

async fn filled(dir: &std::path::Path, appends: u64) -> RocksDbStore {
    let options = RocksDbStoreOptions::new(dir).tail_bytes(8 << 20);
    let store = RocksDbStore::open(options).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    store.commit(batch, Durability::Os).await.unwrap();
    let mut chance = SmallRng::seed_from_u64(1);
    for at in 0..appends {
        let mut batch = WriteBatch::new();
        batch.append(log(), Offset(at * 100), Timestamp(at), records(&mut chance, 100, 1_000));
        store.commit(batch, Durability::Os).await.unwrap();
    }
    store
}

async fn shrinks_to(store: &RocksDbStore, most: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = store.stats().disk_bytes;
        if now <= most {
            return;
        }
        assert!(Instant::now() < deadline, "promise 9: {now} bytes in files, not {most}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// With nothing wanted the write-ahead log is left, and what one flush leaves.
const ASIDE: u64 = 24 << 20;

#[tokio::test]
async fn promise_9_truncated_records_leave_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1_500).await;
    assert!(store.stats().disk_bytes > 150 << 20);
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(149_900));
    store.commit(batch, Durability::Os).await.unwrap();
    shrinks_to(&store, ASIDE).await;
    let limits = ReadLimits { records: 1_000, bytes: 1 << 20 };
    let left = store.read(&log(), Offset(149_900), limits).await.unwrap();
    assert_eq!(left.iter().map(|batch| batch.records.count()).sum::<usize>(), 100);
}

#[tokio::test]
async fn promise_9_a_lone_record_in_each_append_does_not_keep_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1_000).await;
    let limits = ReadLimits { records: 1, bytes: 1 << 20 };
    let lone: Vec<_> = (0..1_000).map(|at| Offset(at * 100 + 50)).collect();
    let mut before = Vec::new();
    for &at in &lone {
        before.push(store.read(&log(), at, limits).await.unwrap());
    }
    let mut batch = WriteBatch::new();
    batch.discard(log(), Offset(0), lone[0]);
    for pair in lone.windows(2) {
        batch.discard(log(), pair[0].plus(1), pair[1]);
    }
    store.commit(batch, Durability::Os).await.unwrap();
    shrinks_to(&store, ASIDE).await;
    for (at, before) in lone.iter().zip(&before) {
        assert_eq!(&store.read(&log(), *at, limits).await.unwrap(), before);
    }
    let gone = store.read(&log(), Offset(51), limits).await;
    assert!(matches!(gone, Err(StoreError::Discarded { until: Offset(150), .. })), "{gone:?}");
    store.close().await.unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    for (at, before) in lone.iter().zip(&before) {
        assert_eq!(&store.read(&log(), *at, limits).await.unwrap(), before);
    }
    assert!(store.try_read(&log(), Offset(51), limits).is_some_and(|gone| gone.is_err()));
}

#[tokio::test]
async fn promise_9_the_newest_records_stay_within_their_share_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 300).await;
    let memory = store.stats().memory_bytes;
    assert!(memory <= 2 << 20, "{memory} bytes in memory");
    let limits = ReadLimits { records: 1, bytes: 1 };
    assert!(store.try_read(&log(), Offset(29_999), limits).is_some());
    assert!(store.try_read(&log(), Offset(0), limits).is_none());
}
