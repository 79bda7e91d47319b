//! A real node is announced to a real etcd, and `ltq` finds it there.
#![cfg(target_os = "linux")]

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use ltq_tests::{BridgeProcess, EtcdProcess, NodeProcess, binary, within};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command, time::sleep};

/// `ltq`, at this place.
struct Ltq<'a> {
    place: &'a str,
    more: &'a [&'a str],
}

impl Ltq<'_> {
    fn command(&self, command: &str) -> Command {
        let mut ltq = Command::new(binary("ltq"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LTQ_") {
                ltq.env_remove(name);
            }
        }
        ltq.arg(command).args(["--registry", self.place]).args(self.more).kill_on_drop(true);
        ltq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ltq
    }

    async fn run(&self, command: &str, args: &[&str], input: &str) -> Output {
        let mut child = self.command(command).args(args).spawn().expect("ltq");
        let mut stdin = child.stdin.take().expect("its input");
        let input = input.to_owned();
        let writing = async move { stdin.write_all(input.as_bytes()).await };
        let (written, output) =
            within(command, async { tokio::join!(writing, child.wait_with_output()) }).await;
        drop(written);
        output.expect("its output")
    }

    async fn nodes(&self) -> Vec<Value> {
        let output = self.run("nodes", &["--json"], "").await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("nodes")
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let looking = async {
            loop {
                let nodes = self.nodes().await;
                if wanted(&nodes) {
                    return nodes;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        within(what, looking).await
    }
}

async fn node(folder: &Path, name: &str, more: &[&str]) -> NodeProcess {
    let more: Vec<_> = ["--node", name].iter().chain(more).copied().collect();
    NodeProcess::start(&folder.join(name), 0, &more).await.expect("a node")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_announced_to_an_etcd_and_published_to_and_consumed_from_by_its_address() {
    let Some(etcd) = EtcdProcess::start().await.expect("an etcd") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("etcd://{}/shop", etcd.client());
    let one = node(folder.path(), "n1", &["--registry", &place]).await;
    let two = node(folder.path(), "n2", &["--registry", &place]).await;
    let ltq = Ltq { place: &place, more: &[] };
    let nodes = ltq.until("both are there", |nodes| nodes.len() == 2).await;
    assert_eq!(nodes[0]["id"], "n1");
    assert_eq!(nodes[0]["addresses"], json!([one.address().to_string()]));
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let output = ltq.run("pub", &["orders"], &lines).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = ltq.run("sub", &["orders", "billing", "--count", "100"], "").await;
    let mut numbers: Vec<u32> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    // Another prefix is another place.
    let other = format!("etcd://{}", etcd.client());
    assert_eq!(Ltq { place: &other, more: &[] }.nodes().await, Vec::<Value>::new());
    // One that stops in order is gone when it has ended.
    assert!(two.terminate().await.expect("it ends").success());
    let nodes = ltq.nodes().await;
    assert!(nodes.len() == 1 && nodes[0]["id"] == "n1", "{nodes:?}");
    assert!(one.terminate().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_asks_who_is_there_is_told() {
    let Some(etcd) = EtcdProcess::start().await.expect("an etcd") else { return };
    for (path, asked) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/enable", json!({})),
    ] {
        let answer = etcd.ask(path, &asked).await.expect("an answer");
        assert!(answer.get("header").is_some(), "{path}: {answer}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("etcd://{}", etcd.client());
    let file = folder.path().join("ltq.toml");
    let settings = format!(
        "registry = [{place:?}]\n[discovery]\netcd_user = \"root\"\netcd_password = \"secret\"\n"
    );
    std::fs::write(&file, settings).expect("a file");
    let _node = node(folder.path(), "n1", &["--config", file.to_str().expect("a path")]).await;
    let known = Ltq { place: &place, more: &["--etcd-user", "root", "--etcd-password", "secret"] };
    known.until("it is there", |nodes| nodes.len() == 1).await;
    let wrong = Ltq { place: &place, more: &["--etcd-user", "root", "--etcd-password", "guess"] };
    for stranger in [wrong, Ltq { place: &place, more: &[] }] {
        let output = stranger.run("nodes", &[], "").await;
        let why = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}");
        assert!(why.contains("refused"), "{why}");
    }
}

/// A user that is asked for, two sites below two prefixes, and a node that comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_finds_the_nodes_of_both_sides_by_an_etcd() {
    let Some(etcd) = EtcdProcess::start().await.expect("an etcd") else { return };
    for (path, asked) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/enable", json!({})),
    ] {
        let answer = etcd.ask(path, &asked).await.expect("an answer");
        assert!(answer.get("header").is_some(), "{path}: {answer}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = |site: &str| format!("etcd://{}/{site}", etcd.client());
    let known = ["--etcd-user", "root", "--etcd-password", "secret"];
    let (east, west) = (place("east"), place("west"));
    let start = async |name: &str, place: &str| {
        let file = folder.path().join(format!("{name}.toml"));
        let who = "etcd_user = \"root\"\netcd_password = \"secret\"";
        std::fs::write(&file, format!("registry = [{place:?}]\n[discovery]\n{who}\n"))
            .expect("a file");
        node(folder.path(), name, &["--config", file.to_str().expect("a path")]).await
    };
    let _first = start("e1", &east).await;
    let flags = ["--from-registry", &east, "--to-registry", &west, "--topic", "orders"];
    let variables = ["FROM", "TO"].map(|side| {
        let name = |key: &str| format!("LTQ_BRIDGE_{side}_ETCD_{key}");
        [(name("USER"), "root"), (name("PASSWORD"), "secret")]
    });
    let variables: Vec<_> =
        variables.iter().flatten().map(|(name, value)| (&**name, *value)).collect();
    let bridge = BridgeProcess::start(&flags, &variables).await.expect("a bridge");
    let _other = start("w1", &west).await;
    let _late = start("e2", &east).await;
    bridge.until("three nodes", |it| it["nodes"].as_object().is_some_and(|of| of.len() == 2)).await;
    let ltq = |place| Ltq { place, more: &known };
    ltq(&east).until("both are there", |nodes| nodes.len() == 2).await;
    let lines: String = (0..200).map(|n| format!("{n}\n")).collect();
    let output = ltq(&east).run("pub", &["orders"], &lines).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored = |it: &Value| it["routes"][0]["counts"]["forwarded"] == 200;
    bridge.until("all are forwarded", stored).await;
    let output = ltq(&west).run("sub", &["orders", "billing", "--count", "200"], "").await;
    let mut numbers: Vec<u32> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(bridge.terminate().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_none_is_bad_usage() {
    for (place, why) in [
        ("etcd://e:2379,tcp://r:7450", "beside each other"),
        ("etcd://e:2379/a,etcd://f:2379/b", "different places"),
        ("etcd:///a", "is no etcd"),
        ("etcds://e:2379", "whom to trust"),
    ] {
        let output = Ltq { place, more: &[] }.run("nodes", &[], "").await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
