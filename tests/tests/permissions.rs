//! Promise 10, of who may do what: whoever is not let in learns nothing, who is let in does what is
//! permitted and learns of nothing else, and no flood of small things harms others.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Access, Action, Address, AdminRequest, AdminResponse, BrokerSettings, ChannelName, Connection,
    Credit, Denied, Grant, Listener, Peer, Permissions, PublisherOptions, Refusal, RefusalCode,
    RetentionChange, SharedToken, StartAt, Stream, TopicName, TopicOptions, TopicPattern,
    Transport, TransportError,
    protocol::{Frame, Hello},
};
use ltq_tests::{RawPeer, Served, bytes_of, within};
use ltq_transport::Tcp;

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };

/// Tokens with what they permit, which may change.
#[derive(Default)]
struct Keys(Mutex<BTreeMap<String, Grant>>);

impl Keys {
    /// `token publish consume administer`, a pattern each or `-`.
    fn of(lines: &[&str]) -> Arc<Self> {
        let keys = Self::default();
        lines.iter().for_each(|line| keys.add(line));
        Arc::new(keys)
    }

    fn add(&self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [token, publish, consume, administer] = words[..] else { panic!("{line}") };
        let patterns = |text| match text {
            "-" => Vec::new(),
            text => vec![TopicPattern::new(text).expect("a pattern")],
        };
        let permissions = Permissions {
            publish: patterns(publish),
            consume: patterns(consume),
            administer: patterns(administer),
        };
        self.0.lock().expect("it").insert(token.to_owned(), Grant::new(token, permissions));
    }

    fn remove(&self, token: &str) {
        self.0.lock().expect("it").remove(token).expect("a token").revoke();
    }
}

impl Access for Keys {
    fn admit(&self, _: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
        let token = token.ok_or(Denied::NoToken)?;
        self.0.lock().expect("it").get(token).cloned().ok_or(Denied::WrongToken)
    }
}

fn settings(keys: &Arc<Keys>) -> BrokerSettings {
    BrokerSettings { access: keys.clone(), ..Served::settings() }
}

fn hello(token: &str) -> Hello {
    Hello { token: Some(token.to_owned()), ..RawPeer::hello() }
}

