//! Records of a log that are kept together in memory.

use std::ops::Range;

use ltq_core::{Offset, RecordBatch, Records, RecordsBuilder, Timestamp};

/// Records that are kept together, in two allocations of exactly their size. What was discarded
/// between them is not there.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) first: Offset,
    end: Offset,
    records: Records,
    /// The time of the first record.
    time: Timestamp,
    /// From which record on another time holds, and which.
    later: Vec<(u32, Timestamp)>,
    /// Before which record offsets are left out, and how many.
    gaps: Vec<(u32, u32)>,
    /// The latest time of any record in this chunk and in all that came before it.
    pub(super) latest: Timestamp,
}

/// Records in a row that share a time: the offset of the first, and which of a chunk's they are.
pub(super) type Piece = (Offset, Range<usize>, Timestamp);

impl Chunk {
    pub(super) fn new(first: Offset, records: Records, time: Timestamp, latest: Timestamp) -> Self {
        let end = first.plus(records.count() as u64);
        Self { first, end, records, time, later: Vec::new(), gaps: Vec::new(), latest }
    }

    /// The offset behind the last record.
    pub(super) const fn end(&self) -> Offset {
        self.end
    }

    pub(super) fn bytes(&self) -> usize {
        self.records.byte_len()
    }

    /// What it takes. A large one counts as what it would be in parts, so that taking it apart
    /// never makes the log more expensive.
    pub(super) fn cost(&self) -> u64 {
        Self::cost_of(&self.records)
            + (self.later.len() * TIME_BYTES + self.gaps.len() * GAP_BYTES) as u64
    }

    /// What a chunk of these records takes, all of one time and without gaps.
    pub(super) fn cost_of(records: &Records) -> u64 {
        let bytes = records.byte_len();
        let parts = if bytes <= PART_BYTES_MAX || records.count() == 1 {
            1
        } else {
            // Of two neighbours among them at least one is more than half full.
            1 + bytes / (PART_BYTES_MAX / 2)
        };
        CHUNK_BYTES * parts as u64 + bytes as u64
    }

    /// Its records in order, in as few pieces as times and gaps allow.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let (mut times, mut gaps) = (self.later.iter().peekable(), self.gaps.iter().peekable());
        let (mut at, mut offset, mut time) = (0, self.first, self.time);
        std::iter::from_fn(move || {
            let here = |place: u32| place as usize <= at;
            if let Some(&(_, next)) = times.next_if(|&&(place, _)| here(place)) {
                time = next;
            }
            if let Some(&(_, skipped)) = gaps.next_if(|&&(place, _)| here(place)) {
                offset = offset.plus(u64::from(skipped));
            }
            let time_end = times.peek().map_or(usize::MAX, |&&(place, _)| place as usize);
            let gap_end = gaps.peek().map_or(usize::MAX, |&&(place, _)| place as usize);
            let end = self.records.count().min(time_end).min(gap_end);
            if at >= end {
                return None;
            }
            let piece = (offset, at..end, time);
            offset = offset.plus((end - at) as u64);
            at = end;
            Some(piece)
        })
    }

    /// The records of a range of offsets, as batches.
    pub(super) fn batches(&self, range: Range<Offset>) -> impl Iterator<Item = RecordBatch> + '_ {
        self.pieces().filter_map(move |(first, places, time)| {
            let start = places.start + range.start.since(first) as usize;
            let end = places.end.min(places.start.saturating_add(range.end.since(first) as usize));
            (start < end).then(|| RecordBatch {
                first: first.max(range.start),
                time,
                records: self.records.slice(start..end),
            })
        })
    }

    /// How many bytes the records of a range of offsets take.
    pub(super) fn bytes_in(&self, range: Range<Offset>) -> usize {
        self.batches(range).map(|batch| batch.records.byte_len()).sum()
    }
}

/// The chunk of these records, at least one, which are in order and within [`GAP_MAX`] of each
/// other. `latest` is the latest time of theirs and of all before them.
pub(super) fn joined(batches: &[RecordBatch], latest: Timestamp) -> Option<Chunk> {
    let RecordBatch { first, time, .. } = *batches.first()?;
    let count = batches.iter().map(|batch| batch.records.count()).sum();
    let payload_bytes = batches.iter().map(|batch| batch.records.payload().len()).sum();
    let mut records = RecordsBuilder::with_capacity(count, payload_bytes);
    let (mut later, mut gaps) = (Vec::new(), Vec::new());
    let (mut end, mut last_time) = (first, time);
    for batch in batches {
        let place = records.count() as u32;
        if batch.time != last_time {
            later.push((place, batch.time));
        }
        if batch.first != end {
            gaps.push((place, batch.first.since(end) as u32));
        }
        (end, last_time) = (batch.end(), batch.time);
        records.extend(&batch.records);
    }
    later.shrink_to_fit();
    gaps.shrink_to_fit();
    Some(Chunk { first, end, records: records.finish(), time, later, gaps, latest })
}

/// A chunk beside its records: 152 bytes in a deque that is half empty at worst, and what two
/// shared allocations cost.
const CHUNK_BYTES: u64 = 448;
/// An entry of [`Chunk::later`].
const TIME_BYTES: usize = size_of::<(u32, Timestamp)>();
/// An entry of [`Chunk::gaps`]; less than the smallest record, which it replaces.
pub(super) const GAP_BYTES: usize = size_of::<(u32, u32)>();
/// A chunk of which something is discarded is cut into such parts, so that discarding more of it
/// moves at most so much.
pub(super) const PART_BYTES_MAX: usize = 64 << 10;
/// The most offsets that can be left out between two records of a chunk.
pub(super) const GAP_MAX: u64 = u32::MAX as u64;
