//! Stores for LTQ.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod memory;

pub use memory::MemoryStore;
