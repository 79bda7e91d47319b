//! Who comes to a node that is full for now, and who asks a node for the same list again and again.

use std::{
    process::{Command as Build, Output, Stdio},
    time::Instant,
};

use ltq_client::Client;
use ltq_core::{Address, AdminRequest, AdminResponse, RefusalCode, protocol::Frame};
use ltq_tests::{NodeProcess, RawPeer, binary, within};
use tokio::{process::Command, time::Duration};

/// A node with one limit of its own.
async fn node(limit: &str, value: &str) -> (NodeProcess, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Build::new(binary("ltq-node"));
    command.env(format!("LTQ_LIMITS_{limit}"), value);
    let here = Address::new("tcp", "127.0.0.1:0");
    let http = ["--http", "127.0.0.1:0"];
    let node = NodeProcess::start_by(command, &folder.path().join("data"), &here, &http).await;
    (node.expect("a node"), folder)
}

/// Of the node's own figures.
async fn figure(node: &NodeProcess, name: &str) -> u64 {
    let text = node.until_answer("/metrics", |status, _| status == 200).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

async fn until_refused(node: &NodeProcess, count: u64) {
    within("refused connections", async {
        while figure(node, REFUSED).await < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn ltq(node: &NodeProcess, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("ltq"));
    command.args(["--server", &node.address().to_string()]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    within("ltq", output).await.expect("its output")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_15_who_comes_to_a_node_that_is_full_for_now_comes_in() {
    let (node, _folder) = node("CONNECTIONS_MAX", "1").await;
    let server = node.address().to_string();
    let there = Client::connect(&server).await.expect("the only place");
    let program = async {
        let output = ltq(&node, &["topic", "list"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // It comes again by itself, and nobody says when there is a place.
    let leaving = async {
        until_refused(&node, 3).await;
        there.close().await.expect("a clean close");
    };
    tokio::join!(program, leaving);
    let there = Client::connect(&server).await.expect("the place is free, or is at once");
    let before = figure(&node, REFUSED).await;
    let leaving = async {
        until_refused(&node, before + 3).await;
        there.close().await.expect("a clean close");
    };
    let (came, ()) = tokio::join!(Client::connect(&server), leaving);
    came.expect("let in").close().await.expect("a clean close");
    assert!(node.terminate().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_15_who_comes_to_a_node_that_stays_full_is_told_so_in_time() {
    let (node, _folder) = node("CONNECTIONS_MAX", "1").await;
    let there = Client::connect(&node.address().to_string()).await.expect("the only place");
    let began = Instant::now();
    let output = ltq(&node, &["--timeout", "1s", "topic", "list"]).await;
    let (took, said) = (began.elapsed(), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success());
    assert!(said.contains("limit_reached") && said.contains("connections_max"), "{said}");
    assert!(figure(&node, REFUSED).await >= 3, "{took:?}: {said}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    drop(there);
    assert!(node.terminate().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_who_asks_a_node_for_the_list_of_topics_again_and_again_is_cut_off() {
    let (node, _folder) = node("FUTILE_FRAMES_MAX", "100").await;
    let mut peer = RawPeer::greeted(node.address()).await;
    let mut lists = 0;
    let refusal = within("the goodbye", async {
        loop {
            match list(&mut peer).await {
                Ok(()) => lists += 1,
                Err(refusal) => return refusal,
            }
            assert!(lists < 100_000, "nothing ends it");
        }
    })
    .await;
    assert_eq!(refusal.code, RefusalCode::Flooding, "{refusal}");
    assert!(refusal.detail.contains("a list of topics"), "{refusal}");
    // The first is what it came for, and of others there may be a hundred in a second.
    assert!(lists >= 101, "{lists}");
    // Who asks once on each connection, and who uses one list, is answered.
    let mut there = Vec::new();
    for _ in 0..150 {
        let mut peer = RawPeer::greeted(node.address()).await;
        list(&mut peer).await.expect("a list");
        there.push(peer);
    }
    let output = ltq(&node, &["topic", "list"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(figure(&node, "ltq_streams_flooding_total").await, 1);
    assert!(node.terminate().await.expect("it ends").success());
}

/// Asks for all topics.
async fn list(peer: &mut RawPeer) -> Result<(), ltq_core::Refusal> {
    peer.send(Frame::Admin { request: 1, action: AdminRequest::ListTopics }).await;
    match peer.next().await {
        Some(Frame::AdminAnswered { result: Ok(AdminResponse::Topics(_)), .. }) => Ok(()),
        Some(Frame::Goodbye { refusal }) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

const REFUSED: &str = "ltq_connections_refused_total";
