//! How LTQ's clients find its nodes: the contract [`Discovery`], a fixed list ([`StaticList`]), DNS names
//! ([`DnsNames`]), the [`registry`], and etcd (feature `etcd`).
//!
//! A node announces what it is; a client watches for the nodes of a topic. What stands between
//! the two is up to the implementation: nothing but a list, or a registry that hears heartbeats.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ltq_core::TopicName;
//! use ltq_discovery::{Discovery, Interest, StaticList};
//!
//! let list: StaticList = "tcp://10.0.0.1:7440, tcp://10.0.0.2:7440".parse()?;
//! let mut watch = list.watch(&Interest::Topic(TopicName::new("orders")?)).await?;
//! for node in watch.changed().await?.iter() {
//!     println!("{} at {:?}", node.id(), node.address("tcp"));
//! }
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
mod discovery;
mod dns;
#[cfg(feature = "etcd")]
pub mod etcd;
mod node;
mod node_set;
pub mod registry;
mod static_list;
mod topics;
mod withdrawals;

pub use discovery::{Announced, Announcement, Discovery, DiscoveryError, Interest, Watch};
pub use dns::{DnsNames, DnsNamesError, Resolve, SystemResolver};
pub use node::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, Epoch, Load, NODE_ID_BYTES_MAX, NodeId, NodeIdError,
    NodeInfo, NodeInfoError, NodeState, VERSION_BYTES_MAX,
};
pub use node_set::NodeSet;
pub use static_list::{StaticList, StaticListError};
pub use topics::{Topics, TopicsIter};
