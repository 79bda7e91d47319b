//! A registry and three real nodes, and producers and consumers that know the registry's address alone:
//! what was confirmed is there, and is consumed, when nodes are killed, when they are restarted one after
//! the other, and when the registry is gone.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ltq_client::{
    Client, Cluster, ClusterConsumer, ClusterProducer, ConsumerBuilder, ID_HEADER, Message,
};
use ltq_tests::{NodeProcess, RegistryProcess, within};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

async fn start(folder: &Path, name: &str, port: u16, registry: &str) -> NodeProcess {
    let more = ["--node", name, "--registry", registry];
    NodeProcess::start(&folder.join(name), port, &more).await.expect("a node")
}

/// A registry that knows three nodes, those, and a cluster.
struct Field {
    folder: tempfile::TempDir,
    at: String,
    registry: Option<RegistryProcess>,
    nodes: BTreeMap<&'static str, NodeProcess>,
    cluster: Cluster,
}

impl Field {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let beats = ["--heartbeat", "200ms"];
        let registry = RegistryProcess::start(0, &beats).await.expect("a registry");
        let at = registry.address().to_string();
        let mut nodes = BTreeMap::new();
        for name in NAMES {
            nodes.insert(name, start(folder.path(), name, 0, &at).await);
        }
        let all = |nodes: &[Value]| nodes.len() == NAMES.len();
        registry.until("all are there", all).await;
        let cluster = Cluster::builder().registry(&at).connect().await.expect("a cluster");
        Self { folder, at, registry: Some(registry), nodes, cluster }
    }

    /// What each node has of a topic: the bodies, and the ids.
    async fn stored(&self, topic: &str) -> BTreeMap<&'static str, Vec<(String, String)>> {
        let mut stored = BTreeMap::new();
        for (name, node) in &self.nodes {
            let client = Client::connect(&node.address().to_string()).await.expect("connected");
            let names = client.admin().list_topics().await.expect("topics");
            if !names.iter().any(|name| name.as_str() == topic) {
                continue;
            }
            let count = client.admin().show_topic(topic).await.expect("the topic").end.0;
            let consumer = client.consumer_builder(topic, "check");
            let mut consumer = ConsumerBuilder::open(consumer).await.expect("a consumer");
            let mut found = Vec::new();
            while (found.len() as u64) < count {
                let delivery = within("a message", consumer.next()).await.expect("one");
                let delivery = delivery.expect("whole");
                let message = &delivery.message;
                let id = message.headers.iter().find(|(name, _)| name == ID_HEADER);
                let id = id.map(|(_, id)| String::from_utf8_lossy(id).into_owned());
                let body = String::from_utf8_lossy(&message.body).into_owned();
                found.push((body, id.unwrap_or_default()));
                delivery.ack().expect("in time");
            }
            stored.insert(*name, found);
        }
        stored
    }
}

/// Who publishes until told to stop, one after the other.
struct Load {
    stop: watch::Sender<bool>,
    confirmed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Account>>,
}

/// What became of it.
#[derive(Debug, Default)]
struct Account {
    /// By body: the node that has it.
    confirmed: BTreeMap<String, String>,
    failed: Vec<String>,
    longest: Duration,
}

