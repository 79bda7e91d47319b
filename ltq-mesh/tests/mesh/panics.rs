//! Code of the program's own that panics.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Transport, TransportError};
use ltq_discovery::{Announced, Discovery, DiscoveryError, Interest, NodeInfo, StaticList, Watch};
use ltq_mesh::{DownCause, ListenerState, Mesh, MeshStates, PeerState};
use ltq_transport::{InProcess, Transports};

use crate::support::*;

/// Panics so often at first.
struct Shaky {
    inner: InProcess,
    connects: AtomicU32,
    listens: AtomicU32,
}

fn panics(left: &AtomicU32) {
    let left = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    assert!(left.is_err(), "as it was made to");
}

#[async_trait]
impl Transport for Shaky {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        panics(&self.listens);
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        panics(&self.connects);
        self.inner.connect(address).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_is_told_of_and_tried_again_and_its_peer_and_listener_are_not_lost()
{
    let links = InProcess::new();
    let shaky = Shaky { inner: links.clone(), connects: 3.into(), listens: 2.into() };
    let two = linked("two", &links).start(store()).await.unwrap();
    let one = Mesh::builder("one")
        .transports(Transports::new().with(shaky))
        .listen("in-process://one")
        .peer("two", ["in-process://two"])
        .settings(quick())
        .start(store())
        .await
        .unwrap();
    let panicked = |states: &MeshStates| match states.peer("two") {
        Some(PeerState::Disconnected { cause: DownCause::Internal(words), .. }) => {
            words.contains("as it was made to")
        }
        _ => false,
    };
    within("it is told", one.watch().until(panicked)).await.unwrap();
    let failed = |states: &MeshStates| match &states.listeners()[0].1 {
        ListenerState::Failed { why, .. } => why.contains("panicked"),
        _ => false,
    };
    within("it is told", one.watch().until(failed)).await.unwrap();
    both(&one, &two).await;
    one.send("two", "x").await.unwrap();
    let three = linked("three", &links).peer("one", ["in-process://one"]);
    let three = three.start(store()).await.unwrap();
    both(&three, &one).await;
    three.send("one", "y").await.unwrap();
}

/// Panics so often at first, whatever it is asked.
struct ShakyList {
    inner: StaticList,
    left: AtomicU32,
}

#[async_trait]
impl Discovery for ShakyList {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        panics(&self.left);
        self.inner.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        panics(&self.left);
        self.inner.watch(interest).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_discovery_scheme_that_panics_is_tried_again() {
    let links = InProcess::new();
    let two = linked("two", &links).start(store()).await.unwrap();
    let node = NodeInfo::new("two".parse().unwrap(), ["in-process://two".parse().unwrap()]);
    let inner = StaticList::of_nodes([node.unwrap()]).unwrap();
    let list = Arc::new(ShakyList { inner, left: 5.into() });
    let one = linked("one", &links).discovery(list).start(store()).await.unwrap();
    both(&one, &two).await;
}
