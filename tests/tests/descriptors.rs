//! Too few descriptors: a node and a registry keep to what they have, and what a node's store lacked passes.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Client, Message, Producer, PublishError, RefusalCode};
use ltq_core::Address;
use ltq_tests::{NodeProcess, Process, RegistryProcess, ServesHttp, binary, within};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

const BODY_BYTES: usize = 200_000;

async fn publish(producer: &Producer) -> Result<(), PublishError> {
    let message = Message::new(vec![7; BODY_BYTES]);
    within("a receipt", producer.send(message)).await.map(|_| ())
}

/// Of the node's own figures.
async fn figure<R: ServesHttp>(node: &Process<R>, name: &str) -> u64 {
    let text = node.until_answer("/metrics", |status, _| status == 200).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

fn open_files<R>(node: &Process<R>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid().expect("a process"))).expect("its files").count()
}

/// A program that may have so many descriptors, whose log goes to this file.
fn shell_with(limit: u64, log: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(binary("ltq-node"));
    shell.stderr(Stdio::from(fs::File::create(log).expect("a log")));
    shell
}

async fn node_with(limit: u64, data: &Path, log: &Path) -> NodeProcess {
    let mut shell = shell_with(limit, log);
    // Strangers may take all places, and not only those of who has said nothing.
    shell.env("LTQ_LIMITS_GREETING_CONNECTIONS_MAX", "10000");
    shell.env("LTQ_LIMITS_GREETING_CONNECTIONS_PER_ADDRESS_MAX", "10000");
    let here = Address::new("tcp", "127.0.0.1:0");
    NodeProcess::start_by(shell, data, &here, &["--http", "127.0.0.1:0"]).await.expect("a node")
}

