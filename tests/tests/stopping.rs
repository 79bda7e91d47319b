//! Promise 11: stopping is clean, whatever is going on, and nobody waits for a timeout to find
//! out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Client, Message as ClientMessage};
use ltq_core::{
    Broker, BrokerError, BrokerSettings, Credit, DirectError, Durability, Effect, Environment,
    Message, RefusalCode, Store, SubscribeOptions, TopicSettings, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{DEADLINE, Gated, Local, RawPeer, Served, within};
use tokio::time::Instant;

const CREDIT: Credit = Credit { messages: 100, bytes: 1 << 20 };

/// A store that outlives its broker: closing it does nothing.
async fn restarted(store: &Arc<Gated<MemoryStore>>) -> Broker<Arc<Gated<MemoryStore>>> {
    Broker::start(Arc::clone(store), Served::settings(), Environment::system()).await.expect("it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_2_and_11_a_stop_in_the_middle_of_traffic_loses_nothing_that_was_confirmed() {
    let (store, _gate) = Gated::lasting(MemoryStore::new(256 << 20));
    let store = Arc::new(store);
    for round in 0..3 {
        let served = Served::on(Arc::clone(&store), Served::settings()).await;
        let address = served.address.to_string();
        let confirmed = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        // The channel is there before anything is published.
        let _ = served.broker.subscribe("t", "c", SubscribeOptions::default()).await.expect("it");
        for _ in 0..4 {
            let (address, confirmed) = (address.clone(), Arc::clone(&confirmed));
            let done = Arc::clone(&done);
            tasks.spawn(async move {
                let client = Client::connect(&address).await.expect("connected");
                let producer = client.producer("t").await.expect("a producer");
                while !done.load(Relaxed) {
                    let sent = producer.send(ClientMessage::new("x"));
                    match tokio::time::timeout(Duration::from_secs(1), sent).await {
                        Ok(Ok(_)) => drop(confirmed.fetch_add(1, Relaxed)),
                        Ok(Err(_)) => return,
                        // Late, or never: it is seen above whether there is more to do.
                        Err(_) => {}
                    }
                }
            });
        }
        {
            let (address, done) = (address.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                let client = Client::connect(&address).await.expect("connected");
                let mut consumer = client.consumer("t", "c").await.expect("a consumer");
                while !done.load(Relaxed) {
                    let next = consumer.next();
                    match tokio::time::timeout(Duration::from_secs(1), next).await {
                        // Half of them are left in flight.
                        Ok(Some(Ok(delivery))) if delivery.offset().0 % 2 == 0 => {
                            let _ = delivery.ack();
                        }
                        Ok(Some(Ok(delivery))) => std::mem::forget(delivery),
                        Err(_) => {}
                        _ => return,
                    }
                }
            });
        }
        within("traffic", async {
            while confirmed.load(Relaxed) < 500 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let began = Instant::now();
        within("the stop", served.broker.stop(DEADLINE)).await.expect("a clean stop");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        done.store(true, Relaxed);
        while tasks.join_next().await.is_some() {}
        let confirmed = confirmed.load(Relaxed);

        let broker = restarted(&store).await;
        let stats = broker.stats().await;
        let topic = &stats.topics[0];
        assert!(topic.end.0 >= confirmed, "round {round}: {} < {confirmed}", topic.end);
        let channel = &topic.channels[0];
        let there = channel.waiting + channel.acked + channel.in_flight + channel.delayed;
        assert_eq!(there, topic.end.since(channel.start), "promise 13: each in one state");
        assert_eq!(channel.in_flight, 0, "what was in flight waits again");
        // Everything that is not acked is delivered now.
        let mut left = broker.subscribe("t", "c", SubscribeOptions::default()).await.expect("it");
        for _ in 0..channel.waiting {
            let received = within("it", left.receive()).await.expect("it").expect("it");
            left.ack(received.tag).expect("acked");
        }
        drop(left);
        broker.stop(DEADLINE).await.expect("clean");
    }
}

#[tokio::test]
async fn promise_9_names_that_clients_made_up_are_gone_and_a_users_name_stays_over_a_restart() {
    let (store, _gate) = Gated::lasting(MemoryStore::new(256 << 20));
    let store = Arc::new(store);
    let mut settings = Served::settings();
    settings.model.producers_known_max = 2;
    let served = Served::on(Arc::clone(&store), settings).await;
    let client = Client::connect(&served.address.to_string()).await.expect("connected");
    let loader = || async { client.producer_builder("t").name("loader").open().await };
    let named = loader().await.expect("a producer");
    named.send(ClientMessage::new("x")).await.expect("stored");
    named.close().await.expect("closed");
    for _ in 0..20 {
        let producer = client.producer("t").await.expect("a producer");
        producer.send(ClientMessage::new("x")).await.expect("stored");
        producer.close().await.expect("closed");
    }
    assert_eq!(loader().await.expect("it is known").last_sequence(), 1, "it was not pushed out");
    client.close().await.expect("closed");
    within("the stop", served.broker.stop(DEADLINE)).await.expect("a clean stop");

    let broker = restarted(&store).await;
    let stats = broker.stats().await;
    assert_eq!((stats.topics[0].producers_known, stats.topics[0].end.0), (1, 21));
    broker.stop(DEADLINE).await.expect("clean");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_a_stop_while_topics_are_being_made_misses_none() {
    for _ in 0..20 {
        let served = Served::start(Served::settings()).await;
        let mut makers = Vec::new();
        for maker in 0..4 {
            let broker = served.broker.clone();
            makers.push(tokio::spawn(async move {
                for n in 0.. {
                    match broker.publisher(&format!("t{maker}-{n}"), Default::default()).await {
                        Ok(mut publisher) => {
                            let error = match publisher.publish(&Message::new("x")).await {
                                Ok(_) => continue,
                                Err(error) => error,
                            };
                            assert!(matches!(error, DirectError::Refused(_)), "{error}");
                        }
                        Err(DirectError::Refused(refusal)) => {
                            assert_eq!(refusal.code, RefusalCode::Stopping);
                            return;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        within("the stop", served.broker.stop(DEADLINE)).await.expect("a clean stop");
        for maker in makers {
            within("the maker hears of it", maker).await.expect("no panic");
        }
        assert_eq!(served.broker.stats().await.topics, []);
    }
}

#[tokio::test]
async fn promise_11_connections_that_have_not_said_hello_do_not_hold_up_the_stop() {
    let hello_timeout = Duration::from_secs(3600);
    let served = Served::start(BrokerSettings { hello_timeout, ..Served::settings() }).await;
    let mut silent = RawPeer::connect(&served.address).await;
    let mut half = RawPeer::connect(&served.address).await;
    half.send_bytes(&[50, 0, 0, 0, 1]).await.expect("sent");
    let mut greeted = RawPeer::greeted(&served.address).await;
    greeted.open_producer(1, "t").await;
    let began = Instant::now();
    let hearing = tokio::spawn(async move {
        silent.expect_goodbye(RefusalCode::Stopping).await;
        half.expect_goodbye(RefusalCode::Stopping).await;
        // A producer learns it from its topic, and then from the stream.
        greeted.expect_goodbye(RefusalCode::Stopping).await;
    });
    // Peers that hear the goodbye need not be waited for longer than their last words take.
    within("the stop", served.broker.stop(DEADLINE)).await.expect("a clean stop");
    within("all were told", hearing).await.expect("no panic");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn promise_11_peers_that_read_nothing_are_cut_off_soon() {
    let local = Local::start(Served::settings()).await;
    let mut writer = local.peer().await;
    writer.open_producer(1, "t").await;
    for sequence in 1..=4 {
        writer.publish(1, sequence, &[&[1; 1_000_000]]).await;
    }
    drop(writer);
    let mut deaf = local.peer().await;
    let credit = Credit { messages: 100, bytes: 8 << 20 };
    deaf.send(RawPeer::subscribe(1, "t", "c", credit)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    within("the stop", local.broker.stop(DEADLINE)).await.expect("a clean stop");
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn promise_11_a_commit_that_never_ends_is_cut_off_and_its_publishers_told_so() {
    let (store, _gate) = Gated::new(MemoryStore::new(64 << 20), false);
    // Nor does closing it.
    let store = store.closing_never();
    let local = Local::on(store, Served::settings()).await;
    let broker = local.broker.clone();
    let opening = tokio::spawn({
        let broker = broker.clone();
        async move { broker.publisher("t", Default::default()).await.map(drop) }
    });
    let mut peer = local.peer().await;
    peer.send(Frame::OpenProducer {
        handle: 1,
        topic: ltq_core::TopicName::new("u").expect("a name"),
        name: None,
        epoch: None,
        seat: None,
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let stopped = within("the stop", broker.stop(Duration::from_secs(3))).await;
    assert!(matches!(stopped, Err(BrokerError::StopTimeout(_))), "{stopped:?}");
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    let error = within("an answer", opening).await.expect("no panic").expect_err("refused");
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    within("the peer is told", async {
        loop {
            match peer.any().await {
                Some(Frame::Ping { .. } | Frame::ProducerRefused { .. }) => {}
                Some(Frame::Goodbye { refusal }) => {
                    assert_eq!(refusal.code, RefusalCode::Stopping);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let error = broker.publisher("v", Default::default()).await.err().expect("refused");
    assert!(
        matches!(error, DirectError::Refused(refusal) if refusal.code == RefusalCode::Stopping)
    );
}

#[tokio::test(start_paused = true)]
async fn promise_11_publishes_that_wait_for_a_commit_are_stored_before_the_stop_ends() {
    let (store, gate) = Gated::lasting(MemoryStore::new(64 << 20));
    let store = Arc::new(store);
    let local = Local::on(Arc::clone(&store), Served::settings()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    peer.send(RawPeer::subscribe(2, "t", "c", CREDIT)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    gate.send_replace(false);
    for sequence in 1..=10 {
        let records = ltq_core::Records::encode([&Message::new("x")]);
        peer.send(Frame::Publish { handle: 1, sequence, durability: None, records }).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let broker = local.broker.clone();
    let stop = tokio::spawn(async move { broker.stop(DEADLINE).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!stop.is_finished());
    gate.send_replace(true);
    stop.await.expect("no panic").expect("a clean stop");
    let mut confirmed = 0;
    loop {
        match peer.any().await {
            Some(Frame::Confirmed { ranges, .. }) => {
                confirmed += ranges.iter().map(|range| range.count).sum::<u64>();
            }
            Some(Frame::Goodbye { refusal }) => {
                assert_eq!(refusal.code, RefusalCode::Stopping);
                break;
            }
            Some(_) => {}
            None => panic!("no goodbye"),
        }
    }
    assert_eq!(confirmed, 10, "accepted before the stop, so stored");
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let again = Broker::start(store, settings, Environment::system()).await.expect("it");
    assert_eq!(again.stats().await.topics[0].end.0, 10);
    assert_eq!(again.store().health(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn promise_11_a_peer_that_is_behind_hears_what_is_stored_before_the_goodbye() {
    let (store, gate) = Gated::lasting(MemoryStore::new(64 << 20));
    let local = Local::on(Arc::new(store), Served::settings()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "u").await;
    peer.open_producer(3, "t").await;
    let none = Credit { messages: 0, bytes: 0 };
    peer.send(RawPeer::subscribe(2, "t", "c", none)).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    for sequence in 1..=4 {
        peer.publish(3, sequence, &[&[1; 1_000_000]]).await;
    }
    gate.send_replace(false);
    for sequence in 1..=10 {
        let records = ltq_core::Records::encode([&Message::new("x")]);
        peer.send(Frame::Publish { handle: 1, sequence, durability: None, records }).await;
    }
    // From here on it does not read, and more is on its way than the stream takes.
    let credit = Credit { messages: 100, bytes: 8 << 20 };
    peer.send(Frame::Credit { handle: 2, total: credit }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.send_replace(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let broker = local.broker.clone();
    let stop = tokio::spawn(async move { broker.stop(DEADLINE).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut confirmed = 0;
    loop {
        match peer.any().await {
            Some(Frame::Confirmed { handle: 1, ranges, .. }) => {
                confirmed += ranges.iter().map(|range| range.count).sum::<u64>();
            }
            Some(Frame::Goodbye { refusal }) => {
                assert_eq!(refusal.code, RefusalCode::Stopping);
                break;
            }
            Some(_) => {}
            None => panic!("no goodbye"),
        }
    }
    assert_eq!(confirmed, 10, "stored, so the publisher knows it");
    stop.await.expect("no panic").expect("a clean stop");
}

/// Less than what a stop waits for at most, and much more than it takes on a slow machine.
const SOON: Duration = Duration::from_secs(15);
