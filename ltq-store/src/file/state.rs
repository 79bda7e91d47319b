//! What readers see: all logs and values, as of the batches that are as durable as was asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

#[cfg(not(any(test, feature = "simulation")))]
use std::hash::RandomState as Hashing;

use bytes::Bytes;
use ltq_core::{LogInfo, LogName};

use super::{
    change::Change,
    log::{Log, Segment},
    segments::SegmentKey,
    tail::Chunk,
};
// As a seed will have it, so that the same happens again to a simulated disk.
#[cfg(any(test, feature = "simulation"))]
use crate::simulation::Hashing;

/// All logs and values.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) logs: HashMap<LogName, Log, Hashing>,
    pub(super) values: BTreeMap<Bytes, Bytes>,
    values_cost: u64,
    /// What all tails take in memory.
    tail_cost: u64,
    /// What the discarded stretches of all logs take in memory.
    discarded_cost: u64,
    /// What all segments take on disk, those in `garbage` included.
    segment_bytes: u64,
    /// Segments that nothing needs any more.
    garbage: Vec<Garbage>,
    /// Logs of whose segments something was discarded since anybody looked.
    sparse: BTreeSet<LogName>,
}

/// A segment that can go once the change that made it superfluous is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Garbage {
    pub(super) key: SegmentKey,
    pub(super) bytes: u64,
    /// What must be durable before: this entry of the journal, and this checkpoint.
    pub(super) sequence: u64,
    pub(super) checkpoint: u64,
}

impl State {
    pub(super) const fn tail_cost(&self) -> u64 {
        self.tail_cost
    }

    /// What tails, discarded stretches and values take in memory.
    pub(super) const fn memory_bytes(&self) -> u64 {
        self.tail_cost + self.discarded_cost + self.values_cost
    }

    pub(super) const fn values_cost(&self) -> u64 {
        self.values_cost
    }

    /// What of the tails is not in segments too.
    pub(super) fn unspilled_cost(&self) -> u64 {
        self.logs.values().flat_map(Log::unspilled).map(Chunk::cost).sum()
    }

    pub(super) const fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Makes one change, known to fit. `file` and `sequence` tell the newest place in the journal
    /// that may hold it.
    pub(super) fn apply(&mut self, change: Change, file: u64, sequence: u64) {
        match change {
            Change::Create { id, log, options, first } => {
                self.logs.insert(log, Log::new(id, options, first));
            }
            Change::Delete { id, log } => {
                if self.logs.get(&log).is_some_and(|found| found.id == id)
                    && let Some(found) = self.logs.remove(&log)
                {
                    let (tail, discarded) = found.cost();
                    self.tail_cost -= tail;
                    self.discarded_cost -= discarded;
                    self.remove_later(id, &found.segments, sequence);
                }
            }
            Change::Append { id, log, time, records, .. } => {
                self.change_log(id, &log, |found| {
                    found.append(time, records, file);
                });
            }
            Change::Truncate { id, log, before, .. } => {
                let gone = self.change_log(id, &log, |found| found.truncate(before));
                self.remove_later(id, &gone.unwrap_or_default(), sequence);
            }
            Change::Discard { id, log, from, until, .. } => {
                let gone = self.change_log(id, &log, |found| found.discard(from, until));
                self.remove_later(id, &gone.unwrap_or_default(), sequence);
                if self.logs.get(&log).is_some_and(|found| found.has_segment_in(from..until)) {
                    self.sparse.insert(log);
                }
            }
            Change::Put { key, value } => self.put(&key, &value),
            Change::Remove { key } => self.remove(&key),
        }
    }

    /// Takes in a log as it was in a checkpoint.
    pub(super) fn restore(&mut self, log: LogName, found: Log) {
        let (tail, discarded) = found.cost();
        self.tail_cost += tail;
        self.discarded_cost += discarded;
        if !found.segments.is_empty() && found.discarded.iter().next().is_some() {
            self.sparse.insert(log.clone());
        }
        self.logs.insert(log, found);
    }

    /// Counts the segments anew, and forgets those that nothing needs.
    pub(super) fn count_segments(&mut self) {
        self.garbage.clear();
        self.segment_bytes = self.logs.values().map(Log::segment_bytes).sum();
    }

    /// Changes a log and keeps count of what it takes in memory. `None` when the log is gone.
    pub(super) fn change_log<T>(
        &mut self,
        id: u64,
        log: &LogName,
        change: impl FnOnce(&mut Log) -> T,
    ) -> Option<T> {
        let found = self.logs.get_mut(log).filter(|found| found.id == id)?;
        let (tail, discarded) = found.cost();
        let result = change(found);
        let (new_tail, new_discarded) = found.cost();
        self.tail_cost = self.tail_cost - tail + new_tail;
        self.discarded_cost = self.discarded_cost - discarded + new_discarded;
        Some(result)
    }

