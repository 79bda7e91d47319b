//! Readers and publishers at work, on real threads, while the store's own thread moves records to
//! segments, writes sparse ones anew and removes what was truncated: every byte that is read is the
//! one that was written.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use ltq_core::{Durability, LogOptions, Message, Records};

use super::super::*;
use crate::simulation::Chance;

const LOGS: u64 = 2;
const RECORDS: u64 = 24_000;
const PER_BATCH: u64 = 60;
/// One of so many stays wanted, until it is truncated.
const KEPT: u64 = 9;
/// So far behind the newest record everything else is discarded, and then truncated.
const DISCARDED_BEHIND: u64 = 1_800;
const TRUNCATED_BEHIND: u64 = 15_000;
/// A machine that needs longer than this is broken.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the writers have asked for, always before the store does it.
struct Shared {
    store: FileStore,
    ends: [AtomicU64; LOGS as usize],
    firsts: [AtomicU64; LOGS as usize],
    done: AtomicBool,
    began: Instant,
}

fn log(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

/// The message of a place: nobody else's.
fn message(log: u64, offset: u64) -> Message {
    let mut chance = Chance::new(offset * LOGS + log + 1);
    let len = 40 + chance.below(300) as usize;
    let mut body = Vec::with_capacity(len + 8);
    while body.len() < len {
        body.extend_from_slice(&chance.next().to_le_bytes());
    }
    Message::new(body)
}

fn is_kept(offset: u64) -> bool {
    offset.is_multiple_of(KEPT)
}

async fn publish(shared: Arc<Shared>, at: u64) {
    for from in (0..RECORDS).step_by(PER_BATCH as usize) {
        let messages: Vec<_> = (from..from + PER_BATCH).map(|it| message(at, it)).collect();
        let mut batch = WriteBatch::new();
        batch.append(log(at), Offset(from), Timestamp(from), Records::encode(&messages));
        if let Some(old) = from.checked_sub(DISCARDED_BEHIND) {
            for kept in (old..old + PER_BATCH).filter(|&offset| is_kept(offset)) {
                batch.discard(log(at), Offset(kept + 1), Offset(kept + KEPT));
            }
        }
        if let Some(before) = from.checked_sub(TRUNCATED_BEHIND) {
            shared.firsts[at as usize].store(before, SeqCst);
            batch.truncate(log(at), Offset(before));
        }
        let durability = if from % 1_200 == 0 { Durability::Disk } else { Durability::Os };
        shared.store.commit(batch, durability).await.unwrap();
        shared.ends[at as usize].store(from + PER_BATCH, SeqCst);
    }
}

/// Reads at any place, once. Returns how many records it got.
async fn read(shared: &Shared, chance: &mut Chance) -> u64 {
    let at = chance.below(LOGS);
    let end = shared.ends[at as usize].load(SeqCst);
    let first = shared.store.bounds(&log(at)).unwrap().first.0;
    if first >= end {
        return 0;
    }
    let from = first + chance.below(end - first);
    let limits = ReadLimits { records: 200, bytes: 1 + chance.below(64 << 10) as usize };
    match shared.store.read(&log(at), Offset(from), limits).await {
        Ok(batches) => {
            assert!(!batches.is_empty(), "nothing at {from} of {at}, which ends at {end}");
            let mut next = from;
            for batch in batches {
                assert_eq!(batch.first, Offset(next));
                batch.records.verify().unwrap();
                for found in batch.records.messages() {
                    assert_eq!(found.unwrap(), message(at, next), "{next} of {at}");
                    assert_eq!(batch.time, Timestamp(next / PER_BATCH * PER_BATCH));
                    next += 1;
                }
            }
            next - from
        }
        Err(StoreError::Discarded { from: told, until, .. }) => {
            assert!(told.0 == from && until.0 > from);
            assert!(!(from..until.0).any(is_kept), "{from} to {until} are said to be discarded");
            0
        }
        Err(StoreError::OutOfRange { .. }) => {
            let before = shared.firsts[at as usize].load(SeqCst);
            assert!(from < before, "{from} is out of range, and {before} is asked for at most");
            0
        }
        Err(error) => panic!("{from} of {at}: {error}"),
    }
}

/// All that is there of a log is what should be.
async fn assert_all_there(store: &FileStore, at: u64) {
    let Bounds { first, end } = store.bounds(&log(at)).unwrap();
    assert_eq!(end, Offset(RECORDS));
    let (mut next, mut found) = (first, BTreeSet::new());
    while next < end {
        match store.read(&log(at), next, ReadLimits { records: 500, bytes: 1 << 20 }).await {
            Ok(batches) => {
                for it in batches.iter().flat_map(|batch| batch.records.messages()) {
                    assert_eq!(it.unwrap(), message(at, next.0), "{next} of {at}");
                    found.insert(next.0);
                    next = next.plus(1);
                }
            }
            Err(StoreError::Discarded { until, .. }) => next = until,
            Err(error) => panic!("{next} of {at}: {error}"),
        }
    }
    let discarded = (RECORDS - DISCARDED_BEHIND).next_multiple_of(KEPT);
    let expected = (first.0..end.0).filter(|&it| is_kept(it) || it >= discarded);
    assert_eq!(found, expected.collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promise_8_every_byte_is_right_while_segments_are_written_anew_and_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::new(dir.path())
        .tail_bytes(256 << 10)
        .journal_file_bytes(256 << 10)
        .journal_bytes_max(4 << 20)
        .segment_bytes(256 << 10)
        .reserve_bytes(1 << 20);
    let store = FileStore::open(options.clone()).await.unwrap();
    let mut batch = WriteBatch::new();
    for at in 0..LOGS {
        batch.create_log(log(at), LogOptions::default());
    }
    store.commit(batch, Durability::Os).await.unwrap();
    let (ends, firsts, done, began) =
        (Default::default(), Default::default(), AtomicBool::new(false), Instant::now());
    let shared = Arc::new(Shared { store, ends, firsts, done, began });
    let readers = (0..3).map(|reader| {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let (mut chance, mut got) = (Chance::new(77 + reader), 0);
            while !shared.done.load(SeqCst) {
                got += read(&shared, &mut chance).await;
                tokio::task::yield_now().await;
            }
            got
        })
    });
    let readers: Vec<_> = readers.collect();
    let publishers: Vec<_> =
        (0..LOGS).map(|at| tokio::spawn(publish(Arc::clone(&shared), at))).collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    // The readers go on until enough was written anew under their eyes.
    while shared.store.stats().bytes_rewritten < 200 << 10 {
        assert!(shared.began.elapsed() < DEADLINE, "{:?}", shared.store.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shared.done.store(true, SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 1_000, "a reader that got next to nothing shows nothing");
    }
    let shared = Arc::into_inner(shared).unwrap();
    assert_eq!(shared.store.stats().damaged_records, 0);
    for at in 0..LOGS {
        assert_all_there(&shared.store, at).await;
        assert!(shared.store.bounds(&log(at)).unwrap().first > Offset::ZERO);
    }
    shared.store.close().await.unwrap();
    let store = FileStore::open(options).await.unwrap();
    for at in 0..LOGS {
        assert_all_there(&store, at).await;
    }
    store.close().await.unwrap();
}
