//! One log as readers see it: what of it is in memory, in segments, and lost.

use std::{ops::Range, sync::Arc};

use ltq_core::{
    Bounds, LogName, LogOptions, Offset, ReadLimits, RecordBatch, Records, StoreError, Timestamp,
};

use super::{
    index::SegmentIndex,
    segments::SegmentKey,
    tail::{Chunk, NOT_IN_JOURNAL, Tail},
};
use crate::stretches::Stretches;

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: u64,
    pub(super) options: LogOptions,
    pub(super) bounds: Bounds,
    /// Oldest first; without overlaps.
    pub(super) segments: Vec<Segment>,
    /// Oldest first; without overlaps.
    pub(super) holes: Vec<Hole>,
    /// What was discarded behind the first record.
    pub(super) discarded: Stretches,
    pub(super) tail: Tail,
    /// What lies before is in segments, holes or discarded, so that memory can give it up. It lies
    /// in no discarded stretch itself, unless at its end.
    pub(super) spilled_end: Offset,
}

/// A file that holds records of a log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: Offset,
    pub(super) end: Offset,
    /// How often its records were written anew.
    pub(super) rewrite: u32,
    /// How much of the file counts.
    pub(super) bytes: u64,
    /// The latest time of any record in it.
    pub(super) time_max: Timestamp,
    /// Where its blocks are; read from the file when first needed.
    pub(super) index: Option<Arc<SegmentIndex>>,
}

impl Segment {
    /// Which file it is, of a log of that id.
    pub(super) const fn key(&self, log: u64) -> SegmentKey {
        SegmentKey { log, first: self.first, rewrite: self.rewrite }
    }
}

/// Records that were found damaged when the journal was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) from: Offset,
    pub(super) until: Offset,
    pub(super) file: Arc<str>,
    pub(super) position: u64,
    pub(super) what: Arc<str>,
}

/// Where a record is.
#[derive(Debug)]
pub(super) enum Found {
    /// Here are records from it on.
    Memory(Vec<RecordBatch>),
    /// In this segment.
    Segment(Segment),
    /// Nowhere.
    Hole(Hole),
}

impl Log {
    pub(super) fn new(id: u64, options: LogOptions, first: Offset) -> Self {
        Self {
            id,
            options,
            bounds: Bounds { first, end: first },
            segments: Vec::new(),
            holes: Vec::new(),
            discarded: Stretches::default(),
            tail: Tail::default(),
            spilled_end: first,
        }
    }

    /// Adds records at the end.
    pub(super) fn append(&mut self, time: Timestamp, records: Records, file: u64) {
        let file = if self.options.durable { file } else { NOT_IN_JOURNAL };
        let chunk = Chunk::new(self.bounds.end, time, records, file);
        self.bounds.end = chunk.end();
        // When the journal is read, what was discarded since may be known already.
        if !self.discarded.covers(&(chunk.first..chunk.end())) {
            self.tail.push(chunk);
        }
        self.pass_discarded();
    }

    /// Gives up what lies before `before`. Returns the segments that nothing needs any more.
    pub(super) fn truncate(&mut self, before: Offset) -> Vec<Segment> {
        if before <= self.bounds.first {
            return Vec::new();
        }
        self.bounds.first = before;
        self.spilled_end = self.spilled_end.max(before);
        // What comes next may be discarded already.
        let wanted_from = self.discarded.end_at(before).unwrap_or(before);
        self.tail.drop_before(wanted_from);
        self.holes.retain(|hole| hole.until > before);
        self.discarded.drop_before(before);
        self.pass_discarded();
        let gone = self.segments.partition_point(|segment| segment.end <= wanted_from);
        self.segments.drain(..gone).collect()
    }

    /// Gives up what lies from `from` to `until`. Returns the segments that nothing needs any more.
    pub(super) fn discard(&mut self, from: Offset, until: Offset) -> Vec<Segment> {
        self.discarded.insert(from.max(self.bounds.first)..until);
        let Self { discarded, .. } = self;
        let Some(all) = discarded.stretch_at(from.max(self.bounds.first)) else {
            return Vec::new();
        };
        self.tail.drop_inside(&all);
        self.holes.retain(|hole| hole.from < all.start || hole.until > all.end);
        self.pass_discarded();
        let first = self.bounds.first;
        // Of the oldest segment some may have been truncated.
        let start = if all.start <= first { Offset::ZERO } else { all.start };
        let inside = |segment: &mut Segment| segment.first >= start && segment.end <= all.end;
        self.segments.extract_if(.., inside).collect()
    }

    /// Whether a segment holds anything of a range, wanted or not.
    pub(super) fn has_segment_in(&self, range: Range<Offset>) -> bool {
        let at = self.segments.partition_point(|segment| segment.end <= range.start);
        self.segments.get(at).is_some_and(|segment| segment.first < range.end)
    }

