//! Bridges and what operators meet: sides that cannot be reached, refuse, move, are drained and killed, or hold
//! more than the bridge may have.
#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, fmt::Write as _, path::Path, process::Command};

use ltq_client::{Client, ClientTrust, Message, StartAt};
use ltq_core::{Address, DrainOptions};
use ltq_tests::{
    BridgeProcess, NodeProcess, RegistryProcess, binary,
    bridged::{check, node, stored},
    within,
};
use ltq_transport::{SelfSigned, self_signed};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const QUICK: (&str, &str) = ("LTQ_BRIDGE_REFRESH", "100ms");

fn forwarded(count: u64) -> impl Fn(&Value) -> bool {
    move |routes| routes["routes"][0]["counts"]["forwarded"].as_u64() == Some(count)
}

async fn client(node: &NodeProcess) -> Client {
    Client::connect(&node.address().to_string()).await.expect("connected")
}

async fn publish(client: &Client, topic: &str, bodies: impl Iterator<Item = String>) {
    let producer = client.producer(topic).await.expect("a producer");
    producer.send_batch(bodies.map(Message::new)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_away_is_said_while_nothing_is_published() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (node(folder.path(), "a", 0).await, node(folder.path(), "b", 0).await);
    let (port, to) = (b.port(), b.address().to_string());
    b.kill().await.expect("killed");
    let from = a.address().to_string();
    let arguments = ["--from", &from, "--to", &to, "--topic", "*"];
    let bridge = BridgeProcess::start(&arguments, &[QUICK]).await.expect("a bridge");
    let not_there = |status: u16, body: &str| {
        status == 503 && body.contains("waiting") && body.contains("of the destination")
    };
    bridge
        .until_answer("/readyz", |status, body| not_there(status, body) && body.contains(&to))
        .await;
    let figure = |count: u32| format!("\nltq_bridge_destination_nodes_connected {count}\n");
    let (_, metrics) = bridge.get("/metrics", None).await.expect("an answer");
    assert!(metrics.contains(&figure(0)) && metrics.contains("\nltq_bridge_destination_nodes 1\n"));
    let b = node(folder.path(), "b", port).await;
    bridge.until_answer("/readyz", |status, _| status == 200).await;
    let (_, metrics) = bridge.get("/metrics", None).await.expect("an answer");
    assert!(metrics.contains(&figure(1)), "{metrics}");
    b.kill().await.expect("killed");
    bridge.until_answer("/readyz", not_there).await;
    let routes = bridge.routes().await.expect("its routes");
    assert!(routes["to_nodes"][&to].is_string() && routes["nodes"][&from].is_null(), "{routes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_with_more_topics_than_it_may_have_is_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (node(folder.path(), "a", 0).await, node(folder.path(), "b", 0).await);
    let (from, to) = (a.address().to_string(), b.address().to_string());
    let arguments = ["--from", &from, "--to", &to, "--topic", "*"];
    let variables = [QUICK, ("LTQ_BRIDGE_LIMITS_TOPICS_MAX", "1")];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let source = client(&a).await;
    publish(&source, "first", ["x".to_owned()].into_iter()).await;
    bridge.until("the first", forwarded(1)).await;
    bridge.until_answer("/readyz", |status, _| status == 200).await;
    publish(&source, "second", ["y".to_owned()].into_iter()).await;
    let said = |status: u16, body: &str| {
        status == 503 && body.contains("left_out") && body.contains("second is one")
    };
    bridge.until_answer("/readyz", said).await;
    let (_, metrics) = bridge.get("/metrics", None).await.expect("an answer");
    assert!(metrics.contains("\nltq_bridge_topics_left_out 1\n"), "{metrics}");
    assert_eq!(bridge.routes().await.expect("its routes")["left_out"], 1);
    source.admin().delete_topic("first").await.expect("deleted");
    bridge.until("the second", forwarded(2)).await;
    bridge.until_answer("/readyz", |status, _| status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_one_origin_however_its_node_was_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let more = ["--node", "east-1", "--registry", &at];
    let a = NodeProcess::start(&folder.path().join("a"), 0, &more).await.expect("a node");
    let b = node(folder.path(), "b", 0).await;
    registry.until("it is there", |nodes| nodes.len() == 1).await;
    let (source, to) = (client(&a).await, b.address().to_string());
    let admin = source.admin();
    admin.create_channel("orders", "kept", StartAt::Earliest).await.expect("a channel");
    publish(&source, "orders", (0..20).map(|number| number.to_string())).await;
    let from = a.address().to_string();
    for (flag, from) in [("--from", &from), ("--from-registry", &at)] {
        let arguments = [flag, from, "--from-site", "east", "--to", &to, "--topic", "orders"];
        let bridge = BridgeProcess::start(&arguments, &[QUICK]).await.expect("a bridge");
        bridge.until("everything", forwarded(20)).await;
        assert!(bridge.terminate().await.expect("an end").success());
        admin.delete_channel("orders", "bridge.bridge").await.expect("deleted");
    }
    let stored = stored(&b, "orders").await;
    assert!(stored.iter().all(|(_, id)| id.starts_with("east/east-1/orders/")), "{stored:?}");
    let ids: BTreeSet<_> = stored.iter().map(|(_, id)| id).collect();
    assert_eq!((stored.len(), ids.len()), (40, 20), "repeats are told");
}

/// The configuration of a node that lets `token` publish to these topics.
fn permitting(folder: &Path, publish: &str) {
    let hash = Sha256::digest("key").iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let text = format!(
        "[[tokens]]\nname = \"bridge\"\nsha256 = \"{hash}\"\npublish = [\"{publish}\"]\n\
         consume = [\"*\"]\nadminister = [\"*\"]\n"
    );
    std::fs::write(folder.join("b.toml"), text).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_destination_does_not_permit_is_waited_for_and_never_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    permitting(folder.path(), "other*");
    let file = folder.path().join("b.toml").display().to_string();
    let a = node(folder.path(), "a", 0).await;
    let b = NodeProcess::start(&folder.path().join("b"), 0, &["--config", &file]).await;
    let b = b.expect("a node");
    let source = client(&a).await;
    publish(&source, "orders", (0..50).map(|number| number.to_string())).await;
    publish(&source, "other", ["x".to_owned()].into_iter()).await;
    let (from, to) = (a.address().to_string(), b.address().to_string());
    let arguments = ["--from", &from, "--to", &to, "--topic", "*"];
    let variables =
        [QUICK, ("LTQ_BRIDGE_TO_TOKEN", "key"), ("LTQ_BRIDGE_ROUTE_REFUSED_SKIP", "true")];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    bridge.until("the topic that it may", forwarded(1)).await;
    let said = |status: u16, body: &str| {
        status == 503
            && body.contains("waiting")
            && body.contains("orders")
            && body.contains("forbidden")
    };
    bridge.until_answer("/readyz", said).await;
    permitting(folder.path(), "*");
    b.hang_up().expect("told");
    bridge.until("everything", forwarded(51)).await;
    bridge.until_answer("/readyz", |status, _| status == 200).await;
    let counts = bridge.routes().await.expect("its routes")["routes"][0]["counts"].clone();
    assert_eq!(counts["skipped_refused"], 0, "{counts}");
}

/// A site whose registry and nodes are reached over TLS and by a token.
struct Closed<'a> {
    folder: &'a Path,
    made: SelfSigned,
    files: [String; 2],
    registry: RegistryProcess,
}

impl<'a> Closed<'a> {
    async fn new(folder: &'a Path) -> Self {
        let made = self_signed(&["127.0.0.1"]).expect("a certificate");
        let files = [("c.pem", &made.certificate), ("k.pem", &made.key)].map(|(name, text)| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        });
        let mut command = Command::new(binary("ltq-node"));
        command.env("LTQ_REGISTRY_METRICS_PUBLIC", "true");
        let [certificate, key] = &files;
        let tls = ["--tls-certificate", &**certificate, "--tls-key", key];
        let more = [&tls[..], &["--token", "key", "--heartbeat", "200ms"]].concat();
        let listen = Address::new("tls", "127.0.0.1:0");
        let registry = RegistryProcess::start_by(command, &listen, &more).await;
        Self { folder, made, files, registry: registry.expect("a registry") }
    }

    /// The node of this name, on a port that it did not have before, with what it has.
    async fn node(&self, name: &str) -> NodeProcess {
        let mut command = Command::new(binary("ltq-node"));
        command.env("LTQ_DISCOVERY_TLS_FINGERPRINT", self.made.fingerprint.to_string());
        let [certificate, key] = &self.files;
        let at = self.registry.address().to_string();
        let tls = ["--tls-certificate", &**certificate, "--tls-key", key];
        let more = [&tls[..], &["--token", "key", "--node", name, "--registry", &at]].concat();
        let listen = Address::new("tls", "127.0.0.1:0");
        let node = NodeProcess::start_by(command, &self.folder.join(name), &listen, &more).await;
        node.expect("a node")
    }

    async fn client(&self, node: &NodeProcess) -> Client {
        let trust = ClientTrust::fingerprint(self.made.fingerprint).expect("trust");
        let builder = Client::builder().server(&node.address().to_string()).token("key");
        builder.trust(trust).connect().await.expect("connected")
    }

    async fn publish(&self, node: &NodeProcess, name: &str, round: u32) -> Vec<String> {
        let bodies: Vec<_> = (0..500).map(|number| format!("{name}-{round}-{number}")).collect();
        publish(&self.client(node).await, "orders", bodies.iter().cloned()).await;
        bodies
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_drained_and_come_back_elsewhere_lose_and_repeat_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Closed::new(folder.path()).await;
    let b = node(folder.path(), "b", 0).await;
    let (mut killed, mut drained) = (site.node("n1").await, site.node("n2").await);
    let (from, to) = (site.registry.address().to_string(), b.address().to_string());
    let print = site.made.fingerprint.to_string();
    let arguments = [
        "--from-registry",
        &from,
        "--from-tls-fingerprint",
        &print,
        "--to",
        &to,
        "--topic",
        "orders",
    ];
    let variables = [QUICK, ("LTQ_BRIDGE_FROM_TOKEN", "key")];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let mut confirmed = BTreeSet::new();
    for round in 0..3 {
        confirmed.extend(site.publish(&killed, "n1", round).await);
        confirmed.extend(site.publish(&drained, "n2", round).await);
        // The one is killed amid it, the other ends when the bridge has taken what it has.
        killed.kill().await.expect("killed");
        let admin = site.client(&drained).await.admin();
        admin.drain(DrainOptions::default()).await.expect("it drains");
        assert!(within("its end", drained.ended()).await.expect("its end").success());
        (killed, drained) = (site.node("n1").await, site.node("n2").await);
    }
    bridge.until("everything", forwarded(confirmed.len() as u64)).await;
    let everybody = |routes: &Value| {
        routes["nodes"].as_object().is_some_and(|nodes| {
            nodes.keys().eq(["n1", "n2"]) && nodes.values().all(Value::is_null)
        })
    };
    bridge.until("both nodes", everybody).await;
    bridge.until_answer("/readyz", |status, _| status == 200).await;
    assert!(bridge.terminate().await.expect("an end").success());
    assert_eq!(check(&confirmed, &stored(&b, "orders").await), 0);
}
