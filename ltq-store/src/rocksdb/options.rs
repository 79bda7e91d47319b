//! How a RocksDB store is set up.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ltq_core::StoreError;

/// Where a [`RocksDbStore`](super::RocksDbStore) keeps its files, and within which limits.
///
/// ```
/// use ltq_store::RocksDbStoreOptions;
/// let options = RocksDbStoreOptions::new("/var/lib/orders").tail_bytes(256 << 20);
/// assert!(options.check().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct RocksDbStoreOptions {
    pub(super) dir: PathBuf,
    pub(super) tail_bytes: u64,
    pub(super) disk_bytes_max: Option<u64>,
    pub(super) reserve_bytes: u64,
    pub(super) os_sync_interval: Duration,
    pub(super) open_files_max: u32,
}

impl RocksDbStoreOptions {
    /// The defaults, for a store in `dir`. The directory is made when there is none.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            tail_bytes: 64 * MIB,
            disk_bytes_max: None,
            reserve_bytes: 16 * MIB,
            os_sync_interval: Duration::from_secs(1),
            open_files_max: 576,
        }
    }

    /// Memory for records; 64 MiB. A quarter is for the newest of all logs, which are read
    /// without RocksDB; an eighth for RocksDB's block cache, and the rest for its write buffers.
    /// Its write-ahead log may take twice as much on disk. Values are kept in memory beside this.
    /// 4 MiB to 16 TiB.
    #[must_use]
    pub fn tail_bytes(mut self, bytes: u64) -> Self {
        self.tail_bytes = bytes;
        self
    }

    /// What all files together may take; no limit but the device's. A batch whose records or
    /// values would exceed it is refused with [`StoreError::Full`], and what was given up is
    /// compacted away sooner when that happens. While RocksDB compacts, the files that it merges
    /// are there twice, and may exceed this. At least four times
    /// [`tail_bytes`](Self::tail_bytes) and twice the reserve.
    #[must_use]
    pub fn disk_bytes_max(mut self, bytes: Option<u64>) -> Self {
        self.disk_bytes_max = bytes;
        self
    }

    /// Of the device, and of [`disk_bytes_max`](Self::disk_bytes_max), what batches with appends
    /// leave untouched; 16 MiB. Batches without them may use it, so that a full store can still
    /// truncate, delete and move its cursors. At most 1 TiB.
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

    /// How many files the store may have open, of those that the process may have; 576. An eighth,
    /// 8 to 32 of them, it keeps for when there are no others, 32 are for what is written, and the
    /// rest is for RocksDB's tables, which it opens again and again where they are more. 64 to
    /// 1,000,000.
    #[must_use]
    pub fn open_files_max(mut self, files: u32) -> Self {
        self.open_files_max = files;
        self
    }

    /// Checks that the options can be, each and together.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], with the option and its bound.
    pub fn check(&self) -> Result<(), StoreError> {
        within("tail_bytes", self.tail_bytes, TAIL_BYTES_MIN, 16 << 40)?;
        within("reserve_bytes", self.reserve_bytes, 0, 1 << 40)?;
        if let Some(limit) = self.disk_bytes_max {
            let least = 4 * self.tail_bytes + 2 * self.reserve_bytes;
            within("disk_bytes_max", limit, least, u64::MAX)?;
        }
        let millis = u64::try_from(self.os_sync_interval.as_millis()).unwrap_or(u64::MAX);
        within("os_sync_interval in ms", millis, 1, 3_600_000)?;
        within("open_files_max", self.open_files_max.into(), 64, 1_000_000)
    }

    /// Of the memory, what the newest records take outside of RocksDB.
    pub(super) const fn newest_bytes(&self) -> u64 {
        self.tail_bytes / 4
    }

    /// Of the open files, those that are kept for when there can be no others.
    pub(super) fn spare_files(&self) -> u32 {
        (self.open_files_max / 8).clamp(8, 32)
    }

    /// Of the open files, those of RocksDB's tables.
    pub(super) fn table_files(&self) -> i32 {
        let tables = self.open_files_max.saturating_sub(self.spare_files() + WRITTEN_FILES);
        i32::try_from(tables).unwrap_or(i32::MAX)
    }
}

fn within(what: &str, value: u64, least: u64, most: u64) -> Result<(), StoreError> {
    if value < least {
        let why = format!("{what} is {value}, and at least {least} is allowed");
        return Err(StoreError::Invalid(why));
    }
    if value > most {
        let why = format!("{what} is {value}, and at most {most} is allowed");
        return Err(StoreError::Invalid(why));
    }
    Ok(())
}

/// Of the open files, those that are written: logs, a manifest, tables that are being made, and the
/// directory.
const WRITTEN_FILES: u32 = 32;
const MIB: u64 = 1 << 20;
/// Below this RocksDB's write buffers would be smaller than one of its blocks of memory.
const TAIL_BYTES_MIN: u64 = 4 * MIB;
