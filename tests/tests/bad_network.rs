//! Real programs over a line that is slow, loses, reorders and fails.
#![cfg(target_os = "linux")]

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use ltq_core::Address;
use ltq_tests::{
    NodeProcess,
    bad_network::{BadNetwork, Shape},
    binary,
};
use serde_json::Value;

fn network(shape: Shape) -> Option<BadNetwork> {
    BadNetwork::or_skip(shape, 1)
}

/// Waits until the near host has sent so many bytes more.
async fn sent(network: &BadNetwork, bytes: u64) {
    let until = network.figures()[0].sent_bytes + bytes;
    ltq_tests::within("the line is used", async {
        while network.figures()[0].sent_bytes < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Starts a node on the far host.
async fn node(network: &BadNetwork, scheme: &str, data_dir: &std::path::Path) -> NodeProcess {
    let listen = Address::new(scheme, format!("{}:0", network.far().address()));
    let command = network.far().command(binary("ltq-node"));
    // Whoever is gone without a word is found out within three of these.
    let config = data_dir.with_extension("toml");
    let text = "[limits]\nheartbeat = \"500ms\"\n[quic]\nidle_timeout = \"2s\"\n";
    std::fs::write(&config, text).unwrap();
    let mut more =
        vec!["--token", TOKEN, "--config", config.to_str().unwrap(), "--http", "127.0.0.1:0"];
    if scheme != "tcp" {
        more.push("--dev-tls");
    }
    NodeProcess::start_by(command, data_dir, &listen, &more).await.unwrap()
}

/// Starts `ltq bench` on the near host.
fn bench(network: &BadNetwork, node: &NodeProcess, line: &str) -> Child {
    network
        .near()
        .command(binary("ltq"))
        .arg("bench")
        .args(line.split_whitespace())
        .args(["--server", &node.address().to_string(), "--token", TOKEN])
        .args(["--json", "--warmup", "0s"])
        .args(node.fingerprint().into_iter().flat_map(|print| ["--tls-fingerprint", print]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(bench: Child) -> Value {
    let output = tokio::task::spawn_blocking(|| bench.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_and_6_hold_over_a_line_that_loses_reorders_and_is_narrow() {
    let shape = Shape {
        jitter: Duration::from_millis(5),
        reorder: 0.01,
        bytes_per_second: Some(2_000_000),
        queue_bytes: 100_000,
        ..Shape::new(20, 2.0)
    };
    let Some(network) = network(shape) else { return };
    for scheme in SCHEMES {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&network, scheme, &folder.path().join("data")).await;
        let line = "e2e --count 4000 --topics 5 --one-connection";
        let report = ended(bench(&network, &node, line)).await;
        assert_eq!(
            (report["published"].as_u64(), report["delivered"].as_u64()),
            (Some(4_000), Some(4_000))
        );
    }
    let [there, back] = network.figures();
    assert!(there.lost > 0 && back.lost > 0 && there.reordered > 0, "{there:?} {back:?}");
}

/// Though the line fails for a while and the publisher's address changes: all is stored, once.
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_and_6_hold_for_a_publisher_whose_line_fails_and_whose_address_changes() {
    let shape = Shape::new(10, 0.5);
    let Some(mut network) = network(shape) else { return };
    for scheme in SCHEMES {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&network, scheme, &folder.path().join("data")).await;
        let bench =
            bench(&network, &node, "pub --count 20000 --rate 10000 --size 200 --timeout 60s");
        sent(&network, 300_000).await;
        network.reshape(shape.down());
        tokio::time::sleep(OUTAGE).await;
        network.reshape(shape);
        sent(&network, 300_000).await;
        network.change_address().unwrap();
        let report = ended(bench).await;
        // The broker's own count was compared with it.
        assert_eq!(report["published"], 20_000);
    }
}

/// Though nothing comes through for longer than a node waits for anybody, over QUIC for longer than a connection
/// lasts: consumers are back, and get what they had not acked.
#[tokio::test(flavor = "multi_thread")]
async fn promises_2_and_4_hold_for_consumers_whose_line_is_out_for_longer_than_connections_last() {
    let shape = Shape::new(10, 0.5);
    let Some(mut network) = network(shape) else { return };
    for scheme in SCHEMES {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&network, scheme, &folder.path().join("data")).await;
        let line =
            "e2e --count 20000 --rate 5000 --size 200 --topics 5 --one-connection --timeout 60s";
        let bench = bench(&network, &node, line);
        sent(&network, 300_000).await;
        network.reshape(shape.down());
        tokio::time::sleep(LONG_OUTAGE).await;
        network.reshape(shape);
        sent(&network, 300_000).await;
        network.change_address().unwrap();
        // Each came at least once, and twice only where the node said that it was delivered again.
        let report = ended(bench).await;
        assert_eq!((&report["published"], &report["delivered"]), (&20_000.into(), &20_000.into()));
    }
}

/// What a node on the far host counts.
async fn counted(network: &BadNetwork, node: &NodeProcess, metric: &str) -> u64 {
    let http = node.said("http://").expect("HTTP").trim_start_matches("http://");
    let (host, port) = http.rsplit_once(':').expect("a port");
    let asking = format!(
        "exec 3<>/dev/tcp/{host}/{port}; printf 'GET /metrics HTTP/1.0\\r\\nauthorization: Bearer {TOKEN}\\r\\n\\r\\n' >&3; cat <&3"
    );
    let mut command = network.far().command("bash");
    command.args(["-c", &asking]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let value = said.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {metric} in {said}"))
}

/// A QUIC connection is not its client's address; TCP's is.
#[tokio::test(flavor = "multi_thread")]
async fn a_quic_client_whose_address_changes_keeps_its_connection_and_a_tcp_client_has_another() {
    let shape = Shape::new(10, 0.5);
    let Some(mut network) = network(shape) else { return };
    let line = "e2e --count 10000 --rate 5000 --size 200 --topics 5 --one-connection --timeout 60s";
    for (scheme, keeps) in [("tcp", false), ("quic", true)] {
        let mut accepted = Vec::new();
        for changes in [0, 2] {
            let folder = tempfile::tempdir().unwrap();
            let node = node(&network, scheme, &folder.path().join("data")).await;
            let bench = bench(&network, &node, line);
            for _ in 0..changes {
                sent(&network, 300_000).await;
                network.change_address().unwrap();
            }
            let report = ended(bench).await;
            assert_eq!(
                (&report["published"], &report["delivered"]),
                (&10_000.into(), &10_000.into())
            );
            accepted.push(counted(&network, &node, "ltq_connections_accepted_total").await);
        }
        assert!(accepted[0] > 0);
        assert_eq!(accepted[0] == accepted[1], keeps, "{scheme}: {accepted:?} connections");
    }
}

/// Without resumption and without 0-RTT: a path that was dead for longer than a connection lasts costs a handshake
/// once it is alive again, and no message.
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_and_6_a_quic_client_is_back_soon_after_a_dead_path_and_loses_nothing() {
    let shape = Shape::new(40, 0.0);
    let Some(network) = network(shape) else { return };
    let folder = tempfile::tempdir().unwrap();
    let node = node(&network, "quic", &folder.path().join("data")).await;
    let line = "e2e --count 20000 --rate 4000 --size 200 --topics 2 --one-connection --timeout 60s";
    let bench = bench(&network, &node, line);
    sent(&network, 300_000).await;
    network.reshape(shape.down());
    tokio::time::sleep(LONG_OUTAGE).await;
    let [_, dead] = network.figures();
    network.reshape(shape);
    let alive = Instant::now();
    // Deliveries, and more of them than goes for handshakes and their attempts.
    ltq_tests::within("deliveries over the path", async {
        while network.figures()[1].sent_bytes < dead.sent_bytes + 100_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let back = alive.elapsed();
    println!(
        "messages came again {back:?} after the path was alive, which had been dead for {LONG_OUTAGE:?}"
    );
    assert!(back < BACK, "{back:?}");
    let report = ended(bench).await;
    assert_eq!((&report["published"], &report["delivered"]), (&20_000.into(), &20_000.into()));
}

const SCHEMES: [&str; 3] = ["tcp", "tls", "quic"];
const TOKEN: &str = "of the whole test";
const OUTAGE: Duration = Duration::from_millis(1_500);
/// Longer than three heartbeats, and than the idle time of QUIC.
const LONG_OUTAGE: Duration = Duration::from_millis(3_500);
/// A handshake that was begun while the path was dead sends its words again some seconds later at most; as much again for
/// a busy machine. Without one it is a second.
const BACK: Duration = Duration::from_secs(8);
