//! What a cluster's producer does about a node that takes messages and answers none: a program that is
//! stopped, or a line that is cut without a word. The connection's heartbeats end after 45 s here.

use std::time::Duration;

use ltq_client::{Availability, ClusterPublishError, ClusterReceipt, Failover, Message, Outcome};
use ltq_core::{Durability, protocol::Frame};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    cluster::{Pair, id_of, one},
    fake::{Peer, within},
};

const SECOND: Duration = Duration::from_secs(1);

type Receipt = Result<ClusterReceipt, ClusterPublishError>;

fn node(receipt: &Receipt) -> &str {
    receipt.as_ref().unwrap().node.as_str()
}

/// Opens every producer and stores all that comes, and gives the bodies of all back once the client is gone.
fn store_all(mut peer: Peer, mut stored: u64) -> JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut bodies = Vec::new();
        let mut epoch = 1;
        while let Some(frame) = peer.recv_any().await {
            match frame {
                Frame::OpenProducer { handle, .. } => {
                    epoch += 1;
                    let (last_sequence, durability) = (stored, Durability::Disk);
                    let opened = Frame::ProducerOpened { handle, epoch, last_sequence, durability };
                    peer.send(&opened).await;
                }
                Frame::Publish { sequence, handle, records, .. } => {
                    bodies.extend(crate::fake::bodies(&records));
                    stored = sequence + records.count() as u64 - 1;
                    peer.confirm(handle, sequence, records.count() as u64, sequence).await;
                }
                _ => {}
            }
        }
        bodies
    })
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_node_has_goes_elsewhere_well_within_its_time() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let start = Instant::now();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("m", "p-1")));
    let mut b = pair.b.welcome().await;
    assert!(start.elapsed() >= SECOND * 5 / 2, "a is waited for: {:?}", start.elapsed());
    let on_b = b.open_producer(1, 0).await;
    assert_eq!(id_of(&mut b).await, (1, one("m", "p-1")), "the same id");
    b.confirm(on_b.handle, 1, 1, 7).await;
    let receipt = within(pending).await;
    assert_eq!(node(&receipt), "b");
    assert!(start.elapsed() < SECOND * 4, "{:?}", start.elapsed());
    assert_eq!(producer.figures().maybe_repeated, 1);
    // What is new goes there at once, though a is not suspected by anybody else.
    let start = Instant::now();
    let stored = store_all(b, 1);
    for n in 0..20 {
        let receipt = producer.send(Message::new(n.to_string())).await;
        assert_eq!(node(&receipt), "b");
    }
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    // It speaks again: what it had it stores, and the producer that it was asked for meanwhile is open.
    a.confirm(on_a.handle, 1, 1, 0).await;
    let on_a = store_all(a, 1);
    let again = tokio::spawn(async move {
        while producer.send(Message::new("again")).await.unwrap().node.as_str() != "a" {}
    });
    within(again).await.unwrap();
    drop(pair);
    assert_eq!(within(on_a).await.unwrap(), ["again"], "it was given nothing else");
    assert_eq!(within(stored).await.unwrap()[0], "0");
}

