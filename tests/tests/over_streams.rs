//! Promises 9 and 10: a stream costs its peer next to nothing, so limits count over all streams of a
//! connection, and over all connections of an address and of the node. What may be open and unread is
//! reached here over many streams, is said or counted, and leaves others alone.

use std::{path::Path, time::Duration};

use ltq_core::{
    AdminRequest, BrokerSettings, Credit, Limit, Refusal, RefusalCode, TopicName, Transport,
    protocol::Frame,
};
use ltq_tests::{
    Distant, FAR, HERE, NodeProcess, OTHER, RawPeer, Served, bytes_of, stream, within,
};
use ltq_transport::{ClientTrust, Quic, QuicOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const CREDIT: Credit = Credit { messages: 10, bytes: 1 << 20 };
const KIB: usize = 1 << 10;

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// Asks for something that is opened or refused.
async fn ask(peer: &mut RawPeer, frame: Frame) -> Result<(), Refusal> {
    peer.send(frame).await;
    match peer.next().await {
        Some(Frame::Subscribed { .. } | Frame::ProducerOpened { .. }) => Ok(()),
        Some(Frame::SubscribeRefused { refusal, .. } | Frame::ProducerRefused { refusal, .. }) => {
            Err(refusal)
        }
        other => panic!("{other:?}"),
    }
}

async fn subscribe(peer: &mut RawPeer, handle: u32) -> Result<(), Refusal> {
    ask(peer, RawPeer::subscribe(handle, "t", "c", CREDIT)).await
}

async fn produce(peer: &mut RawPeer, handle: u32) -> Result<(), Refusal> {
    ask(peer, Frame::OpenProducer { handle, topic: name("t"), name: None, epoch: None, seat: None })
        .await
}

#[tokio::test(start_paused = true)]
async fn promise_10_subscriptions_and_producers_count_over_all_streams_of_a_connection() {
    let settings = BrokerSettings { subscriptions_max: 3, producers_max: 3, ..Served::settings() };
    let node = Distant::new(settings).await;
    let connection = node.connect(HERE).await;
    let (mut one, mut two) = (stream(&*connection).await, stream(&*connection).await);
    for handle in 1..=2 {
        subscribe(&mut one, handle).await.expect("a subscription");
        produce(&mut one, handle).await.expect("a producer");
    }
    subscribe(&mut two, 1).await.expect("a subscription");
    produce(&mut two, 1).await.expect("a producer");
    for refusal in [subscribe(&mut two, 2).await, produce(&mut two, 2).await] {
        let refusal = refusal.expect_err("there are three");
        assert_eq!(refusal.code, RefusalCode::LimitReached);
        assert!(refusal.detail.contains("connection") && refusal.detail.contains('3'), "{refusal}");
    }
    assert_eq!(node.reached(), [(Limit::Producers, 1), (Limit::Subscriptions, 1)]);
    // Another connection has its own.
    let other = node.connect(HERE).await;
    subscribe(&mut stream(&*other).await, 1).await.expect("a subscription");
    node.until_handles(6).await;
    // What a stream had is free when it ends, and what is closed at once.
    drop(one);
    node.until_handles(2).await;
    for handle in 2..=3 {
        subscribe(&mut two, handle).await.expect("a subscription");
        produce(&mut two, handle).await.expect("a producer");
    }
    two.send(Frame::CloseProducer { handle: 1, forget: false }).await;
    produce(&mut two, 4).await.expect("a producer");
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_each_subscription_leaves_a_connection_all_that_it_may_have() {
    let node = Distant::new(Served::settings()).await;
    let connection = node.connect(HERE).await;
    let mut streams = Vec::new();
    for nth in 0..256 {
        let mut peer = stream(&*connection).await;
        for handle in 0..16 {
            let answer = subscribe(&mut peer, handle).await;
            answer.unwrap_or_else(|refusal| panic!("{handle} of {nth}: {refusal}"));
        }
        streams.push(peer);
    }
    let last = streams.last_mut().expect("one");
    let refusal = subscribe(last, 16).await.expect_err("there are 4,096");
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert_eq!(node.reached(), [(Limit::Subscriptions, 1)]);
}

#[tokio::test(start_paused = true)]
async fn promise_10_operators_requests_count_over_all_streams_of_a_connection() {
    let settings = BrokerSettings { requests_max: 2, ..Served::settings() };
    let node = Distant::new(settings).await;
    let connection = node.connect(HERE).await;
    node.gate.send_replace(false);
    let mut streams = Vec::new();
    for nth in 0..3 {
        let mut peer = stream(&*connection).await;
        let topic = name(&format!("t{nth}"));
        let action = AdminRequest::CreateTopic { topic, options: Default::default() };
        peer.send(Frame::Admin { request: 1, action }).await;
        // What the stream asks is taken in before the next one begins.
        peer.send(Frame::Ping { nonce: 1 }).await;
        assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }));
        if nth == 2 {
            let answer = peer.next().await;
            let refused = matches!(answer, Some(Frame::AdminAnswered { result: Err(_), .. }));
            assert!(refused, "{answer:?}");
        }
        streams.push(peer);
    }
    assert_eq!(node.reached(), [(Limit::Requests, 1)]);
    // A stream that ends leaves its place to others.
    streams.remove(0);
    let mut next = stream(&*connection).await;
    node.gate.send_replace(true);
    next.send(Frame::Admin { request: 1, action: AdminRequest::ListTopics }).await;
    let answer = next.next().await;
    assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_address_has_its_part_of_what_all_may_have_open() {
    let settings = BrokerSettings {
        handles_total_max: 7,
        handles_per_address_max: Some(4),
        ..Served::settings()
    };
    let node = Distant::new(settings).await;
    let connections = [node.connect(FAR).await, node.connect(FAR).await];
    let mut far = [stream(&*connections[0]).await, stream(&*connections[1]).await];
    for peer in &mut far {
        subscribe(peer, 1).await.expect("a subscription");
        produce(peer, 1).await.expect("a producer");
    }
    let refusal = subscribe(&mut far[0], 2).await.expect_err("four are open");
    assert!(refusal.detail.contains("one address"), "{refusal}");
    let (other, here) = (node.connect(OTHER).await, node.connect(HERE).await);
    subscribe(&mut stream(&*other).await, 1).await.expect("a subscription");
    node.until_handles(4).await;
    let mut near = stream(&*here).await;
    for handle in 1..=3 {
        subscribe(&mut near, handle).await.expect("this machine has no part of its own");
    }
    let refusal = subscribe(&mut near, 4).await.expect_err("seven are open");
    assert!(refusal.detail.contains("the node has 7"), "{refusal}");
    assert_eq!(node.reached(), [(Limit::Handles, 1), (Limit::HandlesPerAddress, 1)]);
}

