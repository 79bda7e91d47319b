//! Nodes that are found by a DNS name alone, as real processes to which a file of hosts is shown that is the
//! test's own. Without the right to mount the tests say so and pass, unless the variable `REQUIRE_MOUNTS` is set.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command as Build, Stdio},
};

use ltq_client::{Client, Message, StartAt};
use ltq_core::Address;
use ltq_tests::{BridgeProcess, NodeProcess, binary, require, skipped, within};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

/// What the system answers for names, to the programs that are started by it.
struct Names(PathBuf);

impl Names {
    /// Nothing where that cannot be, which is said, unless the variable `REQUIRE_MOUNTS` is set.
    fn new(folder: &Path) -> Option<Self> {
        let names = Self(folder.join("hosts"));
        names.write(&[]);
        let tried = names.command(Path::new("true")).output();
        if tried.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(names);
        }
        skipped(require::MOUNTS, "a file of hosts of its own", &format_args!("{tried:?}"));
        None
    }

    /// These addresses have the name `nodes.test`.
    fn write(&self, addresses: &[&str]) {
        let lines = addresses.iter().map(|address| format!("{address} nodes.test\n"));
        std::fs::write(&self.0, lines.collect::<String>()).expect("written");
    }

    /// A program that is shown them, and lacks its arguments.
    fn command(&self, program: &Path) -> Build {
        let mut command = Build::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"");
        command.arg(&self.0).arg(program);
        command
    }

    fn ltq(&self, arguments: &[&str]) -> Child {
        let mut command = Command::from(self.command(&binary("ltq")));
        command.args(arguments).env_remove("LTQ_TOKEN").env_remove("LTQ_SERVER");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn().expect("ltq")
    }

    async fn output(&self, arguments: &[&str]) -> String {
        let child = self.ltq(arguments);
        let output = within("it ends", child.wait_with_output()).await.expect("its end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A node at an address of this machine; port 0 is any.
async fn node(folder: &Path, ip: &str, port: u16) -> NodeProcess {
    let listen = Address::new("tcp", format!("{ip}:{port}"));
    let command = Build::new(binary("ltq-node"));
    NodeProcess::start_by(command, &folder.join(ip), &listen, &[]).await.expect("a node")
}

async fn publish(node: &NodeProcess, topic: &str, bodies: std::ops::Range<u32>) {
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let producer = client.producer(topic).await.expect("a producer");
    let messages = bodies.map(|number| Message::new(number.to_string()));
    producer.send_batch(messages).await.expect("stored");
}

async fn stored(node: &NodeProcess, topic: &str) -> u64 {
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    client.admin().show_topic(topic).await.map_or(0, |topic| topic.end.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_behind_one_name_is_published_to_read_and_followed_as_the_name_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(names) = Names::new(folder.path()) else { return };
    let first = node(folder.path(), "127.0.0.1", 0).await;
    let port = first.port();
    let second = node(folder.path(), "127.0.0.2", port).await;
    names.write(&["127.0.0.1", "127.0.0.2"]);
    let at = format!("dns://nodes.test:{port}");
    let shown = names.output(&["nodes", "--registry", &at, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let of = |key: &str| -> Vec<_> {
        shown.as_array().expect("nodes").iter().map(|node| node[key].clone()).collect()
    };
    let ids = [1, 2].map(|nth| Value::from(format!("tcp://127.0.0.{nth}:{port}")));
    assert_eq!(of("id"), ids);
    // What the name does not tell.
    assert_eq!((of("topics"), of("load")), (vec![Value::Null; 2], vec![Value::from(0); 2]));
    let mut reader = names.ltq(&["sub", "orders", "billing", "--registry", &at]);
    let mut lines = BufReader::new(reader.stdout.take().expect("its output")).lines();
    // A program that has published before it knows the second node has kept to the first.
    let mut published = 0_u32;
    let both_have_some = async {
        while stored(&first, "orders").await == 0 || stored(&second, "orders").await == 0 {
            let mut publisher = names.ltq(&["pub", "orders", "--registry", &at]);
            let mut input = publisher.stdin.take().expect("its input");
            let text: String =
                (published..published + 20_000).map(|number| format!("{number}\n")).collect();
            input.write_all(text.as_bytes()).await.expect("written");
            drop(input);
            let output = publisher.wait_with_output().await.expect("its end");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("20000 messages confirmed"), "{said}");
            published += 20_000;
        }
    };
    within("both have some", both_have_some).await;
    let mut taken = BTreeSet::new();
    within("all are read", async {
        while taken.len() < published as usize {
            taken.insert(lines.next_line().await.expect("output").expect("a line"));
        }
    })
    .await;
    // Another one gets the name, and one loses it.
    let third = node(folder.path(), "127.0.0.3", port).await;
    names.write(&["127.0.0.2", "127.0.0.3"]);
    publish(&third, "orders", published..published + 10).await;
    within("those of the new one are read", async {
        while taken.len() < published as usize + 10 {
            taken.insert(lines.next_line().await.expect("output").expect("a line"));
        }
    })
    .await;
    let shown = names.output(&["nodes", "--registry", &at]).await;
    assert!(!shown.contains("127.0.0.1:") && shown.contains("127.0.0.3:"), "{shown}");
    // A name that stands for nothing is said.
    let child = names.ltq(&["nodes", "--registry", "dns://nowhere.test:1"]);
    let output = within("it ends", child.wait_with_output()).await.expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("nowhere.test"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_takes_from_and_brings_to_nodes_behind_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(names) = Names::new(folder.path()) else { return };
    let first = node(folder.path(), "127.0.0.1", 0).await;
    let port = first.port();
    let second = node(folder.path(), "127.0.0.2", port).await;
    let to = node(folder.path(), "127.0.0.3", 0).await;
    let from = format!("dns://nodes.test:{port}");
    let bring_to = format!("dns://127.0.0.3:{}", to.port());
    let arguments = ["--from-registry", &from, "--to-registry", &bring_to, "--topic", "*"];
    let command = names.command(&binary("ltq-node"));
    // It may be there before the name stands for anything.
    let variables = [("LTQ_BRIDGE_REFRESH", "100ms")];
    let bridge = BridgeProcess::start_by(command, &arguments, &variables).await.expect("a bridge");
    names.write(&["127.0.0.1", "127.0.0.2"]);
    for (node, bodies) in [(&first, 0..10), (&second, 10..30)] {
        let client = Client::connect(&node.address().to_string()).await.expect("connected");
        let made = client.admin().create_channel("orders", "kept", StartAt::Earliest).await;
        made.expect("made");
        publish(node, "orders", bodies).await;
    }
    let forwarded = |routes: &Value| routes["routes"][0]["counts"]["forwarded"] == 30;
    bridge.until("all are forwarded", forwarded).await;
    assert_eq!(stored(&to, "orders").await, 30);
    assert!(bridge.terminate().await.expect("an end").success());
}
