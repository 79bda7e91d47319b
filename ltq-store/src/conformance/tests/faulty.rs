//! A store that keeps its contract but for one fault, around a memory store; what it holds
//! survives because its harness commits everything again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch,
    Records, Store, StoreError, StoreStats, Timestamp, WriteBatch, WriteOp,
};
use parking_lot::Mutex;

use crate::{
    MemoryStore,
    conformance::{Capabilities, Harness},
};

const LIMIT: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    AnswersAfterClose,
    AppendsAnywhere,
    AppliesPartOfABadBatch,
    ChecksNoRules,
    ClaimsLessThanAsked,
    ClaimsLooseLogsDurable,
    ClaimsMoreThanItCan,
    DeletesByPrefix,
    DiscardsNothing,
    DiscardsOneTooFew,
    DiscardsOneTooMany,
    FlipsABit,
    ForgetsAnEarlierCommit,
    ForgetsCommitsToMemory,
    ForgetsDeletions,
    ForgetsDiscards,
    ForgetsOnReopening,
    ForgetsTheEndOfEmptyLogs,
    ForgetsTheLastCommit,
    ForgetsTruncations,
    ForgetsWhereSlicesBegan,
    GivesOneTime,
    HoldsBackLargeRecords,
    IgnoresByteLimits,
    IgnoresRecordLimits,
    KeepsDeletedRecords,
    KnowsNoLimit,
    LeavesAGap,
    ListsByLength,
    LosesPrefixesOfFf,
    NeverGivesBackMemory,
    NeverResolves,
    PanicsAtASecondClose,
    ReadsBelowTheFirst,
    ReadsOverDiscards,
    RefusesAllWhenFull,
    Reorders,
    SearchesTimesAsSorted,
    ShowsBeforeItIsDurable,
    ShowsHalf,
    ShowsLate,
    StartsEarlier,
    StaysFull,
    TriesReadInVain,
    TruncatesOneTooFew,
    TruncatesOneTooMany,
}

type History = Arc<Mutex<Vec<(WriteBatch, Durability)>>>;

pub(super) struct FaultyHarness {
    fault: Fault,
    history: History,
    survives: bool,
}

impl FaultyHarness {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, history: History::default(), survives: true }
    }

    pub(super) fn in_memory(mut self) -> Self {
        self.survives = false;
        self
    }

    /// The batches that come back.
    fn recovered(&self) -> Vec<WriteBatch> {
        let mut history = self.history.lock().clone();
        match self.fault {
            Fault::ForgetsOnReopening => history.clear(),
            Fault::ForgetsTheLastCommit => drop(history.pop()),
            Fault::ForgetsAnEarlierCommit if history.len() > 5 => {
                drop(history.remove(history.len() - 5));
            }
            Fault::ForgetsCommitsToMemory => history.retain(|(_, at)| *at != Durability::Memory),
            _ => (),
        }
        let forgets = |op: &WriteOp| match op {
            WriteOp::Truncate { .. } => self.fault == Fault::ForgetsTruncations,
            WriteOp::DeleteLog { .. } => self.fault == Fault::ForgetsDeletions,
            WriteOp::Discard { .. } => self.fault == Fault::ForgetsDiscards,
            _ => false,
        };
        let batches = history.into_iter().map(|(batch, _)| {
            let mut kept = WriteBatch::new();
            let appended = |op: &WriteOp| match op {
                WriteOp::Append { records, .. } => records.byte_len(),
                _ => 0,
            };
            let largest = batch.ops().iter().map(appended).max().unwrap_or(0);
            for op in batch.into_ops().into_iter().filter(|op| !forgets(op)) {
                let beside_a_larger_one = appended(&op) < largest;
                kept.push(match op {
                    WriteOp::Append { log, at, time, records }
                        if self.fault == Fault::ForgetsWhereSlicesBegan
                            && beside_a_larger_one
                            && records.base() > 0 =>
                    {
                        WriteOp::Append { log, at, time, records: from_elsewhere(&records) }
                    }
                    op => op,
                });
            }
            kept
        });
        batches.collect()
    }
}

#[async_trait]
impl Harness for FaultyHarness {
    type Store = FaultyStore;

