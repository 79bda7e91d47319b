//! Promise 10, of floods: one address, or one stream, that asks for much which brings nothing is
//! turned away by name, and nobody else notices.

use std::sync::Arc;

use async_trait::async_trait;
use ltq_core::{
    Address, AdminRequest, BrokerSettings, Connection, Credit, Listener, Message, Peer, Records,
    RefusalCode, Settlement, SharedToken, Stream, Tag, TagRange, TopicName, Transport,
    TransportError, Verdict,
    protocol::{Frame, Hello},
};
use ltq_tests::{RawPeer, Served, answers, bytes_of, within};
use ltq_transport::Tcp;

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };

fn hello(token: &str) -> Hello {
    Hello { token: Some(token.to_owned()), ..RawPeer::hello() }
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

#[tokio::test]
async fn promise_10_floods_of_what_brings_nothing_are_cut_off_by_name() {
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut other = RawPeer::greeted(&served.address).await;
    other.open_producer(1, "t").await;
    let zero = Credit::default();
    let records = Records::encode([&Message::new("x")]);
    type Prepare = Option<Frame>;
    let no_topic = AdminRequest::ShowTopic { topic: name("none") };
    let strange = Settlement {
        tags: TagRange { first: Tag(1 << 40), last: Tag(1 << 40) },
        verdict: Verdict::Ack,
    };
    let floods: [(&str, Prepare, Frame); 14] = [
        ("a ping", None, Frame::Ping { nonce: 1 }),
        ("a pong", None, Frame::Pong { nonce: 1 }),
        ("credit for no subscription", None, Frame::Credit { handle: 9, total: CREDIT }),
        (
            "credit that was given before",
            Some(RawPeer::subscribe(1, "t", "c", zero)),
            Frame::Credit { handle: 1, total: zero },
        ),
        (
            // Each time with a grant in between.
            "credit that was taken back",
            Some(RawPeer::subscribe(1, "t", "c", CREDIT)),
            Frame::Credit { handle: 1, total: zero },
        ),
        ("the end of no subscription", None, Frame::Unsubscribe { handle: 9 }),
        ("the end of no open producer", None, Frame::CloseProducer { handle: 9, forget: true }),
        (
            "settlements for no subscription",
            None,
            Frame::Settle { handle: 9, request: 0, settlements: Vec::new() },
        ),
        (
            "settlements of nothing",
            Some(RawPeer::subscribe(1, "t", "c", zero)),
            Frame::Settle { handle: 1, request: 0, settlements: Vec::new() },
        ),
        (
            "a publish of no open producer",
            None,
            Frame::Publish { handle: 9, sequence: 1, durability: None, records },
        ),
        (
            "a subscription that was refused",
            Some(RawPeer::subscribe(1, "t", "c", zero)),
            RawPeer::subscribe(1, "t", "c", zero),
        ),
        (
            "a producer that was refused",
            Some(Frame::OpenProducer {
                handle: 1,
                topic: name("t"),
                name: None,
                epoch: None,
                seat: None,
            }),
            Frame::OpenProducer {
                handle: 1,
                topic: name("t"),
                name: None,
                epoch: None,
                seat: None,
            },
        ),
        (
            "an operator's request that was refused",
            None,
            Frame::Admin { request: 1, action: no_topic },
        ),
        (
            "settlements of what is not this consumer's",
            Some(RawPeer::subscribe(1, "t", "c", zero)),
            Frame::Settle { handle: 1, request: 1, settlements: vec![strange] },
        ),
    ];
    for (what, prepare, frame) in floods {
        let mut peer = RawPeer::greeted(&served.address).await;
        if let Some(prepare) = prepare {
            peer.send(prepare).await;
            peer.next().await.expect("an answer");
        }
        let mut once = bytes_of(&frame);
        if what == "credit that was taken back" {
            once.extend(bytes_of(&Frame::Credit { handle: 1, total: CREDIT }));
        }
        let flood: Vec<u8> = std::iter::repeat_n(once, 300).flatten().collect();
        peer.send_bytes(&flood).await.expect("sent");
        let detail = peer.expect_goodbye(RefusalCode::Flooding).await;
        assert!(detail.contains(what) && detail.contains("200"), "{detail}");
    }
    assert_eq!(served.broker.counters().streams_flooding, 14);
    let answer = other.publish(1, 1, &[b"still here"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
}

/// A listener whose peers seem to come from the addresses given.
struct From {
    listener: Box<dyn Listener>,
    addresses: std::vec::IntoIter<&'static str>,
}

struct Far {
    connection: Box<dyn Connection>,
    peer: Peer,
}

#[async_trait]
impl Listener for From {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.listener.accept().await?;
        let text = self.addresses.next().ok_or(TransportError::Closed)?;
        let peer = Peer { address: text.parse().expect("an address"), identity: None };
        Ok(Box::new(Far { connection, peer }))
    }
    fn local_address(&self) -> Address {
        self.listener.local_address()
    }
}

#[async_trait]
impl Connection for Far {
    fn multiplexed(&self) -> bool {
        self.connection.multiplexed()
    }
    fn peer(&self) -> &Peer {
        &self.peer
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.connection.open_stream().await
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.connection.accept_stream().await
    }
}

/// Serves a broker on one more address, where the n-th peer comes from the n-th address.
async fn served_far(served: &Served, addresses: Vec<&'static str>) -> Address {
    let any = Address::new("tcp", "127.0.0.1:0");
    let listener = Tcp::default().listen(&any).await.expect("a listener");
    let local = listener.local_address();
    let broker = served.broker.clone();
    let from = From { listener, addresses: addresses.into_iter() };
    tokio::spawn(async move { broker.serve(Box::new(from)).await });
    local
}

const FAR: &str = "tcp://192.0.2.1:1";
const OTHER: &str = "tcp://192.0.2.2:1";

#[tokio::test]
async fn promise_10_an_address_that_guesses_is_turned_away_and_no_other() {
    let access = Arc::new(SharedToken::new("right").expect("a token"));
    let served = Served::start(BrokerSettings { access, ..Served::settings() }).await;
    let mut addresses = vec![FAR; 12];
    addresses.push(OTHER);
    let address = served_far(&served, addresses).await;
    let tried = |token: &str| {
        let (address, hello) = (address.clone(), hello(token));
        async move { answers(&address, &[Frame::Hello(hello)]).await }
    };
    let wrong = tried("wrong").await;
    for guess in 0..9 {
        assert_eq!(tried(&format!("wrong {guess}")).await, wrong);
    }
    // Turned away with the right one too, by the same bytes; others are not, and neither is who
    // comes from this machine.
    assert_eq!(tried("right").await, wrong);
    assert_eq!(tried("wrong").await, wrong);
    assert_eq!(served.broker.counters().hellos_locked_out, 2);
    assert_ne!(tried("right").await, wrong);
    RawPeer::connect(&served.address).await.greet(hello("right")).await;
}

#[tokio::test]
async fn promise_10_one_address_has_so_many_connections_and_no_more() {
    let settings = BrokerSettings { connections_per_address_max: 2, ..Served::settings() };
    let served = Served::start(settings).await;
    let address = served_far(&served, vec![FAR, FAR, FAR, OTHER, FAR]).await;
    let first = RawPeer::greeted(&address).await;
    let _second = RawPeer::greeted(&address).await;
    let mut third = RawPeer::connect(&address).await;
    let said = third.expect_goodbye(RefusalCode::LimitReached).await;
    assert!(said.contains("2 connections"), "{said}");
    drop(third);
    let _other = RawPeer::greeted(&address).await;
    let mut near = Vec::new();
    for _ in 0..3 {
        near.push(RawPeer::greeted(&served.address).await);
    }
    assert_eq!(served.broker.counters().connections_refused_by_address, 1);
    drop(first);
    within("the first to be gone", async {
        while served.broker.stats().await.connections > 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    RawPeer::greeted(&address).await;
}

#[tokio::test]
async fn promise_10_an_address_that_comes_too_often_is_told_so_and_comes_in_later() {
    let mut settings = Served::settings();
    settings.entrance.connections_per_second_max = 1;
    let served = Served::start(settings).await;
    let address =
        served_far(&served, [vec![FAR; 11], vec![OTHER], vec![FAR; 100_000]].concat()).await;
    for _ in 0..10 {
        RawPeer::greeted(&address).await;
    }
    let said = RawPeer::connect(&address).await.expect_goodbye(RefusalCode::LimitReached).await;
    assert!(said.contains("connections_per_second_max"), "{said}");
    assert_eq!(served.broker.counters().connections_refused_by_rate, 1);
    RawPeer::greeted(&address).await;
    for _ in 0..20 {
        RawPeer::greeted(&served.address).await;
    }
    // However often it tries in between.
    within("a place in the next second", async {
        loop {
            let mut again = RawPeer::connect(&address).await;
            let _ = again.send_bytes(&bytes_of(&Frame::Hello(RawPeer::hello()))).await;
            if let Some(Frame::Welcome(_)) = again.next().await {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn promise_9_an_address_that_is_named_is_counted_by_no_limit_by_address() {
    let access = Arc::new(SharedToken::new("right").expect("a token"));
    let mut settings = BrokerSettings {
        access,
        connections_per_address_max: 2,
        topics_per_minute_max: 1,
        ..Served::settings()
    };
    settings.entrance.connections_per_second_max = 1;
    settings.entrance.exempt_addresses =
        ["192.0.2.0/31".parse().expect("a network")].into_iter().collect();
    let served = Served::start(settings).await;
    let address = served_far(&served, [vec![FAR; 40], vec![OTHER; 3]].concat()).await;
    let wrong = Frame::Hello(hello("wrong"));
    for guess in 0..15 {
        let said = answers(&address, &[Frame::Hello(hello(&format!("wrong {guess}")))]).await;
        assert_eq!(said, answers(&address, std::slice::from_ref(&wrong)).await);
    }
    let mut held = Vec::new();
    for number in 0..10 {
        let mut peer = RawPeer::connect(&address).await;
        peer.greet(hello("right")).await;
        peer.open_producer(1, &format!("t{number}")).await;
        held.push(peer);
    }
    let counters = served.broker.counters();
    assert_eq!((counters.hellos_denied, counters.hellos_locked_out), (30, 0));
    // Its neighbour is not named.
    for _ in 0..2 {
        let mut peer = RawPeer::connect(&address).await;
        peer.greet(hello("right")).await;
        held.push(peer);
    }
    RawPeer::connect(&address).await.expect_goodbye(RefusalCode::LimitReached).await;
    assert_eq!(served.broker.counters().connections_refused_by_address, 1);
}

#[tokio::test]
async fn promise_10_one_address_makes_so_many_topics_a_minute_by_use() {
    let settings = BrokerSettings { topics_per_minute_max: 3, ..Served::settings() };
    let served = Served::start(settings).await;
    let address = served_far(&served, vec![FAR, FAR, OTHER]).await;
    let mut peer = RawPeer::greeted(&address).await;
    for (handle, topic) in [(1, "a"), (2, "b"), (3, "c")] {
        peer.open_producer(handle, topic).await;
    }
    // Another connection of the same address, and the other way to use a topic.
    let mut second = RawPeer::greeted(&address).await;
    second.send(RawPeer::subscribe(1, "d", "c", CREDIT)).await;
    let answer = second.next().await;
    let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains("3 a minute"), "{refusal}");
    second.open_producer(2, "a").await;
    let mut other = RawPeer::greeted(&address).await;
    other.open_producer(1, "d").await;
    let mut near = RawPeer::greeted(&served.address).await;
    for handle in 1..10 {
        near.open_producer(handle, &format!("near-{handle}")).await;
    }
    assert_eq!(served.broker.counters().topics_refused_by_address, 1);
}
