//! Promise 10, of those who say nothing: they take each other's places, and none of those that were let in.

use std::time::Duration;

use ltq_client::{Client, Message};
use ltq_core::{
    Address, Broker, BrokerSettings, Environment, Limit, RefusalCode, Transport, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{Local, RawPeer, Served, bytes_of, within};
use ltq_transport::InProcess;
use tokio::time::{Instant, advance};

/// Of so many places; nobody has to go by itself.
fn settings(connections_max: usize) -> BrokerSettings {
    let hello_timeout = Duration::from_secs(3_600);
    BrokerSettings { connections_max, hello_timeout, ..Served::settings() }
}

#[tokio::test]
async fn promise_10_silent_connections_for_all_places_keep_nobody_out() {
    let served = Served::start(settings(50)).await;
    let mut there = RawPeer::greeted(&served.address).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(RawPeer::connect(&served.address).await);
    }
    // As many as there are places come, and more for each that is turned away.
    let renewing = async {
        let mut oldest = 0;
        loop {
            let said = silent[oldest].any().await;
            let Some(Frame::Goodbye { refusal }) = said else { panic!("{said:?}") };
            assert_eq!(refusal.code, RefusalCode::LimitReached);
            assert!(refusal.detail.contains("the node is full"), "{refusal}");
            silent[oldest] = RawPeer::connect(&served.address).await;
            oldest = (oldest + 1) % silent.len();
        }
    };
    let coming = async {
        let server = served.address.to_string();
        for number in 0..3 {
            // It may come when none of them has had its second.
            let client = loop {
                match Client::builder().server(&server).connect().await {
                    Ok(client) => break client,
                    Err(error) => assert!(error.to_string().contains("full"), "{error}"),
                }
            };
            let topic = format!("t{number}");
            let producer = client.producer(topic.as_str()).await.expect("a producer");
            producer.send(Message::new("x")).await.expect("stored");
            client.close().await.expect("a clean close");
        }
    };
    within("clients among those who say nothing", async {
        tokio::select! {
            () = renewing => {}
            () = coming => {}
        }
    })
    .await;
    let counters = served.broker.counters();
    assert!(counters.connections_refused_greeting > 0 && counters.connections_crowded_out > 0);
    assert_eq!(counters.connections_refused, 0, "there were places");
    assert!(served.broker.in_use().greeting <= 16, "{:?}", served.broker.in_use());
    let full = |(limit, count): &(Limit, u64)| *limit == Limit::GreetingConnections && *count > 0;
    assert!(served.broker.limits_reached().iter().any(full));
    there.open_producer(1, "t").await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_is_silent_gives_way_after_a_second_and_who_was_let_in_never() {
    let mut settings = settings(10);
    settings.entrance.greeting_connections_max = Some(2);
    let local = Local::start(settings).await;
    let mut there = local.peer().await;
    let mut silent = [local.connect().await, local.connect().await];
    let began = Instant::now();
    let mut refused = local.connect().await;
    let said = refused.expect_goodbye(RefusalCode::LimitReached).await;
    assert!(said.contains("2 connections have said no hello"), "{said}");
    advance(Duration::from_secs(1)).await;
    // All that there is says hello in time.
    let _late = local.peer().await;
    silent[0].expect_goodbye(RefusalCode::LimitReached).await;
    silent[1].greet(RawPeer::hello()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    there.open_producer(1, "t").await;
    let counters = local.broker.counters();
    assert_eq!((counters.connections_crowded_out, counters.connections_refused_greeting), (1, 1));
    assert_eq!(local.broker.in_use().greeting, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_connection_of_many_streams_gives_way_with_all_of_them() {
    let mut settings = settings(10);
    settings.entrance.greeting_connections_max = Some(1);
    let store = MemoryStore::new(64 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
    let transport = InProcess::multiplexed();
    let address = Address::new("in-process", "broker");
    let listener = transport.listen(&address).await.expect("a listener");
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let connect = async || transport.connect(&address).await.expect("a connection");
    let first = connect().await;
    let stream = async || RawPeer::over(first.open_stream().await.expect("a stream"));
    let mut silent = [stream().await, stream().await];
    // So that both are there.
    within("its streams", async {
        while broker.in_use().streams < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    advance(Duration::from_secs(1)).await;
    let second = connect().await;
    let mut late = RawPeer::over(second.open_stream().await.expect("a stream"));
    late.greet(RawPeer::hello()).await;
    for stream in &mut silent {
        stream.expect_goodbye(RefusalCode::LimitReached).await;
    }
    within("its end", async {
        while broker.stats().await.connections > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // One that was welcomed on one stream keeps its place, whatever the others say.
    let _quiet = RawPeer::over(second.open_stream().await.expect("a stream"));
    advance(Duration::from_secs(10)).await;
    let third = connect().await;
    let _third = RawPeer::over(third.open_stream().await.expect("a stream"));
    late.open_producer(1, "t").await;
    assert_eq!(broker.counters().connections_crowded_out, 1);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_connection_that_opens_no_stream_gives_way_too() {
    let mut settings = settings(10);
    settings.entrance.greeting_connections_max = Some(1);
    let local = Local::start(settings).await;
    let _silent = local.connect_alone().await;
    within("its place", async {
        while local.broker.in_use().greeting == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    advance(Duration::from_secs(1)).await;
    let mut late = local.peer().await;
    within("the end of the silent one", async {
        while local.broker.stats().await.connections > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    late.open_producer(1, "t").await;
    assert_eq!(local.broker.counters().connections_crowded_out, 1);
}

#[tokio::test]
async fn promise_10_who_is_turned_away_is_told_so_as_far_as_there_are_not_too_many() {
    let served = Served::start(settings(1)).await;
    let _there = RawPeer::greeted(&served.address).await;
    let mut told = Vec::new();
    // Each holds its turn for as long as it reads nothing, but for two seconds.
    for _ in 0..200 {
        told.push(RawPeer::connect(&served.address).await);
    }
    let (mut goodbyes, mut closed) = (0, 0);
    for peer in &mut told {
        let _ = peer.send_bytes(&bytes_of(&Frame::Hello(RawPeer::hello()))).await;
        match peer.any().await {
            Some(Frame::Goodbye { refusal }) if refusal.code == RefusalCode::LimitReached => {
                goodbyes += 1;
            }
            None => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(goodbyes >= 64, "{goodbyes} were told, {closed} were not");
    assert_eq!(served.broker.counters().connections_refused, 200);
    let by_limit: u64 = served.broker.limits_reached().iter().map(|(_, count)| count).sum();
    assert_eq!(by_limit, goodbyes, "what was told");
}

#[tokio::test(start_paused = true)]
async fn promise_10_so_many_are_told_at_a_time_why_they_are_turned_away_and_each_for_two_seconds() {
    let local = Local::start(settings(1)).await;
    let _there = local.peer().await;
    // None of them ends its connection.
    let turned_away = async |count: usize| {
        let mut peers = Vec::new();
        for _ in 0..count {
            peers.push(local.connect().await);
        }
        let mut told = 0;
        for peer in &mut peers {
            told += usize::from(matches!(peer.any().await, Some(Frame::Goodbye { .. })));
        }
        (peers, told)
    };
    let (first, told) = turned_away(100).await;
    assert_eq!(told, 64);
    advance(Duration::from_millis(1_900)).await;
    assert_eq!(turned_away(1).await.1, 0);
    advance(Duration::from_millis(200)).await;
    let (_second, told) = turned_away(100).await;
    assert_eq!(told, 64);
    drop(first);
    let counters = local.broker.counters();
    assert_eq!(counters.connections_refused, 201);
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_is_turned_away_and_ends_its_connection_makes_room_for_the_next_to_be_told()
{
    let local = Local::start(settings(1)).await;
    let _there = local.peer().await;
    for _ in 0..200 {
        let mut refused = local.connect().await;
        refused.expect_goodbye(RefusalCode::LimitReached).await;
        drop(refused);
        // It is found out without waiting for anything else.
        advance(Duration::from_millis(1)).await;
    }
}