    async fn open(&self) -> Result<FaultyStore, StoreError> {
        let limit = if self.fault == Fault::KnowsNoLimit { 4 * LIMIT } else { LIMIT };
        let inner = MemoryStore::new(limit);
        for batch in if self.survives { self.recovered() } else { Vec::new() } {
            // What a forgotten batch makes impossible is lost too.
            let _ = inner.commit(batch, Durability::Memory).await;
        }
        if self.fault == Fault::ForgetsTheEndOfEmptyLogs {
            for info in inner.logs()?.into_iter().filter(|i| i.bounds.first == i.bounds.end) {
                let mut anew = WriteBatch::new();
                anew.delete_log(info.log.clone()).create_log(info.log, info.options);
                inner.commit(anew, Durability::Memory).await?;
            }
        }
        Ok(FaultyStore {
            inner: Arc::new(inner),
            fault: self.fault,
            history: self.history.clone(),
            closed: AtomicBool::new(false),
            was_full: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            memory_most: AtomicU64::new(0),
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            survives_close: self.survives,
            survives_drop: self.survives,
            limit_bytes: Some(LIMIT),
        }
    }
}

pub(super) struct FaultyStore {
    inner: Arc<MemoryStore>,
    fault: Fault,
    history: History,
    closed: AtomicBool,
    was_full: AtomicBool,
    commits: AtomicU64,
    memory_most: AtomicU64,
}

impl FaultyStore {
    fn check_open(&self) -> Result<(), StoreError> {
        let closed = self.closed.load(SeqCst) && self.fault != Fault::AnswersAfterClose;
        if closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    async fn commit_inner(&self, batch: WriteBatch, at: Durability) -> Result<(), StoreError> {
        // One at a time, so that the history has the batches in their order.
        let mut history = self.history.lock();
        let inner = self.inner.clone();
        let done = futures_ready(inner.commit(batch.clone(), at));
        if done.is_ok() {
            history.push((batch, at));
        }
        done.map(drop)
    }

    fn spoil(&self, batch: WriteBatch) -> WriteBatch {
        let end = |log: &LogName| self.inner.bounds(log).map(|bounds| bounds.end).ok();
        let mut spoiled = WriteBatch::new();
        for op in batch.into_ops() {
            match (self.fault, op) {
                (Fault::TruncatesOneTooMany, WriteOp::Truncate { log, before })
                    if end(&log).is_some_and(|end| before < end) =>
                {
                    spoiled.truncate(log, before.plus(1));
                }
                (Fault::TruncatesOneTooFew, WriteOp::Truncate { log, before }) => {
                    let end = end(&log).unwrap_or_default();
                    let fewer = if before > end { before } else { Offset(before.0.max(1) - 1) };
                    spoiled.truncate(log, fewer);
                }
                (Fault::DiscardsNothing, WriteOp::Discard { log, from, until })
                    if from < until && end(&log).is_some_and(|end| until <= end) => {}
                (Fault::DiscardsOneTooMany, WriteOp::Discard { log, from, until })
                    if from < until && end(&log).is_some_and(|end| until < end) =>
                {
                    spoiled.discard(log, from, until.plus(1));
                }
                (Fault::DiscardsOneTooFew, WriteOp::Discard { log, from, until })
                    if from.plus(1) < until =>
                {
                    spoiled.discard(log, from, Offset(until.0 - 1));
                }
                (Fault::AppendsAnywhere, WriteOp::Append { log, time, records, .. }) => {
                    let at = end(&log).unwrap_or_default();
                    spoiled.append(log, at, time, records);
                }
                (Fault::KeepsDeletedRecords, WriteOp::DeleteLog { log })
                    if end(&log).is_some_and(|end| end > Offset::ZERO) =>
                {
                    spoiled.truncate(log, Offset::ZERO);
                }
                (Fault::KeepsDeletedRecords, WriteOp::CreateLog { log, .. })
                    if end(&log).is_some() => {}
                (Fault::ChecksNoRules, WriteOp::Put { key, .. } | WriteOp::Delete { key })
                    if key.is_empty() => {}
                (Fault::DeletesByPrefix, WriteOp::Delete { key }) => {
                    for (key, _) in self.inner.values(&key).unwrap_or_default() {
                        spoiled.delete(key);
                    }
                    spoiled.delete(key);
                }
                (_, op) => drop(spoiled.push(op)),
            }
        }
        spoiled
    }

    fn is_loose(&self, batch: &WriteBatch) -> bool {
        let logs = self.inner.logs().unwrap_or_default();
        let loose = |name: &LogName| {
            let info = logs.iter().find(|info| info.log == *name);
            info.is_some_and(|info| !info.options.durable)
        };
        batch.ops().iter().any(|op| match op {
            WriteOp::Append { log, .. }
            | WriteOp::Truncate { log, .. }
            | WriteOp::Discard { log, .. } => loose(log),
            WriteOp::CreateLog { options, .. } => *options == LogOptions { durable: false },
            _ => false,
        })
    }

    fn spoil_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.check_open()?;
        let mut limits = limits;
        match self.fault {
            Fault::IgnoresByteLimits => limits.bytes = usize::MAX,
            Fault::IgnoresRecordLimits => limits.records = usize::MAX,
            _ => (),
        }
        let mut batches = self.read_inner(log, from, limits)?;
        match self.fault {
            Fault::StartsEarlier if from.0 % 5 == 3 => {
                let earlier = self.read_inner(log, Offset(from.0 - 1), limits);
                batches = earlier.unwrap_or(batches);
            }
            Fault::HoldsBackLargeRecords
                if batches.iter().any(|batch| batch.records.byte_len() > limits.bytes) =>
            {
                batches.clear();
            }
            Fault::LeavesAGap if batches.len() > 2 => drop(batches.remove(1)),
            Fault::FlipsABit => batches.iter_mut().for_each(flip),
            Fault::GivesOneTime => {
                let time = batches.first().map(|batch| batch.time).unwrap_or_default();
                batches.iter_mut().for_each(|batch| batch.time = time);
            }
            _ => (),
        }
        Ok(batches)
    }

