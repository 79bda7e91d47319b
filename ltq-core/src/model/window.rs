//! Records in memory between the store and the channels, and what is known of the log besides.

use std::time::Duration;

use super::{
    Command, LoadTicket,
    run_set::{Run, RunSet},
    settings::ModelSettings,
};
use crate::{Monotonic, Offset, ReadLimits, RecordBatch, StoreError};

/// Records that a channel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) from: Offset,
    /// How many it could use.
    pub(super) records: u64,
}

/// The loaded parts of one topic's log, shared by its channels.
#[derive(Debug, Default)]
pub(super) struct Window {
    segments: Vec<Segment>,
    bytes: usize,
    loads: Vec<OpenLoad>,
    last_ticket: u64,
    /// What the store could not read back.
    damaged: RunSet,
    /// What of the log was discarded.
    discarded: RunSet,
    /// Everything below is gone from the log, whether or not a channel was done with it.
    lost_below: Offset,
    retry_at: Option<Monotonic>,
    failures: u32,
    /// A channel has read past the end of a segment.
    passed: bool,
}

#[derive(Debug)]
struct Segment {
    run: Run,
    bytes: usize,
    batches: Vec<RecordBatch>,
    used: Monotonic,
    /// Straight from a commit: kept for one round of deliveries only.
    fresh: bool,
}

#[derive(Debug)]
struct OpenLoad {
    ticket: LoadTicket,
    run: Run,
}

impl Window {
    /// The batch that `offset` is in, and whether it is fresh from a commit.
    pub(super) fn find(&mut self, offset: Offset, now: Monotonic) -> Option<(&RecordBatch, bool)> {
        let segment = self
            .segments
            .iter_mut()
            .find(|segment| segment.run.first <= offset && offset < segment.run.end)?;
        segment.used = now;
        let behind = segment.batches.partition_point(|batch| batch.first <= offset);
        Some((segment.batches.get(behind.checked_sub(1)?)?, segment.fresh))
    }

    /// If the record at `offset` can never be read: the first one behind it that may.
    pub(super) fn unreadable_until(&self, offset: Offset) -> Option<Offset> {
        if offset < self.lost_below {
            return Some(self.lost_below);
        }
        self.damaged.covering(offset).map(|run| run.end)
    }

    /// What of the log is known to be discarded.
    pub(super) const fn discarded(&self) -> &RunSet {
        &self.discarded
    }

    /// A commit has discarded these records. As many runs are remembered as a channel may hold: what
    /// is forgotten may be discarded again, which changes nothing, and is asked for and refused
    /// again.
    pub(super) fn discard(&mut self, run: Run, settings: &ModelSettings) {
        remember(&mut self.discarded, run, settings.channel_runs_max);
    }

    /// If the record at `offset` was discarded: the first one behind it that may not be.
    pub(super) fn discarded_until(&self, offset: Offset) -> Option<Offset> {
        self.discarded.covering(offset).map(|run| run.end)
    }

    /// The part of a stretch, whose start is not discarded, in front of what is: records are still
    /// in memory that a channel made since would get once, and never again.
    pub(super) fn not_discarded(&self, stretch: Run) -> Run {
        let end = self.discarded.next_behind(stretch.first).unwrap_or(stretch.end);
        Run::new(stretch.first, end.min(stretch.end))
    }

    /// A channel that reads on from `at` has delivered loaded records: where the next load should
    /// begin, when less than half a segment is left.
    pub(super) fn runs_dry(&mut self, at: Offset) -> Option<Offset> {
        let (mut from, mut last) = (at, 0);
        while let Some(segment) =
            self.segments.iter().find(|s| s.run.first <= from && from < s.run.end)
        {
            from = segment.run.end;
            last = segment.run.len();
        }
        self.passed |= self.segments.iter().any(|s| s.run.end <= at);
        (from.since(at) * 2 <= last).then_some(from)
    }

    /// Keeps the records of a commit for the deliveries that follow at once.
    pub(super) fn add_fresh(&mut self, batches: Vec<RecordBatch>, now: Monotonic) {
        self.add(batches, now, true);
    }

    /// Asks for records, unless they are already asked for or it cannot be done now.
    pub(super) fn ask(&mut self, want: Want, settings: &ModelSettings) -> Option<Command> {
        let underway = self.loads.iter().any(|l| l.run.first <= want.from && want.from < l.run.end);
        if underway || self.loads.len() >= LOADS_OPEN_MAX || self.retry_at.is_some() {
            return None;
        }
        let records_max = (settings.load_bytes / BYTES_PER_RECORD_MIN).max(1) as u64;
        let records = want.records.clamp(1, records_max);
        self.last_ticket += 1;
        let ticket = LoadTicket(self.last_ticket);
        let run = Run::new(want.from, want.from.plus(records));
        self.loads.push(OpenLoad { ticket, run });
        let limits = ReadLimits { records: records as usize, bytes: settings.load_bytes };
        Some(Command::Load { ticket, from: want.from, limits })
    }

    /// A number for a question to the store that is not a load.
    pub(super) const fn ticket(&mut self) -> LoadTicket {
        self.last_ticket += 1;
        LoadTicket(self.last_ticket)
    }