/// Bytes of pings that a broker takes from eight streams of a connection that read no answer.
async fn pings_taken(per_connection: usize) -> (usize, u64) {
    let settings = BrokerSettings {
        answer_bytes_max: 64 * KIB,
        answer_bytes_per_connection_max: Some(per_connection),
        futile_frames_max: u32::MAX,
        ..Served::settings()
    };
    let node = Distant::new(settings).await;
    let connection = node.connect(HERE).await;
    let ping = bytes_of(&Frame::Ping { nonce: u64::MAX });
    let pings = ping.repeat(16 * KIB / ping.len());
    let (mut taken, mut streams) = (0, Vec::new());
    for _ in 0..8 {
        let mut peer = stream(&*connection).await;
        while timeout(Duration::from_millis(100), peer.send_bytes(&pings)).await.is_ok() {
            taken += pings.len();
        }
        streams.push(peer);
    }
    let held = node.held_back("answer_bytes_per_connection_max");
    // Who reads is heard again.
    for peer in &mut streams {
        let mut pongs = 0;
        while let Ok(Some(frame)) = timeout(Duration::from_millis(100), peer.any()).await {
            pongs += usize::from(matches!(frame, Frame::Pong { .. }));
        }
        assert!(pongs > 0);
    }
    let last = streams.last_mut().expect("one");
    last.send_bytes(&ping).await.expect("taken");
    assert!(last.next().await.is_some());
    (taken, held)
}

