//! The contract between a broker and whatever keeps its records: [`Store`].
//!
//! A store keeps named logs and small named values, and commits a batch of changes to any of them
//! atomically. Everything that must survive is one of the two, so that a transaction is one batch
//! and a backend stays small.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Durability, Offset, RecordBatch, Timestamp, WriteBatch};
#[cfg(doc)]
use crate::{Records, WriteOp};

/// The longest name of a log, in bytes.
pub const LOG_NAME_BYTES_MAX: usize = 255;
/// The longest key of a value, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// The name of a log: 1 to [`LOG_NAME_BYTES_MAX`] bytes of any text. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogName(Arc<str>);

impl LogName {
    /// Names a log. Stores refuse names outside the bounds in [`Store::commit`].
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Whether appends are written so that they can be made durable at all. A log that is not is
    /// kept in memory (and on disk beyond the store's memory budget, where the store has one); it
    /// may come back shorter or empty after a crash, and reaches [`Durability::Memory`] only. That
    /// holds for its records, truncations and discards: the log itself, its name and its options, is as
    /// durable as the commit that made it, so that it comes back, if with fewer records.
    pub durable: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { durable: true }
    }
}

/// The store's word on a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// How durable the batch is now: at least what was asked, or less where the store
    /// ([`Store::durability_max`]) or one of the logs in the batch can do no more
    /// ([`LogOptions::durable`]). Never more than was really done. For an empty batch: how durable
    /// everything before it is, apart from logs that cannot be made durable.
    pub durability: Durability,
}

/// The records that a log holds: from `first` (inclusive) to `end` (exclusive), apart from those
/// that were discarded ([`WriteOp::Discard`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest record's offset, discarded or not, or `end` when there is none.
    pub first: Offset,
    /// The offset that the next record will have.
    pub end: Offset,
}

/// How much one read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// The most records. With 0 a read checks the log and the offset, whether its record was
    /// discarded too, and returns none.
    pub records: usize,
    /// The most bytes ([`Records::byte_len`]), except that one record is returned whatever its
    /// size.
    pub bytes: usize,
}

/// A log and what it holds, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Its name.
    pub log: LogName,
    /// How it is kept.
    pub options: LogOptions,
    /// What it holds.
    pub bounds: Bounds,
}

/// A store's own figures, for metrics. A store that has no such thing says 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Commits since it was opened.
    pub commits: u64,
    /// Syncs of a device since it was opened.
    pub syncs: u64,
    /// Bytes that it wrote to files since it was opened.
    pub bytes_written: u64,
    /// Of those, bytes of records that it wrote anew to give back the space around them, since it
    /// was opened.
    pub bytes_rewritten: u64,
    /// Bytes of records and values that it keeps in memory.
    pub memory_bytes: u64,
    /// Bytes that its files take.
    pub disk_bytes: u64,
    /// Records found damaged since it was opened.
    pub damaged_records: u64,
}

