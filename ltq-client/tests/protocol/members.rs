//! Which nodes a cluster knows, and where it finds them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_client::{
    Backoff, Client, Cluster, ClusterError, ConnectionState, Discovery, Message, NodeInfo, NodeSet,
};
use ltq_core::protocol::Frame;
use ltq_discovery::{Announced, DiscoveryError, Epoch, Interest, Watch};
use ltq_transport::{InProcess, Transports};

use crate::{
    board::{Board, node},
    fake::{Fake, within},
};

fn client(namespace: &InProcess) -> ltq_client::ClientBuilder {
    Client::builder()
        .transports(Transports::new().with(namespace.clone()))
        .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(20)))
}

fn node_at(id: &str, addresses: &[&str]) -> NodeInfo {
    let addresses = addresses.iter().map(|address| address.parse().unwrap());
    NodeInfo::new(id.parse().unwrap(), addresses).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_tried_at_each_of_its_addresses_that_a_transport_knows() {
    let namespace = InProcess::new();
    let addresses = ["quic://n:1", "in-process://nobody", "in-process://here"];
    let board = Board::new([node_at("n", &addresses), node_at("other", &["quic://n:2"])]);
    let mut here = Fake::at(&namespace, "here").await;
    let builder = Cluster::builder().discovery(board).client(client(&namespace));
    let cluster = within(builder.connect()).await.unwrap();
    let answering = async {
        let mut peer = here.welcome().await;
        peer.open_producer(1, 0).await;
        peer
    };
    let (producer, _peer) = tokio::join!(cluster.producer("orders"), answering);
    producer.unwrap();
    let state = cluster.state();
    let connected: Vec<_> = state.iter().map(|status| status.connection.as_ref()).collect();
    assert!(matches!(connected[..], [Some(ConnectionState::Connected { .. }), None]), "{state:?}");
    let unreachable = "other".parse().unwrap();
    let error = cluster.admin(&unreachable).unwrap_err();
    assert!(matches!(error, ClusterError::NoSuchNode(id) if id == unreachable));
}

#[tokio::test(start_paused = true)]
async fn promise_6_a_node_found_at_another_address_is_the_same_to_its_producers() {
    let namespace = InProcess::new();
    let board = Board::new([node_at("n", &["in-process://x", "in-process://y"])]);
    let mut x = Fake::at(&namespace, "x").await;
    let mut y = Fake::at(&namespace, "y").await;
    let builder = Cluster::builder().discovery(board).client(client(&namespace));
    let cluster = within(builder.connect()).await.unwrap();
    let answering = async {
        let mut peer = x.welcome().await;
        peer.open_producer(7, 0).await;
        peer
    };
    let (producer, mut peer) = tokio::join!(cluster.producer("orders"), answering);
    let producer = producer.unwrap();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(peer.publish().await.0, 1);
    drop((peer, x));
    let mut peer = y.welcome().await;
    let opened = peer.open_producer(7, 1).await;
    assert_eq!(opened.epoch, Some(7), "it comes back as the one that it was");
    assert_eq!(peer.publish().await.0, 1);
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
    assert_eq!(producer.figures().maybe_repeated, 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moved_is_talked_to_where_it_is_now() {
    let namespace = InProcess::new();
    let board = Board::new([node_at("n", &["in-process://x"])]);
    let mut x = Fake::at(&namespace, "x").await;
    let mut y = Fake::at(&namespace, "y").await;
    let builder = Cluster::builder().discovery(board.clone()).client(client(&namespace));
    let cluster = within(builder.connect()).await.unwrap();
    let answering = async {
        let mut peer = x.welcome().await;
        peer.open_producer(1, 0).await;
        peer
    };
    let (producer, mut old) = tokio::join!(cluster.producer("orders"), answering);
    let producer = producer.unwrap();
    board.put(&node_at("n", &["in-process://y"]));
    let sending = tokio::spawn(async move {
        loop {
            // Word of the move takes a moment.
            let receipt = producer.send(Message::new("m")).await.unwrap();
            if receipt.receipt.offset.unwrap().0 == 1_000 {
                return producer;
            }
        }
    });
    let on_old = tokio::spawn(async move {
        while let Some(frame) = old.recv_any().await {
            if let Frame::Publish { handle, sequence, .. } = frame {
                old.confirm(handle, sequence, 1, 0).await;
            }
        }
    });
    let mut peer = y.welcome().await;
    let opened = peer.open_producer(1, 0).await;
    let (sequence, _) = peer.publish().await;
    peer.confirm(opened.handle, sequence, 1, 1_000).await;
    within(sending).await.unwrap();
    within(on_old).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_started_again_is_connected_to_at_once() {
    let namespace = InProcess::new();
    let board = Board::new([node("n")]);
    let mut first = Fake::at(&namespace, "n").await;
    let slow = Backoff::new(Duration::from_secs(3_600), Duration::from_secs(3_600));
    let builder = client(&namespace).backoff(slow);
    let builder = Cluster::builder().discovery(board.clone()).client(builder);
    let cluster = within(builder.connect()).await.unwrap();
    let answering = async {
        let mut peer = first.welcome().await;
        peer.open_producer(1, 0).await;
        peer
    };
    let (producer, peer) = tokio::join!(cluster.producer("orders"), answering);
    let _producer = producer.unwrap();
    drop(peer);
    drop(first);
    let down = cluster.state().remove(0).connection.unwrap();
    assert!(!matches!(down, ConnectionState::Closed));
    let mut again = Fake::at(&namespace, "n").await;
    board.put(&node("n").with_epoch(Epoch { started: 1, instance: 1 }));
    within(again.welcome()).await;
}

/// One that fails so often before it says anything, and then says it once and loses sight.
struct Flaky {
    failures: AtomicUsize,
    nodes: NodeSet,
}

impl Flaky {
    fn new(failures: usize) -> Arc<Self> {
        Arc::new(Self {
            failures: AtomicUsize::new(failures),
            nodes: [node("n")].into_iter().collect(),
        })
    }
}

fn unreachable() -> DiscoveryError {
    DiscoveryError::Unreachable { backend: "a test".to_owned(), source: "it sleeps".into() }
}

#[async_trait]
impl Discovery for Flaky {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("not here"))
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            return Err(unreachable());
        }
        Ok(Box::new(LosesSight(Some(self.nodes.clone()))))
    }
}

struct LosesSight(Option<NodeSet>);

#[async_trait]
impl Watch for LosesSight {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        tokio::task::yield_now().await;
        self.0.take().ok_or_else(unreachable)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_in_use_while_sight_of_the_nodes_is_lost() {
    let namespace = InProcess::new();
    let mut n = Fake::at(&namespace, "n").await;
    let builder = Cluster::builder().discovery_arc(Flaky::new(5)).client(client(&namespace));
    let cluster = within(builder.connect()).await.unwrap();
    let answering = async {
        let mut peer = n.welcome().await;
        peer.open_producer(1, 0).await;
        peer
    };
    let (producer, mut peer) = tokio::join!(cluster.producer("orders"), answering);
    let producer = producer.unwrap();
    for sequence in 1..=50 {
        let pending = producer.enqueue(Message::new("m")).await.unwrap();
        assert_eq!(peer.publish().await.0, sequence);
        peer.confirm(0, sequence, 1, sequence).await;
        within(pending).await.unwrap();
    }
    assert_eq!(cluster.nodes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_cluster_that_hears_of_no_nodes_says_so_in_time() {
    let start = tokio::time::Instant::now();
    let builder = Client::builder().connect_timeout(Duration::from_secs(2));
    let builder = Cluster::builder().discovery_arc(Flaky::new(usize::MAX)).client(builder);
    let error = within(builder.connect()).await.unwrap_err();
    assert!(matches!(error, ClusterError::NoWord { .. }));
    assert!(error.to_string().contains("it sleeps"), "{error}");
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}
