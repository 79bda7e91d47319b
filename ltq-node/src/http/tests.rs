//! The HTTP server against a broker in memory, over sockets.

mod bounds;
mod pages;
mod ready;

use std::time::Duration;

use ltq_core::{
    Address, AdminRequest, Peer, PublisherOptions, Store as _, SubscribeOptions, SystemClock,
    TopicName, WallClock as _,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    config::{ByteSize, Config, DurabilityChoice, Period, StoreKind},
    node::Node,
};

fn config() -> Config {
    Config {
        store: StoreKind::Memory,
        listen: vec!["tcp://127.0.0.1:0".to_owned()],
        http: "127.0.0.1:0".to_owned(),
        ..Config::default()
    }
}

async fn node(change: impl FnOnce(&mut Config)) -> Node {
    let mut config = config();
    change(&mut config);
    config.check().unwrap();
    Node::start(&config).await.unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code and status of a refusal, which has words too.
    fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{json}");
        (self.status, json["code"].as_str().unwrap().to_owned())
    }
}

async fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let done = timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    done.await.expect("an answer in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn ask_with(node: &Node, request: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses early may not take all of it.
    let _ = stream.write_all(body).await;
    read(stream).await
}

async fn ask(node: &Node, request: &str, body: impl AsRef<[u8]>) -> Answer {
    ask_with(node, request, "", body).await
}

async fn bodies(node: &Node, topic: &str, count: usize) -> Vec<String> {
    let options = SubscribeOptions::default();
    let mut subscription = node.broker().subscribe(topic, "reader", options).await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..count {
        let received = subscription.receive().await.unwrap().unwrap();
        let key = received.message.key.map(|key| format!("{}=", String::from_utf8_lossy(&key)));
        let body = String::from_utf8_lossy(&received.message.body).into_owned();
        bodies.push(key.unwrap_or_default() + &body);
    }
    bodies
}

