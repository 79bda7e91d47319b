//! What the store holds, in memory.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

use bytes::Bytes;
use ltq_core::{
    Bounds, Durability, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch, Records,
    RecordsBuilder, StoreError, TABLE_ENTRY_BYTES, Timestamp, WriteBatch, WriteOp,
};

use crate::batches::Change;

/// All logs and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    logs: BTreeMap<LogName, Log>,
    values: BTreeMap<Bytes, Bytes>,
    bytes: u64,
}

/// A log: its records in the pieces in which they were appended. Where it was truncated or discarded
/// there is no piece.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    options: LogOptions,
    bounds: Bounds,
    pieces: BTreeMap<Offset, RecordBatch>,
}

impl Held {
    /// About what it takes in memory.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn log(&self, log: &LogName) -> Result<&Log, StoreError> {
        self.logs.get(log).ok_or_else(|| StoreError::NoSuchLog(log.clone()))
    }

    pub(crate) fn logs(&self) -> Vec<LogInfo> {
        let info = |(name, log): (&LogName, &Log)| {
            let Log { options, bounds, .. } = *log;
            LogInfo { log: name.clone(), options, bounds }
        };
        self.logs.iter().map(info).collect()
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.values.get(key).cloned()
    }

    pub(crate) fn values(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = self.values.range::<[u8], _>(from);
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Refuses a batch that does not fit, each of its changes judged by what those before it leave.
    /// Returns how durable it can become.
    pub(crate) fn judge(&self, batch: &WriteBatch) -> Result<Durability, StoreError> {
        // The logs that it touches: whether they are durable, and where they end by now.
        let mut touched: BTreeMap<&LogName, Option<(bool, Offset)>> = BTreeMap::new();
        let mut reach = Durability::Disk;
        for op in batch.ops() {
            let log = match op {
                WriteOp::Put { .. } | WriteOp::Delete { .. } => continue,
                WriteOp::CreateLog { log, .. }
                | WriteOp::DeleteLog { log }
                | WriteOp::Append { log, .. }
                | WriteOp::Truncate { log, .. }
                | WriteOp::Discard { log, .. } => log,
            };
            let now = touched.entry(log).or_insert_with(|| {
                self.logs.get(log).map(|log| (log.options.durable, log.bounds.end))
            });
            if let WriteOp::CreateLog { options, first, .. } = op {
                if now.is_some() {
                    return Err(StoreError::LogExists(log.clone()));
                }
                *now = Some((options.durable, *first));
                continue;
            }
            let Some((durable, end)) = now else { return Err(StoreError::NoSuchLog(log.clone())) };
            let wrong = |got| StoreError::WrongOffset { log: log.clone(), end: *end, got };
            match op {
                WriteOp::Append { at, .. } if at != end => return Err(wrong(*at)),
                WriteOp::Truncate { before, .. } if before > end => return Err(wrong(*before)),
                WriteOp::Discard { until, .. } if until > end => return Err(wrong(*until)),
                WriteOp::DeleteLog { .. } => {
                    *now = None;
                    continue;
                }
                WriteOp::Append { records, .. } => {
                    let after = end.0.checked_add(records.count() as u64);
                    *end = Offset(after.ok_or_else(|| {
                        StoreError::Invalid(format!("log {log} would pass the largest offset"))
                    })?);
                }
                _ => (),
            }
            if !*durable {
                reach = Durability::Memory;
            }
        }
        Ok(reach)
    }

    /// Refuses what there is no room for, unless it leaves no more than there was.
    pub(crate) fn check_room(&self, changes: &[Change], limit: u64) -> Result<(), StoreError> {
        let used = self.bytes;
        if used + changes.iter().map(brings).sum::<u64>() <= limit {
            return Ok(());
        }
        // It is close: see what would be left. A copy shares the records.
        let mut after = self.clone();
        after.apply(changes.to_vec());
        if after.bytes <= limit.max(used) {
            return Ok(());
        }
        let wanted = after.bytes - used;
        Err(StoreError::Full { what: "bytes_max".to_owned(), limit, used: used.min(limit), wanted })
    }

    /// Makes changes that were found to fit.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Create { log, options, first, end } => {
                    self.bytes += log_cost(&log);
                    let log_of =
                        Log { options, bounds: Bounds { first, end }, pieces: <_>::default() };
                    self.logs.insert(log, log_of);
                }
                Change::Delete { log } => {
                    if let Some(gone) = self.logs.remove(&log) {
                        self.bytes -= log_cost(&log) + gone.cost();
                    }
                }
                Change::Append { log, at, time, base, table, payload } => {
                    // Checksums told that these are the bytes of records that were taken.
                    let records = Records::from_parts(base, table, payload).unwrap_or_default();
                    let piece = RecordBatch { first: at, time, records };
                    let Some(found) = self.logs.get_mut(&log) else { continue };
                    self.bytes += cost(&piece);
                    found.bounds.end = found.bounds.end.max(piece.end());
                    found.pieces.insert(at, piece);
                }
                Change::Truncate { log, before } => {
                    let Some(found) = self.logs.get_mut(&log) else { continue };
                    found.bounds.first = found.bounds.first.max(before);
                    self.bytes -= found.give_up(Offset::ZERO..before);
                }
                Change::Discard { log, from, until } => {
                    let Some(found) = self.logs.get_mut(&log) else { continue };
                    self.bytes -= found.give_up(from..until);
                }
                Change::Put { key, value } => {
                    self.remove(&key);
                    self.bytes += value_cost(&key, &value);
                    self.values.insert(key, value);
                }
                Change::Remove { key } => self.remove(&key),
            }
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(gone) = self.values.remove(key) {
            self.bytes -= value_cost(key, &gone);
        }
    }

    /// The changes that make an empty store into this one.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, log) in &self.logs {
            let Log { options, bounds: Bounds { first, end }, .. } = *log;
            changes.push(Change::Create { log: name.clone(), options, first, end });
            for RecordBatch { first, time, records } in log.pieces.values() {
                changes.push(Change::Append {
                    log: name.clone(),
                    at: *first,
                    time: *time,
                    base: records.base(),
                    table: records.table().clone(),
                    payload: records.payload().clone(),
                });
            }
        }
        let put = |(key, value): (&Bytes, &Bytes)| {
            let (key, value) = (key.clone(), value.clone());
            Change::Put { key, value }
        };
        changes.extend(self.values.iter().map(put));
        changes
    }
}