/// Nobody takes the answers to it any more.
#[tokio::test(start_paused = true)]
async fn what_a_silent_node_was_given_up_with_does_not_hold_back_what_it_is_given_when_it_speaks() {
    let mut pair = Pair::new().await;
    pair.a.publish_bytes_max = 1_000;
    let builder = pair.builder();
    let (producer, mut a, _) = pair.open(builder).await;
    let pending = producer.enqueue(Message::new(vec![b'x'; 2_000])).await.unwrap();
    assert_eq!(a.publish().await.0, 1);
    let on_b = store_all(pair.b.welcome().await, 0);
    assert_eq!(node(&within(pending).await), "b");
    // It says nothing of that message, and opens the producer that it was asked for meanwhile.
    let on_a = store_all(a, 1);
    let again = tokio::spawn(async move {
        for _ in 0..1_000 {
            if producer.send(Message::new("again")).await.unwrap().node.as_str() == "a" {
                return true;
            }
        }
        false
    });
    assert!(within(again).await.unwrap(), "it is given nothing");
    drop(pair);
    assert_eq!(within(on_a).await.unwrap(), ["again"]);
    within(on_b).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn on_the_same_node_what_was_sent_fails_in_time_and_nothing_new_goes_there() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().failover(Failover::SameNode);
    let (producer, mut a, _) = pair.open(builder).await;
    let start = Instant::now();
    let sent = producer.enqueue(Message::new("sent")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("sent", "p-1")));
    let stored = store_all(pair.b.welcome().await, 0);
    for _ in 0..20 {
        assert_eq!(node(&producer.send(Message::new("new")).await), "b");
    }
    assert!(start.elapsed() < SECOND * 3, "{:?}", start.elapsed());
    let error = within(sent).await.unwrap_err();
    assert_eq!((error.outcome(), error.node().unwrap().as_str()), (Outcome::Unknown, "a"));
    assert_eq!(start.elapsed().as_secs(), 10, "as its timeout says");
    assert_eq!(producer.figures().maybe_repeated, 0);
    drop((producer, pair, a));
    assert_eq!(within(stored).await.unwrap().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_that_is_silent_is_waited_for_and_stores_once() {
    let mut pair = Pair::new().await;
    pair.board.remove("b");
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let first = producer.enqueue(Message::new("first")).await.unwrap();
    assert_eq!(id_of(&mut a).await, (1, one("first", "p-1")));
    sleep(SECOND * 4).await;
    let second = producer.enqueue(Message::new("second")).await.unwrap();
    sleep(SECOND).await;
    a.confirm(on_a.handle, 1, 1, 0).await;
    assert_eq!(id_of(&mut a).await, (2, one("second", "p-2")), "it waited for the node");
    a.confirm(on_a.handle, 2, 1, 1).await;
    assert_eq!(node(&within(first).await), "a");
    assert_eq!(node(&within(second).await), "a");
    assert_eq!(producer.figures().maybe_repeated, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_in_vain_to_a_lone_silent_node_for_longer_than_the_timeout() {
    let mut pair = Pair::new().await;
    pair.board.remove("b");
    let builder = pair.builder();
    let (producer, mut a, _) = pair.open(builder).await;
    let sent = producer.enqueue(Message::new("sent")).await.unwrap();
    id_of(&mut a).await;
    sleep(SECOND * 3).await;
    let start = Instant::now();
    let error = within(producer.send(Message::new("unsent"))).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ClusterPublishError::NoNode { .. }), "{text}");
    assert!(text.contains("a (silent)"), "{text}");
    assert_eq!((error.outcome(), start.elapsed().as_secs()), (Outcome::Nothing, 10));
    assert_eq!(within(sent).await.unwrap_err().outcome(), Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_busy_is_no_silent_one() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().timeout(SECOND * 60).silent_after(SECOND / 4);
    let (producer, mut a, on_a) = pair.open(builder).await;
    let mut pending = Vec::new();
    for n in 1..=50 {
        pending.push(producer.enqueue(Message::new(n.to_string())).await.unwrap());
        assert_eq!(id_of(&mut a).await.0, n);
    }
    // A sync of 200 ms for each of them.
    for n in 1..=50 {
        sleep(SECOND / 5).await;
        a.confirm(on_a.handle, n, 1, n).await;
    }
    for one in pending {
        assert_eq!(node(&within(one).await), "a");
    }
    // Time in which it has nothing to answer is no silence.
    sleep(SECOND * 20).await;
    let one = producer.enqueue(Message::new("late")).await.unwrap();
    assert_eq!(id_of(&mut a).await.0, 51);
    a.confirm(on_a.handle, 51, 1, 51).await;
    assert_eq!(node(&within(one).await), "a");
    assert_eq!(producer.figures().moved, 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_leaves_a_silent_node_once_where_it_may_and_comes_back_when_it_speaks() {
    let mut pair = Pair::new().await;
    let builder = pair.builder().ordered(Availability::Move);
    let key = |body: &str, of: &str| Message::new(body.to_owned()).with_key(of.to_owned());
    let (producer, mut a, opened) = pair.open(builder).await;
    // Of the two nodes this key is a's.
    let of_a = "k0";
    let first = producer.enqueue(key("first", of_a)).await.unwrap();
    id_of(&mut a).await;
    let (error, b) = tokio::join!(within(first), pair.b.welcome());
    let stored = store_all(b, 0);
    let error = error.unwrap_err();
    assert_eq!((error.outcome(), error.node().unwrap().as_str()), (Outcome::Unknown, "a"));
    let error = within(producer.send(key("second", of_a))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::OrderMoved { .. }), "{error}");
    for _ in 0..100 {
        assert_eq!(node(&producer.send(key("third", of_a)).await), "b");
        sleep(SECOND / 10).await;
    }
    a.confirm(opened.handle, 1, 1, 0).await;
    let on_a = store_all(a, 1);
    let moves_back = async {
        loop {
            match producer.send(key("fourth", of_a)).await {
                Err(ClusterPublishError::OrderMoved { to, .. }) if to.as_str() == "a" => break,
                other => assert_eq!(node(&other), "b"),
            }
        }
    };
    within(moves_back).await;
    assert_eq!(node(&producer.send(key("fifth", of_a)).await), "a");
    drop((producer, pair));
    assert_eq!(within(on_a).await.unwrap(), ["fifth"]);
    assert!(within(stored).await.unwrap().len() >= 100);
}
