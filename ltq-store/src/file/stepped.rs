//! The engine for whoever drives it by hand: [`SteppedStore`].

use bytes::Bytes;
use ltq_core::{
    Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, StoreError,
    Timestamp, WriteBatch,
};

use super::{
    engine::{Answer, Caller, Engine},
    options::FileStoreOptions,
    recovery,
};

/// A [`FileStore`](crate::FileStore) for which nobody works: it has neither threads nor tasks, and
/// does nothing but what it is told to, before that returns. For loops that play with a
/// [`SimulatedDisk`](crate::simulation::SimulatedDisk) millions of times.
///
/// Dropped without [`close`](Self::close) it is as after a crash of the process.
#[derive(Debug)]
pub struct SteppedStore(Engine);

/// A commit that was taken in.
#[derive(Debug)]
pub struct Submitted(Answer);

/// What those do who work for a store, a little at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStep {
    /// Writes what waits for it, and syncs it where somebody waits for that, or if `sync_due`.
    Commit {
        /// Syncs in any case.
        sync_due: bool,
    },
    /// Makes what room there is to be made.
    Keep,
    /// Writes segments anew that are mostly garbage.
    Rewrite,
    /// Moves to segments what is in journal files that are full.
    Checkpoint,
}

impl SteppedStore {
    /// Opens the store in a directory, or makes one.
    ///
    /// # Errors
    /// As [`FileStore::open`](crate::FileStore::open).
    pub fn open(options: FileStoreOptions) -> Result<Self, StoreError> {
        recovery::open(options).map(Self)
    }

    /// Takes a commit in. One that asks for `Os` is written at once, and with `syncs` one that asks
    /// for `Disk` is synced too where that may be done by who brings it
    /// ([`FileStoreOptions::caller_sync_max`]). Otherwise it waits for steps.
    ///
    /// # Errors
    /// As [`Store::commit`](ltq_core::Store::commit), where it is not taken in at all.
    pub fn submit(
        &self,
        batch: WriteBatch,
        durability: Durability,
        syncs: bool,
    ) -> Result<Submitted, StoreError> {
        let caller = if syncs { Caller::Syncs } else { Caller::Writes };
        self.0.submit(batch, durability, caller).map(Submitted)
    }

    /// Does some work. That it fails is told to whoever waits for a commit.
    pub fn step(&self, step: StoreStep) {
        // A failure is kept, and told by `health`.
        let _ = match step {
            StoreStep::Commit { sync_due } => self.0.commit_step(sync_due),
            StoreStep::Keep => self.0.keep_step(),
            StoreStep::Rewrite => self.0.rewrite_step().map(|_| ()),
            StoreStep::Checkpoint => {
                let mut keeping = self.0.keeping.lock();
                self.0.checkpoint(&mut keeping, false)
            }
        };
    }

    /// Reads as [`Store::read`](ltq_core::Store::read) does.
    ///
    /// # Errors
    /// The same.
    pub fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.0.read(log, from, limits)
    }

    /// Looks up a time as [`Store::offset_at`](ltq_core::Store::offset_at) does.
    ///
    /// # Errors
    /// The same.
    pub fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.0.offset_at(log, time)
    }

    /// All logs, ordered by name.
    #[must_use]
    pub fn logs(&self) -> Vec<LogInfo> {
        let mut logs = self.0.state.read().logs();
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        logs
    }

    /// All values, ordered by key.
    #[must_use]
    pub fn values(&self) -> Vec<(Bytes, Bytes)> {
        self.0.state.read().values(b"")
    }

    /// Whether it takes commits.
    ///
    /// # Errors
    /// [`StoreError::Failed`] after a write or sync that failed.
    pub fn health(&self) -> Result<(), StoreError> {
        self.0.failure().map_or(Ok(()), Err)
    }

    /// Closes it: nothing is missing then.
    ///
    /// # Errors
    /// As [`Store::close`](ltq_core::Store::close).
    pub fn close(self) -> Result<(), StoreError> {
        self.0.begin_closing();
        self.0.finish_closing()
    }
}

impl Submitted {
    /// How it has ended, once it has; said once.
    #[allow(clippy::missing_errors_doc, reason = "it is what it tells that may be an error")]
    pub fn answer(&mut self) -> Option<Result<Committed, StoreError>> {
        self.0.try_recv().ok()
    }
}
