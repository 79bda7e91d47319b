//! What a batch comes to: what goes to the front, what to the back, and what is to be seen then.

use std::collections::{BTreeMap, BTreeSet};

use ltq_core::{Bounds, LogName, Offset, StoreError, WriteBatch, WriteOp};

use super::{
    claim::log_of,
    state::{State, Volatile},
};

/// A batch, taken apart.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Goes to the front before anything else, where nobody sees it yet: appends, and what makes
    /// the logs that they need.
    pub(super) front: Vec<WriteOp>,
    /// Goes to the back store.
    pub(super) back: WriteBatch,
    /// What becomes of the logs that are not durable.
    outcome: BTreeMap<LogName, Outcome>,
    /// What is appended to durable logs that were there before.
    pub(super) copies: Vec<WriteOp>,
    /// Durable logs of which the front's copies go, up to an offset or all.
    pub(super) copies_gone: BTreeMap<LogName, Option<Offset>>,
    /// What is discarded of the front's copies of durable logs.
    pub(super) copies_discarded: Vec<WriteOp>,
    /// What is discarded of what is in the front.
    discarded: Vec<WriteOp>,
    /// Whether records of a log that is not durable are changed.
    pub(super) changes_volatile: bool,
}

/// What becomes of a log that is not durable.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// It is made, made anew, or removed.
    Remade(Option<Volatile>),
    Changed {
        bounds: Bounds,
        /// What was appended in the front takes.
        front_bytes: u64,
        /// Appends went to the back store, in which everything before already was.
        direct: bool,
    },
}

/// A log as the changes so far would leave it.
#[derive(Clone, Copy, Debug)]
struct Planned {
    log: Volatile,
    /// Whether appends go to the back store.
    direct: bool,
    /// Whether the log goes before the batch is over, so that appends need not go anywhere.
    doomed: bool,
    front_bytes: u64,
}

impl Plan {
    /// Takes a batch apart, for logs as `state` has them. What is appended to the logs `direct`
    /// goes to the back store.
    ///
    /// # Errors
    /// What the batch is refused with for the sake of a log that is not durable. The rest is
    /// judged by the back store.
    pub(super) fn new(
        state: &State,
        batch: &WriteBatch,
        direct: &BTreeSet<LogName>,
    ) -> Result<Self, StoreError> {
        let remade: BTreeSet<_> = batch
            .ops()
            .iter()
            .filter(|op| matches!(op, WriteOp::CreateLog { .. } | WriteOp::DeleteLog { .. }))
            .filter_map(log_of)
            .collect();
        let mut plan = Self::default();
        let mut planned: BTreeMap<&LogName, Option<Planned>> = BTreeMap::new();
        for op in batch.ops() {
            let Some(name) = log_of(op) else {
                plan.back.push(op.clone());
                continue;
            };
            let known = planned.entry(name).or_insert_with(|| {
                let log = state.volatile.get(name).copied()?;
                let (direct, doomed) = (direct.contains(name), remade.contains(name));
                Some(Planned { log, direct, doomed, front_bytes: 0 })
            });
            match known {
                Some(log) => plan.change(name, log, op)?,
                None => plan.change_durable(op, remade.contains(name)),
            }
            match op {
                WriteOp::CreateLog { options, first, .. } if !options.durable => {
                    let log = Volatile::new(*options, *first);
                    *known = Some(Planned { log, direct: true, doomed: false, front_bytes: 0 });
                }
                WriteOp::DeleteLog { .. } => *known = None,
                _ => (),
            }
        }
        for (name, now) in planned {
            let outcome = match now {
                now if remade.contains(name) => {
                    if now.is_none() && !state.volatile.contains_key(name) {
                        continue;
                    }
                    Outcome::Remade(now.map(|now| now.log))
                }
                Some(Planned { log, direct, front_bytes, .. }) => {
                    Outcome::Changed { bounds: log.bounds, front_bytes, direct }
                }
                None => continue,
            };
            plan.outcome.insert(name.clone(), outcome);
        }
        Ok(plan)
    }

    /// Whether it is more than one batch of the back store.
    pub(super) fn is_mixed(&self) -> bool {
        !self.outcome.is_empty()
    }

