//! Where a node of a simulation has its store from.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use ltq_core::{Entropy, Store, StoreError};
use ltq_store::{FileStore, FileStoreOptions, simulation::SimulatedDisk};

/// What a store is opened on.
#[derive(Clone)]
pub struct Place {
    /// The node's disk. It outlives the node; after a power cut it is what that left of it. How long work
    /// on it takes, in simulated time, is up to its [`latency_max`](SimulatedDisk::latency_max), which
    /// changes while the node is there.
    pub disk: SimulatedDisk,
    /// Where the store takes chance from.
    pub entropy: Arc<dyn Entropy>,
}

const JOURNAL_FILES_MAX: u64 = 8;

/// Opens the store of a simulated node each time that it starts.
///
/// A store that has files has them on [`Place::disk`], which is a
/// [`FileSystem`](ltq_store::FileSystem). One that has none leaves out, with
/// [`Simulation::without`](crate::Simulation::without), the troubles that it does not survive.
#[async_trait]
pub trait Stores: Send + Sync + 'static {
    /// The store.
    type Store: Store;

    /// Opens it. It must not keep threads: it works on the runtime that this is called on.
    ///
    /// # Errors
    /// Its own. Unless the disk was damaged, that breaks the simulation's promise that a node starts
    /// again.
    async fn open(&self, place: Place) -> Result<Self::Store, StoreError>;

    /// What a store may have in memory, as its figures tell; without a bound unless this says one.
    fn memory_bytes_max(&self) -> u64 {
        u64::MAX
    }

    /// What it may have in memory when all messages are acked; as much as ever unless this says
    /// something else.
    fn memory_at_rest_bytes_max(&self) -> u64 {
        self.memory_bytes_max()
    }

    /// What a store may have in files when all messages are acked, as its figures tell; without a
    /// bound unless this says one.
    fn files_at_rest_bytes_max(&self) -> u64 {
        u64::MAX
    }
}

/// The reference: a [`FileStore`] with files so small that all that happens to large ones happens
/// within a play.
#[derive(Clone, Copy, Debug)]
pub struct FileStores {
    segment_bytes: u64,
    journal_file_bytes: u64,
    tail_bytes: u64,
}

impl Default for FileStores {
    /// Segments of 64 KiB, journal files of 128 KiB, and as much in memory.
    fn default() -> Self {
        Self { segment_bytes: 64 << 10, journal_file_bytes: 128 << 10, tail_bytes: 128 << 10 }
    }
}

impl FileStores {
    /// How large a segment grows; at least 64 KiB.
    #[must_use]
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How large a file of the journal is; at least 64 KiB.
    #[must_use]
    pub const fn journal_file_bytes(mut self, bytes: u64) -> Self {
        self.journal_file_bytes = bytes;
        self
    }

    /// How much of the newest messages is kept in memory.
    #[must_use]
    pub const fn tail_bytes(mut self, bytes: u64) -> Self {
        self.tail_bytes = bytes;
        self
    }
}

#[async_trait]
impl Stores for FileStores {
    type Store = FileStore;

    async fn open(&self, place: Place) -> Result<FileStore, StoreError> {
        let disk = place.disk.clone();
        let options = FileStoreOptions::new(Path::new("/data"))
            .tail_bytes(self.tail_bytes)
            .journal_file_bytes(self.journal_file_bytes)
            .journal_bytes_max(self.journal_file_bytes.saturating_mul(JOURNAL_FILES_MAX))
            .segment_bytes(self.segment_bytes)
            .reserve_bytes(64 << 10)
            .file_system(Arc::new(place.disk))
            .simulated(place.entropy, move || disk.latency_max());
        FileStore::open(options).await
    }

    /// The newest messages, and values: some tens of kilobytes.
    fn memory_bytes_max(&self) -> u64 {
        self.tail_bytes.saturating_add(64 << 10)
    }

    /// The values of some topics, channels and producers.
    fn memory_at_rest_bytes_max(&self) -> u64 {
        16 << 10
    }

    /// The journal, and a segment of each topic.
    fn files_at_rest_bytes_max(&self) -> u64 {
        let journal = self.journal_file_bytes.saturating_mul(JOURNAL_FILES_MAX);
        journal.saturating_add(self.segment_bytes.saturating_mul(4))
    }
}
