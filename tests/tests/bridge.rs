//! Bridges between real nodes, each in a process of its own: what the source has confirmed is at the
//! destination whoever is killed, and two bridges in opposite directions end.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_client::{Client, Message, StartAt};
use ltq_tests::{
    BridgeProcess, NodeProcess, RegistryProcess,
    bridged::{Load, check, node, stored},
    within,
};
use serde_json::Value;

/// Two nodes, and a bridge from the one to the other.
struct Field {
    folder: tempfile::TempDir,
    a: NodeProcess,
    b: NodeProcess,
    bridge: Option<BridgeProcess>,
}

impl Field {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (node(folder.path(), "a", 0).await, node(folder.path(), "b", 0).await);
        let bridge = Some(bridge(&a, &b).await);
        Self { folder, a, b, bridge }
    }

    /// Waits until the load has gone on, and the bridge has forwarded so much of it.
    async fn load_goes_on(&self, load: &Load, count: u64) {
        let bridge = self.bridge.as_ref().expect("a bridge");
        let forwarded =
            |routes: &Value| routes["routes"][0]["counts"]["forwarded"].as_u64().unwrap_or(0);
        let from = forwarded(&bridge.routes().await.expect("its routes"));
        load.more(count).await;
        bridge.until("it forwards", |routes| forwarded(routes) >= from + count).await;
    }

    /// Kills the bridge, and starts another one.
    async fn kill_bridge(&mut self) {
        let before = self.bridge.take().expect("a bridge");
        before.kill().await.expect("killed");
        self.bridge = Some(bridge(&self.a, &self.b).await);
    }

    /// Waits until nothing is left at the source.
    async fn until_forwarded(&self, topic: &str) {
        let client = Client::connect(&self.a.address().to_string()).await.expect("connected");
        within("everything is acked", async {
            loop {
                if let Ok(stats) = client.admin().show_topic(topic).await
                    && stats.channels.iter().any(|channel| {
                        channel.channel.as_str() == "bridge.bridge" && channel.floor == stats.end
                    })
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

async fn bridge(a: &NodeProcess, b: &NodeProcess) -> BridgeProcess {
    let (from, to) = (a.address().to_string(), b.address().to_string());
    let arguments = ["--from", &from, "--to", &to, "--topic", "*"];
    BridgeProcess::start(&arguments, &[("LTQ_BRIDGE_REFRESH", "100ms")]).await.expect("a bridge")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_bridge_loses_nothing_and_the_next_goes_on() {
    let mut field = Field::new().await;
    let load = Load::start(&field.a, "orders").await;
    for _ in 0..4 {
        field.load_goes_on(&load, 2_000).await;
        field.kill_bridge().await;
    }
    field.load_goes_on(&load, 2_000).await;
    let confirmed = load.end().await;
    field.until_forwarded("orders").await;
    let stored = stored(&field.b, "orders").await;
    let repeats = check(&confirmed, &stored);
    eprintln!("{} confirmed, {} stored, {repeats} repeats", confirmed.len(), stored.len());
    // What was sent and not acked is at most the credit, each time.
    assert!(repeats <= 4 * 2_500, "{repeats} repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_stops_in_order_repeats_nothing() {
    let mut field = Field::new().await;
    let load = Load::start(&field.a, "orders").await;
    for _ in 0..3 {
        field.load_goes_on(&load, 2_000).await;
        let before = field.bridge.take().expect("a bridge");
        assert!(before.terminate().await.expect("an end").success());
        field.bridge = Some(bridge(&field.a, &field.b).await);
    }
    let confirmed = load.end().await;
    field.until_forwarded("orders").await;
    assert_eq!(check(&confirmed, &stored(&field.b, "orders").await), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_source_loses_nothing_that_it_confirmed() {
    let mut field = Field::new().await;
    let load = Load::start(&field.a, "orders").await;
    for _ in 0..3 {
        field.load_goes_on(&load, 2_000).await;
        let port = field.a.port();
        let folder = field.folder.path().to_owned();
        // Its port is the same, so that bridge and publishers find it again.
        let spare = node(&folder, "spare", 0).await;
        std::mem::replace(&mut field.a, spare).kill().await.expect("killed");
        field.a = node(&folder, "a", port).await;
    }
    field.load_goes_on(&load, 2_000).await;
    let confirmed = load.end().await;
    field.until_forwarded("orders").await;
    let stored = stored(&field.b, "orders").await;
    let repeats = check(&confirmed, &stored);
    eprintln!("{} confirmed, {} stored, {repeats} repeats", confirmed.len(), stored.len());
    assert_eq!(repeats, 0, "a bridge that lives on knows what it has forwarded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_destination_loses_nothing_that_was_acked_at_the_source() {
    let mut field = Field::new().await;
    let load = Load::start(&field.a, "orders").await;
    for _ in 0..3 {
        field.load_goes_on(&load, 2_000).await;
        let port = field.b.port();
        let folder = field.folder.path().to_owned();
        let spare = node(&folder, "spare", 0).await;
        std::mem::replace(&mut field.b, spare).kill().await.expect("killed");
        load.more(100).await;
        field.b = node(&folder, "b", port).await;
    }
    field.load_goes_on(&load, 2_000).await;
    let confirmed = load.end().await;
    field.until_forwarded("orders").await;
    let stored = stored(&field.b, "orders").await;
    let repeats = check(&confirmed, &stored);
    eprintln!("{} confirmed, {} stored, {repeats} repeats", confirmed.len(), stored.len());
    assert_eq!(repeats, 0, "one node remembers what it was sent");
    // Each publisher's messages are in its order.
    let mut last = BTreeMap::new();
    for (body, _) in &stored {
        let (who, number) = body.split_once('-').expect("a number");
        let number: u64 = number.parse().expect("a number");
        assert!(last.insert(who.to_owned(), number).is_none_or(|last| last < number), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bridges_of_one_name_share_the_work_and_one_of_them_goes_on() {
    let mut field = Field::new().await;
    let second = bridge(&field.a, &field.b).await;
    let load = Load::start(&field.a, "orders").await;
    field.load_goes_on(&load, 1_000).await;
    let forwarded =
        |routes: &Value| routes["routes"][0]["counts"]["forwarded"].as_u64().unwrap_or(0) > 0;
    second.until("the second one has its part", forwarded).await;
    field.bridge.take().expect("a bridge").kill().await.expect("killed");
    load.more(1_000).await;
    let confirmed = load.end().await;
    field.until_forwarded("orders").await;
    let stored = stored(&field.b, "orders").await;
    let repeats = check(&confirmed, &stored);
    eprintln!("{} confirmed, {} stored, {repeats} repeats", confirmed.len(), stored.len());
    assert!(repeats <= 2_500, "{repeats} repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_of_two_nodes_goes_on_with_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = node(folder.path(), "a", 0).await;
    let (b, c) = (node(folder.path(), "b", 0).await, node(folder.path(), "c", 0).await);
    let addresses = [&a, &b, &c].map(|node| node.address().to_string());
    let [from, to, other] = &addresses;
    let arguments =
        ["--from", from, "--to", to, "--to", other, "--to-site", "there", "--topic", "orders"];
    let variables = [("LTQ_BRIDGE_REFRESH", "100ms"), ("LTQ_BRIDGE_FAILOVER_AFTER", "300ms")];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let load = Load::start(&a, "orders").await;
    let forwarded = |count: u64| {
        move |routes: &Value| {
            routes["routes"][0]["counts"]["forwarded"].as_u64().unwrap_or(0) >= count
        }
    };
    bridge.until("it forwards", forwarded(2_000)).await;
    let port = c.port();
    c.kill().await.expect("killed");
    let before = load.confirmed();
    load.more(2_000).await;
    bridge.until("it goes on", forwarded(before + 2_000)).await;
    let confirmed = load.end().await;
    let field = Field { folder, a, b, bridge: Some(bridge) };
    field.until_forwarded("orders").await;
    let c = node(field.folder.path(), "c", port).await;
    let mut all = stored(&field.b, "orders").await;
    let on_one = all.len();
    all.extend(stored(&c, "orders").await);
    assert!(on_one < all.len(), "both had their part");
    let repeats = check(&confirmed, &all);
    eprintln!("{} confirmed, {} stored, {repeats} repeats", confirmed.len(), all.len());
    assert!(repeats <= 2_500, "{repeats} repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_with_registries_forward_to_each_other_and_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sites = Vec::new();
    for site in ["east", "west"] {
        let beats = ["--heartbeat", "200ms"];
        let registry = RegistryProcess::start(0, &beats).await.expect("a registry");
        let at = registry.address().to_string();
        let mut nodes = Vec::new();
        for number in 0..2 {
            let name = format!("{site}-{number}");
            let more = ["--node", &name, "--registry", &at];
            let data = folder.path().join(&name);
            nodes.push(NodeProcess::start(&data, 0, &more).await.expect("a node"));
        }
        registry.until("both are there", |nodes| nodes.len() == 2).await;
        sites.push((site, registry, at, nodes));
    }
    let mut bridges = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        let ((from_site, _, from, _), (to_site, _, to, _)) = (&sites[from], &sites[to]);
        let arguments = [
            "--from-registry",
            from,
            "--from-site",
            from_site,
            "--to-registry",
            to,
            "--to-site",
            to_site,
            "--topic",
            "orders*",
        ];
        bridges.push(BridgeProcess::start(&arguments, &[]).await.expect("a bridge"));
    }
    // The topics come after the bridges. What these have acked is kept for a channel of the test.
    let mut clients = Vec::new();
    for (site, _, _, nodes) in &sites {
        for (number, node) in nodes.iter().enumerate() {
            let client = Client::connect(&node.address().to_string()).await.expect("connected");
            let admin = client.admin();
            let made = admin.create_channel("orders.new", "check", StartAt::Earliest).await;
            made.expect("a channel");
            clients.push((format!("{site}-{number}"), client));
        }
    }
    for (name, client) in &clients {
        let producer = client.producer("orders.new").await.expect("a producer");
        let body = |number| Message::new(format!("{name}-{number}"));
        producer.send_batch((0..100).map(body)).await.expect("stored");
        let producer = client.producer("private").await.expect("a producer");
        producer.send(Message::new("stays")).await.expect("stored");
    }
    let done = |routes: &Value| {
        let counts = &routes["routes"][0]["counts"];
        counts["forwarded"] == 200 && counts["skipped_loop"] == 200
    };
    for bridge in &bridges {
        bridge.until("the other side has everything, and nothing comes back", done).await;
    }
    for (_, _, _, nodes) in &sites {
        let mut all = BTreeSet::new();
        let mut count = 0;
        for node in nodes {
            let client = Client::connect(&node.address().to_string()).await.expect("connected");
            let stats = client.admin().show_topic("orders.new").await.expect("the topic");
            assert_eq!(client.admin().show_topic("private").await.expect("the topic").end.0, 1);
            count += stats.end.0;
            all.extend(stored(node, "orders.new").await.into_iter().map(|(body, _)| body));
        }
        assert_eq!((count, all.len()), (400, 400), "each message once");
    }
    for bridge in bridges {
        let (status, body) = bridge.get("/readyz", None).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
        let (_, metrics) = bridge.get("/metrics", None).await.expect("an answer");
        for line in [
            "ltq_bridge_nodes 2",
            "ltq_bridge_forwarded_total{route=\"default\"} 200",
            "ltq_bridge_skipped_total{route=\"default\",reason=\"loop\"} 200",
            "ltq_bridge_unconfirmed{route=\"default\"} 0",
        ] {
            assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
        }
        assert!(bridge.terminate().await.expect("an end").success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_stands_still_takes_no_more_memory_than_the_credit() {
    let field = Field::new().await;
    let client = Client::connect(&field.a.address().to_string()).await.expect("connected");
    let producer = client.producer("orders").await.expect("a producer");
    producer.send(Message::new("first")).await.expect("stored");
    let bridge = field.bridge.as_ref().expect("a bridge");
    let forwarded = |count: u64| {
        move |routes: &Value| routes["routes"][0]["counts"]["forwarded"].as_u64() == Some(count)
    };
    bridge.until("the first", forwarded(1)).await;
    let before = resident(bridge);
    field.b.pause(true).expect("paused");
    let message = Message::new(vec![7_u8; 64 << 10]);
    for _ in 0..30 {
        producer.send_batch(std::iter::repeat_n(&message, 160)).await.expect("stored");
    }
    let waits = |routes: &Value| routes["routes"][0]["topics"][0]["status"] == "waiting";
    bridge.until("it is said that nothing goes", waits).await;
    let (status, why) = bridge.get("/readyz", None).await.expect("an answer");
    assert_eq!(status, 503, "{why}");
    let still = resident(bridge).saturating_sub(before);
    field.b.pause(false).expect("on");
    bridge.until("the rest", forwarded(4_801)).await;
    let after = resident(bridge).saturating_sub(before);
    eprintln!("{} MiB more while it stood still, {} MiB after", still >> 20, after >> 20);
    // 300 MiB waited. The credit is 16 MiB, which counts three times; the rest is what an allocator keeps.
    assert!(still.max(after) < 144 << 20, "{still} and {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_may_be_there_before_its_nodes_and_registries() {
    let folder = tempfile::tempdir().expect("a folder");
    // Places where something will be.
    let a = node(folder.path(), "spare", 0).await;
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let (port, from) = (a.port(), a.address().to_string());
    let (registry_port, to) = (registry.port(), registry.address().to_string());
    a.kill().await.expect("killed");
    registry.kill().await.expect("killed");
    let arguments = ["--from", &from, "--to-registry", &to, "--topic", "*"];
    let variables = [("LTQ_BRIDGE_REFRESH", "100ms")];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let (status, _) = bridge.get("/healthz", None).await.expect("an answer");
    assert_eq!(status, 200);
    let not_yet = |routes: &Value| routes["nodes"][&from].is_string();
    bridge.until("it is said that the node is not there", not_yet).await;
    let a = node(folder.path(), "a", port).await;
    let client = Client::connect(&a.address().to_string()).await.expect("connected");
    let producer = client.producer("orders").await.expect("a producer");
    producer.send(Message::new("hello")).await.expect("stored");
    let _registry = RegistryProcess::start(registry_port, &[]).await.expect("a registry");
    let more = ["--node", "b", "--registry", &to];
    let b = NodeProcess::start(&folder.path().join("b"), 0, &more).await.expect("a node");
    let forwarded = |routes: &Value| routes["routes"][0]["counts"]["forwarded"] == 1;
    bridge.until("the message", forwarded).await;
    assert_eq!(stored(&b, "orders").await[0].0, "hello");
    within("it is well", async {
        while bridge.get("/readyz", None).await.expect("an answer").0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(bridge.terminate().await.expect("an end").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_has_its_own_token_and_trust() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = NodeProcess::start(&folder.path().join("a"), 0, &["--token", "first"]).await;
    let a = a.expect("a node");
    let listen = ltq_core::Address::new("tls", "127.0.0.1:0");
    let command = std::process::Command::new(ltq_tests::binary("ltq-node"));
    let more = ["--token", "second", "--dev-tls"];
    let b = NodeProcess::start_by(command, &folder.path().join("b"), &listen, &more).await;
    let b = b.expect("a node");
    let client = |node: &NodeProcess, token: &str| {
        let trust = ltq_client::ClientTrust::fingerprint(
            b.fingerprint().expect("a fingerprint").parse().expect("one"),
        );
        Client::builder().server(&node.address().to_string()).token(token).trust(trust.expect("it"))
    };
    let producer = client(&a, "first").connect().await.expect("connected");
    let producer = producer.producer("orders").await.expect("a producer");
    producer.send(Message::new("hello")).await.expect("stored");
    let (from, to) = (a.address().to_string(), b.address().to_string());
    let arguments = [
        "--from",
        &from,
        "--to",
        &to,
        "--to-tls-fingerprint",
        b.fingerprint().expect("a fingerprint"),
        "--topic",
        "*",
    ];
    let mut variables = vec![
        ("LTQ_BRIDGE_FROM_TOKEN", "first"),
        ("LTQ_BRIDGE_TO_TOKEN", "wrong"),
        ("LTQ_BRIDGE_TOKEN", "third"),
        ("LTQ_BRIDGE_REFRESH", "100ms"),
    ];
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    within("it is said that the destination does not let it in", async {
        loop {
            let (status, why) = bridge.get("/readyz", None).await.expect("an answer");
            if status == 503 && why.contains("of the destination") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for (path, token, expected) in [
        ("/healthz", None, 200),
        ("/routes", None, 401),
        ("/routes", Some("first"), 401),
        ("/metrics", Some("third"), 200),
        ("/routes", Some("third"), 200),
        ("/nothing", None, 404),
    ] {
        let (status, body) = bridge.get(path, token).await.expect("an answer");
        assert_eq!(status, expected, "{path} {token:?}: {body}");
    }
    bridge.kill().await.expect("killed");
    variables[1].1 = "second";
    let bridge = BridgeProcess::start(&arguments, &variables).await.expect("a bridge");
    let consumer = client(&b, "second").connect().await.expect("connected");
    let mut consumer = consumer.consumer("orders", "check").await.expect("a consumer");
    let delivery = within("the message", consumer.next()).await.expect("one").expect("whole");
    assert_eq!(delivery.message.body, "hello");
    assert!(bridge.terminate().await.expect("an end").success());
}

/// The memory of a process, in bytes.
fn resident(bridge: &BridgeProcess) -> u64 {
    let pid = bridge.pid().expect("a process");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
