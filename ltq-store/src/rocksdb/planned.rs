//! What a new batch is judged by: the logs as the batches admitted so far leave them, whether or
//! not readers can see those yet.

use std::collections::HashMap;

use ltq_core::{Durability, LogName, LogOptions, Offset, StoreError, WriteOp};

use super::change::{Change, Draft, DraftOp};

/// A log as admitted batches leave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedLog {
    pub(super) id: u64,
    pub(super) options: LogOptions,
    pub(super) end: Offset,
}

/// All logs.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) logs: HashMap<LogName, PlannedLog>,
    pub(super) next_log_id: u64,
}

/// What a batch that is admitted does.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// The most that can be said of its durability.
    pub(super) reach: Durability,
}

impl Planned {
    /// Judges a batch, and takes it in unless it is refused; then nothing is changed.
    pub(super) fn admit(&mut self, draft: Draft) -> Result<Plan, StoreError> {
        let mut undo = Undo { next_log_id: self.next_log_id, logs: Vec::new() };
        let mut plan =
            Plan { changes: Vec::with_capacity(draft.ops.len()), reach: Durability::Disk };
        for op in draft.ops {
            match self.judge(op, &mut undo) {
                Ok(change) => {
                    if !change.is_durable() {
                        plan.reach = Durability::Memory;
                    }
                    plan.changes.push(change);
                }
                Err(error) => {
                    self.undo(undo);
                    return Err(error);
                }
            }
        }
        Ok(plan)
    }

    fn undo(&mut self, undo: Undo) {
        self.next_log_id = undo.next_log_id;
        for (name, log) in undo.logs.into_iter().rev() {
            match log {
                Some(log) => self.logs.insert(name, log),
                None => self.logs.remove(&name),
            };
        }
    }

    fn judge(&mut self, op: DraftOp, undo: &mut Undo) -> Result<Change, StoreError> {
        match op {
            DraftOp::Append { log, at, count, pieces } => {
                let now = self.log_mut(&log)?;
                if at != now.end {
                    return Err(StoreError::WrongOffset { log, end: now.end, got: at });
                }
                let Some(end) = now.end.0.checked_add(count) else {
                    let what = format!("log {log} would pass the largest offset");
                    return Err(StoreError::Invalid(what));
                };
                undo.logs.push((log.clone(), Some(*now)));
                now.end = Offset(end);
                Ok(Change::Append { id: now.id, durable: now.options.durable, log, pieces })
            }
            DraftOp::Other(WriteOp::Append { log, .. }) => {
                Err(StoreError::Invalid(format!("an append to {log} was not copied")))
            }
            DraftOp::Other(WriteOp::CreateLog { log, options, first }) => {
                if self.logs.contains_key(&log) {
                    return Err(StoreError::LogExists(log));
                }
                let id = self.next_log_id;
                self.next_log_id += 1;
                undo.logs.push((log.clone(), None));
                self.logs.insert(log.clone(), PlannedLog { id, options, end: first });
                Ok(Change::Create { id, log, options, first })
            }
            DraftOp::Other(WriteOp::DeleteLog { log }) => {
                let Some(gone) = self.logs.remove(&log) else {
                    return Err(StoreError::NoSuchLog(log));
                };
                undo.logs.push((log.clone(), Some(gone)));
                Ok(Change::Delete { id: gone.id, log })
            }
            DraftOp::Other(WriteOp::Truncate { log, before }) => {
                let now = self.log_mut(&log)?;
                if before > now.end {
                    return Err(StoreError::WrongOffset { log, end: now.end, got: before });
                }
                Ok(Change::Truncate { id: now.id, durable: now.options.durable, log, before })
            }
            DraftOp::Other(WriteOp::Discard { log, from, until }) => {
                let now = self.log_mut(&log)?;
                if until > now.end {
                    return Err(StoreError::WrongOffset { log, end: now.end, got: until });
                }
                let (id, durable) = (now.id, now.options.durable);
                Ok(Change::Discard { id, log, from, until, durable })
            }
            DraftOp::Other(WriteOp::Put { key, value }) => Ok(Change::Put { key, value }),
            DraftOp::Other(WriteOp::Delete { key }) => Ok(Change::Remove { key }),
        }
    }

    fn log_mut(&mut self, log: &LogName) -> Result<&mut PlannedLog, StoreError> {
        self.logs.get_mut(log).ok_or_else(|| StoreError::NoSuchLog(log.clone()))
    }
}

/// How the logs were before a batch.
#[derive(Debug)]
struct Undo {
    next_log_id: u64,
    logs: Vec<(LogName, Option<PlannedLog>)>,
}

impl Change {
    /// Whether the write-ahead log holds it.
    pub(super) const fn is_durable(&self) -> bool {
        match self {
            Self::Append { durable, .. }
            | Self::Truncate { durable, .. }
            | Self::Discard { durable, .. } => *durable,
            Self::Create { .. } | Self::Delete { .. } | Self::Put { .. } | Self::Remove { .. } => {
                true
            }
        }
    }
}
