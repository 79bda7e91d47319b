//! Promise 10, of who may do what: whoever is not let in learns nothing, who is let in does what is
//! permitted and learns of nothing else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ltq_core::{
    Access, Action, Address, AdminRequest, AdminResponse, BrokerSettings, ChannelName, Credit,
    Denied, Grant, Peer, Permissions, PublisherOptions, Refusal, RefusalCode, RetentionChange,
    Seat, StartAt, TopicName, TopicOptions, TopicPattern, Transport as _,
    protocol::{Frame, Hello},
};
use ltq_tests::{RawPeer, Served, answers, answers_over, bytes_of};
use ltq_transport::{ClientTrust, Pem, Quic, ServerTrust, Tls, Transports, Unix, self_signed};

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
        Frame::OpenProducer { handle: 1, topic: topic_name(), name: None, epoch: None, seat: None },
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

/// The bytes, with other ones of the same length in place of a topic's name.
fn without_name(mut bytes: Vec<u8>, topic: &str) -> Vec<u8> {
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(topic.as_bytes()) {
            bytes[at..at + topic.len()].fill(b'-');
        }
    }
    bytes
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
async fn promise_10_who_is_not_let_in_learns_nothing_by_any_transport() {
    let keys = Keys::of(&["right * * *"]);
    let served = with_a_topic(settings(&keys)).await;
    let made = self_signed(&["127.0.0.1"]).expect("a certificate");
    let pem = |text: &str| Pem::Text(text.to_owned());
    let server = ServerTrust::new(pem(&made.certificate), pem(&made.key)).expect("trust");
    let client = ClientTrust::fingerprint(made.fingerprint).expect("trust");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("ltq.sock").display().to_string();
    let transports = Transports::new()
        .with(Unix::default())
        .with(Tls::default().serving(server.clone()).trusting(client.clone()))
        .with(Quic::default().serving(server).trusting(client));
    let addresses = [
        Address::new("unix", socket),
        Address::new("tls", "127.0.0.1:0"),
        Address::new("quic", "127.0.0.1:0"),
    ];
    let refusal = Refusal::new(RefusalCode::Unauthorized, "a valid token is needed");
    let goodbye = bytes_of(&Frame::Goodbye { refusal });
    for address in addresses {
        let listener = transports.listen(&address).await.expect("a listener");
        let address = listener.local_address();
        let broker = served.broker.clone();
        tokio::spawn(async move { broker.serve(listener).await });
        for token in [None, Some("wrong")] {
            for topic in ["there", "no-no"] {
                let token = token.map(str::to_owned);
                let mut frames = vec![Frame::Hello(Hello { token, ..RawPeer::hello() })];
                frames.extend(everything(topic));
                let answer = answers_over(&transports, &address, &frames).await;
                assert_eq!(answer, goodbye, "{address}: no more than that it is not let in");
            }
        }
        let there = answers_over(&transports, &address, &everything("there")).await;
        let other = answers_over(&transports, &address, &everything("no-no")).await;
        assert_eq!(there, other, "{address}");
    }
    let stats = served.broker.stats().await;
    assert_eq!((stats.topics.len(), stats.topics[0].published), (1, 1));
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

        // To the last byte, when all is asked at once. The list of topics comes when it is made.
        let list = Frame::Admin { request: 9, action: AdminRequest::ListTopics };
        let mut bytes = Vec::new();
        for topic in ["there", "no-no"] {
            let mut frames = vec![Frame::Hello(hello(token))];
            frames.extend(everything(topic).into_iter().filter(|frame| *frame != list));
            assert_eq!(frames.len(), 12);
            bytes.push(without_name(answers(&served.address, &frames).await, topic));
        }
        assert!(bytes[0].len() > 500, "{} bytes", bytes[0].len());
        assert_eq!(bytes[0], bytes[1]);
        let words = &seen[0];
        assert!(words[0].contains("the permission is missing: publish on NAME"), "{}", words[0]);
        assert!(words[1].contains("the permission is missing: consume on NAME"), "{}", words[1]);
        assert!(words[11].contains("the permission is missing: administer on *"), "{}", words[11]);
    }
    let topics: Vec<_> = served.broker.stats().await.topics;
    assert_eq!(topics.len(), 1, "nothing was made");
    assert!(!topics[0].paused && topics[0].channels.len() == 1);
    assert_eq!(served.broker.counters().requests_forbidden, 2 * 2 * 2 * 11);
}