#[tokio::test]
async fn a_message_is_published_and_its_receipt_says_where_it_is() {
    let node = node(|_| ()).await;
    let answer = ask(&node, "POST /pub?topic=orders", "one").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let expected: Value =
        serde_json::from_str(r#"{"topic":"orders","offset":0,"durability":"memory"}"#).unwrap();
    assert_eq!(answer.json(), expected);
    let answer = ask(&node, "POST /pub?topic=orders&key=k%201&durability=memory", "two\n").await;
    assert_eq!(answer.json()["offset"], 1);
    assert_eq!(bodies(&node, "orders", 2).await, ["one", "k 1=two\n"]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn many_messages_are_published_by_one_request() {
    let node = node(|_| ()).await;
    let answer = ask(&node, "POST /mpub?topic=t", "a\n\nb\n").await;
    let expected =
        r#"{"topic":"t","count":3,"durability":"memory","ranges":[{"first":0,"last":2}]}"#;
    assert_eq!(answer.json(), serde_json::from_str::<Value>(expected).unwrap());
    let binary = b"\x03\0\0\0c\nd\0\0\0\0";
    let answer = ask(&node, "POST /mpub?topic=t&binary=true", binary).await;
    assert_eq!(answer.json()["ranges"][0]["first"], 3);
    assert_eq!(bodies(&node, "t", 5).await, ["a", "", "b", "c\nd", ""]);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn refusals_have_a_status_a_code_and_words() {
    let node = node(|config| {
        config.limits.message_bytes_max = ByteSize(1000);
        config.limits.frame_bytes_max = ByteSize(8192);
        config.auto_create_topics = false;
    })
    .await;
    node.broker()
        .admin(AdminRequest::CreateTopic {
            topic: "t".parse().unwrap(),
            options: Default::default(),
        })
        .await
        .unwrap();
    let large = vec![b'x'; 1001];
    let long = vec![b'x'; 8193];
    for (request, body, expected) in [
        ("POST /pub?topic=a/b", &b"x"[..], (400, "bad_name")),
        ("POST /pub", b"x", (400, "bad_query")),
        ("POST /pub?topic=t&durabilty=disk", b"x", (400, "bad_query")),
        ("POST /pub?topic=t&durability=paper", b"x", (400, "bad_query")),
        ("POST /pub?topic=t&durability=disk", b"x", (400, "durability_unavailable")),
        ("POST /pub?topic=t", &large, (413, "message_too_large")),
        ("POST /mpub?topic=t", &large, (413, "message_too_large")),
        ("POST /mpub?topic=t", &long, (413, "message_too_large")),
        ("POST /mpub?topic=t", b"", (400, "out_of_range")),
        ("POST /mpub?topic=t&binary=true", b"\x09\0\0\0ab", (400, "malformed")),
        ("POST /mpub?topic=t&binary=yes", b"", (400, "bad_query")),
        ("POST /pub?topic=other", b"x", (404, "no_such_topic")),
        ("GET /pub?topic=t", b"", (405, "no_such_method")),
        ("POST /metrics", b"", (405, "no_such_method")),
        ("GET /nowhere", b"", (404, "no_such_page")),
    ] {
        let answer = ask(&node, request, body).await;
        let (status, code) = answer.refusal();
        assert_eq!((status, code.as_str()), expected, "{request}: {}", answer.body);
    }
    // Nothing of all that was stored.
    let answer = ask(&node, "POST /pub?topic=t", "x").await;
    assert_eq!(answer.json()["offset"], 0);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_store_is_507_and_takes_messages_again_when_there_is_room() {
    let node = node(|config| config.memory_store.bytes_max = ByteSize(1 << 20)).await;
    let body = vec![b'x'; 700_000];
    assert_eq!(ask(&node, "POST /pub?topic=t", &body).await.status, 200);
    let full = ask(&node, "POST /pub?topic=t", &body).await;
    assert_eq!(full.refusal(), (507, "store_full".to_owned()));
    let ready = ask(&node, "GET /readyz", "").await;
    assert_eq!(ready.refusal(), (503, "store_full".to_owned()));
    let metrics = ask(&node, "GET /metrics", "").await.body;
    for line in [
        "ltq_store_full 1",
        "ltq_store_commits_refused_total{reason=\"full\"} 1",
        "ltq_http_answers_total{status=\"5xx\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    let topic = TopicName::new("t").unwrap();
    node.broker().admin(AdminRequest::DeleteTopic { topic }).await.unwrap();
    assert_eq!(ask(&node, "POST /pub?topic=t", &body).await.status, 200);
    assert_eq!(ask(&node, "GET /readyz", "").await.status, 200);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_10_without_the_token_there_is_only_health() {
    let node = node(|config| config.token = Some("s3cret".into())).await;
    for request in ["POST /pub?topic=t", "POST /mpub?topic=t", "GET /metrics"] {
        for headers in [
            "",
            "authorization: Bearer wrong\r\n",
            "authorization: Bearer s3cret2\r\n",
            "authorization: Bearer\r\n",
            "authorization: Basic s3cret\r\n",
        ] {
            let answer = ask_with(&node, request, headers, "x").await;
            assert_eq!(answer.refusal(), (401, "unauthorized".to_owned()), "{request} {headers}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
        let answer = ask_with(&node, request, "authorization: Bearer s3cret\r\n", "x").await;
        assert_eq!(answer.status, 200, "{request}: {}", answer.body);
    }
    assert_eq!(ask(&node, "GET /healthz", "").await.status, 200);
    assert_eq!(ask(&node, "GET /readyz", "").await.status, 200);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_whose_store_takes_nothing_lives_and_is_not_ready() {
    let node = node(|_| ()).await;
    assert_eq!(ask(&node, "GET /readyz", "").await.body, "ready\n");
    node.broker().store().close().await.unwrap();
    let answer = ask(&node, "GET /readyz", "").await;
    assert_eq!(answer.refusal(), (503, "store_failed".to_owned()));
    assert!(answer.head.contains("retry-after"), "{}", answer.head);
    assert_eq!(ask(&node, "GET /healthz", "").await.body, "ok\n");
    assert!(ask(&node, "GET /metrics", "").await.body.contains("\nltq_store_healthy 0\n"));
    // A store that fails before it is told to close is no clean stop.
    let _ = node.stop().await;
}

#[tokio::test]
async fn a_node_that_drains_is_not_ready_and_says_why() {
    let node = node(|_| ()).await;
    node.broker().set_draining(true);
    let answer = ask(&node, "GET /readyz", "").await;
    assert_eq!(answer.refusal(), (503, "draining".to_owned()));
    assert_eq!(ask(&node, "GET /healthz", "").await.status, 200);
    node.broker().set_draining(false);
    assert_eq!(ask(&node, "GET /readyz", "").await.status, 200);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_11_a_stopping_node_is_not_ready_and_answers_what_is_under_way() {
    let node = node(|_| ()).await;
    let address = node.http().unwrap();
    // A request whose body is still on its way when the node stops.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"POST /pub?topic=t HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\na";
    stream.write_all(head).await.unwrap();
    let mut ready = TcpStream::connect(address).await.unwrap();
    ready.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    // Both are being read once a later request was answered.
    assert_eq!(ask(&node, "GET /healthz", "").await.status, 200);
    let stopping = tokio::spawn(node.stop());
    tokio::task::yield_now().await;
    ready.write_all(b"\r\n").await.unwrap();
    stream.write_all(b"b").await.unwrap();
    let (answer, ready) = (read(stream).await, read(ready).await);
    assert_eq!(ready.refusal(), (503, "stopping".to_owned()));
    assert!([200, 503].contains(&answer.status), "{}", answer.body);
    stopping.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn promise_13_metrics_add_up() {
    let node = node(|_| ()).await;
    ask(&node, "POST /mpub?topic=t", "a\nb\nc").await;
    let options = SubscribeOptions::default();
    let mut subscription = node.broker().subscribe("t", "c", options).await.unwrap();
    for _ in 0..2 {
        subscription.receive().await.unwrap();
    }
    // A connection that says nothing is one too.
    let _silent = tokio::net::TcpStream::connect(node.http().unwrap()).await.unwrap();
    let text = loop {
        let text = ask(&node, "GET /metrics", "").await;
        let open = text.body.lines().find_map(|line| line.strip_prefix("ltq_http_connections "));
        if open.unwrap().parse::<u64>().unwrap() == 2 {
            break text;
        }
        tokio::task::yield_now().await;
    };
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    let figure = |name: &str| -> u64 {
        let line = text.body.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.unwrap_or_else(|| panic!("no {name} in {}", text.body))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert_eq!(figure("ltq_topic_published_messages_total"), 3);
    assert_eq!(figure("ltq_channel_consumers"), 1);
    let states = ["waiting", "delayed", "in_flight", "acked", "damaged", "dropped"];
    let sum: u64 =
        states.map(|state| figure(&format!("ltq_channel_{state}_messages"))).iter().sum();
    assert_eq!(sum, 3);
    assert!(text.body.contains("{topic=\"t\",channel=\"c\"}"), "{}", text.body);
    // Each line is a comment or a name, labels and a number.
    for line in text.body.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
    }
    node.stop().await.unwrap();
}

#[cfg(all(feature = "tls", feature = "quic"))]
#[tokio::test]
async fn the_page_on_operation_tells_of_each_metric() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(|config| {
        config.store = StoreKind::File;
        config.data_dir = folder.path().join("data");
        config.listen.push("tls://127.0.0.1:0".to_owned());
        config.dev_tls = true;
        config.registry.push("tcp://127.0.0.1:1".to_owned());
    })
    .await;
    ask(&node, "POST /pub?topic=t", "x").await;
    let subscription = node.broker().subscribe("t", "c", SubscribeOptions::default()).await;
    let text = ask(&node, "GET /metrics", "").await.body;
    let mut shown: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| metric |").unwrap();
    let mut told: Vec<_> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    shown.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, shown);
    drop(subscription);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_9_metrics_have_so_many_series_and_no_more() {
    let node = node(|config| config.limits.metrics_series_max = 2).await;
    for topic in ["c", "a", "b"] {
        ask(&node, &format!("POST /pub?topic={topic}"), "x").await;
    }
    for channel in ["3", "2", "1"] {
        drop(node.broker().subscribe("b", channel, SubscribeOptions::default()).await.unwrap());
    }
    let text = ask(&node, "GET /metrics", "").await.body;
    for line in [
        "ltq_topics 3",
        "ltq_topics_left_out 1",
        "ltq_channels 3",
        "ltq_channels_left_out 1",
        "ltq_waiting_messages 3",
        "ltq_topic_end_offset{topic=\"b\"} 1",
        "ltq_channel_waiting_messages{topic=\"b\",channel=\"2\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(!text.contains("topic=\"c\"") && !text.contains("channel=\"3\""), "{text}");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn the_oldest_unacked_message_has_its_age() {
    let node = node(|_| ()).await;
    let begun = SystemClock.now();
    ask(&node, "POST /mpub?topic=t", "a\nb").await;
    let options = SubscribeOptions::default();
    let mut subscription = node.broker().subscribe("t", "c", options).await.unwrap();
    let age = async || {
        let text = ask(&node, "GET /metrics", "").await.body;
        let name = "ltq_channel_oldest_unacked_seconds{topic=\"t\",channel=\"c\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{text}")).parse::<f64>().unwrap()
    };
    let first = subscription.receive().await.unwrap().unwrap();
    subscription.ack(first.tag).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while age().await <= 0.05 {
        assert!(Instant::now() < deadline, "the age does not grow");
    }
    assert!(age().await * 1000.0 <= (SystemClock.now().0 - begun.0) as f64);
    let second = subscription.receive().await.unwrap().unwrap();
    subscription.ack(second.tag).unwrap();
    while age().await > 0.0 {
        assert!(Instant::now() < deadline, "nothing is unacked, and the age stays");
    }
    node.stop().await.unwrap();
}

#[tokio::test]
async fn requests_at_once_each_have_a_place_of_their_own() {
    let node = std::sync::Arc::new(node(|_| ()).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let node = node.clone();
        asking.spawn(async move { ask(&node, "POST /pub?topic=t", "x").await.json() });
    }
    let mut offsets: Vec<_> = Vec::new();
    while let Some(answer) = asking.join_next().await {
        offsets.push(answer.unwrap()["offset"].as_u64().unwrap());
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_topic_deleted_between_requests_begins_anew() {
    let node = node(|_| ()).await;
    for _ in 0..3 {
        for offset in 0..2 {
            let answer = ask(&node, "POST /pub?topic=t", "x").await;
            assert_eq!(answer.json()["offset"], offset, "{}", answer.body);
        }
        let topic = TopicName::new("t").unwrap();
        node.broker().admin(AdminRequest::DeleteTopic { topic }).await.unwrap();
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_requests_harms_nothing_else() {
    let node = std::sync::Arc::new(node(|_| ()).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let node = node.clone();
        asking.spawn(async move {
            for _ in 0..25 {
                let answer = ask(&node, "POST /pub?topic=t", "x").await;
                // Deleted while it was under way, perhaps after it was stored.
                assert!([200, 404, 500].contains(&answer.status), "{}", answer.body);
                assert_eq!(ask(&node, "POST /pub?topic=other", "x").await.status, 200);
            }
        });
    }
    let topic = TopicName::new("t").unwrap();
    while let Some(done) = {
        // What is not there cannot be deleted; that is fine here.
        let _ = node.broker().admin(AdminRequest::DeleteTopic { topic: topic.clone() }).await;
        asking.join_next().await
    } {
        done.unwrap();
    }
    let topic = TopicName::new("other").unwrap();
    let shown = node.broker().admin(AdminRequest::ShowTopic { topic }).await.unwrap();
    let ltq_core::AdminResponse::Topic(stats) = shown else { panic!("{shown:?}") };
    assert_eq!(stats.end.0, 200);
}

#[tokio::test]
async fn promise_10_slow_requests_are_cut_off() {
    let node = node(|config| {
        config.limits.http_request_timeout = Period(Duration::from_millis(300));
    })
    .await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head = b"POST /pub?topic=t HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc";
    stream.write_all(head).await.unwrap();
    let answer = read(stream).await;
    assert_eq!(answer.refusal(), (408, "peer_timeout".to_owned()));
    // A request whose head never ends gets no answer, and its connection is closed.
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection stays open");
    assert!(begun.elapsed() >= Duration::from_millis(600));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_9_connections_are_bounded_and_the_next_waits_its_turn() {
    let node = node(|config| config.limits.http_connections_max = 1).await;
    // One with a request under way keeps its place.
    let mut first = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head = b"POST /pub?topic=t HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
                 content-length: 2\r\n\r\n";
    first.write_all(head).await.unwrap();
    let mut answer = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    first.read_exact(&mut answer).await.unwrap();
    let second = ask(&node, "GET /healthz", "");
    let mut second = Box::pin(second);
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err());
    first.write_all(b"ab").await.unwrap();
    assert_eq!(second.await.status, 200);
    // It was answered before it had to go.
    assert_eq!(read(first).await.status, 200);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_10_connections_that_say_nothing_keep_nobody_out() {
    let node = node(|config| config.limits.http_connections_max = 4).await;
    let mut silent = Vec::new();
    for begun in
        ["", "GET /hea", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"].iter().cycle().take(60)
    {
        let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(ask(&node, "GET /healthz", "").await.status, 200);
    // Long before any of them is cut off for its silence.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    bounds::some_gave_way(&node).await;
    drop(silent);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_9_bodies_of_all_requests_together_are_bounded_as_configured() {
    let node = node(|config| {
        config.limits.message_bytes_max = ByteSize(1000);
        config.limits.frame_bytes_max = ByteSize(8192);
        config.limits.http_body_bytes_total_max = ByteSize(8192);
    })
    .await;
    let mut first = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head = b"POST /mpub?topic=t HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8192\r\n\r\n";
    first.write_all(&[&head[..], &[b'x'; 8000]].concat()).await.unwrap();
    // As soon as that has come, there is no room for more.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask(&node, "POST /mpub?topic=t", "a\n".repeat(400)).await;
        if answer.status == 429 {
            break assert_eq!(answer.refusal().1, "limit_reached");
        }
        assert!(Instant::now() < deadline, "all of it is taken");
    }
    drop(first);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn promise_11_a_stop_takes_no_longer_than_it_may() {
    let node = node(|config| config.stop_timeout = Period(Duration::from_millis(300))).await;
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head = b"POST /pub?topic=t HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
                 content-length: 2\r\n\r\n";
    stream.write_all(head).await.unwrap();
    // The request is under way, and never comes to its end.
    stream.read_exact(&mut [0]).await.unwrap();
    let begun = Instant::now();
    node.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_topic_confirms_as_it_was_made() {
    let node = node(|config| config.durability = Some(DurabilityChoice::Memory)).await;
    let mut publisher = node.broker().publisher("t", PublisherOptions::default()).await.unwrap();
    let receipt = publisher.publish(&ltq_core::Message::new("x")).await.unwrap();
    let answer = ask(&node, "POST /pub?topic=t", "x").await.json();
    assert_eq!(answer["durability"], receipt.durability.to_string());
    node.stop().await.unwrap();
}

/// Publishers that are kept between requests would keep a topic busy for ever.
#[tokio::test(start_paused = true)]
async fn idle_publishers_are_given_up() {
    let node = node(|_| ()).await;
    let publishers = super::publishers::Publishers::new(node.broker().clone());
    let topic = TopicName::new("t").unwrap();
    let records = ltq_core::Records::encode([&ltq_core::Message::new("x")]);
    let open = async || {
        let stats = node.broker().stats().await;
        stats.topics.first().map_or(0, |topic| topic.producers)
    };
    let peer = Peer { address: Address::new("http", "192.0.2.1:1"), identity: None };
    publishers.publish(&peer, &topic, None, records.clone()).await.unwrap();
    publishers.publish(&peer, &topic, None, records).await.unwrap();
    assert_eq!(open().await, 1, "the publisher is used again");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(open().await, 0);
    node.stop().await.unwrap();
}
