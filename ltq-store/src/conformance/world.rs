//! A store beside the model of what it should hold.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, LogOptions, Offset, ReadLimits, Store,
    StoreError, Timestamp, WriteBatch, WriteOp,
};

use super::{Clause, Failure, chance::Chance, failure::ensure, harness::Stage, model::Model};

/// More than any case stores.
pub(super) const UNLIMITED: ReadLimits = ReadLimits { records: usize::MAX, bytes: usize::MAX };

pub(super) const NOT_DURABLE: LogOptions = LogOptions { durable: false };

pub(super) fn log(name: &str) -> LogName {
    LogName::new(name)
}

/// An open store, and a model that has taken the same batches.
pub(super) struct World<'a> {
    pub(super) store: Arc<dyn Store>,
    pub(super) model: Model,
    pub(super) chance: Chance,
    stage: &'a Stage,
}

impl<'a> World<'a> {
    pub(super) async fn open(stage: &'a Stage) -> Result<Self, Failure> {
        let store = stage.open().await?;
        Ok(Self { store, model: Model::default(), chance: Chance::new(7), stage })
    }

    /// A world with these logs, made at offset 0.
    pub(super) async fn with_logs(stage: &'a Stage, names: &[&str]) -> Result<Self, Failure> {
        let mut world = Self::open(stage).await?;
        let mut batch = WriteBatch::new();
        for name in names {
            batch.create_log(log(name), LogOptions::default());
        }
        world.commit(batch).await?;
        Ok(world)
    }

    pub(super) fn end(&self, log: &LogName) -> Offset {
        self.model.logs.get(log).map_or(Offset::ZERO, |log| log.end())
    }

    pub(super) fn bounds(&self, log: &LogName) -> Bounds {
        self.model.logs.get(log).map(|log| log.bounds()).unwrap_or_default()
    }

    /// Adds an append of `count` random records to a batch, at the end that the model knows.
    pub(super) fn add(
        &mut self,
        batch: &mut WriteBatch,
        log: &LogName,
        time: u64,
        count: usize,
        len: usize,
    ) {
        let records = self.chance.records(count, len);
        batch.append(log.clone(), self.end(log), Timestamp(time), records);
    }

    /// Commits one append of `count` random records.
    pub(super) async fn append(
        &mut self,
        log: &LogName,
        time: u64,
        count: usize,
        len: usize,
    ) -> Result<(), Failure> {
        let mut batch = WriteBatch::new();
        self.add(&mut batch, log, time, count, len);
        self.commit(batch).await.map(drop)
    }

    /// Commits a truncation.
    pub(super) async fn truncate(&mut self, log: &LogName, before: u64) -> Result<(), Failure> {
        let mut batch = WriteBatch::new();
        batch.truncate(log.clone(), Offset(before));
        self.commit(batch).await.map(drop)
    }

    /// Commits at [`Durability::Memory`] what the store has to take.
    pub(super) async fn commit(&mut self, batch: WriteBatch) -> Result<Committed, Failure> {
        self.commit_at(batch, Durability::Memory).await
    }

    /// Commits what the store has to take, and checks its word.
    pub(super) async fn commit_at(
        &mut self,
        batch: WriteBatch,
        asked: Durability,
    ) -> Result<Committed, Failure> {
        let committed = match self.store.commit(batch.clone(), asked).await {
            Ok(committed) => committed,
            Err(error) => {
                let what = describe(&batch);
                let detail = format!("{what} at {asked} was refused: {error}");
                let clause = match error {
                    StoreError::Full { .. } => Clause::Full,
                    _ => clause_of(&batch),
                };
                return Err(Failure::new(clause, detail));
            }
        };
        self.check_word(&batch, asked, committed)?;
        self.model.apply(&batch);
        Ok(committed)
    }

