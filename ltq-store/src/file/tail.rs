//! The newest records of a log, in memory, in chunks.

use std::{collections::VecDeque, ops::Range};

use ltq_core::{
    Offset, ReadLimits, RecordBatch, Records, RecordsBuilder, TABLE_ENTRY_BYTES, Timestamp,
};

/// Records that are kept together.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) first: Offset,
    pub(super) records: Records,
    /// The time of the first record.
    pub(super) time: Timestamp,
    /// From which record on another time holds, and which.
    pub(super) later: Vec<(u32, Timestamp)>,
    /// The number of the first journal file that holds some of them; [`NOT_IN_JOURNAL`] if none.
    pub(super) file: u64,
}

/// The journal file of what never goes to the journal.
pub(super) const NOT_IN_JOURNAL: u64 = u64::MAX;

impl Chunk {
    pub(super) fn new(first: Offset, time: Timestamp, records: Records, file: u64) -> Self {
        Self { first, records, time, later: Vec::new(), file }
    }

    pub(super) fn end(&self) -> Offset {
        self.first.plus(self.records.count() as u64)
    }

    fn bytes(&self) -> usize {
        self.records.byte_len()
    }

    /// What it takes in memory.
    pub(super) fn cost(&self) -> u64 {
        CHUNK_BYTES + (self.bytes() + self.later.len() * TIME_BYTES) as u64
    }

    /// The stretches of records that share a time, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, Timestamp)> + '_ {
        let starts = std::iter::once((0, self.time))
            .chain(self.later.iter().map(|&(start, time)| (start as usize, time)));
        let ends = self.later.iter().map(|&(start, _)| start as usize);
        let ends = ends.chain(std::iter::once(self.records.count()));
        starts.zip(ends).map(|((start, time), end)| (start..end, time))
    }

    /// The part from `from` on, as batches of one time each.
    pub(super) fn batches(&self, from: Offset) -> impl Iterator<Item = RecordBatch> + '_ {
        let start = from.since(self.first) as usize;
        self.runs().filter(move |(run, _)| run.end > start).map(move |(run, time)| {
            let at = run.start.max(start);
            let records = self.records.slice(at..run.end);
            RecordBatch { first: self.first.plus(at as u64), time, records }
        })
    }

    /// The latest time of any of its records.
    fn time_max(&self) -> Timestamp {
        self.later.iter().map(|&(_, time)| time).fold(self.time, Timestamp::max)
    }
}

/// The chunks of a log, oldest first; there may be gaps where the log has damage.
#[derive(Debug, Default)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    cost: u64,
}

impl Tail {
    /// What it takes in memory.
    pub(super) const fn cost(&self) -> u64 {
        self.cost
    }

