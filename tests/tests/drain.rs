//! Nodes that are drained before they stop, as real processes: they are told to registries first, take in
//! nothing more, and end once what they have is consumed or handed over; what is left then is kept.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use ltq_client::{Client, Consumer, Message, PublishError, RefusalCode, StartAt};
use ltq_tests::{NodeProcess, RegistryProcess, binary, within};
use tokio::process::Command;

/// Within this a node that has three hundred topics has handed them over and ended. A look a second at one topic after
/// the other would take minutes.
const SOON: Duration = Duration::from_secs(15);

async fn node(folder: &Path, name: &str, more: &[&str]) -> NodeProcess {
    NodeProcess::start(&folder.join(name), 0, more).await.expect("a node")
}

/// `ltq-node drain` of a node, on its way.
fn drain(node: &NodeProcess, more: &[&str]) -> tokio::task::JoinHandle<Output> {
    let mut command = Command::new(binary("ltq-node"));
    command.arg("drain").args(["--server", &node.address().to_string()]).args(more);
    command.env_remove("LTQ_SERVER").env_remove("LTQ_TOKEN").stdin(Stdio::null());
    command.kill_on_drop(true);
    tokio::spawn(async move { command.output().await.expect("the command") })
}

async fn done(command: tokio::task::JoinHandle<Output>) -> (Option<i32>, String) {
    let output = within("the command's end", command).await.expect("no panic");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

async fn client(node: &NodeProcess) -> Client {
    Client::connect(&node.address().to_string()).await.expect("connected")
}

async fn publish(client: &Client, topic: &str, numbers: std::ops::Range<u32>) {
    let producer = client.producer(topic).await.expect("a producer");
    let messages = numbers.map(|number| Message::new(number.to_string()));
    producer.send_batch(messages).await.expect("stored");
}

/// Takes and acks so many messages; says how often each body came.
async fn take(consumer: &mut Consumer, count: usize) -> BTreeMap<String, u32> {
    let mut taken = BTreeMap::new();
    for _ in 0..count {
        let delivery = within("a message", consumer.next()).await.expect("one").expect("whole");
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        *taken.entry(body).or_default() += 1;
        delivery.ack_confirmed().await.expect("acked");
    }
    taken
}

async fn until_it_refuses(client: &Client, topic: &str) {
    let producer = client.producer(topic).await.expect("a producer");
    within("it takes in nothing more", async {
        loop {
            match producer.send(Message::new("late")).await {
                Ok(_) => {}
                Err(PublishError::Refused { refusal, .. }) => {
                    assert_eq!(refusal.code, RefusalCode::Draining);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

async fn depth(client: &Client, topic: &str) -> u64 {
    client.admin().show_topic(topic).await.expect("it").channels.iter().map(|it| it.backlog()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_a_drained_node_is_told_and_ends_when_its_consumers_are_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = RegistryProcess::start(0, &[]).await.expect("a registry");
    let at = registry.address().to_string();
    let first = node(folder.path(), "n1", &["--node", "n1", "--registry", &at]).await;
    registry.until("it is there", |nodes| nodes.len() == 1).await;
    let client = client(&first).await;
    client.admin().create_channel("orders", "billing", StartAt::Earliest).await.expect("made");
    publish(&client, "orders", 0..300).await;
    let command = drain(&first, &[]);
    registry.until("it drains", |nodes| nodes[0]["state"] == "draining").await;
    until_it_refuses(&client, "orders").await;
    let stats = client.admin().stats().await.expect("figures");
    assert!(stats.is_draining);
    // A new topic is refused, and a new consumer is not.
    let made = client.admin().create_topic("new", Default::default()).await;
    assert!(made.expect_err("refused").to_string().contains("draining"));
    let count = usize::try_from(depth(&client, "orders").await).expect("few");
    let mut consumer = client.consumer("orders", "billing").await.expect("a consumer");
    take(&mut consumer, count).await;
    let (code, said) = done(command).await;
    assert!(code == Some(0) && said.contains("drained"), "{code:?}: {said}");
    assert!(first.ended().await.expect("it ends").success());
    registry.until("it is withdrawn", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_backlog_is_handed_over_whole_to_the_first_node_that_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) =
        (node(folder.path(), "n1", &[]).await, node(folder.path(), "n2", &[]).await);
    let (from, to) = (client(&first).await, client(&second).await);
    for channel in ["a", "b"] {
        from.admin().create_channel("orders", channel, StartAt::Earliest).await.expect("made");
    }
    from.admin().create_channel("other", "a", StartAt::Earliest).await.expect("made");
    publish(&from, "orders", 0..500).await;
    publish(&from, "other", 0..50).await;
    // Somebody was there already, and has read it.
    to.admin().create_channel("orders", "b", StartAt::Earliest).await.expect("made");
    publish(&to, "orders", 1_000..1_010).await;
    let mut there = to.consumer("orders", "b").await.expect("a consumer");
    take(&mut there, 10).await;
    let mut here = from.consumer("orders", "a").await.expect("a consumer");
    take(&mut here, 200).await;
    here.close().await.expect("closed");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody_at = nobody.local_addr().expect("an address").to_string();
    drop(nobody);
    let address = second.address().to_string();
    let command = drain(&first, &["--to", &nobody_at, "--to", &address]);
    let (code, said) = done(command).await;
    assert!(code == Some(0) && said.contains("drained"), "{code:?}: {said}");
    assert!(first.ended().await.expect("it ends").success());
    // Each channel sees what it had still to see; one that was ahead of another sees what that has.
    let taken = take(&mut there, 500).await;
    assert!((0..500).all(|number| taken.get(&number.to_string()) == Some(&1)), "{taken:?}");
    let mut ahead = to.consumer("orders", "a").await.expect("a consumer");
    let taken = take(&mut ahead, 500).await;
    assert!((200..500).all(|number| taken.get(&number.to_string()) == Some(&1)), "{taken:?}");
    let mut other = to.consumer("other", "a").await.expect("a consumer");
    assert_eq!(take(&mut other, 50).await.len(), 50);
    assert_eq!(depth(&to, "orders").await + depth(&to, "other").await, 0, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_backlog_is_handed_over_by_quic_and_by_a_unix_socket_as_by_tcp() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix://{}", folder.path().join("n2.sock").display());
    let more = ["--listen", "quic://127.0.0.1:0", "--listen", &socket, "--dev-tls"];
    let more = [&more[..], &["--http", "127.0.0.1:0"]].concat();
    let second = node(folder.path(), "n2", &more).await;
    let to = client(&second).await;
    let config = folder.path().join("n1.toml");
    let fingerprint = second.fingerprint().expect("a certificate");
    let text = format!("[drain]\ntls_fingerprint = \"{fingerprint}\"\n");
    std::fs::write(&config, text).expect("written");
    let config = ["--config", config.to_str().expect("a path in words")];
    let quic = second.said("quic://").expect("QUIC").to_owned();
    for (topic, address) in [("by-quic", &quic), ("by-unix", &socket)] {
        let first = node(folder.path(), topic, &config).await;
        let from = client(&first).await;
        from.admin().create_channel(topic, "a", StartAt::Earliest).await.expect("made");
        publish(&from, topic, 0..300).await;
        let (code, said) = done(drain(&first, &["--to", address])).await;
        assert!(code == Some(0) && said.contains("drained"), "{code:?}: {said}");
        assert!(first.ended().await.expect("it ends").success());
        let mut there = to.consumer(topic, "a").await.expect("a consumer");
        let taken = take(&mut there, 300).await;
        assert!((0..300).all(|number| taken.get(&number.to_string()) == Some(&1)), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_node_that_is_killed_while_it_takes_a_backlog_loses_none_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = node(folder.path(), "n1", &[]).await;
    let mut others = Vec::new();
    for name in ["n2", "n3"] {
        others.push(node(folder.path(), name, &[]).await);
    }
    let from = client(&first).await;
    from.admin().create_channel("orders", "a", StartAt::Earliest).await.expect("made");
    let count = 20_000;
    publish(&from, "orders", 0..count).await;
    let to: Vec<_> = others.iter().map(|it| it.address().to_string()).collect();
    let command = drain(&first, &["--to", &to[0], "--to", &to[1]]);
    let begun = within("one of them has some", async {
        loop {
            for (index, other) in others.iter().enumerate() {
                let topic = client(other).await.admin().show_topic("orders").await;
                if topic.is_ok_and(|topic| topic.end.0 > 0) {
                    return index;
                }
            }
        }
    })
    .await;
    let killed = others.remove(begun);
    let port = killed.port();
    killed.kill().await.expect("killed");
    let (code, said) = done(command).await;
    assert!(code == Some(0) && said.contains("drained"), "{code:?}: {said}");
    assert!(first.ended().await.expect("it ends").success());
    let name = ["n2", "n3"][begun];
    let back = NodeProcess::start(&folder.path().join(name), port, &[]).await.expect("a node");
    others.push(back);
    let mut found = BTreeMap::new();
    for other in &others {
        let client = client(other).await;
        if client.admin().list_topics().await.expect("topics").is_empty() {
            continue;
        }
        let held = usize::try_from(depth(&client, "orders").await).expect("few");
        let mut consumer = client.consumer("orders", "a").await.expect("a consumer");
        for _ in 0..held {
            let delivery = within("a message", consumer.next()).await.expect("one").expect("whole");
            let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
            *found.entry(body).or_insert(0_u32) += 1;
            delivery.ack().expect("in time");
        }
    }
    let missing: Vec<_> = (0..count).filter(|it| !found.contains_key(&it.to_string())).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    let twice = found.values().filter(|times| **times > 1).count();
    println!("{twice} of {count} are on both, for the answer that the killed one did not give");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_what_a_drain_could_not_give_away_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("ltq.toml");
    std::fs::write(&config, "[drain]\non_signal = true\ntimeout = \"2s\"\n").expect("written");
    let more = ["--config", config.to_str().expect("a path")];
    let first = node(folder.path(), "n1", &more).await;
    let from = client(&first).await;
    from.admin().create_channel("orders", "a", StartAt::Earliest).await.expect("made");
    publish(&from, "orders", 0..100).await;
    first.tell_to_end().expect("told");
    until_it_refuses(&from, "orders").await;
    // Not ended by the first signal, nor cleanly after two seconds with less than it had.
    let held = depth(&from, "orders").await;
    assert!(held >= 100, "{held}");
    assert!(first.ended().await.expect("it ends").success());
    // This one would take an hour to be drained.
    std::fs::write(&config, "[drain]\non_signal = true\ntimeout = \"1h\"\n").expect("written");
    let again = node(folder.path(), "n1", &more).await;
    let client = client(&again).await;
    assert_eq!(depth(&client, "orders").await, held);
    // A drain that is taken back: the node takes in again.
    let (code, said) = done(drain(&again, &["--within", "1h", "--no-wait"])).await;
    assert_eq!(code, Some(0), "{said}");
    until_it_refuses(&client, "orders").await;
    let (code, said) = done(drain(&again, &["--cancel"])).await;
    assert_eq!(code, Some(0), "{said}");
    let producer = client.producer("orders").await.expect("a producer");
    within("it takes in again", async {
        while producer.send(Message::new("again")).await.is_err() {}
    })
    .await;
    // And with a second signal it does not wait for the drain to be over.
    again.tell_to_end().expect("told");
    until_it_refuses(&client, "orders").await;
    let ended = within("it ends", again.terminate()).await.expect("it ends");
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_node_that_keeps_less_than_was_promised_is_handed_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = node(folder.path(), "n1", &[]).await;
    let in_memory = node(folder.path(), "n2", &["--store", "memory"]).await;
    let weak = node(folder.path(), "n3", &["--durability", "os"]).await;
    let from = client(&first).await;
    for topic in ["orders", "others"] {
        from.admin().create_channel(topic, "a", StartAt::Earliest).await.expect("made");
        publish(&from, topic, 0..100).await;
    }
    // A topic that is there already, and confirms sooner than the first node did.
    client(&weak).await.admin().create_topic("orders", Default::default()).await.expect("made");
    let to = [in_memory.address().to_string(), weak.address().to_string()];
    let more = ["--to", &to[0], "--to", &to[1], "--within", "8s"];
    let (_, said) = done(drain(&first, &more)).await;
    assert!(said.contains("left"), "{said}");
    first.ended().await.expect("it ends");
    let port = weak.port();
    weak.kill().await.expect("killed");
    let data = folder.path().join("n3");
    let weak = NodeProcess::start(&data, port, &["--durability", "os"]).await.expect("a node");
    let first = node(folder.path(), "n1", &[]).await;
    let (here, there) = (client(&first).await, client(&weak).await);
    for topic in ["orders", "others"] {
        let left = depth(&here, topic).await;
        let handed = match there.admin().show_topic(topic).await {
            Ok(stats) => stats.end.0 - stats.first.0,
            Err(_) => 0,
        };
        assert!(left + handed >= 100, "{topic}: {left} here, {handed} there");
    }
    // In memory is no place for what was on disk.
    assert_eq!(client(&in_memory).await.admin().stats().await.expect("figures").backlog(), 0);
}

/// A node whose log is in a file beside its data.
async fn logged(folder: &Path, name: &str, more: &[&str]) -> (NodeProcess, impl Fn() -> String) {
    let at = folder.join(format!("{name}.log"));
    let file = std::fs::File::create(&at).expect("a file");
    let mut command = std::process::Command::new(binary("ltq-node"));
    command.stderr(file);
    let listen = "tcp://127.0.0.1:0".parse().expect("an address");
    let node = NodeProcess::start_by(command, &folder.join(name), &listen, more).await;
    (node.expect("a node"), move || std::fs::read_to_string(&at).expect("a log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_node_takes_is_told_by_the_log_by_drain_and_by_a_figure() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, log) = logged(folder.path(), "n1", &["--http", "127.0.0.1:0"]).await;
    let small = folder.path().join("small.toml");
    std::fs::write(&small, "[limits]\nmessage_bytes_max = \"64KiB\"\n").expect("written");
    let small = small.to_str().expect("a path");
    let second = node(folder.path(), "n2", &["--config", small]).await;
    let from = client(&first).await;
    from.admin().create_channel("orders", "a", StartAt::Earliest).await.expect("made");
    publish(&from, "orders", 0..10).await;
    let producer = from.producer("orders").await.expect("a producer");
    producer.send(Message::new(vec![7; 100_000])).await.expect("stored");
    publish(&from, "orders", 11..13).await;
    let address = second.address().to_string();
    let command = drain(&first, &["--to", &address, "--within", "6s"]);
    let is_told = |_, body: &str| body.contains("\nltq_held_up_topics 1\n");
    first.until_answer("/metrics", is_told).await;
    let (code, said) = done(command).await;
    assert_eq!(code, Some(1), "{said}");
    let told = format!("not handed over: orders from 10 on, a message of 100001 bytes: {address}");
    assert!(said.contains(&told) && said.contains("65536"), "{said}");
    assert_eq!(said.matches("not handed over").count(), 1, "{said}");
    assert!(said.contains("3 messages left, which it keeps"), "{said}");
    assert!(first.ended().await.expect("it ends").success());
    assert_eq!(depth(&client(&second).await, "orders").await, 10);
    let log = log();
    let of_it: Vec<_> = log.lines().filter(|line| line.contains("100001 bytes")).collect();
    assert!(of_it.len() == 1 && of_it[0].contains("WARN"), "{log}");
    let left: Vec<_> = log.lines().filter(|line| line.contains("orders/a (3)")).collect();
    assert!(left.last().is_some_and(|line| line.contains("WARN")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_of_many_topics_ends_soon_and_one_that_is_asked_for_again_sends_nothing_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) =
        (node(folder.path(), "n1", &[]).await, node(folder.path(), "n2", &[]).await);
    let (from, to) = (client(&first).await, client(&second).await);
    for topic in 0..300 {
        let topic = format!("t{topic}");
        from.admin().create_channel(topic.as_str(), "a", StartAt::Earliest).await.expect("made");
        publish(&from, &topic, 0..1).await;
    }
    from.admin().create_channel("large", "a", StartAt::Earliest).await.expect("made");
    from.admin().create_channel("large", "b", StartAt::Earliest).await.expect("made");
    for _ in 0..5 {
        publish(&from, "large", 0..4_000).await;
    }
    // What this one takes keeps the node from ending while it is asked again.
    from.admin().create_channel("taken", "a", StartAt::Earliest).await.expect("made");
    publish(&from, "taken", 0..1).await;
    let taking = from.consumer("taken", "a");
    let mut taking = taking.await.expect("a consumer");
    let taken = within("a message", taking.next()).await.expect("one").expect("whole");
    let address = second.address().to_string();
    let began = Instant::now();
    let command = drain(&first, &["--to", &address]);
    within("it is under way", async {
        while !to.admin().show_topic("large").await.is_ok_and(|topic| topic.end.0 > 0) {}
    })
    .await;
    // The same once more, and otherwise.
    for more in [&[][..], &["--within", "1m"]] {
        let more = [&["--to", &address, "--no-wait"], more].concat();
        let (code, said) = done(drain(&first, &more)).await;
        assert!(code == Some(0) && said.contains("drains"), "{code:?}: {said}");
    }
    taken.ack_confirmed().await.expect("acked");
    let (code, said) = done(command).await;
    assert!(code == Some(0) && said.contains("drained"), "{code:?}: {said}");
    first.ended().await.expect("it ends");
    let took = began.elapsed();
    assert!(took < SOON, "it took {took:?}");
    let mut stored = BTreeMap::new();
    for topic in to.admin().stats().await.expect("figures").topics {
        stored.insert(topic.topic.to_string(), topic.end.0);
    }
    let large = stored.remove("large").expect("it is there");
    // What was under way when it was told to go on otherwise may be twice: one publish each of two times.
    assert!((20_000..=20_000 + 2 * 1_000).contains(&large), "{large}");
    stored.remove("taken");
    assert_eq!(stored.len(), 300);
    for (topic, stored) in stored {
        assert!((1..=3).contains(&stored), "{topic}: {stored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_makes_no_sense_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = node(folder.path(), "n1", &[]).await;
    let (code, said) = done(drain(&first, &["--to", "://"])).await;
    assert!(code == Some(1) && said.contains("is no address"), "{code:?}: {said}");
    let (code, said) = done(drain(&first, &["--within", "soon"])).await;
    assert!(code == Some(2) && said.contains("soon"), "{code:?}: {said}");
    let tokens = ["--token", "secret"];
    let locked = node(folder.path(), "n2", &tokens).await;
    let (code, said) = done(drain(&locked, &[])).await;
    assert!(code == Some(1) && said.contains("unauthorized"), "{code:?}: {said}");
    let (code, said) = done(drain(&locked, &["--cancel", "--token", "secret"])).await;
    assert_eq!(code, Some(0), "{said}");
}