    fn read_inner(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let read = |from| self.inner.try_read(log, from, limits).expect("memory always answers");
        match read(from) {
            Err(StoreError::OutOfRange { bounds, .. })
                if self.fault == Fault::ReadsBelowTheFirst && from < bounds.first =>
            {
                read(bounds.first)
            }
            Err(StoreError::Discarded { until, .. }) if self.fault == Fault::ReadsOverDiscards => {
                read(until)
            }
            result => result,
        }
    }
}

/// Records whose bytes are taken from another place than where they are.
fn from_elsewhere(records: &Records) -> Records {
    let mut payload = records.payload().to_vec();
    payload.rotate_left(records.base() as usize % records.payload().len().max(1));
    Records::from_parts(records.base(), records.table().clone(), payload.into()).unwrap()
}

fn flip(batch: &mut RecordBatch) {
    let mut payload = batch.records.payload().to_vec();
    if let Some(last) = payload.last_mut() {
        *last ^= 1;
    }
    let (base, table) = (batch.records.base(), batch.records.table().clone());
    batch.records = Records::from_parts(base, table, payload.into()).unwrap();
}

/// What a future that is done when first polled comes to.
fn futures_ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("the memory store waits"),
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn durability_max(&self) -> Durability {
        match self.fault {
            Fault::ClaimsMoreThanItCan => Durability::Memory,
            _ => Durability::Disk,
        }
    }

