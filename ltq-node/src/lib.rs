//! What `ltq-node` and `ltq` are made of: the node's configuration, wiring and HTTP, the tools for
//! a stopped node's store, and the command line with its load generator.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod access;
mod announcer;
pub mod bench;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod drain;
pub mod http;
#[cfg(test)]
mod line;
mod listening;
pub mod logging;
mod lookup;
pub mod node;
mod node_json;
pub mod output;
mod peers;
mod record_json;
pub mod registry;
pub mod reload;
mod signals;
pub mod tools;
pub mod watched_store;

/// A broker whose store was picked when it started.
pub type NodeBroker = ltq_core::Broker<watched_store::WatchedStore>;
