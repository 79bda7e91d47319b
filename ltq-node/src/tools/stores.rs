//! The stores that a tool can open, by their kinds. A further kind is one more arm in each place.

use std::{path::Path, sync::Arc};

use ltq_core::{Store, StoreError};
use ltq_store::{FileStore, FileStoreOptions};

use super::ToolError;
use crate::config::StoreKind;

/// A kind by its word.
pub(super) fn kind(word: &str) -> Result<StoreKind, ToolError> {
    word.parse().map_err(ToolError::Usage)
}

/// Opens a store that is only read.
pub(super) async fn open_source(kind: StoreKind, dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    match kind {
        StoreKind::File => {
            Ok(Arc::new(FileStore::open_read_only(FileStoreOptions::new(dir)).await?))
        }
        // It has no way to be opened without writing, and would make one where there is none.
        StoreKind::RocksDb if !dir.join("db/CURRENT").exists() => {
            Err(ToolError::Failed(format!("{} is no RocksDB database", dir.display())))
        }
        StoreKind::RocksDb => open_rocksdb(dir).await,
        StoreKind::Memory => Err(nothing_kept()),
    }
}

/// Opens a store to write it, made if it is not there.
pub(super) async fn open_target(kind: StoreKind, dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    match kind {
        StoreKind::File => Ok(Arc::new(FileStore::open(FileStoreOptions::new(dir)).await?)),
        StoreKind::RocksDb => open_rocksdb(dir).await,
        StoreKind::Memory => Err(nothing_kept()),
    }
}

#[cfg(feature = "rocksdb")]
async fn open_rocksdb(dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    let options = ltq_store::RocksDbStoreOptions::new(dir);
    Ok(Arc::new(ltq_store::RocksDbStore::open(options).await?))
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unused_async, reason = "it is called as the one with the feature is")]
async fn open_rocksdb(_: &Path) -> Result<Arc<dyn Store>, ToolError> {
    let words = "this ltq-node was built without RocksDB; build it with --features rocksdb";
    Err(ToolError::Usage(words.to_owned()))
}

fn nothing_kept() -> ToolError {
    ToolError::Usage("a memory store is gone with its node".to_owned())
}

/// The key of a value that stands in a store for as long as it is not complete. It is none of a
/// broker's keys.
pub(super) const UNFINISHED: &[u8] = b"ltq-node/migration-unfinished";

/// Refuses a store that a migration did not complete.
///
/// # Errors
/// [`StoreError::Open`], and those of reading a value.
pub(crate) fn refuse_unfinished(store: &dyn Store, dir: &Path) -> Result<(), StoreError> {
    if store.value(UNFINISHED)?.is_none() {
        return Ok(());
    }
    let why = "it is the target of a migration that did not complete; remove it and migrate again";
    Err(StoreError::Open { path: dir.display().to_string(), why: why.to_owned() })
}
