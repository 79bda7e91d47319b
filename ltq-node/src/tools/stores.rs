//! The stores that a tool can open, by their kinds. A further kind is one more arm in each place.

use std::{path::Path, sync::Arc};

use ltq_core::{Store, StoreError};
use ltq_store::{FileStore, FileStoreOptions};

use super::ToolError;
use crate::config::StoreKind;

/// A kind by its word.
pub(super) fn named(word: &str) -> Result<StoreKind, ToolError> {
    word.parse().map_err(ToolError::Usage)
}

/// The kind that is named, or else that of the store in the directory.
pub(super) fn kind(word: Option<&str>, dir: &Path) -> Result<StoreKind, ToolError> {
    match word {
        Some(word) => named(word),
        None if dir.join(ROCKSDB_IDENTITY).exists() => Ok(StoreKind::RocksDb),
        None => Ok(StoreKind::File),
    }
}

/// Opens a store that is only read. Nothing is written.
pub(super) async fn open_source(kind: StoreKind, dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    refuse_unfinished(dir)?;
    match kind {
        StoreKind::File => {
            Ok(Arc::new(FileStore::open_read_only(FileStoreOptions::new(dir)).await?))
        }
        StoreKind::RocksDb => read_rocksdb(dir).await,
        StoreKind::Memory => Err(nothing_kept()),
    }
}

/// Refuses a kind of store that cannot be opened, whatever there is, before anything is made for it.
pub(super) fn require_built(kind: StoreKind) -> Result<(), ToolError> {
    match kind {
        StoreKind::File => Ok(()),
        #[cfg(feature = "rocksdb")]
        StoreKind::RocksDb => Ok(()),
        #[cfg(not(feature = "rocksdb"))]
        StoreKind::RocksDb => Err(not_built()),
        StoreKind::Memory => Err(nothing_kept()),
    }
}

/// Opens a store to write it, made if it is not there.
pub(super) async fn open_target(kind: StoreKind, dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    match kind {
        StoreKind::File => Ok(Arc::new(FileStore::open(FileStoreOptions::new(dir)).await?)),
        StoreKind::RocksDb => write_rocksdb(dir).await,
        StoreKind::Memory => Err(nothing_kept()),
    }
}

#[cfg(feature = "rocksdb")]
async fn read_rocksdb(dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    let options = ltq_store::RocksDbStoreOptions::new(dir);
    Ok(Arc::new(ltq_store::RocksDbStore::open_read_only(options).await?))
}

#[cfg(feature = "rocksdb")]
async fn write_rocksdb(dir: &Path) -> Result<Arc<dyn Store>, ToolError> {
    let options = ltq_store::RocksDbStoreOptions::new(dir);
    Ok(Arc::new(ltq_store::RocksDbStore::open(options).await?))
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unused_async, reason = "it is called as the one with the feature is")]
async fn read_rocksdb(_: &Path) -> Result<Arc<dyn Store>, ToolError> {
    Err(not_built())
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unused_async, reason = "it is called as the one with the feature is")]
async fn write_rocksdb(_: &Path) -> Result<Arc<dyn Store>, ToolError> {
    Err(not_built())
}

#[cfg(not(feature = "rocksdb"))]
fn not_built() -> ToolError {
    let words = "this ltq-node was built without RocksDB; build it with --features rocksdb";
    ToolError::Usage(words.to_owned())
}

pub(super) fn nothing_kept() -> ToolError {
    ToolError::Usage("a memory store is gone with its node".to_owned())
}

/// The file that every store on RocksDB has.
const ROCKSDB_IDENTITY: &str = "rocksdb-identity";

/// The files that say that a directory is a store.
pub(super) const IDENTITIES: [&str; 2] = ["identity", ROCKSDB_IDENTITY];

/// The directory in a target directory in which a migration builds the new store. A store that is
/// not complete stands nowhere else, so that no kill leaves one that opens.
pub(super) const UNFINISHED: &str = "migration-unfinished";

/// Refuses a directory in which a migration did not complete.
///
/// # Errors
/// [`StoreError::Open`].
pub(crate) fn refuse_unfinished(dir: &Path) -> Result<(), StoreError> {
    if !dir.join(UNFINISHED).exists() {
        return Ok(());
    }
    let why = "it is the target of a migration that did not complete; remove it and migrate again";
    Err(StoreError::Open { path: dir.display().to_string(), why: why.to_owned() })
}
