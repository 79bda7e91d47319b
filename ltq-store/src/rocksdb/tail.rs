//! The newest records of a log, in memory, beside RocksDB.

use std::{collections::VecDeque, ops::Range};

use ltq_core::{Offset, ReadLimits, RecordBatch};

/// The newest records of a log, oldest first. All of them are in RocksDB too.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<RecordBatch>,
}

impl Tail {
    /// Adds records at the end. Returns what they take.
    pub(super) fn push(&mut self, batch: RecordBatch) -> u64 {
        let cost = cost(&batch);
        self.batches.push_back(batch);
        cost
    }

    /// Gives up what ends at or before an offset. Returns what it took.
    pub(super) fn drop_before(&mut self, before: Offset) -> u64 {
        let mut freed = 0;
        let gone = self.batches.partition_point(|batch| batch.end() <= before);
        for batch in self.batches.drain(..gone) {
            freed += cost(&batch);
        }
        if self.batches.capacity() > 4 * self.batches.len().max(SPARE) {
            self.batches.shrink_to(2 * self.batches.len());
        }
        freed
    }

    /// Gives up what lies whole in a stretch. Returns what it took.
    pub(super) fn drop_within(&mut self, stretch: &Range<Offset>) -> u64 {
        let start = self.batches.partition_point(|batch| batch.first < stretch.start);
        let end = self.batches.partition_point(|batch| batch.end() <= stretch.end);
        if start >= end {
            return 0;
        }
        self.batches.drain(start..end).map(|batch| cost(&batch)).sum()
    }

    /// Whether the oldest piece of it ends there.
    pub(super) fn begins_with(&self, end: Offset) -> bool {
        self.batches.front().is_some_and(|first| first.end() == end)
    }

    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether one of its pieces ends there.
    pub(super) fn ends_at(&self, end: Offset) -> bool {
        self.batches.binary_search_by_key(&end, RecordBatch::end).is_ok()
    }

    pub(super) fn cost(&self) -> u64 {
        self.batches.iter().map(cost).sum()
    }

    /// Records from `from` on, up to `until`; `None` when it is not in memory.
    pub(super) fn read(
        &self,
        from: Offset,
        until: Offset,
        limits: ReadLimits,
    ) -> Option<Vec<RecordBatch>> {
        let start = self.batches.partition_point(|batch| batch.end() <= from);
        if self.batches.get(start)?.first > from {
            return None;
        }
        let mut collected = Collected::new(from, until, limits);
        for batch in self.batches.range(start..) {
            if !collected.push(batch) {
                break;
            }
        }
        Some(collected.batches)
    }
}

/// Batches for a reader, within its limits.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) batches: Vec<RecordBatch>,
    next: Offset,
    until: Offset,
    records_left: usize,
    bytes_left: usize,
}

impl Collected {
    pub(super) const fn new(from: Offset, until: Offset, limits: ReadLimits) -> Self {
        let ReadLimits { records, bytes } = limits;
        Self { batches: Vec::new(), next: from, until, records_left: records, bytes_left: bytes }
    }

    /// The offset that comes next.
    pub(super) const fn next(&self) -> Offset {
        self.next
    }

    /// Gives back what was taken from an offset on.
    pub(super) fn cut(&mut self, from: Offset) {
        self.next = from;
        if let Some(last) = self.batches.pop() {
            let kept = last.slice(last.first, from);
            if !kept.records.is_empty() {
                self.batches.push(kept);
            }
        }
    }

    /// Takes what is wanted of a batch. `false`: that is all.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> bool {
        if batch.first > self.next {
            return false;
        }
        let wanted = batch.slice(self.next, self.until);
        let count = wanted.records.fitting(0, self.records_left, self.bytes_left);
        let taken = wanted.slice(wanted.first, wanted.first.plus(count as u64));
        let bytes = taken.records.byte_len();
        if count == 0 || (!self.batches.is_empty() && bytes > self.bytes_left) {
            return false;
        }
        let whole = count == wanted.records.count();
        self.records_left -= count;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.next = taken.end();
        self.batches.push(taken);
        whole && self.next < self.until
    }
}

fn cost(batch: &RecordBatch) -> u64 {
    BATCH_BYTES + batch.records.byte_len() as u64
}

/// What a batch takes beside its records: its place in a deque that is half empty at worst, in the
/// order in which memory is given up, and a shared allocation with its header.
const BATCH_BYTES: u64 = 384;
/// Room for so many batches stays with a log that was emptied.
const SPARE: usize = 4;