#[tokio::test(start_paused = true)]
async fn promise_10_answers_that_are_not_read_count_over_all_streams_of_a_connection() {
    let (few, held) = pings_taken(64 * KIB).await;
    assert!(held > 0, "{few} bytes, never held back");
    let (many, held) = pings_taken(64 << 20).await;
    // Links hold 256 KiB each way for each stream, which no limit of the broker counts.
    assert!(
        held == 0 && many > few + 4 * 64 * KIB,
        "{few} and {many} bytes, held back {held} times"
    );
}

async fn node(folder: &Path) -> NodeProcess {
    let settings = folder.join("ltq.toml");
    let text = "[limits]\nsubscriptions_max = 3\nproducers_max = 2\nrequests_max = 1\n\
        publish_bytes_max = \"8MiB\"\npublish_bytes_per_connection_max = \"8MiB\"\n";
    std::fs::write(&settings, text).expect("written");
    let settings = settings.to_string_lossy().into_owned();
    let more = ["--listen", "quic://127.0.0.1:0", "--dev-tls", "--http", "127.0.0.1:0"];
    let more: Vec<_> = more.into_iter().chain(["--config", &settings]).collect();
    NodeProcess::start(&folder.join("data"), 0, &more).await.expect("a node")
}

async fn metrics(node: &NodeProcess) -> String {
    let at = node.said("http://").expect("HTTP").trim_start_matches("http://");
    let mut stream = within("connecting", TcpStream::connect(at)).await.expect("connected");
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    within("figures", stream.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_a_node_counts_over_the_streams_of_a_quic_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path()).await;
    let fingerprint = node.fingerprint().expect("a certificate").parse().expect("one");
    let trust = ClientTrust::fingerprint(fingerprint).expect("trust");
    let quic = Quic::new(QuicOptions::default()).trusting(trust);
    let address = node.said("quic://").expect("QUIC").parse().expect("an address");
    let connection = within("connecting", quic.connect(&address)).await.expect("a connection");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut peer = stream(&*connection).await;
        subscribe(&mut peer, 1).await.expect("a subscription");
        streams.push(peer);
    }
    produce(&mut streams[0], 1).await.expect("a producer");
    produce(&mut streams[1], 1).await.expect("a producer");
    let refused = [subscribe(&mut streams[0], 2).await, produce(&mut streams[2], 1).await];
    for refusal in refused {
        let refusal = refusal.expect_err("there are as many");
        assert_eq!(refusal.code, RefusalCode::LimitReached);
    }
    // Another connection of the same peer has its own.
    let second = within("connecting", quic.connect(&address)).await.expect("a connection");
    subscribe(&mut stream(&*second).await, 1).await.expect("a subscription");
    let figures = metrics(&node).await;
    for line in [
        "ltq_limits_reached_total{limit=\"subscriptions_max\"} 1",
        "ltq_limits_reached_total{limit=\"producers_max\"} 1",
        "ltq_limits_reached_total{limit=\"handles_per_address_max\"} 0",
        "ltq_held_back_total{limit=\"publish_bytes_per_connection_max\"} 0",
        "ltq_held_back_total{limit=\"answer_bytes_per_connection_max\"} 0",
    ] {
        assert!(figures.lines().any(|shown| shown == line), "{line} is not in {figures}");
    }
    // A stream that ends, as its peer says or not, leaves its place.
    drop(streams.remove(0));
    within("its place", async {
        while subscribe(&mut streams[0], 3).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(node.terminate().await.expect("it ends").success());
}
