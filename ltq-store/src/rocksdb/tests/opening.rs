//! What is not a store of this kind is refused, clearly, and left as it is.

use std::{fs, path::Path};

use ltq_core::{Message, Records};

use super::*;

async fn refusal(dir: &Path) -> String {
    match RocksDbStore::open(RocksDbStoreOptions::new(dir)).await {
        Err(StoreError::Open { path, why }) => {
            assert!(Path::new(&path).starts_with(dir), "{path}");
            why
        }
        other => panic!("{other:?}"),
    }
}

/// Every file below a directory and what it holds.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let before = contents(dir.path());
    assert!(refusal(dir.path()).await.contains("letter.txt"));
    assert_eq!(contents(dir.path()), before);
}

#[tokio::test]
async fn stores_of_the_two_kinds_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let files = crate::FileStore::open(crate::FileStoreOptions::new(dir.path())).await.unwrap();
    files.close().await.unwrap();
    let before = contents(dir.path());
    assert!(refusal(dir.path()).await.contains("file store"));
    assert_eq!(contents(dir.path()), before);

    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    store.close().await.unwrap();
    let before = contents(dir.path());
    let refused = crate::FileStore::open(crate::FileStoreOptions::new(dir.path())).await;
    assert!(matches!(refused, Err(StoreError::Open { .. })), "{refused:?}");
    assert_eq!(contents(dir.path()), before);
}

#[tokio::test]
async fn a_store_that_is_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    assert!(refusal(dir.path()).await.contains("another process"));
    drop(store);
    RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_only_read_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let options = || RocksDbStoreOptions::new(dir.path());
    let (kept, loose) = (LogName::new("kept"), LogName::new("loose"));
    let limits = ReadLimits { records: 1_000, bytes: 1 << 20 };
    for clean in [true, false] {
        let store = RocksDbStore::open(options()).await.unwrap();
        let mut batch = WriteBatch::new();
        if clean {
            batch.create_log(kept.clone(), ltq_core::LogOptions { durable: true });
            batch.create_log(loose.clone(), ltq_core::LogOptions { durable: false });
        }
        for log in [&kept, &loose] {
            let at = if clean { Offset(0) } else { store.bounds(log).unwrap().end };
            let records = Records::encode(&vec![Message::new("body"); 100]);
            batch.append(log.clone(), at, Timestamp(at.0), records);
        }
        batch.put("key", if clean { "one" } else { "two" });
        store.commit(batch, Durability::Disk).await.unwrap();
        if clean {
            store.close().await.unwrap();
        }
        // Else the end of it is in the write-ahead log alone.
        drop(store);

        let before = contents(dir.path());
        let store = RocksDbStore::open_read_only(options()).await.unwrap();
        let refused = store.commit(WriteBatch::new(), Durability::Disk).await;
        assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
        assert!(refusal(dir.path()).await.contains("another process"));
        let end = Offset(if clean { 100 } else { 200 });
        assert_eq!(store.bounds(&kept).unwrap(), Bounds { first: Offset(0), end });
        let mut next = Offset(0);
        while next < end {
            next = store.read(&kept, next, limits).await.unwrap().last().unwrap().end();
        }
        assert_eq!(store.offset_at(&kept, Timestamp(1)).await.unwrap(), Offset(100));
        let (logs, values) = (store.logs().unwrap(), store.values(b"").unwrap());
        store.close().await.unwrap();
        drop(store);
        assert!(contents(dir.path()) == before, "something was written");

        let store = RocksDbStore::open(options()).await.unwrap();
        assert_eq!((store.logs().unwrap(), store.values(b"").unwrap()), (logs, values));
        store.close().await.unwrap();
    }
    let missing = dir.path().join("none");
    assert!(RocksDbStore::open_read_only(RocksDbStoreOptions::new(&missing)).await.is_err());
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_newer_format_a_damaged_identity_and_a_missing_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    store.close().await.unwrap();
    let identity = dir.path().join("rocksdb-identity");
    let good = fs::read(&identity).unwrap();
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        fs::write(&identity, &bad).unwrap();
        let before = contents(dir.path());
        let opened = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await;
        // The line's end is all that may change.
        assert!(byte == good.len() - 1 || opened.is_err(), "byte {byte}");
        if opened.is_err() {
            assert_eq!(contents(dir.path()), before);
        }
    }
    let line = "ltq store on rocksdb, format 2";
    fs::write(&identity, format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))).unwrap();
    let before = contents(dir.path());
    assert!(refusal(dir.path()).await.contains("format 2"));
    assert_eq!(contents(dir.path()), before);
    fs::remove_file(&identity).unwrap();
    let before = contents(dir.path());
    assert!(refusal(dir.path()).await.contains("is missing"));
    assert_eq!(contents(dir.path()), before);
    fs::write(&identity, &good).unwrap();
    fs::remove_file(dir.path().join("db/CURRENT")).unwrap();
    assert!(refusal(dir.path()).await.contains("CURRENT"));
}

#[tokio::test]
async fn what_was_begun_and_not_finished_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    store.close().await.unwrap();
    let database = dir.path().join("db");
    fs::remove_dir_all(&database).unwrap();
    fs::create_dir(&database).unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    assert_eq!(store.logs().unwrap(), []);
    store.close().await.unwrap();
    // The same before there is an identity.
    fs::remove_dir_all(&database).unwrap();
    fs::create_dir(&database).unwrap();
    fs::remove_file(dir.path().join("rocksdb-identity")).unwrap();
    RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
}

#[tokio::test]
async fn promise_8_a_store_without_its_database_is_refused_and_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksDbStore::open(RocksDbStoreOptions::new(dir.path())).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let before = contents(dir.path());
    let why = refusal(dir.path()).await;
    assert!(why.contains("\"db\" is missing"), "{why}");
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn options_out_of_bounds_are_named() {
    let options = || RocksDbStoreOptions::new("x");
    for (options, name) in [
        (options().tail_bytes(1), "tail_bytes"),
        (options().tail_bytes(u64::MAX), "tail_bytes"),
        (options().disk_bytes_max(Some(100 << 20)), "disk_bytes_max"),
        (options().reserve_bytes(u64::MAX), "reserve_bytes"),
        (options().os_sync_interval(std::time::Duration::ZERO), "os_sync_interval"),
    ] {
        let error = options.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
