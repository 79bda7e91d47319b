//! Promise 10: a peer that is slow, silent, hostile or gone harms no other peer; before its hello
//! is accepted it can do nothing. Each bad input gets an error that names what was wrong, or is
//! dropped at a deadline.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    BrokerSettings, Credit, Offset, RefusalCode, Settlement, SharedToken, Tag, TagRange, Verdict,
    protocol::{Frame, Hello, PROTOCOL_MAJOR},
};
use ltq_tests::{RawPeer, Served, bytes_of, within};

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };

fn tags(first: u64, last: u64) -> TagRange {
    TagRange { first: Tag(first), last: Tag(last) }
}

/// Publishes and consumes one message: whatever another peer does, this works.
async fn others_are_served(served: &Served, topic: &str) {
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, topic).await;
    let answer = peer.publish(1, 1, &[b"still here"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    peer.send(RawPeer::subscribe(2, topic, "c", CREDIT)).await;
    loop {
        match peer.next().await {
            Some(Frame::Deliver { batch, .. }) => {
                assert_eq!(batch.first, Offset(0));
                return;
            }
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

#[tokio::test]
async fn promise_10_before_its_hello_a_peer_can_do_nothing() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::connect(&served.address).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    peer.expect_goodbye(RefusalCode::UnexpectedFrame).await;
    assert_eq!(served.broker.stats().await.topics, []);
}

#[tokio::test]
async fn promise_10_another_major_version_is_refused() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::connect(&served.address).await;
    peer.send(Frame::Hello(Hello { major: PROTOCOL_MAJOR + 1, ..RawPeer::hello() })).await;
    let detail = peer.expect_goodbye(RefusalCode::VersionUnsupported).await;
    assert!(detail.contains(&format!("{}", PROTOCOL_MAJOR + 1)), "{detail}");
}

#[tokio::test]
async fn a_newer_minor_version_is_served_with_ours() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::connect(&served.address).await;
    let welcome = peer.greet(Hello { minor: 99, ..RawPeer::hello() }).await;
    assert_eq!(welcome.minor, 0);
}

#[tokio::test]
async fn promise_10_a_wrong_or_missing_token_is_refused() {
    let access = Arc::new(SharedToken::new("secret").expect("a token"));
    let settings = BrokerSettings { access, ..Served::settings() };
    let served = Served::start(settings).await;
    for token in [None, Some(""), Some("secre"), Some("secret2"), Some("Secret")] {
        let mut peer = RawPeer::connect(&served.address).await;
        let token = token.map(str::to_owned);
        peer.send(Frame::Hello(Hello { token, ..RawPeer::hello() })).await;
        let detail = peer.expect_goodbye(RefusalCode::Unauthorized).await;
        assert!(!detail.contains("secret"), "{detail}");
    }
    let mut peer = RawPeer::connect(&served.address).await;
    peer.greet(Hello { token: Some("secret".to_owned()), ..RawPeer::hello() }).await;
}

#[tokio::test]
async fn a_client_that_cannot_read_the_largest_frame_is_refused() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::connect(&served.address).await;
    peer.send(Frame::Hello(Hello { frame_bytes_max: 1000, ..RawPeer::hello() })).await;
    let detail = peer.expect_goodbye(RefusalCode::OutOfRange).await;
    assert!(detail.contains("1000"), "{detail}");
}

