//! Promise 10: who opens and closes what it does not use, on streams, connections and addresses that come and
//! go, is turned away by name; and whoever uses what it opens is not, however often.

use std::time::Duration;

use ltq_core::{
    BrokerSettings, Connection, Credit, Durability, Limit, Message, ProducerName, Records, Refusal,
    RefusalCode, Settlement, Tag, TagRange, TopicName, Verdict, protocol::Frame,
};
use ltq_tests::{Distant, FAR, HERE, OTHER, RawPeer, Served, bytes_of, stream};
use ltq_transport::InProcess;

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// Asks for something that is opened or refused.
async fn ask(peer: &mut RawPeer, frame: Frame) -> Result<(), Refusal> {
    peer.send(frame).await;
    match peer.next().await {
        Some(Frame::Subscribed { .. } | Frame::ProducerOpened { .. }) => Ok(()),
        Some(Frame::SubscribeRefused { refusal, .. } | Frame::ProducerRefused { refusal, .. }) => {
            Err(refusal)
        }
        other => panic!("{other:?}"),
    }
}

async fn subscribe(peer: &mut RawPeer, handle: u32) -> Result<(), Refusal> {
    ask(peer, RawPeer::subscribe(handle, "t", "c", CREDIT)).await
}

async fn produce(peer: &mut RawPeer, handle: u32) -> Result<(), Refusal> {
    ask(peer, open_producer(handle)).await
}

fn open_producer(handle: u32) -> Frame {
    Frame::OpenProducer { handle, topic: name("t"), name: None, epoch: None, seat: None }
}

/// Settings by which 200 frames a second may be in vain, and as many ends.
fn tight() -> BrokerSettings {
    BrokerSettings {
        futile_frames_max: 200,
        subscriptions_max: 100,
        producers_max: 100,
        ..Served::settings()
    }
}

/// What it is told at last when it says this again and again, and how often it did.
async fn until_goodbye(peer: &mut RawPeer, round: &[Frame]) -> (Refusal, usize) {
    let mut bytes: Vec<u8> = round.iter().flat_map(bytes_of).collect();
    bytes.extend(bytes_of(&Frame::Ping { nonce: 1 }));
    for rounds in 0..1_000 {
        // One after the other is given, so that none is refused for its number.
        peer.send_bytes(&bytes).await.expect("sent");
        loop {
            match peer.next().await {
                Some(Frame::Pong { .. }) => break,
                Some(Frame::Goodbye { refusal }) => return (refusal, rounds),
                Some(_) => {}
                None => panic!("no goodbye"),
            }
        }
    }
    panic!("nothing ends it");
}

