//! One log in memory: its records in chunks, oldest first.

use std::{collections::VecDeque, ops::Range};

use ltq_core::{
    Bounds, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch, Records, RecordsBuilder,
    TABLE_ENTRY_BYTES, Timestamp,
};

/// A log's records, and what they cost.
#[derive(Debug)]
pub(super) struct Log {
    options: LogOptions,
    bounds: Bounds,
    /// Without gaps. The first chunk may begin before the log does; the last ends where it does.
    chunks: VecDeque<Chunk>,
    /// The cost of all chunks and of the log itself.
    bytes: u64,
}

impl Log {
    pub(super) fn new(name: &LogName, options: LogOptions, first: Offset) -> Self {
        Self {
            options,
            bounds: Bounds { first, end: first },
            chunks: VecDeque::new(),
            bytes: Self::empty_cost(name),
        }
    }

    /// What an empty log of this name costs.
    pub(super) fn empty_cost(name: &LogName) -> u64 {
        LOG_BYTES + name.as_str().len() as u64
    }

    /// The most that appending these records adds to what the log costs.
    pub(super) fn append_cost(records: &Records) -> u64 {
        CHUNK_BYTES + records.byte_len() as u64
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    #[cfg(test)]
    pub(super) fn chunks(&self) -> &VecDeque<Chunk> {
        &self.chunks
    }

    pub(super) fn info(&self, log: &LogName) -> LogInfo {
        LogInfo { log: log.clone(), options: self.options, bounds: self.bounds }
    }

    /// What truncating would certainly give back.
    pub(super) fn freed_by(&self, before: Offset) -> u64 {
        self.chunks.iter().take_while(|chunk| chunk.end() <= before).map(Chunk::cost).sum()
    }

    pub(super) fn append(&mut self, time: Timestamp, records: Records) {
        let latest = self.chunks.back().map_or(time, |last| last.latest.max(time));
        let chunk = Chunk { first: self.bounds.end, records, time, later: Vec::new(), latest };
        self.bounds.end = chunk.end();
        self.bytes += chunk.cost();
        self.chunks.push_back(chunk);
    }

    /// Gives up what lies before `before`; the chunks that nothing needs any more go to `garbage`.
    pub(super) fn truncate(&mut self, before: Offset, garbage: &mut Vec<Chunk>) {
        self.bounds.first = self.bounds.first.max(before);
        let gone = self.chunks.partition_point(|chunk| chunk.end() <= before);
        for chunk in self.chunks.drain(..gone) {
            self.bytes -= chunk.cost();
            garbage.push(chunk);
        }
    }

    /// Brings the chunks into shape after a commit. It only ever makes the log cheaper.
    pub(super) fn tidy(&mut self, garbage: &mut Vec<Chunk>) {
        self.trim_front(garbage);
        self.merge_back(garbage);
        let needed = self.chunks.len().max(CHUNKS_SPARE);
        if self.chunks.capacity() > 2 * needed {
            self.chunks.shrink_to(needed + needed / 2);
        }
    }

    /// Copies what is left of the first chunk once that is less than half of it, so that one
    /// record does not hold on to the megabytes that came with it.
    fn trim_front(&mut self, garbage: &mut Vec<Chunk>) {
        let Some(front) = self.chunks.front_mut() else { return };
        let kept = self.bounds.first.since(front.first) as usize..front.records.count();
        let bytes = front.records.slice(kept.clone()).byte_len();
        if kept.start == 0 || bytes * 2 >= front.bytes() {
            return;
        }
        let before = front.cost();
        let mut builder = ChunkBuilder::new(front.latest, kept.len(), bytes);
        builder.extend(front, kept);
        let Some(trimmed) = builder.finish() else { return };
        self.bytes = self.bytes - before + trimmed.cost();
        garbage.push(std::mem::replace(front, trimmed));
    }

    /// Joins small chunks at the end, so that messages committed one by one do not cost a chunk
    /// each. A chunk is joined with what follows it once that is half as large as itself: then
    /// the ones left shrink geometrically, few at any time, and a record moves a few times at
    /// most before its chunk is full.
    fn merge_back(&mut self, garbage: &mut Vec<Chunk>) {
        let (mut from, mut bytes, mut records) = (self.chunks.len(), 0, 0);
        for (at, chunk) in self.chunks.iter().enumerate().rev() {
            let joins = from == self.chunks.len() || chunk.bytes() <= 2 * bytes;
            if !joins || bytes + chunk.bytes() > MERGED_BYTES_MAX {
                break;
            }
            (from, bytes, records) = (at, bytes + chunk.bytes(), records + chunk.records.count());
        }
        if self.chunks.len() - from < 2 {
            return;
        }
        let latest = self.chunks.back().map_or(Timestamp(0), |last| last.latest);
        let mut builder = ChunkBuilder::new(latest, records, bytes);
        for chunk in self.chunks.drain(from..) {
            self.bytes -= chunk.cost();
            builder.extend(&chunk, 0..chunk.records.count());
            garbage.push(chunk);
        }
        if let Some(merged) = builder.finish() {
            self.bytes += merged.cost();
            self.chunks.push_back(merged);
        }
    }

    /// The records from `from`, which is one of the log's, as far as `limits` go.
    pub(super) fn read(&self, from: Offset, limits: ReadLimits) -> Vec<RecordBatch> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let ReadLimits { records: mut records_left, bytes: mut bytes_left } = limits;
        let start = self.chunks.partition_point(|chunk| chunk.end() <= from);
        for chunk in self.chunks.range(start..) {
            for (run, time) in chunk.runs() {
                let start = run.start.max(from.since(chunk.first) as usize);
                if start >= run.end {
                    continue;
                }
                let wanted = records_left.min(run.end - start);
                let count = chunk.records.fitting(start, wanted, bytes_left);
                let records = chunk.records.slice(start..start + count);
                let too_large = !batches.is_empty() && records.byte_len() > bytes_left;
                if count == 0 || too_large {
                    return batches;
                }
                records_left -= count;
                bytes_left = bytes_left.saturating_sub(records.byte_len());
                batches.push(RecordBatch { first: chunk.first.plus(start as u64), time, records });
                if start + count < run.end {
                    return batches;
                }
            }
        }
        batches
    }

