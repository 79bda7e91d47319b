//! Real nodes announce themselves to real registries: what is told of them, and what becomes of it when either
//! of them stops, is killed or stands still.
#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, path::Path, process::Stdio};

use ltq_client::{Client, Cluster, Message};
use ltq_discovery::{Discovery as _, DiscoveryError, Interest, registry::Registries};
use ltq_tests::{NodeProcess, RegistryProcess, binary, within};
use ltq_transport::Unix;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// Whether there are these nodes and no others.
fn are(ids: &[&str]) -> impl Fn(&[Value]) -> bool {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    move |nodes| nodes.iter().filter_map(|node| node["id"].as_str()).eq(&ids)
}

async fn node(folder: &tempfile::TempDir, name: &str, registries: &[&str]) -> NodeProcess {
    let mut more = vec!["--node", name];
    for registry in registries {
        more.extend(["--registry", registry]);
    }
    NodeProcess::start(&folder.path().join(name), 0, &more).await.expect("a node")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_found_with_what_it_has_and_gone_once_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let at = registry.address().to_string();
    let one = node(&folder, "n1", &[&at]).await;
    let nodes = registry.until("n1 is there", are(&["n1"])).await;
    assert_eq!(nodes[0]["addresses"], serde_json::json!([one.address().to_string()]));
    assert_eq!((&nodes[0]["state"], &nodes[0]["suspected"]), (&"ready".into(), &false.into()));
    assert_eq!(nodes[0]["topics"], serde_json::json!({}));
    // What comes is told at once, and what goes.
    let client = Client::connect(&one.address().to_string()).await.expect("connected");
    let producer = client.producer("orders").await.expect("a producer");
    producer.send(Message::new("x")).await.expect("stored");
    let _consumer = client.consumer("orders", "billing").await.expect("a consumer");
    let has = serde_json::json!({ "orders": ["billing"] });
    registry.until("the channel is told", |nodes| nodes[0]["topics"] == has).await;
    client.admin().delete_topic("orders").await.expect("deleted");
    let none = serde_json::json!({});
    registry.until("the topic is gone", |nodes| nodes[0]["topics"] == none).await;
    assert!(one.terminate().await.expect("it ends").success());
    // It withdrew itself: nobody waits for its beats.
    let nodes = registry.nodes().await.expect("an answer");
    assert_eq!(nodes, Vec::<Value>::new());
    assert!(registry.terminate().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ltq_nodes_shows_what_registries_know_and_follows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--token", "secret"]).await.expect("a registry");
    let at = format!("{}, tcp://127.0.0.1:1", registry.address());
    let ltq = |more: &[&str]| {
        let mut command = Command::new(binary("ltq"));
        command.args(["nodes", "--registry", &at, "--token", "secret"]).args(more);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        command
    };
    let mut following = ltq(&["--json", "--follow"]).spawn().expect("ltq nodes");
    let mut shown = BufReader::new(following.stdout.take().expect("its output")).lines();
    let mut next = async || -> Vec<Value> {
        let line = within("a line", shown.next_line()).await.expect("output").expect("a line");
        serde_json::from_str(&line).expect("nodes")
    };
    assert_eq!(next().await, Vec::<Value>::new());
    let more = ["--node", "n1", "--registry", &registry.address().to_string(), "--token", "secret"];
    let node = NodeProcess::start(&folder.path().join("n1"), 0, &more).await.expect("a node");
    assert!(are(&["n1"])(&next().await));
    let once = within("the table", ltq(&[]).output()).await.expect("it ends");
    let table = String::from_utf8(once.stdout).expect("text");
    assert!(once.status.success() && table.contains(&node.address().to_string()), "{table}");
    let topic = within("no node", ltq(&["--topic", "none"]).output()).await.expect("it ends");
    assert_eq!(String::from_utf8_lossy(&topic.stdout).trim(), "no nodes");
    drop(node);
    let guess = |token: &str| {
        let mut command = Command::new(binary("ltq"));
        command.args(["nodes", "--registry", &registry.address().to_string(), "--token", token]);
        command.kill_on_drop(true);
        command
    };
    let refused = within("a refusal", guess("guess").output()).await.expect("it ends");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains("a valid token is needed"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_or_stands_still_is_suspected_and_then_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--heartbeat", "200ms"]).await.expect("a registry");
    let at = registry.address().to_string();
    let (killed, paused) = (node(&folder, "n1", &[&at]).await, node(&folder, "n2", &[&at]).await);
    registry.until("both are there", are(&["n1", "n2"])).await;
    let suspected = |which: usize, is: bool| {
        move |nodes: &[Value]| nodes.get(which).is_some_and(|node| node["suspected"] == is)
    };
    paused.pause(true).expect("paused");
    registry.until("n2 is suspected", suspected(1, true)).await;
    paused.pause(false).expect("goes on");
    registry.until("n2 is well again", suspected(1, false)).await;
    killed.kill().await.expect("killed");
    registry.until("n1 is suspected", suspected(0, true)).await;
    registry.until("n1 is forgotten", are(&["n2"])).await;
    // Another run of it is another node of the same name.
    let _again = node(&folder, "n1", &[&at]).await;
    registry.until("n1 is back", are(&["n1", "n2"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_come_and_go_and_each_knows_all_nodes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let [one, two] = [(); 2].map(|()| RegistryProcess::start(0, &[]));
    let (one, two) = (one.await.expect("a registry"), two.await.expect("a registry"));
    let (first, second) = (one.address().to_string(), two.address().to_string());
    let a = node(&folder, "a", &[&first, &second]).await;
    let _b = node(&folder, "b", &[&first, &second]).await;
    for registry in [&one, &two] {
        registry.until("both are there", are(&["a", "b"])).await;
    }
    let port = one.port();
    one.kill().await.expect("killed");
    // A node that starts meanwhile does not wait for the one that is gone.
    let _c = node(&folder, "c", &[&first, &second]).await;
    two.until("all are there", are(&["a", "b", "c"])).await;
    let client = Client::connect(&a.address().to_string()).await.expect("connected");
    client.producer("t").await.expect("a node serves while a registry is gone");
    let one = RegistryProcess::start(port, &[]).await.expect("the same one");
    let nodes = one.until("it knows all again", are(&["a", "b", "c"])).await;
    assert_eq!(nodes[0]["topics"], serde_json::json!({ "t": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_id_the_later_one_is_taken_in_and_no_other_node_suffers() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let at = registry.address().to_string();
    let _well = node(&folder, "well", &[&at]).await;
    let _early = node(&folder, "twice", &[&at]).await;
    registry.until("both are there", are(&["twice", "well"])).await;
    let other = tempfile::tempdir().expect("a folder");
    let late = node(&other, "twice", &[&at]).await;
    let of_late = late.address().to_string();
    let taken = |nodes: &[Value]| nodes[0]["addresses"][0] == of_late && nodes.len() == 2;
    registry.until("the later one is there", taken).await;
    // The earlier one is told so, and stays out however often it comes again.
    within("it to be refused", async {
        loop {
            let (_, metrics) = registry.get("/metrics", None).await.expect("figures");
            let name = "ltq_registry_announcements_refused_total ";
            let refused = metrics.lines().find_map(|line| line.strip_prefix(name));
            if refused.is_some_and(|count| count != "0") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(taken(&registry.nodes().await.expect("an answer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_lets_in_who_has_it_and_shows_nothing_to_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &["--token", "secret"]).await.expect("a registry");
    let at = registry.address().to_string();
    for path in ["/nodes", "/metrics", "/nodes?topic=t"] {
        assert_eq!(registry.get(path, None).await.expect("an answer").0, 401, "{path}");
        assert_eq!(registry.get(path, Some("guess")).await.expect("an answer").0, 401, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(registry.get(path, None).await.expect("an answer").0, 200, "{path}");
    }
    let with = |name: &str, token: &'static str| {
        let (data, name, at) = (folder.path().join(name), name.to_owned(), at.clone());
        async move {
            let more = ["--node", &name, "--registry", &at, "--token", token];
            NodeProcess::start(&data, 0, &more).await.expect("a node")
        }
    };
    let _wrong = with("wrong", "guess").await;
    let _right = with("right", "secret").await;
    within("the right one to be there", async {
        loop {
            let (status, body) = registry.get("/nodes", Some("secret")).await.expect("an answer");
            let nodes: Vec<Value> = serde_json::from_str(&body).expect("nodes");
            assert_eq!(status, 200);
            if are(&["right"])(&nodes) {
                break;
            }
            assert!(nodes.is_empty(), "{nodes:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, body) = registry.get("/nodes?topic=t", Some("secret")).await.expect("an answer");
    assert_eq!(body, "[]");
    let (status, why) =
        registry.get("/nodes?topic=a%20b", Some("secret")).await.expect("an answer");
    assert!(status == 400 && why.contains("the topic"), "{status} {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_whose_names_differ_in_case_alone_are_two_at_the_node_the_registry_and_in_a_cluster()
{
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let at = registry.address().to_string();
    for (name, store) in [("on-disk", "file"), ("in-memory", "memory")] {
        let more = ["--node", name, "--registry", &at, "--store", store];
        let node = NodeProcess::start(&folder.path().join(name), 0, &more).await.expect("a node");
        registry.until("it is there", are(&[name])).await;
        let cluster = Cluster::builder().registry(&at).connect().await.expect("a cluster");
        for topic in ["Orders", "orders"] {
            let producer = cluster.producer(topic).await.expect("a producer");
            for number in 0..3 {
                producer.send(Message::new(format!("{topic}-{number}"))).await.expect("stored");
            }
        }
        let has = serde_json::json!({ "Orders": [], "orders": [] });
        registry.until("both are told", |nodes| nodes[0]["topics"] == has).await;
        // Taken from one of them, the other has all of its own.
        let consumer = cluster.consumer_builder("Orders", "billing");
        let mut upper = consumer.open().await.expect("a consumer");
        for number in 0..3 {
            let delivery = within("a message", upper.next()).await.expect("one").expect("whole");
            assert_eq!(delivery.message.body, format!("Orders-{number}"));
            delivery.ack().expect("in time");
        }
        let has = serde_json::json!({ "Orders": ["billing"], "orders": [] });
        registry.until("the channel is told", |nodes| nodes[0]["topics"] == has).await;
        let client = Client::connect(&node.address().to_string()).await.expect("connected");
        client.admin().delete_topic("Orders").await.expect("deleted");
        let has = serde_json::json!({ "orders": [] });
        registry.until("one is gone", |nodes| nodes[0]["topics"] == has).await;
        let mut lower = client.consumer("orders", "billing").await.expect("a consumer");
        for number in 0..3 {
            let delivery = within("a message", lower.next()).await.expect("one").expect("whole");
            assert_eq!(delivery.message.body, format!("orders-{number}"));
            delivery.ack().expect("in time");
        }
        assert!(node.terminate().await.expect("it ends").success());
        registry.until("the node is gone", are(&[])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_of_a_registry_stands_in_its_page_and_every_one_there_is_shown() {
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let (_, metrics) = registry.get("/metrics", None).await.expect("figures");
    let shown: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let page = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        let page = std::fs::read_to_string(path).expect("the page");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells =
            rows.filter_map(|row| row.trim_matches('|').split('|').next().map(str::to_owned));
        let names = cells.flat_map(|cell| {
            cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
        });
        names.filter(|name| name.starts_with("ltq_")).collect::<BTreeSet<_>>()
    };
    let (own, of_nodes) = (page("registry.md"), page("operations.md"));
    for name in &own {
        assert!(shown.contains(&**name), "{name} is not shown");
    }
    for name in shown.iter().filter(|name| name.starts_with("ltq_")) {
        assert!(own.contains(*name) || of_nodes.contains(*name), "{name} stands nowhere");
        assert!(!name.starts_with("ltq_registry_") || own.contains(*name), "{name} is no node's");
    }
}

/// By the file and SIGHUP, and by the file alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_registry_takes_over_tokens_and_identities() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, socket) = (folder.path().join("registry.toml"), folder.path().join("r.sock"));
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("token = \"old\"\n");
    let unix = format!("unix://{}", socket.display());
    let more = ["--config", file.to_str().expect("text"), "--listen", &unix];
    let registry = RegistryProcess::start(0, &more).await.expect("a registry");
    let at = registry.address().to_string();
    let status = async |token: &str| registry.get("/nodes", Some(token)).await.expect("it").0;
    // Who brings no token is whoever the socket says it is.
    let registries = Registries::builder(Unix::default()).registry(&unix).build().expect("built");
    let is_known = async || match registries.watch(&Interest::Everything).await {
        Ok(_) => true,
        Err(DiscoveryError::Refused { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    let until = async |what: &str, token: &str, wanted: u16| {
        within(what, async {
            while status(token).await != wanted {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    assert_eq!((status("old").await, status("new").await), (200, 401));
    assert!(!is_known().await, "no identity is known yet");
    let more = ["--node", "n1", "--registry", &at, "--token", "old"];
    let _node = NodeProcess::start(&folder.path().join("n1"), 0, &more).await.expect("a node");
    let is_heard = async |token: &str, is: bool| {
        within("the node", async {
            loop {
                let (status, body) = registry.get("/nodes", Some(token)).await.expect("an answer");
                assert_eq!(status, 200);
                let nodes: Vec<Value> = serde_json::from_str(&body).expect("nodes");
                if nodes.iter().any(|node| node["suspected"] == !is) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    is_heard("old", true).await;
    // A token that is taken away ends the sessions that it was brought to.
    write("token = \"new\"\n");
    registry.hang_up().expect("told");
    until("the new token counts", "new", 200).await;
    assert_eq!(status("old").await, 401);
    is_heard("new", false).await;
    let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).expect("it"));
    write(&format!(
        "token = \"newer\"\n[[identities]]\nidentity = \"uid:{user}\"\nadminister = [\"*\"]\n"
    ));
    until("the file is looked at", "newer", 200).await;
    assert!(is_known().await, "the identity counts");
    // What cannot be taken over leaves everything as it is.
    write("token = 7\n");
    registry.hang_up().expect("told");
    within("the failure is shown", async {
        while !registry
            .get("/metrics", Some("newer"))
            .await
            .is_ok_and(|(_, figures)| figures.contains("\nltq_config_reload_failed 1"))
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!((status("newer").await, status("new").await), (200, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_this_machine_is_reached_by_its_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("unix://{}", folder.path().join("r.sock").display());
    let registry = RegistryProcess::start(0, &["--listen", &unix]).await.expect("a registry");
    let more = ["--node", "n1", "--registry", &unix];
    let node = NodeProcess::start(&folder.path().join("n1"), 0, &more).await.expect("a node");
    let ltq = async |arguments: &[&str]| {
        let output = Command::new(binary("ltq")).args(arguments).output().await;
        output.expect("ltq runs")
    };
    within("the node is there", async {
        loop {
            let told = ltq(&["nodes", "--registry", &unix, "--json"]).await;
            let text = String::from_utf8_lossy(&told.stderr).into_owned();
            assert!(told.status.success(), "{text}");
            if String::from_utf8_lossy(&told.stdout).contains("n1") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let told = ltq(&["pub", "--registry", &unix, "greetings", "hello"]).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    drop((node, registry));
}
