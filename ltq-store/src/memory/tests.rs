use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use ltq_core::{LogOptions, Message, Records};

use super::*;
use crate::conformance::{Capabilities, Harness};

const LIMIT: u64 = 64 << 20;
const ALL: ReadLimits = ReadLimits { records: usize::MAX, bytes: usize::MAX };

struct InMemory;

#[async_trait]
impl Harness for InMemory {
    type Store = MemoryStore;

    async fn open(&self) -> Result<MemoryStore, StoreError> {
        Ok(MemoryStore::new(LIMIT))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { limit_bytes: Some(LIMIT), ..Capabilities::default() }
    }
}

crate::conformance!(conformance, InMemory, skip: [
    everything_survives_a_close,
    closing_again_and_again_keeps_everything,
    a_deleted_log_stays_deleted_over_a_close,
    slices_of_records_survive_a_close,
    os_commits_survive_a_drop,
    disk_commits_survive_a_drop,
    a_barrier_makes_earlier_commits_survive,
    a_truncation_survives_a_drop,
    slices_of_records_survive_a_drop,
    discards_survive_a_close,
    a_discard_survives_a_drop,
    what_survives_has_everything_before_it,
    what_shows_early_is_durable_already,
    a_log_that_is_not_durable_comes_back_if_shorter,
    random_batches_match_the_model_over_closes,
    random_batches_match_the_model_over_drops,
]);

fn log() -> LogName {
    LogName::new("log")
}

fn store_with_log(limit: u64) -> MemoryStore {
    let store = MemoryStore::new(limit);
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    store.commit_now(batch).unwrap();
    store
}

fn records(count: usize, len: usize) -> Records {
    let messages: Vec<_> = (0..count).map(|i| Message::new(vec![i as u8; len])).collect();
    Records::encode(&messages)
}

fn append(store: &MemoryStore, time: u64, records: Records) -> Result<(), StoreError> {
    let at = store.bounds(&log()).unwrap().end;
    let mut batch = WriteBatch::new();
    batch.append(log(), at, Timestamp(time), records);
    store.commit_now(batch)
}

fn truncate(store: &MemoryStore, before: u64) {
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(before));
    store.commit_now(batch).unwrap();
}

/// What the logs and values say that they take, added up anew.
fn recount(store: &MemoryStore) -> u64 {
    let logs: u64 = store
        .shards
        .iter()
        .flat_map(|s| s.lock().values().map(Log::bytes).collect::<Vec<_>>())
        .sum();
    let values = store.values.lock();
    let in_map: u64 = values.map.iter().map(|(key, value)| value_cost(key, value)).sum();
    assert_eq!(values.bytes, in_map);
    logs + in_map
}

#[test]
fn promise_9_a_refusal_names_the_limit_and_what_is_wanted() {
    let store = store_with_log(100_000);
    let used = store.stats().memory_bytes;
    let error = append(&store, 1, records(1, 200_000)).unwrap_err();
    let StoreError::Full { what, limit, used: said, wanted } = &error else { panic!("{error}") };
    assert_eq!((*limit, *said), (100_000, used));
    assert!(*wanted > 200_000 && *wanted < 201_000 && what.contains("memory"));
    assert!(error.to_string().contains("100000"), "{error}");
    assert_eq!(store.stats().memory_bytes, used);
}

#[test]
fn promise_9_the_limit_holds_for_any_mixture_and_is_exact() {
    const TIGHT: u64 = 40_000;
    let store = store_with_log(TIGHT);
    let mut chance = 1u64;
    let mut next = |below: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        (chance >> 33) % below
    };
    let (mut taken, mut full) = (0, 0);
    for step in 0..20_000u64 {
        let mut batch = WriteBatch::new();
        for _ in 0..=next(3) {
            let Bounds { first, end } = store.bounds(&log()).unwrap();
            let name = LogName::new(format!("log-{}", next(30)));
            match next(6) {
                0 | 1 => batch.append(log(), end, Timestamp(step / 9), {
                    records(1 + next(4) as usize, next(2_000) as usize)
                }),
                2 => batch.truncate(log(), Offset(first.0 + next(end.since(first) + 1))),
                3 => batch.put(format!("key-{}", next(40)), vec![0; next(3_000) as usize]),
                4 => batch.delete(format!("key-{}", next(40))),
                _ if store.bounds(&name).is_ok() => batch.delete_log(name),
                _ => batch.create_log(name, LogOptions::default()),
            };
        }
        match store.commit_now(batch) {
            Ok(()) => taken += 1,
            Err(StoreError::Full { .. }) => full += 1,
            Err(_) => (),
        }
        let used = store.stats().memory_bytes;
        assert!(used <= TIGHT, "{used} in use");
        assert_eq!(used, recount(&store));
    }
    assert!(taken > 5_000 && full > 500, "{taken} taken, {full} refused");
    // And nothing of it is left behind.
    let mut batch = WriteBatch::new();
    for info in store.logs().unwrap() {
        batch.delete_log(info.log);
    }
    for (key, _) in store.values(b"").unwrap() {
        batch.delete(key);
    }
    store.commit_now(batch).unwrap();
    assert_eq!(store.stats().memory_bytes, 0);
}

#[test]
fn a_batch_that_counts_the_same_space_twice_gets_no_more_room() {
    let store = store_with_log(50_000);
    append(&store, 1, records(1, 30_000)).unwrap();
    let mut batch = WriteBatch::new();
    batch.put("k", vec![0; 10_000]);
    store.commit_now(batch).unwrap();
    // What is truncated and then deleted with its log is freed once; so is a value put twice.
    let mut batch = WriteBatch::new();
    batch.truncate(log(), Offset(1)).delete_log(log());
    batch.put("k", "").delete("k").put("k", vec![0; 60_000]);
    assert!(matches!(store.commit_now(batch), Err(StoreError::Full { .. })));
    assert_eq!(store.stats().memory_bytes, recount(&store));
}