    fn change(
        &mut self,
        name: &LogName,
        planned: &mut Planned,
        op: &WriteOp,
    ) -> Result<(), StoreError> {
        let Planned { log, direct, doomed, front_bytes } = planned;
        let wrong = |got| StoreError::WrongOffset { log: name.clone(), end: log.bounds.end, got };
        match op {
            WriteOp::CreateLog { .. } => return Err(StoreError::LogExists(name.clone())),
            WriteOp::Append { at, .. } if *at != log.bounds.end => return Err(wrong(*at)),
            WriteOp::Append { records, .. } => {
                let end = log.bounds.end.0.checked_add(records.count() as u64);
                let end = end.map(Offset).ok_or_else(|| {
                    StoreError::Invalid(format!("log {name} would pass the largest offset"))
                })?;
                self.changes_volatile = true;
                if *direct {
                    realign(&mut self.back, name, log);
                    self.back.push(op.clone());
                    (log.back_end, log.split) = (end, end);
                } else if !*doomed {
                    if !log.in_front {
                        let (options, first) = (log.options, log.split);
                        self.front.push(WriteOp::CreateLog { log: name.clone(), options, first });
                        log.in_front = true;
                    }
                    self.front.push(op.clone());
                    *front_bytes += records.byte_len() as u64;
                }
                log.bounds.end = end;
            }
            WriteOp::Truncate { before, .. } if *before > log.bounds.end => {
                return Err(wrong(*before));
            }
            WriteOp::Truncate { before, .. } => {
                log.bounds.first = log.bounds.first.max(*before);
                self.changes_volatile = true;
                let before = (*before).min(log.back_end);
                self.back.push(WriteOp::Truncate { log: name.clone(), before });
            }
            WriteOp::Discard { until, .. } if *until > log.bounds.end => {
                return Err(wrong(*until));
            }
            WriteOp::Discard { from, until, .. } => {
                self.changes_volatile = true;
                let behind = (*until).min(log.back_end);
                if *from < behind {
                    self.back.discard(name.clone(), *from, behind);
                }
                let from = (*from).max(log.split);
                if !*doomed && from < *until {
                    let (log, until) = (name.clone(), *until);
                    self.discarded.push(WriteOp::Discard { log, from, until });
                }
            }
            WriteOp::DeleteLog { .. } => {
                self.back.push(op.clone());
            }
            WriteOp::Put { .. } | WriteOp::Delete { .. } => (),
        }
        Ok(())
    }

    fn change_durable(&mut self, op: &WriteOp, remade: bool) {
        self.back.push(op.clone());
        match op {
            WriteOp::Append { .. } if !remade => self.copies.push(op.clone()),
            WriteOp::Truncate { log, before } => {
                let gone = self.copies_gone.entry(log.clone()).or_insert(Some(*before));
                *gone = gone.map(|gone| gone.max(*before));
            }
            WriteOp::Discard { .. } if !remade => self.copies_discarded.push(op.clone()),
            WriteOp::CreateLog { log, .. } | WriteOp::DeleteLog { log } => {
                self.copies_gone.insert(log.clone(), None);
            }
            _ => (),
        }
    }

    /// Lets readers see it. Returns what the front does not need any more.
    pub(super) fn publish(&self, state: &mut State) -> Vec<WriteOp> {
        let mut gone = self.discarded.clone();
        for (name, outcome) in &self.outcome {
            match *outcome {
                Outcome::Remade(now) => {
                    let before = match now {
                        Some(now) => state.volatile.insert(name.clone(), now),
                        None => state.volatile.remove(name),
                    };
                    if before.is_some_and(|before| before.in_front) {
                        gone.push(WriteOp::DeleteLog { log: name.clone() });
                    }
                }
                Outcome::Changed { bounds, front_bytes, direct } => {
                    let Some(log) = state.volatile.get_mut(name) else { continue };
                    log.bounds = bounds;
                    if direct {
                        (log.split, log.back_end, log.front_bytes) = (bounds.end, bounds.end, 0);
                        // Empty, and it ends too early for what comes next.
                        if std::mem::take(&mut log.in_front) {
                            gone.push(WriteOp::DeleteLog { log: name.clone() });
                        }
                    } else {
                        log.in_front |= front_bytes > 0;
                        log.front_bytes += front_bytes;
                    }
                    if bounds.first > log.split {
                        log.left_front(bounds.first);
                        if log.in_front {
                            let before = bounds.first;
                            gone.push(WriteOp::Truncate { log: name.clone(), before });
                        }
                    }
                }
            }
        }
        gone
    }
}

/// Lets the back store's log end where the front's begins, when all between was truncated without
/// ever getting there.
pub(super) fn realign(back: &mut WriteBatch, name: &LogName, log: &mut Volatile) {
    if log.back_end < log.split {
        back.delete_log(name.clone());
        let (options, first) = (log.options, log.split);
        back.push(WriteOp::CreateLog { log: name.clone(), options, first });
        log.back_end = log.split;
    }
}
