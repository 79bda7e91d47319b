//! One batch at work: the locks of all that it touches, held from its check to its last change,
//! so that it is one change for everybody else.

use std::{
    array,
    collections::{BTreeMap, BTreeSet},
};

use ltq_core::{Bounds, LogName, Offset, StoreError, WriteOp};
use parking_lot::MutexGuard;

use super::{MemoryStore, SHARDS, Shard, Values, chunk::Chunk, log::Log, value_cost};
use crate::stretches::Stretches;

/// The part of a store that a batch touches.
pub(super) struct Locked<'a> {
    store: &'a MemoryStore,
    shards: [Option<MutexGuard<'a, Shard>>; SHARDS],
    values: Option<MutexGuard<'a, Values>>,
}

/// What a batch that can be carried out does to the limit.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// The most bytes that it adds.
    pub(super) added: u64,
    /// The least bytes that it frees.
    pub(super) freed: u64,
    logs: BTreeMap<&'a LogName, PlannedLog>,
    /// What the logs and values that it touches take before it.
    bytes_before: u64,
}

/// A log as the changes so far would leave it.
struct PlannedLog {
    /// `None` when there is none of that name.
    bounds: Option<Bounds>,
    /// What of the log that is there now would be given up.
    gone: Gone,
}

/// What a batch gives up of a log.
#[derive(Default)]
struct Gone {
    all: bool,
    before: Offset,
    discards: Stretches,
}

impl Gone {
    /// The least bytes that it frees.
    fn bytes(&self, log: &Log) -> u64 {
        if self.all { log.bytes() } else { log.freed_by(self.before, &self.discards) }
    }
}

/// What a batch made superfluous, kept to be freed when nobody waits for it.
#[derive(Default)]
pub(super) struct Garbage {
    pub(super) chunks: Vec<Chunk>,
    logs: Vec<Log>,
}

impl<'a> Locked<'a> {
    /// Takes the locks, always in the same order: the shards', then the values'.
    pub(super) fn new(store: &'a MemoryStore, ops: &[WriteOp]) -> Self {
        let mut wanted = [false; SHARDS];
        let mut values = false;
        for op in ops {
            match log_of(op).and_then(|log| wanted.get_mut(store.shard_of(log))) {
                Some(shard) => *shard = true,
                None => values = true,
            }
        }
        let mut all = store.shards.iter().zip(wanted);
        let shards =
            array::from_fn(|_| all.next().filter(|(_, wanted)| *wanted).map(|(s, _)| s.lock()));
        Self { store, shards, values: values.then(|| store.values.lock()) }
    }

