//! What readers see: all logs and values, as of the batches that are as durable as was asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Bound, Range},
};

use bytes::Bytes;
use ltq_core::{Bounds, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch, StoreError};

use super::{change::Change, format::LogEntry, tail::Tail};
use crate::stretches::Stretches;

/// All logs and values.
#[derive(Debug)]
pub(super) struct State {
    pub(super) logs: HashMap<LogName, Log>,
    values: BTreeMap<Bytes, Bytes>,
    values_cost: u64,
    /// What all tails may take, and do.
    tail_max: u64,
    tail_cost: u64,
    /// The pieces in tails in the order in which they came, those that are gone not all removed.
    order: VecDeque<(LogName, u64, Offset)>,
    pieces: usize,
    /// About what all records take.
    record_bytes: u64,
    /// About how many bytes were given up and may still be in files.
    pub(super) given_up: u64,
}

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: u64,
    pub(super) options: LogOptions,
    pub(super) bounds: Bounds,
    pub(super) discarded: Stretches,
    pub(super) tail: Tail,
    /// Pieces before this were deleted from RocksDB.
    pub(super) swept: Offset,
    /// Where the log began when that was done.
    pub(super) swept_for: Offset,
    /// Stretches whose pieces are still to be deleted.
    pub(super) unswept: Vec<Range<Offset>>,
    /// How many records it has that were neither truncated nor discarded, and about how many bytes
    /// they take.
    records: u64,
    pub(super) bytes: u64,
}

impl Log {
    /// A log whose records take so many bytes.
    pub(super) fn new(id: u64, options: LogOptions, bounds: Bounds, bytes: u64) -> Self {
        Self {
            id,
            options,
            bounds,
            discarded: Stretches::default(),
            tail: Tail::default(),
            swept: Offset::ZERO,
            swept_for: Offset::ZERO,
            unswept: Vec::new(),
            records: bounds.end.since(bounds.first),
            bytes,
        }
    }

    /// Takes in a stretch that was discarded earlier. What its records took is not counted any more.
    pub(super) fn restore_discarded(&mut self, stretch: Range<Offset>) {
        self.records = self.records.saturating_sub(self.records_in(stretch.clone()));
        self.discarded.insert(stretch);
    }

    /// How many records of a range were not discarded.
    fn records_in(&self, range: Range<Offset>) -> u64 {
        self.discarded.outside(range).map(|kept| kept.end.since(kept.start)).sum()
    }

    /// About how many bytes so many of its records take.
    fn about(&self, records: u64) -> u64 {
        let share = u128::from(self.bytes) * u128::from(records.min(self.records));
        u64::try_from(share / u128::from(self.records.max(1))).unwrap_or(u64::MAX)
    }

    /// About how many bytes those from an offset up to another take.
    pub(super) fn about_between(&self, from: Offset, until: Offset) -> u64 {
        self.about(self.records_in(from.max(self.bounds.first)..until.min(self.bounds.end)))
    }

    /// Counts them as gone. Returns what they took.
    fn count_gone(&mut self, from: Offset, until: Offset) -> u64 {
        let records = self.records_in(from.max(self.bounds.first)..until.min(self.bounds.end));
        let bytes = self.about(records);
        self.records = self.records.saturating_sub(records);
        self.bytes -= bytes;
        bytes
    }

    /// What its entry says.
    pub(super) const fn entry(&self) -> LogEntry {
        let (Bounds { first, end }, options) = (self.bounds, self.options);
        LogEntry { id: self.id, first, end, bytes: self.bytes, options }
    }

    /// Where a read from an offset has to end; an error when it cannot begin there.
    pub(super) fn until(&self, log: &LogName, from: Offset) -> Result<Offset, StoreError> {
        let bounds = self.bounds;
        if from < bounds.first || from > bounds.end {
            return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
        }
        if let Some(stretch) = self.discarded.stretch_at(from) {
            let until = stretch.end;
            return Err(StoreError::Discarded { log: log.clone(), from, until });
        }
        Ok(self.discarded.next_behind(from).unwrap_or(bounds.end))
    }

    /// Records from an offset on, if they are in memory.
    pub(super) fn read(
        &self,
        from: Offset,
        until: Offset,
        limits: ReadLimits,
    ) -> Option<Vec<RecordBatch>> {
        if from >= until || limits.records == 0 {
            return Some(Vec::new());
        }
        self.tail.read(from, until, limits)
    }
}

impl State {
    pub(super) fn new(tail_max: u64) -> Self {
        Self {
            logs: HashMap::new(),
            values: BTreeMap::new(),
            values_cost: 0,
            tail_max,
            tail_cost: 0,
            order: VecDeque::new(),
            pieces: 0,
            record_bytes: 0,
            given_up: 0,
        }
    }

    /// What tails and values take in memory.
    pub(super) const fn memory_bytes(&self) -> u64 {
        self.tail_cost + self.values_cost
    }

