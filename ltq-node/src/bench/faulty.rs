//! A store with a fault, to see that a run notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{
    Committed, Durability, LogName, Message, Offset, ReadLimits, RecordBatch, Records, Store,
    StoreError, WriteBatch, WriteOp,
};
use ltq_store::MemoryStore;

/// What is wrong with it. Its records' checksums are right: nobody but the run can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A byte of the message at [`AT`] is another one.
    Corrupts,
    /// In its place comes the one before it.
    Repeats,
    /// It and the one before it come in each other's place.
    Swaps,
    /// The first commit that holds a message later than the first takes [`STALL`].
    Stalls,
}

pub(super) struct Faulty {
    store: MemoryStore,
    fault: Fault,
    stalled: AtomicBool,
}

impl Faulty {
    pub(super) fn new(fault: Fault) -> Self {
        Self { store: MemoryStore::new(1 << 30), fault, stalled: AtomicBool::new(false) }
    }

    fn spoil(&self, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
        batches.into_iter().map(|batch| self.spoil_one(batch)).collect()
    }

    fn spoil_one(&self, batch: RecordBatch) -> RecordBatch {
        let mut messages: Vec<Message> = batch.records.messages().map(Result::unwrap).collect();
        let at = AT.checked_sub(batch.first.0).map(|at| at as usize);
        let Some(at) = at.filter(|at| (1..messages.len()).contains(at)) else { return batch };
        match self.fault {
            Fault::Corrupts => {
                let mut body = messages[at].body.to_vec();
                body[50] ^= 1;
                messages[at].body = body.into();
            }
            Fault::Repeats => messages[at] = messages[at - 1].clone(),
            Fault::Swaps => messages.swap(at - 1, at),
            Fault::Stalls => return batch,
        }
        RecordBatch { records: Records::encode(&messages), ..batch }
    }
}

#[async_trait]
impl ltq_core::StoreLayer for Faulty {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.store
    }

    async fn commit(&self, batch: WriteBatch, asked: Durability) -> Result<Committed, StoreError> {
        let late = |op: &WriteOp| matches!(op, WriteOp::Append { at, .. } if at.0 > 0);
        if self.fault == Fault::Stalls
            && batch.ops().iter().any(late)
            && !self.stalled.swap(true, Ordering::SeqCst)
        {
            tokio::time::sleep(STALL).await;
        }
        self.store.commit(batch, asked).await
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        self.store.try_read(log, from, limits).map(|read| read.map(|read| self.spoil(read)))
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.store.read(log, from, limits).await.map(|read| self.spoil(read))
    }
}

/// The offset of the message that is not as it was.
pub(super) const AT: u64 = 101;
/// How long the store stands still.
pub(super) const STALL: Duration = Duration::from_millis(500);