    /// The chunks that hold something at or after an offset.
    pub(super) fn from(&self, from: Offset) -> impl Iterator<Item = &Chunk> + '_ {
        let start = self.chunks.partition_point(|chunk| chunk.end() <= from);
        self.chunks.range(start..)
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        self.cost += chunk.cost();
        self.chunks.push_back(chunk);
        self.merge_back();
    }

    /// Gives up all chunks that end at or before an offset.
    pub(super) fn drop_before(&mut self, before: Offset) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= before) {
            self.drop_front();
        }
        if self.chunks.capacity() > 4 * self.chunks.len().max(CHUNKS_SPARE) {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    /// Gives up all chunks that lie in a range.
    pub(super) fn drop_inside(&mut self, range: &Range<Offset>) {
        let start = self.chunks.partition_point(|chunk| chunk.first < range.start);
        let end = self.chunks.partition_point(|chunk| chunk.end() <= range.end);
        if start < end {
            self.cost -= self.chunks.drain(start..end).map(|chunk| chunk.cost()).sum::<u64>();
        }
    }

    /// Gives up chunks from the oldest on that end at or before `before`, until it takes `cost`.
    pub(super) fn shrink(&mut self, before: Offset, cost: u64) {
        while self.cost > cost && self.chunks.front().is_some_and(|chunk| chunk.end() <= before) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.cost -= chunk.cost();
        }
    }

    /// Joins small chunks at the end, so that messages committed one by one do not cost a chunk
    /// each. A chunk is joined with what follows it once that is half as large: so few are left
    /// at any time, and a record moves only a few times before its chunk is full.
    fn merge_back(&mut self) {
        let (mut from, mut bytes, mut records) = (self.chunks.len(), 0, 0);
        let mut next: Option<(Offset, bool)> = None;
        for (at, chunk) in self.chunks.iter().enumerate().rev() {
            let journaled = chunk.file != NOT_IN_JOURNAL;
            let fits = next.is_none_or(|(first, same)| {
                first == chunk.end() && same == journaled && chunk.bytes() <= 2 * bytes
            });
            if !fits || bytes + chunk.bytes() > MERGED_BYTES_MAX {
                break;
            }
            (from, bytes, records) = (at, bytes + chunk.bytes(), records + chunk.records.count());
            next = Some((chunk.first, journaled));
        }
        if self.chunks.len() - from < 2 {
            return;
        }
        let payload_bytes = bytes - records * TABLE_ENTRY_BYTES;
        let mut builder = RecordsBuilder::with_capacity(records, payload_bytes);
        let mut merged: Option<Chunk> = None;
        for chunk in self.chunks.drain(from..) {
            self.cost -= chunk.cost();
            let start = builder.count();
            builder.extend(&chunk.records);
            match &mut merged {
                None => merged = Some(Chunk { records: Records::default(), ..chunk }),
                Some(merged) => {
                    for (run, time) in chunk.runs() {
                        let last = merged.later.last().map_or(merged.time, |&(_, time)| time);
                        if last != time {
                            merged.later.push(((start + run.start) as u32, time));
                        }
                    }
                }
            }
        }
        if let Some(mut merged) = merged {
            merged.records = builder.finish();
            merged.later.shrink_to_fit();
            self.cost += merged.cost();
            self.chunks.push_back(merged);
        }
    }

    /// Records from `from` on, which lies in a chunk, as far as `limits` and the chunks without a
    /// gap go; `None` when it lies in no chunk.
    pub(super) fn read(&self, from: Offset, limits: ReadLimits) -> Option<Vec<RecordBatch>> {
        let mut chunks = self.from(from).peekable();
        if chunks.peek()?.first > from {
            return None;
        }
        let mut collected = Collected::new(from, limits);
        for chunk in chunks {
            for batch in chunk.batches(collected.next()) {
                if !collected.push(batch) {
                    return Some(collected.finish());
                }
            }
        }
        Some(collected.finish())
    }

    /// The lowest offset at or after `from` whose record's time is `time` or later.
    pub(super) fn offset_at(&self, from: Offset, time: Timestamp) -> Option<Offset> {
        let late = self.from(from).filter(|chunk| chunk.time_max() >= time);
        let mut runs = late.flat_map(|chunk| chunk.batches(from));
        runs.find(|batch| batch.time >= time).map(|batch| batch.first)
    }
}

/// Batches for a reader, within its limits.
#[derive(Debug)]
pub(super) struct Collected {
    batches: Vec<RecordBatch>,
    next: Offset,
    records_left: usize,
    bytes_left: usize,
}

impl Collected {
    pub(super) const fn new(from: Offset, limits: ReadLimits) -> Self {
        let ReadLimits { records, bytes } = limits;
        Self { batches: Vec::new(), next: from, records_left: records, bytes_left: bytes }
    }

    /// The offset that comes next.
    pub(super) const fn next(&self) -> Offset {
        self.next
    }

    /// Whether nothing was taken yet.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many of these records, from `start` on, are within the limits.
    pub(super) fn fitting(&self, records: &Records, start: usize) -> usize {
        records.fitting(start, self.records_left, self.bytes_left)
    }

    /// Takes what is within the limits of a batch. `false`: that is all.
    pub(super) fn push(&mut self, batch: RecordBatch) -> bool {
        if batch.first != self.next {
            return false;
        }
        let count = batch.records.fitting(0, self.records_left, self.bytes_left);
        let whole = count == batch.records.count();
        let records = if whole { batch.records } else { batch.records.slice(0..count) };
        if count == 0 || (!self.batches.is_empty() && records.byte_len() > self.bytes_left) {
            return false;
        }
        self.records_left -= count;
        self.bytes_left = self.bytes_left.saturating_sub(records.byte_len());
        self.next = self.next.plus(count as u64);
        self.batches.push(RecordBatch { records, ..batch });
        whole
    }

    pub(super) fn finish(self) -> Vec<RecordBatch> {
        self.batches
    }
}

/// What a chunk takes beside its records: its place in a deque that is half empty at worst, and
/// two shared allocations.
const CHUNK_BYTES: u64 = 384;
/// An entry of [`Chunk::later`].
const TIME_BYTES: usize = size_of::<(u32, Timestamp)>();
/// Small chunks are joined up to this size. At 100 bytes a message the chunk's own cost is then a
/// few bytes for each of them; larger ones would move more bytes than that saves.
const MERGED_BYTES_MAX: usize = 16 << 10;
/// Room for so many chunks stays with a log that was emptied.
const CHUNKS_SPARE: usize = 4;