impl Load {
    fn start(producer: &ClusterProducer) -> Self {
        let (stop, stopped) = watch::channel(false);
        let confirmed = Arc::new(AtomicU64::new(0));
        let publish = |who: usize| {
            let (producer, stopped) = (producer.clone(), stopped.clone());
            let confirmed = confirmed.clone();
            tokio::spawn(async move {
                let mut account = Account::default();
                for number in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let body = format!("{who}-{number}");
                    let began = Instant::now();
                    match producer.send(Message::new(body.clone())).await {
                        Ok(receipt) => {
                            confirmed.fetch_add(1, Ordering::Relaxed);
                            account.confirmed.insert(body, receipt.node.to_string());
                        }
                        Err(error) => account.failed.push(error.to_string()),
                    }
                    account.longest = account.longest.max(began.elapsed());
                }
                account
            })
        };
        let tasks = (0..4).map(publish).collect();
        Self { stop, confirmed, tasks }
    }

    /// Waits until so many more messages were confirmed.
    async fn more(&self, count: u64) {
        let from = self.confirmed.load(Ordering::Relaxed);
        within("the load to go on", async {
            while self.confirmed.load(Ordering::Relaxed) < from + count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn end(self) -> Account {
        self.stop.send_replace(true);
        let mut all = Account::default();
        for task in self.tasks {
            let one = within("the last publish", task).await.expect("no panic");
            all.confirmed.extend(one.confirmed);
            all.failed.extend(one.failed);
            all.longest = all.longest.max(one.longest);
        }
        all
    }
}

/// Everything that was confirmed is where its receipt says; nothing is there that nobody published; what is there
/// twice has the same id.
fn check(account: &Account, stored: &BTreeMap<&'static str, Vec<(String, String)>>) {
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, messages) in stored {
        let mut seen = BTreeSet::new();
        for (body, id) in messages {
            assert!(seen.insert(body), "{body} is twice on {name}");
            ids.entry(body).or_default().insert(id);
        }
    }
    for (body, node) in &account.confirmed {
        let there = stored.get(node.as_str()).into_iter().flatten();
        assert!(there.into_iter().any(|(found, _)| found == body), "{body} is not on {node}");
    }
    for (body, ids) in ids {
        assert_eq!(ids.len(), 1, "{body} has several ids");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_nothing_confirmed_is_lost_when_a_node_and_the_registry_are_killed() {
    let mut field = Field::new().await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&producer);
    load.more(200).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    killed.kill().await.expect("killed");
    load.more(200).await;
    // The others go on while nobody tells of nodes any more.
    field.registry.take().expect("it").kill().await.expect("killed");
    load.more(200).await;
    field.nodes.insert("n2", start(field.folder.path(), "n2", port, &field.at).await);
    load.more(200).await;
    let account = load.end().await;
    println!("{} confirmed, the longest took {:?}", account.confirmed.len(), account.longest);
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    let stored = field.stored("orders").await;
    check(&account, &stored);
    assert_eq!(stored.len(), 3, "each node had its share");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_a_rolling_restart_loses_and_repeats_nothing() {
    let mut field = Field::new().await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&producer);
    load.more(200).await;
    for name in NAMES {
        let node = field.nodes.remove(name).expect("it");
        let port = node.port();
        assert!(node.terminate().await.expect("it ends").success());
        load.more(50).await;
        field.nodes.insert(name, start(field.folder.path(), name, port, &field.at).await);
        let registry = field.registry.as_ref().expect("it");
        let all = |nodes: &[Value]| {
            nodes.len() == NAMES.len() && nodes.iter().all(|node| node["suspected"] == false)
        };
        registry.until("it is back", all).await;
        load.more(50).await;
    }
    let account = load.end().await;
    println!("{} confirmed, the longest took {:?}", account.confirmed.len(), account.longest);
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    let stored = field.stored("orders").await;
    check(&account, &stored);
    let all: usize = stored.values().map(Vec::len).sum();
    assert_eq!(all, account.confirmed.len(), "each is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_its_share_and_one_that_stands_still_is_avoided() {
    let mut field = Field::new().await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&producer);
    load.more(100).await;
    let began = Instant::now();
    field.nodes.insert("n4", start(field.folder.path(), "n4", 0, &field.at).await);
    let of = |name: &str| {
        let figures = producer.figures();
        let node = figures.nodes.iter().find(|(id, _)| id.as_str() == name);
        node.map_or(0, |(_, node)| node.stored)
    };
    within("its share", async {
        while of("n4") < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    println!("the new node had its share {:?} after it was started", began.elapsed());
    let still = field.nodes.get("n1").expect("it");
    still.pause(true).expect("paused");
    let registry = field.registry.as_ref().expect("it");
    let suspected = |nodes: &[Value]| nodes.iter().any(|node| node["suspected"] == true);
    registry.until("it is suspected", suspected).await;
    load.more(200).await;
    let before = of("n1");
    load.more(200).await;
    assert_eq!(of("n1"), before, "it is avoided");
    field.nodes.get("n1").expect("it").pause(false).expect("goes on");
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    let nodes = Arc::new(field.stored("orders").await);
    check(&account, &nodes);
}

/// Takes and acks until it is told which messages it is to have seen, and has.
fn consume(
    mut consumer: ClusterConsumer,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
) -> (Arc<AtomicU64>, JoinHandle<BTreeMap<String, u32>>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let consuming = tokio::spawn(async move {
        let mut seen = BTreeMap::new();
        loop {
            let is_done = wanted
                .borrow_and_update()
                .as_ref()
                .is_some_and(|wanted| wanted.iter().all(|body| seen.contains_key(body)));
            if is_done {
                consumer.close().await.expect("a clean end");
                return seen;
            }
            tokio::select! {
                _ = wanted.changed() => {}
                delivery = consumer.next() => {
                    let delivery = delivery.expect("it goes on").expect("whole");
                    let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
                    *seen.entry(body).or_default() += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                    // Where its connection is lost it comes again.
                    let _void = delivery.ack();
                }
            }
        }
    });
    (count, consuming)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_everything_confirmed_is_consumed_when_nodes_and_the_registry_are_killed_and_return()
 {
    let mut field = Field::new().await;
    // No node has the topic yet.
    let consumer = field.cluster.consumer("orders", "billing").await.expect("a consumer");
    let (wants, wanted) = watch::channel(None);
    let (count, consuming) = consume(consumer, wanted);
    let more_consumed = async |what: &str, more: u64| {
        let from = count.load(Ordering::Relaxed);
        within(what, async {
            while count.load(Ordering::Relaxed) < from + more {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&producer);
    load.more(200).await;
    more_consumed("all go on", 200).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    killed.kill().await.expect("killed");
    load.more(200).await;
    more_consumed("the others go on", 200).await;
    let registry = field.registry.take().expect("it");
    let at = registry.port();
    registry.kill().await.expect("killed");
    load.more(200).await;
    more_consumed("it goes on without a registry", 200).await;
    field.nodes.insert("n2", start(field.folder.path(), "n2", port, &field.at).await);
    load.more(200).await;
    let registry = RegistryProcess::start(at, &["--heartbeat", "200ms"]).await.expect("again");
    let all = |nodes: &[Value]| nodes.len() == NAMES.len();
    registry.until("all are there again", all).await;
    field.registry = Some(registry);
    load.more(200).await;
    more_consumed("all go on again", 200).await;
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    let confirmed: BTreeSet<_> = account.confirmed.keys().cloned().collect();
    wants.send_replace(Some(confirmed.clone()));
    let seen = within("everything to be consumed", consuming).await.expect("no panic");
    let repeats: u32 = seen.values().map(|times| times - 1).sum();
    println!("{} confirmed, {repeats} deliveries of them repeated", confirmed.len());
    let never: Vec<_> = confirmed.iter().filter(|body| !seen.contains_key(*body)).collect();
    assert!(never.is_empty(), "{never:?}");
    // What was killed is n2 alone: only what it had in flight, or was sent again elsewhere, may repeat.
    let used: BTreeSet<_> = account.confirmed.values().collect();
    assert_eq!(used.len(), 3, "each node had its share");
}
