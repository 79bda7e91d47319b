//! [`FileStore`]: one journal for all logs, the newest records in memory, the rest in segments.

mod block;
mod buffers;
mod change;
mod check;
mod checkpoint;
mod closing;
mod commit;
mod engine;
mod entry;
mod filesystem;
mod format;
mod front;
mod identity;
mod index;
mod journal;
mod keeper;
mod log;
mod options;
mod os_filesystem;
mod pace;
mod parity;
mod planned;
mod reader;
mod recovery;
mod replay;
mod reserve;
mod rewrite;
mod room;
mod rounds;
mod segments;
mod signal;
mod sparse;
mod spill;
mod state;
#[cfg(feature = "simulation")]
mod stepped;
mod supply;
mod tail;
mod tasks;
mod threads;
mod walk;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};

use self::{
    engine::Engine,
    log::Found,
    log::Log,
    workers::{Workers, block},
};

#[cfg(feature = "rocksdb")]
pub(crate) use self::reserve::is_want;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::reserve::not_opened;
#[cfg(feature = "simulation")]
pub use self::stepped::{SteppedStore, StoreStep, Submitted};
pub use self::{
    check::{CheckProgress, CheckReport, CheckedFile, Damage, FileKind, KnownLoss, Loss, Repair},
    filesystem::{FileSystem, OpenMode, StoreFile},
    options::FileStoreOptions,
    os_filesystem::OsFileSystem,
    reserve::FileReserve,
};

/// Keeps logs and values in files of one directory.
///
/// It keeps the whole contract of [`Store`] at [`Durability::Disk`], and adds to it:
///
/// - All batches go to one journal. Those that ask for `Disk` at the same time share one sync.
/// - The newest records of all logs stay in memory, within [`FileStoreOptions::tail_bytes`]; there
///   [`try_read`](Store::try_read) finds them. Older ones are read from segments on a thread of
///   tokio's blocking pool. All values stay in memory.
/// - A commit that asks for `Os` writes up to 256 KiB on the calling thread, and one that asks for
///   `Disk` may sync there: see [`FileStoreOptions::caller_sync_max`]. One that asks for `Memory`
///   does no input or output at all. What did not ask for `Disk` is synced within
///   [`FileStoreOptions::os_sync_interval`].
/// - Batches keep their order: one that waits for room, in memory or in the journal, holds up all
///   that come after it, those that bring no records too. It waits while the store writes what is
///   in the way, or is refused.
/// - What is discarded ([`WriteOp::Discard`](ltq_core::WriteOp::Discard)) comes back on disk: a log's
///   segments take at most twice as much as its records in them that are wanted, and one segment,
///   once the store has caught up in the background. For records below some 30 bytes it is more.
/// - What is damaged is reported with its file and position and costs the records that it touches.
///   It is told from the torn end that a power cut may leave, which was never confirmed.
/// - When a write or sync of the journal fails the store takes no commits any more, and reads go
///   on.
/// - While the process has no descriptors left it goes on with some that it keeps for that, and when
///   they do not suffice, refuses what needs a file with [`StoreError::Short`] until there are some
///   again. The same where the machine has no descriptors or memory for one.
/// - Dropped without [`close`](Store::close) it is as after a crash of the process: what was
///   committed with `Os` or `Disk` is there when it is opened again.
///
/// ```
/// use ltq_core::{
///     Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store, Timestamp,
///     WriteBatch,
/// };
/// use ltq_store::{FileStore, FileStoreOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("data");
/// let store = FileStore::open(FileStoreOptions::new(&dir)).await?;
/// let orders = LogName::new("orders");
/// let mut batch = WriteBatch::new();
/// batch.create_log(orders.clone(), LogOptions::default());
/// batch.append(orders.clone(), Offset(0), Timestamp(1), Records::encode(&[Message::new("one")]));
/// store.commit(batch, Durability::Disk).await?;
/// store.close().await?;
///
/// let store = FileStore::open(FileStoreOptions::new(&dir)).await?;
/// let limits = ReadLimits { records: 100, bytes: 1 << 20 };
/// assert_eq!(store.read(&orders, Offset(0), limits).await?.len(), 1);
/// # store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileStore {
    engine: Arc<Engine>,
    workers: Arc<Workers>,
}

