//! `ltq pub` and `ltq sub` that know a registry's address alone.
#![cfg(target_os = "linux")]

use std::{collections::BTreeMap, process::Stdio};

use ltq_tests::{NodeProcess, RegistryProcess, binary, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

fn ltq(arguments: &[&str]) -> Child {
    let mut command = Command::new(binary("ltq"));
    command.args(arguments).env_remove("LTQ_TOKEN").env_remove("LTQ_SERVER");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().expect("ltq")
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_lines_that_are_published_by_a_registrys_address_are_read_by_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let mut nodes = BTreeMap::new();
    for name in ["n1", "n2"] {
        let more = ["--node", name, "--registry", &at];
        let node = NodeProcess::start(&folder.path().join(name), 0, &more).await.expect("a node");
        nodes.insert(name, node);
    }
    registry.until("both are there", |nodes| nodes.len() == 2).await;
    let mut reader = ltq(&["sub", "orders", "billing", "--registry", &at, "--format", "body"]);
    let mut lines = BufReader::new(reader.stdout.take().expect("its output")).lines();
    let mut publish = ltq(&["pub", "orders", "--registry", &at, "--header", "a=b"]);
    let mut input = publish.stdin.take().expect("its input");
    let text: String = (0..500).map(|number| format!("{number}\n")).collect();
    input.write_all(text.as_bytes()).await.expect("written");
    // A node goes in the middle of it, and the other one has to do.
    let mut taken = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let line = within("a line", lines.next_line()).await.expect("output").expect("a line");
        taken.insert(line);
    }
    let stopped = nodes.remove("n1").expect("it");
    let port = stopped.port();
    assert!(stopped.terminate().await.expect("it ends").success());
    let text: String = (500..1_000).map(|number| format!("{number}\n")).collect();
    input.write_all(text.as_bytes()).await.expect("written");
    drop(input);
    let output = within("it ends", publish.wait_with_output()).await.expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1000 messages confirmed"), "{said}");
    // What it still had comes when it is back.
    let more = ["--node", "n1", "--registry", &at];
    let back = NodeProcess::start(&folder.path().join("n1"), port, &more).await.expect("a node");
    within("all are read", async {
        while taken.len() < 1_000 {
            taken.insert(lines.next_line().await.expect("output").expect("a line"));
        }
    })
    .await;
    // One message says where it is, and a key is always at one node.
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let more = ["--registry", &at, "--ordered", "--key", "k"];
        let one = ltq(&[&["--json", "pub", "keyed", "body"], &more[..]].concat());
        let output = within("it ends", one.wait_with_output()).await.expect("its end");
        let receipt: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a receipt");
        places.insert(receipt["node"].as_str().expect("a node").to_owned());
    }
    assert_eq!(places.len(), 1, "{places:?}");
    // Each node would remember the name for itself.
    let named = ltq(&["pub", "orders", "x", "--registry", &at, "--name", "me"]);
    let output = within("it ends", named.wait_with_output()).await.expect("its end");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    drop((back, nodes));
}