    fn check_word(
        &self,
        batch: &WriteBatch,
        asked: Durability,
        said: Committed,
    ) -> Result<(), Failure> {
        let said = said.durability;
        let max = self.store.durability_max();
        ensure!(
            said <= max,
            Honest,
            "{} was said to be as durable as {said}, and the store promises {max} at most",
            describe(batch)
        );
        if self.certainly_loose(batch) {
            ensure!(
                said == Durability::Memory,
                Honest,
                "{} changes a log that is not durable, and was said to be as durable as {said}",
                describe(batch)
            );
        } else if !self.possibly_loose(batch) {
            ensure!(
                said >= asked.min(max),
                Honest,
                "{} was asked for at {asked}, the store promises {max}, and it is {said}",
                describe(batch)
            );
        }
        Ok(())
    }

    /// How the logs of this name are kept: the one before the batch, and those that it makes.
    fn kept<'b>(
        &'b self,
        batch: &'b WriteBatch,
        wanted: &'b LogName,
    ) -> impl Iterator<Item = LogOptions> + 'b {
        let made = batch.ops().iter().filter_map(move |op| match op {
            WriteOp::CreateLog { log, options, .. } if log == wanted => Some(*options),
            _ => None,
        });
        self.model.logs.get(wanted).map(|log| log.options).into_iter().chain(made)
    }

    /// Whether the batch writes to a log that is not durable whichever of that name is meant.
    fn certainly_loose(&self, batch: &WriteBatch) -> bool {
        batch.ops().iter().any(|op| match op {
            WriteOp::Append { log, .. }
            | WriteOp::Truncate { log, .. }
            | WriteOp::Discard { log, .. } => {
                self.kept(batch, log).all(|options| options == NOT_DURABLE)
            }
            _ => false,
        })
    }

    /// Whether the batch has to do with a log that is not durable.
    fn possibly_loose(&self, batch: &WriteBatch) -> bool {
        batch.ops().iter().any(|op| match op {
            WriteOp::CreateLog { log, .. }
            | WriteOp::DeleteLog { log }
            | WriteOp::Append { log, .. }
            | WriteOp::Truncate { log, .. }
            | WriteOp::Discard { log, .. } => {
                self.kept(batch, log).any(|options| options == NOT_DURABLE)
            }
            _ => false,
        })
    }

    /// Commits what the store has to refuse, with one of the errors that the model allows, and
    /// checks that nothing changed.
    pub(super) async fn refuse(&mut self, batch: WriteBatch) -> Result<(), Failure> {
        let expected = self.model.refusals(&batch);
        let what = describe(&batch);
        match self.store.commit(batch.clone(), Durability::Memory).await {
            Ok(_) => {
                let detail = format!("{what} was taken; it must be refused: {expected:?}");
                return Err(Failure::new(clause_of_error(expected.first()), detail));
            }
            Err(error) if !expected.iter().any(|expected| same_error(expected, &error)) => {
                let detail = format!("{what} was refused with {error:?}; expected: {expected:?}");
                return Err(Failure::new(clause_of_error(expected.first()), detail));
            }
            Err(_) => (),
        }
        let unchanged = self.check().await;
        unchanged.map_err(|failure| {
            let detail = format!("{what} was refused, and yet something changed: {failure}");
            Failure::new(Clause::Atomic, detail)
        })
    }

    /// Compares all that the store holds with the model.
    pub(super) async fn check(&self) -> Result<(), Failure> {
        self.check_lists()?;
        for log in self.model.logs.keys() {
            self.check_log(log).await?;
        }
        Ok(())
    }

    /// Compares the names and bounds of all logs, and all values.
    pub(super) fn check_lists(&self) -> Result<(), Failure> {
        let logs = self.store.logs().map_err(unexpected("listing the logs"))?;
        let expected = self.model.infos();
        let names = |infos: &[LogInfo]| -> Vec<_> {
            infos.iter().map(|info| (info.log.clone(), info.options)).collect()
        };
        ensure!(
            names(&logs) == names(&expected),
            Logs,
            "the logs are {:?}; expected: {:?}",
            names(&logs),
            names(&expected)
        );
        for (listed, info) in logs.iter().zip(&expected) {
            ensure!(
                listed.bounds == info.bounds,
                Bounds,
                "log {} is listed with {:?}; expected: {:?}",
                info.log,
                listed.bounds,
                info.bounds
            );
            let bounds = self.store.bounds(&info.log).map_err(unexpected("asking for bounds"))?;
            ensure!(
                bounds == info.bounds,
                Bounds,
                "log {} holds {bounds:?}; expected: {:?}",
                info.log,
                info.bounds
            );
        }
        self.check_values(b"")
    }

    /// Compares the values under a prefix, as listed and one by one.
    pub(super) fn check_values(&self, prefix: &[u8]) -> Result<(), Failure> {
        let found = self.store.values(prefix).map_err(unexpected("listing values"))?;
        let expected: Vec<(Bytes, Bytes)> = self
            .model
            .values
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let keys = |values: &[(Bytes, Bytes)]| -> Vec<Bytes> {
            values.iter().map(|(key, _)| key.clone()).collect()
        };
        ensure!(
            keys(&found) == keys(&expected),
            Values,
            "the keys under {prefix:?} are {:?}; expected: {:?}",
            keys(&found),
            keys(&expected)
        );
        for ((key, found), (_, expected)) in found.iter().zip(&expected) {
            ensure!(found == expected, Values, "listed, key {key:?} has another value");
            let alone = self.store.value(key).map_err(unexpected("asking for a value"))?;
            ensure!(alone.as_ref() == Some(expected), Values, "key {key:?} has another value");
        }
        Ok(())
    }

    /// Compares all records of a log.
    pub(super) async fn check_log(&self, log: &LogName) -> Result<(), Failure> {
        let Bounds { first, end } = self.bounds(log);
        let mut at = first;
        while at < end {
            at = self.read(log, at, UNLIMITED).await?;
        }
        let last = self.read(log, end, UNLIMITED).await?;
        ensure!(last == end, Read, "log {log} ends at {end}, and a read there returned records");
        Ok(())
    }

    /// Reads once, in both ways, and compares; where the record was discarded the store has to
    /// say so. Returns where to read on.
    pub(super) async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Offset, Failure> {
        let Some(model) = self.model.logs.get(log) else {
            return Err(Failure::new(Clause::Runs, format!("the suite made no log {log}")));
        };
        let until = model.kept_from(from);
        if until > from {
            let expected = Err(StoreError::Discarded { log: log.clone(), from, until });
            let answers = self.store.try_read(log, from, limits).into_iter();
            for answer in answers.chain([self.store.read(log, from, limits).await]) {
                ensure!(
                    answer == expected,
                    Discard,
                    "a read of log {log} from {from} gave {answer:?}; expected: {expected:?}"
                );
            }
            return Ok(until);
        }
        let during = |failure: Failure| failure.during(format!("log {log}"));
        if let Some(answer) = self.store.try_read(log, from, limits) {
            let batches = answer.map_err(unexpected("a read that does not wait"))?;
            let checked = model.check_read(from, limits, &batches);
            checked.map_err(|failure| {
                let failure = failure.during(format!("log {log}, a read that does not wait"));
                Failure::new(Clause::TryRead, failure.to_string())
            })?;
        }
        let batches = self.store.read(log, from, limits).await.map_err(unexpected("a read"))?;
        model.check_read(from, limits, &batches).map_err(during)
    }

    /// Reads where the store has to refuse, in both ways.
    pub(super) async fn refuse_read(
        &self,
        log: &LogName,
        from: Offset,
        expected: StoreError,
    ) -> Result<(), Failure> {
        let limits = ReadLimits { records: 10, bytes: 1 << 20 };
        let answer = self.store.read(log, from, limits).await;
        ensure!(
            answer.as_ref().err() == Some(&expected),
            Read,
            "a read of log {log} from {from} gave {answer:?}; expected: {expected:?}"
        );
        if let Some(answer) = self.store.try_read(log, from, limits) {
            ensure!(
                answer.as_ref().err() == Some(&expected),
                TryRead,
                "of log {log} from {from} it gave {answer:?}; expected: {expected:?}"
            );
        }
        Ok(())
    }

    pub(super) fn out_of_range(&self, log: &LogName, from: Offset) -> StoreError {
        StoreError::OutOfRange { log: log.clone(), bounds: self.bounds(log), from }
    }

    /// Closes the store and opens it again.
    pub(super) async fn close_and_open(self) -> Result<Self, Failure> {
        let closed = self.store.close().await;
        closed.map_err(|e| Failure::new(Clause::Close, format!("closing failed: {e}")))?;
        self.drop_and_open().await
    }

    /// Drops the store, as a kill would, and opens it again.
    pub(super) async fn drop_and_open(self) -> Result<Self, Failure> {
        let Self { store, model, chance, stage } = self;
        drop(store);
        Ok(Self { store: stage.open().await?, model, chance, stage })
    }
}

