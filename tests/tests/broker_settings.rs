//! Each setting of a broker does what it says: each test fails when its setting is ignored.

use std::{cell::Cell, time::Duration};

use ltq_core::{
    BrokerSettings, Credit, Durability, Limit, RefusalCode, Store, TopicName, TopicSettings,
    model::ModelSettings,
    protocol::{Frame, Hello},
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, RawPeer, Served, within};

/// By which limits peers were refused something, and how often.
fn reached<S: Store>(served: &Served<S>) -> Vec<(Limit, u64)> {
    served.broker.limits_reached().into_iter().filter(|(_, count)| *count > 0).collect()
}

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// Settings whose frames hold a message of 64 KiB and little more.
fn small_frames() -> BrokerSettings {
    BrokerSettings {
        message_bytes_max: 64 << 10,
        frame_bytes_max: 68 << 10,
        publish_bytes_max: 68 << 10,
        ..Served::settings()
    }
}

#[tokio::test]
async fn node_is_told_to_clients() {
    let settings = BrokerSettings { node: "berlin-3".to_owned(), ..Served::settings() };
    let served = Served::start(settings).await;
    let welcome = RawPeer::connect(&served.address).await.greet(RawPeer::hello()).await;
    assert_eq!(welcome.node, "berlin-3");
}

#[tokio::test]
async fn limits_are_told_to_clients() {
    let served = Served::start(small_frames()).await;
    let welcome = RawPeer::connect(&served.address).await.greet(RawPeer::hello()).await;
    assert_eq!(welcome.limits.message_bytes_max, 64 << 10);
    assert_eq!(welcome.limits.frame_bytes_max, 68 << 10);
    assert_eq!(welcome.limits.publish_bytes_max, 68 << 10);
}

#[tokio::test]
async fn topic_sets_the_durability_of_new_topics() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    peer.publish(1, 1, &[b"x"]).await;
    let stats = served.broker.stats().await;
    assert_eq!(stats.topics[0].settings.durability, Durability::Memory);

    // What the store cannot give is refused, not promised.
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Disk, ..TopicSettings::default() },
        ..Served::settings()
    };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(Frame::OpenProducer {
        handle: 1,
        topic: name("t"),
        name: None,
        epoch: None,
        seat: None,
    })
    .await;
    let answer = peer.next().await;
    let Some(Frame::ProducerRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::DurabilityUnavailable);
}

#[tokio::test]
async fn auto_create_topics_off_refuses_topics_that_are_not_there() {
    let settings = BrokerSettings { auto_create_topics: false, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(Frame::OpenProducer {
        handle: 1,
        topic: name("t"),
        name: None,
        epoch: None,
        seat: None,
    })
    .await;
    let answer = peer.next().await;
    let Some(Frame::ProducerRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::NoSuchTopic);
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    let answer = peer.next().await;
    let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::NoSuchTopic);
    assert!(served.broker.publisher("t", Default::default()).await.is_err());

    let create =
        ltq_core::AdminRequest::CreateTopic { topic: name("t"), options: Default::default() };
    served.broker.admin(create).await.expect("an operator may");
    peer.open_producer(2, "t").await;
}

#[tokio::test]
async fn who_is_to_make_no_topic_subscribes_where_it_is_and_nowhere_else() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    let subscribe = |handle: u32| {
        let mut frame = RawPeer::subscribe(handle, "t", "c", CREDIT);
        if let Frame::Subscribe { make_topic, .. } = &mut frame {
            *make_topic = false;
        }
        frame
    };
    peer.send(subscribe(1)).await;
    let Some(Frame::SubscribeRefused { handle: 1, refusal }) = peer.next().await else { panic!() };
    assert_eq!(refusal.code, RefusalCode::NoSuchTopic);
    assert!(served.broker.stats().await.topics.is_empty());
    peer.open_producer(1, "t").await;
    // The channel is made.
    peer.send(subscribe(2)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { handle: 2, .. })));
}

#[tokio::test]
async fn auto_create_channels_off_refuses_channels_that_are_not_there() {
    let settings = BrokerSettings { auto_create_channels: false, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    peer.publish(1, 1, &[b"x"]).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    let answer = peer.next().await;
    let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::NoSuchChannel);
    assert!(served.broker.subscribe("t", "c", Default::default()).await.is_err());
}

