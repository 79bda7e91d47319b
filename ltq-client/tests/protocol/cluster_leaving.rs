//! What a cluster's producer makes of nodes that go, move, drain or were never there.

use std::time::Duration;

use ltq_client::{
    Availability, ClusterProducer, ClusterProducerBuilder, Failover, Message, NodeInfo, Outcome,
};
use ltq_core::{Refusal, RefusalCode, protocol::Frame};
use ltq_discovery::NodeState;
use tokio::time::{Instant, timeout};

use crate::{
    board::node,
    cluster::{Pair, id_of, one},
    fake::{Fake, Peer, within},
};

fn at(id: &str, address: &str) -> NodeInfo {
    let address = format!("in-process://{address}").parse().unwrap();
    NodeInfo::new(id.parse().unwrap(), [address]).unwrap()
}

/// Answers a publish of one message, whatever producer it is of.
async fn store(peer: &mut Peer) {
    match peer.recv().await {
        Frame::Publish { handle, sequence, .. } => peer.confirm(handle, sequence, 1, 0).await,
        other => panic!("{other:?} is no publish"),
    }
}

/// All kinds of producers, with a time that is soon up.
fn kinds(pair: &Pair) -> [ClusterProducerBuilder; 4] {
    let builder = || pair.builder().timeout(Duration::from_secs(5));
    [
        builder(),
        builder().failover(Failover::SameNode),
        builder().ordered(Availability::Fail),
        builder().ordered(Availability::Move),
    ]
}