#[tokio::test]
async fn draining_takes_a_token_that_administers_everything() {
    let keys = Keys::of(&["other * * other.*", "all - - *"]);
    let served = with_a_topic(settings(&keys)).await;
    let _drains = served.broker.drain_wishes();
    let drain = AdminRequest::Drain { options: Default::default() };
    for (token, is_permitted) in [("other", false), ("all", true)] {
        let mut peer = greeted(&served, token).await;
        for action in [drain.clone(), AdminRequest::EndDrain] {
            peer.send(Frame::Admin { request: 1, action }).await;
            match peer.next().await.expect("an answer") {
                Frame::AdminAnswered { result: Ok(AdminResponse::Done), .. } => {
                    assert!(is_permitted, "{token}");
                }
                Frame::AdminAnswered { result: Err(refusal), .. } => {
                    assert!(!is_permitted, "{token}: {refusal}");
                    assert_eq!(refusal.code, RefusalCode::Forbidden);
                }
                other => panic!("{other:?}"),
            }
        }
    }
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
        writer
            .send(Frame::OpenProducer { handle: 2, topic, name: None, epoch: None, seat: None })
            .await;
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
    reader
        .send(Frame::OpenProducer { handle: 1, topic, name: None, epoch: None, seat: None })
        .await;
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

/// Over the wire: only whoever was let in as the same takes over, and only in the same channel.
#[tokio::test]
async fn promise_10_nobody_takes_over_the_deliveries_of_another_token() {
    let keys = Keys::of(&["mine * * *", "yours * * *"]);
    let served = Served::start(settings(&keys)).await;
    let mut writer = greeted(&served, "mine").await;
    writer.open_producer(1, "orders").await;
    let seated = |channel: &str, turn| {
        let mut frame = RawPeer::subscribe(1, "orders", channel, CREDIT);
        if let Frame::Subscribe { seat, .. } = &mut frame {
            *seat = Some(Seat { number: [7; 16], turn });
        }
        frame
    };
    let mut first = greeted(&served, "mine").await;
    first.send(seated("c", 1)).await;
    assert!(matches!(first.next().await, Some(Frame::Subscribed { .. })));
    let answer = writer.publish(1, 1, &[b"one", b"two"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    let delivered = first.next().await;
    assert!(matches!(delivered, Some(Frame::Deliver { attempt: 1, .. })), "{delivered:?}");
    for (token, channel) in [("yours", "c"), ("mine", "d")] {
        let mut other = greeted(&served, token).await;
        other.send(seated(channel, 9)).await;
        assert!(matches!(other.next().await, Some(Frame::Subscribed { .. })));
        let stats = served.broker.admin(AdminRequest::ShowTopic { topic: name("orders") }).await;
        let Ok(AdminResponse::Topic(stats)) = stats else { panic!("{stats:?}") };
        let of = stats.channels.iter().find(|it| it.channel.as_str() == "c").expect("it");
        assert_eq!((of.in_flight, of.redelivered), (2, 0), "by {token} in {channel}");
    }
    let mut again = greeted(&served, "mine").await;
    again.send(seated("c", 2)).await;
    assert!(matches!(again.next().await, Some(Frame::Subscribed { .. })));
    let closed = first.next().await;
    let Some(Frame::SubscriptionClosed { refusal: Some(refusal), .. }) = closed else {
        panic!("{closed:?}")
    };
    assert_eq!(refusal.code, RefusalCode::Fenced);
    let delivered = again.next().await;
    assert!(matches!(delivered, Some(Frame::Deliver { attempt: 2, .. })), "{delivered:?}");
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
    // One says nothing, one goes on talking, one only listens: all are ended.
    let mut talking = greeted(&served, "old").await;
    talking.open_producer(1, "t").await;
    let mut listening = greeted(&served, "old").await;
    let credit = Credit { messages: 100, bytes: 1 << 20 };
    listening.send(RawPeer::subscribe(1, "t", "c", credit)).await;
    let answer = listening.next().await;
    assert!(matches!(answer, Some(Frame::Subscribed { .. })), "{answer:?}");
    let mut delivered = 0;
    while delivered < 2 {
        let answer = listening.next().await;
        let Some(Frame::Deliver { batch, .. }) = answer else { panic!("{answer:?}") };
        delivered += batch.records.count();
    }
    keys.add("new * * *");
    keys.remove("old");
    let answer = stays.publish(1, 2, &[b"not for everybody"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    let answer = listening.next().await;
    assert!(matches!(answer, Some(Frame::Goodbye { .. })), "{answer:?}");
    let records = ltq_core::Records::encode([&ltq_core::Message::new("after")]);
    talking.send(Frame::Publish { handle: 1, sequence: 1, durability: None, records }).await;
    talking.expect_goodbye(RefusalCode::Unauthorized).await;
    let before = std::time::Instant::now();
    old.expect_goodbye(RefusalCode::Unauthorized).await;
    assert!(before.elapsed() < Duration::from_secs(10), "no timeout was waited for");

    let answer = stays.publish(1, 3, &[b"after"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    greeted(&served, "new").await;
    let mut again = RawPeer::connect(&served.address).await;
    again.send(Frame::Hello(hello("old"))).await;
    again.expect_goodbye(RefusalCode::Unauthorized).await;
    let stats = served.broker.stats().await;
    assert_eq!(stats.topics[0].published, 4, "nothing of a revoked grant is carried out");
    assert_eq!(served.broker.counters().streams_revoked, 3);
    let told = served.broker.refusals().into_iter().find(|it| it.0 == RefusalCode::Unauthorized);
    assert_eq!(told.map(|it| it.1), Some(4));
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