/// Why a store did not do what it was asked.
///
/// Unless a variant says otherwise the call changed nothing. Where several changes of a batch are
/// at fault the error is about one of them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room for the batch. Space may come back: truncate, discard, delete, try again. A
    /// configured limit never refuses a batch that leaves no more in use than there was before,
    /// so that a full store can always be emptied.
    #[error(
        "the store is full: {wanted} bytes more would exceed {what} ({limit} bytes, {used} in use)"
    )]
    Full {
        /// Which limit: a configured one, or the device.
        what: String,
        /// The limit in bytes; 0 when it is the device's own and not known.
        limit: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes that the batch needs.
        wanted: u64,
    },
    /// A file could not be opened or made, as the process or the machine has no descriptors or no memory
    /// left for one. That passes: try again.
    #[error("{doing} has to wait: {cause}")]
    Short {
        /// What was being done to what.
        doing: String,
        /// The operating system's words.
        cause: String,
    },
    /// The batch breaks a rule of the contract, whatever the store's state: a name or key that is
    /// empty or too long, a value too large, an append without records or beyond the largest
    /// offset, an empty discard.
    #[error("the batch is refused: {0}")]
    Invalid(String),
    /// There is no log of that name.
    #[error("there is no log {0}")]
    NoSuchLog(LogName),
    /// There is already a log of that name.
    #[error("log {0} exists already")]
    LogExists(LogName),
    /// An append, truncation or discard does not fit where the log ends.
    #[error("log {log} ends at {end}, and the batch speaks of {got}")]
    WrongOffset {
        /// The log.
        log: LogName,
        /// Where it ends.
        end: Offset,
        /// The offset in the batch.
        got: Offset,
    },
    /// A read starts before the oldest record or after the end.
    #[error("log {log} holds {} to {}, and {from} was asked for", bounds.first, bounds.end)]
    OutOfRange {
        /// The log.
        log: LogName,
        /// What it holds.
        bounds: Bounds,
        /// The offset asked for.
        from: Offset,
    },
    /// The records from the offset asked for up to `until` (exclusive) were given up with
    /// [`WriteOp::Discard`]. Nothing is wrong: read on from `until`.
    #[error("log {log}: records {from} to {until} were discarded")]
    Discarded {
        /// The log.
        log: LogName,
        /// The offset asked for.
        from: Offset,
        /// The first offset behind it that was not discarded; the log's end when there is none.
        until: Offset,
    },
    /// The records from the offset asked for up to `until` (exclusive) cannot be read back as
    /// they were written. What comes after them can: read on from `until`.
    #[error(
        "log {log}: records {from} to {until} are damaged, at byte {position} of {file}: {what}"
    )]
    Damaged {
        /// The log.
        log: LogName,
        /// The first damaged record: the offset asked for.
        from: Offset,
        /// The first offset behind the damage.
        until: Offset,
        /// The file.
        file: String,
        /// The byte of the file where the damage was found.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// The device or the operating system refused, and the store goes on.
    #[error("{doing} failed: {cause}")]
    Io {
        /// What was being done to what.
        doing: String,
        /// The operating system's words.
        cause: String,
    },
    /// An earlier write or sync failed, so that nobody can know what is on the device. The store
    /// takes no commits any more and still answers reads, but for those that find damage, which a
    /// restart may show to be none. For a commit that was under way when it happened the outcome is
    /// unknown: after a restart the batch is there whole, or not at all.
    #[error("the store stopped taking commits: {0}")]
    Failed(String),
    /// The data directory is not to be opened: locked by another process, of a newer format, not
    /// a store at all, or its files do not fit together. Nothing was written, unless the device is
    /// what there is no room on.
    #[error("{path} cannot be opened: {why}")]
    Open {
        /// The directory or file.
        path: String,
        /// The reason, and what to do.
        why: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Keeps named logs and small named values, and commits changes to them atomically.
///
/// # Contract
///
/// *Atomic.* Of a batch everything is there or nothing, for readers in this process and after a
/// crash. An error other than [`StoreError::Failed`] means nothing.
///
/// *Ordered.* Batches take effect in the order in which their commits were first polled. A batch
/// that is there after a crash has all batches before it that were committed at the same or a
/// higher durability beside it.
///
/// *Honest.* [`Committed`] names what has been done, not what was asked. A failed write or sync
/// is never retried as though it had not happened.
///
/// *Visible when committed.* [`read`](Self::read), [`bounds`](Self::bounds) and
/// [`value`](Self::value) show a batch once its commit has resolved and never before it is as
/// durable as it was asked to be.
///
/// *Concurrent.* Every method may be called from many tasks at once. Appends to one log come from
/// one task at a time, each after the one before has resolved.
///
/// *Cancellation.* A commit whose future is dropped may or may not take effect, whole. A read
/// whose future is dropped has no effect.
///
/// `ltq_store::conformance` holds this trait's test suite for stores of your own. One that stands
/// around another and differs in little is a [`StoreLayer`](crate::StoreLayer).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The most that this store can promise of a batch.
    fn durability_max(&self) -> Durability;

    /// Makes all changes of `batch`, and resolves once they are as durable as asked. An empty
    /// batch is a barrier: it resolves once everything before it is as durable as asked.
    ///
    /// # Errors
    /// Any [`StoreError`] but `OutOfRange`, `Discarded` and `Damaged`.
    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError>;

    /// What [`read`](Self::read) would return, if that can be told without waiting; else `None`.
    /// Called on the path of every delivery: it must not block on a device.
    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>>;

    /// Consecutive records starting exactly at `from`, their checksums verified since they were
    /// last outside memory: as many as `limits` allow and it is cheap to return, at least one
    /// where there is one, none when `from` is the end. They stop before a discarded stretch. Batches need not be those appended: they
    /// follow each other without a gap, none is empty, and each carries the one time at which all
    /// of its records were appended.
    ///
    /// # Errors
    /// `NoSuchLog`, `OutOfRange`, `Discarded` and `Damaged` (when the record at `from` itself is),
    /// `Io`, `Short`, `Closed`; `Failed` in place of `Damaged` once the store takes no commits any more.
    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError>;

    /// What a log holds.
    ///
    /// # Errors
    /// `NoSuchLog`, `Closed`.
    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError>;

    /// The lowest offset, of those that the log still holds and that were not discarded, whose
    /// record's time is `time` or later; the end when there is none. So it is where times went back too: records behind that
    /// offset may be earlier than `time`, those before it all are.
    ///
    /// # Errors
    /// `NoSuchLog`, `Io`, `Short`, `Closed`.
    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError>;

    /// All logs, ordered by the bytes of their names.
    ///
    /// # Errors
    /// `Closed`.
    fn logs(&self) -> Result<Vec<LogInfo>, StoreError>;

    /// The value of a key; `None` also for a key that no value can have.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// All keys that start with `prefix` (with an empty one: all) and their values, ordered by the
    /// bytes of the key.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// The store's own figures.
    fn stats(&self) -> StoreStats;

    /// Whether it takes commits.
    ///
    /// # Errors
    /// `Failed` or `Closed`, with the reason.
    fn health(&self) -> Result<(), StoreError>;

    /// Makes everything committed so far as durable as it can be, logs that are not durable
    /// included where the store has files, and gives up files and locks. Later calls that can
    /// fail do so with [`StoreError::Closed`]; a commit under way at that moment resolves, as done
    /// or as closed. Calling it twice is harmless.
    ///
    /// # Errors
    /// `Failed` or `Io` when something could not be made durable; the store is closed all the
    /// same.
    async fn close(&self) -> Result<(), StoreError>;
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn durability_max(&self) -> Durability {
        (**self).durability_max()
    }
    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        (**self).commit(batch, durability).await
    }
    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        (**self).try_read(log, from, limits)
    }
    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        (**self).read(log, from, limits).await
    }
    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        (**self).bounds(log)
    }
    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        (**self).offset_at(log, time).await
    }
    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        (**self).logs()
    }
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        (**self).value(key)
    }
    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        (**self).values(prefix)
    }
    fn stats(&self) -> StoreStats {
        (**self).stats()
    }
    fn health(&self) -> Result<(), StoreError> {
        (**self).health()
    }
    async fn close(&self) -> Result<(), StoreError> {
        (**self).close().await
    }
}
