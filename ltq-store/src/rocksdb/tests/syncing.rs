//! What is synced, and when. RocksDB's own count of syncs tells, as no test cuts the power.

use std::time::{Duration, Instant};

use ltq_core::{LogOptions, Message, Records};

use super::*;

async fn open(dir: &std::path::Path, interval: Duration) -> RocksDbStore {
    let options = RocksDbStoreOptions::new(dir).os_sync_interval(interval);
    RocksDbStore::open(options).await.unwrap()
}

fn put(value: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put("k", value.to_le_bytes().to_vec());
    batch
}

#[tokio::test]
async fn promises_1_and_7_what_asked_for_the_disk_is_synced_before_anyone_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Duration::from_secs(3_600)).await;
    let log = LogName::new("orders");
    let mut batch = WriteBatch::new();
    batch.create_log(log.clone(), LogOptions::default());
    store.commit(batch, Durability::Disk).await.unwrap();
    for round in 0..50 {
        let before = store.stats().syncs;
        // Alternately values alone, records alone, and a barrier behind what asked for less.
        let batch = match round % 3 {
            0 => put(round),
            1 => {
                let at = store.bounds(&log).unwrap().end;
                let mut batch = WriteBatch::new();
                let records = Records::encode(&[Message::new("one")]);
                batch.append(log.clone(), at, Timestamp(round), records);
                batch
            }
            _ => {
                let committed = store.commit(put(round), Durability::Os).await.unwrap();
                assert_eq!(committed.durability, Durability::Os);
                assert_eq!(store.stats().syncs, before, "what asked for less is not synced");
                WriteBatch::new()
            }
        };
        let committed = store.commit(batch, Durability::Disk).await.unwrap();
        // It may be synced more than once, and never later than this.
        assert!(store.stats().syncs > before, "round {round} was not synced");
        assert_eq!(committed.durability, Durability::Disk);
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_did_not_ask_for_the_disk_is_synced_within_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Duration::from_millis(5)).await;
    for round in 0..3 {
        let before = store.stats().syncs;
        store.commit(put(round), Durability::Os).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while store.stats().syncs == before {
            assert!(Instant::now() < deadline, "round {round} was never synced");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    store.close().await.unwrap();
}
