//! The contract's suite, mounted on stores of several sizes; and what it cannot see: crashes,
//! damage, failing and full devices.

mod between;
mod blocks;
mod callers;
mod check;
mod crash;
mod damage;
mod descriptors;
mod exhaustive;
mod limits;
mod model;
mod names;
mod opening;
mod refusals;
mod reserve;
mod rewriting;
mod salvage;
mod sparse;
mod tasks;
mod threads;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::conformance::{Capabilities, Harness};

/// A store in a directory that goes with it.
struct InFiles {
    dir: tempfile::TempDir,
    options: fn(FileStoreOptions) -> FileStoreOptions,
    limit_bytes: Option<u64>,
    opened: AtomicU64,
}

impl InFiles {
    fn new(options: fn(FileStoreOptions) -> FileStoreOptions, limit_bytes: Option<u64>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options, limit_bytes, opened: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Harness for InFiles {
    type Store = FileStore;

    async fn open(&self) -> Result<FileStore, StoreError> {
        self.opened.fetch_add(1, SeqCst);
        FileStore::open((self.options)(FileStoreOptions::new(self.dir.path()))).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { survives_close: true, survives_drop: true, limit_bytes: self.limit_bytes }
    }
}

const LIMIT: u64 = 136 << 20;

mod as_it_comes {
    use super::*;
    crate::conformance!(conformance, InFiles::new(|options| options, None), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        discarding_makes_room,
        deleting_a_log_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}

mod tiny {
    use super::*;
    // Everything that can overflow does, at once.
    fn tiny(options: FileStoreOptions) -> FileStoreOptions {
        options
            .tail_bytes(64 << 10)
            .journal_file_bytes(64 << 10)
            .journal_bytes_max(68 << 20)
            .segment_bytes(64 << 10)
            .reserve_bytes(1 << 20)
    }

    crate::conformance!(conformance, InFiles::new(tiny, None), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        discarding_makes_room,
        deleting_a_log_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}

mod limited {
    use super::*;
    fn limited(options: FileStoreOptions) -> FileStoreOptions {
        options
            .tail_bytes(4 << 20)
            .journal_file_bytes(2 << 20)
            .journal_bytes_max(68 << 20)
            .segment_bytes(1 << 20)
            .reserve_bytes(1 << 20)
            .disk_bytes_max(Some(LIMIT))
    }

    crate::conformance!(conformance, InFiles::new(limited, Some(LIMIT)), skip: []);
}

mod on_tasks {
    use super::*;
    fn on_tasks(options: FileStoreOptions) -> FileStoreOptions {
        let chance = std::sync::Arc::new(ltq_core::SystemEntropy);
        options.tail_bytes(256 << 10).simulated(chance, || std::time::Duration::from_micros(200))
    }

    crate::conformance!(conformance, InFiles::new(on_tasks, None), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        discarding_makes_room,
        deleting_a_log_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}
