//! [`MemoryStore`]: everything in this process's memory, within a limit.

mod chunk;
mod locked;
mod log;

#[cfg(test)]
mod tests;

use std::{
    array,
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    ops::Bound,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch,
    RecordsBuilder, Store, StoreError, StoreStats, Timestamp, WriteBatch, WriteOp,
};
use parking_lot::Mutex;

use self::{
    locked::{Garbage, Locked},
    log::Log,
};

/// Keeps everything in memory, within a limit; when the process ends it is gone.
///
/// It keeps the whole contract of [`Store`] at [`Durability::Memory`], and adds to it:
///
/// - Every call completes when first polled, and [`try_read`](Store::try_read) always answers.
/// - The limit covers what logs, records and values take, bookkeeping included: a message costs
///   its bytes and 8 more, a log and a value some hundred. Everything is copied in, once, so that
///   a small message never keeps alive the network buffer that it came in. A commit that would
///   exceed the limit is refused with [`StoreError::Full`].
/// - What is truncated, discarded or deleted is freed at once, except for what a reader still
///   holds: the records that a read returned share memory with the store, up to 64 KiB or the
///   append that brought them, whichever is more. A discard moves what is left around it, up to
///   64 KiB on either side; the first one in a larger append moves all that is left of that.
///
/// ```
/// use ltq_core::{Durability, Store, StoreError, WriteBatch};
/// use ltq_store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), StoreError> {
/// let store = MemoryStore::new(1 << 20);
/// let mut batch = WriteBatch::new();
/// batch.put("key", vec![0; 2 << 20]);
/// let refused = store.commit(batch, Durability::Memory).await;
/// assert!(matches!(refused, Err(StoreError::Full { limit: 0x10_0000, .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    limit_bytes: u64,
    /// What everything takes; for a commit under way, the most that it will.
    used_bytes: AtomicU64,
    commits: AtomicU64,
    closed: AtomicBool,
    hasher: RandomState,
    /// The logs, spread by name, so that commits to different logs seldom meet.
    shards: [Mutex<Shard>; SHARDS],
    values: Mutex<Values>,
}

type Shard = HashMap<LogName, Log>;

