//! [`RocksDbStore`]: everything in RocksDB, the newest records in memory beside it.

mod change;
mod commit;
mod database;
mod engine;
mod format;
mod identity;
mod keeper;
mod options;
mod planned;
mod reader;
mod recovery;
mod spare;
mod state;
mod statistics;
mod tail;
mod threads;
mod times;
mod write;

#[cfg(test)]
mod tests;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};
use rocksdb::statistics::Ticker;

use self::{database::Database, engine::Engine, state::Log, threads::Threads};

pub use self::{options::RocksDbStoreOptions, statistics::RocksDbFigure};

/// Keeps logs and values in a RocksDB database in one directory. Comes with the feature `rocksdb`.
///
/// It keeps the whole contract of [`Store`] at [`Durability::Disk`], and adds to it:
///
/// - All batches that wait are one write to RocksDB, made by a thread of the store's own, with one
///   sync of its write-ahead log if anybody asked for `Disk`. `Os` and `Memory` are the same here:
///   written to the write-ahead log without a sync, and synced within
///   [`RocksDbStoreOptions::os_sync_interval`]. Logs that are not durable bypass that log.
/// - The newest records of all logs stay in memory, where [`try_read`](Store::try_read) finds them;
///   older ones are read from RocksDB on a thread of tokio's blocking pool. All values stay in
///   memory, beside [`RocksDbStoreOptions::tail_bytes`]; batches on their way do too.
/// - What is truncated, discarded or deleted goes by ranges, in the background, and files are
///   merged for it once it is half as much as what is wanted, or 64 MiB if that is more.
/// - Records carry LTQ's own checksums beside RocksDB's. Damage in a file is reported with the file
///   and position that RocksDB names, and costs what is in the block. What RocksDB itself cannot go
///   on without (its manifest, a whole file) keeps the store from opening, and damage that it meets
///   while merging files stops commits: the file store bears more.
/// - When RocksDB fails to write, other than for want of room, the store takes no commits any more,
///   and reads go on. A file that it cannot open for want of descriptors is such a failure, so that
///   before each write the store sees whether one could be, and refuses with [`StoreError::Short`]
///   until one can; it keeps [some](RocksDbStoreOptions::open_files_max) for what RocksDB is at just
///   then.
/// - Dropped without [`close`](Store::close) it is as after a crash of the process.
///
/// ```
/// use ltq_core::{
///     Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store, Timestamp,
///     WriteBatch,
/// };
/// use ltq_store::{RocksDbStore, RocksDbStoreOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("data");
/// let store = RocksDbStore::open(RocksDbStoreOptions::new(&dir)).await?;
/// let orders = LogName::new("orders");
/// let mut batch = WriteBatch::new();
/// batch.create_log(orders.clone(), LogOptions::default());
/// batch.append(orders.clone(), Offset(0), Timestamp(1), Records::encode(&[Message::new("one")]));
/// store.commit(batch, Durability::Disk).await?;
/// store.close().await?;
///
/// let store = RocksDbStore::open(RocksDbStoreOptions::new(&dir)).await?;
/// let limits = ReadLimits { records: 100, bytes: 1 << 20 };
/// assert_eq!(store.read(&orders, Offset(0), limits).await?.len(), 1);
/// # store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RocksDbStore {
    engine: Arc<Engine>,
    threads: Arc<Threads>,
}

impl RocksDbStore {
    /// Opens the store in a directory, or makes one where there is none or it is empty.
    ///
    /// Work that blocks is done on a thread of tokio's blocking pool.
    ///
    /// # Errors
    /// - [`StoreError::Open`] when the directory is not to be opened. Nothing was written then,
    ///   except by RocksDB itself where its own files are damaged; those of them that it would
    ///   shorten are copied first, to `damaged`.
    /// - [`StoreError::Invalid`] when an option is out of bounds.
    /// - [`StoreError::Io`] when the operating system refuses something.
    ///
    /// # Cancellation
    /// Dropping the future may leave an empty store behind, and the directory locked for as long
    /// as it takes to open and close it.
    pub async fn open(options: RocksDbStoreOptions) -> Result<Self, StoreError> {
        match tokio::task::spawn_blocking(|| Self::open_blocking(options)).await {
            Ok(opened) => opened,
            Err(error) => {
                Err(StoreError::Io { doing: "opening".to_owned(), cause: error.to_string() })
            }
        }
    }

