//! Moves the oldest records from memory to segments.

use std::{cmp::Reverse, collections::BTreeSet, io, sync::Arc};

use ltq_core::{LogName, RecordBatch};

use super::{
    index::SegmentIndex,
    log::{Log, Segment},
    segments::{SegmentDir, SegmentKey, SegmentWriter},
    state::State,
    tail::Chunk,
};

/// Records of one log that are to be written to its segments.
#[derive(Debug)]
pub(super) struct Job {
    log: LogName,
    id: u64,
    last: Option<Segment>,
    batches: Vec<RecordBatch>,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Spilled {
    log: LogName,
    id: u64,
    segments: Vec<Segment>,
    pub(super) bytes_written: u64,
    /// What kept the rest from being written.
    pub(super) error: Option<io::Error>,
}

impl Job {
    /// The oldest records of a log that are only in memory, as long as `wanted` says so of their
    /// chunks. `None` when there are none.
    pub(super) fn collect(
        name: &LogName,
        log: &Log,
        mut wanted: impl FnMut(&Chunk) -> bool,
    ) -> Option<Self> {
        let from = log.spilled_end.max(log.bounds.first);
        let chunks = log.unspilled().take_while(|chunk| wanted(chunk));
        let batches = chunks.flat_map(|chunk| chunk.batches(from));
        let kept = |batch: RecordBatch| {
            let parts = log.discarded.outside(batch.first..batch.end());
            parts.map(move |part| batch.slice(part.start, part.end))
        };
        let batches: Vec<_> = batches.flat_map(kept).collect();
        (!batches.is_empty()).then(|| Self {
            log: name.clone(),
            id: log.id,
            last: log.segments.last().cloned(),
            batches,
        })
    }

    /// Begins a new segment if the last one is to be left as it is.
    pub(super) fn leaving(mut self, left: impl FnOnce(SegmentKey) -> bool) -> Self {
        let id = self.id;
        self.last = self.last.filter(|last| !left(last.key(id)));
        self
    }

    /// Writes them, without making them durable.
    pub(super) fn run(self, dir: &SegmentDir, segment_bytes: u64) -> Spilled {
        let Self { log, id, last, batches } = self;
        let last = last.map(|last| with_index(dir, id, last));
        let mut spilled = Spilled { log, id, segments: Vec::new(), bytes_written: 0, error: None };
        match SegmentWriter::new(dir, id, segment_bytes, last) {
            Ok(mut writer) => {
                let pushed = batches.into_iter().try_for_each(|batch| writer.push(batch));
                spilled.error = pushed.and_then(|()| writer.finish()).err();
                spilled.bytes_written = writer.bytes_written;
                spilled.segments = writer.into_segments();
            }
            Err(error) => spilled.error = Some(error),
        }
        spilled
    }
}

/// What is to be written so that all tails can be brought to `target` bytes.
pub(super) fn jobs_for_memory(state: &State, target: u64) -> Vec<Job> {
    let mut wanted = state.tail_cost().saturating_sub(target);
    let unspilled = |log: &Log| log.unspilled().map(Chunk::cost).sum::<u64>();
    let mut logs: Vec<_> =
        state.logs.iter().map(|(name, log)| (unspilled(log), name, log)).collect();
    // The largest first: they make large blocks, and few.
    logs.sort_unstable_by_key(|&(bytes, ..)| Reverse(bytes));
    let mut jobs = Vec::new();
    for (_, name, log) in logs {
        if wanted == 0 {
            break;
        }
        jobs.extend(Job::collect(name, log, |chunk| {
            let more = wanted > 0;
            wanted = wanted.saturating_sub(chunk.cost());
            more
        }));
    }
    jobs
}

/// The index of a segment that goes on where it ended before the store was opened. Without one the
/// segment is left as it is, and a new one begun.
fn with_index(dir: &SegmentDir, log: u64, mut segment: Segment) -> Segment {
    if segment.index.is_none() {
        let key = segment.key(log);
        let scanned =
            dir.open(key).and_then(|file| SegmentIndex::scan(&*file, dir.salt(key), segment.bytes));
        segment.index = scanned.ok().map(Arc::new);
    }
    segment
}

impl Spilled {
    /// Lets readers find them there, so that memory can give them up.
    pub(super) fn register(self, state: &mut State, dirty: &mut BTreeSet<SegmentKey>, grown: u64) {
        dirty.extend(self.segments.iter().map(|segment| segment.key(self.id)));
        state.register(self.id, &self.log, self.segments, grown);
    }
}
