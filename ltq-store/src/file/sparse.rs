//! Finds the segments that are worth writing anew: of which much was discarded.
//!
//! What is wanted of a segment is counted in bytes, not guessed from the number of its records: a
//! block of which all or nothing is wanted is known by its size, and of another the table is read,
//! once for each time that something more of it was discarded.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use ltq_core::{LogName, Offset, StoreError};

use super::{
    block::{AROUND_BYTES_MAX, BLOCK_BYTES, BLOCK_HEADER_BYTES},
    format::HEADER_BYTES,
    log::Segment,
    reader::Source,
    segments::SegmentKey,
};

/// The segments of a log on the way through all of them.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) log: LogName,
    pub(super) id: u64,
    /// Those to be weighed.
    pub(super) left: VecDeque<Segment>,
    /// Neighbours that may be written into one.
    run: Vec<Weighed>,
}

/// A segment, and what is wanted of it.
#[derive(Clone, Debug)]
pub(super) struct Weighed {
    segment: Segment,
    weight: Weight,
}

/// Bytes of records that are wanted, tables included, and what they need beside that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    records: u64,
    more: u64,
}

/// What is wanted of blocks of which something was discarded, as long as no more of them is.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// By segment and by the block's position: how many records, and what they take.
    known: HashMap<SegmentKey, HashMap<u64, (u64, Weight)>>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Chosen {
    /// These, some neighbours, are to be written into one, of at most so many bytes.
    Job(Vec<Segment>, u64),
    /// There is more to be weighed.
    More,
    /// Everything was weighed.
    Nothing,
}

impl Look {
    pub(super) fn new(log: LogName, id: u64, segments: impl Iterator<Item = Segment>) -> Self {
        Self { log, id, left: segments.collect(), run: Vec::new() }
    }

    /// Takes in a segment, the next of those left; without a weight one that is to stay. A file
    /// is to have `limit` bytes at most; one of a sixteenth of `segment_bytes` is small.
    pub(super) fn push(
        &mut self,
        segment: Segment,
        weight: Option<Weight>,
        limit: u64,
        segment_bytes: u64,
    ) -> Chosen {
        let weighed = weight.map(|weight| Weighed { segment: segment.clone(), weight });
        let weighed = weighed.filter(|it| it.is_sparse() || it.is_small(segment_bytes));
        let mut total = sum(&self.run);
        let Some(weighed) = weighed else { return self.choose(segment_bytes) };
        total.add(weighed.weight);
        if !self.run.is_empty() && total.file_bytes() > limit {
            // It begins the next run.
            self.left.push_front(segment);
            return self.choose(segment_bytes);
        }
        self.run.push(weighed);
        if self.left.is_empty() { self.choose(segment_bytes) } else { Chosen::More }
    }

    /// The job that the run at hand makes, if any.
    fn choose(&mut self, segment_bytes: u64) -> Chosen {
        let run = std::mem::take(&mut self.run);
        let job = |part: &[Weighed]| {
            let segments = part.iter().map(|it| it.segment.clone()).collect();
            Chosen::Job(segments, sum(part).file_bytes())
        };
        let small = run.iter().filter(|it| it.is_small(segment_bytes)).count();
        if is_worth(&run) || (small >= SMALL_MAX && small == run.len()) {
            return job(&run);
        }
        // Neighbours of which much is wanted may have spoilt it.
        let mut parts = run.split(|it| !it.is_sparse());
        match parts.find(|part| is_worth(part)) {
            Some(part) => job(part),
            None if self.left.is_empty() => Chosen::Nothing,
            None => Chosen::More,
        }
    }
}

impl Weighed {
    /// Whether too little of the file is wanted.
    fn is_sparse(&self) -> bool {
        is_sparse(self.segment.bytes, self.weight)
    }

    fn is_small(&self, segment_bytes: u64) -> bool {
        self.segment.bytes <= segment_bytes / 16
    }
}

impl Weight {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.more += other.more;
    }

    /// What a file of these records takes, at most.
    fn file_bytes(self) -> u64 {
        let blocks = 1 + (self.records + self.more) / (BLOCK_BYTES as u64 / 2);
        HEADER_BYTES as u64 + self.records + self.more + blocks * AROUND_BYTES_MAX
    }
}

fn sum(run: &[Weighed]) -> Weight {
    let mut total = Weight::default();
    run.iter().for_each(|it| total.add(it.weight));
    total
}

/// Whether less of so many bytes is wanted than files may keep.
const fn is_sparse(bytes: u64, wanted: Weight) -> bool {
    bytes / 16 * WANTED_SIXTEENTHS > wanted.records
}

/// Whether writing these into one file gives back what is asked for: too little is wanted, and a
/// quarter is given back even when the records are so small that much is needed beside them.
fn is_worth(run: &[Weighed]) -> bool {
    let bytes: u64 = run.iter().map(|it| it.segment.bytes).sum();
    let total = sum(run);
    is_sparse(bytes, total) && bytes / 4 * 3 >= total.file_bytes()
}

impl Weights {
    /// Weighs what is wanted of a segment: these ranges of offsets, in order. `None` when it is
    /// damaged.
    pub(super) fn weigh(
        &mut self,
        key: SegmentKey,
        source: &Source<'_>,
        wanted: &[Range<Offset>],
        end: Offset,
    ) -> Result<Option<Weight>, StoreError> {
        let mut total = Weight::default();
        for (block, end) in source.index().blocks(end) {
            let here = within(wanted, block.first, end);
            let count: u64 =
                here.iter().map(|it| it.end.min(end).since(it.start.max(block.first))).sum();
            if count == 0 {
                continue;
            }
            let table = u64::from(block.count) * ltq_core::TABLE_ENTRY_BYTES as u64;
            if count >= u64::from(block.count) {
                let records = block.payload_bytes + table;
                let more = block.meta_bytes - BLOCK_HEADER_BYTES as u64 - table;
                total.add(Weight { records, more });
                continue;
            }
            let known = self.known.entry(key).or_default();
            let weight = match known.get(&block.position) {
                Some(&(then, weight)) if then == count => weight,
                _ => {
                    let Some(meta) = source.load_meta(block)? else { return Ok(None) };
                    let (records, more) = meta.bytes_in(here);
                    let weight = Weight { records, more };
                    known.insert(block.position, (count, weight));
                    weight
                }
            };
            total.add(weight);
        }
        Ok(Some(total))
    }

    /// Forgets what is known of a log's segments, apart from these.
    pub(super) fn keep_only(&mut self, log: u64, keys: &[SegmentKey]) {
        self.known.retain(|key, _| key.log != log || keys.contains(key));
    }

    pub(super) fn forget(&mut self, key: SegmentKey) {
        self.known.remove(&key);
    }
}

/// Those of some ranges, in order, that hold an offset from `first` to `end`.
pub(super) fn within(ranges: &[Range<Offset>], first: Offset, end: Offset) -> &[Range<Offset>] {
    let from = ranges.partition_point(|it| it.end <= first);
    let until = ranges.partition_point(|it| it.start < end);
    ranges.get(from..until.max(from)).unwrap_or_default()
}

/// Segments of which less than this part is wanted are written anew, so that files take at most
/// 16/9 of what the store was not told to give up. Up to twice what is wanted then leaves room for
/// what it is told of late, up to an eighth of what is wanted and a quarter of a segment.
const WANTED_SIXTEENTHS: u64 = 9;
/// So many small files in a row are written into one whatever is wanted of them: each is open for
/// a moment when its log is read, and named in every checkpoint.
const SMALL_MAX: usize = 16;
