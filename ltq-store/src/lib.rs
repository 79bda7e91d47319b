//! Where an LTQ broker keeps its messages: the stores that come with it, and the test suite for
//! stores of your own.
//!
//! | store | keeps | for |
//! |---|---|---|
//! | [`MemoryStore`] | everything in memory, within a limit | tests, embedding, traffic that may be lost with the process |
//! | [`FileStore`] | a journal, memory for the newest and segments for the rest | everything that must not be lost |
//! | [`OverflowStore`] | what fits in one store, the rest in another | putting memory in front of a store of your own |
//! | `RocksDbStore` (feature `rocksdb`) | a RocksDB database, and memory for the newest | who runs RocksDB already, and wants its tools |
//!
//! Each implements [`ltq_core::Store`], whose documentation is the contract:
//!
//! ```
//! use ltq_core::{
//!     Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store, Timestamp,
//!     WriteBatch,
//! };
//! use ltq_store::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new(64 << 20);
//!
//! // A log made, two messages appended and a cursor set: all of it, or nothing.
//! let orders = LogName::new("orders");
//! let records = Records::encode(&[Message::new("one"), Message::new("two")]);
//! let mut batch = WriteBatch::new();
//! batch.create_log(orders.clone(), LogOptions::default());
//! batch.append(orders.clone(), Offset::ZERO, Timestamp(1_790_000_000_000), records);
//! batch.put("orders/billing/cursor", "0");
//! let committed = store.commit(batch, Durability::Memory).await?;
//! assert_eq!(committed.durability, Durability::Memory);
//!
//! let limits = ReadLimits { records: 100, bytes: 1 << 20 };
//! let batches = store.read(&orders, Offset(1), limits).await?;
//! let second = batches[0].records.message(0).ok_or("there are two")??;
//! assert_eq!(second.body, "two");
//! # Ok(())
//! # }
//! ```
//!
//! [`writing_a_store`] leads through a store of your own; with the feature `conformance`, the
//! module of that name tests it as the ones here are tested.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[doc = include_str!("writing_a_store.md")]
pub mod writing_a_store {}

mod file;
mod memory;
mod overflow;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod stretches;

#[cfg(feature = "rocksdb")]
pub use self::rocksdb::{RocksDbFigure, RocksDbStore, RocksDbStoreOptions};
pub use file::{
    CheckProgress, CheckReport, CheckedFile, Damage, FileKind, FileReserve, FileStore,
    FileStoreOptions, FileSystem, KnownLoss, Loss, OpenMode, OsFileSystem, Repair, StoreFile,
};
pub use memory::MemoryStore;
pub use overflow::{OverflowOptions, OverflowStore};
