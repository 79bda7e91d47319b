//! An order by key, while nodes are drained whose backlogs go to the others (`--to`), as real processes: who publishes
//! waits at each move until the node that the order leaves has nothing left, and who consumes sees each key in its order.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
};

use futures::future::join_all;
use ltq_client::{
    Availability, Client, Cluster, ClusterConsumer, ClusterProducer, ClusterPublishError, Message,
    StartAt,
};
use ltq_tests::{NodeProcess, RegistryProcess, binary, within};
use tokio::{
    process::Command,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const KEYS: u32 = 30;

/// A registry, nodes, and a cluster that knows the registry alone.
struct Field {
    folder: tempfile::TempDir,
    registry: RegistryProcess,
    nodes: BTreeMap<&'static str, NodeProcess>,
    cluster: Cluster,
}

impl Field {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
        let at = registry.address().to_string();
        let cluster = Cluster::builder().registry(&at).connect().await.expect("a cluster");
        let mut field = Self { folder, registry, nodes: BTreeMap::new(), cluster };
        for name in NAMES {
            field.start(name, 0).await;
            let admin = client(&field.nodes[name]).await.admin();
            admin.create_channel("orders", "billing", StartAt::Earliest).await.expect("made");
        }
        field
    }

    async fn start(&mut self, name: &'static str, port: u16) {
        let at = self.registry.address().to_string();
        let folder: &Path = &self.folder.path().join(name);
        let node = NodeProcess::start(folder, port, &["--node", name, "--registry", &at]).await;
        self.nodes.insert(name, node.expect("a node"));
        let count = self.nodes.len();
        let all = |nodes: &[serde_json::Value]| {
            nodes.len() == count && nodes.iter().all(|node| node["state"] == "ready")
        };
        self.registry.until("all are ready", all).await;
    }

    /// A consumer that has little in hand, so that much waits.
    async fn consumer(&self) -> ClusterConsumer {
        let consumer = self.cluster.consumer_builder("orders", "billing").credit(12, 1 << 20);
        consumer.open().await.expect("a consumer")
    }

    async fn producer(&self) -> ClusterProducer {
        let producer = self.cluster.producer_builder("orders").ordered(Availability::Fail);
        producer.open().await.expect("a producer")
    }

    /// Drains a node, whose backlog goes to the others; returns its port once it has ended.
    async fn drain(&mut self, name: &str) -> u16 {
        let node = self.nodes.remove(name).expect("it");
        let mut command = Command::new(binary("ltq-node"));
        command.arg("drain").args(["--server", &node.address().to_string()]);
        for other in self.nodes.values() {
            command.args(["--to", &other.address().to_string()]);
        }
        command.env_remove("LTQ_SERVER").env_remove("LTQ_TOKEN").stdin(Stdio::null());
        let output = within("the command's end", command.kill_on_drop(true).output()).await;
        let Output { status, stdout, stderr } = output.expect("it runs");
        let said =
            String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{status}: {said}");
        let port = node.port();
        assert!(node.ended().await.expect("it ends").success());
        port
    }

    /// How many messages nodes have stored, all together.
    async fn stored(&self) -> u64 {
        let of = async |node| client(node).await.admin().show_topic("orders").await.expect("it");
        join_all(self.nodes.values().map(of)).await.iter().map(|topic| topic.end.0).sum()
    }
}

async fn client(node: &NodeProcess) -> Client {
    Client::connect(&node.address().to_string()).await.expect("connected")
}

/// What became of publishing.
#[derive(Clone, Copy, Default)]
struct Published {
    confirmed: u64,
    moves: u64,
    /// Of those that were confirmed, not by n1.
    elsewhere: u64,
}

