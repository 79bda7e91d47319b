//! One log in memory: its records in chunks, oldest first.

use std::{collections::VecDeque, ops::Range};

use ltq_core::{
    Bounds, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch, Records, Timestamp,
};

use super::chunk::{Chunk, GAP_BYTES, GAP_MAX, PART_BYTES_MAX, joined};
use crate::stretches::Stretches;

/// A log's records, and what they cost.
#[derive(Debug)]
pub(super) struct Log {
    options: LogOptions,
    bounds: Bounds,
    /// What is in none of them was discarded. The first one may begin before the log does.
    chunks: VecDeque<Chunk>,
    /// What the batch at hand discards, until the chunks are brought into shape.
    discards: Stretches,
    /// The cost of all chunks and of the log itself.
    bytes: u64,
}

impl Log {
    pub(super) fn new(name: &LogName, options: LogOptions, first: Offset) -> Self {
        Self {
            options,
            bounds: Bounds { first, end: first },
            chunks: VecDeque::new(),
            discards: Stretches::default(),
            bytes: Self::empty_cost(name),
        }
    }

    /// What an empty log of this name costs.
    pub(super) fn empty_cost(name: &LogName) -> u64 {
        LOG_BYTES + name.as_str().len() as u64
    }

    /// The most that appending these records adds to what the log costs.
    pub(super) fn append_cost(records: &Records) -> u64 {
        Chunk::cost_of(records)
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

    /// What truncating and discarding would certainly give back.
    pub(super) fn freed_by(&self, before: Offset, discards: &Stretches) -> u64 {
        let truncated = self.chunks.iter().take_while(|chunk| chunk.end() <= before);
        let mut freed = truncated.map(Chunk::cost).sum::<u64>();
        for discarded in discards.iter() {
            let discarded = discarded.start.max(before)..discarded.end;
            for chunk in self.touched(&discarded) {
                let whole = discarded.start <= chunk.first && chunk.end() <= discarded.end;
                freed += if whole {
                    chunk.cost()
                } else {
                    (chunk.bytes_in(discarded.clone()) as u64).saturating_sub(GAP_BYTES as u64)
                };
            }
        }
        freed
    }

    /// The chunks of which a range of offsets may hold something.
    fn touched(&self, range: &Range<Offset>) -> impl Iterator<Item = &Chunk> {
        let start = self.chunks.partition_point(|chunk| chunk.end() <= range.start);
        let end = range.end;
        self.chunks.range(start..).take_while(move |chunk| chunk.first < end)
    }

    pub(super) fn append(&mut self, time: Timestamp, records: Records) {
        let latest = self.chunks.back().map_or(time, |last| last.latest.max(time));
        let chunk = Chunk::new(self.bounds.end, records, time, latest);
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

    /// Gives up what lies from `from` to `until`, once the chunks are brought into shape.
    pub(super) fn discard(&mut self, from: Offset, until: Offset) {
        self.discards.insert(from..until);
    }

    /// Brings the chunks into shape after a commit. It only ever makes the log cheaper.
    pub(super) fn tidy(&mut self, garbage: &mut Vec<Chunk>) {
        self.cut_out(garbage);
        self.trim_front(garbage);
        self.merge_back(garbage);
        let needed = self.chunks.len().max(CHUNKS_SPARE);
        if self.chunks.capacity() > 2 * needed {
            self.chunks.shrink_to(needed + needed / 2);
        }
    }

    /// Takes out what was discarded. What is left is copied, in parts of some size, with the
    /// neighbours that are small, so that few records do not cost a chunk each.
    fn cut_out(&mut self, garbage: &mut Vec<Chunk>) {
        let discards = std::mem::take(&mut self.discards);
        let Some(from) = discards.iter().next().map(|first| first.start) else { return };
        let touched = self.chunks.partition_point(|chunk| chunk.end() <= from);
        // The one before may have become small by then.
        let rest = self.chunks.split_off(touched.saturating_sub(1));
        let mut kept = Kept::default();
        for chunk in rest {
            let span = chunk.first.max(self.bounds.first)..chunk.end();
            let touched = discards.touches(&span);
            if touched || chunk.bytes() * 2 <= MERGED_BYTES_MAX {
                self.bytes -= chunk.cost();
                for part in discards.outside(span) {
                    for batch in chunk.batches(part) {
                        self.bytes += kept.push(batch, chunk.latest, &mut self.chunks);
                    }
                }
                garbage.push(chunk);
            } else {
                self.bytes += kept.flush(&mut self.chunks);
                self.chunks.push_back(chunk);
            }
        }
        self.bytes += kept.flush(&mut self.chunks);
    }

    /// Copies what is left of the first chunk once that is less than half of it, so that one
    /// record does not hold on to the megabytes that came with it.
    fn trim_front(&mut self, garbage: &mut Vec<Chunk>) {
        let first = self.bounds.first;
        let Some(front) = self.chunks.front_mut().filter(|front| front.first < first) else {
            return;
        };
        let left = first..front.end();
        if front.bytes_in(left.clone()) * 2 >= front.bytes() {
            return;
        }
        let batches: Vec<_> = front.batches(left).collect();
        let Some(trimmed) = joined(&batches, front.latest) else { return };
        self.bytes = self.bytes - front.cost() + trimmed.cost();
        garbage.push(std::mem::replace(front, trimmed));
    }

    /// Joins small chunks at the end, so that messages committed one by one do not cost a chunk
    /// each. A chunk is joined with what follows it once that is half as large as itself: then
    /// the ones left shrink geometrically, few at any time, and a record moves a few times at
    /// most before its chunk is full.
    fn merge_back(&mut self, garbage: &mut Vec<Chunk>) {
        let (mut from, mut bytes) = (self.chunks.len(), 0);
        let mut next = self.bounds.end;
        for (at, chunk) in self.chunks.iter().enumerate().rev() {
            let last = from == self.chunks.len();
            let joins = last || (chunk.bytes() <= 2 * bytes && next.since(chunk.end()) <= GAP_MAX);
            if !joins || bytes + chunk.bytes() > MERGED_BYTES_MAX {
                break;
            }
            (from, bytes, next) = (at, bytes + chunk.bytes(), chunk.first);
        }
        if self.chunks.len() - from < 2 {
            return;
        }
        let latest = self.chunks.back().map_or(Timestamp(0), |last| last.latest);
        let mut batches = Vec::with_capacity(self.chunks.len() - from);
        for chunk in self.chunks.drain(from..) {
            self.bytes -= chunk.cost();
            batches.extend(chunk.batches(chunk.first..chunk.end()));
            garbage.push(chunk);
        }
        if let Some(merged) = joined(&batches, latest) {
            self.bytes += merged.cost();
            self.chunks.push_back(merged);
        }
    }

    /// The records from `from`, which lies between the bounds, as far as `limits` go; where the
    /// record was discarded, the first offset behind it whose record was not.
    pub(super) fn read(
        &self,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, Offset> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let ReadLimits { records: mut records_left, bytes: mut bytes_left } = limits;
        let mut next = from;
        for chunk in self.touched(&(from..self.bounds.end)) {
            for batch in chunk.batches(from..chunk.end()) {
                if batch.first != next {
                    return if next == from { Err(batch.first) } else { Ok(batches) };
                }
                let count = batch.records.fitting(0, records_left, bytes_left);
                let records = batch.records.slice(0..count);
                let too_large = !batches.is_empty() && records.byte_len() > bytes_left;
                if count == 0 || too_large {
                    return Ok(batches);
                }
                records_left -= count;
                bytes_left = bytes_left.saturating_sub(records.byte_len());
                let whole = count == batch.records.count();
                next = batch.end();
                batches.push(RecordBatch { records, ..batch });
                if !whole {
                    return Ok(batches);
                }
            }
        }
        if next == from && from < self.bounds.end { Err(self.bounds.end) } else { Ok(batches) }
    }

    /// The lowest offset whose record's time is `time` or later; else the end.
    pub(super) fn offset_at(&self, time: Timestamp) -> Offset {
        // Before the first chunk whose latest time so far is late enough there is nothing. It is
        // the one, unless what made it so is gone.
        let start = self.chunks.partition_point(|chunk| chunk.latest < time);
        let chunks = self.chunks.range(start..);
        let mut batches =
            chunks.flat_map(|chunk| chunk.batches(self.bounds.first.max(chunk.first)..chunk.end()));
        let found = batches.find(|batch| batch.time >= time);
        found.map_or(self.bounds.end, |batch| batch.first)
    }
}

/// What is left of chunks of which something was discarded, on its way into new ones.
#[derive(Default)]
struct Kept {
    batches: Vec<RecordBatch>,
    bytes: usize,
    latest: Timestamp,
}

impl Kept {
    /// Adds records behind those before. Returns what the chunks cost that it made meanwhile.
    fn push(
        &mut self,
        mut batch: RecordBatch,
        latest: Timestamp,
        into: &mut VecDeque<Chunk>,
    ) -> u64 {
        let mut cost = 0;
        while !batch.records.is_empty() {
            let end = self.batches.last().map_or(batch.first, RecordBatch::end);
            let left = PART_BYTES_MAX.saturating_sub(self.bytes);
            let count = batch.records.fitting(0, usize::MAX, left);
            let part = batch.slice(batch.first, batch.first.plus(count as u64));
            let bytes = part.records.byte_len();
            if !self.batches.is_empty() && (bytes > left || batch.first.since(end) > GAP_MAX) {
                cost += self.flush(into);
                continue;
            }
            batch = batch.slice(part.end(), batch.end());
            self.bytes += bytes;
            self.latest = self.latest.max(latest);
            self.batches.push(part);
        }
        cost
    }

    /// Makes a chunk of what there is. Returns what it costs.
    fn flush(&mut self, into: &mut VecDeque<Chunk>) -> u64 {
        let made = joined(&std::mem::take(&mut self.batches), self.latest);
        self.bytes = 0;
        let cost = made.as_ref().map_or(0, Chunk::cost);
        into.extend(made);
        cost
    }
}

/// A log of its own: its place in the map at the map's lowest load, the name's allocation, and
/// room for its first chunks.
const LOG_BYTES: u64 = 512;
/// Small chunks are joined up to this size. At 100 bytes a message the chunk's own cost is then
/// below three bytes for each of them; larger ones would move more bytes than that saves, and
/// hold on to more when a reader keeps one record.
const MERGED_BYTES_MAX: usize = 16 << 10;
/// So many chunks' room stays with a log that was emptied.
const CHUNKS_SPARE: usize = 4;