    async fn commit(&self, batch: WriteBatch, asked: Durability) -> Result<Committed, StoreError> {
        self.check_open()?;
        if self.fault == Fault::NeverResolves {
            std::future::pending::<()>().await;
        }
        let number = self.commits.fetch_add(1, SeqCst);
        let loose = self.is_loose(&batch);
        let durability = match self.fault {
            Fault::ClaimsLessThanAsked => Durability::Memory,
            Fault::ClaimsLooseLogsDurable => asked,
            _ if loose => Durability::Memory,
            Fault::ClaimsMoreThanItCan => Durability::Disk,
            _ => asked,
        };
        let batch = self.spoil(batch);
        if self.fault == Fault::Reorders && number % 3 == 1 {
            tokio::task::yield_now().await;
        }
        if self.fault == Fault::ShowsLate && !batch.is_empty() && number > 3 {
            let (inner, history) = (self.inner.clone(), self.history.clone());
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                if inner.commit(batch.clone(), asked).await.is_ok() {
                    history.lock().push((batch, asked));
                }
            });
            return Ok(Committed { durability });
        }
        if self.fault == Fault::ShowsBeforeItIsDurable && !batch.is_empty() {
            self.inner.commit(batch.clone(), asked).await?;
            tokio::task::yield_now().await;
            self.history.lock().push((batch, asked));
            return Ok(Committed { durability });
        }
        if self.fault == Fault::ShowsHalf && batch.ops().len() > 1 {
            for op in batch.into_ops() {
                let mut single = WriteBatch::new();
                single.push(op);
                self.commit_inner(single, asked).await?;
                tokio::task::yield_now().await;
            }
            return Ok(Committed { durability });
        }
        if self.fault == Fault::RefusesAllWhenFull
            && self.inner.stats().memory_bytes > LIMIT - (300 << 10)
        {
            let (what, limit, used) = ("a limit".to_owned(), LIMIT, LIMIT);
            return Err(StoreError::Full { what, limit, used, wanted: 1 });
        }
        if self.fault == Fault::StaysFull && self.was_full.load(SeqCst) {
            let frees = batch
                .ops()
                .iter()
                .all(|op| matches!(op, WriteOp::Truncate { .. } | WriteOp::DeleteLog { .. }));
            if !frees {
                let (what, limit, used) = ("a limit".to_owned(), LIMIT, LIMIT);
                return Err(StoreError::Full { what, limit, used, wanted: 1 });
            }
        }
        match self.commit_inner(batch.clone(), asked).await {
            Ok(()) => Ok(Committed { durability }),
            Err(error) => {
                if matches!(error, StoreError::Full { .. }) {
                    self.was_full.store(true, SeqCst);
                } else if self.fault == Fault::AppliesPartOfABadBatch {
                    for op in batch.into_ops() {
                        let mut single = WriteBatch::new();
                        single.push(op);
                        self.commit_inner(single, asked).await?;
                    }
                }
                Err(error)
            }
        }
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        match self.fault {
            Fault::TriesReadInVain => Some(Ok(Vec::new())),
            // Faults are to be found by reads that wait, too.
            Fault::None => Some(self.spoil_read(log, from, limits)),
            _ => None,
        }
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.spoil_read(log, from, limits)
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        self.check_open()?;
        self.inner.bounds(log)
    }

    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.check_open()?;
        if self.fault != Fault::SearchesTimesAsSorted {
            return self.inner.offset_at(log, time).await;
        }
        let Bounds { first, end } = self.inner.bounds(log)?;
        let all = ReadLimits { records: usize::MAX, bytes: usize::MAX };
        let batches = self.inner.read(log, first, all).await?;
        let at = batches.partition_point(|batch| batch.time < time);
        Ok(batches.get(at).map_or(end, |batch| batch.first))
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        self.check_open()?;
        let mut logs = self.inner.logs()?;
        if self.fault == Fault::ListsByLength {
            logs.sort_by_key(|info| info.log.as_str().len());
        }
        Ok(logs)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check_open()?;
        self.inner.value(key)
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.check_open()?;
        if self.fault == Fault::LosesPrefixesOfFf && prefix.last() == Some(&0xff) {
            return Ok(Vec::new());
        }
        self.inner.values(prefix)
    }

    fn stats(&self) -> StoreStats {
        let mut stats = self.inner.stats();
        let most = self.memory_most.fetch_max(stats.memory_bytes, SeqCst).max(stats.memory_bytes);
        if self.fault == Fault::NeverGivesBackMemory {
            stats.memory_bytes = most;
        }
        stats
    }

    fn health(&self) -> Result<(), StoreError> {
        self.check_open()
    }

    async fn close(&self) -> Result<(), StoreError> {
        let again = self.closed.swap(true, SeqCst);
        assert!(!again || self.fault != Fault::PanicsAtASecondClose, "closed twice");
        Ok(())
    }
}
