//! [`OneFileStore`]: a store as a third party might write one. It keeps everything in memory, within
//! a limit, and every batch in one append-only file, from which memory is filled again when it is
//! opened.
//!
//! It shows what there is to be decided, not how to be fast: a commit writes and syncs on the thread
//! that polls it, and each syncs by itself. `tests/conformance.rs` runs the whole suite of the
//! `Store` contract on it, and what the suite cannot see is in `tests/file.rs`.
#![forbid(unsafe_code)]

mod batches;
mod held;

use std::{io, path::Path};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};
use parking_lot::Mutex;

use self::{
    batches::{Batches, changes_of},
    held::Held,
};

/// Everything in memory, and in one file.
///
/// A batch takes effect at one moment: when it was written, under the one lock that every method
/// takes. So batches are atomic, ordered by their first poll, and whole or absent when a commit is
/// dropped; readers see what was written as durably as it was asked to be.
///
/// The file is written anew when less than half of it is still wanted. After a write or sync that
/// failed no batch is taken any more.
#[derive(Debug)]
pub struct OneFileStore {
    open: Mutex<Open>,
    bytes_max: u64,
}

#[derive(Debug)]
struct Open {
    /// `None` once it was closed.
    batches: Option<Batches>,
    held: Held,
    failed: Option<String>,
    commits: u64,
}

impl Open {
    fn check(&self) -> Result<(), StoreError> {
        if self.batches.is_none() { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// The file, if batches are taken.
    fn batches(&mut self) -> Result<&mut Batches, StoreError> {
        match (&mut self.batches, &self.failed) {
            (None, _) => Err(StoreError::Closed),
            (_, Some(why)) => Err(StoreError::Failed(why.clone())),
            (Some(batches), None) => Ok(batches),
        }
    }

    /// Nobody knows what is in the file any more.
    fn fail(&mut self, doing: &str, error: &io::Error) -> StoreError {
        let why = format!("{doing} failed: {error}");
        self.failed = Some(why.clone());
        StoreError::Failed(why)
    }

    fn commit(
        &mut self,
        batch: &WriteBatch,
        durability: Durability,
        bytes_max: u64,
    ) -> Result<Committed, StoreError> {
        self.batches()?;
        let reach = self.held.judge(batch)?;
        let changes = changes_of(batch);
        self.held.check_room(&changes, bytes_max)?;
        if !changes.is_empty() {
            let written = self.batches()?.append(&changes);
            written.map_err(|error| self.fail("writing a batch", &error))?;
        }
        if durability == Durability::Disk {
            let synced = self.batches()?.sync();
            synced.map_err(|error| self.fail("syncing", &error))?;
        }
        self.held.apply(changes);
        self.commits += 1;
        if self.batches()?.bytes() > 2 * self.held.bytes() + SLACK_BYTES {
            let everything = self.held.changes();
            let written = self.batches()?.write_anew(&everything);
            written.map_err(|error| self.fail("writing the file anew", &error))?;
        }
        Ok(Committed { durability: durability.min(reach) })
    }
}

impl OneFileStore {
    /// Opens the store in a file of that name, made if there is none. Records, values and what is
    /// known of logs may take so many bytes, the same again on disk and some more.
    ///
    /// # Errors
    /// [`StoreError::Open`] when it is open elsewhere, no such store, or damaged;
    /// [`StoreError::Io`].
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        let mut held = Held::default();
        let batches = Batches::open(path, |changes| held.apply(changes))?;
        let open = Open { batches: Some(batches), held, failed: None, commits: 0 };
        Ok(Self { open: Mutex::new(open), bytes_max })
    }
}

#[async_trait]
impl Store for OneFileStore {
    fn durability_max(&self) -> Durability {
        Durability::Disk
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        batch.check()?;
        self.open.lock().commit(&batch, durability, self.bytes_max)
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        let open = self.open.lock();
        Some(open.check().and_then(|()| open.held.log(log)?.read(log, from, limits)))
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let open = self.open.lock();
        open.check()?;
        open.held.log(log)?.read(log, from, limits)
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        let open = self.open.lock();
        open.check()?;
        Ok(open.held.log(log)?.bounds())
    }

    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        let open = self.open.lock();
        open.check()?;
        Ok(open.held.log(log)?.offset_at(time))
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        let open = self.open.lock();
        open.check()?;
        Ok(open.held.logs())
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let open = self.open.lock();
        open.check()?;
        Ok(open.held.value(key))
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let open = self.open.lock();
        open.check()?;
        Ok(open.held.values(prefix))
    }

    fn stats(&self) -> StoreStats {
        let open = self.open.lock();
        let file = open.batches.as_ref();
        StoreStats {
            commits: open.commits,
            memory_bytes: open.held.bytes(),
            disk_bytes: file.map_or(0, Batches::bytes),
            ..StoreStats::default()
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.open.lock().batches().map(|_| ())
    }

    async fn close(&self) -> Result<(), StoreError> {
        let mut open = self.open.lock();
        let Some(mut batches) = open.batches.take() else { return Ok(()) };
        open.held = Held::default();
        if let Some(why) = &open.failed {
            return Err(StoreError::Failed(why.clone()));
        }
        batches.sync().map_err(|error| open.fail("syncing", &error))
    }
}

/// Below this it is not worth the while to write the file anew.
const SLACK_BYTES: u64 = 1 << 20;
