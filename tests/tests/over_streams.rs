//! Promises 9 and 10: a stream costs its peer next to nothing, so limits count over all streams of a
//! connection, and over all connections of an address and of the node. Each is reached here over many
//! streams, says or counts it, and leaves others alone.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use ltq_core::{
    Address, AdminRequest, Broker, BrokerSettings, Connection, Credit, Environment, Limit,
    Listener, Message, Peer, ProducerName, Records, Refusal, RefusalCode, Settlement, Store,
    Stream, Tag, TagRange, TopicName, Transport, TransportError, Verdict, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, NodeProcess, RawPeer, Served, bytes_of, within};
use ltq_transport::{ClientTrust, InProcess, Quic, QuicOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };
const KIB: usize = 1 << 10;
/// No machine that these tests run on.
const FAR: &str = "tcp://192.0.2.1:1";
const OTHER: &str = "tcp://192.0.2.2:1";
const HERE: &str = "tcp://127.0.0.1:1";

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// A listener whose peers seem to come from where the names say that they call.
struct From(Box<dyn Listener>, tokio::sync::mpsc::UnboundedReceiver<&'static str>);

struct Far(Box<dyn Connection>, Peer);

#[async_trait]
impl Listener for From {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.0.accept().await?;
        let address = self.1.recv().await.ok_or(TransportError::Closed)?;
        let peer = Peer { address: address.parse().expect("an address"), identity: None };
        Ok(Box::new(Far(connection, peer)))
    }
    fn local_address(&self) -> Address {
        self.0.local_address()
    }
}

