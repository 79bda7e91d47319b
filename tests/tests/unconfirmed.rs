//! Promises 9 and 10: what is published and not confirmed counts over all streams of a connection and all
//! connections of an address. Beyond it publishes wait, and nothing else that a peer says does.

use std::time::Duration;

use ltq_core::{
    BrokerSettings, Connection, Credit, Message, Records, Settlement, Tag, TagRange, TopicName,
    Verdict, protocol::Frame,
};
use ltq_tests::{Distant, FAR, HERE, OTHER, RawPeer, Served, bytes_of, stream, within};
use tokio::time::timeout;

const KIB: usize = 1 << 10;

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

fn publish(sequence: u64, bytes: usize) -> Frame {
    let records = Records::encode([&Message::new(vec![7; bytes])]);
    Frame::Publish { handle: 1, sequence, durability: None, records }
}

/// Settings whose frames hold a message of 64 KiB, and a stream two of them.
fn small() -> BrokerSettings {
    BrokerSettings {
        message_bytes_max: 64 << 10,
        frame_bytes_max: 68 << 10,
        publish_bytes_max: 128 << 10,
        publish_bytes_total_max: 64 << 20,
        ..Served::settings()
    }
}

/// Sends so many messages of 60 KiB, of which the broker may take fewer.
async fn press(peer: &mut RawPeer, count: u64) {
    for sequence in 1..=count {
        let bytes = bytes_of(&publish(sequence, 60 * KIB));
        if timeout(Duration::from_millis(100), peer.send_bytes(&bytes)).await.is_err() {
            return;
        }
    }
}

