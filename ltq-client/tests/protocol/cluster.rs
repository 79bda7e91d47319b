//! What a cluster's producer sends to which node, and what it makes of what becomes of it.

use std::{sync::Arc, time::Duration};

use ltq_client::{
    Backoff, Client, Cluster, ClusterProducerBuilder, ClusterPublishError, Failover, Message,
    Outcome, RefusalCode,
};
use ltq_core::{Entropy, Refusal, protocol::Frame};
use ltq_discovery::{NodeInfo, NodeState};
use ltq_transport::{InProcess, Transports};

use crate::{
    board::{Board, node},
    fake::{Fake, Opened, Peer, within},
};

/// Two nodes that do as they are told, `b` suspected, so that `a` is used as long as it will do.
pub(crate) struct Pair {
    pub(crate) namespace: InProcess,
    pub(crate) board: Board,
    pub(crate) cluster: Cluster,
    pub(crate) a: Fake,
    pub(crate) b: Fake,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let namespace = InProcess::new();
        let board = Board::new([node("a"), suspected()]);
        let client = Client::builder()
            .transports(Transports::new().with(namespace.clone()))
            .entropy(Arc::new(Least))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(20)));
        let builder = Cluster::builder().discovery(board.clone()).client(client);
        let cluster = within(builder.connect()).await.unwrap();
        let (a, b) = (Fake::at(&namespace, "a").await, Fake::at(&namespace, "b").await);
        Self { namespace, board, cluster, a, b }
    }

    pub(crate) fn builder(&self) -> ClusterProducerBuilder {
        self.cluster.producer_builder("orders").name("p")
    }

    /// A producer that is open on `a`.
    pub(crate) async fn open(
        &mut self,
        builder: ClusterProducerBuilder,
    ) -> (ltq_client::ClusterProducer, Peer, Opened) {
        let on_a = async {
            let mut peer = self.a.welcome().await;
            let opened = peer.open_producer(1, 0).await;
            (peer, opened)
        };
        let (producer, (peer, opened)) = tokio::join!(builder.open(), on_a);
        (producer.unwrap(), peer, opened)
    }
}

fn suspected() -> NodeInfo {
    node("b").with_suspicion(true)
}

/// No chance at all.
pub(crate) struct Least;

impl Entropy for Least {
    fn next(&self) -> u64 {
        0
    }
}

pub(crate) async fn id_of(peer: &mut Peer) -> (u64, Vec<(String, String)>) {
    match peer.recv().await {
        Frame::Publish { sequence, records, .. } => {
            let messages = records.messages().map(|message| {
                let message = message.unwrap();
                let id = message.headers.get(ltq_client::ID_HEADER);
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                (text(&message.body), id.map_or_else(String::new, text))
            });
            (sequence, messages.collect())
        }
        other => panic!("{other:?} is no publish"),
    }
}

