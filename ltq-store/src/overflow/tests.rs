//! The contract's suite on pairs of stores.

mod hidden;

use ltq_core::{LogOptions, Message, Records};

use super::*;
use crate::{
    FileStore, FileStoreOptions, MemoryStore,
    conformance::{Capabilities, Harness},
};

/// A front of so many bytes before files.
struct BeforeFiles {
    dir: tempfile::TempDir,
    front_bytes: u64,
    options: OverflowOptions,
}

impl BeforeFiles {
    fn new(front_bytes: u64, options: OverflowOptions) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), front_bytes, options }
    }
}

#[async_trait]
impl Harness for BeforeFiles {
    type Store = OverflowStore<MemoryStore, FileStore>;

    async fn open(&self) -> Result<Self::Store, StoreError> {
        let files = FileStore::open(FileStoreOptions::new(self.dir.path())).await?;
        OverflowStore::open(MemoryStore::new(self.front_bytes), files, self.options)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { survives_close: true, survives_drop: true, limit_bytes: None }
    }
}

/// One memory before another: nothing survives.
struct BeforeMemory;

#[async_trait]
impl Harness for BeforeMemory {
    type Store = OverflowStore<MemoryStore, MemoryStore>;

    async fn open(&self) -> Result<Self::Store, StoreError> {
        let (front, back) = (MemoryStore::new(256 << 10), MemoryStore::new(96 << 20));
        OverflowStore::open(front, back, OverflowOptions::default())
    }

    fn capabilities(&self) -> Capabilities {
        // What is in use is the sum of both, and a refusal speaks of the back alone.
        Capabilities { survives_close: false, survives_drop: false, limit_bytes: None }
    }
}

type Pair = OverflowStore<MemoryStore, MemoryStore>;

fn memory_pair(front: u64, back: u64) -> Pair {
    let (front, back) = (MemoryStore::new(front), MemoryStore::new(back));
    OverflowStore::open(front, back, OverflowOptions::default()).unwrap()
}

fn log() -> LogName {
    LogName::new("passing")
}

fn records(count: usize, bytes: usize) -> Records {
    let messages: Vec<_> = (0..count).map(|at| Message::new(vec![at as u8; bytes])).collect();
    Records::encode(&messages)
}

async fn make(store: &impl Store, durable: bool) {
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions { durable });
    store.commit(batch, Durability::Disk).await.unwrap();
}

async fn append(store: &impl Store, records: Records) -> Result<Committed, StoreError> {
    let at = store.bounds(&log()).unwrap().end;
    let mut batch = WriteBatch::new();
    batch.append(log(), at, Timestamp(at.0), records);
    batch.put("count", (at.0 + 1).to_le_bytes().to_vec());
    store.commit(batch, Durability::Disk).await
}

async fn read_all(store: &impl Store) -> Vec<(u64, Bytes)> {
    let Bounds { first: mut from, end } = store.bounds(&log()).unwrap();
    let mut found = Vec::new();
    let limits = ReadLimits { records: 7, bytes: 1 << 20 };
    while from < end {
        for batch in store.read(&log(), from, limits).await.unwrap() {
            let bodies = batch.records.messages().map(|message| message.unwrap().body);
            found.extend((batch.first.0..).zip(bodies));
            from = batch.end();
        }
    }
    found
}

#[tokio::test]
async fn promise_9_records_that_need_not_last_stay_in_front_and_overflow_in_order() {
    let store = memory_pair(64 << 10, 8 << 20);
    make(&store, false).await;
    for _ in 0..10 {
        append(&store, records(10, 100)).await.unwrap();
    }
    let back = |store: &Pair| store.back().bounds(&log()).unwrap().end;
    assert_eq!(back(&store), Offset(0), "there is room in front");
    for _ in 0..200 {
        append(&store, records(10, 100)).await.unwrap();
    }
    assert!(back(&store) > Offset(1_000), "the back has {}", back(&store));
    assert!(store.front().stats().memory_bytes <= 64 << 10);
    let found = read_all(&store).await;
    assert_eq!(found.len(), 2_100);
    for (index, (offset, body)) in found.iter().enumerate() {
        assert_eq!((*offset, body.len()), (index as u64, 100));
        assert!(body.iter().all(|&byte| byte == (index % 10) as u8));
    }
}

#[tokio::test]
async fn promise_9_a_batch_larger_than_the_front_goes_to_the_back() {
    let store = memory_pair(64 << 10, 8 << 20);
    make(&store, false).await;
    append(&store, records(10, 100)).await.unwrap();
    append(&store, records(10, 10_000)).await.unwrap();
    append(&store, records(10, 100)).await.unwrap();
    let sizes: Vec<_> = read_all(&store).await.into_iter().map(|(_, body)| body.len()).collect();
    assert_eq!(sizes, [[100; 10], [10_000; 10], [100; 10]].concat());
    assert_eq!(store.back().bounds(&log()).unwrap().end, Offset(20));
}

