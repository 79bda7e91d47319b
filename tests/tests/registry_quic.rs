//! A registry that is reached over QUIC and nothing else does all that one over TCP does.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command as Build, Output, Stdio},
};

use ltq_client::{Client, Message};
use ltq_core::Address;
use ltq_tests::{BridgeProcess, NodeProcess, RegistryProcess, binary, within};
use ltq_transport::self_signed;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// What a registry proves itself with.
struct Certificate {
    fingerprint: String,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new(folder: &Path) -> Self {
        let made = self_signed(&["localhost", "127.0.0.1"]).expect("a certificate");
        let (certificate, key) = (folder.join("registry.pem"), folder.join("registry.key"));
        fs::write(&certificate, &made.certificate).expect("written");
        fs::write(&key, &made.key).expect("written");
        Self { fingerprint: made.fingerprint.to_string(), certificate, key }
    }

    fn file(&self) -> &str {
        self.certificate.to_str().expect("a path in words")
    }

    async fn registry(&self, port: u16) -> RegistryProcess {
        let key = self.key.to_str().expect("a path in words");
        let listen = Address::new("quic", format!("127.0.0.1:{port}"));
        let more = ["--tls-certificate", self.file(), "--tls-key", key];
        let command = Build::new(binary("ltq-node"));
        RegistryProcess::start_by(command, &listen, &more).await.expect("a registry")
    }
}

/// A node that is announced there, and told by this line of `[discovery]` whom to trust.
async fn node(folder: &Path, name: &str, registry: &str, trust: &str) -> NodeProcess {
    let config = folder.join(format!("{name}.toml"));
    fs::write(&config, format!("[discovery]\n{trust}\n")).expect("written");
    let config = config.to_str().expect("a path in words");
    let more = ["--node", name, "--registry", registry, "--config", config];
    NodeProcess::start(&folder.join(name), 0, &more).await.expect("a node")
}

fn ltq(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("ltq"));
    for name in ["LTQ_SERVER", "LTQ_TOKEN", "LTQ_REGISTRY"] {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn done(mut command: Command) -> Output {
    within("the command's end", command.output()).await.expect("it runs")
}

fn are(ids: &[&str]) -> impl Fn(&[Value]) -> bool {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    move |nodes| nodes.iter().filter_map(|node| node["id"].as_str()).eq(&ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_over_quic_is_announced_to_and_watched_by_fingerprint_and_by_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let proof = Certificate::new(folder);
    let registry = proof.registry(0).await;
    let (port, at) = (registry.port(), registry.address().to_string());
    assert!(at.starts_with("quic://"), "{at}");
    let by_fingerprint = format!("tls_fingerprint = \"{}\"", proof.fingerprint);
    let one = node(folder, "n1", &at, &by_fingerprint).await;
    let two = node(folder, "n2", &at, &format!("tls_ca = \"{}\"", proof.file())).await;
    registry.until("both are there", are(&["n1", "n2"])).await;
    // Whoever trusts another certificate is not announced, and knows why it is not.
    let other = format!("tls_fingerprint = \"sha256:{}\"", "0".repeat(64));
    let _stranger = node(folder, "n3", &at, &other).await;

    let trust = ["--tls-fingerprint", &proof.fingerprint];
    let following = [&["nodes", "--registry", &at, "--json", "--follow"], &trust[..]].concat();
    let mut following = ltq(&following).spawn().expect("ltq nodes");
    let mut shown = BufReader::new(following.stdout.take().expect("its output")).lines();
    let mut next = async || -> Vec<Value> {
        let line = within("a line", shown.next_line()).await.expect("output").expect("a line");
        serde_json::from_str(&line).expect("nodes")
    };
    assert!(are(&["n1", "n2"])(&next().await));
    let untrusted = done(ltq(&["nodes", "--registry", &at])).await;
    assert_eq!(untrusted.status.code(), Some(2), "{untrusted:?}");

    // Topics are told, and producers and consumers find the nodes that have them.
    let published =
        done(ltq(&["pub", "--registry", &at, "--tls-ca", proof.file(), "orders", "hello"])).await;
    assert!(published.status.success(), "{published:?}");
    within("a node is told to have it", async {
        while !next().await.iter().any(|node| node["topics"].get("orders").is_some()) {}
    })
    .await;
    let taken = ["sub", "--registry", &at, "orders", "c", "--count", "1"];
    let taken = done(ltq(&[&taken[..], &trust[..]].concat())).await;
    let body = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(taken.status.success() && body.contains("hello"), "{taken:?}");

    // A bridge takes from the nodes that are found there.
    let to = NodeProcess::start(&folder.join("to"), 0, &[]).await.expect("a node");
    let to_address = to.address().to_string();
    let arguments = ["--from-registry", &at, "--to", &to_address, "--topic", "*"];
    let variables =
        [("LTQ_BRIDGE_REFRESH", "100ms"), ("LTQ_BRIDGE_FROM_TLS_FINGERPRINT", &*proof.fingerprint)];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let has_both = |routes: &Value| routes["nodes"].as_object().is_some_and(|it| it.len() == 2);
    bridge.until("both nodes are known", has_both).await;
    let client = Client::connect(&one.address().to_string()).await.expect("connected");
    let producer = client.producer("bridged").await.expect("a producer");
    producer.send(Message::new("over")).await.expect("stored");
    let forwarded = |routes: &Value| routes["routes"][0]["counts"]["forwarded"] == 1;
    bridge.until("the message", forwarded).await;
    assert!(bridge.terminate().await.expect("an end").success());

    // One that was killed knows its nodes again, and one that stops is gone at once.
    registry.kill().await.expect("killed");
    let registry = proof.registry(port).await;
    registry.until("it knows both again", are(&["n1", "n2"])).await;
    assert!(two.terminate().await.expect("it ends").success());
    let left = registry.nodes().await.expect("an answer");
    assert!(are(&["n1"])(&left), "{left:?}");
    assert!(registry.terminate().await.expect("it ends").success());
}
