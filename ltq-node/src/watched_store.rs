//! A store that keeps count: how long commits take, which are refused and why, and whether there
//! is room. What operators look at first when a broker is slow or takes no messages.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Committed, Durability, Store, StoreError, WriteBatch, WriteOp};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Hands everything to the store within, and keeps count.
pub struct WatchedStore {
    store: Arc<dyn Store>,
    counts: Counts,
    /// When a commit was last refused for lack of room, or of descriptors for a file, and the store's
    /// words; none since one with messages was taken.
    full: Mutex<Option<(Instant, String)>>,
    files: Option<Files>,
    figures: Option<Figures>,
}

/// A figure of a store's own, beside those that every store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Its name as a metric.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

/// Asks a store for its own figures.
pub type Figures = Arc<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// Where a store has its files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory.
    pub dir: PathBuf,
    /// What publishes leave free on its device.
    pub reserve_bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    took: [Took; 3],
    refused: [AtomicU64; REFUSED.len()],
}

/// How long the commits of one durability took.
#[derive(Debug, Default)]
struct Took {
    /// By the first of [`BUCKETS`] that holds it; the last is for what is beyond them.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

/// How long the commits of one durability took, up to now.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitTimes {
    /// What the commits asked for.
    pub durability: Durability,
    /// For each of [`BUCKETS`], how many took no longer; then how many there were.
    pub no_longer: [u64; BUCKETS.len() + 1],
    /// All their times together, in seconds.
    pub seconds: f64,
}

impl WatchedStore {
    /// Watches a store; `files` says where it has some.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, files: Option<Files>) -> Self {
        Self { store, counts: Counts::default(), full: Mutex::new(None), files, figures: None }
    }

    /// The same, with figures of its own to show.
    #[must_use]
    pub fn with_figures(mut self, figures: Option<Figures>) -> Self {
        self.figures = figures;
        self
    }

    /// The store's own figures; none where it has none.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        self.figures.as_ref().map_or_else(Vec::new, |figures| figures())
    }

    /// How long commits took.
    #[must_use]
    pub fn commit_times(&self) -> [CommitTimes; 3] {
        let of = |durability: Durability, took: &Took| {
            let mut sum = 0;
            let no_longer = std::array::from_fn(|at| {
                sum += took.buckets.get(at).map_or(0, |bucket| bucket.load(Relaxed));
                sum
            });
            let seconds = took.micros.load(Relaxed) as f64 / 1e6;
            CommitTimes { durability, no_longer, seconds }
        };
        let [memory, os, disk] = &self.counts.took;
        [of(Durability::Memory, memory), of(Durability::Os, os), of(Durability::Disk, disk)]
    }

    /// Commits that were not done, by the reasons in [`REFUSED`].
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSED.iter().zip(&self.counts.refused).map(|(why, count)| (*why, count.load(Relaxed)))
    }

    /// Bytes free on the device of the store's files; `None` when it has none, or the system does
    /// not say.
    #[must_use]
    pub fn device_free_bytes(&self) -> Option<u64> {
        free_bytes(&self.files.as_ref()?.dir)
    }

    /// Why there is no room for messages, as far as that is known: the device has less free than
    /// publishes are to leave, or one was refused for lack of room, or of descriptors for a file, within the
    /// last [`FULL_FOR`].
    /// So a node that nobody publishes to any more, because it says so, is tried again.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        if let (Some(files), Some(free)) = (&self.files, self.device_free_bytes())
            && free < files.reserve_bytes
        {
            let (dir, reserve) = (files.dir.display(), files.reserve_bytes);
            return Some(format!(
                "the device of {dir} has {free} bytes free, less than reserve_bytes ({reserve})"
            ));
        }
        let full = self.full.lock();
        full.as_ref().filter(|(at, _)| at.elapsed() < FULL_FOR).map(|(_, words)| words.clone())
    }

    fn note(&self, publishes: bool, result: Result<Durability, &StoreError>, took: Duration) {
        let error = match result {
            Ok(asked) => {
                let [memory, os, disk] = &self.counts.took;
                let kind = match asked {
                    Durability::Memory => memory,
                    Durability::Os => os,
                    Durability::Disk => disk,
                };
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let at = BUCKETS.partition_point(|bucket| *bucket < micros);
                if let Some(bucket) = kind.buckets.get(at) {
                    bucket.fetch_add(1, Relaxed);
                }
                kind.micros.fetch_add(micros, Relaxed);
                if publishes {
                    *self.full.lock() = None;
                }
                return;
            }
            Err(error) => error,
        };
        let [full, short, failed, closed, other] = &self.counts.refused;
        if matches!(error, StoreError::Full { .. } | StoreError::Short { .. }) {
            *self.full.lock() = Some((Instant::now(), error.to_string()));
        }
        match error {
            StoreError::Full { .. } => full,
            StoreError::Short { .. } => short,
            StoreError::Failed(_) | StoreError::Io { .. } => failed,
            StoreError::Closed => closed,
            _ => other,
        }
        .fetch_add(1, Relaxed);
    }
}

