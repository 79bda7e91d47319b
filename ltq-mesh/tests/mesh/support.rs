//! What the tests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ltq_core::Entropy;
use ltq_mesh::{Inbox, Mesh, MeshBuilder, MeshSettings};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, SimulatedNetwork, Transports};

/// Waits until a deadline: what a test waits for happens before.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen in time"),
    }
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Short intervals, so that little is waited for.
pub(crate) fn quick() -> MeshSettings {
    MeshSettings {
        reconnect_interval: millis(40),
        listen_retry_interval: millis(40),
        ..MeshSettings::default()
    }
}

pub(crate) fn store() -> MemoryStore {
    MemoryStore::new(64 << 20)
}

/// A part in a mesh over in-process links that listens at its name.
pub(crate) fn linked(name: &str, links: &InProcess) -> MeshBuilder {
    Mesh::builder(name)
        .transports(Transports::new().with(links.clone()))
        .listen(format!("in-process://{name}"))
        .settings(quick())
}

/// The same over a simulated network.
pub(crate) fn hosted(name: &str, network: &SimulatedNetwork) -> MeshBuilder {
    Mesh::builder(name)
        .transports(Transports::new().with(network.host(name)))
        .listen(format!("sim://{name}"))
        .settings(quick())
}

pub(crate) fn network() -> SimulatedNetwork {
    SimulatedNetwork::new(Arc::new(Counting(AtomicU64::new(1))))
}

/// Numbers that are the same each time, and look like chance.
pub(crate) struct Counting(pub(crate) AtomicU64);

impl Entropy for Counting {
    fn next(&self) -> u64 {
        let mut mixed = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }
}

/// Two parts, of which each dials the other.
pub(crate) async fn pair(links: &InProcess) -> (Mesh, Mesh) {
    let one = linked("one", links).peer("two", ["in-process://two"]);
    let two = linked("two", links).peer("one", ["in-process://one"]);
    let (one, two) = (one.start(store()).await.unwrap(), two.start(store()).await.unwrap());
    both(&one, &two).await;
    (one, two)
}

/// Waits until both are connected.
pub(crate) async fn both(one: &Mesh, two: &Mesh) {
    within("they connect", one.connected(two.name().as_str())).await.unwrap();
    within("they connect", two.connected(one.name().as_str())).await.unwrap();
}

/// The next message, acked: who sent it, and its text.
pub(crate) async fn next(inbox: &mut Inbox) -> (String, String) {
    let message = within("a message", inbox.next()).await.expect("open").expect("a message");
    let text = String::from_utf8(message.body().to_vec()).expect("text");
    let from = message.from().to_string();
    message.ack().expect("open");
    (from, text)
}

pub(crate) async fn texts(inbox: &mut Inbox, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(next(inbox).await.1);
    }
    texts
}

/// Whether nothing is in an inbox; on a clock that is paused.
pub(crate) async fn is_empty(inbox: &mut Inbox) -> bool {
    tokio::time::timeout(millis(500), inbox.next()).await.is_err()
}
