//! Damage in RocksDB's files: never delivered, reported with its place, and served around.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use ltq_core::{LogOptions, Message, Records};

use super::*;

const RECORDS: u64 = 20_000;

fn log() -> LogName {
    LogName::new("orders")
}

fn records(from: u64, count: u64) -> Records {
    let body = |at: u64| Message::new(format!("{at:08}").repeat(12));
    Records::encode(&(from..from + count).map(body).collect::<Vec<_>>())
}

async fn fill(store: &RocksDbStore) {
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    store.commit(batch, Durability::Os).await.unwrap();
    for from in (0..RECORDS).step_by(100) {
        let mut batch = WriteBatch::new();
        batch.append(log(), Offset(from), Timestamp(from), records(from, 100));
        store.commit(batch, Durability::Os).await.unwrap();
    }
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|it| it == extension)).collect()
}

/// Reads everything, and checks what comes. Returns how many records are damaged.
async fn read_all(store: &RocksDbStore) -> u64 {
    let (mut at, mut damaged) = (Offset(0), 0);
    let limits = ReadLimits { records: 1_000, bytes: 64 << 10 };
    while at < Offset(RECORDS) {
        match store.read(&log(), at, limits).await {
            Ok(batches) => {
                assert!(!batches.is_empty(), "at {at}");
                for batch in batches {
                    assert_eq!(batch.first, at);
                    let expected = records(at.0, batch.records.count() as u64);
                    assert!(batch.records.messages().eq(expected.messages()), "promise 8: at {at}");
                    at = batch.end();
                }
            }
            Err(StoreError::Damaged { from, until, file, .. }) => {
                assert!(from == at && until > from, "{from} to {until}");
                assert!(file.contains(".sst"), "{file}");
                damaged += until.since(from);
                at = until;
            }
            other => panic!("{other:?}"),
        }
    }
    damaged
}

#[tokio::test]
async fn promise_8_damage_in_a_table_costs_what_it_touches_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let options = || RocksDbStoreOptions::new(dir.path()).tail_bytes(4 << 20);
    let store = RocksDbStore::open(options()).await.unwrap();
    fill(&store).await;
    store.close().await.unwrap();
    let table =
        files(dir.path(), "sst").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
    let table = table.unwrap();
    let len = fs::metadata(&table).unwrap().len();
    // The last part holds what the file itself cannot be read without.
    for part in 0..16 {
        let position = part * (len / 20) + 100;
        let file = OpenOptions::new().read(true).write(true).open(&table).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 4], position).unwrap();
        let store = RocksDbStore::open(options()).await.unwrap();
        let damaged = read_all(&store).await;
        // A block of 16 KiB holds no more than two batches and the beginning of a third.
        assert!((1..=300).contains(&damaged), "{damaged} records at {position} of {len}");
        assert_eq!(store.stats().damaged_records, damaged);
        // Wherever a reader begins: what is lost does not depend on it.
        let mut lost = 0;
        for at in 0..RECORDS {
            let limits = ReadLimits { records: 1, bytes: 1 };
            match store.read(&log(), Offset(at), limits).await {
                Ok(batches) => {
                    assert!(batches[0].records.messages().eq(records(at, 1).messages()), "{at}");
                }
                Err(StoreError::Damaged { .. }) => lost += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lost, damaged, "at {position} of {len}");
        assert!(store.offset_at(&log(), Timestamp(RECORDS - 100)).await.unwrap() >= Offset(19_900));
        drop(store);
        file.write_all_at(&byte, position).unwrap();
    }
    assert_eq!(read_all(&RocksDbStore::open(options()).await.unwrap()).await, 0);
}

#[tokio::test]
async fn promise_8_a_log_that_ends_early_is_set_aside_and_what_is_before_it_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    fill(&store).await;
    drop(store);
    let wal =
        files(dir.path(), "log").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
    let wal = wal.unwrap();
    let len = fs::metadata(&wal).unwrap().len();
    let file = OpenOptions::new().write(true).open(&wal).unwrap();
    file.write_all_at(&[0x55; 10], len / 2).unwrap();
    let whole = fs::read(&wal).unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    let bounds = store.bounds(&log()).unwrap();
    assert!(bounds.end > Offset(RECORDS / 3) && bounds.end < Offset(RECORDS), "{bounds:?}");
    let limits = ReadLimits { records: 100, bytes: 1 << 20 };
    let last = store.read(&log(), Offset(bounds.end.0 - 100), limits).await.unwrap();
    assert!(last[0].records.messages().eq(records(bounds.end.0 - 100, 100).messages()));
    let kept = dir.path().join("damaged/1").join(wal.file_name().unwrap());
    assert_eq!(fs::read(kept).unwrap(), whole);
}

/// RocksDB's own checksums cover its files. This is what they do not cover: bytes that were wrong
/// before they got there.
#[tokio::test]
async fn promise_8_a_wrong_byte_under_a_right_checksum_of_rocksdb_costs_its_record_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = || RocksDbStoreOptions::new(dir.path());
    let store = RocksDbStore::open(options()).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    batch.append(log(), Offset(0), Timestamp(1), records(0, 10));
    store.commit(batch, Durability::Disk).await.unwrap();
    store.close().await.unwrap();
    let store = RocksDbStore::open(options()).await.unwrap();
    {
        let database = store.engine.database().unwrap();
        let database = database.as_ref().unwrap();
        let family = database.family(database::Family::Records).unwrap();
        let (raw, key) =
            (database.raw(), format::key(store.engine.state.read().logs[&log()].id, 0));
        let mut value = raw.get_cf(family, key).unwrap().unwrap();
        let at = value.windows(8).position(|bytes| bytes == b"00000004").unwrap();
        value[at] ^= 1;
        raw.put_cf(family, key, value).unwrap();
    }
    let limits = ReadLimits { records: 100, bytes: 1 << 20 };
    let before = store.read(&log(), Offset(0), limits).await.unwrap();
    assert_eq!(before.iter().map(|batch| batch.records.count()).sum::<usize>(), 4);
    let damaged = store.read(&log(), Offset(4), limits).await.unwrap_err();
    assert!(
        matches!(damaged, StoreError::Damaged { from: Offset(4), until: Offset(5), .. }),
        "{damaged:?}"
    );
    let behind = store.read(&log(), Offset(5), limits).await.unwrap();
    assert_eq!(behind.iter().map(|batch| batch.records.count()).sum::<usize>(), 5);
    assert_eq!(store.stats().damaged_records, 1);
    store.close().await.unwrap();
}
