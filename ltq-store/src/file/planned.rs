//! What a new batch is judged by: the logs as the batches admitted so far leave them, whether or
//! not readers can see those yet.

use std::collections::HashMap;

use ltq_core::{Durability, LogName, LogOptions, Offset, StoreError, WriteOp};

use super::change::{Change, Draft};

/// The logs as admitted batches leave them.
#[derive(Debug, Default)]
pub(super) struct Planned {
    logs: HashMap<LogName, PlannedLog>,
    next_log_id: u64,
    /// How many logs are kept in memory only.
    volatile: usize,
    values: Pending,
}

/// A name, and the log of that name if there is one. A name without one stays while batches that
/// readers cannot see yet touch it, so that later ones do not overtake them.
#[derive(Debug, Default)]
struct PlannedLog {
    live: Option<Live>,
    pending: Pending,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    id: u64,
    options: LogOptions,
    end: Offset,
}

/// The batches that readers cannot see yet which touch something.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    count: u32,
    /// The ticket of the last one.
    last: u64,
}

/// What a batch that is admitted does.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    pub(super) touched: Touched,
    /// The most that can be said of its durability.
    pub(super) reach: Durability,
    /// Whether anything of it goes to the journal.
    pub(super) journaled: bool,
    after: Vec<(LogName, Option<Live>)>,
    next_log_id: u64,
}

/// What a batch touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    logs: Vec<LogName>,
    values: bool,
}

/// Why a batch is not admitted.
#[derive(Debug)]
pub(super) enum Refused {
    Error(StoreError),
    /// What the draft took for granted about a log is no longer so.
    Redraft,
}

impl Planned {
    /// As found when the store was opened.
    pub(super) fn new(
        logs: impl Iterator<Item = (LogName, u64, LogOptions, Offset)>,
        next_log_id: u64,
    ) -> Self {
        let mut planned = Self { next_log_id, ..Self::default() };
        for (log, id, options, end) in logs {
            planned.volatile += usize::from(!options.durable);
            let live = Some(Live { id, options, end });
            planned.logs.insert(log, PlannedLog { live, ..PlannedLog::default() });
        }
        planned
    }

    pub(super) const fn next_log_id(&self) -> u64 {
        self.next_log_id
    }

    pub(super) const fn has_volatile(&self) -> bool {
        self.volatile > 0
    }

    pub(super) fn is_durable(&self, log: &LogName) -> bool {
        self.live(log).is_none_or(|log| log.options.durable)
    }

    fn live(&self, log: &LogName) -> Option<Live> {
        self.logs.get(log).and_then(|log| log.live)
    }

    /// Judges a batch. Nothing is changed.
    pub(super) fn plan(&self, draft: &Draft) -> Result<Plan, Refused> {
        let mut overlay = Overlay::default();
        let mut changes = Vec::with_capacity(draft.ops.len());
        let (mut reach, mut journaled, mut values) = (Durability::Disk, false, false);
        let mut next_log_id = self.next_log_id;
        for (op, &durable) in draft.ops.iter().zip(&draft.durable) {
            let change = match op {
                WriteOp::Put { key, value } => {
                    Change::Put { key: key.clone(), value: value.clone() }
                }
                WriteOp::Delete { key } => Change::Remove { key: key.clone() },
                WriteOp::CreateLog { log, .. }
                | WriteOp::DeleteLog { log }
                | WriteOp::Append { log, .. }
                | WriteOp::Truncate { log, .. }
                | WriteOp::Discard { log, .. } => {
                    let at = overlay.place_of(log, || self.live(log));
                    let Some((_, now)) = overlay.entries.get_mut(at) else { continue };
                    plan_log(op, log, durable, now, &mut next_log_id)?
                }
            };
            values |= matches!(change, Change::Put { .. } | Change::Remove { .. });
            if change.is_journaled() {
                journaled = true;
            } else {
                reach = Durability::Memory;
            }
            changes.push(change);
        }
        let touched = Touched { logs: overlay.names(), values };
        let after = overlay.entries;
        Ok(Plan { changes, touched, reach, journaled, after, next_log_id })
    }

