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

/// A store whose records, so many in each append, are all in one file below the first level, and
/// the records.
async fn in_one_file(
    dir: &std::path::Path,
    appends: u64,
    count: usize,
    bytes: usize,
) -> (RocksDbStore, Records) {
    let options = RocksDbStoreOptions::new(dir).tail_bytes(4 << 20);
    let store = RocksDbStore::open(options).await.unwrap();
    let records = records(&mut SmallRng::seed_from_u64(1), count, bytes);
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    for at in 0..appends {
        batch.append(log(), Offset(at * count as u64), Timestamp(at), records.clone());
    }
    // Of another log and in other files, so that nothing of the first is in memory.
    batch.create_log(LogName::new("other"), LogOptions { durable: false });
    let other = Records::encode(&[Message::new(vec![0; 2 << 20])]);
    batch.append(LogName::new("other"), Offset(0), Timestamp(0), other);
    store.commit(batch, Durability::Os).await.unwrap();
    {
        let database = store.engine.database.read();
        let database = database.as_ref().unwrap();
        let family = database.family(database::Family::Records).unwrap();
        database.raw().flush_cf(family).unwrap();
        database.raw().compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    (store, records)
}

/// Gives something up, and lets house be kept at once, files that hold nothing removed.
async fn give_up(store: &RocksDbStore, batch: WriteBatch) {
    store.commit(batch, Durability::Os).await.unwrap();
    store.engine.keep_step(&mut keeper::Keeper::default(), true).unwrap();
}

async fn one(store: &RocksDbStore, at: u64) -> Result<Records, StoreError> {
    let limits = ReadLimits { records: 1, bytes: 1 << 20 };
    let mut found = store.read(&log(), Offset(at), limits).await?;
    Ok(found.remove(0).records)
}

#[tokio::test]
async fn promise_1_records_between_discarded_ones_outlive_the_files_that_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, records) = in_one_file(dir.path(), 100, 1, 1_000).await;
    let mut batch = WriteBatch::new();
    batch.discard(log(), Offset(0), Offset(50)).discard(log(), Offset(51), Offset(100));
    give_up(&store, batch).await;
    assert_eq!(one(&store, 50).await.unwrap(), records);
}

#[tokio::test]
async fn promise_1_the_first_record_that_is_left_outlives_the_file_that_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, records) = in_one_file(dir.path(), 100, 1, 1_000).await;
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(99));
    give_up(&store, batch).await;
    assert_eq!(one(&store, 99).await.unwrap(), records);
}

#[tokio::test]
async fn promise_1_an_append_that_begins_among_discarded_records_outlives_the_file_that_ends_with_it()
 {
    let dir = tempfile::tempdir().unwrap();
    let (store, records) = in_one_file(dir.path(), 100, 10, 1_000).await;
    let mut batch = WriteBatch::new();
    batch.discard(log(), Offset(0), Offset(992));
    give_up(&store, batch).await;
    assert_eq!(one(&store, 992).await.unwrap(), records.slice(2..3));
    assert_eq!(one(&store, 999).await.unwrap(), records.slice(9..10));
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
