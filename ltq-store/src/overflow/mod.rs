//! [`OverflowStore`]: memory first, disk second, for any two stores.

mod claim;
mod commit;
mod plan;
mod read;
mod room;
mod running;
mod state;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};

use self::{
    running::Running,
    state::{State, Volatile},
};

/// Puts a bounded, fast store in front of another, so that what need not be durable stays in the
/// first for as long as it fits and moves to the second when it does not.
///
/// - Records of logs that are not durable ([`LogOptions::durable`](ltq_core::LogOptions)) go to
///   the front. When the front is full the oldest of them move to the back, some
///   [`OverflowOptions::move_bytes`] at a time, before the commit that needs their room resolves.
///   [`close`](Store::close) moves all of them, so that a clean stop loses nothing.
/// - Everything else goes to the back, as durable as asked, in one batch there. What is appended
///   to durable logs is also copied to the front, room permitting
///   ([`OverflowOptions::cache_durable`]): consumers that keep up read from there.
/// - The front is what it is for this process alone. It starts empty, and what a crash finds in
///   it is lost: records that were never promised to survive one.
///
/// It keeps the whole contract of [`Store`] if both stores do, at the back's
/// [`durability_max`](Store::durability_max). A batch is refused as full only when the back is.
/// Commits run in tasks of their own on the current tokio runtime.
///
/// ```
/// use ltq_core::{Store, StoreError};
/// use ltq_store::{FileStore, FileStoreOptions, MemoryStore, OverflowOptions, OverflowStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("data");
/// let memory = MemoryStore::new(256 << 20);
/// let files = FileStore::open(FileStoreOptions::new(&dir)).await?;
/// let store = OverflowStore::open(memory, files, OverflowOptions::default())?;
/// # store.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct OverflowStore<F, B> {
    shared: Arc<Shared<F, B>>,
    running: Arc<Running>,
}

/// How an [`OverflowStore`] uses its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowOptions {
    /// Whether the front also keeps copies of what is appended to durable logs, as long as nothing
    /// else needs the room. Of little use before a back store that keeps its newest records in
    /// memory itself, as [`FileStore`](crate::FileStore) does. Default: true.
    pub cache_durable: bool,
    /// How many bytes of records move to the back at a time when the front is full, at least one
    /// batch as it was appended. Default: 1 MiB.
    pub move_bytes: usize,
}

impl Default for OverflowOptions {
    fn default() -> Self {
        Self { cache_durable: true, move_bytes: 1 << 20 }
    }
}

/// What commits, readers and moves share.
struct Shared<F, B> {
    front: F,
    back: B,
    options: OverflowOptions,
    /// Held from a commit's first poll until its batch has its place in the back store, so that
    /// batches take effect in the order in which they came.
    order: Arc<Mutex<()>>,
    state: RwLock<State>,
    /// A commit gave up what it had claimed.
    freed: Notify,
    batches: AtomicU64,
    commits: AtomicU64,
}

impl<F: Store, B: Store> OverflowStore<F, B> {
    /// Puts `front` in front of `back`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when `front` holds anything; what `front` and `back` say when they
    /// are asked what they hold.
    pub fn open(front: F, back: B, options: OverflowOptions) -> Result<Self, StoreError> {
        if !front.logs()?.is_empty() || !front.values(&[])?.is_empty() {
            return Err(StoreError::Invalid(
                "the front of an overflow store holds something, and must be empty".to_owned(),
            ));
        }
        let mut state = State::default();
        for info in back.logs()? {
            if !info.options.durable {
                let mut log = Volatile::new(info.options, info.bounds.end);
                log.bounds = info.bounds;
                state.volatile.insert(info.log, log);
            }
        }
        let shared = Shared {
            front,
            back,
            options,
            order: Arc::default(),
            state: RwLock::new(state),
            freed: Notify::new(),
            batches: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared), running: Arc::default() })
    }

    /// The store in front.
    #[must_use]
    pub fn front(&self) -> &F {
        &self.shared.front
    }

    /// The store behind it.
    #[must_use]
    pub fn back(&self) -> &B {
        &self.shared.back
    }
}

impl<F, B> fmt::Debug for OverflowStore<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverflowStore")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<F: Store, B: Store> Store for OverflowStore<F, B> {
    fn durability_max(&self) -> Durability {
        self.shared.back.durability_max()
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        batch.check()?;
        // The first poll takes a place in the queue. The rest goes on in a task of its own, so that
        // nothing is left half done when this future is dropped.
        let mut turn = Box::pin(Arc::clone(&self.shared.order).lock_owned());
        let first = poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await;
        let shared = Arc::clone(&self.shared);
        let committed = self.running.start(async move {
            let order = match first {
                Poll::Ready(order) => order,
                Poll::Pending => turn.await,
            };
            shared.commit(order, batch, durability).await
        });
        match committed.await {
            Ok(committed) => committed,
            Err(_) => Err(self.shared.fail("committing", &"it was not brought to its end")),
        }
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        self.shared.try_read(log, from, limits)
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.shared.read(log, from, limits).await
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        let state = self.shared.state.read();
        self.shared.bounds(&state, log)
    }

    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.shared.offset_at(log, time).await
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        self.shared.logs()
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.shared.value(key)
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.shared.values(prefix)
    }

    fn stats(&self) -> StoreStats {
        let (front, back) = (self.shared.front.stats(), self.shared.back.stats());
        StoreStats {
            commits: self.shared.commits.load(Relaxed),
            syncs: front.syncs + back.syncs,
            bytes_written: front.bytes_written + back.bytes_written,
            bytes_rewritten: front.bytes_rewritten + back.bytes_rewritten,
            memory_bytes: front.memory_bytes + back.memory_bytes,
            disk_bytes: front.disk_bytes + back.disk_bytes,
            damaged_records: front.damaged_records + back.damaged_records,
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.check(&self.shared.state.read())?;
        self.shared.front.health()?;
        self.shared.back.health()
    }

    async fn close(&self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        match self.running.start(async move { shared.close().await }).await {
            Ok(closed) => closed,
            Err(_) => Err(self.shared.fail("closing", &"it was not brought to its end")),
        }
    }
}

impl<F, B> Drop for OverflowStore<F, B> {
    fn drop(&mut self) {
        // Whoever gets the order when another is ended must not go on.
        self.shared.state.write().closed = true;
        self.running.end();
    }
}
