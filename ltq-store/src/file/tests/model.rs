//! A store driven by hand, and what it ought to hold.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records,
    StoreError, Timestamp, WriteBatch, WriteOp,
};

use super::super::{
    engine::{Caller, Engine},
    recovery,
};
use crate::FileStoreOptions;
use crate::simulation::{Chance, SimulatedDisk};

pub(super) fn tiny(disk: &SimulatedDisk) -> FileStoreOptions {
    FileStoreOptions::new("/store")
        .tail_bytes(64 << 10)
        .journal_file_bytes(64 << 10)
        .journal_bytes_max(512 << 10)
        .segment_bytes(64 << 10)
        .reserve_bytes(64 << 10)
        // However long the real time between two lines of a test is.
        .caller_sync_max(Duration::from_secs(1))
        .file_system(Arc::new(disk.clone()))
}

pub(super) fn open(options: FileStoreOptions) -> Result<Engine, StoreError> {
    recovery::open(options)
}

pub(super) fn path(name: &str) -> std::path::PathBuf {
    Path::new("/store").join(name)
}

/// Commits, driving everything until there is an answer.
pub(super) fn commit(
    engine: &Engine,
    batch: WriteBatch,
    durability: Durability,
) -> Result<Committed, StoreError> {
    let mut answer = engine.submit(batch, durability, Caller::Writes)?;
    for _ in 0..100 {
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        let _ = engine.commit_step(false);
        let _ = engine.keep_step();
    }
    panic!("no answer comes");
}

/// A record as it should come back.
pub(super) type Record = (u64, Timestamp, Bytes);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelLog {
    pub(super) durable: bool,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) records: Vec<Record>,
}

/// What a store ought to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) logs: BTreeMap<LogName, ModelLog>,
    pub(super) values: BTreeMap<Bytes, Bytes>,
}

impl Model {
    pub(super) fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                WriteOp::CreateLog { log, options, first } => {
                    let (first, end) = (first.0, first.0);
                    let durable = options.durable;
                    let made = ModelLog { durable, first, end, records: Vec::new() };
                    assert!(self.logs.insert(log.clone(), made).is_none());
                }
                WriteOp::DeleteLog { log } => assert!(self.logs.remove(log).is_some()),
                WriteOp::Append { log, at, time, records } => {
                    let log = self.logs.get_mut(log).unwrap();
                    assert_eq!(log.end, at.0);
                    for index in 0..records.count() {
                        let bytes = records.encoded(index).unwrap();
                        log.records.push((log.end, *time, bytes));
                        log.end += 1;
                    }
                }
                WriteOp::Truncate { log, before } => {
                    let log = self.logs.get_mut(log).unwrap();
                    log.first = log.first.max(before.0);
                    let first = log.first;
                    log.records.retain(|record| record.0 >= first);
                }
                WriteOp::Discard { log, from, until } => {
                    let log = self.logs.get_mut(log).unwrap();
                    assert!(from < until && until.0 <= log.end);
                    log.records.retain(|record| !(from.0..until.0).contains(&record.0));
                }
                WriteOp::Put { key, value } => {
                    self.values.insert(key.clone(), value.clone());
                }
                WriteOp::Delete { key } => {
                    self.values.remove(key);
                }
            }
        }
    }

    /// Whether it is the same as another, as far as that is durable: of other logs only that they
    /// are there.
    pub(super) fn is_durably(&self, other: &Self) -> bool {
        let same = |(a, b): (&ModelLog, &ModelLog)| match a.durable {
            true => a == b,
            false => !b.durable,
        };
        self.values == other.values
            && self.logs.keys().eq(other.logs.keys())
            && self.logs.values().zip(other.logs.values()).all(same)
    }

    /// What a store holds.
    pub(super) fn of(engine: &Engine) -> Result<Self, StoreError> {
        let mut model = Self::default();
        let logs = engine.state.read().logs();
        for info in logs {
            let records = read_all(engine, &info.log, info.bounds.first.0, info.bounds.end.0)?;
            let log = ModelLog {
                durable: info.options.durable,
                first: info.bounds.first.0,
                end: info.bounds.end.0,
                records,
            };
            model.logs.insert(info.log, log);
        }
        model.values = engine.state.read().values.clone();
        Ok(model)
    }
}