    /// Takes in what the store answered.
    pub(super) fn loaded(
        &mut self,
        ticket: LoadTicket,
        result: Result<Vec<RecordBatch>, StoreError>,
        settings: &ModelSettings,
        now: Monotonic,
    ) {
        let Some(index) = self.loads.iter().position(|load| load.ticket == ticket) else { return };
        let from = self.loads.swap_remove(index).run.first;
        match result {
            Ok(batches) if consecutive(&batches, from) => self.add(batches, now, false),
            Err(StoreError::Damaged { from: at, until, .. }) if at == from && until > from => {
                remember(&mut self.damaged, Run::new(from, until), DAMAGED_RUNS_MAX);
            }
            Err(StoreError::Discarded { from: at, until, .. }) if at == from && until > from => {
                self.discard(Run::new(from, until), settings);
            }
            Err(StoreError::OutOfRange { bounds, .. }) if from < bounds.first => {
                self.lost_below = self.lost_below.max(bounds.first);
            }
            _ => {
                let pause = RETRY_MIN * 2u32.saturating_pow(self.failures.min(16));
                self.retry_at = Some(now.plus(pause.min(RETRY_MAX)));
                self.failures = self.failures.saturating_add(1);
                return;
            }
        }
        self.failures = 0;
    }

    /// The log begins at `first`, whatever the channels were told of it before.
    pub(super) fn lost_before(&mut self, first: Offset) {
        self.lost_below = self.lost_below.max(first);
    }

    /// The log begins at `first` now.
    pub(super) fn truncated(&mut self, first: Offset) {
        for set in [&mut self.damaged, &mut self.discarded] {
            while let Some(run) = set.pop_at_or_below(first) {
                if run.end > first {
                    set.insert(Run::new(first, run.end));
                    break;
                }
            }
        }
    }

    /// Drops what is not needed for longer than one round of deliveries. `lowest_cursor` says
    /// where the channel with consumers stands that is furthest behind; it is asked for only when
    /// the answer may matter.
    pub(super) fn trim(&mut self, window_bytes: usize, lowest_cursor: impl FnOnce() -> Offset) {
        if self.segments.is_empty() {
            return;
        }
        self.segments.retain(|segment| !segment.fresh);
        if self.passed && !self.segments.is_empty() {
            let lowest = lowest_cursor();
            self.segments.retain(|segment| segment.run.end > lowest);
        }
        self.passed = false;
        self.count_bytes();
        while (self.bytes > window_bytes || self.segments.len() > SEGMENTS_MAX)
            && let Some(oldest) = (0..self.segments.len())
                .min_by_key(|&index| self.segments.get(index).map(|segment| segment.used))
        {
            self.segments.remove(oldest);
            self.count_bytes();
        }
    }

    /// When something here waits for time: the end of a pause after a failed read, or of the time
    /// for which unused records are kept.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let unused = self.segments.iter().map(|segment| segment.used.plus(UNUSED_KEPT)).min();
        match (unused, self.retry_at) {
            (Some(unused), Some(retry)) => Some(unused.min(retry)),
            (one, other) => one.or(other),
        }
    }

    /// Lets go of what was not used lately, and says whether reads may be tried again.
    pub(super) fn handle_timeout(&mut self, now: Monotonic) -> bool {
        self.segments.retain(|segment| segment.used.plus(UNUSED_KEPT) > now);
        self.count_bytes();
        let retry = self.retry_at.is_some_and(|at| at <= now);
        if retry {
            self.retry_at = None;
        }
        retry
    }

    /// Whether it holds no records and awaits none.
    pub(super) const fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.loads.is_empty()
    }

    /// Whether a read failed lately.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) const fn waits_to_retry(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Bytes of records kept.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn add(&mut self, batches: Vec<RecordBatch>, now: Monotonic, fresh: bool) {
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return };
        let run = Run::new(first.first, last.end());
        let bytes = batches.iter().map(|b| b.records.byte_len() + size_of::<RecordBatch>()).sum();
        self.bytes += bytes;
        self.segments.push(Segment { run, bytes, batches, used: now, fresh });
    }

    fn count_bytes(&mut self) {
        self.bytes = self.segments.iter().map(|segment| segment.bytes).sum();
        if self.segments.is_empty() {
            self.segments = Vec::new();
        }
    }
}

/// Adds a run to those that are remembered, of which there are not too many.
fn remember(set: &mut RunSet, run: Run, runs_max: usize) {
    set.insert(run);
    if set.runs() > runs_max {
        set.pop_first();
    }
}

/// Whether these batches follow on each other, starting exactly at `from`, none of them empty.
fn consecutive(batches: &[RecordBatch], from: Offset) -> bool {
    let mut at = from;
    for batch in batches {
        if batch.first != at || batch.records.is_empty() {
            return false;
        }
        at = batch.end();
    }
    at > from
}

/// Reads that one topic may have open: one for each of a few channels at different places, or
/// two that follow on each other.
const LOADS_OPEN_MAX: usize = 4;
/// What the smallest message costs, table included, in round figures: turns a limit in bytes into
/// one in records.
const BYTES_PER_RECORD_MIN: usize = 64;
/// Segments looked through for each delivery.
const SEGMENTS_MAX: usize = 32;
/// Damaged runs remembered; what is forgotten is read and found damaged again.
const DAMAGED_RUNS_MAX: usize = 4_096;
/// How long loaded records stay without being used: about as long as a consumer that is draining
/// a backlog takes to say that it wants more.
const UNUSED_KEPT: Duration = Duration::from_secs(1);
/// The first pause after a read that failed. Each further failure doubles it.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause after a read that failed.
const RETRY_MAX: Duration = Duration::from_secs(5);