    /// The last batches that readers cannot see yet of those that touch the same things. Each of
    /// them waits for the ones before it, and they do not wait for each other.
    pub(super) fn predecessors<'a>(
        &'a self,
        touched: &'a Touched,
    ) -> impl Iterator<Item = u64> + 'a {
        let logs = touched.logs.iter().filter_map(|log| self.logs.get(log));
        let values = touched.values.then_some(&self.values);
        let pending = logs.map(|log| &log.pending).chain(values);
        pending.filter(|pending| pending.count > 0).map(|pending| pending.last)
    }

    /// Takes a batch in.
    pub(super) fn admit(&mut self, plan: &mut Plan) {
        self.next_log_id = plan.next_log_id;
        for (log, after) in plan.after.drain(..) {
            let volatile = |log: &Live| usize::from(!log.options.durable);
            let planned = self.logs.entry(log).or_default();
            self.volatile += after.as_ref().map_or(0, volatile);
            self.volatile -= planned.live.as_ref().map_or(0, volatile);
            planned.live = after;
        }
    }

    /// Notes that readers cannot see a batch yet.
    pub(super) fn begin(&mut self, touched: &Touched, ticket: u64) {
        for log in &touched.logs {
            if let Some(log) = self.logs.get_mut(log) {
                log.pending = Pending { count: log.pending.count + 1, last: ticket };
            }
        }
        if touched.values {
            self.values = Pending { count: self.values.count + 1, last: ticket };
        }
    }

    /// Notes that readers see it now, and could not before.
    pub(super) fn finish(&mut self, touched: &Touched) {
        for log in &touched.logs {
            if let Some(log) = self.logs.get_mut(log) {
                log.pending.count = log.pending.count.saturating_sub(1);
            }
        }
        self.forget(touched);
        if touched.values {
            self.values.count = self.values.count.saturating_sub(1);
        }
    }

    /// Forgets the names without a log that nothing waits for.
    pub(super) fn forget(&mut self, touched: &Touched) {
        for log in &touched.logs {
            let unused = |log: &PlannedLog| log.live.is_none() && log.pending.count == 0;
            if self.logs.get(log).is_some_and(unused) {
                self.logs.remove(log);
            }
        }
    }
}

fn plan_log(
    op: &WriteOp,
    name: &LogName,
    durable: bool,
    slot: &mut Option<Live>,
    next_log_id: &mut u64,
) -> Result<Change, Refused> {
    let log = name.clone();
    let Some(now) = slot else {
        let WriteOp::CreateLog { options, first, .. } = op else {
            return Err(Refused::Error(StoreError::NoSuchLog(log)));
        };
        let (id, options) = (*next_log_id, *options);
        *next_log_id += 1;
        *slot = Some(Live { id, options, end: *first });
        return Ok(Change::Create { id, log, options, first: *first });
    };
    let (id, end) = (now.id, now.end);
    let wrong = |got| Err(Refused::Error(StoreError::WrongOffset { log: name.clone(), end, got }));
    let changes =
        matches!(op, WriteOp::Append { .. } | WriteOp::Truncate { .. } | WriteOp::Discard { .. });
    if changes && durable != now.options.durable {
        return Err(Refused::Redraft);
    }
    match op {
        WriteOp::CreateLog { .. } => Err(Refused::Error(StoreError::LogExists(log))),
        WriteOp::DeleteLog { .. } => {
            *slot = None;
            Ok(Change::Delete { id, log })
        }
        WriteOp::Append { at, .. } if *at != end => wrong(*at),
        WriteOp::Append { at, time, records, .. } => {
            let Some(end) = end.0.checked_add(records.count() as u64) else {
                let what = format!("log {name} would pass the largest offset");
                return Err(Refused::Error(StoreError::Invalid(what)));
            };
            now.end = Offset(end);
            let (at, time, records) = (*at, *time, records.clone());
            Ok(Change::Append { id, log, at, time, records, durable })
        }
        WriteOp::Truncate { before, .. } if *before > end => wrong(*before),
        WriteOp::Truncate { before, .. } => {
            Ok(Change::Truncate { id, log, before: *before, durable })
        }
        WriteOp::Discard { until, .. } if *until > end => wrong(*until),
        WriteOp::Discard { from, until, .. } => {
            Ok(Change::Discard { id, log, from: *from, until: *until, durable })
        }
        WriteOp::Put { .. } | WriteOp::Delete { .. } => {
            Err(Refused::Error(StoreError::Invalid("a value has no log".to_owned())))
        }
    }
}

/// The logs that a batch touches, as its changes so far leave them.
#[derive(Debug, Default)]
struct Overlay {
    entries: Vec<(LogName, Option<Live>)>,
    /// Where they are, once there are many.
    index: HashMap<LogName, usize>,
}

impl Overlay {
    fn place_of(&mut self, log: &LogName, now: impl FnOnce() -> Option<Live>) -> usize {
        let len = self.entries.len();
        let known = if len <= FEW {
            self.entries.iter().position(|(name, _)| name == log)
        } else {
            self.index.get(log).copied()
        };
        if let Some(at) = known {
            return at;
        }
        self.entries.push((log.clone(), now()));
        if len == FEW {
            let names = self.entries.iter().enumerate();
            self.index = names.map(|(at, (name, _))| (name.clone(), at)).collect();
        } else if len > FEW {
            self.index.insert(log.clone(), len);
        }
        len
    }

    fn names(&self) -> Vec<LogName> {
        self.entries.iter().map(|(log, _)| log.clone()).collect()
    }
}

/// Up to so many logs in a batch, looking at each is faster than a map.
const FEW: usize = 16;