/// Polls once. What is pending stays as it is.
pub(super) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

/// Makes a failure of an error of a call that has to succeed.
pub(super) fn unexpected(what: &str) -> impl FnOnce(StoreError) -> Failure + '_ {
    move |error| {
        let clause = match &error {
            StoreError::Damaged { .. } => Clause::Bytes,
            StoreError::OutOfRange { .. } => Clause::Read,
            StoreError::Discarded { .. } => Clause::Discard,
            StoreError::NoSuchLog(_) => Clause::Logs,
            StoreError::Full { .. } => Clause::Full,
            StoreError::Closed => Clause::Close,
            _ => Clause::Runs,
        };
        Failure::new(clause, format!("{what} failed: {error}"))
    }
}

fn same_error(expected: &StoreError, found: &StoreError) -> bool {
    match (expected, found) {
        (StoreError::Invalid(_), StoreError::Invalid(_)) => true,
        _ => expected == found,
    }
}

/// The clause that a batch is about.
fn clause_of(batch: &WriteBatch) -> Clause {
    match batch.ops() {
        [WriteOp::CreateLog { .. } | WriteOp::DeleteLog { .. }] => Clause::Logs,
        [WriteOp::Append { .. }] => Clause::Append,
        [WriteOp::Truncate { .. }] => Clause::Truncate,
        [WriteOp::Discard { .. }] => Clause::Discard,
        [WriteOp::Put { .. } | WriteOp::Delete { .. }] => Clause::Values,
        _ => Clause::Atomic,
    }
}