pub(super) fn read_all(
    engine: &Engine,
    log: &LogName,
    first: u64,
    end: u64,
) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    let mut next = first;
    while next < end {
        let limits = ReadLimits { records: 50, bytes: 10_000 };
        let batches = match engine.read(log, Offset(next), limits) {
            Err(StoreError::Discarded { until, .. }) => {
                assert!(until.0 > next && until.0 <= end);
                next = until.0;
                continue;
            }
            batches => batches?,
        };
        assert!(!batches.is_empty(), "{log} has nothing at {next} of {first}..{end}");
        for batch in batches {
            assert_eq!(batch.first.0, next);
            batch.records.verify().unwrap();
            for index in 0..batch.records.count() {
                records.push((next, batch.time, batch.records.encoded(index).unwrap()));
                next += 1;
            }
        }
    }
    Ok(records)
}

/// Makes batches that fit what was committed before.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) chance: Chance,
    /// With every batch so far.
    pub(super) model: Model,
}

const NAMES: u64 = 5;

impl Workload {
    pub(super) fn batch(&mut self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        // What the batch itself makes of the logs: their bounds, if they are there.
        let mut planned = BTreeMap::new();
        for _ in 0..=self.chance.below(3) {
            self.change(&mut planned, &mut batch);
        }
        batch
    }

    fn change(&mut self, planned: &mut BTreeMap<LogName, Option<Bounds>>, batch: &mut WriteBatch) {
        let chance = &mut self.chance;
        let name = LogName::new(format!("log-{}", chance.below(NAMES)));
        let known = self.model.logs.get(&name);
        let known = known.map(|log| Bounds { first: Offset(log.first), end: Offset(log.end) });
        let planned = planned.entry(name.clone()).or_insert(known);
        let Some(log) = planned else {
            let options = LogOptions { durable: !chance.one_in(4) };
            let first = Offset(chance.below(2) * chance.below(1000));
            *planned = Some(Bounds { first, end: first });
            batch.push(WriteOp::CreateLog { log: name, options, first });
            return;
        };
        match chance.below(24) {
            20..=23 if log.end > log.first => {
                let from = log.first.plus(chance.below(log.end.since(log.first)));
                let behind = log.end.since(from);
                let most = if chance.one_in(3) { behind } else { 6.min(behind) };
                let until = from.plus(1 + chance.below(most));
                batch.discard(name, from, until);
            }
            0 => {
                batch.delete_log(name);
                *planned = None;
            }
            1..=3 => {
                let span = log.end.since(log.first);
                let before = if chance.one_in(3) { span } else { chance.below(span + 1) };
                log.first = log.first.plus(before);
                batch.truncate(name, log.first);
            }
            4..=6 => {
                let key = format!("key-{}", chance.below(6));
                let len = if chance.one_in(10) { 5_000 } else { chance.below(100) };
                if chance.one_in(3) {
                    batch.delete(key);
                } else {
                    batch.put(key, vec![chance.next() as u8; len as usize]);
                }
            }
            _ => {
                let count = if chance.one_in(8) { 60 } else { 1 + chance.below(5) };
                let len = if count < 6 && chance.one_in(12) { 9_000 } else { 300 };
                let messages: Vec<_> = (0..count)
                    .map(|_| {
                        let len = chance.below(len) as usize;
                        Message::new(vec![chance.next() as u8; len])
                    })
                    .collect();
                let time = Timestamp(1_000 + chance.below(50));
                batch.append(name, log.end, time, Records::encode(&messages));
                log.end = log.end.plus(messages.len() as u64);
            }
        }
    }
}
