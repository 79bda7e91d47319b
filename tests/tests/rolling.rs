//! A rolling restart of three nodes that are drained one after the other, under ordered load: the order of every
//! key is kept from its publisher to its consumer, and nothing is lost or comes twice.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ltq_client::{Availability, ClusterProducer, ClusterPublishError, Message};
use ltq_tests::{Field, consume_in_order, within};
use tokio::{sync::watch, task::JoinSet};

const DRAINS: &str = "[drain]\non_signal = true\ntimeout = \"15s\"\n";
const KEYS: u32 = 12;
/// How long a publish may wait while nodes are drained and restarted, but for what this machine has to do besides.
const WAITS_MAX: Duration = Duration::from_millis(300);

/// Publishes with one key until told to stop. When the order moves, what was published before is consumed first.
async fn publish(
    producer: ClusterProducer,
    key: u32,
    stop: watch::Receiver<bool>,
    mut consumed: watch::Receiver<BTreeMap<String, u64>>,
) -> (u64, u64, Vec<(Instant, Instant)>) {
    let (mut number, mut moves, mut calls) = (0, 0, Vec::new());
    let key = key.to_string();
    while !*stop.borrow() {
        let message = Message::new(format!("{key}/{number}")).with_key(key.clone());
        let began = Instant::now();
        let result = producer.send(message).await;
        calls.push((began, Instant::now()));
        match result {
            Ok(_) => number += 1,
            Err(ClusterPublishError::OrderMoved { .. }) => {
                moves += 1;
                let is_done = |consumed: &BTreeMap<String, u64>| {
                    number == 0 || consumed.get(&key) == Some(&(number - 1))
                };
                within("the backlog", consumed.wait_for(is_done)).await.expect("a consumer");
            }
            Err(error) => panic!("{error}"),
        }
    }
    (number, moves, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_ordered_publishing_keeps_its_order_through_a_rolling_restart() {
    let mut field = Field::new(DRAINS).await;
    let cluster = field.cluster.clone();
    let consumer = cluster.consumer("orders", "billing").await.expect("a consumer");
    let consumed = Arc::new(watch::Sender::new(BTreeMap::new()));
    let consuming = tokio::spawn(consume_in_order(consumer, consumed.clone()));
    let producer = cluster.producer_builder("orders").ordered(Availability::Move);
    let producer = producer.open().await.expect("a producer");
    let (stop, stopped) = watch::channel(false);
    let mut publishing = JoinSet::new();
    for key in 0..KEYS {
        let watching = consumed.subscribe();
        publishing.spawn(publish(producer.clone(), key, stopped.clone(), watching));
    }
    let more = async |count: u64| {
        let total = |consumed: &BTreeMap<String, u64>| consumed.values().sum::<u64>();
        let mut watching = consumed.subscribe();
        let wanted = total(&watching.borrow()) + count;
        within("more to come", watching.wait_for(|it| total(it) >= wanted)).await.expect("some");
    };
    more(300).await;
    for name in Field::NAMES {
        let port = field.end(name).await;
        more(100).await;
        field.start_again(name, port).await;
        more(100).await;
    }
    stop.send_replace(true);
    let (mut published, mut moves, mut calls) = (0, 0, Vec::new());
    while let Some(one) = within("the last publish", publishing.join_next()).await {
        let one = one.expect("no panic");
        (published, moves) = (published + one.0, moves + one.1);
        calls.extend(one.2);
    }
    let judged = calls.into_iter().map(|(began, ended)| field.stalls.without(began, ended));
    let longest = judged.max().expect("a publish");
    println!("{published} confirmed, {moves} moves of keys, the longest publish: {longest:?}");
    assert!(
        longest.own <= WAITS_MAX,
        "a publish waited for longer than {WAITS_MAX:?}: {longest:?}"
    );
    assert!(moves > 0, "no key ever moved: this shows nothing");
    let last = |consumed: &BTreeMap<String, u64>| {
        consumed.values().map(|number| number + 1).sum::<u64>() >= published
    };
    within("everything", consumed.subscribe().wait_for(last)).await.expect("a consumer");
    let end = cluster.producer("orders").await.expect("a producer");
    end.send(Message::new("end")).await.expect("stored");
    let count = within("the end", consuming).await.expect("no panic");
    assert_eq!(count, published, "promise 1: each once");
}
