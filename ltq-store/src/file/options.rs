//! How a file store is set up.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ltq_core::{Entropy, StoreError};

use super::{filesystem::FileSystem, format::StoreId, os_filesystem::OsFileSystem};

/// Where a [`FileStore`](super::FileStore) keeps its files, and within which limits.
///
/// ```
/// use ltq_store::FileStoreOptions;
/// let options = FileStoreOptions::new("/var/lib/orders").tail_bytes(256 << 20);
/// assert!(options.check().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct FileStoreOptions {
    pub(super) dir: PathBuf,
    pub(super) tail_bytes: u64,
    pub(super) journal_file_bytes: u64,
    pub(super) journal_bytes_max: u64,
    pub(super) segment_bytes: u64,
    pub(super) disk_bytes_max: Option<u64>,
    pub(super) reserve_bytes: u64,
    pub(super) os_sync_interval: Duration,
    pub(super) caller_sync_max: Duration,
    pub(super) file_system: Arc<dyn FileSystem>,
    pub(super) simulation: Option<Simulation>,
}

impl FileStoreOptions {
    /// The defaults, for a store in `dir`. The directory is made when there is none.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            tail_bytes: 64 * MIB,
            journal_file_bytes: 64 * MIB,
            journal_bytes_max: 256 * MIB,
            segment_bytes: 64 * MIB,
            disk_bytes_max: None,
            reserve_bytes: 16 * MIB,
            os_sync_interval: Duration::from_secs(1),
            caller_sync_max: Duration::from_millis(1),
            file_system: Arc::new(OsFileSystem),
            simulation: None,
        }
    }

    /// Memory for the newest records of all logs together, bookkeeping included; 64 MiB. Once
    /// three quarters of it are in use the oldest go to segments, until half of it is, and are
    /// read from there. Appends that would exceed it wait for that; a batch that is larger by
    /// itself comes in when there is nothing else. At least 64 KiB.
    #[must_use]
    pub fn tail_bytes(mut self, bytes: u64) -> Self {
        self.tail_bytes = bytes;
        self
    }

    /// How large one journal file grows; 64 MiB. The first ones are smaller. At least 64 KiB.
    #[must_use]
    pub fn journal_file_bytes(mut self, bytes: u64) -> Self {
        self.journal_file_bytes = bytes;
        self
    }

    /// What all journal files may take; 256 MiB. At half of it the store begins to move what is
    /// still wanted to segments; commits wait while it is used up. It bounds how much is read
    /// again at opening, and the largest batch is a quarter of it. At least four times
    /// [`journal_file_bytes`](Self::journal_file_bytes), at most 16 GiB.
    #[must_use]
    pub fn journal_bytes_max(mut self, bytes: u64) -> Self {
        self.journal_bytes_max = bytes;
        self
    }

    /// How large one segment file of a log grows; 64 MiB. Space of truncated records comes back
    /// by whole segments; that of discarded ones too, or once less than 9/16 of a segment is still
    /// wanted, when what is wanted is written anew. So files take at most 16/9 of the records that
    /// were not discarded, and half a segment for each log. At least 64 KiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// What all files together may take; no limit but the device's. Of it
    /// [`journal_bytes_max`](Self::journal_bytes_max) is set aside for the journal. A batch whose
    /// records or values would exceed the rest is refused with [`StoreError::Full`]; a value
    /// counts three times, as checkpoints hold it. At least the journal's part, a segment and
    /// twice the reserve.
    #[must_use]
    pub fn disk_bytes_max(mut self, bytes: Option<u64>) -> Self {
        self.disk_bytes_max = bytes;
        self
    }

    /// Of the device, and of [`disk_bytes_max`](Self::disk_bytes_max), what batches with appends
    /// leave untouched; 16 MiB. Batches without them may use it, so that a full store can still
    /// truncate, delete and move its cursors.
    #[must_use]
    pub fn reserve_bytes(mut self, bytes: u64) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// After how long at most a commit that asked for less than `Disk` is synced to the device
    /// anyway; 1 s. 1 ms to 1 h.
    #[must_use]
    pub fn os_sync_interval(mut self, interval: Duration) -> Self {
        self.os_sync_interval = interval;
        self
    }

    /// While syncs take less than this, a small commit that asks for `Disk` and finds nobody else
    /// writing is written and synced on the thread that asks, which saves the time of handing it
    /// to another one and back; 1 ms. Only a runtime with several worker threads is made to wait
    /// so. 0 leaves all syncs to the store's own thread; at most 1 s.
    #[must_use]
    pub fn caller_sync_max(mut self, time: Duration) -> Self {
        self.caller_sync_max = time;
        self
    }

    /// The file system to work on; the operating system's.
    #[must_use]
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }

    /// For a simulated [`FileSystem`]: the store works on tasks of the runtime that opens it instead
    /// of threads, blocks that runtime while it does, and before each step waits on tokio's clock for
    /// up to what `latency_max` says then, as chance will have it. On a runtime of one thread with a
    /// paused clock the same then happens again for the same chance. Not for a real disk.
    #[must_use]
    pub fn simulated(
        mut self,
        chance: Arc<dyn Entropy>,
        latency_max: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.simulation = Some(Simulation { chance, latency_max: Arc::new(latency_max) });
        self
    }

    /// Whether all of it is within bounds. Opening a store checks it first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], with the option, its value and the nearest one allowed.
    pub fn check(&self) -> Result<(), StoreError> {
        at_least("tail_bytes", self.tail_bytes, SMALLEST)?;
        at_least("journal_file_bytes", self.journal_file_bytes, SMALLEST)?;
        at_least(
            "journal_bytes_max",
            self.journal_bytes_max,
            self.journal_file_bytes.saturating_mul(4),
        )?;
        at_most("journal_bytes_max", self.journal_bytes_max, 16 << 30)?;
        at_least("segment_bytes", self.segment_bytes, SMALLEST)?;
        at_most("segment_bytes", self.segment_bytes, 64 << 30)?;
        if let Some(max) = self.disk_bytes_max {
            let least = self.journal_bytes_max + self.segment_bytes;
            at_least("disk_bytes_max", max, least.saturating_add(2 * self.reserve_bytes))?;
        }
        at_most("reserve_bytes", self.reserve_bytes, 1 << 40)?;
        let millis = u64::try_from(self.os_sync_interval.as_millis()).unwrap_or(u64::MAX);
        at_least("os_sync_interval in ms", millis, 1)?;
        at_most("os_sync_interval in ms", millis, 3_600_000)?;
        let millis = u64::try_from(self.caller_sync_max.as_millis()).unwrap_or(u64::MAX);
        at_most("caller_sync_max in ms", millis, 1_000)
    }

    /// With more than this in memory the store begins to move records to segments, ahead of who
    /// appends: who does so rarely waits then.
    pub(super) const fn spill_above(&self) -> u64 {
        self.tail_bytes / 4 * 3
    }

    /// So much it leaves in memory then.
    pub(super) const fn spill_down_to(&self) -> u64 {
        self.tail_bytes / 2
    }

    /// From this size on a log's last segment is written anew too, when little of it is wanted.
    pub(super) const fn grown_bytes(&self) -> u64 {
        self.segment_bytes / 2
    }

    /// Of its memory, what it keeps at hand for the next batches: what it gives up at once.
    pub(super) const fn spare_buffer_bytes(&self) -> u64 {
        self.tail_bytes / 4
    }

    /// The largest entry of the journal.
    pub(super) fn entry_bytes_max(&self) -> u64 {
        (self.journal_bytes_max / 4).min(2 << 30)
    }
}

/// What a store takes from a simulation: chance, and how slow its disk is.
#[derive(Clone)]
pub(super) struct Simulation {
    chance: Arc<dyn Entropy>,
    latency_max: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Simulation {
    pub(super) fn random(&self) -> u64 {
        self.chance.next()
    }

    pub(super) fn store_id(&self) -> StoreId {
        StoreId(((u128::from(self.random()) << 64) | u128::from(self.random())).to_le_bytes())
    }

    /// How long the next thing takes.
    pub(super) fn latency(&self) -> Duration {
        let most = u64::try_from((self.latency_max)().as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random() % most.saturating_add(1).max(1))
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("latency_max", &(self.latency_max)())
            .finish_non_exhaustive()
    }
}

fn at_least(what: &str, value: u64, least: u64) -> Result<(), StoreError> {
    if value >= least {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("{what} is {value}, and at least {least} is allowed")))
}

fn at_most(what: &str, value: u64, most: u64) -> Result<(), StoreError> {
    if value <= most {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("{what} is {value}, and at most {most} is allowed")))
}

const MIB: u64 = 1 << 20;
/// Below this the headers would outweigh what they describe.
const SMALLEST: u64 = 64 << 10;