#[tokio::test]
async fn topics_max_bounds_topics() {
    let settings = BrokerSettings { topics_max: 2, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "a").await;
    peer.open_producer(2, "b").await;
    peer.send(Frame::OpenProducer {
        handle: 3,
        topic: name("c"),
        name: None,
        epoch: None,
        seat: None,
    })
    .await;
    let answer = peer.next().await;
    let Some(Frame::ProducerRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains('2'), "{refusal}");
    assert_eq!(reached(&served), [(Limit::Topics, 1)]);
}

#[tokio::test]
async fn channels_max_and_consumers_max_bound_a_topic_and_a_channel() {
    let model = ModelSettings { channels_max: 1, consumers_max: 1, ..ModelSettings::default() };
    let served = Served::start(BrokerSettings { model, ..Served::settings() }).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    for (handle, channel) in [(2, "c"), (3, "another")] {
        peer.send(RawPeer::subscribe(handle, "t", channel, CREDIT)).await;
        let answer = peer.next().await;
        let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(refusal.code, RefusalCode::LimitReached);
    }
    assert_eq!(reached(&served), [(Limit::Channels, 1), (Limit::Consumers, 1)]);
    // Another topic has its own.
    peer.send(RawPeer::subscribe(4, "u", "another", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
}

#[tokio::test]
async fn producers_max_bounds_the_producers_of_a_connection() {
    let settings = BrokerSettings { producers_max: 1, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    let second =
        Frame::OpenProducer { handle: 2, topic: name("t"), name: None, epoch: None, seat: None };
    peer.send(second.clone()).await;
    let answer = peer.next().await;
    let Some(Frame::ProducerRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert_eq!(reached(&served), [(Limit::Producers, 1)]);
    peer.send(Frame::CloseProducer { handle: 1, forget: false }).await;
    peer.send(second).await;
    assert!(matches!(peer.next().await, Some(Frame::ProducerOpened { handle: 2, .. })));
}

#[tokio::test]
async fn subscriptions_max_bounds_the_subscriptions_of_a_connection() {
    let settings = BrokerSettings { subscriptions_max: 1, ..Served::settings() };
    let served = Served::start(settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    peer.send(RawPeer::subscribe(2, "t", "c", CREDIT)).await;
    let answer = peer.next().await;
    let Some(Frame::SubscribeRefused { refusal, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert_eq!(reached(&served), [(Limit::Subscriptions, 1)]);
    peer.send(Frame::Unsubscribe { handle: 1 }).await;
    assert!(matches!(peer.next().await, Some(Frame::SubscriptionClosed { .. })));
    peer.send(RawPeer::subscribe(2, "t", "c", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
}

#[tokio::test]
async fn frame_bytes_max_bounds_frames() {
    let served = Served::start(small_frames()).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.send_bytes(&(68u32 * 1024 + 1).to_le_bytes()).await.expect("sent");
    peer.expect_goodbye(RefusalCode::FrameTooLarge).await;
}

/// Sends publishes of 32 MiB in all while no commit ends, and says whether the broker took them.
async fn takes_everything(settings: BrokerSettings) -> bool {
    let (store, gate) = Gated::new(MemoryStore::new(128 << 20), true);
    let served = Served::on(store, settings).await;
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    let body = vec![7; 60 << 10];
    let sent = Cell::new(0);
    let flood = async {
        for sequence in 1..=32 * 1024 / 60 {
            sent.set(sequence);
            let records = ltq_core::Records::encode([&ltq_core::Message::new(body.clone())]);
            peer.send(Frame::Publish { handle: 1, sequence, durability: None, records }).await;
        }
    };
    let mut flood = std::pin::pin!(flood);
    // However slow this machine is, the broker takes nothing more once nothing has moved for so long.
    let taken = loop {
        let before = sent.get();
        match tokio::time::timeout(STANDSTILL, &mut flood).await {
            Ok(()) => break true,
            Err(_) if sent.get() == before => break false,
            Err(_) => {}
        }
    };
    gate.send_replace(true);
    if !taken {
        within("the rest goes through once commits end", flood).await;
    }
    taken
}

#[tokio::test]
async fn promise_9_publish_bytes_max_stops_reading_from_a_stream() {
    assert!(!takes_everything(small_frames()).await);
    let settings = BrokerSettings { publish_bytes_max: 64 << 20, ..small_frames() };
    assert!(takes_everything(settings).await);
}

#[tokio::test]
async fn promise_9_publish_bytes_total_max_stops_reading_from_all_streams() {
    let settings = BrokerSettings {
        publish_bytes_max: 64 << 20,
        publish_bytes_total_max: 1 << 20,
        ..small_frames()
    };
    assert!(!takes_everything(settings).await);
}

#[tokio::test]
async fn promise_9_partial_bytes_total_max_bounds_half_read_frames_and_nobody_else_notices() {
    let settings = BrokerSettings { partial_bytes_total_max: 8 << 20, ..Served::settings() };
    let served = Served::start(settings).await;
    // Frames of 8 MiB, all but their last bytes: the node takes one or two of them in.
    let mut half = Vec::new();
    half.extend_from_slice(&(8u32 << 20).to_le_bytes());
    half.resize((8 << 20) - 100, 0);
    let mut greedy = Vec::new();
    let mut taken = 0;
    for nth in 0..6 {
        let mut peer = RawPeer::greeted(&served.address).await;
        let sent = peer.send_bytes(&half);
        if nth == 0 {
            let _ = within("the first one has room", sent).await;
            taken += 1;
        } else {
            taken += u32::from(tokio::time::timeout(STANDSTILL, sent).await.is_ok());
        }
        greedy.push(peer);
    }
    assert!((1..=3).contains(&taken), "{taken} half frames of 8 MiB were taken in");
    let held = served.broker.held_back();
    assert!(held.iter().any(|(limit, count)| *limit == "partial_bytes_total_max" && *count > 0));
    let mut peer = RawPeer::greeted(&served.address).await;
    peer.open_producer(1, "t").await;
    let answer = peer.publish(1, 1, &[b"a small one"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_client_may_ask_for_a_shorter_heartbeat() {
    let served = Served::start(Served::settings()).await;
    let mut peer = RawPeer::connect(&served.address).await;
    let welcome = peer.greet(Hello { heartbeat_ms: 200, ..RawPeer::hello() }).await;
    assert_eq!(welcome.heartbeat_ms, 200);
    peer.expect_goodbye(RefusalCode::PeerTimeout).await;
    let mut peer = RawPeer::connect(&served.address).await;
    let welcome = peer.greet(Hello { heartbeat_ms: u32::MAX, ..RawPeer::hello() }).await;
    assert_eq!(welcome.heartbeat_ms, 15_000, "not a longer one");
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let good = BrokerSettings::default;
    good().check().expect("the defaults are fine");
    for (setting, bad) in [
        ("node", BrokerSettings { node: String::new(), ..good() }),
        ("topics_max", BrokerSettings { topics_max: 0, ..good() }),
        ("connections_max", BrokerSettings { connections_max: 0, ..good() }),
        (
            "connections_per_address_max",
            BrokerSettings { connections_per_address_max: 0, ..good() },
        ),
        ("futile_frames_max", BrokerSettings { futile_frames_max: 0, ..good() }),
        ("topics_per_minute_max", BrokerSettings { topics_per_minute_max: 0, ..good() }),
        ("channels_per_minute_max", BrokerSettings { channels_per_minute_max: 0, ..good() }),
        ("handles_total_max", BrokerSettings { handles_total_max: 0, ..good() }),
        ("handles_per_address_max", BrokerSettings { handles_per_address_max: Some(0), ..good() }),
        (
            "answer_bytes_per_connection_max",
            BrokerSettings { answer_bytes_per_connection_max: Some((256 << 10) - 1), ..good() },
        ),
        (
            "publish_bytes_per_connection_max",
            BrokerSettings { publish_bytes_per_connection_max: Some((16 << 20) - 1), ..good() },
        ),
        (
            "answer_bytes_per_address_max",
            BrokerSettings { answer_bytes_per_address_max: Some((256 << 10) - 1), ..good() },
        ),
        ("answer_bytes_total_max", BrokerSettings { answer_bytes_total_max: 1, ..good() }),
        (
            "publish_bytes_per_address_max",
            BrokerSettings { publish_bytes_per_address_max: Some((16 << 20) - 1), ..good() },
        ),
        ("streams_max", BrokerSettings { streams_max: 0, ..good() }),
        ("unknown_streams_max", BrokerSettings { unknown_streams_max: 0, ..good() }),
        ("opening_streams_max", BrokerSettings { opening_streams_max: 3, ..good() }),
        ("wrong_tokens_max", BrokerSettings { wrong_tokens_max: 0, ..good() }),
        ("lockout_max", BrokerSettings { lockout_max: Duration::from_millis(999), ..good() }),
        ("addresses_known_max", BrokerSettings { addresses_known_max: 0, ..good() }),
        ("requests_max", BrokerSettings { requests_max: 0, ..good() }),
        ("surveys_max", BrokerSettings { surveys_max: 0, ..good() }),
        ("topic_lists_max", BrokerSettings { topic_lists_max: 0, ..good() }),
        ("slow_read_stalls", BrokerSettings { slow_read_stalls: 0, ..good() }),
        ("slow_read_stalls", BrokerSettings { slow_read_stalls: 10_001, ..good() }),
        (
            "delivery_bytes_per_address_max",
            BrokerSettings { delivery_bytes_per_address_max: Some((1 << 20) - 1), ..good() },
        ),
        ("inbox_entries_max", BrokerSettings { inbox_entries_max: 0, ..good() }),
        ("answer_bytes_max", BrokerSettings { answer_bytes_max: 4095, ..good() }),
        ("delivery_bytes_max", BrokerSettings { delivery_bytes_max: 4095, ..good() }),
        ("partial_bytes_free", BrokerSettings { partial_bytes_free: 16_383, ..good() }),
        ("subscriptions_max", BrokerSettings { subscriptions_max: 0, ..good() }),
        ("producers_max", BrokerSettings { producers_max: 0, ..good() }),
        ("message_bytes_max", BrokerSettings { message_bytes_max: 0, ..good() }),
        ("frame_bytes_max", BrokerSettings { frame_bytes_max: 1 << 20, ..good() }),
        ("publish_bytes_max", BrokerSettings { publish_bytes_max: 1, ..good() }),
        ("publish_bytes_total_max", BrokerSettings { publish_bytes_total_max: 1, ..good() }),
        ("partial_bytes_total_max", BrokerSettings { partial_bytes_total_max: 1, ..good() }),
        ("hello_timeout", BrokerSettings { hello_timeout: Duration::ZERO, ..good() }),
        ("heartbeat", BrokerSettings { heartbeat: Duration::ZERO, ..good() }),
        ("stall_timeout", BrokerSettings { stall_timeout: Duration::ZERO, ..good() }),
        ("heartbeat", BrokerSettings { heartbeat: Duration::MAX, ..good() }),
    ] {
        let error = bad.check().expect_err(setting);
        assert_eq!(error.setting, setting);
        assert!(!error.to_string().contains("secret"));
    }
}

#[test]
fn limits_of_delivery_that_cannot_be_are_refused_by_name() {
    type Change = fn(&mut ModelSettings);
    let cases: [(&str, Change); 17] = [
        ("model.credit_max.messages", |model| model.credit_max.messages = 0),
        ("model.credit_max.bytes", |model| model.credit_max.bytes = 0),
        ("model.channels_max", |model| model.channels_max = 0),
        ("model.consumers_max", |model| model.consumers_max = 0),
        ("model.producers_known_max", |model| model.producers_known_max = 0),
        ("model.channel_runs_max", |model| model.channel_runs_max = 0),
        ("model.ack_commit_rate", |model| model.ack_commit_rate = 0),
        ("model.run_messages_max", |model| model.run_messages_max = 0),
        ("model.run_messages_max", |model| model.run_messages_max = usize::MAX),
        ("model.run_bytes_max", |model| model.run_bytes_max = 0),
        ("model.run_bytes_max", |model| model.run_bytes_max = 1 << 30),
        ("model.load_bytes", |model| model.load_bytes = 0),
        ("model.window_bytes", |model| model.window_bytes = 0),
        ("model.commit_bytes_max", |model| model.commit_bytes_max = 0),
        ("model.commit_publishes_max", |model| model.commit_publishes_max = 0),
        ("model.delivery_timeout", |model| model.delivery_timeout = Duration::ZERO),
        ("model.delivery_timeout", |model| model.delivery_timeout_max = Duration::from_secs(1)),
    ];
    for (setting, change) in cases {
        let mut settings = BrokerSettings::default();
        change(&mut settings.model);
        assert_eq!(settings.check().expect_err(setting).setting, setting);
    }
}

/// What nothing moves for so long is at a standstill.
const STANDSTILL: Duration = Duration::from_secs(3);