fn clause_of_error(error: Option<&StoreError>) -> Clause {
    match error {
        Some(StoreError::Invalid(_)) => Clause::Rules,
        Some(StoreError::WrongOffset { .. }) => Clause::Append,
        _ => Clause::Logs,
    }
}

fn describe(batch: &WriteBatch) -> String {
    if batch.is_empty() {
        return "an empty batch".to_owned();
    }
    let shown = batch.ops().iter().take(6).map(|op| match op {
        WriteOp::CreateLog { log, options, first } => {
            format!("create {:?} at {first}, durable: {}", short(log), options.durable)
        }
        WriteOp::DeleteLog { log } => format!("delete {:?}", short(log)),
        WriteOp::Append { log, at, time, records } => {
            format!(
                "append {} records to {:?} at {at}, time {}",
                records.count(),
                short(log),
                time.0
            )
        }
        WriteOp::Truncate { log, before } => format!("truncate {:?} before {before}", short(log)),
        WriteOp::Discard { log, from, until } => {
            format!("discard {from} to {until} of {:?}", short(log))
        }
        WriteOp::Put { key, value } => {
            format!("put a key of {} bytes, a value of {}", key.len(), value.len())
        }
        WriteOp::Delete { key } => format!("remove a key of {} bytes", key.len()),
    });
    let shown: Vec<_> = shown.collect();
    let more = batch.ops().len() - shown.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("the batch [{}{more}]", shown.join("; "))
}

fn short(log: &LogName) -> String {
    log.as_str().chars().take(32).collect()
}