async fn greeted(served: &Served, token: &str) -> RawPeer {
    let mut peer = RawPeer::connect(&served.address).await;
    peer.greet(hello(token)).await;
    peer
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// Everything that a peer can ask about a topic.
fn everything(topic: &str) -> Vec<Frame> {
    let channel = || ChannelName::new("c").expect("a name");
    let admin = |request, action| Frame::Admin { request, action };
    let topic_name = || name(topic);
    vec![
        Frame::OpenProducer { handle: 1, topic: topic_name(), name: None, epoch: None },
        RawPeer::subscribe(2, topic, "c", CREDIT),
        admin(1, AdminRequest::ShowTopic { topic: topic_name() }),
        admin(
            2,
            AdminRequest::CreateTopic { topic: topic_name(), options: TopicOptions::default() },
        ),
        admin(
            3,
            AdminRequest::AlterTopic { topic: topic_name(), change: RetentionChange::default() },
        ),
        admin(4, AdminRequest::PauseTopic { topic: topic_name(), paused: true }),
        admin(
            5,
            AdminRequest::CreateChannel {
                topic: topic_name(),
                channel: channel(),
                start: StartAt::Earliest,
            },
        ),
        admin(6, AdminRequest::DeleteChannel { topic: topic_name(), channel: channel() }),
        admin(
            7,
            AdminRequest::PauseChannel { topic: topic_name(), channel: channel(), paused: true },
        ),
        admin(8, AdminRequest::DeleteTopic { topic: topic_name() }),
        admin(9, AdminRequest::ListTopics),
        admin(10, AdminRequest::Stats),
    ]
}

/// All bytes that a broker answers to these frames, from the first to the end of the stream.
async fn answers(address: &Address, frames: &[Frame]) -> Vec<u8> {
    let connection = Tcp::default().connect(address).await.expect("a connection");
    let Stream { mut send, mut recv } = connection.open_stream().await.expect("a stream");
    let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
    let mut rest = &bytes[..];
    // The broker may end the stream before it has read everything.
    while !rest.is_empty() {
        let slices = [std::io::IoSlice::new(rest)];
        match poll_fn(|context| send.poll_send(context, &slices)).await {
            Ok(sent) => rest = &rest[sent..],
            Err(_) => break,
        }
    }
    let _ = poll_fn(|context| send.poll_finish(context)).await;
    let mut answer = BytesMut::new();
    within("the end of the answers", async {
        while poll_fn(|context| recv.poll_recv(context, &mut answer, 4096)).await.unwrap_or(0) > 0 {
        }
    })
    .await;
    answer.to_vec()
}

/// A broker with a topic `there`, which has a channel and a message.
async fn with_a_topic(settings: BrokerSettings) -> Served {
    let served = Served::start(settings).await;
    let mut publisher = served.broker.publisher("there", Default::default()).await.expect("it");
    publisher.publish(&ltq_core::Message::new("secret")).await.expect("a receipt");
    drop(served.broker.subscribe("there", "c", Default::default()).await.expect("it"));
    served
}

#[tokio::test]
async fn promise_10_who_is_not_let_in_learns_nothing_whatever_there_is() {
    let keys = Keys::of(&["right * * *"]);
    let served = with_a_topic(settings(&keys)).await;
    let mut seen = Vec::new();
    for token in [None, Some("wrong"), Some("")] {
        for topic in ["there", "no-no"] {
            let token = token.map(str::to_owned);
            let mut frames = vec![Frame::Hello(Hello { token, ..RawPeer::hello() })];
            frames.extend(everything(topic));
            seen.push(answers(&served.address, &frames).await);
        }
    }
    let refusal = Refusal::new(RefusalCode::Unauthorized, "a valid token is needed");
    let goodbye = bytes_of(&Frame::Goodbye { refusal });
    for answer in seen {
        assert_eq!(answer, goodbye, "no more than that it is not let in");
    }
    // Without any hello.
    let there = answers(&served.address, &everything("there")).await;
    assert_eq!(there, answers(&served.address, &everything("no-no")).await);
    let stats = served.broker.stats().await;
    assert_eq!(stats.topics.len(), 1);
    assert_eq!((stats.topics[0].published, stats.topics[0].producers), (1, 0));
    assert_eq!(served.broker.counters().hellos_denied, 6);
}

#[tokio::test]
async fn promise_10_who_lacks_the_permission_cannot_tell_whether_a_topic_exists() {
    let keys = Keys::of(&["other other.* other.* other.*", "nothing - - -"]);
    let served = with_a_topic(settings(&keys)).await;
    for token in ["other", "nothing"] {
        // Names of one length, so that all answers are of one length too.
        let mut seen = Vec::new();
        for topic in ["there", "no-no"] {
            let mut peer = greeted(&served, token).await;
            let mut all = Vec::new();
            for frame in everything(topic) {
                peer.send(frame).await;
                let answer = peer.next().await.expect("an answer");
                let refusal = match &answer {
                    Frame::ProducerRefused { refusal, .. }
                    | Frame::SubscribeRefused { refusal, .. }
                    | Frame::AdminAnswered { result: Err(refusal), .. } => Some(refusal),
                    Frame::AdminAnswered { result: Ok(AdminResponse::Topics(names)), .. } => {
                        assert_eq!(names, &[], "not to be seen");
                        None
                    }
                    other => panic!("{other:?}"),
                };
                if let Some(refusal) = refusal {
                    assert_eq!(refusal.code, RefusalCode::Forbidden);
                }
                all.push(format!("{answer:?}").replace(topic, "NAME"));
            }
            seen.push(all);
        }
        assert_eq!(seen[0], seen[1]);
        let words = &seen[0];
        assert!(words[0].contains("the permission is missing: publish on NAME"), "{}", words[0]);
        assert!(words[1].contains("the permission is missing: consume on NAME"), "{}", words[1]);
        assert!(words[11].contains("the permission is missing: administer on *"), "{}", words[11]);
    }
    let topics: Vec<_> = served.broker.stats().await.topics;
    assert_eq!(topics.len(), 1, "nothing was made");
    assert!(!topics[0].paused && topics[0].channels.len() == 1);
    assert_eq!(served.broker.counters().requests_forbidden, 2 * 2 * 11);
}

#[tokio::test]
async fn what_is_permitted_is_done_and_no_more() {
    let keys = Keys::of(&[
        "writer orders.* - -",
        "reader - orders.* -",
        "operator - - orders.*",
        "root * * *",
    ]);
    let served = Served::start(settings(&keys)).await;
    let subscribe = |topic| RawPeer::subscribe(1, topic, "c", CREDIT);

    // Publishing makes the topic, and gives no right to read it.
    let mut writer = greeted(&served, "writer").await;
    writer.open_producer(1, "orders.new").await;
    let answer = writer.publish(1, 1, &[b"one"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    writer.send(subscribe("orders.new")).await;
    let answer = writer.next().await;
    assert!(matches!(answer, Some(Frame::SubscribeRefused { .. })), "{answer:?}");
    for foreign in ["orders", "order.s", "x"] {
        let topic = name(foreign);
        writer.send(Frame::OpenProducer { handle: 2, topic, name: None, epoch: None }).await;
        let answer = writer.next().await;
        let Some(Frame::ProducerRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(refusal.code, RefusalCode::Forbidden);
    }

    // Consuming makes the topic and the channel, and gives no right to publish.
    let mut reader = greeted(&served, "reader").await;
    reader.send(subscribe("orders.new")).await;
    assert!(matches!(reader.next().await, Some(Frame::Subscribed { .. })));
    assert!(matches!(reader.next().await, Some(Frame::Deliver { .. })));
    reader.send(RawPeer::subscribe(2, "orders.old", "c", CREDIT)).await;
    assert!(matches!(reader.next().await, Some(Frame::Subscribed { .. })));
    let topic = name("orders.new");
    reader.send(Frame::OpenProducer { handle: 1, topic, name: None, epoch: None }).await;
    assert!(matches!(reader.next().await, Some(Frame::ProducerRefused { .. })));

    // Each sees its own, and the node's figures are for who administers everything.
    served.broker.publisher("elsewhere", Default::default()).await.expect("a topic");
    let ours = vec![name("orders.new"), name("orders.old")];
    let all = vec![name("elsewhere"), name("orders.new"), name("orders.old")];
    for (token, topics, stats) in
        [("writer", &ours, false), ("operator", &ours, false), ("root", &all, true)]
    {
        let mut peer = greeted(&served, token).await;
        peer.send(Frame::Admin { request: 1, action: AdminRequest::ListTopics }).await;
        let answer = peer.next().await;
        let Some(Frame::AdminAnswered { result: Ok(AdminResponse::Topics(seen)), .. }) = answer
        else {
            panic!("{token}: {answer:?}");
        };
        assert_eq!(&seen, topics, "{token}");
        peer.send(Frame::Admin { request: 2, action: AdminRequest::Stats }).await;
        let answer = peer.next().await;
        let Some(Frame::AdminAnswered { result, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(result.is_ok(), stats, "{token}");
    }
    let mut operator = greeted(&served, "operator").await;
    let action = AdminRequest::DeleteTopic { topic: name("orders.old") };
    operator.send(Frame::Admin { request: 3, action }).await;
    let answer = operator.next().await;
    assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })), "{answer:?}");
}

#[tokio::test]
async fn a_revoked_grant_ends_its_sessions_within_a_heartbeat_and_no_others() {
    let keys = Keys::of(&["old * * *", "stays * * *"]);
    let heartbeat = Duration::from_secs(2);
    let served = Served::start(BrokerSettings { heartbeat, ..settings(&keys) }).await;
    let mut old = greeted(&served, "old").await;
    let mut stays = greeted(&served, "stays").await;
    for peer in [&mut old, &mut stays] {
        peer.open_producer(1, "t").await;
        let answer = peer.publish(1, 1, &[b"before"]).await;
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    }
    // One says nothing, one goes on talking: both are ended.
    let mut talking = greeted(&served, "old").await;
    talking.open_producer(1, "t").await;
    keys.add("new * * *");
    keys.remove("old");
    let records = ltq_core::Records::encode([&ltq_core::Message::new("after")]);
    talking.send(Frame::Publish { handle: 1, sequence: 1, durability: None, records }).await;
    talking.expect_goodbye(RefusalCode::Unauthorized).await;
    let before = std::time::Instant::now();
    old.expect_goodbye(RefusalCode::Unauthorized).await;
    assert!(before.elapsed() < Duration::from_secs(10), "no timeout was waited for");

    let answer = stays.publish(1, 2, &[b"after"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    greeted(&served, "new").await;
    let mut again = RawPeer::connect(&served.address).await;
    again.send(Frame::Hello(hello("old"))).await;
    again.expect_goodbye(RefusalCode::Unauthorized).await;
    let stats = served.broker.stats().await;
    assert_eq!(stats.topics[0].published, 3, "nothing of a revoked grant is carried out");
    assert_eq!(served.broker.counters().streams_revoked, 2);
}

#[tokio::test]
async fn promise_10_floods_of_what_brings_nothing_are_cut_off_by_name() {
    let settings = BrokerSettings { futile_frames_max: 200, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut other = RawPeer::greeted(&served.address).await;
    other.open_producer(1, "t").await;
    let zero = Credit::default();
    type Prepare = Option<Frame>;
    let floods: [(&str, Prepare, Frame); 7] = [
        ("a ping", None, Frame::Ping { nonce: 1 }),
        ("a pong", None, Frame::Pong { nonce: 1 }),
        ("credit for no subscription", None, Frame::Credit { handle: 9, total: CREDIT }),
        (
            "credit that was given before",
            Some(RawPeer::subscribe(1, "t", "c", zero)),
            Frame::Credit { handle: 1, total: zero },
        ),
        ("the end of no subscription", None, Frame::Unsubscribe { handle: 9 }),
        ("the end of no open producer", None, Frame::CloseProducer { handle: 9, forget: true }),
        (
            "a producer that was refused",
            Some(Frame::OpenProducer { handle: 1, topic: name("t"), name: None, epoch: None }),
            Frame::OpenProducer { handle: 1, topic: name("t"), name: None, epoch: None },
        ),
    ];
    for (what, prepare, frame) in floods {
        let mut peer = RawPeer::greeted(&served.address).await;
        if let Some(prepare) = prepare {
            peer.send(prepare).await;
            peer.next().await.expect("an answer");
        }
        let flood: Vec<u8> = std::iter::repeat_n(bytes_of(&frame), 300).flatten().collect();
        peer.send_bytes(&flood).await.expect("sent");
        let detail = peer.expect_goodbye(RefusalCode::Flooding).await;
        assert!(detail.contains(what) && detail.contains("200"), "{detail}");
    }
    assert_eq!(served.broker.counters().streams_flooding, 7);
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
    let tried = |token: &'static str| {
        let address = address.clone();
        async move { answers(&address, &[Frame::Hello(hello(token))]).await }
    };
    let wrong = tried("wrong").await;
    for _ in 0..9 {
        assert_eq!(tried("wrong").await, wrong);
    }
    // Turned away with the right one too, by the same bytes; others are not, and neither is who
    // comes from this machine.
    assert_eq!(tried("right").await, wrong);
    assert_eq!(tried("wrong").await, wrong);
    assert_eq!(served.broker.counters().hellos_locked_out, 2);
    assert_ne!(tried("right").await, wrong);
    greeted(&served, "right").await;
}

#[tokio::test]
async fn promise_10_one_address_has_so_many_connections_and_no_more() {
    let settings = BrokerSettings { connections_per_address_max: 2, ..Served::settings() };
    let served = Served::start(settings).await;
    let address = served_far(&served, vec![FAR, FAR, FAR, OTHER, FAR]).await;
    let first = RawPeer::greeted(&address).await;
    let _second = RawPeer::greeted(&address).await;
    let mut third = RawPeer::connect(&address).await;
    assert_eq!(third.next().await, None, "closed at once");
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
}

#[tokio::test]
async fn who_comes_by_another_way_is_let_in_and_permitted_by_the_same() {
    let keys = Keys::of(&["writer orders.* - -"]);
    let settings = BrokerSettings { topics_per_minute_max: 1, ..settings(&keys) };
    let served = Served::start(settings).await;
    let peer = Peer { address: Address::new("http", "192.0.2.9:1"), identity: None };
    assert!(served.broker.admit(&peer, None).is_err());
    let grant = served.broker.admit(&peer, Some("writer")).expect("it is right");
    let permit = |action, topic: Option<&str>| {
        served.broker.permit(&grant, action, topic.map(name).as_ref()).map_err(|no| no.code)
    };
    assert_eq!(permit(Action::Publish, Some("orders.x")), Ok(()));
    assert_eq!(permit(Action::Publish, Some("x")), Err(RefusalCode::Forbidden));
    assert_eq!(permit(Action::Administer, None), Err(RefusalCode::Forbidden));
    let publisher = |topic| served.broker.publisher_for(&peer, topic, PublisherOptions::default());
    let (x, y) = (name("orders.x"), name("orders.y"));
    let first = publisher(&x).await;
    assert!(first.is_ok(), "{:?}", first.err());
    assert!(publisher(&x).await.is_ok(), "it is there");
    let error = publisher(&y).await.err().expect("one too many");
    assert!(error.to_string().contains("1 a minute"), "{error}");
    keys.remove("writer");
    assert_eq!(permit(Action::Publish, Some("orders.x")), Err(RefusalCode::Unauthorized));
}
