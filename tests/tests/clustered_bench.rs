//! `ltq bench --registry` against two nodes.
#![cfg(target_os = "linux")]

use std::process::{Output, Stdio};

use ltq_client::{Admin, Client};
use ltq_tests::{Door, NodeProcess, RegistryProcess, binary, within};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

async fn ltq(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("ltq"));
    command.args(arguments).env_remove("LTQ_TOKEN").env_remove("LTQ_SERVER").stdin(Stdio::null());
    within("it ends", command.kill_on_drop(true).output()).await.expect("ltq")
}

/// A run against a cluster.
async fn run(registry: &str, line: &str) -> Output {
    let mut words = vec!["--json", "bench", "--registry", registry, "--warmup", "50ms"];
    words.extend(line.split_whitespace());
    ltq(&words).await
}

async fn bench(registry: &str, line: &str) -> Value {
    let output = run(registry, line).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

async fn node(folder: &TempDir, name: &str, registry: &str) -> NodeProcess {
    node_with(folder, name, registry, &[]).await
}

async fn node_with(folder: &TempDir, name: &str, registry: &str, more: &[&str]) -> NodeProcess {
    let more = [&["--node", name, "--registry", registry, "--store", "memory"], more].concat();
    NodeProcess::start(&folder.path().join(name), 0, &more).await.expect("a node")
}

/// Waits until a node has taken so many messages into its one topic, beyond so many. Returns how many it has.
async fn until_it_took(node: &Admin, more: u64, beyond: u64) -> u64 {
    within("messages", async {
        loop {
            let topics = node.list_topics().await.expect("a list");
            if let Some(topic) = topics.first()
                && let Ok(shown) = node.show_topic(topic).await
                && shown.end.0 >= beyond + more
            {
                return shown.end.0;
            }
        }
    })
    .await
}

/// The names of its topics.
async fn topics(node: &NodeProcess) -> Vec<String> {
    let output = ltq(&["--server", &node.address().to_string(), "topic", "list"]).await;
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Waits until a node has so many topics.
async fn until_it_has(node: &NodeProcess, count: usize) {
    within("topics", async { while topics(node).await.len() != count {} }).await;
}

/// A registry and two nodes of these names.
async fn cluster(folder: &TempDir) -> (RegistryProcess, [NodeProcess; 2]) {
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let nodes = [node(folder, "n1", &at).await, node(folder, "n2", &at).await];
    registry.until("both are there", |nodes| nodes.len() == 2).await;
    (registry, nodes)
}

fn figure(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("{name} in {of}"))
}

/// What each node had, by name.
fn on_nodes(report: &Value) -> Vec<(String, u64, u64)> {
    let nodes = report["nodes"].as_array().unwrap_or_else(|| panic!("nodes in {report}"));
    let of = |node: &Value| {
        let name = node["node"].as_str().expect("a name").to_owned();
        (name, figure(node, "published"), figure(node, "acked"))
    };
    nodes.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_13_a_cluster_is_measured_and_each_node_has_its_part_of_the_account() {
    let folder = tempfile::tempdir().expect("a folder");
    let (registry, nodes) = cluster(&folder).await;
    let at = registry.address().to_string();
    let pids = nodes.each_ref().map(|node| node.pid().expect("it runs").to_string()).join(",");

    // 500 for each of two nodes, for a second.
    let line = format!(
        "e2e --rate-per-node 500 --duration 1s --producers 2 --consumers 2 --channels 2 --server-pid {pids}"
    );
    let report = bench(&at, &line).await;
    assert_eq!(figure(&report, "rate"), 1_000, "{report}");
    assert_eq!(figure(&report, "published"), 1_000, "{report}");
    assert_eq!(figure(&report, "delivered"), 2_000, "{report}");
    let on = on_nodes(&report);
    let names: Vec<_> = on.iter().map(|node| node.0.as_str()).collect();
    assert_eq!(names, ["n1", "n2"], "{report}");
    assert!(on.iter().all(|node| node.1 > 0 && node.2 == node.1 * 2), "{on:?}");
    assert_eq!(on.iter().map(|node| node.1).sum::<u64>(), 1_000, "{on:?}");
    for figure in ["server_cpu_seconds", "client_cpu_seconds"] {
        assert!(report[figure].is_f64(), "{figure} in {report}");
    }

    // One key has one node, many keys have all.
    let report = bench(&at, "e2e --count 600 --ordered --batch 20").await;
    let on = on_nodes(&report);
    assert!(on.iter().any(|node| node.1 == 600) && on.iter().any(|node| node.1 == 0), "{on:?}");
    let report = bench(&at, "e2e --count 600 --ordered --keys 40 --batch 5").await;
    let on = on_nodes(&report);
    assert!(on.iter().all(|node| node.1 > 0 && node.1 == node.2), "{on:?}");

    for line in ["pub --count 300", "sub --count 300", "pub --count 60 --wait-each"] {
        let report = bench(&at, line).await;
        let on = on_nodes(&report);
        assert_eq!(
            on.iter().map(|node| node.1).sum::<u64>(),
            figure(&report, "published"),
            "{line}"
        );
        assert_eq!(
            on.iter().map(|node| node.2).sum::<u64>(),
            figure(&report, "delivered"),
            "{line}"
        );
    }

    // What is kept is drained from both, and not counted as this run's.
    bench(&at, "pub --rate-per-node 200 --duration 1s --topic kept").await;
    let report = bench(&at, "sub --prefilled --topic kept").await;
    assert_eq!((figure(&report, "published"), figure(&report, "delivered")), (0, 400));
    assert!(on_nodes(&report).iter().all(|node| node.1 == 0 && node.2 > 0), "{report}");

    // Nor does it matter what keys it was given, or by whom it is drained.
    bench(&at, "pub --count 60 --ordered --keys 40 --batch 5 --topic keyed").await;
    let report = bench(&at, "sub --prefilled --topic keyed").await;
    assert_eq!(figure(&report, "delivered"), 60);
    let mut drained = 0;
    for node in &nodes {
        let server = node.address().to_string();
        let words =
            ["--json", "bench", "sub", "--server", &server, "--prefilled", "--topic", "keyed"];
        let output = ltq(&words).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let report = serde_json::from_slice(&output.stdout).expect("a report");
        drained += figure(&report, "delivered");
    }
    assert_eq!(drained, 60);

    // Nothing else is left on either.
    for node in &nodes {
        assert_eq!(topics(node).await, ["kept", "keyed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_meanwhile_is_counted_and_cleaned_with_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (registry, [first, second]) = cluster(&folder).await;
    let at = registry.address().to_string();
    let running = tokio::spawn({
        let at = at.clone();
        async move { bench(&at, "e2e --rate 600 --duration 4s --topics 2 --channels 2").await }
    });
    until_it_has(&first, 2).await;
    let third = node(&folder, "n3", &at).await;
    let report = within("the run", running).await.expect("no panic");
    let on = on_nodes(&report);
    assert_eq!(on.iter().map(|node| node.1).sum::<u64>(), 2_400, "{on:?}");
    assert_eq!(figure(&report, "delivered"), 4_800, "{report}");
    let joined = on.iter().find(|node| node.0 == "n3").expect("the new one");
    assert!(joined.1 > 0 && joined.2 == joined.1 * 2, "{on:?}");
    for node in [&first, &second, &third] {
        assert_eq!(topics(node).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_meanwhile_is_named_and_the_others_are_cleaned_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let (registry, [first, second]) = cluster(&folder).await;
    let at = registry.address().to_string();
    let running = tokio::spawn({
        let line = "e2e --rate 600 --duration 2s --topics 2 --timeout 2s";
        async move { run(&at, line).await }
    });
    until_it_has(&second, 2).await;
    first.kill().await.expect("killed");
    let output = within("the run", running).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("node n1"), "{said}");
    assert_eq!(topics(&second).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_no_node_is_named() {
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let output = ltq(&["bench", "pub", "--registry", &at, "--count", "5"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{at} tells of no node")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_stores_twice_is_counted_and_fails_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let (door, hinge) = Door::new().await.expect("a door");
    let before = format!("tcp://{}", door.address());
    let first = node_with(&folder, "n1", &at, &["--advertise", &before]).await;
    hinge.to(first.address().rest().to_owned());
    let second = node(&folder, "n2", &at).await;
    registry.until("both are there", |nodes| nodes.len() == 2).await;
    let mut admins = Vec::new();
    for node in [&first, &second] {
        let client = Client::connect(&node.address().to_string()).await.expect("a client");
        admins.push(client.admin());
    }
    let running = tokio::spawn(async move {
        let line = format!("--json bench e2e --registry {at} --warmup 0s --rate 400 --duration 6s");
        ltq(&line.split(' ').collect::<Vec<_>>()).await
    });
    // What the first node takes is not said any more, and goes to the other one, too.
    let had = until_it_took(&admins[0], 1, 0).await;
    door.mute();
    until_it_took(&admins[0], 1, had).await;
    let had = until_it_took(&admins[1], 1, 0).await;
    door.shut();
    until_it_took(&admins[1], 400, had).await;
    door.open();
    let output = within("the run", running).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((figure(&report, "published"), figure(&report, "delivered")), (2_400, 2_400));
    let again = figure(&report, "stored_again");
    assert!(again >= 1, "{report}");
    let taken: u64 = on_nodes(&report).iter().map(|node| node.1).sum();
    assert_eq!(taken, 2_400 + again, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drained_is_not_made_on_nodes_that_lack_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (registry, nodes) = cluster(&folder).await;
    let server = nodes[0].address().to_string();
    let words = "bench pub --warmup 0s --count 70 --topic lone --server";
    let output = ltq(&words.split(' ').chain([server.as_str()]).collect::<Vec<_>>()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    registry.until("it is told", |nodes| nodes[0]["topics"]["lone"].is_array()).await;
    let second = Client::connect(&nodes[1].address().to_string()).await.expect("a client");
    let made = || async { second.admin().stats().await.expect("figures").topics.len() };
    let at = registry.address().to_string();
    for _ in 0..2 {
        let report = bench(&at, "sub --prefilled --topic lone").await;
        assert_eq!(figure(&report, "delivered"), 70);
        assert_eq!(made().await, 0);
    }
    assert_eq!(topics(&nodes[0]).await, ["lone"]);
}
