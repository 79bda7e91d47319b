//! The test suite of the [`Store`](ltq_core::Store) contract, for stores of your own: the same
//! one that the stores of this crate run through.
//!
//! Comes with the feature `conformance`. Say how your store is opened, and mount the suite in a
//! test: [`conformance!`](crate::conformance!) makes one test of each case, named for the promise
//! that it checks.
//!
//! ```
//! use async_trait::async_trait;
//! use ltq_core::StoreError;
//! use ltq_store::{
//!     MemoryStore,
//!     conformance::{Capabilities, Harness},
//! };
//!
//! struct InMemory;
//!
//! #[async_trait]
//! impl Harness for InMemory {
//!     type Store = MemoryStore;
//!     async fn open(&self) -> Result<MemoryStore, StoreError> {
//!         Ok(MemoryStore::new(64 << 20))
//!     }
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities { limit_bytes: Some(64 << 20), ..Capabilities::default() }
//!     }
//! }
//!
//! // In a test file:
//! ltq_store::conformance!(memory_store, InMemory, skip: [
//!     everything_survives_a_close,
//!     // ... and what else the suite names when it is run without.
//! ]);
//! # fn main() {}
//! ```
//!
//! A failure names the [`Clause`] of the contract that the store broke. Runners of your own take
//! the [`cases`] one by one; [`run_all`] runs them all and reports.
//!
//! What the suite cannot see stays with the store's own tests: power loss, failing devices,
//! damaged files. The repository's `examples/third_party_store` is a crate that does both.

mod chance;
mod clauses;
mod failure;
mod harness;
mod list;
mod model;
mod runner;
mod world;

#[cfg(test)]
mod tests;

pub use failure::{Clause, Failure};
pub use harness::{Capabilities, Harness};
pub use runner::{Case, Outcome, Report, cases, run_all};
#[doc(hidden)]
pub use runner::{check_skips, run_mounted};
