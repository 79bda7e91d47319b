//! What the suite cannot see: a file that was cut, damaged, or is open already.

use std::{fs, path::Path};

use ltq_core::{
    Bounds, Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store,
    StoreError, Timestamp, WriteBatch,
};
use one_file_store::OneFileStore;

const LIMIT: u64 = 1 << 20;

fn log() -> LogName {
    LogName::new("orders")
}

fn open(path: &Path) -> Result<OneFileStore, StoreError> {
    OneFileStore::open(path, LIMIT)
}

/// Commits ten batches of one record and one value each. Returns where in the file each ends.
async fn filled(path: &Path) -> Vec<u64> {
    let store = open(path).unwrap();
    let mut ends = Vec::new();
    for at in 0..10 {
        let mut batch = WriteBatch::new();
        if at == 0 {
            batch.create_log(log(), LogOptions::default());
        }
        let message = Message::new(format!("message {at}"));
        batch.append(log(), Offset(at), Timestamp(at), Records::encode(&[message]));
        batch.put("count", (at + 1).to_le_bytes().to_vec());
        store.commit(batch, Durability::Disk).await.unwrap();
        ends.push(store.stats().disk_bytes);
    }
    store.close().await.unwrap();
    ends
}

/// How many of those batches there are; each is there whole, and those before it are.
async fn batches_in(store: &OneFileStore) -> u64 {
    let Ok(Bounds { first, end }) = store.bounds(&log()) else {
        assert_eq!(store.values(b"").unwrap(), []);
        return 0;
    };
    assert_eq!(first, Offset(0));
    assert_eq!(store.value(b"count").unwrap().unwrap(), end.0.to_le_bytes()[..]);
    let mut next = first;
    while next < end {
        let limits = ReadLimits { records: 100, bytes: LIMIT as usize };
        for batch in store.read(&log(), next, limits).await.unwrap() {
            for message in batch.records.messages() {
                assert_eq!(message.unwrap().body, format!("message {}", next.0));
                next = next.plus(1);
            }
        }
    }
    end.0
}

#[tokio::test]
async fn a_file_cut_anywhere_comes_back_with_the_batches_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let ends = filled(&path).await;
    let whole = fs::read(&path).unwrap();
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let store = open(&path).unwrap();
        let expected = ends.iter().filter(|&&end| end <= len as u64).count() as u64;
        assert_eq!(batches_in(&store).await, expected, "cut at {len}");
        // And it can be gone on with.
        let mut batch = WriteBatch::new();
        batch.put("more", "1");
        store.commit(batch, Durability::Disk).await.unwrap();
        drop(store);
        let store = open(&path).unwrap();
        assert_eq!(store.value(b"more").unwrap().unwrap(), "1", "cut at {len}");
    }
}

#[tokio::test]
async fn a_flipped_bit_before_the_last_batch_is_refused_and_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let ends = filled(&path).await;
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        match open(&path) {
            Err(StoreError::Open { .. }) => assert!(fs::read(&path).unwrap() == damaged),
            Err(error) => panic!("byte {at}: {error}"),
            // The last batch cannot be told from one that was being written.
            Ok(store) => {
                assert!(at as u64 >= ends[8], "byte {at}");
                assert_eq!(batches_in(&store).await, 9, "byte {at}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_open_or_of_another_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("open already"), "{error}");
    drop(store);
    open(&path).unwrap();
    fs::write(&path, "holiday, sunny").unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("no store of this kind"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "holiday, sunny");
}

#[tokio::test]
async fn the_file_is_written_anew_when_little_of_it_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path).unwrap();
    for round in 0..400u64 {
        let mut batch = WriteBatch::new();
        batch.put("large", vec![round as u8; 100_000]);
        store.commit(batch, Durability::Os).await.unwrap();
        let bytes = fs::metadata(&path).unwrap().len();
        assert_eq!(bytes, store.stats().disk_bytes);
        assert!(bytes <= 2 * store.stats().memory_bytes + (1 << 20), "{bytes}");
        // It is locked as the one before was.
        assert!(open(&path).is_err());
    }
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(store.value(b"large").unwrap().unwrap(), vec![399u64 as u8; 100_000]);
}