pub(crate) fn one(body: &str, id: &str) -> Vec<(String, String)> {
    vec![(body.to_owned(), id.to_owned())]
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_goes_elsewhere_when_its_node_stays_away_with_the_same_id() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, _) = pair.open(builder).await;
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")));
    // Neither its connection nor its listener stays.
    let Pair { a: listener, mut b, cluster, .. } = pair;
    drop((a, listener));
    let mut b_peer = b.welcome().await;
    let opened = b_peer.open_producer(1, 0).await;
    assert_eq!(opened.name.as_deref(), Some("p"), "all are under one name");
    assert_eq!(id_of(&mut b_peer).await, (1, one("m", "p-1")), "the same id");
    b_peer.confirm(opened.handle, 1, 1, 7).await;
    let receipt = within(pending).await.unwrap();
    assert_eq!((receipt.node.as_str(), receipt.receipt.offset.unwrap().0), ("b", 7));
    let figures = producer.figures();
    assert_eq!((figures.moved, figures.maybe_repeated), (1, 1));
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_repeats_to_the_same_node_and_nowhere_else() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, _) = pair.open(builder).await;
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")));
    drop(a);
    // It is back within the half second.
    let mut a = pair.a.welcome().await;
    let opened = a.open_producer(1, 1).await;
    assert_eq!(opened.epoch, Some(1), "it comes back as the one that it was");
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")), "under the same sequence");
    a.confirm(opened.handle, 1, 1, 3).await;
    assert_eq!(within(pending).await.unwrap().node.as_str(), "a");
    assert_eq!(producer.figures().maybe_repeated, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_is_waited_for_however_long_it_is_away() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let builder = pair.builder().timeout(Duration::from_secs(60));
    let (producer, mut a, _) = pair.open(builder).await;
    let mut pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")));
    drop(a);
    // Away for six times as long as it takes where there is another node.
    let silent = pair.a.accept().await;
    let away = tokio::time::timeout(Duration::from_secs(3), &mut pending);
    assert!(away.await.is_err());
    drop(silent);
    let mut a = pair.a.welcome().await;
    let opened = a.open_producer(1, 0).await;
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")), "under the same sequence");
    a.confirm(opened.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
    assert_eq!(producer.figures().moved, 0, "there was nowhere to go");
}

#[tokio::test(start_paused = true)]
async fn on_the_same_node_what_was_sent_waits_and_ends_unknown_what_was_not_goes_on() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().failover(Failover::SameNode).timeout(Duration::from_secs(4));
    let (producer, mut a, _) = pair.open(builder).await;
    let sent = producer.enqueue(Message::new("sent")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("sent", "p-1")));
    let Pair { a: listener, mut b, cluster, .. } = pair;
    drop((a, listener));
    let unsent = producer.enqueue(Message::new("unsent")).await.unwrap();
    let mut b_peer = b.welcome().await;
    let opened = b_peer.open_producer(1, 0).await;
    assert_eq!(id_of(&mut b_peer).await, (1, one("unsent", "p-2")), "and nothing else");
    b_peer.confirm(opened.handle, 1, 1, 0).await;
    assert_eq!(within(unsent).await.unwrap().node.as_str(), "b");
    let error = within(sent).await.unwrap_err();
    assert_eq!((error.outcome(), error.node().unwrap().as_str()), (Outcome::Unknown, "a"));
    assert_eq!(producer.figures().maybe_repeated, 0);
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_not_sent_again_when_its_node_comes_back() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, _) = pair.open(builder).await;
    let pending = producer.enqueue(Message::new("moved")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("moved", "p-1")));
    drop(a);
    // It is there again, and says nothing for longer than it is waited for.
    let silent = pair.a.accept().await;
    let mut b = pair.b.welcome().await;
    let opened = b.open_producer(1, 0).await;
    assert_eq!(id_of(&mut b).await, (1, one("moved", "p-1")));
    b.confirm(opened.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
    drop(silent);
    let mut a = pair.a.welcome().await;
    // The next message finds it well again.
    let sending = tokio::spawn(async move {
        loop {
            let receipt = producer.send(Message::new("new")).await.unwrap();
            if receipt.node.as_str() == "a" {
                return receipt;
            }
        }
    });
    let mut offset = 1;
    let on_b = tokio::spawn(async move {
        while let Some(frame) = b.recv_any().await {
            if let Frame::Publish { sequence, handle, .. } = frame {
                b.confirm(handle, sequence, 1, offset).await;
                offset += 1;
            }
        }
    });
    let opened = a.open_producer(2, 1).await;
    let (sequence, messages) = id_of(&mut a).await;
    assert_eq!(sequence, 2, "behind what the broker knows of the name");
    assert_eq!(messages[0].0, "new", "the old one is not sent again");
    a.confirm(opened.handle, 2, 1, 9).await;
    within(sending).await.unwrap();
    on_b.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_passed_over_and_the_message_goes_elsewhere_at_once() {
    for code in [RefusalCode::StoreFull, RefusalCode::NoSuchTopic, RefusalCode::StoreFailed] {
        let mut pair = Pair::new().await;
        let builder = pair.builder();
        let (producer, mut a, on_a) = pair.open(builder).await;
        let start = tokio::time::Instant::now();
        let pending = producer.enqueue(Message::new("m")).await.unwrap();
        id_of(&mut a).await;
        a.refuse(on_a.handle, 1, 1, code).await;
        let mut b = pair.b.welcome().await;
        let on_b = b.open_producer(1, 0).await;
        assert_eq!(id_of(&mut b).await, (1, one("m", "p-1")));
        b.confirm(on_b.handle, 1, 1, 0).await;
        let receipt = within(pending).await.unwrap();
        assert_eq!(receipt.node.as_str(), "b", "{code}");
        assert!(start.elapsed() < Duration::from_millis(50), "{code}");
        assert_eq!(producer.figures().maybe_repeated, 0, "it is known that a has not stored it");
        // After a while it is tried again.
        tokio::time::advance(Duration::from_millis(101)).await;
        let publishing = tokio::spawn(async move {
            while producer.send(Message::new("n")).await.unwrap().node.as_str() != "a" {}
        });
        let on_b = tokio::spawn(async move {
            while let Some(frame) = b.recv_any().await {
                if let Frame::Publish { sequence, handle, .. } = frame {
                    b.confirm(handle, sequence, 1, sequence).await;
                }
            }
        });
        let (sequence, _) = id_of(&mut a).await;
        a.confirm(on_a.handle, sequence, 1, 0).await;
        within(publishing).await.unwrap();
        on_b.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_the_messages_own_fault_is_told_at_once() {
    for code in [RefusalCode::Forbidden, RefusalCode::MessageTooLarge, RefusalCode::Fenced] {
        let mut pair = Pair::new().await;
        let builder = pair.builder();
        let (producer, mut a, on_a) = pair.open(builder).await;
        let pending = producer.enqueue(Message::new("m")).await.unwrap();
        id_of(&mut a).await;
        a.refuse(on_a.handle, 1, 1, code).await;
        let error = within(pending).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().code, code);
        assert_eq!((error.outcome(), error.node().unwrap().as_str()), (Outcome::Nothing, "a"));
        assert_eq!(producer.figures().moved, 0);
        if code == RefusalCode::Fenced {
            let error = within(producer.send(Message::new("n"))).await.unwrap_err();
            assert_eq!(error.refusal().unwrap().code, code, "a newer producer has the name");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_answers_what_it_took_and_the_rest_goes_elsewhere() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let first = producer.enqueue(Message::new("first")).await.unwrap();
    assert_eq!(id_of(&mut a).await.0, 1);
    let second = producer.enqueue(Message::new("second")).await.unwrap();
    assert_eq!(id_of(&mut a).await.0, 2);
    a.send(&Frame::Goodbye { refusal: Refusal::new(RefusalCode::Stopping, "") }).await;
    a.refuse(on_a.handle, 2, 1, RefusalCode::Stopping).await;
    a.confirm(on_a.handle, 1, 1, 5).await;
    let mut b = pair.b.welcome().await;
    let on_b = b.open_producer(1, 0).await;
    assert_eq!(id_of(&mut b).await, (1, one("second", "p-2")));
    b.confirm(on_b.handle, 1, 1, 0).await;
    assert_eq!(within(first).await.unwrap().node.as_str(), "a");
    assert_eq!(within(second).await.unwrap().node.as_str(), "b");
    assert_eq!(producer.figures().maybe_repeated, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_window_waits_and_is_that_of_all_nodes_together() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().window_messages(1).timeout(Duration::from_secs(3));
    let (producer, mut a, on_a) = pair.open(builder).await;
    let first = producer.enqueue(Message::new("m")).await.unwrap();
    id_of(&mut a).await;
    let error = within(producer.enqueue(Message::new("n"))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::NoRoom { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Nothing);
    // The first one's time is up as well.
    let error = within(first).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    a.confirm(on_a.handle, 1, 1, 0).await;
    let second = within(producer.enqueue(Message::new("n"))).await.unwrap();
    assert_eq!(id_of(&mut a).await.0, 2);
    a.confirm(on_a.handle, 2, 1, 1).await;
    within(second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_node_in_time_says_what_is_the_matter_with_each() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().timeout(Duration::from_secs(2));
    let (producer, mut a, on_a) = pair.open(builder).await;
    pair.board.put(&node("b").with_state(NodeState::Draining));
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    id_of(&mut a).await;
    a.refuse(on_a.handle, 1, 1, RefusalCode::StoreFull).await;
    let refusing = tokio::spawn(async move {
        while let Some(frame) = a.recv_any().await {
            if let Frame::Publish { sequence, .. } = frame {
                a.refuse(on_a.handle, sequence, 1, RefusalCode::StoreFull).await;
            }
        }
    });
    let error = within(pending).await.unwrap_err();
    let ClusterPublishError::NoNode { nodes, .. } = &error else { panic!("{error}") };
    assert_eq!(nodes.0.len(), 2);
    let text = error.to_string();
    assert!(text.contains("b (draining)") && text.contains("a (passed over: "), "{text}");
    assert_eq!(error.outcome(), Outcome::Nothing);
    refusing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_an_id_keeps_it() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let message = Message::new("m").with_header(ltq_client::ID_HEADER, "mine");
    let pending = producer.enqueue(message).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "mine")));
    a.confirm(on_a.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_every_node_refuses_is_not_opened() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let refuse = async {
        let mut peer = pair.a.welcome().await;
        let Frame::OpenProducer { handle, .. } = peer.recv().await else { panic!("no producer") };
        let refusal = Refusal::new(RefusalCode::Forbidden, "for a test");
        peer.send(&Frame::ProducerRefused { handle, refusal }).await;
        peer
    };
    let builder = pair.cluster.producer_builder("orders");
    let (opened, _peer) = tokio::join!(builder.open(), refuse);
    let error = opened.unwrap_err();
    assert!(
        matches!(&error, ltq_client::ClusterError::Refused { node, .. } if node.as_str() == "a")
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_cluster_lacks_is_named() {
    let error = Cluster::builder().connect().await.unwrap_err();
    assert!(matches!(error, ltq_client::ClusterError::NoDiscovery), "{error}");
    let named = Client::builder().server("tcp://127.0.0.1:1");
    let builder = Cluster::builder().discovery(Board::new([])).client(named);
    let error = builder.connect().await.unwrap_err();
    assert!(matches!(error, ltq_client::ClusterError::ServerNamed), "{error}");
    let cluster = Cluster::builder().discovery(Board::new([])).connect().await.unwrap();
    let error = within(cluster.producer("orders")).await.unwrap_err().to_string();
    assert!(error.contains("there is no node"), "{error}");
    let error = within(cluster.producer("no topic")).await.unwrap_err();
    assert!(matches!(error, ltq_client::ClusterError::Name(_)), "{error}");
}
