//! Stores for LTQ.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod file;
mod memory;

pub use file::{FileStore, FileStoreOptions, FileSystem, OpenMode, OsFileSystem, StoreFile};
pub use memory::MemoryStore;