impl Log {
    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn cost(&self) -> u64 {
        self.pieces.values().map(cost).sum()
    }

    /// Gives up the records of a range. Returns how many bytes that freed.
    fn give_up(&mut self, range: Range<Offset>) -> u64 {
        let before = self.pieces.range(..range.start).next_back();
        let before = before.filter(|(_, piece)| piece.end() > range.start).map(|(first, _)| *first);
        let inside = self.pieces.range(range.clone()).map(|(first, _)| *first);
        let touched: Vec<Offset> = before.into_iter().chain(inside).collect();
        let mut freed = 0;
        for first in touched {
            let Some(piece) = self.pieces.remove(&first) else { continue };
            freed += cost(&piece);
            for kept in [piece.slice(first, range.start), piece.slice(range.end, piece.end())] {
                if !kept.records.is_empty() {
                    let mut copy = RecordsBuilder::new();
                    copy.extend(&kept.records);
                    let kept = RecordBatch { records: copy.finish(), ..kept };
                    freed -= cost(&kept);
                    self.pieces.insert(kept.first, kept);
                }
            }
        }
        freed
    }

    pub(crate) fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let bounds = self.bounds;
        if from < bounds.first || from > bounds.end {
            return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
        }
        let holder = self.pieces.range(..=from).next_back().map(|(_, piece)| piece);
        let Some(holder) = holder.filter(|piece| piece.end() > from) else {
            let next = self.pieces.range(from..).next().map_or(bounds.end, |(first, _)| *first);
            return if from == bounds.end {
                Ok(Vec::new())
            } else {
                Err(StoreError::Discarded { log: log.clone(), from, until: next })
            };
        };
        let (mut batches, mut next) = (Vec::new(), from);
        let ReadLimits { mut records, mut bytes } = limits;
        for piece in self.pieces.range(holder.first..).map(|(_, piece)| piece) {
            let rest = piece.slice(next, piece.end());
            let count = rest.records.fitting(0, records, bytes);
            let part = rest.slice(next, next.plus(count as u64));
            // One record is returned whatever its size, and only one.
            let too_large = !batches.is_empty() && part.records.byte_len() > bytes;
            if rest.first != next || count == 0 || too_large {
                break;
            }
            (records, bytes) = (records - count, bytes.saturating_sub(part.records.byte_len()));
            next = part.end();
            batches.push(part);
            if next != piece.end() {
                break;
            }
        }
        Ok(batches)
    }

    /// The first record whose time is that or later.
    pub(crate) fn offset_at(&self, time: Timestamp) -> Offset {
        let found = self.pieces.values().find(|piece| piece.time >= time);
        found.map_or(self.bounds.end, |piece| piece.first)
    }
}

/// What a change adds at most.
fn brings(change: &Change) -> u64 {
    match change {
        Change::Create { log, .. } => log_cost(log),
        Change::Append { table, payload, .. } => records_cost(table.len(), payload.len()),
        Change::Put { key, value } => value_cost(key, value),
        Change::Delete { .. }
        | Change::Truncate { .. }
        | Change::Discard { .. }
        | Change::Remove { .. } => 0,
    }
}

fn cost(piece: &RecordBatch) -> u64 {
    records_cost(piece.records.table().len(), piece.records.payload().len())
}

/// Each record counts as though it stood alone, so that a discard, which may cut a piece in two,
/// never leaves more than there was.
fn records_cost(table: usize, payload: usize) -> u64 {
    (table / TABLE_ENTRY_BYTES) as u64 * PIECE_BYTES + (table + payload) as u64
}

fn log_cost(log: &LogName) -> u64 {
    LOG_BYTES + log.as_str().len() as u64
}

fn value_cost(key: &[u8], value: &[u8]) -> u64 {
    VALUE_BYTES + (key.len() + value.len()) as u64
}

/// What each takes beside its bytes: its place in a map, and the allocations that it is made of.
const PIECE_BYTES: u64 = 192;
const LOG_BYTES: u64 = 256;
const VALUE_BYTES: u64 = 192;