/// Strangers that connect, say nothing, and come again when they are cut off, until told to stop; one each `pace`.
fn silent(pace: Duration, port: u16, over: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let over = over.clone();
    tokio::spawn(async move {
        let (mut open, mut came) = (Vec::new(), 0);
        while !over.load(Relaxed) {
            sleep(pace).await;
            match timeout(Duration::from_secs(1), TcpStream::connect(("127.0.0.1", port))).await {
                Ok(Ok(stream)) if open.len() < 600 => {
                    open.push(stream);
                    came += 1;
                }
                _ => {
                    let is_open = |it: &TcpStream| {
                        it.try_read(&mut [0])
                            .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
                    };
                    open.retain(is_open);
                    tokio::task::yield_now().await;
                }
            }
        }
        came
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_strangers_who_take_all_connections_leave_the_store_what_it_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let node = node_with(300, &folder.path().join("data"), &log).await;
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let producer = client.producer("t").await.expect("a producer");
    publish(&producer).await.expect("stored");
    // The warning says what it may have, what it would need, and what it does instead.
    let said = fs::read_to_string(&log).expect("a log");
    let line =
        said.lines().find(|line| line.contains("ulimit -n")).unwrap_or_else(|| panic!("{said}"));
    let most = figure(&node, "ltq_connections_max").await;
    for part in ["limit=300", "needed=20928", &format!("connections_max={most}")] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!((60..200).contains(&most), "{most}");
    assert!(figure(&node, "ltq_http_connections_max").await < 40);

    let over = Arc::new(AtomicBool::new(false));
    let strangers: Vec<_> = (0..2).map(|_| silent(Duration::ZERO, node.port(), &over)).collect();
    // All places are taken.
    within("the last place", async {
        while figure(&node, "ltq_connections_refused_total").await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Through some files of the journal.
    let mut open = 0;
    for at in 0..150 {
        publish(&producer).await.unwrap_or_else(|error| panic!("publish {at}: {error}"));
        open = open.max(open_files(&node));
    }
    assert!(open < 300, "{open} files are open");
    assert_eq!(figure(&node, "ltq_file_store_shortages_total").await, 0);
    assert_eq!(figure(&node, "ltq_store_healthy").await, 1);
    over.store(true, Relaxed);
    for stranger in strangers {
        assert!(stranger.await.expect("it ends") > 60);
    }
    publish(&producer).await.expect("stored");
    assert!(node.terminate().await.expect("it ends").success());
}

/// A registry meets the same as a node: who says nothing takes the places of others that say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_strangers_at_a_registry_of_few_descriptors_keep_no_node_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let here = Address::new("tcp", "127.0.0.1:0");
    let shell = shell_with(300, &log);
    let registry = RegistryProcess::start_by(shell, &here, &[]).await.expect("a registry");
    let most = figure(&registry, "ltq_connections_max").await;
    assert!((60..280).contains(&most), "{most}");
    assert!(figure(&registry, "ltq_http_connections_max").await < 40);
    let said = fs::read_to_string(&log).expect("a log");
    let line =
        said.lines().find(|line| line.contains("ulimit -n")).unwrap_or_else(|| panic!("{said}"));
    for part in ["limit=300", "needed=20640", &format!("connections_max={most}")] {
        assert!(line.contains(part), "{part} is not in {line}");
    }

    let over = Arc::new(AtomicBool::new(false));
    // No limit by address is between them and the node on one machine: more than the places that become free in a
    // second, and not so many that each is theirs by being asked for a hundred times.
    let pace = Duration::from_millis(25);
    let strangers: Vec<_> = (0..2).map(|_| silent(pace, registry.port(), &over)).collect();
    within("strangers that give way, and that are refused", async {
        while figure(&registry, "ltq_connections_crowded_out_total").await == 0
            || figure(&registry, "ltq_connections_refused_greeting_total").await == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let at = registry.address().to_string();
    let more = ["--node", "n1", "--registry", &at];
    let node = NodeProcess::start(&folder.path().join("n1"), 0, &more).await.expect("a node");
    registry.until("n1 is there", |nodes| nodes.len() == 1).await;
    assert!(figure(&registry, "ltq_connections_greeting").await <= most / 4);
    assert_eq!(figure(&registry, "ltq_connections_refused_total").await, 0, "there were places");
    let open = open_files(&registry);
    assert!(open < 300, "{open} files are open");
    over.store(true, Relaxed);
    let mut came = 0;
    for stranger in strangers {
        came += stranger.await.expect("it ends");
    }
    assert!(came > most / 4, "{came} came");
    assert!(node.terminate().await.expect("it ends").success());
    assert!(registry.terminate().await.expect("it ends").success());
}

/// The most descriptors that a process may have open, by their numbers.
fn limit_descriptors(node: &NodeProcess, most: u64) {
    let pid = node.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let limit = Rlimit { current: Some(most), maximum: Some(4096) };
    prlimit(pid, Resource::Nofile, limit).expect("a limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_a_store_without_descriptors_takes_messages_again_when_there_are_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = ["--http", "127.0.0.1:0"];
    let node = NodeProcess::start(&folder.path().join("data"), 0, &more).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let producer = client.producer("t").await.expect("a producer");
    let mut stored = 0;
    publish(&producer).await.expect("stored");
    stored += 1;
    for round in 1..=2 {
        // It cannot be connected to meanwhile.
        let http = node.said("http://").expect("HTTP").trim_start_matches("http://");
        let mut http = TcpStream::connect(http).await.expect("connected");
        // By its answer the node says that it has taken the connection in.
        http.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("asked");
        let mut taken = [0; 4_096];
        assert!(within("a first answer", http.read(&mut taken)).await.expect("an answer") > 0);
        limit_descriptors(&node, 3);
        let refusal = within("the journal's end", async {
            loop {
                match publish(&producer).await {
                    Ok(()) => stored += 1,
                    Err(error) => return error,
                }
            }
        })
        .await;
        assert_eq!(refusal.refusal().map(|it| it.code), Some(RefusalCode::StoreFull), "{refusal}");
        assert!(refusal.to_string().contains("Too many open files"), "{refusal}");
        http.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .expect("asked");
        let mut answer = String::new();
        within("an answer", http.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.contains(" 503 ") && answer.contains("store_full"), "{answer}");

        limit_descriptors(&node, 4096);
        within("publishing again", async {
            while let Err(error) = publish(&producer).await {
                let code = error.refusal().map(|refusal| refusal.code);
                assert_eq!(code, Some(RefusalCode::StoreFull), "{error}");
                sleep(Duration::from_millis(20)).await;
            }
            stored += 1;
        })
        .await;
        node.until_answer("/readyz", |status, _| status == 200).await;
        assert!(figure(&node, "ltq_file_store_shortages_total").await >= round);
        within("its descriptors", async {
            while figure(&node, "ltq_file_store_spare_descriptors").await < 8 {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(figure(&node, "ltq_file_store_short").await, 0);
        assert_eq!(figure(&node, "ltq_store_healthy").await, 1);
    }
    within("the deliveries", async {
        for at in 0..stored {
            let delivery = consumer.next().await.expect("one more").expect("a delivery");
            assert!(delivery.offset().0 == at && delivery.message.body.len() == BODY_BYTES);
            delivery.ack_confirmed().await.expect("acked");
        }
    })
    .await;
    assert!(node.terminate().await.expect("it ends").success());
}