/// Publishes a number with a key. When the order moves, it waits until the node that had it has nothing left.
async fn publish(
    cluster: &Cluster,
    producer: &ClusterProducer,
    (key, number): (u32, u64),
    published: &mut Published,
) {
    loop {
        let message = Message::new(format!("{key}/{number}")).with_key(key.to_string());
        match producer.send(message).await {
            Ok(receipt) => {
                published.confirmed += 1;
                published.elsewhere += u64::from(receipt.node.as_str() != "n1");
                return;
            }
            Err(ClusterPublishError::OrderMoved { from, .. }) => {
                published.moves += 1;
                let old = cluster.admin(&from).expect("the old node");
                let waited = within("it to have nothing left", old.until_consumed("orders"));
                waited.await.expect("it is there until all of it is elsewhere");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The number of each key that is to come next.
#[derive(Default)]
struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// Takes a message, which has to be the next one of its key.
    async fn take(&mut self, consumer: &mut ClusterConsumer) {
        let delivery = within("a message", consumer.next()).await.expect("one").expect("whole");
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        let (key, number) = body.split_once('/').expect("a key and a number");
        let next = self.0.entry(key.to_owned()).or_default();
        let from = delivery.node();
        assert_eq!(number, next.to_string(), "promise 5: {body} of {from} is out of order");
        *next += 1;
        delivery.ack_confirmed().await.expect("acked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_an_order_by_key_holds_over_a_backlog_that_is_handed_over() {
    let mut field = Field::new().await;
    let producer = field.producer().await;
    let cluster = field.cluster.clone();
    let publish_all = async |numbers: std::ops::Range<u64>| {
        let of_key = async |key| {
            let mut published = Published::default();
            for number in numbers.clone() {
                publish(&cluster, &producer, (key, number), &mut published).await;
            }
            published
        };
        join_all((0..KEYS).map(of_key)).await
    };
    let sum = |all: &[Published], of: fn(&Published) -> u64| all.iter().map(of).sum::<u64>();
    let before = publish_all(0..20).await;
    assert_eq!(sum(&before, |it| it.moves), 0);
    // A consumer that is there has some of it in hand, and goes on at every node.
    let mut consumer = field.consumer().await;
    let mut seen = Seen::default();
    for _ in 0..50 {
        seen.take(&mut consumer).await;
    }
    let taking = async {
        for _ in 50..KEYS * 40 {
            seen.take(&mut consumer).await;
        }
    };
    let publishing = async {
        let draining =
            |nodes: &[serde_json::Value]| nodes.iter().any(|it| it["state"] == "draining");
        // The registry is asked by a connection of its own.
        field.registry.until("it drains", draining).await;
        publish_all(20..40).await
    };
    let node = field.nodes.remove("n1").expect("it");
    let mut command = Command::new(binary("ltq-node"));
    command.arg("drain").args(["--server", &node.address().to_string()]);
    for other in field.nodes.values() {
        command.args(["--to", &other.address().to_string()]);
    }
    let mut command = command.stdin(Stdio::null()).kill_on_drop(true).spawn().expect("it runs");
    let (after, ()) = tokio::join!(publishing, taking);
    assert!(within("its end", command.wait()).await.expect("it ends").success());
    assert!(node.ended().await.expect("it ends").success());
    assert!(sum(&after, |it| it.moves) > 0, "no key was the drained node's");
    assert!(seen.0.values().all(|next| *next == 40), "{:?}", seen.0);
    let elsewhere = sum(&before, |it| it.elsewhere) + sum(&after, |it| it.elsewhere);
    let handed_over = field.stored().await - elsewhere;
    assert!(handed_over > 50, "{handed_over} were handed over: this shows little");
}

/// Publishes with one key until told to stop, as long as there is room.
fn publishing(
    field: &Field,
    producer: &ClusterProducer,
    key: u32,
    (stop, room): (watch::Receiver<bool>, Arc<Semaphore>),
) -> JoinHandle<Published> {
    let (cluster, producer) = (field.cluster.clone(), producer.clone());
    tokio::spawn(async move {
        let mut published = Published::default();
        loop {
            room.acquire().await.expect("open").forget();
            if *stop.borrow() {
                return published;
            }
            let number = published.confirmed;
            publish(&cluster, &producer, (key, number), &mut published).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_1_4_and_5_hold_while_nodes_are_drained_in_turn_and_their_backlogs_go_to_the_others()
 {
    let mut field = Field::new().await;
    let producer = field.producer().await;
    let (stop, stopped) = watch::channel(false);
    // As much as may wait to be consumed.
    let room = Arc::new(Semaphore::new(600));
    let until = (stopped, room.clone());
    let publishing: Vec<_> =
        (0..KEYS).map(|key| publishing(&field, &producer, key, until.clone())).collect();
    let spare = room.clone();
    let mut consumer = field.consumer().await;
    let (end, mut wanted) = watch::channel(None::<u64>);
    let (progress, mut progressed) = watch::channel(0_u64);
    let consuming = tokio::spawn(async move {
        let mut seen = Seen::default();
        loop {
            let count = seen.0.values().sum::<u64>();
            progress.send_replace(count);
            if wanted.borrow_and_update().is_some_and(|wanted| count >= wanted) {
                return seen;
            }
            tokio::select! {
                () = seen.take(&mut consumer) => room.add_permits(1),
                _ = wanted.changed() => {}
            }
        }
    });
    let mut more = async |count: u64| {
        let goal = *progressed.borrow() + count;
        let waiting = progressed.wait_for(|count| *count >= goal);
        within("more to come", waiting).await.expect("a consumer");
    };
    more(300).await;
    for name in NAMES {
        let port = field.drain(name).await;
        more(100).await;
        field.start(name, port).await;
        more(100).await;
    }
    stop.send_replace(true);
    // Nobody is to wait for room to be told.
    spare.add_permits(KEYS as usize);
    let mut published = Vec::new();
    for one in publishing {
        published.push(within("the last publish", one).await.expect("no panic"));
    }
    let confirmed = published.iter().map(|one| one.confirmed).sum::<u64>();
    let moves = published.iter().map(|one| one.moves).sum::<u64>();
    end.send_replace(Some(confirmed));
    let seen = within("everything", consuming).await.expect("no panic");
    assert_eq!(seen.0.values().sum::<u64>(), confirmed, "promise 1: each once");
    let handed_over = field.stored().await - confirmed;
    println!("{confirmed} confirmed, {moves} moves of keys, {handed_over} handed over");
    assert!(moves > 0, "no key ever moved: this shows nothing");
}