impl MemoryStore {
    /// An empty store that keeps at most `limit_bytes` of memory, its bookkeeping included.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            hasher: RandomState::new(),
            shards: array::from_fn(|_| Mutex::default()),
            values: Mutex::default(),
        }
    }

    /// The limit that it was made with.
    #[must_use]
    pub const fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    fn commit_now(&self, batch: WriteBatch) -> Result<(), StoreError> {
        batch.check()?;
        let mut ops = batch.into_ops();
        ops.iter_mut().for_each(make_own);
        // Freed after the locks are.
        let mut garbage = Garbage::default();
        let mut locked = Locked::new(self, &ops);
        self.check_open()?;
        let plan = locked.plan(&ops)?;
        self.reserve(plan.added, plan.freed)?;
        let change = locked.carry_out(&plan, &ops, &mut garbage);
        // Sums modulo 2^64, so that a change may be negative.
        let reserved = plan.added.wrapping_sub(plan.freed);
        self.used_bytes.fetch_add(change.wrapping_sub(reserved), Relaxed);
        self.commits.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Makes room. What the batch frees counts, so that a full store can be emptied.
    fn reserve(&self, added: u64, freed: u64) -> Result<(), StoreError> {
        let wanted = added.saturating_sub(freed);
        let room = |used: u64| {
            (used.saturating_add(wanted) <= self.limit_bytes)
                .then(|| used.wrapping_add(added).wrapping_sub(freed))
        };
        match self.used_bytes.fetch_update(Relaxed, Relaxed, room) {
            Ok(_) => Ok(()),
            Err(used) => Err(StoreError::Full {
                what: "the memory store's limit".to_owned(),
                limit: self.limit_bytes,
                used,
                wanted,
            }),
        }
    }

    fn read_now(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.look_at(log, |found| {
            let bounds = found.bounds();
            if from < bounds.first || from > bounds.end {
                return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
            }
            found.read(from, limits).map_err(|until| StoreError::Discarded {
                log: log.clone(),
                from,
                until,
            })
        })?
    }

    fn look_at<T>(&self, log: &LogName, look: impl FnOnce(&Log) -> T) -> Result<T, StoreError> {
        let shard = self.shards.get(self.shard_of(log)).map(Mutex::lock);
        self.check_open()?;
        let found = shard.as_ref().and_then(|shard| shard.get(log));
        found.map(look).ok_or_else(|| StoreError::NoSuchLog(log.clone()))
    }

    fn shard_of(&self, log: &LogName) -> usize {
        self.hasher.hash_one(log) as usize % SHARDS
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn durability_max(&self) -> Durability {
        Durability::Memory
    }

    async fn commit(&self, batch: WriteBatch, _: Durability) -> Result<Committed, StoreError> {
        self.commit_now(batch)?;
        Ok(Committed { durability: Durability::Memory })
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        Some(self.read_now(log, from, limits))
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.read_now(log, from, limits)
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        self.look_at(log, Log::bounds)
    }

    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.look_at(log, |found| found.offset_at(time))
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        // All locks at once, so that no batch is seen in part.
        let shards = self.shards.each_ref().map(Mutex::lock);
        self.check_open()?;
        let all = shards.iter().flat_map(|shard| shard.iter());
        let mut logs: Vec<_> = all.map(|(name, log)| log.info(name)).collect();
        drop(shards);
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(logs)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let values = self.values.lock();
        self.check_open()?;
        Ok(values.map.get(key).cloned())
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let values = self.values.lock();
        self.check_open()?;
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = values.map.range::<[u8], _>(from);
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            commits: self.commits.load(Relaxed),
            memory_bytes: self.used_bytes.load(Relaxed),
            ..StoreStats::default()
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.check_open()
    }

    async fn close(&self) -> Result<(), StoreError> {
        // A commit that saw the store open holds its locks until it is through; what comes after
        // the lock taken here sees it closed.
        if !self.closed.swap(true, Relaxed) {
            for shard in &self.shards {
                drop(std::mem::take(&mut *shard.lock()));
            }
            drop(std::mem::take(&mut *self.values.lock()));
            self.used_bytes.store(0, Relaxed);
        }
        Ok(())
    }
}

/// The values, and what they take.
#[derive(Debug, Default)]
struct Values {
    map: BTreeMap<Bytes, Bytes>,
    bytes: u64,
}

impl Values {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.delete(&key);
        self.bytes += value_cost(&key, &value);
        self.map.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.bytes -= self.cost_of(key);
        self.map.remove(key);
    }

    /// What the value of this key takes; 0 when there is none.
    fn cost_of(&self, key: &[u8]) -> u64 {
        self.map.get(key).map_or(0, |value| value_cost(key, value))
    }
}

fn value_cost(key: &[u8], value: &[u8]) -> u64 {
    VALUE_COST_BYTES + (key.len() + value.len()) as u64
}

/// Copies what the batch brings into allocations of exactly its size: nobody can tell from
/// `Bytes` how large a buffer it keeps alive.
fn make_own(op: &mut WriteOp) {
    match op {
        WriteOp::Append { records, .. } => {
            let (count, payload_bytes) = (records.count(), records.payload().len());
            let mut builder = RecordsBuilder::with_capacity(count, payload_bytes);
            builder.extend(records);
            *records = builder.finish();
        }
        WriteOp::Put { key, value } => {
            *key = Bytes::copy_from_slice(key);
            *value = Bytes::copy_from_slice(value);
        }
        _ => (),
    }
}

/// Enough that two of a few busy cores seldom want the same; an empty one takes 56 bytes.
const SHARDS: usize = 32;
/// A value beside its key's and its own bytes: its place in a map that is half empty at worst,
/// and what two shared allocations cost.
const VALUE_COST_BYTES: u64 = 256;