#[test]
fn promise_9_messages_committed_one_by_one_cost_little_more_than_their_bytes() {
    for (commits_per_time, most) in [(1, 148), (1_000, 122)] {
        let store = store_with_log(1 << 30);
        let empty = store.stats().memory_bytes;
        for time in 0..20_000 {
            append(&store, time / commits_per_time, records(1, 100)).unwrap();
        }
        let each = (store.stats().memory_bytes - empty) / 20_000;
        assert!(each <= most, "{each} bytes for each message of 100");
        assert_eq!(store.stats().memory_bytes, recount(&store));
    }
}

#[test]
fn promise_9_an_idle_log_takes_less_than_a_kibibyte() {
    let store = MemoryStore::new(LIMIT);
    let mut batch = WriteBatch::new();
    for index in 0..1_000 {
        batch.create_log(LogName::new(format!("log-{index}")), LogOptions::default());
    }
    store.commit_now(batch).unwrap();
    assert!(store.stats().memory_bytes < 1_000 << 10);
}

/// A buffer that tells when it is freed.
struct Buffer(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
    }
}

#[test]
fn promise_9_what_is_stored_keeps_no_buffer_of_others_alive() {
    let store = store_with_log(LIMIT);
    let freed = Arc::new(AtomicBool::new(false));
    let one = records(1, 50_000);
    let (table, payload) = (one.table().len(), one.payload().len());
    let all = [one.table(), one.payload(), &b"key value"[..], &[0; 100_000]].concat();
    let network = Bytes::from_owner(Buffer(all, freed.clone()));
    let rest = network.slice(table + payload..);
    let records =
        Records::from_parts(0, network.slice(..table), network.slice(table..table + payload));
    let mut batch = WriteBatch::new();
    batch.append(log(), Offset(0), Timestamp(1), records.unwrap());
    batch.put(rest.slice(..3), rest.slice(4..9));
    store.commit_now(batch).unwrap();
    drop((network, rest));
    assert!(freed.load(SeqCst));
    assert_eq!(store.value(b"key").unwrap().unwrap(), "value");
    let read = store.read_now(&log(), Offset(0), ALL).unwrap();
    assert_eq!(read[0].records.encoded(0), one.encoded(0));
}

#[test]
fn promise_9_part_of_a_large_append_is_given_back() {
    let store = store_with_log(LIMIT);
    append(&store, 7, records(10_000, 100)).unwrap();
    let whole = store.stats().memory_bytes;
    let expected = store.read_now(&log(), Offset(9_990), ALL).unwrap();
    for (before, share) in [(1_000, 100), (6_000, 50), (9_990, 10), (9_999, 1)] {
        truncate(&store, before);
        let now = store.stats().memory_bytes;
        assert!(now <= whole * share / 100 + 3_000, "{now} of {whole} after {before}");
        assert_eq!(now, recount(&store));
    }
    let last = store.read_now(&log(), Offset(9_999), ALL).unwrap();
    assert_eq!((last.len(), last[0].first, last[0].time), (1, Offset(9_999), Timestamp(7)));
    assert_eq!(last[0].records.encoded(0), expected[0].records.encoded(9));
}

#[test]
fn what_a_reader_holds_outlives_truncation_deletion_and_close() {
    let store = store_with_log(LIMIT);
    for time in 0..50 {
        append(&store, time, records(1, 100)).unwrap();
    }
    let read = store.read_now(&log(), Offset(3), ALL).unwrap();
    truncate(&store, 50);
    let mut batch = WriteBatch::new();
    batch.delete_log(log());
    store.commit_now(batch).unwrap();
    drop(store);
    assert_eq!(read.len(), 47);
    assert!(read.iter().all(|batch| batch.records.verify().is_ok()));
}

#[test]
fn a_log_of_any_sizes_stays_in_few_chunks() {
    let sizes: [fn(usize) -> usize; 4] =
        [|_| 100, |i| 4_000 - i % 4_000, |i| (i * 7_919) % 3_000, |i| [9_000, 10][i % 2]];
    for size in sizes {
        let store = store_with_log(LIMIT);
        let mut bytes = 0;
        for index in 0..3_000 {
            let records = records(1, size(index));
            bytes += records.byte_len();
            append(&store, 1, records).unwrap();
            let chunks = store.look_at(&log(), |log| log.chunks().len()).unwrap();
            // Full ones, which with any neighbour are beyond 16 KiB, and the shrinking end.
            assert!(chunks <= 2 * bytes / (16 << 10) + 14, "{chunks} chunks, {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn closing_frees_everything() {
    let store = store_with_log(LIMIT);
    append(&store, 1, records(3, 1_000)).unwrap();
    let mut batch = WriteBatch::new();
    batch.put("key", "value");
    store.commit_now(batch).unwrap();
    store.close().await.unwrap();
    assert!(store.shards.iter().all(|shard| shard.lock().is_empty()));
    assert!(store.values.lock().map.is_empty());
    assert_eq!(store.stats().memory_bytes, 0);
}

#[test]
fn promise_9_a_log_that_was_long_leaves_no_empty_room() {
    let store = store_with_log(LIMIT);
    for _ in 0..2_000 {
        append(&store, 1, records(1, 17_000)).unwrap();
    }
    for before in (0..=2_000).step_by(50) {
        truncate(&store, before);
        let (len, room) =
            store.look_at(&log(), |log| (log.chunks().len(), log.chunks().capacity())).unwrap();
        assert!(room <= 2 * len.max(4), "room for {room} chunks, and there are {len}");
    }
}