async fn sent_to_y(producer: &ClusterProducer, y: &mut Fake) {
    let serving = async {
        let mut peer = y.welcome().await;
        peer.open_producer(1, 0).await;
        loop {
            store(&mut peer).await;
        }
    };
    let sending = async {
        // What was on its way to the old place may still be failing.
        let sent = producer.send(Message::new("after")).await;
        assert_eq!(sent.unwrap().node.as_str(), "a");
    };
    tokio::select! {
        () = sending => {}
        () = serving => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_and_is_back_at_another_address_is_used_again() {
    for kind in 0..4 {
        let mut pair = Pair::new().await;
        pair.board.withdraw("b");
        let builder = kinds(&pair).into_iter().nth(kind).unwrap();
        let (producer, peer, _) = pair.open(builder).await;
        let Pair { a, board, namespace, cluster, .. } = pair;
        drop((peer, a));
        let error = within(producer.send(Message::new("lost"))).await.unwrap_err();
        assert_ne!(error.outcome(), Outcome::Unknown, "it was never sent");
        let mut y = Fake::at(&namespace, "y").await;
        board.put(&at("a", "y"));
        within(sent_to_y(&producer, &mut y)).await;
        drop(cluster);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_amid_a_publish_is_used_again_at_once() {
    for kind in 0..4 {
        let mut pair = Pair::new().await;
        pair.board.withdraw("b");
        let builder = kinds(&pair).into_iter().nth(kind).unwrap();
        let (producer, mut peer, _) = pair.open(builder).await;
        let pending = producer.enqueue(Message::new("sent")).await.unwrap();
        peer.publish().await;
        let Pair { a, board, namespace, cluster, .. } = pair;
        drop((peer, a));
        let mut y = Fake::at(&namespace, "y").await;
        board.put(&at("a", "y"));
        let start = Instant::now();
        within(sent_to_y(&producer, &mut y)).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{kind}: {:?}", start.elapsed());
        drop((pending, cluster));
    }
}

/// What was sent to the old place cannot be asked for there, nor waited for.
#[tokio::test(start_paused = true)]
async fn what_was_sent_to_the_same_node_is_unknown_at_once_where_that_is_elsewhere_now() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let builder = pair.builder().failover(Failover::SameNode);
    let (producer, mut peer, _) = pair.open(builder).await;
    let mut pending = producer.enqueue(Message::new("sent")).await.unwrap();
    peer.publish().await;
    let Pair { a, board, namespace, cluster, .. } = pair;
    drop((peer, a));
    // Where it is known to be it is waited for.
    assert!(timeout(Duration::from_secs(3), &mut pending).await.is_err());
    let _y = Fake::at(&namespace, "y").await;
    board.put(&at("a", "y"));
    let start = Instant::now();
    let error = within(pending).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!((error.outcome(), error.node().unwrap().as_str()), (Outcome::Unknown, "a"));
    assert_eq!(producer.figures().maybe_repeated, 0);
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_that_still_answers_is_not_given_up() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let mut pending = producer.enqueue(Message::new("m")).await.unwrap();
    a.publish().await;
    a.send(&Frame::Goodbye { refusal: Refusal::new(RefusalCode::Stopping, "") }).await;
    // Six times as long as a node is waited for that is down.
    assert!(timeout(Duration::from_secs(3), &mut pending).await.is_err());
    a.confirm(on_a.handle, 1, 1, 7).await;
    assert_eq!(within(pending).await.unwrap().node.as_str(), "a");
    assert_eq!(producer.figures().moved, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_draining_node_refuses_an_ordered_producer_goes_on() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let builder = pair.builder().ordered(Availability::Fail);
    let (producer, mut a, on_a) = pair.open(builder).await;
    let mut first = producer.enqueue(Message::new("first")).await.unwrap();
    a.publish().await;
    let second = producer.enqueue(Message::new("second")).await.unwrap();
    a.publish().await;
    a.refuse(on_a.handle, 1, 1, RefusalCode::Draining).await;
    a.refuse(on_a.handle, 2, 1, RefusalCode::Draining).await;
    // It is tried again in a while, the order being there.
    assert!(timeout(Duration::from_millis(50), &mut first).await.is_err());
    let (sequence, bodies) = a.publish().await;
    assert_eq!(bodies[0], "first");
    a.confirm(on_a.handle, sequence, bodies.len() as u64, 0).await;
    if bodies.len() == 1 {
        let (sequence, bodies) = a.publish().await;
        assert_eq!(bodies, ["second"]);
        a.confirm(on_a.handle, sequence, 1, 1).await;
    }
    within(first).await.unwrap();
    within(second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_draining_node_refuses_goes_on_in_its_order_at_the_next_one() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let builder = pair.builder().ordered(Availability::Fail).moves_silently(true);
    let (producer, mut a, on_a) = pair.open(builder).await;
    let mut first = producer.enqueue(Message::new("first")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("first", "p-1")));
    let second = producer.enqueue(Message::new("second")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (2, one("second", "p-2")));
    pair.board.put(&node("a").with_state(NodeState::Draining));
    pair.board.put(&node("b"));
    assert!(timeout(Duration::from_millis(50), &mut first).await.is_err(), "it waits for a");
    a.refuse(on_a.handle, 1, 1, RefusalCode::Draining).await;
    a.refuse(on_a.handle, 2, 1, RefusalCode::Draining).await;
    let mut b = pair.b.welcome().await;
    b.open_producer(1, 0).await;
    let serving = async {
        loop {
            store(&mut b).await;
        }
    };
    let answers = async { [first.await.unwrap().node, second.await.unwrap().node] };
    tokio::select! {
        nodes = within(answers) => assert!(nodes.iter().all(|node| node.as_str() == "b")),
        () = serving => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_that_has_something_still_is_not_given_up() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let mut pending = producer.enqueue(Message::new("m")).await.unwrap();
    a.publish().await;
    pair.board.put(&node("a").with_state(NodeState::Draining));
    // Four times as long as a node is waited for that is down.
    assert!(timeout(Duration::from_secs(2), &mut pending).await.is_err());
    a.confirm(on_a.handle, 1, 1, 7).await;
    assert_eq!(within(pending).await.unwrap().node.as_str(), "a");
    assert_eq!(producer.figures().moved, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_in_an_order_that_may_not_move_waits_for_its_node_which_stores_it_once() {
    let mut pair = Pair::new().await;
    pair.board.withdraw("b");
    let builder = pair.builder().ordered(Availability::Fail).timeout(Duration::from_secs(60));
    let (producer, mut a, _) = pair.open(builder).await;
    let mut pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")));
    pair.board.put(&node("b"));
    drop(a);
    // Away for six times as long as it takes where messages may go elsewhere.
    let silent = pair.a.accept().await;
    assert!(timeout(Duration::from_secs(3), &mut pending).await.is_err());
    drop(silent);
    let mut a = pair.a.welcome().await;
    let opened = a.open_producer(1, 0).await;
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")), "under the same sequence");
    a.confirm(opened.handle, 1, 1, 0).await;
    assert_eq!(within(pending).await.unwrap().node.as_str(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_plain_client_is_told_that_its_node_drains() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    peer.publish().await;
    peer.refuse(opened.handle, 1, 1, RefusalCode::Draining).await;
    let error = within(pending).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_producer_with_nothing_to_do_on_a_draining_node_is_closed_there() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    a.publish().await;
    pair.board.put(&node("a").with_state(NodeState::Draining));
    a.confirm(on_a.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
    let closed = within(a.recv()).await;
    assert!(matches!(closed, Frame::CloseProducer { handle, .. } if handle == on_a.handle));
}

#[tokio::test(start_paused = true)]
async fn one_live_node_among_many_dead_ones_is_found_soon() {
    let pair = Pair::new().await;
    let Pair { namespace, board, cluster, .. } = pair;
    let mut live = Fake::at(&namespace, "live").await;
    ["a", "b"].iter().for_each(|id| board.withdraw(id));
    (0..200).for_each(|n| board.put(&at(&format!("n-{n:03}"), &format!("dead-{n}"))));
    // In the middle: it is reached last, whichever end is begun at.
    board.put(&at("n-100", "live"));
    let builder = cluster.producer_builder("orders");
    let serving = async {
        let mut peer = live.welcome().await;
        peer.open_producer(1, 0).await;
        peer
    };
    let start = Instant::now();
    let (opened, _peer) = tokio::join!(within(builder.open()), serving);
    opened.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