    /// Takes in segments that were written to. Those that nothing needs, because the log was
    /// truncated or deleted meanwhile, are left to be removed. One of `grown` bytes may be worth
    /// being written anew.
    pub(super) fn register(&mut self, id: u64, log: &LogName, written: Vec<Segment>, grown: u64) {
        for segment in written {
            // It may have become superfluous before it was extended.
            let old = self.garbage.extract_if(.., |garbage| garbage.key == segment.key(id));
            let mut old: u64 = old.map(|garbage| garbage.bytes).sum();
            let bytes = segment.bytes;
            let found = self.logs.get_mut(log).filter(|found| found.id == id);
            match found {
                Some(found) if found.wants(&segment) => {
                    found.spilled_end = found.spilled_end.max(segment.end);
                    let same = found.segments.pop_if(|last| last.key(id) == segment.key(id));
                    old += same.as_ref().map_or(0, |last| last.bytes);
                    // What was the last one does not grow any more, or what is has grown enough.
                    let more = same.is_none_or(|last| last.bytes < grown && bytes >= grown);
                    if more && found.discarded.iter().next().is_some() {
                        self.sparse.insert(log.clone());
                    }
                    found.segments.push(segment);
                    found.pass_discarded();
                }
                _ => self.remove_later(id, &[segment], 0),
            }
            self.segment_bytes = self.segment_bytes + bytes - old;
        }
    }

    /// Whether a log has these segments, as they are here.
    pub(super) fn has_all(&self, log: &LogName, id: u64, segments: &[Segment]) -> bool {
        let found = self.logs.get(log).filter(|found| found.id == id);
        let has = |found: &Log, it: &Segment| {
            let same = |of: &Segment| of.key(id) == it.key(id) && of.bytes == it.bytes;
            found.segments.iter().any(same)
        };
        found.is_some_and(|found| segments.iter().all(|it| has(found, it)))
    }

    /// Takes in a segment into which others were written anew; those can go once a checkpoint
    /// names it. `false`, and nothing is changed, when one of them is not as it was.
    pub(super) fn replace(
        &mut self,
        log: &LogName,
        id: u64,
        inputs: &[Segment],
        output: &Segment,
        checkpoint: u64,
    ) -> bool {
        let Some(found) = self.logs.get_mut(log).filter(|found| found.id == id) else {
            return false;
        };
        // One that is gone has nothing in it that is wanted.
        let of = |it: &Segment| inputs.iter().find(|input| input.key(id) == it.key(id));
        let changed = |it: &Segment| of(it).is_some_and(|input| input.bytes != it.bytes);
        if found.segments.iter().any(changed) || !found.wants(output) {
            return false;
        }
        let gone: Vec<Segment> = found.segments.extract_if(.., |it| of(it).is_some()).collect();
        let at = found.segments.partition_point(|it| it.first < output.first);
        found.segments.insert(at, output.clone());
        self.segment_bytes += output.bytes;
        self.garbage.extend(gone.iter().map(|segment| Garbage {
            key: segment.key(id),
            bytes: segment.bytes,
            sequence: 0,
            checkpoint,
        }));
        true
    }

    /// A log of whose segments something was discarded, to be looked at.
    pub(super) fn take_sparse(&mut self) -> Option<LogName> {
        self.sparse.pop_first()
    }

    pub(super) fn is_sparse(&self) -> bool {
        !self.sparse.is_empty()
    }

    /// Notes that a log is to be looked at again.
    pub(super) fn note_sparse(&mut self, log: LogName) {
        self.sparse.insert(log);
    }

    /// Whether there is something to be removed.
    pub(super) fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    /// Gives up memory for what is in segments, until all tails take `cost`.
    pub(super) fn shrink_tails(&mut self, cost: u64) {
        for log in self.logs.values_mut() {
            if self.tail_cost <= cost {
                break;
            }
            let before = log.tail.cost();
            log.tail.shrink(log.spilled_end, before.saturating_sub(self.tail_cost - cost));
            self.tail_cost -= before - log.tail.cost();
        }
    }

    /// Leaves segments to be removed.
    pub(super) fn remove_later(&mut self, log: u64, segments: &[Segment], sequence: u64) {
        let garbage = segments.iter().map(|segment| Garbage {
            key: segment.key(log),
            bytes: segment.bytes,
            sequence,
            checkpoint: 0,
        });
        self.garbage.extend(garbage);
    }

    /// The superfluous segments whose end is durable, if everything up to this entry of the journal
    /// and this checkpoint is.
    pub(super) fn take_garbage(&mut self, synced: u64, checkpoint: u64) -> Vec<Garbage> {
        let durable = |it: &Garbage| it.sequence <= synced && it.checkpoint <= checkpoint;
        let (gone, kept) = self.garbage.drain(..).partition(durable);
        self.garbage = kept;
        let gone: Vec<Garbage> = gone;
        self.segment_bytes -= gone.iter().map(|garbage| garbage.bytes).sum::<u64>();
        gone
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.remove(key);
        self.values_cost += value_cost(key, value);
        // Copies: what came in shares its memory with the rest of its batch.
        self.values.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some(value) = self.values.remove(key) {
            self.values_cost -= value_cost(key, &value);
        }
    }

    pub(super) fn values(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = self.values.range::<[u8], _>(from);
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn logs(&self) -> Vec<LogInfo> {
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
