//! The contract's suite, mounted on stores of several sizes; and what it cannot see.

mod damage;
#[cfg(target_os = "linux")]
mod descriptors;
mod giving_back;
mod opening;
mod syncing;

use super::*;
use crate::conformance::{Capabilities, Harness};

/// A store in a directory that goes with it.
struct InRocksDb {
    dir: tempfile::TempDir,
    options: fn(RocksDbStoreOptions) -> RocksDbStoreOptions,
    limit_bytes: Option<u64>,
}

impl InRocksDb {
    fn new(
        options: fn(RocksDbStoreOptions) -> RocksDbStoreOptions,
        limit_bytes: Option<u64>,
    ) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options, limit_bytes }
    }
}

#[async_trait]
impl Harness for InRocksDb {
    type Store = RocksDbStore;

    async fn open(&self) -> Result<RocksDbStore, StoreError> {
        RocksDbStore::open((self.options)(RocksDbStoreOptions::new(self.dir.path()))).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { survives_close: true, survives_drop: true, limit_bytes: self.limit_bytes }
    }
}

const LIMIT: u64 = 136 << 20;

mod as_it_comes {
    use super::*;
    crate::conformance!(conformance, InRocksDb::new(|options| options, None), skip: [
        a_full_store_says_so_and_changes_nothing,
        what_needs_no_more_room_is_taken_when_full,
        a_full_store_can_be_read,
        truncating_makes_room,
        discarding_makes_room,
        deleting_a_log_makes_room,
        values_count_and_deleting_them_makes_room,
    ]);
}

mod small {
    use super::*;
    // Next to nothing stays in memory, and there is a limit.
    fn small(options: RocksDbStoreOptions) -> RocksDbStoreOptions {
        options.tail_bytes(4 << 20).reserve_bytes(1 << 20).disk_bytes_max(Some(LIMIT))
    }

    crate::conformance!(conformance, InRocksDb::new(small, Some(LIMIT)), skip: []);
}
