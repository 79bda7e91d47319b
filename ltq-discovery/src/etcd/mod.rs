//! Nodes kept in etcd (feature `etcd`), for those who run it already.
//!
//! A node writes itself under a prefix, with two leases, and keeps both: when it is not heard for some seconds
//! the shorter one ends, and it is *suspected*; when the longer one ends it is gone. Who watches reads all
//! that there is at one revision, and follows the changes after it.
//!
//! What is spoken is etcd's JSON gateway, as versions 3.4 and later have it at the address of their clients:
//! HTTP/1.1 over whatever [`Transport`] is given.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ltq_discovery::{Discovery, Interest, etcd::Etcd};
//! use ltq_transport::Tcp;
//!
//! let etcd = Etcd::builder(Tcp::default())
//!     .endpoint("http://10.0.0.1:2379")
//!     .endpoint("http://10.0.0.2:2379")
//!     .prefix("/shop/ltq")
//!     .build()?;
//! let mut watch = etcd.watch(&Interest::Nodes).await?;
//! for node in watch.changed().await?.iter() {
//!     println!("{} at {:?}", node.id(), node.addresses());
//! }
//! # Ok(()) }
//! ```
//!
//! `docs/etcd.md` says which keys there are, and who has to be permitted what.

mod announcing;
mod builder;
mod gateway;
mod holding;
mod http;
mod json;
mod keys;
mod sight;
#[cfg(test)]
mod tests;
mod value;
mod view;
mod watching;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Address, Entropy, Transport};
use tracing::{debug, warn};

pub use builder::{EtcdBuilder, EtcdError};

use crate::{Announced, Discovery, DiscoveryError, Interest, NodeInfo, Watch, backoff};
use announcing::Announcing;
use keys::Keys;
use view::Bounds;
use watching::Watching;

/// Finds nodes by etcd. Cheap to clone.
///
/// - A node that is announced is there until it withdraws, or etcd has not heard of it for
///   [`forgotten_after`](EtcdBuilder::forgotten_after); it is suspected when that is so for
///   [`suspected_after`](EtcdBuilder::suspected_after).
/// - Of two nodes of one id, the one that was started later is there, and the other is refused for as long as
///   it is there and heard.
/// - While no member of etcd answers, who watches keeps the nodes that were told last. A node that etcd does not
///   hear all this time is announced anew when it is back.
/// - What stands below the prefix and is no node, or too long, is left aside, counted and logged.
///
/// It needs a tokio runtime with time, and whatever its transport needs.
#[derive(Clone)]
pub struct Etcd(Arc<Config>);

/// How etcd is talked to.
pub(crate) struct Config {
    endpoints: Vec<Address>,
    transport: Arc<dyn Transport>,
    user: Option<(String, String)>,
    keys: Keys,
    suspected_after: Duration,
    forgotten_after: Duration,
    timeout: Duration,
    patience: Duration,
    retry: (Duration, Duration),
    probe: Duration,
    bounds: Bounds,
    entropy: Arc<dyn Entropy>,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    is_announced: AtomicBool,
    skipped: AtomicU64,
}

impl Etcd {
    /// The members of etcd that are asked, in the order in which they were named.
    #[must_use]
    pub fn endpoints(&self) -> &[Address] {
        &self.0.endpoints
    }

    /// Whether etcd has the node that was announced last, as far as is known.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.0.figures.is_announced.load(Ordering::Relaxed)
    }

    /// How many values were left aside by watches because they are no nodes, are too long, or there are too
    /// many; each time counted that one is met.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.0.figures.skipped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.0.endpoints).finish_non_exhaustive()
    }
}

impl Config {
    /// The endpoints for ever, one after another, beginning with any, so that not all clients have the same.
    fn endpoints_from_any(&self) -> impl Iterator<Item = &Address> {
        let all = self.endpoints.len() as u64;
        let first = usize::try_from(self.entropy.next() % all.max(1)).unwrap_or_default();
        self.endpoints.iter().cycle().skip(first)
    }

    /// How long to wait after so many failures in a row.
    fn wait(&self, failures: u32) -> Duration {
        backoff::wait(self.retry, failures, &*self.entropy)
    }
}

impl Figures {
    /// A value is left aside. Whoever fills the prefix with such ones does not fill the log.
    fn skip(&self, key: &str, why: &dyn fmt::Display) {
        let before = self.skipped.fetch_add(1, Ordering::Relaxed);
        match before.saturating_add(1).is_power_of_two() {
            true => warn!(key, %why, count = before + 1, "left aside, as it is no node"),
            false => debug!(key, %why, "left aside, as it is no node"),
        }
    }
}

#[async_trait]
impl Discovery for Etcd {
    /// Waits until etcd has the node. When no member answers in time it goes on trying: a node may start
    /// before its etcd.
    ///
    /// # Errors
    /// [`DiscoveryError::Refused`] when a later run of the node is there, when the user that is set may not
    /// write, or when the node cannot be written down: more than 16 addresses, or 64 KiB without its topics.
    ///
    /// Topics that are too many (1 MiB of names in one of 64 parts) are not told, and the node is told of as
    /// one that may have any.
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::Known(Box::new(Announcing::start(Arc::clone(&self.0), node).await?)))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        Ok(Box::new(Watching::start(Arc::clone(&self.0), interest.clone()).await?))
    }

    fn tells_topics(&self) -> bool {
        true
    }
}