#[tokio::test]
async fn promise_10_frames_that_are_none_are_refused_by_name() {
    let served = Served::start(Served::settings()).await;
    let over_long = (8u32 << 20) + 1;
    for (bytes, code, word) in [
        (over_long.to_le_bytes().to_vec(), RefusalCode::FrameTooLarge, "8388609"),
        (u32::MAX.to_le_bytes().to_vec(), RefusalCode::FrameTooLarge, "4294967295"),
        (vec![0, 0, 0, 0], RefusalCode::Malformed, "type"),
        (vec![1, 0, 0, 0, 250], RefusalCode::UnexpectedFrame, "250"),
        // A subscribe frame cut short, and one with bytes behind its end.
        (vec![2, 0, 0, 0, 32, 1], RefusalCode::Malformed, "Subscribe"),
        (vec![4, 0, 0, 0, 22, 1, 1, 1], RefusalCode::Malformed, "CloseProducer"),
        // A producer on the topic "a b": length, type, handle, length of the name, the name.
        (vec![9, 0, 0, 0, 16, 1, 3, b'a', b' ', b'b', 0, 0, 0], RefusalCode::BadName, "' '"),
        // What only a broker says.
        (vec![2, 0, 0, 0, 39 + 1, 0], RefusalCode::Malformed, "SubscriptionClosed"),
    ] {
        let mut peer = RawPeer::greeted(&served.address).await;
        peer.send_bytes(&bytes).await.expect("sent");
        let detail = peer.expect_goodbye(code).await;
        assert!(detail.contains(word), "{detail:?} does not name {word}");
    }
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(Frame::Hello(RawPeer::hello())).await;
    peer.expect_goodbye(RefusalCode::UnexpectedFrame).await;
    others_are_served(&served, "t").await;
}

#[tokio::test]
async fn bodies_above_the_limit_are_refused_and_the_stream_goes_on() {
    let settings = BrokerSettings { message_bytes_max: 1000, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    let answer = peer.publish(1, 1, &[b"small", &[7; 1000]]).await;
    let Some(Frame::PublishRefused { sequence: 1, count: 2, refusal, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, RefusalCode::MessageTooLarge);
    assert!(refusal.detail.contains("1001") && refusal.detail.contains("1000"), "{refusal}");
    let answer = peer.publish(1, 1, &[&[7; 999]]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
}

#[tokio::test]
async fn damage_on_the_way_is_refused() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    let records = ltq_core::Records::encode([&ltq_core::Message::new("body")]);
    let mut payload = records.payload().to_vec();
    payload[2] ^= 1;
    let records =
        ltq_core::Records::from_parts(0, records.table().clone(), payload.into()).expect("fits");
    peer.send(Frame::Publish { handle: 1, sequence: 1, durability: None, records }).await;
    let answer = peer.next().await;
    let Some(Frame::PublishRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::Damaged);
}

#[tokio::test]
async fn credits_of_zero_and_of_the_maximum_have_their_answers() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    peer.publish(1, 1, &[b"a"]).await;

    // No credit: subscribed, and nothing delivered before there is some.
    peer.send(RawPeer::subscribe(1, "t", "c", Credit::default())).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { handle: 1, .. })));
    peer.send(Frame::Ping { nonce: 7 }).await;
    assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 7 }));
    peer.send(Frame::Credit { handle: 1, total: CREDIT }).await;
    assert!(matches!(peer.next().await, Some(Frame::Deliver { handle: 1, .. })));

    // Too much at the start is refused by name, and the stream goes on.
    let max = Credit { messages: u64::MAX, bytes: u64::MAX };
    peer.send(RawPeer::subscribe(2, "t", "c", max)).await;
    let answer = peer.next().await;
    let Some(Frame::SubscribeRefused { handle: 2, refusal }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, RefusalCode::OutOfRange);
    assert!(refusal.detail.contains("2500"), "{refusal}");

    // Too much later ends the stream.
    peer.send(Frame::Credit { handle: 1, total: max }).await;
    peer.expect_goodbye(RefusalCode::OutOfRange).await;
}

