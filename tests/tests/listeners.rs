//! What keeps a node from taking connections in passes, and then it takes them in.
#![cfg(target_os = "linux")]

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use ltq_client::Client;
use ltq_tests::{NodeProcess, require, skipped, within};
use ltq_transport::ClientTrust;
use rustix::{
    net::{Shutdown, getsockname, shutdown, sockopt},
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_getfd, pidfd_open, prlimit,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// A path of the node's HTTP interface: what it answers.
async fn http(node: &NodeProcess, path: &str) -> io::Result<String> {
    let at = node.said("http://").expect("HTTP");
    let at: SocketAddr = at.trim_start_matches("http://").parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn published(client: &Client) {
    let producer = within("a producer", client.producer("t")).await.expect("a producer");
    let message = ltq_client::Message::new("x");
    within("a receipt", producer.send(message)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_whose_file_somebody_removes_is_there_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ltq.sock");
    let socket = format!("unix://{}", path.display());
    let more = ["--listen", &socket, "--http", "127.0.0.1:0"];
    let node = NodeProcess::start(&folder.path().join("data"), 0, &more).await.expect("a node");
    let before = within("connecting", Client::connect(&socket)).await.expect("connected");
    published(&before).await;
    for round in 1..=2 {
        fs::remove_file(&path).expect("it was there");
        within("the socket to come back", async {
            while !path.exists() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let after = within("connecting", Client::connect(&socket)).await.expect("connected");
        published(&after).await;
        // Whoever was connected stays so.
        published(&before).await;
        let metrics = http(&node, "/metrics").await.expect("metrics");
        let line = format!("\nltq_listener_reopened_total {round}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// Shuts down the socket by which the node listens there, as nobody but the system can otherwise.
fn shut_down(node: &NodeProcess, at: SocketAddr) -> io::Result<()> {
    let pid = node.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| io::Error::other("it has ended"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))? {
        let number = entry?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        let Ok(descriptor) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let is_it = sockopt::socket_acceptconn(&descriptor).unwrap_or(false)
            && getsockname(&descriptor).is_ok_and(|it| SocketAddr::try_from(it) == Ok(at));
        if is_it {
            return Ok(shutdown(&descriptor, Shutdown::Both)?);
        }
    }
    Err(io::Error::other("it does not listen there"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_socket_fails_for_good_is_there_again_that_of_http_among_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node_of_all(&folder.path().join("data")).await;
    let at = |start: &str| -> SocketAddr {
        let said = node.said(start).expect("it listens").trim_start_matches(start);
        said.parse().expect("in numbers")
    };
    let before = Client::connect(&node.address().to_string()).await.expect("connected");
    for (reopened, scheme) in ["tcp://", "tls://", "http://"].into_iter().enumerate() {
        match shut_down(&node, at(scheme)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                skipped(require::SOCKETS, "listeners whose sockets fail", &error);
                return;
            }
            Err(error) => panic!("{scheme}: {error}"),
        }
        // It counts when it listens again: nobody has to see the time between.
        let line = format!("\nltq_listener_reopened_total {}\n", reopened + 1);
        node.until_answer("/metrics", |_, body| body.contains(&line)).await;
        TcpStream::connect(at(scheme)).await.expect("it listens again");
    }
    published(&before).await;
    published(&Client::connect(&node.address().to_string()).await.expect("connected")).await;
    assert!(node.terminate().await.expect("it ends").success());
}

/// The most descriptors that a process may have open, by their numbers.
fn limit_descriptors(node: &NodeProcess, most: Option<u64>) {
    let pid = node.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let of = |current| Rlimit { current, maximum: Some(4096) };
    prlimit(pid, Resource::Nofile, of(most)).expect("a limit");
}

/// The number that its next one would have.
fn next_descriptor(node: &NodeProcess) -> u64 {
    let folder = format!("/proc/{}/fd", node.pid().expect("a process"));
    (0..).find(|number| !Path::new(&format!("{folder}/{number}")).exists()).expect("one")
}

async fn node_of_all(data: &Path) -> NodeProcess {
    let more = ["--listen", "tls://127.0.0.1:0", "--listen", "quic://127.0.0.1:0", "--dev-tls"];
    let more: Vec<_> = more.into_iter().chain(["--http", "127.0.0.1:0"]).collect();
    NodeProcess::start(data, 0, &more).await.expect("a node")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_a_node_that_runs_out_of_descriptors_takes_connections_in_when_it_has_some_again()
 {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node_of_all(&folder.path().join("data")).await;
    let trust = || {
        let fingerprint = node.fingerprint().expect("a certificate").parse().expect("one");
        ClientTrust::fingerprint(fingerprint).expect("trust")
    };
    let tcp = node.address().to_string();
    let (tls, quic) = (node.said("tls://").expect("TLS"), node.said("quic://").expect("QUIC"));
    let connect_within = |server: &str, seconds| {
        let builder = Client::builder().server(server).trust(trust());
        builder.connect_timeout(Duration::from_secs(seconds)).connect()
    };
    let connect = |server: &str| connect_within(server, 20);
    let before = connect(&tcp).await.expect("connected");
    published(&before).await;

    limit_descriptors(&node, Some(next_descriptor(&node)));
    // What it closes meanwhile is taken by these; the system completes the others by itself.
    let mut filling = Vec::new();
    for _ in 0..20 {
        filling.push(TcpStream::connect(("127.0.0.1", node.port())).await.expect("connected"));
    }
    for server in [&*tcp, tls] {
        assert!(connect_within(server, 2).await.is_err(), "{server}");
    }
    let asked = timeout(Duration::from_secs(1), http(&node, "/healthz")).await;
    assert!(!matches!(&asked, Ok(Ok(answer)) if answer.contains("200 OK")), "{asked:?}");
    // Those who are there are served, and a connection over QUIC needs no descriptor.
    published(&before).await;
    published(&connect(quic).await.expect("connected over QUIC")).await;

    limit_descriptors(&node, Some(4096));
    let freed = Instant::now();
    for server in [&*tcp, tls, quic] {
        published(&within("connecting", connect(server)).await.expect("connected")).await;
    }
    let answer = within("HTTP", http(&node, "/healthz")).await.expect("an answer");
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(freed.elapsed() < Duration::from_secs(15), "{:?}", freed.elapsed());
    drop(filling);
    assert!(node.terminate().await.expect("it ends").success());
}
