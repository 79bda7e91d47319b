//! A rolling restart of three nodes that are drained one after the other, under ordered load: the order of every
//! key is kept from its publisher to its consumer, and nothing is lost or comes twice.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ltq_client::{
    Availability, Cluster, ClusterConsumer, ClusterProducer, ClusterPublishError, Message,
};
use ltq_tests::{NodeProcess, RegistryProcess, Stalls, folder_in_memory, within};
use tokio::{sync::watch, task::JoinSet};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const KEYS: u32 = 12;
/// How long a publish may wait while nodes are drained and restarted, but for what this machine has to do besides.
const WAITS_MAX: Duration = Duration::from_millis(300);

/// Starts a node. What keeps it from running is known from then on.
async fn start(
    stalls: &Stalls,
    folder: &Path,
    name: &str,
    port: u16,
    registry: &str,
) -> NodeProcess {
    let config = folder.join("ltq.toml");
    let config = config.to_str().expect("a path");
    let more = ["--node", name, "--registry", registry, "--config", config];
    let node = NodeProcess::start(&folder.join(name), port, &more).await.expect("a node");
    stalls.watch_process(node.pid());
    node
}

/// The last number of each key that was consumed.
type Consumed = watch::Sender<BTreeMap<String, u64>>;

async fn consume(mut consumer: ClusterConsumer, consumed: Arc<Consumed>) -> u64 {
    let mut count = 0;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.expect("whole");
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        if body == "end" {
            break;
        }
        let (key, number) = body.split_once('/').expect("a key and a number");
        let number: u64 = number.parse().expect("a number");
        let node = delivery.node().clone();
        assert_eq!(delivery.attempt(), 1, "{body} of {node} came again");
        delivery.ack().expect("in time");
        consumed.send_modify(|consumed| {
            let before = consumed.insert(key.to_owned(), number);
            let wanted = before.map_or(0, |before| before + 1);
            assert_eq!(number, wanted, "promise 5: {body} of {node} out of order");
        });
        count += 1;
    }
    count
}

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
    // What a device takes for a sync is not judged here.
    let folder = folder_in_memory().expect("a folder");
    let config = "[drain]\non_signal = true\ntimeout = \"15s\"\n";
    std::fs::write(folder.path().join("ltq.toml"), config).expect("written");
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let stalls = Stalls::watch();
    stalls.watch_process(Some(std::process::id()));
    stalls.watch_process(registry.pid());
    let mut nodes = BTreeMap::new();
    for name in NAMES {
        nodes.insert(name, start(&stalls, folder.path(), name, 0, &at).await);
    }
    registry.until("all are there", |nodes| nodes.len() == NAMES.len()).await;
    let cluster = Cluster::builder().registry(&at).connect().await.expect("a cluster");
    let consumer = cluster.consumer("orders", "billing").await.expect("a consumer");
    let consumed = Arc::new(watch::Sender::new(BTreeMap::new()));
    let consuming = tokio::spawn(consume(consumer, consumed.clone()));
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
    for name in NAMES {
        let node = nodes.remove(name).expect("it");
        let port = node.port();
        assert!(node.terminate().await.expect("it ends").success(), "{name} was not drained");
        more(100).await;
        nodes.insert(name, start(&stalls, folder.path(), name, port, &at).await);
        let all = |nodes: &[serde_json::Value]| {
            nodes.len() == NAMES.len() && nodes.iter().all(|node| node["state"] == "ready")
        };
        registry.until("it is back", all).await;
        more(100).await;
    }
    stop.send_replace(true);
    let (mut published, mut moves, mut calls) = (0, 0, Vec::new());
    while let Some(one) = within("the last publish", publishing.join_next()).await {
        let one = one.expect("no panic");
        (published, moves) = (published + one.0, moves + one.1);
        calls.extend(one.2);
    }
    let judged = calls.into_iter().map(|(began, ended)| stalls.without(began, ended));
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