#[tokio::test]
async fn promise_9_credit_that_is_taken_back_is_answered_behind_what_was_sent() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    for sequence in 1..=4 {
        peer.publish(1, sequence, &[b"a"]).await;
    }
    let credit = |messages| Credit { messages, bytes: CREDIT.bytes };
    let take = |messages| Frame::Credit { handle: 1, total: credit(messages) };
    // All in one piece: it is told of both, in their order, and gets no more than the last.
    let frames = [RawPeer::subscribe(1, "t", "c", CREDIT), take(2), take(3), take(1)];
    let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
    peer.send_bytes(&bytes).await.expect("sent");
    let (mut got, mut told, mut subscribed) = (0, Vec::new(), false);
    while told.len() < 2 || !subscribed {
        match peer.next().await {
            Some(Frame::Subscribed { handle: 1, .. }) => subscribed = true,
            Some(Frame::Deliver { handle: 1, batch, .. }) => got += batch.records.count() as u64,
            Some(Frame::Credited { handle: 1, total }) => told.push((total.messages, got)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [(2.max(told[0].1), told[0].1), (1.max(told[1].1), told[1].1)]);
    let last = told[1].0;
    peer.send(Frame::Credit { handle: 1, total: credit(last) }).await;
    peer.send(Frame::Ping { nonce: 7 }).await;
    loop {
        match peer.next().await {
            // While the channel is made, answers do not wait for it.
            Some(Frame::Subscribed { handle: 1, .. }) => {}
            Some(Frame::Deliver { batch, .. }) => got += batch.records.count() as u64,
            Some(Frame::Pong { nonce: 7 }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(got <= last, "{got} came, {last} were left");

    // Of no subscription, or of one that has ended: nothing is said.
    peer.send(Frame::Credit { handle: 9, total: credit(0) }).await;
    peer.send(Frame::Unsubscribe { handle: 1 }).await;
    peer.send(take(0)).await;
    peer.send(Frame::Ping { nonce: 8 }).await;
    loop {
        match peer.next().await {
            Some(
                Frame::SubscriptionClosed { handle: 1, refusal: None } | Frame::Deliver { .. },
            ) => {}
            Some(Frame::Pong { nonce: 8 }) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn promise_3_acks_of_what_was_never_delivered_or_is_anothers_change_nothing() {
    let served = Served::start(Served::settings()).await;
    let mut owner = RawPeer::greeted(&served.address).await;
    owner.open_producer(1, "t").await;
    owner.publish(1, 1, &[b"a", b"b"]).await;
    owner.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    assert!(matches!(owner.next().await, Some(Frame::Subscribed { .. })));
    assert!(matches!(owner.next().await, Some(Frame::Deliver { .. })));

    let mut other = RawPeer::greeted(&served.address).await;
    other.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    assert!(matches!(other.next().await, Some(Frame::Subscribed { .. })));
    for tags in [tags(1, 1), tags(0, u64::MAX), tags(5, 3), tags(u64::MAX, u64::MAX)] {
        let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
        other.send(Frame::Settle { handle: 1, request: 9, settlements }).await;
        let answer = other.next().await;
        assert!(matches!(answer, Some(Frame::Settled { request: 9, .. })), "{answer:?}");
    }
    // A subscription that there is not.
    let settlements = vec![Settlement { tags: tags(1, 2), verdict: Verdict::Ack }];
    other.send(Frame::Settle { handle: 77, request: 9, settlements }).await;
    let stale = vec![tags(1, 2)];
    assert_eq!(other.next().await, Some(Frame::Settled { handle: 77, request: 9, stale }));

    let stats = served.broker.stats().await;
    let channel = &stats.topics[0].channels[0];
    assert_eq!((channel.in_flight, channel.acked), (2, 0));
}

#[tokio::test]
async fn duplicate_handles_are_refused() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    let answer = peer.next().await;
    let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::HandleInUse);
    peer.send(Frame::Unsubscribe { handle: 1 }).await;
}

#[tokio::test]
async fn handles_that_are_not_open_are_refused() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    let answer = peer.publish(5, 1, &[b"x"]).await;
    let Some(Frame::PublishRefused { handle: 5, refusal, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, RefusalCode::NoSuchHandle);
    peer.send(Frame::Unsubscribe { handle: 5 }).await;
    let closed = Frame::SubscriptionClosed { handle: 5, refusal: None };
    assert_eq!(peer.next().await, Some(closed));
    peer.send(Frame::CloseProducer { handle: 5, forget: true }).await;
    peer.send(Frame::Credit { handle: 5, total: CREDIT }).await;
    others_are_served(&served, "t").await;
}

#[tokio::test]
async fn promise_10_half_a_frame_is_dropped_at_a_deadline() {
    let settings = BrokerSettings {
        stall_timeout: Duration::from_millis(300),
        heartbeat: Duration::from_millis(500),
        ..Served::settings()
    };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send_bytes(&[100, 0, 0, 0, 19, 1]).await.expect("sent");
    peer.expect_goodbye(RefusalCode::PeerTimeout).await;
    others_are_served(&served, "t").await;
}

#[tokio::test]
async fn promise_10_a_peer_that_never_reads_is_cut_off_and_its_messages_given_back() {
    let settings = BrokerSettings {
        stall_timeout: Duration::from_millis(500),
        heartbeat: Duration::from_secs(60),
        ..Served::settings()
    };
    let served = Served::start(settings).await;
    let mut writer = RawPeer::greeted(&served.address).await;
    writer.open_producer(1, "t").await;
    let body = vec![1; 500_000];
    for sequence in 1..=40 {
        let answer = writer.publish(1, sequence, &[&body]).await;
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    }

    let mut deaf = RawPeer::greeted(&served.address).await;
    let credit = Credit { messages: 2500, bytes: 16 << 20 };
    deaf.send(RawPeer::subscribe(1, "t", "c", credit)).await;
    others_are_served(&served, "other").await;

    // Everything it was given comes back, and another consumer gets it.
    let mut reader = RawPeer::greeted(&served.address).await;
    reader.send(RawPeer::subscribe(1, "t", "c", credit)).await;
    let mut seen = std::collections::BTreeSet::new();
    within("all messages reach the one that reads", async {
        let mut bytes = credit.bytes;
        let mut messages = credit.messages;
        while seen.len() < 40 {
            match reader.next().await {
                Some(Frame::Deliver { batch, .. }) => {
                    for index in 0..batch.records.count() as u64 {
                        seen.insert(batch.first.plus(index));
                    }
                    messages += batch.records.count() as u64;
                    bytes += batch.records.payload().len() as u64;
                    let total = Credit { messages, bytes };
                    reader.send(Frame::Credit { handle: 1, total }).await;
                }
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    })
    .await;
    drop(deaf);
}

#[tokio::test]
async fn promise_10_connections_that_say_nothing_are_dropped_at_a_deadline() {
    let settings =
        BrokerSettings { hello_timeout: Duration::from_millis(500), ..Served::settings() };
    let served = Served::start(settings).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(RawPeer::connect(&served.address).await);
    }
    others_are_served(&served, "t").await;
    for peer in &mut silent {
        peer.expect_goodbye(RefusalCode::PeerTimeout).await;
    }
}

#[tokio::test]
async fn promise_10_one_connection_too_many_is_told_so() {
    let settings = BrokerSettings { connections_max: 2, ..Served::settings() };
    let served = Served::start(settings).await;
    let first = RawPeer::greeted(&served.address).await;
    let _second = RawPeer::greeted(&served.address).await;
    let mut third = RawPeer::connect(&served.address).await;
    let said = third.expect_goodbye(RefusalCode::LimitReached).await;
    assert!(said.contains("the node is full: it has 2 connections"), "{said}");
    drop(first);
    within("room for another", async {
        loop {
            let mut again = RawPeer::connect(&served.address).await;
            // One that is turned away takes nothing.
            let _ = again.send_bytes(&bytes_of(&Frame::Hello(RawPeer::hello()))).await;
            if let Some(Frame::Welcome(_)) = again.next().await {
                return;
            }
        }
    })
    .await;
    assert!(served.broker.counters().connections_refused >= 1);
}

#[tokio::test]
async fn a_silent_peer_is_given_up_after_three_heartbeats_and_a_talking_one_is_not() {
    let settings = BrokerSettings { heartbeat: Duration::from_millis(100), ..Served::settings() };
    let served = Served::start(settings).await;
    let mut silent = RawPeer::greeted(&served.address).await;
    let mut talking = RawPeer::greeted(&served.address).await;
    let talk = async {
        for nonce in 0.. {
            talking.send(Frame::Ping { nonce }).await;
            assert_eq!(talking.next().await, Some(Frame::Pong { nonce }));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = silent.expect_goodbye(RefusalCode::PeerTimeout) => {}
        () = talk => unreachable!("it talks for ever"),
    }
    talking.send(Frame::Ping { nonce: 1 }).await;
}