impl FileStore {
    /// Opens the store in a directory, or makes one where there is none or it is empty.
    ///
    /// Work that blocks is done on a thread of tokio's blocking pool.
    ///
    /// # Errors
    /// - [`StoreError::Open`] when the directory is not to be opened. Nothing was written then,
    ///   except where its device is full, which may show on the way; nothing is lost by that.
    /// - [`StoreError::Invalid`] when an option is out of bounds.
    /// - [`StoreError::Io`] when the operating system refuses something later on.
    ///
    /// # Cancellation
    /// Dropping the future may leave an empty store behind, and the directory locked for as long
    /// as it takes to open and close it.
    pub async fn open(options: FileStoreOptions) -> Result<Self, StoreError> {
        let simulation = options.simulation.clone();
        let opening = || recovery::open(options).map(Arc::new);
        let engine = block(simulation, "opening", opening).await?;
        let workers = Arc::new(Workers::start(&engine)?);
        Ok(Self { engine, workers })
    }

    /// Opens the store in a directory to look at it: it answers reads as it would after
    /// [`open`](Self::open), refuses commits with [`StoreError::Failed`], and writes nothing at
    /// all, so that it may lie on a medium that is read-only. While it is open no other process
    /// can open the directory.
    ///
    /// Of the options it uses the directory and the file system. What the journal holds, at most
    /// [`FileStoreOptions::journal_bytes_max`] of the store that wrote it, is in memory meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Open`] when there is no store or it is not to be opened, and
    /// [`StoreError::Io`] when the operating system refuses to read it.
    ///
    /// # Cancellation
    /// Dropping the future may leave the directory locked for as long as it takes to open it.
    pub async fn open_read_only(options: FileStoreOptions) -> Result<Self, StoreError> {
        let simulation = options.simulation.clone();
        let opening = move || recovery::open_read_only(&options).map(Arc::new);
        let engine = block(simulation.clone(), "opening", opening).await?;
        Ok(Self { engine, workers: Arc::new(Workers::none(simulation)) })
    }

    /// What it keeps to open files with when others have all descriptors, and how often that was not
    /// enough. Until a file can be opened again, [`StoreError::Short`] refuses what needs one.
    #[must_use]
    pub fn reserve(&self) -> FileReserve {
        self.engine.reserve.figures()
    }

    fn look_at<T>(&self, log: &LogName, look: impl FnOnce(&Log) -> T) -> Result<T, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        let found = state.logs.get(log);
        found.map(look).ok_or_else(|| StoreError::NoSuchLog(log.clone()))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(&self.engine);
        self.workers.block(move || work(&engine)).await
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        // As little as possible, but nobody else may open it before the last write is through.
        self.workers.stop(&self.engine);
        self.engine.give_up();
    }
}

#[async_trait]
impl Store for FileStore {
    fn durability_max(&self) -> Durability {
        Durability::Disk
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let mut answer = self.engine.submit(batch, durability, self.workers.caller())?;
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        let found = self.look_at(log, |found| {
            found.check_from(log, from)?;
            match found.find(from, limits) {
                Found::Memory(batches) => Ok(Some(batches)),
                Found::Hole(hole) => Err(hole.error(log, from)),
                Found::Segment(_) => Ok(None),
            }
        });
        found.and_then(|found| found).transpose()
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        if let Some(found) = self.try_read(log, from, limits) {
            return found;
        }
        let log = log.clone();
        self.blocking(move |engine| engine.read(&log, from, limits)).await
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        self.look_at(log, |found| found.bounds)
    }

    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        let in_memory = self.look_at(log, |found| {
            let from = found.bounds.first;
            let whole = found.segments.is_empty();
            whole.then(|| found.offset_in_tail(from, time))
        })?;
        if let Some(found) = in_memory {
            return Ok(found);
        }
        let log = log.clone();
        self.blocking(move |engine| engine.offset_at(&log, time)).await
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        let mut logs = state.logs();
        drop(state);
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(logs)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        Ok(state.values.get(key).cloned())
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        Ok(state.values(prefix))
    }

    fn stats(&self) -> StoreStats {
        let counters = &self.engine.counters;
        let (unseen, disk_bytes) = {
            let front = self.engine.front.lock();
            (front.unseen_bytes(), self.engine.disk_bytes(&front))
        };
        StoreStats {
            commits: counters.commits.load(Relaxed),
            syncs: counters.syncs.load(Relaxed),
            bytes_written: counters.bytes_written.load(Relaxed),
            bytes_rewritten: counters.rewritten_bytes.load(Relaxed),
            memory_bytes: self.engine.state.read().memory_bytes() + unseen,
            disk_bytes,
            damaged_records: counters.damaged_records.load(Relaxed),
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.engine.check_open()?;
        self.engine.failure().map_or(Ok(()), Err)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.engine.begin_closing();
        let workers = Arc::clone(&self.workers);
        self.blocking(move |engine| workers.close(engine)).await
    }
}