#[tokio::test]
async fn promise_9_full_is_said_when_the_back_is_and_changes_nothing() {
    let store = memory_pair(16 << 10, 128 << 10);
    make(&store, false).await;
    let mut taken = 0;
    let refused = loop {
        match append(&store, records(10, 100)).await {
            Ok(_) => taken += 10,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert_eq!(read_all(&store).await.len(), taken);
    assert_eq!(store.value(b"count").unwrap().unwrap(), (taken as u64 - 9).to_le_bytes().to_vec());
    // Space that is freed is used again.
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(taken as u64));
    store.commit(batch, Durability::Memory).await.unwrap();
    append(&store, records(10, 100)).await.unwrap();
    assert_eq!(read_all(&store).await.len(), 10);
}

#[tokio::test]
async fn promise_11_a_close_loses_nothing_of_the_front() {
    let dir = tempfile::tempdir().unwrap();
    let open = async || {
        let files = FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap();
        OverflowStore::open(MemoryStore::new(1 << 20), files, OverflowOptions::default()).unwrap()
    };
    let store = open().await;
    make(&store, false).await;
    append(&store, records(100, 50)).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.discard(log(), Offset(20), Offset(90)).truncate(log(), Offset(10));
    store.commit(batch, Durability::Memory).await.unwrap();
    assert_eq!(store.back().bounds(&log()).unwrap().end, Offset(0));
    store.close().await.unwrap();
    assert_eq!(store.bounds(&log()), Err(StoreError::Closed));

    let store = open().await;
    assert_eq!(store.bounds(&log()).unwrap(), Bounds { first: Offset(10), end: Offset(100) });
    let limits = ReadLimits { records: 100, bytes: 1 << 20 };
    let found = store.read(&log(), Offset(10), limits).await.unwrap();
    assert_eq!(found.iter().map(|batch| batch.records.count()).sum::<usize>(), 10);
    let gone = store.read(&log(), Offset(20), limits).await.unwrap_err();
    assert!(matches!(gone, StoreError::Discarded { until: Offset(90), .. }), "{gone}");
    assert_eq!(store.read(&log(), Offset(90), limits).await.unwrap()[0].first, Offset(90));
    store.close().await.unwrap();
}

#[tokio::test]
async fn promise_1_a_receipt_never_claims_more_than_the_front_can_keep() {
    let dir = tempfile::tempdir().unwrap();
    let files = FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap();
    let store = OverflowStore::open(MemoryStore::new(1 << 20), files, OverflowOptions::default());
    let store = store.unwrap();
    make(&store, false).await;
    let committed = append(&store, records(1, 1)).await.unwrap();
    assert_eq!(committed.durability, Durability::Memory);
    let mut batch = WriteBatch::new();
    batch.put("key", "value");
    let committed = store.commit(batch, Durability::Disk).await.unwrap();
    assert_eq!(committed.durability, Durability::Disk);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_durable_is_copied_to_the_front_only_where_that_was_asked() {
    for (cache_durable, copied) in [(true, true), (false, false)] {
        let (front, back) = (MemoryStore::new(1 << 20), MemoryStore::new(1 << 20));
        let options = OverflowOptions { cache_durable, ..OverflowOptions::default() };
        let store = OverflowStore::open(front, back, options).unwrap();
        make(&store, true).await;
        append(&store, records(10, 100)).await.unwrap();
        assert_eq!(store.front().bounds(&log()).is_ok(), copied);
        assert_eq!(store.back().bounds(&log()).unwrap().end, Offset(10));
        assert_eq!(read_all(&store).await.len(), 10);
    }
}

#[tokio::test]
async fn a_move_takes_as_much_as_was_asked() {
    let mut moved = Vec::new();
    for move_bytes in [1, 64 << 10] {
        let (front, back) = (MemoryStore::new(64 << 10), MemoryStore::new(1 << 20));
        let options = OverflowOptions { move_bytes, ..OverflowOptions::default() };
        let store = OverflowStore::open(front, back, options).unwrap();
        make(&store, false).await;
        while store.back().bounds(&log()).unwrap().end == Offset(0) {
            append(&store, records(10, 600)).await.unwrap();
        }
        let end = store.bounds(&log()).unwrap().end;
        moved.push(end.since(store.back().bounds(&log()).unwrap().end));
    }
    let [many_left, few_left] = moved[..] else { panic!("two runs") };
    assert_eq!(few_left, 10, "all that was there moved at once");
    assert!(many_left > 50, "{many_left} left when moving record by record");
}

#[test]
fn a_front_that_holds_something_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let front = MemoryStore::new(1 << 20);
        make(&front, false).await;
        let opened =
            OverflowStore::open(front, MemoryStore::new(1 << 20), OverflowOptions::default());
        assert!(matches!(opened, Err(StoreError::Invalid(_))));
    });
}

mod large_front {
    use super::*;
    crate::conformance!(conformance, BeforeFiles::new(64 << 20, OverflowOptions::default()), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        deleting_a_log_makes_room,
        discarding_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}

mod tiny_front {
    use super::*;
    // So small that nearly everything moves, and some things never fit.
    const OPTIONS: OverflowOptions = OverflowOptions { cache_durable: true, move_bytes: 100 };
    crate::conformance!(conformance, BeforeFiles::new(8 << 10, OPTIONS), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        deleting_a_log_makes_room,
        discarding_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}

mod memory_before_memory {
    use super::*;
    crate::conformance!(conformance, BeforeMemory, skip: [
        everything_survives_a_close,
        closing_again_and_again_keeps_everything,
        a_deleted_log_stays_deleted_over_a_close,
        slices_of_records_survive_a_close,
        os_commits_survive_a_drop,
        disk_commits_survive_a_drop,
        a_barrier_makes_earlier_commits_survive,
        a_truncation_survives_a_drop,
        slices_of_records_survive_a_drop,
        what_survives_has_everything_before_it,
        what_shows_early_is_durable_already,
        a_log_that_is_not_durable_comes_back_if_shorter,
        random_batches_match_the_model_over_closes,
        random_batches_match_the_model_over_drops,
        a_discard_survives_a_drop,
        discards_survive_a_close,
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        deleting_a_log_makes_room,
        discarding_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}
