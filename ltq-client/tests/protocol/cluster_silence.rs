//! What a cluster's producer does about a node that takes messages and answers none: a program that is
//! stopped, or a line that is cut without a word. The connection's heartbeats end after 45 s here.

use std::time::Duration;

use ltq_client::{
    Availability, ClusterProducer, ClusterPublishError, ClusterReceipt, Failover, Message, Outcome,
};
use ltq_core::{Durability, Offset, model::SequenceRange, protocol::Frame};
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
    pair.board.withdraw("b");
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
    pair.board.withdraw("b");
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

/// A second producer of the cluster, on the connection that the first one has.
async fn beside(
    pair: &Pair,
    a: &mut Peer,
    durability: Option<Durability>,
) -> (ClusterProducer, u32) {
    let mut builder = pair.cluster.producer_builder("others").name("q").timeout(SECOND * 60);
    if let Some(durability) = durability {
        builder = builder.durability(durability);
    }
    let (producer, opened) = tokio::join!(builder.open(), a.open_producer(1, 0));
    (producer.unwrap(), opened.handle)
}

/// Publishes by this producer for so long and stores all of it, so durably.
async fn store_others(
    (producer, handle): &(ClusterProducer, u32),
    a: &mut Peer,
    durability: Durability,
    until: Instant,
) {
    while Instant::now() < until {
        let pending = producer.enqueue(Message::new("other")).await.unwrap();
        let sequence = loop {
            match a.recv().await {
                Frame::Publish { sequence, .. } => break sequence,
                // It was given up by the first one and is asked again.
                Frame::OpenProducer { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        sleep(SECOND / 2).await;
        let range = SequenceRange { sequence, count: 1, offset: Some(Offset(sequence)) };
        let ranges = vec![range];
        a.send(&Frame::Confirmed { handle: *handle, ranges, durability }).await;
        within(pending).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stores_what_others_publish_on_the_connection_is_no_silent_one() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let others = beside(&pair, &mut a, None).await;
    let start = Instant::now();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    id_of(&mut a).await;
    store_others(&others, &mut a, Durability::Disk, start + SECOND * 13 / 2).await;
    a.confirm(on_a.handle, 1, 1, 0).await;
    assert_eq!(node(&within(pending).await), "a", "it waited behind what was others'");
    assert!(start.elapsed() < SECOND * 10, "{:?}", start.elapsed());
    assert_eq!(producer.figures().moved, 0);
    // Once nothing comes for anybody, it is silent as soon as ever.
    let start = Instant::now();
    let pending = producer.enqueue(Message::new("second")).await.unwrap();
    id_of(&mut a).await;
    let mut b = pair.b.welcome().await;
    assert!(start.elapsed() >= SECOND * 5 / 2, "{:?}", start.elapsed());
    assert!(start.elapsed() < SECOND * 7 / 2, "{:?}", start.elapsed());
    let on_b = b.open_producer(1, 0).await;
    id_of(&mut b).await;
    b.confirm(on_b.handle, 1, 1, 0).await;
    assert_eq!(node(&within(pending).await), "b");
}

/// What is on its way comes back when the silence is over, though its own answer is still to come.
#[tokio::test(start_paused = true)]
async fn what_others_are_answered_ends_a_silence_too() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let (producer, mut a, on_a) = pair.open(builder).await;
    let others = beside(&pair, &mut a, None).await;
    let start = Instant::now();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    id_of(&mut a).await;
    let other = others.0.enqueue(Message::new("other")).await.unwrap();
    assert_eq!(a.publish().await.0, 1);
    // Silent, and not for as long yet that what it has goes elsewhere: there is another one.
    let on_b = store_all(pair.b.welcome().await, 0);
    assert_eq!(start.elapsed().as_millis() / 100, 25, "{:?}", start.elapsed());
    sleep(SECOND / 4).await;
    a.confirm(others.1, 1, 1, 0).await;
    within(other).await.unwrap();
    store_others(&others, &mut a, Durability::Disk, start + SECOND * 13 / 2).await;
    a.confirm(on_a.handle, 1, 1, 0).await;
    assert_eq!(node(&within(pending).await), "a");
    assert_eq!(producer.figures().moved, 0);
    drop((producer, others, pair));
    assert!(within(on_b).await.unwrap().is_empty());
}

/// They show that its process and the line are well. Its disk may stand still all the same.
#[tokio::test(start_paused = true)]
async fn heartbeats_and_what_is_less_durable_are_believed_for_twice_as_long_as_nothing() {
    for by_heartbeats in [true, false] {
        let mut pair = Pair::new().await;
        let builder = pair.builder().durability(Durability::Disk);
        let (producer, mut a, _) = pair.open(builder).await;
        let others = beside(&pair, &mut a, Some(Durability::Memory)).await;
        let start = Instant::now();
        let pending = producer.enqueue(Message::new("m")).await.unwrap();
        id_of(&mut a).await;
        let living = async {
            let until = start + SECOND * 9;
            if !by_heartbeats {
                return store_others(&others, &mut a, Durability::Memory, until).await;
            }
            while Instant::now() < until {
                a.send(&Frame::Ping { nonce: 1 }).await;
                sleep(SECOND / 2).await;
            }
        };
        let going = async {
            let mut b = pair.b.welcome().await;
            let waited = start.elapsed();
            assert!(waited >= SECOND * 5 && waited < SECOND * 6, "{waited:?}");
            let on_b = b.open_producer(1, 0).await;
            id_of(&mut b).await;
            b.confirm(on_b.handle, 1, 1, 0).await;
            assert_eq!(node(&within(pending).await), "b");
            assert!(start.elapsed() < SECOND * 7, "{:?}", start.elapsed());
        };
        tokio::select! {
            () = going => {}
            () = living => panic!("it is waited for in vain"),
        }
    }
}

/// Takes a large message from a line that carries 100 kB a second, and stores it.
async fn take_slowly(peer: &mut Peer, handle: u32, bytes: usize) {
    let mut taken = 0;
    while taken < bytes {
        taken += peer.take_raw(10_000).await;
        sleep(SECOND / 10).await;
    }
    peer.confirm(handle, 1, 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_longer_on_its_way_than_silent_after_looks_like_silence() {
    const LARGE: usize = 500_000;
    for (silent_after, to) in [(SECOND * 2, "b"), (SECOND * 8, "a")] {
        let mut pair = Pair::new().await;
        let builder = pair.builder().timeout(SECOND * 20).silent_after(silent_after);
        let (producer, mut a, on_a) = pair.open(builder).await;
        let pending = producer.enqueue(Message::new(vec![b'x'; LARGE])).await.unwrap();
        let on_b = async {
            let peer = pair.b.welcome().await;
            store_all(peer, 0).await.unwrap()
        };
        tokio::select! {
            receipt = within(pending) => assert_eq!(node(&receipt), to),
            _ = async { tokio::join!(on_b, take_slowly(&mut a, on_a.handle, LARGE)) } => panic!(),
        }
    }
}