/// Reads until so many messages are confirmed.
async fn confirmed(peer: &mut RawPeer, count: u64) {
    let mut left = count;
    while left > 0 {
        match peer.next().await {
            Some(Frame::Confirmed { ranges, .. }) => {
                // Some of what followed may be among them.
                left = left.saturating_sub(ranges.iter().map(|range| range.count).sum::<u64>());
            }
            other => panic!("{left} of {count} are not confirmed: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_connection_has_its_part_of_what_may_be_unconfirmed_on_all_its_streams() {
    let part = 512 * KIB;
    let settings =
        BrokerSettings { publish_bytes_per_connection_max: Some(part as u64), ..small() };
    let node = Distant::new(settings).await;
    let (greedy, modest) = (node.connect(HERE).await, node.connect(HERE).await);
    let mut first = stream(&*modest).await;
    first.open_producer(1, "t").await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut peer = stream(&*greedy).await;
        peer.open_producer(1, "t").await;
        streams.push(peer);
    }
    node.gate.send_replace(false);
    for peer in &mut streams {
        press(peer, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = node.broker.in_use().publish_bytes as usize;
    // Twice as much, and the last read.
    assert!((part..=2 * part + 64 * KIB).contains(&taken), "{taken} bytes of 64 streams");
    assert!(node.held_back("publish_bytes_per_connection_max") > 0);
    // Others are taken in as if nothing was.
    press(&mut first, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let both = node.broker.in_use().publish_bytes as usize;
    assert!(both - taken > 120 * KIB, "{taken} and then {both} bytes");
    assert_eq!(node.held_back("publish_bytes_total_max"), 0);
    node.gate.send_replace(true);
    confirmed(&mut first, 2).await;
    for peer in &mut streams {
        confirmed(peer, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_streams_that_end_leave_what_they_published_to_their_connection() {
    let part = 512 * KIB;
    let settings =
        BrokerSettings { publish_bytes_per_connection_max: Some(part as u64), ..small() };
    let node = Distant::new(settings).await;
    let connection = node.connect(HERE).await;
    let mut keeper = stream(&*connection).await;
    keeper.open_producer(1, "t").await;
    node.gate.send_replace(false);
    for _ in 0..100 {
        let mut peer = stream(&*connection).await;
        peer.send(Frame::OpenProducer {
            handle: 1,
            topic: name("t"),
            name: None,
            epoch: None,
            seat: None,
        })
        .await;
        press(&mut peer, 1).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let taken = node.broker.in_use().publish_bytes as usize;
    assert!(taken <= 2 * part + 64 * KIB, "{taken} bytes of streams that are gone");
    node.gate.send_replace(true);
    within("it is stored, and there is room again", async {
        keeper.send(publish(1, 60 * KIB)).await;
        confirmed(&mut keeper, 1).await;
        while node.broker.in_use().publish_bytes > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Opens a producer and publishes with the same write, so that one read brings both.
async fn open_and_publish(peer: &mut RawPeer, bytes: usize) {
    let open =
        Frame::OpenProducer { handle: 1, topic: name("t"), name: None, epoch: None, seat: None };
    let both = [bytes_of(&open), bytes_of(&publish(1, bytes))].concat();
    peer.send_bytes(&both).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_stream_that_begins_beyond_the_limits_waits_with_what_it_publishes_at_once() {
    let part = 512 * KIB;
    let settings =
        BrokerSettings { publish_bytes_per_connection_max: Some(part as u64), ..small() };
    let node = Distant::new(settings).await;
    let connection = node.connect(FAR).await;
    node.gate.send_replace(false);
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut peer = stream(&*connection).await;
        open_and_publish(&mut peer, 10 * KIB).await;
        streams.push(peer);
    }
    let taken = node.broker.in_use().publish_bytes as usize;
    // Twice as much, the last read, and 256 bytes for each producer that is not opened yet.
    let most = 2 * part + 16 * KIB + 200 * 256;
    assert!((part..=most).contains(&taken), "{taken} bytes of 200 streams");
    node.gate.send_replace(true);
    for peer in &mut streams {
        let opened = peer.next().await;
        assert!(matches!(opened, Some(Frame::ProducerOpened { .. })), "{opened:?}");
        confirmed(peer, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_an_address_has_its_part_of_what_may_be_unconfirmed_on_all_its_connections() {
    let part = 512 * KIB;
    let settings = BrokerSettings { publish_bytes_per_address_max: Some(part as u64), ..small() };
    let node = Distant::new(settings).await;
    let mut greedy = Vec::new();
    for origin in [FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, OTHER, HERE] {
        let mut peer = stream(&*node.connect(origin).await).await;
        peer.open_producer(1, "t").await;
        greedy.push(peer);
    }
    let mut others = greedy.split_off(10);
    node.gate.send_replace(false);
    for peer in &mut greedy {
        press(peer, 2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = node.broker.in_use().publish_bytes as usize;
    // A connection that has nothing there is heard up to twice as much.
    assert!((part..=2 * part + 128 * KIB).contains(&taken), "{taken} bytes of one address");
    assert!(node.held_back("publish_bytes_per_address_max") > 0);
    for peer in &mut others {
        let before = node.broker.in_use().publish_bytes as usize;
        press(peer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = node.broker.in_use().publish_bytes as usize;
        assert!(after - before > 120 * KIB, "{before} and then {after} bytes");
    }
    node.gate.send_replace(true);
    for peer in others.iter_mut().chain(&mut greedy) {
        confirmed(peer, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_consumers_of_an_address_are_heard_while_its_publishers_wait() {
    let settings = BrokerSettings {
        publish_bytes_per_connection_max: Some(128 << 10),
        publish_bytes_per_address_max: Some(128 << 10),
        publish_bytes_total_max: 128 << 10,
        ..small()
    };
    let node = Distant::new(settings).await;
    let connection = node.connect(FAR).await;
    let mut publisher = stream(&*connection).await;
    publisher.open_producer(1, "t").await;
    let mut consumer = stream(&*connection).await;
    node.gate.send_replace(false);
    press(&mut publisher, 5).await;
    assert!(node.held_back("publish_bytes_max") > 0);
    // Others fill it up to twice as much, and still it is.
    let mut others = Vec::new();
    for _ in 0..16 {
        let mut other = stream(&*connection).await;
        open_and_publish(&mut other, 10 * KIB).await;
        others.push(other);
    }
    assert!(node.held_back("publish_bytes_per_connection_max") > 0);
    consumer.send(Frame::Ping { nonce: 5 }).await;
    assert_eq!(consumer.next().await, Some(Frame::Pong { nonce: 5 }));
    node.gate.send_replace(true);
    confirmed(&mut publisher, 3).await;
}

/// Publishes that fill what all may have unconfirmed, so that not even those may begin who have nothing.
async fn crowd(node: &Distant, connection: &dyn Connection) -> Vec<RawPeer> {
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut other = stream(connection).await;
        open_and_publish(&mut other, 40 * KIB).await;
        others.push(other);
    }
    assert!(node.broker.in_use().publish_bytes >= 256 << 10);
    others
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_stream_with_a_producer_is_heard_until_it_publishes_while_publishes_wait() {
    let settings = BrokerSettings { publish_bytes_total_max: 128 << 10, ..small() };
    let node = Distant::new(settings).await;
    let (one, two) = (node.connect(FAR).await, node.connect(OTHER).await);
    let mut both = stream(&*one).await;
    both.open_producer(1, "t").await;
    for sequence in 1..=2 {
        assert!(matches!(both.publish(1, sequence, &[b"x"]).await, Some(Frame::Confirmed { .. })));
    }
    both.send(RawPeer::subscribe(2, "t", "c", Credit { messages: 1, bytes: 1 << 20 })).await;
    assert!(matches!(both.next().await, Some(Frame::Subscribed { .. })));
    assert!(matches!(both.next().await, Some(Frame::Deliver { first_tag: Tag(1), .. })));
    node.gate.send_replace(false);
    let mut others = crowd(&node, &*two).await;
    let before = node.held_back("publish_bytes_total_max");
    // What it says in many reads is heard, and its acks bring it more.
    for nonce in 0..100 {
        both.send(Frame::Ping { nonce }).await;
        assert_eq!(both.next().await, Some(Frame::Pong { nonce }));
    }
    let tags = TagRange { first: Tag(1), last: Tag(1) };
    let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
    both.send(Frame::Settle { handle: 2, request: 0, settlements }).await;
    both.send(Frame::Credit { handle: 2, total: Credit { messages: 2, bytes: 2 << 20 } }).await;
    let delivery = both.next().await;
    assert!(matches!(delivery, Some(Frame::Deliver { first_tag: Tag(2), .. })), "{delivery:?}");
    assert_eq!(node.held_back("publish_bytes_total_max"), before, "nothing of it waits");
    // Its publish waits, and what comes behind it, in the same read or not.
    let used = node.broker.in_use().publish_bytes;
    let ping = |nonce| bytes_of(&Frame::Ping { nonce });
    let last = [ping(7), bytes_of(&publish(3, 100)), ping(8)].concat();
    both.send_bytes(&last).await.expect("sent");
    assert_eq!(both.next().await, Some(Frame::Pong { nonce: 7 }));
    both.send_bytes(&ping(9)).await.expect("sent");
    let silent = timeout(Duration::from_secs(10), both.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(node.broker.in_use().publish_bytes, used);
    assert_eq!(node.held_back("publish_bytes_total_max"), before + 1);
    // All of it goes on once others' are confirmed.
    node.gate.send_replace(true);
    for other in &mut others {
        let opened = other.next().await;
        assert!(matches!(opened, Some(Frame::ProducerOpened { .. })), "{opened:?}");
        confirmed(other, 1).await;
    }
    let mut answers = [both.next().await, both.next().await, both.next().await];
    answers.sort_by_key(|answer| matches!(answer, Some(Frame::Confirmed { .. })));
    let [Some(Frame::Pong { nonce: 8 }), Some(Frame::Pong { nonce: 9 }), Some(_)] = answers else {
        panic!("{answers:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_stream_that_published_too_much_itself_is_heard_until_it_publishes_again() {
    let node = Distant::new(small()).await;
    let mut peer = stream(&*node.connect(HERE).await).await;
    peer.open_producer(1, "t").await;
    node.gate.send_replace(false);
    press(&mut peer, 3).await;
    for nonce in 0..100 {
        peer.send(Frame::Ping { nonce }).await;
        assert_eq!(peer.next().await, Some(Frame::Pong { nonce }));
    }
    peer.send(publish(4, 100)).await;
    peer.send(Frame::Ping { nonce: 100 }).await;
    let silent = timeout(Duration::from_secs(10), peer.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    node.gate.send_replace(true);
    within("all that it said", async {
        let (mut left, mut pong) = (4, false);
        while left > 0 || !pong {
            match peer.next().await {
                Some(Frame::Confirmed { ranges, .. }) => {
                    left -= ranges.iter().map(|range| range.count).sum::<u64>();
                }
                Some(Frame::Pong { nonce: 100 }) => pong = true,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn promise_9_little_is_kept_of_what_follows_on_publishes_that_wait() {
    let settings = BrokerSettings {
        publish_bytes_total_max: 128 << 10,
        partial_bytes_free: 16 << 10,
        ..small()
    };
    let node = Distant::new(settings).await;
    let (one, two) = (node.connect(FAR).await, node.connect(OTHER).await);
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut peer = stream(&*one).await;
        peer.open_producer(1, "t").await;
        // It is one of which much is read at a time.
        for sequence in 1..=20 {
            peer.send(publish(sequence, 60 * KIB)).await;
        }
        confirmed(&mut peer, 20).await;
        streams.push(peer);
    }
    node.gate.send_replace(false);
    let _others = crowd(&node, &*two).await;
    let used = node.broker.in_use().publish_bytes;
    let ping = bytes_of(&Frame::Ping { nonce: 1 });
    for peer in &mut streams {
        peer.send_bytes(&ping).await.expect("sent");
        assert!(peer.next().await.is_some());
        let many: Vec<u8> = (21..=1_000).flat_map(|n| bytes_of(&publish(n, 100))).collect();
        let _ = timeout(Duration::from_millis(10), peer.send_bytes(&many)).await;
    }
    let now = node.broker.in_use();
    assert_eq!(now.publish_bytes, used);
    // A read of each, of which what was free for the connection is not counted here.
    assert!(now.partial_bytes > 0 && now.partial_bytes <= 16 * (16 << 10), "{now:?}");
    node.gate.send_replace(true);
    for peer in &mut streams {
        confirmed(peer, 1).await;
    }
}
