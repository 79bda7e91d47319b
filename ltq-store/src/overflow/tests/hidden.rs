//! What nobody may see yet: of a batch that is in both stores, what one of them has already.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use super::*;

/// Has carried out a commit for a while before it says so.
struct Late {
    inner: MemoryStore,
    late: AtomicBool,
    arrived: Notify,
    go: Notify,
}

#[async_trait]
impl ltq_core::StoreLayer for Late {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.inner
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let committed = self.inner.commit(batch, durability).await;
        if self.late.load(SeqCst) {
            self.arrived.notify_one();
            self.go.notified().await;
        }
        committed
    }
}

#[tokio::test]
async fn promise_7_what_the_back_has_is_seen_only_with_the_rest_of_its_batch() {
    let back = Late {
        inner: MemoryStore::new(8 << 20),
        late: AtomicBool::new(false),
        arrived: Notify::new(),
        go: Notify::new(),
    };
    let front = MemoryStore::new(1 << 20);
    let store = Arc::new(OverflowStore::open(front, back, OverflowOptions::default()).unwrap());
    let kept = LogName::new("kept");
    make(&*store, false).await;
    let mut batch = WriteBatch::new();
    batch.create_log(kept.clone(), LogOptions::default()).put("k", "old").put("gone", "1");
    store.commit(batch, Durability::Memory).await.unwrap();

    store.back().late.store(true, SeqCst);
    let mut batch = WriteBatch::new();
    batch.append(log(), Offset(0), Timestamp(1), records(2, 10));
    batch.append(kept.clone(), Offset(0), Timestamp(1), records(3, 10));
    let made = LogName::new("made");
    batch.put("k", "new").put("fresh", "2").delete("gone");
    batch.create_log(made.clone(), LogOptions::default());
    let committing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(batch, Durability::Memory).await })
    };
    let arrived = tokio::time::timeout(Duration::from_secs(30), store.back().arrived.notified());
    arrived.await.unwrap();
    assert_eq!(store.back().bounds(&kept).unwrap().end, Offset(3), "the back has it");
    let seen = || {
        let ends = [log(), kept.clone()].map(|log| store.bounds(&log).unwrap().end.0);
        let values = store.values(b"").unwrap().into_iter().map(|(key, value)| [key, value]);
        (ends, values.flatten().collect::<Vec<_>>(), store.logs().unwrap().len())
    };
    assert_eq!(seen(), ([0, 0], ["gone", "1", "k", "old"].map(Bytes::from).to_vec(), 2));
    let limits = ReadLimits { records: 9, bytes: 1 << 20 };
    assert_eq!(store.read(&kept, Offset(0), limits).await, Ok(Vec::new()));
    // One by one, too: what is changed, what is new, and what is gone.
    let value = |key: &str| store.value(key.as_bytes()).unwrap();
    assert_eq!(["k", "fresh", "gone"].map(value), [Some("old".into()), None, Some("1".into())]);
    assert_eq!(store.bounds(&made), Err(StoreError::NoSuchLog(made.clone())));
    store.back().late.store(false, SeqCst);
    store.back().go.notify_one();
    committing.await.unwrap().unwrap();
    assert_eq!(seen(), ([2, 3], ["fresh", "2", "k", "new"].map(Bytes::from).to_vec(), 3));
    assert_eq!(["k", "fresh", "gone"].map(value), [Some("new".into()), Some("2".into()), None]);
}