#[async_trait]
impl Connection for Far {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }
    fn peer(&self) -> &Peer {
        &self.1
    }
    fn welcomed(&self) {
        self.0.welcomed();
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.0.open_stream().await
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

/// A broker whose connections carry many streams.
struct Setup<S: Store = Gated<MemoryStore>> {
    broker: Broker<S>,
    gate: watch::Sender<bool>,
    transport: InProcess,
    origins: tokio::sync::mpsc::UnboundedSender<&'static str>,
}

impl Setup {
    /// Its commits wait while the gate is closed.
    async fn new(settings: BrokerSettings) -> Self {
        let (store, gate) = Gated::new(MemoryStore::new(256 << 20), true);
        let broker = Broker::start(store, settings, Environment::system()).await.expect("it");
        let transport = InProcess::multiplexed();
        let listener = transport.listen(&Self::address()).await.expect("a listener");
        let (origins, called) = tokio::sync::mpsc::unbounded_channel();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(Box::new(From(listener, called))).await });
        Self { broker, gate, transport, origins }
    }

    fn address() -> Address {
        Address::new("in-process", "broker")
    }

    /// A connection that seems to come from there.
    async fn connect(&self, origin: &'static str) -> Box<dyn Connection> {
        self.origins.send(origin).expect("taken");
        self.transport.connect(&Self::address()).await.expect("a connection")
    }

    fn held_back(&self, limit: &str) -> u64 {
        let counts = self.broker.held_back();
        counts.into_iter().find(|(name, _)| *name == limit).expect("a limit").1
    }

    fn reached(&self) -> Vec<(Limit, u64)> {
        self.broker.limits_reached().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Waits until so many subscriptions and producers are open.
    async fn until_handles(&self, count: u64) {
        within("handles to be counted", async {
            while self.broker.in_use().handles != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// One more stream, whose hello is accepted.
async fn stream(connection: &dyn Connection) -> RawPeer {
    let mut peer = RawPeer::over(connection.open_stream().await.expect("a stream"));
    peer.greet(RawPeer::hello()).await;
    peer
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
    ask(peer, Frame::OpenProducer { handle, topic: name("t"), name: None, epoch: None, seat: None })
        .await
}

fn publish(sequence: u64, bytes: usize) -> Frame {
    let records = Records::encode([&Message::new(vec![7; bytes])]);
    Frame::Publish { handle: 1, sequence, durability: None, records }
}

#[tokio::test(start_paused = true)]
async fn promise_10_subscriptions_and_producers_count_over_all_streams_of_a_connection() {
    let settings = BrokerSettings { subscriptions_max: 3, producers_max: 3, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let connection = setup.connect(HERE).await;
    let (mut one, mut two) = (stream(&*connection).await, stream(&*connection).await);
    for handle in 1..=2 {
        subscribe(&mut one, handle).await.expect("a subscription");
        produce(&mut one, handle).await.expect("a producer");
    }
    subscribe(&mut two, 1).await.expect("a subscription");
    produce(&mut two, 1).await.expect("a producer");
    for refusal in [subscribe(&mut two, 2).await, produce(&mut two, 2).await] {
        let refusal = refusal.expect_err("there are three");
        assert_eq!(refusal.code, RefusalCode::LimitReached);
        assert!(refusal.detail.contains("connection") && refusal.detail.contains('3'), "{refusal}");
    }
    assert_eq!(setup.reached(), [(Limit::Producers, 1), (Limit::Subscriptions, 1)]);
    // Another connection has its own.
    let other = setup.connect(HERE).await;
    subscribe(&mut stream(&*other).await, 1).await.expect("a subscription");
    setup.until_handles(6).await;
    // What a stream had is free when it ends, and what is closed at once.
    drop(one);
    setup.until_handles(2).await;
    for handle in 2..=3 {
        subscribe(&mut two, handle).await.expect("a subscription");
        produce(&mut two, handle).await.expect("a producer");
    }
    two.send(Frame::CloseProducer { handle: 1, forget: false }).await;
    produce(&mut two, 4).await.expect("a producer");
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_each_subscription_leaves_a_connection_all_that_it_may_have() {
    let setup = Setup::new(Served::settings()).await;
    let connection = setup.connect(HERE).await;
    let mut streams = Vec::new();
    for nth in 0..256 {
        let mut peer = stream(&*connection).await;
        for handle in 0..16 {
            let answer = subscribe(&mut peer, handle).await;
            answer.unwrap_or_else(|refusal| panic!("{handle} of {nth}: {refusal}"));
        }
        streams.push(peer);
    }
    let last = streams.last_mut().expect("one");
    let refusal = subscribe(last, 16).await.expect_err("there are 4,096");
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert_eq!(setup.reached(), [(Limit::Subscriptions, 1)]);
}

#[tokio::test(start_paused = true)]
async fn promise_10_operators_requests_count_over_all_streams_of_a_connection() {
    let settings = BrokerSettings { requests_max: 2, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let connection = setup.connect(HERE).await;
    setup.gate.send_replace(false);
    let mut streams = Vec::new();
    for nth in 0..3 {
        let mut peer = stream(&*connection).await;
        let topic = name(&format!("t{nth}"));
        let action = AdminRequest::CreateTopic { topic, options: Default::default() };
        peer.send(Frame::Admin { request: 1, action }).await;
        // What the stream asks is taken in before the next one begins.
        peer.send(Frame::Ping { nonce: 1 }).await;
        assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }));
        if nth == 2 {
            let answer = peer.next().await;
            let refused = matches!(answer, Some(Frame::AdminAnswered { result: Err(_), .. }));
            assert!(refused, "{answer:?}");
        }
        streams.push(peer);
    }
    assert_eq!(setup.reached(), [(Limit::Requests, 1)]);
    // A stream that ends leaves its place to others.
    streams.remove(0);
    let mut next = stream(&*connection).await;
    setup.gate.send_replace(true);
    next.send(Frame::Admin { request: 1, action: AdminRequest::ListTopics }).await;
    let answer = next.next().await;
    assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_address_has_its_part_of_what_all_may_have_open() {
    let settings = BrokerSettings {
        handles_total_max: 7,
        handles_per_address_max: Some(4),
        ..Served::settings()
    };
    let setup = Setup::new(settings).await;
    let connections = [setup.connect(FAR).await, setup.connect(FAR).await];
    let mut far = [stream(&*connections[0]).await, stream(&*connections[1]).await];
    for peer in &mut far {
        subscribe(peer, 1).await.expect("a subscription");
        produce(peer, 1).await.expect("a producer");
    }
    let refusal = subscribe(&mut far[0], 2).await.expect_err("four are open");
    assert!(refusal.detail.contains("one address"), "{refusal}");
    let (other, here) = (setup.connect(OTHER).await, setup.connect(HERE).await);
    subscribe(&mut stream(&*other).await, 1).await.expect("a subscription");
    setup.until_handles(4).await;
    let mut near = stream(&*here).await;
    for handle in 1..=3 {
        subscribe(&mut near, handle).await.expect("this machine has no part of its own");
    }
    let refusal = subscribe(&mut near, 4).await.expect_err("seven are open");
    assert!(refusal.detail.contains("the node has 7"), "{refusal}");
    assert_eq!(setup.reached(), [(Limit::Handles, 1), (Limit::HandlesPerAddress, 1)]);
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
                left -= ranges.iter().map(|range| range.count).sum::<u64>();
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
    let setup = Setup::new(settings).await;
    let (greedy, modest) = (setup.connect(HERE).await, setup.connect(HERE).await);
    let mut first = stream(&*modest).await;
    produce(&mut first, 1).await.expect("a producer");
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut peer = stream(&*greedy).await;
        produce(&mut peer, 1).await.expect("a producer");
        streams.push(peer);
    }
    setup.gate.send_replace(false);
    for peer in &mut streams {
        press(peer, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = setup.broker.in_use().publish_bytes as usize;
    // Twice as much, and the last read.
    assert!((part..=2 * part + 64 * KIB).contains(&taken), "{taken} bytes of 64 streams");
    assert!(setup.held_back("publish_bytes_per_connection_max") > 0);
    // Others are taken in as if nothing was.
    press(&mut first, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let both = setup.broker.in_use().publish_bytes as usize;
    assert!(both - taken > 120 * KIB, "{taken} and then {both} bytes");
    assert_eq!(setup.held_back("publish_bytes_total_max"), 0);
    setup.gate.send_replace(true);
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
    let setup = Setup::new(settings).await;
    let connection = setup.connect(HERE).await;
    let mut keeper = stream(&*connection).await;
    produce(&mut keeper, 1).await.expect("a producer");
    setup.gate.send_replace(false);
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
    let taken = setup.broker.in_use().publish_bytes as usize;
    assert!(taken <= 2 * part + 64 * KIB, "{taken} bytes of streams that are gone");
    setup.gate.send_replace(true);
    within("it is stored, and there is room again", async {
        keeper.send(publish(1, 60 * KIB)).await;
        confirmed(&mut keeper, 1).await;
        while setup.broker.in_use().publish_bytes > 0 {
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
    let setup = Setup::new(settings).await;
    let connection = setup.connect(FAR).await;
    setup.gate.send_replace(false);
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut peer = stream(&*connection).await;
        open_and_publish(&mut peer, 10 * KIB).await;
        streams.push(peer);
    }
    let taken = setup.broker.in_use().publish_bytes as usize;
    // Twice as much, the last read, and 256 bytes for each producer that is not opened yet.
    let most = 2 * part + 16 * KIB + 200 * 256;
    assert!((part..=most).contains(&taken), "{taken} bytes of 200 streams");
    setup.gate.send_replace(true);
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
    let setup = Setup::new(settings).await;
    let mut greedy = Vec::new();
    for origin in [FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, FAR, OTHER, HERE] {
        let mut peer = stream(&*setup.connect(origin).await).await;
        produce(&mut peer, 1).await.expect("a producer");
        greedy.push(peer);
    }
    let mut others = greedy.split_off(10);
    setup.gate.send_replace(false);
    for peer in &mut greedy {
        press(peer, 2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = setup.broker.in_use().publish_bytes as usize;
    // A connection that has nothing there is heard up to twice as much.
    assert!((part..=2 * part + 128 * KIB).contains(&taken), "{taken} bytes of one address");
    assert!(setup.held_back("publish_bytes_per_address_max") > 0);
    for peer in &mut others {
        let before = setup.broker.in_use().publish_bytes as usize;
        press(peer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = setup.broker.in_use().publish_bytes as usize;
        assert!(after - before > 120 * KIB, "{before} and then {after} bytes");
    }
    setup.gate.send_replace(true);
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
    let setup = Setup::new(settings).await;
    let connection = setup.connect(FAR).await;
    let mut publisher = stream(&*connection).await;
    produce(&mut publisher, 1).await.expect("a producer");
    let mut consumer = stream(&*connection).await;
    setup.gate.send_replace(false);
    press(&mut publisher, 5).await;
    assert!(setup.held_back("publish_bytes_max") > 0);
    // Others fill it up to twice as much, and still it is.
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut other = stream(&*connection).await;
        open_and_publish(&mut other, 10 * KIB).await;
        others.push(other);
    }
    assert!(setup.held_back("publish_bytes_per_connection_max") > 1);
    consumer.send(Frame::Ping { nonce: 5 }).await;
    assert_eq!(consumer.next().await, Some(Frame::Pong { nonce: 5 }));
    setup.gate.send_replace(true);
    confirmed(&mut publisher, 3).await;
}

/// Bytes of pings that a broker takes from eight streams of a connection that read no answer.
async fn pings_taken(per_connection: usize) -> (usize, u64) {
    let settings = BrokerSettings {
        answer_bytes_max: 64 * KIB,
        answer_bytes_per_connection_max: Some(per_connection),
        futile_frames_max: u32::MAX,
        ..Served::settings()
    };
    let setup = Setup::new(settings).await;
    let connection = setup.connect(HERE).await;
    let ping = bytes_of(&Frame::Ping { nonce: u64::MAX });
    let pings = ping.repeat(16 * KIB / ping.len());
    let (mut taken, mut streams) = (0, Vec::new());
    for _ in 0..8 {
        let mut peer = stream(&*connection).await;
        while timeout(Duration::from_millis(100), peer.send_bytes(&pings)).await.is_ok() {
            taken += pings.len();
        }
        streams.push(peer);
    }
    let held = setup.held_back("answer_bytes_per_connection_max");
    // Who reads is heard again.
    for peer in &mut streams {
        let mut pongs = 0;
        while let Ok(Some(frame)) = timeout(Duration::from_millis(100), peer.any()).await {
            pongs += usize::from(matches!(frame, Frame::Pong { .. }));
        }
        assert!(pongs > 0);
    }
    let last = streams.last_mut().expect("one");
    last.send_bytes(&ping).await.expect("taken");
    assert!(last.next().await.is_some());
    (taken, held)
}

#[tokio::test(start_paused = true)]
async fn promise_10_answers_that_are_not_read_count_over_all_streams_of_a_connection() {
    let (few, held) = pings_taken(64 * KIB).await;
    assert!(held > 0, "{few} bytes, never held back");
    let (many, held) = pings_taken(64 << 20).await;
    // Links hold 256 KiB each way for each stream, which no limit of the broker counts.
    assert!(
        held == 0 && many > few + 4 * 64 * KIB,
        "{few} and {many} bytes, held back {held} times"
    );
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_address_makes_so_many_channels_a_minute_by_use() {
    let settings = BrokerSettings { channels_per_minute_max: 3, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let (far, other) = (setup.connect(FAR).await, setup.connect(OTHER).await);
    let mut peer = stream(&*far).await;
    let subscribe = |handle: u32, channel: &str| RawPeer::subscribe(handle, "t", channel, CREDIT);
    for (handle, channel) in [(1, "a"), (2, "b"), (3, "c#ephemeral")] {
        ask(&mut peer, subscribe(handle, channel)).await.expect("a channel");
    }
    // Those that are there cost nothing, however many come at once.
    for handle in 10..200 {
        ask(&mut peer, subscribe(handle, "a")).await.expect("it is there");
    }
    let second = setup.connect(FAR).await;
    let mut second = stream(&*second).await;
    let refusal = ask(&mut second, subscribe(1, "d")).await.expect_err("there were three");
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains("3 a minute") && refusal.detail.contains('d'), "{refusal}");
    assert_eq!(setup.reached(), [(Limit::ChannelsPerMinute, 1)]);
    ask(&mut stream(&*other).await, subscribe(1, "d")).await.expect("another address");
    ask(&mut second, subscribe(2, "d")).await.expect("it is there now");
    let here = setup.connect(HERE).await;
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
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let open = Frame::OpenProducer {
        handle: 1,
        topic: name("t"),
        name: Some(ProducerName::new("p").expect("a name")),
        epoch: None,
        seat: None,
    };
    let rounds = [
        (RawPeer::subscribe(1, "t", "c", CREDIT), Frame::Unsubscribe { handle: 1 }, "nothing"),
        (open, Frame::CloseProducer { handle: 1, forget: true }, "published nothing"),
    ];
    for (open, close, what) in rounds {
        let connection = setup.connect(FAR).await;
        let mut peer = stream(&*connection).await;
        // One after the other is given, so that none is refused for its number.
        let mut rounds = 0;
        let detail = loop {
            peer.send(open.clone()).await;
            peer.send(close.clone()).await;
            peer.send(Frame::Ping { nonce: 1 }).await;
            let mut over = None;
            loop {
                match peer.next().await {
                    Some(Frame::Pong { .. }) => break,
                    Some(Frame::Goodbye { refusal }) => {
                        over = Some(refusal);
                        break;
                    }
                    Some(_) => {}
                    None => panic!("no goodbye"),
                }
            }
            if let Some(refusal) = over {
                assert_eq!(refusal.code, RefusalCode::Flooding);
                break refusal.detail;
            }
            rounds += 1;
            assert!(rounds < 300, "{what}: {rounds} rounds");
        };
        // Each round is one, and its ping another.
        assert!((90..=110).contains(&rounds), "{rounds} rounds: {detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_streams_that_end_with_what_they_opened_in_vain_are_a_flood_too() {
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let connection = setup.connect(FAR).await;
    let mut quiet = stream(&*connection).await;
    for round in 0.. {
        assert!(round < 10, "nothing ends it");
        let mut peer = RawPeer::over(connection.open_stream().await.expect("a stream"));
        peer.send(Frame::Hello(RawPeer::hello())).await;
        match peer.next().await {
            Some(Frame::Welcome(_)) => {}
            Some(Frame::Goodbye { refusal }) => {
                assert_eq!(refusal.code, RefusalCode::Flooding);
                assert_eq!(round, 5, "fifty are opened in vain each time");
                break;
            }
            other => panic!("{other:?}"),
        }
        for handle in 0..50 {
            subscribe(&mut peer, handle).await.expect("a subscription");
        }
        drop(peer);
        setup.until_handles(0).await;
    }
    // Who is there already goes on, and after a second others may come.
    subscribe(&mut quiet, 1).await.expect("a subscription");
    tokio::time::sleep(Duration::from_secs(1)).await;
    subscribe(&mut stream(&*connection).await, 1).await.expect("a subscription");
}

#[tokio::test(start_paused = true)]
async fn what_was_of_use_is_no_flood_and_nor_is_a_client_that_is_there_again() {
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let connection = setup.connect(FAR).await;
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
    }
    // All at once, and again on a connection of its own.
    for _ in 0..3 {
        let connection = setup.connect(FAR).await;
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

async fn node(folder: &Path) -> NodeProcess {
    let settings = folder.join("ltq.toml");
    let text = "[limits]\nsubscriptions_max = 3\nproducers_max = 2\nrequests_max = 1\n\
        publish_bytes_max = \"8MiB\"\npublish_bytes_per_connection_max = \"8MiB\"\n";
    std::fs::write(&settings, text).expect("written");
    let settings = settings.to_string_lossy().into_owned();
    let more = ["--listen", "quic://127.0.0.1:0", "--dev-tls", "--http", "127.0.0.1:0"];
    let more: Vec<_> = more.into_iter().chain(["--config", &settings]).collect();
    NodeProcess::start(&folder.join("data"), 0, &more).await.expect("a node")
}

async fn metrics(node: &NodeProcess) -> String {
    let at = node.said("http://").expect("HTTP").trim_start_matches("http://");
    let mut stream = within("connecting", TcpStream::connect(at)).await.expect("connected");
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    within("figures", stream.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_a_node_counts_over_the_streams_of_a_quic_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path()).await;
    let fingerprint = node.fingerprint().expect("a certificate").parse().expect("one");
    let trust = ClientTrust::fingerprint(fingerprint).expect("trust");
    let quic = Quic::new(QuicOptions::default()).trusting(trust);
    let address = node.said("quic://").expect("QUIC").parse().expect("an address");
    let connection = within("connecting", quic.connect(&address)).await.expect("a connection");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut peer = stream(&*connection).await;
        subscribe(&mut peer, 1).await.expect("a subscription");
        streams.push(peer);
    }
    produce(&mut streams[0], 1).await.expect("a producer");
    produce(&mut streams[1], 1).await.expect("a producer");
    let refused = [subscribe(&mut streams[0], 2).await, produce(&mut streams[2], 1).await];
    for refusal in refused {
        let refusal = refusal.expect_err("there are as many");
        assert_eq!(refusal.code, RefusalCode::LimitReached);
    }
    // Another connection of the same peer has its own.
    let second = within("connecting", quic.connect(&address)).await.expect("a connection");
    subscribe(&mut stream(&*second).await, 1).await.expect("a subscription");
    let figures = metrics(&node).await;
    for line in [
        "ltq_limits_reached_total{limit=\"subscriptions_max\"} 1",
        "ltq_limits_reached_total{limit=\"producers_max\"} 1",
        "ltq_limits_reached_total{limit=\"handles_per_address_max\"} 0",
        "ltq_held_back_total{limit=\"publish_bytes_per_connection_max\"} 0",
        "ltq_held_back_total{limit=\"answer_bytes_per_connection_max\"} 0",
    ] {
        assert!(figures.lines().any(|shown| shown == line), "{line} is not in {figures}");
    }
    // A stream that ends, as its peer says or not, leaves its place.
    drop(streams.remove(0));
    within("its place", async {
        while subscribe(&mut streams[0], 3).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(node.terminate().await.expect("it ends").success());
}