    /// About how many bytes all records and values take.
    pub(super) const fn stored_bytes(&self) -> u64 {
        self.record_bytes + self.values_cost
    }

    /// Takes in a log as it was found.
    pub(super) fn restore(&mut self, log: LogName, found: Log) {
        self.record_bytes += found.bytes;
        self.logs.insert(log, found);
    }

    /// Makes one change, known to fit.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Create { id, log, options, first } => {
                let bounds = Bounds { first, end: first };
                self.logs.insert(log, Log::new(id, options, bounds, 0));
            }
            Change::Delete { log, .. } => {
                if let Some(gone) = self.logs.remove(&log) {
                    self.tail_cost -= gone.tail.cost();
                    self.pieces -= gone.tail.len();
                    self.given_up += gone.bytes;
                    self.record_bytes -= gone.bytes;
                }
            }
            Change::Append { id, log, pieces, .. } => {
                let Some(found) = self.logs.get_mut(&log) else { return };
                for piece in pieces {
                    let end = piece.batch.end();
                    found.bounds.end = end;
                    found.records += piece.batch.records.count() as u64;
                    let bytes = piece.value.len() as u64 + PIECE_COST_BYTES;
                    found.bytes += bytes;
                    self.record_bytes += bytes;
                    self.tail_cost += found.tail.push(piece.batch);
                    self.pieces += 1;
                    self.order.push_back((log.clone(), id, end));
                }
                self.shrink();
            }
            Change::Truncate { log, before, .. } => {
                let Some(found) = self.logs.get_mut(&log) else { return };
                if before <= found.bounds.first {
                    return;
                }
                let bytes = found.count_gone(found.bounds.first, before);
                self.given_up += bytes;
                self.record_bytes -= bytes;
                found.bounds.first = before;
                found.discarded.drop_before(before);
                found.unswept.retain(|stretch| stretch.end > before);
                let held = found.tail.len();
                self.tail_cost -= found.tail.drop_before(before);
                self.pieces -= held - found.tail.len();
            }
            Change::Discard { log, from, until, .. } => {
                let Some(found) = self.logs.get_mut(&log) else { return };
                let from = from.max(found.bounds.first);
                if from >= until {
                    return;
                }
                let bytes = found.count_gone(from, until);
                self.given_up += bytes;
                self.record_bytes -= bytes;
                found.discarded.insert(from..until);
                let stretch = found.discarded.stretch_at(from).unwrap_or(from..until);
                let held = found.tail.len();
                self.tail_cost -= found.tail.drop_within(&stretch);
                self.pieces -= held - found.tail.len();
                found.unswept.push(from..until);
            }
            Change::Put { key, value } => self.put(key, value),
            Change::Remove { key } => self.remove(&key),
        }
    }

    /// Gives up the oldest of all tails until they take what they may.
    fn shrink(&mut self) {
        while self.tail_cost > self.tail_max
            && let Some((log, id, end)) = self.order.pop_front()
        {
            self.drop_piece(&log, id, end);
        }
        if self.order.len() > 2 * self.pieces + ORDER_SPARE {
            self.tidy_order();
        }
    }

    fn drop_piece(&mut self, log: &LogName, id: u64, end: Offset) {
        let found = self.logs.get_mut(log).filter(|found| found.id == id);
        // What was discarded meanwhile is gone already, as is what was truncated.
        if let Some(found) = found
            && found.tail.begins_with(end)
        {
            self.tail_cost -= found.tail.drop_before(end);
            self.pieces -= 1;
        }
    }

    /// Forgets the pieces that are gone.
    fn tidy_order(&mut self) {
        let logs = &self.logs;
        self.order.retain(|(log, id, end)| {
            logs.get(log).is_some_and(|found| found.id == *id && found.tail.ends_at(*end))
        });
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        self.remove(&key);
        self.values_cost += value_cost(&key, &value);
        self.values.insert(key, value);
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(value) = self.values.remove(key) {
            let cost = value_cost(key, &value);
            self.values_cost -= cost;
            self.given_up += cost;
        }
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<&Bytes> {
        self.values.get(key)
    }

    pub(super) fn values(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = self.values.range::<[u8], _>(from);
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn infos(&self) -> Vec<LogInfo> {
        let info = |(log, found): (&LogName, &Log)| LogInfo {
            log: log.clone(),
            options: found.options,
            bounds: found.bounds,
        };
        self.logs.iter().map(info).collect()
    }
}

/// What a value takes in memory.
pub(super) fn value_cost(key: &[u8], value: &[u8]) -> u64 {
    VALUE_COST_BYTES + (key.len() + value.len()) as u64
}

/// What a value takes beside its key's and its own bytes: its place in a map that is half empty
/// at worst, and two shared allocations.
const VALUE_COST_BYTES: u64 = 256;
/// What a piece takes in RocksDB beside its value: its key, its place in a block, and its share of
/// the log's entry.
pub(super) const PIECE_COST_BYTES: u64 = 48;
/// So many entries of pieces that are gone may stay.
const ORDER_SPARE: usize = 1024;