    /// Opens the store in a directory to look at it: it answers reads as it would after
    /// [`open`](Self::open), refuses commits with [`StoreError::Failed`], and writes nothing at
    /// all, so that it may lie on a medium that is read-only. While it is open no other process
    /// can open the directory, unless its file `lock` is missing, as in a copy.
    ///
    /// # Errors
    /// [`StoreError::Open`] when there is no store or it is not to be opened, and those of
    /// [`open`](Self::open).
    ///
    /// # Cancellation
    /// Dropping the future may leave the directory locked for as long as it takes to open it.
    pub async fn open_read_only(options: RocksDbStoreOptions) -> Result<Self, StoreError> {
        let opened = tokio::task::spawn_blocking(|| recovery::open_read_only(options)).await;
        let engine = opened.unwrap_or_else(|error| {
            Err(StoreError::Io { doing: "opening".to_owned(), cause: error.to_string() })
        })?;
        Ok(Self { engine: Arc::new(engine), threads: Arc::new(Threads::none()) })
    }

    fn open_blocking(options: RocksDbStoreOptions) -> Result<Self, StoreError> {
        let (engine, times) = recovery::open(options)?;
        let engine = Arc::new(engine);
        let threads = Threads::start(&engine, times).map_err(|error| StoreError::Io {
            doing: "starting a thread".to_owned(),
            cause: error.to_string(),
        })?;
        Ok(Self { engine, threads: Arc::new(threads) })
    }

    /// RocksDB's own figures, for metrics; none once it was closed. It may wait for RocksDB for
    /// some microseconds.
    #[must_use]
    pub fn figures(&self) -> Vec<RocksDbFigure> {
        let database = self.engine.database.read();
        let figures = |database: &Database| database.figures(self.engine.spare.figures());
        database.as_ref().map(figures).unwrap_or_default()
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
        match tokio::task::spawn_blocking(move || work(&engine)).await {
            Ok(done) => done,
            Err(error) => {
                Err(StoreError::Io { doing: "reading".to_owned(), cause: error.to_string() })
            }
        }
    }
}

impl Drop for RocksDbStore {
    fn drop(&mut self) {
        // As little as possible, but nobody else may open it before the last write is through.
        self.threads.stop(&self.engine);
        self.engine.give_up();
    }
}

#[async_trait]
impl Store for RocksDbStore {
    fn durability_max(&self) -> Durability {
        Durability::Disk
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let answer = self.engine.submit(batch, durability)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        let found = self.look_at(log, |found| {
            let until = found.until(log, from)?;
            Ok(found.read(from, until, limits))
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
        let log = log.clone();
        self.blocking(move |engine| engine.offset_at(&log, time)).await
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        let mut logs = state.infos();
        drop(state);
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(logs)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        Ok(state.value(key).cloned())
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let state = self.engine.state.read();
        self.engine.check_open()?;
        Ok(state.values(prefix))
    }

    fn stats(&self) -> StoreStats {
        let counters = &self.engine.counters;
        let unseen = self.engine.front.lock().unseen_bytes;
        let memory_bytes = self.engine.state.read().memory_bytes() + unseen;
        let database = self.engine.database.read();
        let ticker = |ticker| database.as_ref().map_or(0, |it| it.ticker(ticker));
        let written = [Ticker::WalFileBytes, Ticker::FlushWriteBytes, Ticker::CompactWriteBytes];
        StoreStats {
            commits: counters.commits.load(Relaxed),
            syncs: ticker(Ticker::WalFileSynced),
            bytes_written: written.into_iter().map(ticker).sum(),
            bytes_rewritten: counters.bytes_rewritten.load(Relaxed),
            memory_bytes,
            disk_bytes: database.as_ref().map_or(0, Database::disk_bytes),
            damaged_records: counters.damaged_records.load(Relaxed),
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.engine.check_open()?;
        self.engine.failure().map_or(Ok(()), Err)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.engine.begin_closing();
        let threads = Arc::clone(&self.threads);
        self.blocking(move |engine| threads.close(engine)).await
    }
}