    /// Goes through the changes without making them.
    pub(super) fn plan<'b>(&self, ops: &'b [WriteOp]) -> Result<Plan<'b>, StoreError> {
        let mut plan = Plan::default();
        let mut keys = BTreeSet::new();
        for op in ops {
            if let Some(log) = log_of(op) {
                self.plan_log(&mut plan, log, op)?;
            }
            if let WriteOp::Put { key, value } = op {
                plan.added += value_cost(key, value);
            }
            if let (WriteOp::Put { key, .. } | WriteOp::Delete { key }, Some(values)) =
                (op, &self.values)
            {
                // Only the first change of a key frees what is there now.
                if keys.insert(key) {
                    plan.freed += values.cost_of(key);
                }
            }
        }
        let freed = plan
            .logs
            .iter()
            .filter_map(|(&name, planned)| Some(planned.gone.bytes(self.shard(name)?.get(name)?)));
        plan.freed += freed.sum::<u64>();
        plan.bytes_before += self.values.as_ref().map_or(0, |values| values.bytes);
        Ok(plan)
    }

    fn plan_log<'b>(
        &self,
        plan: &mut Plan<'b>,
        name: &'b LogName,
        op: &WriteOp,
    ) -> Result<(), StoreError> {
        let now = self.shard(name).and_then(|shard| shard.get(name));
        let planned = plan.logs.entry(name).or_insert_with(|| {
            plan.bytes_before += now.map_or(0, Log::bytes);
            PlannedLog { bounds: now.map(Log::bounds), gone: Gone::default() }
        });
        if let WriteOp::CreateLog { first, .. } = op {
            if planned.bounds.is_some() {
                return Err(StoreError::LogExists(name.clone()));
            }
            planned.bounds = Some(Bounds { first: *first, end: *first });
            plan.added += Log::empty_cost(name);
            return Ok(());
        }
        let Some(bounds) = &mut planned.bounds else {
            return Err(StoreError::NoSuchLog(name.clone()));
        };
        let wrong = |got| Err(StoreError::WrongOffset { log: name.clone(), end: bounds.end, got });
        match op {
            WriteOp::Append { at, .. } if *at != bounds.end => return wrong(*at),
            WriteOp::Append { records, .. } => {
                let end = bounds.end.0.checked_add(records.count() as u64);
                bounds.end.0 = end.ok_or_else(|| {
                    StoreError::Invalid(format!("log {name} would pass the largest offset"))
                })?;
                plan.added += Log::append_cost(records);
            }
            WriteOp::Truncate { before, .. } if *before > bounds.end => return wrong(*before),
            WriteOp::Truncate { before, .. } => {
                planned.gone.before = planned.gone.before.max(*before);
            }
            WriteOp::Discard { until, .. } if *until > bounds.end => return wrong(*until),
            WriteOp::Discard { from, until, .. } => planned.gone.discards.insert(*from..*until),
            WriteOp::DeleteLog { .. } => {
                planned.bounds = None;
                planned.gone.all = true;
            }
            WriteOp::CreateLog { .. } | WriteOp::Put { .. } | WriteOp::Delete { .. } => (),
        }
        Ok(())
    }

    /// Makes the changes, which cannot fail once they were planned. Returns by how much more the
    /// store takes, modulo 2^64.
    pub(super) fn carry_out(
        &mut self,
        plan: &Plan<'_>,
        ops: &[WriteOp],
        garbage: &mut Garbage,
    ) -> u64 {
        for op in ops {
            match (log_of(op), &mut self.values) {
                (Some(log), _) => self.change_log(log, op, garbage),
                (None, Some(values)) => change_value(values, op),
                (None, None) => (),
            }
        }
        let mut bytes = self.values.as_ref().map_or(0, |values| values.bytes);
        for &name in plan.logs.keys() {
            if let Some(log) = self.shard_mut(name).and_then(|shard| shard.get_mut(name)) {
                log.tidy(&mut garbage.chunks);
                bytes += log.bytes();
            }
        }
        bytes.wrapping_sub(plan.bytes_before)
    }

    fn change_log(&mut self, name: &LogName, op: &WriteOp, garbage: &mut Garbage) {
        let Some(shard) = self.shard_mut(name) else { return };
        match op {
            WriteOp::CreateLog { options, first, .. } => {
                shard.insert(name.clone(), Log::new(name, *options, *first));
            }
            WriteOp::DeleteLog { .. } => garbage.logs.extend(shard.remove(name)),
            WriteOp::Append { time, records, .. } => {
                if let Some(log) = shard.get_mut(name) {
                    log.append(*time, records.clone());
                }
            }
            WriteOp::Truncate { before, .. } => {
                if let Some(log) = shard.get_mut(name) {
                    log.truncate(*before, &mut garbage.chunks);
                }
            }
            WriteOp::Discard { from, until, .. } => {
                if let Some(log) = shard.get_mut(name) {
                    log.discard(*from, *until);
                }
            }
            WriteOp::Put { .. } | WriteOp::Delete { .. } => (),
        }
    }

    fn shard(&self, log: &LogName) -> Option<&Shard> {
        self.shards.get(self.store.shard_of(log))?.as_deref()
    }

    fn shard_mut(&mut self, log: &LogName) -> Option<&mut Shard> {
        self.shards.get_mut(self.store.shard_of(log))?.as_deref_mut()
    }
}

fn change_value(values: &mut Values, op: &WriteOp) {
    match op {
        WriteOp::Put { key, value } => values.put(key.clone(), value.clone()),
        WriteOp::Delete { key } => values.delete(key),
        _ => (),
    }
}

fn log_of(op: &WriteOp) -> Option<&LogName> {
    match op {
        WriteOp::CreateLog { log, .. }
        | WriteOp::DeleteLog { log }
        | WriteOp::Append { log, .. }
        | WriteOp::Truncate { log, .. }
        | WriteOp::Discard { log, .. } => Some(log),
        WriteOp::Put { .. } | WriteOp::Delete { .. } => None,
    }
}