    /// The lowest offset whose record's time is `time` or later; else the end.
    pub(super) fn offset_at(&self, time: Timestamp) -> Offset {
        // Before the first chunk whose latest time so far is late enough there is nothing. It is
        // the one, unless what made it so was truncated.
        let start = self.chunks.partition_point(|chunk| chunk.latest < time);
        for chunk in self.chunks.range(start..) {
            for (run, at) in chunk.runs() {
                let end = chunk.first.plus(run.end as u64);
                if at >= time && end > self.bounds.first {
                    return chunk.first.plus(run.start as u64).max(self.bounds.first);
                }
            }
        }
        self.bounds.end
    }
}

/// Records that are kept together, in two allocations of exactly their size.
#[derive(Debug)]
pub(super) struct Chunk {
    first: Offset,
    records: Records,
    /// The time of the first record.
    time: Timestamp,
    /// From which record on another time holds, and which.
    later: Vec<(u32, Timestamp)>,
    /// The latest time of any record in this chunk and in all that came before it.
    latest: Timestamp,
}

impl Chunk {
    fn end(&self) -> Offset {
        self.first.plus(self.records.count() as u64)
    }

    fn bytes(&self) -> usize {
        self.records.byte_len()
    }

    fn cost(&self) -> u64 {
        CHUNK_BYTES + (self.bytes() + self.later.len() * TIME_BYTES) as u64
    }

    /// The stretches of records that share a time, in order.
    fn runs(&self) -> impl Iterator<Item = (Range<usize>, Timestamp)> + '_ {
        let starts = std::iter::once((0, self.time))
            .chain(self.later.iter().map(|&(start, time)| (start as usize, time)));
        let ends = self.later.iter().map(|&(start, _)| start as usize);
        let ends = ends.chain(std::iter::once(self.records.count()));
        starts.zip(ends).map(|((start, time), end)| (start..end, time))
    }
}

/// Makes one chunk of parts of others that follow each other.
struct ChunkBuilder {
    first: Option<(Offset, Timestamp)>,
    records: RecordsBuilder,
    later: Vec<(u32, Timestamp)>,
    latest: Timestamp,
}

impl ChunkBuilder {
    /// For so many records of so many bytes, tables included.
    fn new(latest: Timestamp, records: usize, bytes: usize) -> Self {
        let payload_bytes = bytes - records * TABLE_ENTRY_BYTES;
        let records = RecordsBuilder::with_capacity(records, payload_bytes);
        Self { first: None, records, later: Vec::new(), latest }
    }

    fn extend(&mut self, chunk: &Chunk, range: Range<usize>) {
        for (run, time) in chunk.runs() {
            let (start, end) = (run.start.max(range.start), run.end.min(range.end));
            if start >= end {
                continue;
            }
            let (_, opening) =
                *self.first.get_or_insert_with(|| (chunk.first.plus(start as u64), time));
            let last = self.later.last().map_or(opening, |&(_, time)| time);
            if last != time {
                self.later.push((self.records.count() as u32, time));
            }
            self.records.extend(&chunk.records.slice(start..end));
        }
    }

    fn finish(mut self) -> Option<Chunk> {
        let (first, time) = self.first?;
        self.later.shrink_to_fit();
        let records = self.records.finish();
        Some(Chunk { first, records, time, later: self.later, latest: self.latest })
    }
}

/// A log of its own: its place in the map at the map's lowest load, the name's allocation, and
/// room for its first chunks.
const LOG_BYTES: u64 = 512;
/// A chunk beside its records: 120 bytes in a deque that is half empty at worst, and what two
/// shared allocations cost.
const CHUNK_BYTES: u64 = 384;
/// An entry of [`Chunk::later`].
const TIME_BYTES: usize = size_of::<(u32, Timestamp)>();
/// Small chunks are joined up to this size. At 100 bytes a message the chunk's own cost is then
/// below three bytes for each of them; larger ones would move more bytes than that saves, and
/// hold on to more when a reader keeps one record.
const MERGED_BYTES_MAX: usize = 16 << 10;
/// So many chunks' room stays with a log that was emptied.
const CHUNKS_SPARE: usize = 4;