/// What one more stream is told that says hello.
async fn hello(connection: &dyn Connection) -> Result<RawPeer, Refusal> {
    let mut peer = RawPeer::over(connection.open_stream().await.expect("a stream"));
    peer.send(Frame::Hello(RawPeer::hello())).await;
    match peer.next().await {
        Some(Frame::Welcome(_)) => Ok(peer),
        Some(Frame::Goodbye { refusal }) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_address_makes_so_many_channels_a_minute_by_use() {
    let settings = BrokerSettings { channels_per_minute_max: 3, ..Served::settings() };
    let node = Distant::new(settings).await;
    let (far, other) = (node.connect(FAR).await, node.connect(OTHER).await);
    let mut peer = stream(&*far).await;
    let subscribe = |handle: u32, channel: &str| RawPeer::subscribe(handle, "t", channel, CREDIT);
    for (handle, channel) in [(1, "a"), (2, "b"), (3, "c#ephemeral")] {
        ask(&mut peer, subscribe(handle, channel)).await.expect("a channel");
    }
    // Those that are there cost nothing, however many come at once.
    for handle in 10..200 {
        ask(&mut peer, subscribe(handle, "a")).await.expect("it is there");
    }
    let second = node.connect(FAR).await;
    let mut second = stream(&*second).await;
    let refusal = ask(&mut second, subscribe(1, "d")).await.expect_err("there were three");
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains("3 a minute") && refusal.detail.contains('d'), "{refusal}");
    assert_eq!(node.reached(), [(Limit::ChannelsPerMinute, 1)]);
    ask(&mut stream(&*other).await, subscribe(1, "d")).await.expect("another address");
    ask(&mut second, subscribe(2, "d")).await.expect("it is there now");
    let here = node.connect(HERE).await;
    let mut here = stream(&*here).await;
    for handle in 0..10 {
        ask(&mut here, subscribe(handle, &format!("here-{handle}"))).await.expect("a channel");
    }
    tokio::time::sleep(Duration::from_secs(21)).await;
    ask(&mut second, subscribe(3, "e")).await.expect("20 s make one");
    ask(&mut second, subscribe(4, "f")).await.expect_err("and no more");
}

#[tokio::test(start_paused = true)]
async fn promise_10_opening_and_closing_over_and_over_is_a_flood() {
    let node = Distant::new(tight()).await;
    let named = Frame::OpenProducer {
        handle: 1,
        topic: name("t"),
        name: Some(ProducerName::new("p").expect("a name")),
        epoch: None,
        seat: None,
    };
    let records = Records::encode([&Message::new("x")]);
    let durability = Some(Durability::Disk);
    // More durable than the store can.
    let refused = Frame::Publish { handle: 1, sequence: 1, durability, records };
    let close = |forget| Frame::CloseProducer { handle: 1, forget };
    let rounds = [
        vec![RawPeer::subscribe(1, "t", "c", CREDIT), Frame::Unsubscribe { handle: 1 }],
        vec![named, close(true)],
        vec![open_producer(1), refused, close(false)],
    ];
    for round in rounds {
        let connection = node.connect(HERE).await;
        let mut peer = stream(&*connection).await;
        let (refusal, rounds) = until_goodbye(&mut peer, &round).await;
        assert_eq!(refusal.code, RefusalCode::Flooding);
        assert!(refusal.detail.contains("200 ends of what was opened"), "{refusal}");
        // The pings are frames, and counted apart.
        assert!((195..=205).contains(&rounds), "{rounds} rounds: {refusal}");
    }
    assert_eq!(node.broker.counters().streams_flooding, 3);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_open_may_be_closed_at_once_and_frames_beside_it_are_counted_apart() {
    let settings = BrokerSettings { subscriptions_max: 12_000, ..Served::settings() };
    let node = Distant::new(settings).await;
    let connection = node.connect(FAR).await;
    let mut peer = stream(&*connection).await;
    for handles in (0..12_000).collect::<Vec<_>>().chunks(1_000) {
        let frames = handles.iter().map(|handle| RawPeer::subscribe(*handle, "t", "c", CREDIT));
        peer.send_bytes(&frames.flat_map(|frame| bytes_of(&frame)).collect::<Vec<_>>())
            .await
            .expect("sent");
        for _ in handles {
            let answer = peer.next().await;
            assert!(matches!(answer, Some(Frame::Subscribed { .. })), "{answer:?}");
        }
    }
    for handles in (0..12_000).collect::<Vec<_>>().chunks(1_000) {
        let ends = handles.iter().map(|handle| bytes_of(&Frame::Unsubscribe { handle: *handle }));
        let pings = (0..800).map(|nonce| bytes_of(&Frame::Ping { nonce }));
        peer.send_bytes(&ends.chain(pings).flatten().collect::<Vec<_>>()).await.expect("sent");
        for _ in 0..1_800 {
            let answer = peer.next().await;
            let good =
                matches!(answer, Some(Frame::SubscriptionClosed { .. } | Frame::Pong { .. }));
            assert!(good, "{answer:?}");
        }
    }
    node.until_handles(0).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_streams_that_end_with_what_they_opened_in_vain_are_a_flood_too() {
    let node = Distant::new(tight()).await;
    let connection = node.connect(FAR).await;
    let mut quiet = stream(&*connection).await;
    for round in 0.. {
        assert!(round < 10, "nothing ends it");
        let mut peer = match hello(&*connection).await {
            Ok(peer) => peer,
            Err(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Flooding);
                assert_eq!(round, 5, "fifty are opened in vain each time");
                break;
            }
        };
        for handle in 0..50 {
            subscribe(&mut peer, handle).await.expect("a subscription");
        }
        drop(peer);
        node.until_handles(0).await;
    }
    // Who is there already goes on, and after a second others may come.
    subscribe(&mut quiet, 1).await.expect("a subscription");
    tokio::time::sleep(Duration::from_secs(1)).await;
    subscribe(&mut stream(&*connection).await, 1).await.expect("a subscription");
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_connects_again_goes_on_with_what_it_did_in_vain() {
    for transport in [InProcess::new(), InProcess::multiplexed()] {
        let node = Distant::over(transport, tight()).await;
        let quiet = node.connect(FAR).await;
        let mut quiet = stream(&*quiet).await;
        for round in 0.. {
            assert!(round < 10, "nothing ends it");
            let connection = node.connect(FAR).await;
            let mut peer = match hello(&*connection).await {
                Ok(peer) => peer,
                Err(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::Flooding);
                    assert!(refusal.detail.contains("of this address"), "{refusal}");
                    assert_eq!(round, 3, "a hundred each time, and once more is no harm");
                    break;
                }
            };
            for handle in 0..100 {
                subscribe(&mut peer, handle).await.expect("a subscription");
            }
            drop((peer, connection));
            node.until_connections(1).await;
        }
        // Others, and who is there, are not harmed; nor is this one for longer than a second.
        subscribe(&mut quiet, 1).await.expect("a subscription");
        stream(&*node.connect(OTHER).await).await;
        assert_eq!(node.broker.counters().streams_flooding, 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream(&*node.connect(FAR).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_flood_that_was_cut_off_does_not_begin_anew_at_once() {
    for transport in [InProcess::new(), InProcess::multiplexed()] {
        let node = Distant::over(transport, tight()).await;
        // One that has been there for long, and does not go away when it is told.
        let connection = node.connect(FAR).await;
        let mut peer = stream(&*connection).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let round = [RawPeer::subscribe(1, "t", "c", CREDIT), Frame::Unsubscribe { handle: 1 }];
        let (refusal, _) = until_goodbye(&mut peer, &round).await;
        assert_eq!(refusal.code, RefusalCode::Flooding);
        let again = node.connect(FAR).await;
        let refusal = hello(&*again).await.err().expect("it has just been cut off");
        assert_eq!(refusal.code, RefusalCode::Flooding);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = node.connect(FAR).await;
        let (refusal, rounds) = until_goodbye(&mut stream(&*again).await, &round).await;
        assert_eq!(refusal.code, RefusalCode::Flooding);
        assert!((195..=205).contains(&rounds), "{rounds} rounds: {refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_clients_of_one_address_that_is_lost_at_once_is_there_again_at_once() {
    let node = Distant::over(InProcess::new(), tight()).await;
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for _ in 0..20 {
            let connection = node.connect(FAR).await;
            let mut peer = hello(&*connection).await.expect("a welcome");
            for handle in 0..100 {
                subscribe(&mut peer, handle).await.expect("a subscription");
            }
            crowd.push((peer, connection));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(crowd);
        node.until_connections(0).await;
    }
    assert_eq!(node.broker.counters().streams_flooding, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_of_use_is_no_flood() {
    let node = Distant::new(tight()).await;
    let connection = node.connect(FAR).await;
    let mut peer = stream(&*connection).await;
    for round in 1..=300 {
        produce(&mut peer, 1).await.expect("a producer");
        let answer = peer.publish(1, 1, &[b"x"]).await;
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{round}: {answer:?}");
        peer.send(Frame::CloseProducer { handle: 1, forget: false }).await;
        subscribe(&mut peer, 1).await.expect("a subscription");
        let delivery = peer.next().await;
        assert!(matches!(delivery, Some(Frame::Deliver { .. })), "{round}: {delivery:?}");
        let tags = TagRange { first: Tag(1), last: Tag(1) };
        let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
        peer.send(Frame::Settle { handle: 1, request: 1, settlements }).await;
        let answer = peer.next().await;
        assert!(matches!(&answer, Some(Frame::Settled { stale, .. }) if stale.is_empty()));
        peer.send(Frame::Unsubscribe { handle: 1 }).await;
        assert!(matches!(peer.next().await, Some(Frame::SubscriptionClosed { .. })));
        // One that does not wait for answers.
        let records = Records::encode([&Message::new("x")]);
        let durability = None;
        let topic = name("u");
        let hasty = [
            Frame::OpenProducer { handle: 2, topic, name: None, epoch: None, seat: None },
            Frame::Publish { handle: 2, sequence: 1, durability, records },
            Frame::CloseProducer { handle: 2, forget: false },
        ];
        peer.send_bytes(&hasty.iter().flat_map(bytes_of).collect::<Vec<_>>()).await.expect("sent");
        assert!(matches!(peer.next().await, Some(Frame::ProducerOpened { .. })));
        assert!(matches!(peer.next().await, Some(Frame::Confirmed { .. })), "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_there_again_with_all_that_it_has_is_no_flood() {
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let node = Distant::new(settings).await;
    // All at once, and again on a connection of its own.
    for _ in 0..3 {
        let connection = node.connect(FAR).await;
        let mut peer = stream(&*connection).await;
        let all: Vec<u8> = (0..4_000)
            .flat_map(|handle| bytes_of(&RawPeer::subscribe(handle, "t", "c", CREDIT)))
            .collect();
        peer.send_bytes(&all).await.expect("sent");
        for _ in 0..4_000 {
            let answer = peer.next().await;
            assert!(matches!(answer, Some(Frame::Subscribed { .. })), "{answer:?}");
        }
    }
}