#[async_trait]
impl ltq_core::StoreLayer for WatchedStore {
    type Inner = dyn Store;

    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let publishes = batch.ops().iter().any(|op| matches!(op, WriteOp::Append { .. }));
        let begun = Instant::now();
        let result = self.store.commit(batch, durability).await;
        self.note(publishes, result.as_ref().map(|_| durability), begun.elapsed());
        result
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(dir).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Microseconds: from less than any device takes to more than any client waits.
pub const BUCKETS: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000,
    10_000_000,
];
/// Why commits are not done: there is no room, no file can be opened for now, the device failed, the store
/// is closed, or another reason.
pub const REFUSED: [&str; 5] = ["full", "short", "failed", "closed", "other"];
/// How long a refusal for lack of room speaks for those that follow.
pub const FULL_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use ltq_core::{LogName, LogOptions, Message, Offset, Records, Timestamp};
    use ltq_store::MemoryStore;

    use super::*;

    async fn publish(store: &WatchedStore, at: u64, bytes: usize) -> Result<Committed, StoreError> {
        let records = Records::encode([&Message::new(vec![0; bytes])]);
        let mut batch = WriteBatch::new();
        batch.append(LogName::new("t"), Offset(at), Timestamp(0), records);
        store.commit(batch, Durability::Memory).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_says_so_until_it_takes_something_or_a_while_has_passed() {
        let store = WatchedStore::new(Arc::new(MemoryStore::new(1 << 20)), None);
        let mut batch = WriteBatch::new();
        batch.create_log(LogName::new("t"), LogOptions { durable: false });
        store.commit(batch, Durability::Memory).await.unwrap();
        publish(&store, 0, 1 << 19).await.unwrap();
        assert_eq!(store.full(), None);
        publish(&store, 1, 1 << 20).await.unwrap_err();
        assert!(store.full().unwrap().contains("full"), "{:?}", store.full());
        assert_eq!(store.refused().next(), Some(("full", 1)));
        // An ack gets in where a message does not: that is no sign of room.
        store.commit(WriteBatch::new(), Durability::Memory).await.unwrap();
        assert!(store.full().is_some());
        publish(&store, 1, 10).await.unwrap();
        assert_eq!(store.full(), None);
        publish(&store, 2, 1 << 20).await.unwrap_err();
        tokio::time::advance(FULL_FOR).await;
        assert_eq!(store.full(), None);
        let [memory, ..] = store.commit_times();
        assert_eq!(memory.no_longer.last(), Some(&4));
    }

    #[test]
    fn a_device_with_less_free_than_the_reserve_is_full() {
        let files = |reserve_bytes| Some(Files { dir: std::env::temp_dir(), reserve_bytes });
        let store =
            |reserve| WatchedStore::new(Arc::new(MemoryStore::new(1 << 20)), files(reserve));
        assert_eq!(store(0).full(), None);
        assert!(store(0).device_free_bytes().unwrap() > 0);
        assert!(store(u64::MAX).full().unwrap().contains("reserve_bytes"));
    }

    #[test]
    fn times_are_counted_by_how_long_they_were() {
        let store = WatchedStore::new(Arc::new(MemoryStore::new(1 << 20)), None);
        for micros in [50, 51, 20_000_000] {
            store.note(true, Ok(Durability::Disk), Duration::from_micros(micros));
        }
        let [memory, _, disk] = store.commit_times();
        assert_eq!((disk.no_longer[0], disk.no_longer[1], disk.no_longer[13]), (1, 2, 2));
        assert_eq!(disk.no_longer[14], 3);
        assert!((disk.seconds - 20.000_101).abs() < 1e-9);
        assert_eq!(memory.no_longer[14], 0);
    }
}