    /// Whether a segment holds anything that was neither truncated nor discarded.
    pub(super) fn wants(&self, segment: &Segment) -> bool {
        let first = segment.first.max(self.bounds.first);
        first < segment.end && !self.discarded.covers(&(first..segment.end))
    }

    /// Goes on from what was discarded: memory need not keep it.
    pub(super) fn pass_discarded(&mut self) {
        if let Some(until) = self.discarded.end_at(self.spilled_end) {
            self.spilled_end = until.min(self.bounds.end);
        }
    }

    /// What it takes in memory: its newest records, and what is known of discarded ones.
    pub(super) fn cost(&self) -> (u64, u64) {
        (self.tail.cost(), self.discarded.len() as u64 * STRETCH_COST_BYTES)
    }

    /// Bytes of its segment files.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Checks an offset that is to be read: whether it has a record.
    pub(super) fn check_from(&self, log: &LogName, from: Offset) -> Result<(), StoreError> {
        let bounds = self.bounds;
        if from < bounds.first || from > bounds.end {
            return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
        }
        match self.discarded.end_at(from) {
            Some(until) if from < bounds.end => {
                let until = until.min(bounds.end);
                Err(StoreError::Discarded { log: log.clone(), from, until })
            }
            _ => Ok(()),
        }
    }

    /// The records from `from`, which lies between the bounds and was not discarded, or where they
    /// are.
    pub(super) fn find(&self, from: Offset, limits: ReadLimits) -> Found {
        let limits = self.kept(from, limits);
        if from >= self.bounds.end || limits.records == 0 {
            return Found::Memory(Vec::new());
        }
        if let Some(batches) = self.tail.read(from, limits) {
            return Found::Memory(batches);
        }
        if let Some(hole) = self.hole_at(from) {
            return Found::Hole(hole.clone());
        }
        let at = self.segments.partition_point(|segment| segment.end <= from);
        match self.segments.get(at) {
            Some(segment) if segment.first <= from => {
                let mut segment = segment.clone();
                // What is known to be lost, or was given up, is not looked for.
                let lost = self.holes.iter().find(|hole| hole.from > from).map(|hole| hole.from);
                let missing = lost.into_iter().chain(self.discarded.next_behind(from));
                segment.end = missing.fold(segment.end, Offset::min);
                Found::Segment(segment)
            }
            next => Found::Hole(Hole {
                from,
                until: self.next_known(from, next),
                file: Arc::from("the log's segments"),
                position: 0,
                what: Arc::from("no file holds them"),
            }),
        }
    }

    /// The lowest offset in memory, at or behind `from`, whose record's time is `time` or later;
    /// else the end.
    pub(super) fn offset_in_tail(&self, mut from: Offset, time: Timestamp) -> Offset {
        while let Some(found) = self.tail.offset_at(from, time) {
            let Some(until) = self.discarded.end_at(found) else { return found };
            from = until;
        }
        self.bounds.end
    }

    /// The limits of a read, so that it ends before what was discarded.
    pub(super) fn kept(&self, from: Offset, limits: ReadLimits) -> ReadLimits {
        let left = self.discarded.next_behind(from).map_or(u64::MAX, |next| next.since(from));
        let records = limits.records.min(usize::try_from(left).unwrap_or(usize::MAX));
        ReadLimits { records, ..limits }
    }

    fn hole_at(&self, from: Offset) -> Option<&Hole> {
        let at = self.holes.partition_point(|hole| hole.until <= from);
        self.holes.get(at).filter(|hole| hole.from <= from)
    }

    fn next_known(&self, from: Offset, segment: Option<&Segment>) -> Offset {
        let chunk = self.tail.from(from).next().map(|chunk| chunk.first);
        let segment = segment.map(|segment| segment.first);
        chunk.into_iter().chain(segment).min().unwrap_or(self.bounds.end)
    }

    /// Whether this part of the memory's tail must be written before memory can give it up.
    pub(super) fn unspilled(&self) -> impl Iterator<Item = &Chunk> + '_ {
        self.tail.from(self.spilled_end)
    }

    /// Notes a hole behind what is known so far. The log then ends behind it.
    pub(super) fn push_hole(&mut self, hole: Hole) {
        self.bounds.end = self.bounds.end.max(hole.until);
        match self.holes.last_mut() {
            Some(last) if last.until == hole.from && last.file == hole.file => {
                last.until = hole.until;
            }
            _ => self.holes.push(hole),
        }
    }
}

impl Hole {
    /// The error for a reader at `from`, which lies in it.
    pub(super) fn error(&self, log: &LogName, from: Offset) -> StoreError {
        StoreError::Damaged {
            log: log.clone(),
            from,
            until: self.until,
            file: self.file.as_ref().to_owned(),
            position: self.position,
            what: self.what.as_ref().to_owned(),
        }
    }
}

/// What a discarded stretch takes in memory: its two offsets, in a tree whose nodes are half full.
const STRETCH_COST_BYTES: u64 = 40;
