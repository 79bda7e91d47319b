//! What an etcd may answer that a real one seldom does, or never.

mod keeping;

use std::{
    collections::{BTreeMap, VecDeque},
    future::{pending, poll_fn},
    io::IoSlice,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{Address, Stream, Transport as _};
use ltq_transport::InProcess;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{json::base64, *};

/// What is answered to a request.
enum Answer {
    Json(Value),
    /// The bytes of a whole answer; more may be waited for.
    Raw(String),
    /// Lines that go on for as long as the connection does.
    Lines(Vec<String>),
    /// So many bytes without an end.
    Endless(usize),
}

/// An etcd that answers what it is told to, by the path of what is asked: the next answer to that, or the last
/// one again. It remembers what it was asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Answers>>, Arc<Mutex<Vec<Asked>>>);

/// What was asked.
#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    path: String,
    json: Value,
    token: Option<String>,
}

type Answers = BTreeMap<&'static str, VecDeque<Arc<Answer>>>;

impl Fake {
    fn answer(&self, path: &'static str, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().insert(path, answers.into_iter().map(Arc::new).collect());
    }

    fn next(&self, path: &str) -> Arc<Answer> {
        let mut all = self.0.lock();
        let answers = all.get_mut(path).unwrap_or_else(|| panic!("{path} was asked"));
        if answers.len() > 1 { answers.pop_front().unwrap() } else { Arc::clone(&answers[0]) }
    }

    async fn serve(self, network: InProcess) {
        let mut listener = network.listen(&Address::new("in-process", "etcd")).await.unwrap();
        let mut sessions = JoinSet::new();
        loop {
            let connection = listener.accept().await.unwrap();
            let fake = self.clone();
            sessions.spawn(async move {
                if let Ok(Some(stream)) = connection.accept_stream().await {
                    fake.talk(stream).await;
                }
            });
        }
    }

    async fn talk(self, mut stream: Stream) {
        while let Some(asked) = asked(&mut stream).await {
            let ok = "HTTP/1.1 200 OK\r\n";
            let answer = self.next(&asked.path);
            self.1.lock().push(asked);
            match &*answer {
                Answer::Json(json) => {
                    let json = json.to_string();
                    let text = format!("{ok}Content-Length: {}\r\n\r\n{json}", json.len());
                    send(&mut stream, text.as_bytes()).await;
                }
                Answer::Raw(text) => send(&mut stream, text.as_bytes()).await,
                Answer::Lines(lines) => {
                    send(&mut stream, format!("{ok}\r\n{}\n", lines.join("\n")).as_bytes()).await;
                    pending::<()>().await;
                }
                Answer::Endless(bytes) => {
                    send(&mut stream, format!("{ok}\r\n").as_bytes()).await;
                    for _ in 0..bytes >> 16 {
                        send(&mut stream, &[b'x'; 1 << 16]).await;
                    }
                    pending::<()>().await;
                }
            }
        }
    }
}

/// The next request, all of which was read.
async fn asked(stream: &mut Stream) -> Option<Asked> {
    let mut request = BytesMut::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
            };
            if body.len() == header("content-length: ").unwrap().parse::<usize>().unwrap() {
                let path = head.split(' ').nth(1)?.to_owned();
                let json = serde_json::from_str(body).unwrap();
                return Some(Asked {
                    at: Instant::now(),
                    path,
                    json,
                    token: header("authorization: "),
                });
            }
        }
        let recv = &mut stream.recv;
        let got = poll_fn(|context| recv.poll_recv(context, &mut request, 1 << 16)).await;
        if got.unwrap_or_default() == 0 {
            return None;
        }
    }
}

async fn send(stream: &mut Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let send = &mut stream.send;
        match poll_fn(|context| send.poll_send(context, &[IoSlice::new(bytes)])).await {
            Ok(sent) => bytes = &bytes[sent..],
            Err(_) => return,
        }
    }
}

fn key_value(id: &str) -> Value {
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    let (key, value) = (format!("/ltq/nodes/{id}"), value::of_node(&node, node.load()).unwrap());
    json!({ "key": base64(key.as_bytes()), "value": base64(&value), "lease": "7" })
}

fn page(ids: &[&str]) -> Answer {
    let kvs: Vec<_> = ids.iter().map(|id| key_value(id)).collect();
    Answer::Json(json!({ "header": { "revision": "5" }, "kvs": kvs }))
}

const CREATED: &str = r#"{"result":{"created":true}}"#;

fn lines(lines: &[&str]) -> Answer {
    Answer::Lines([CREATED].iter().chain(lines).map(ToString::to_string).collect())
}

async fn etcd(fake: &Fake, patience: Duration) -> (Etcd, JoinSet<()>) {
    etcd_of(fake, |builder| builder.patience(patience))
}

fn etcd_of(fake: &Fake, set: impl FnOnce(EtcdBuilder) -> EtcdBuilder) -> (Etcd, JoinSet<()>) {
    let (network, mut serving) = (InProcess::new(), JoinSet::new());
    serving.spawn(fake.clone().serve(network.clone()));
    // What is asked before it listens is asked again.
    let few = Duration::from_millis(5);
    let builder = Etcd::builder(network).endpoint("in-process://etcd").retry(few, few * 2);
    (set(builder).build().unwrap(), serving)
}

fn ids(nodes: &crate::NodeSet) -> Vec<String> {
    nodes.iter().map(|node| node.id().to_string()).collect()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it to happen in time")
}

#[tokio::test]
async fn what_is_compacted_between_reading_and_watching_is_read_again() {
    let fake = Fake::default();
    fake.answer("/v3/kv/range", [page(&["one"]), page(&["two"])]);
    let compacted = r#"{"result":{"canceled":true,"compact_revision":"9"}}"#;
    fake.answer("/v3/watch", [lines(&[compacted]), lines(&[])]);
    let (etcd, _serving) = etcd(&fake, LONG).await;
    let mut watch = within(etcd.watch(&Interest::Nodes)).await.unwrap();
    let told = async {
        loop {
            // The loss may be told in between, and the first set before it.
            match watch.changed().await {
                // What ended out of sight, and was not withdrawn, counts for a while.
                Ok(nodes) if ids(&nodes) == ["one", "two"] => return,
                Ok(nodes) => assert_eq!(ids(&nodes), ["one"]),
                Err(error) => assert!(error.to_string().contains("revision 9"), "{error}"),
            }
        }
    };
    within(told).await;
}

#[tokio::test]
async fn a_watch_that_tells_what_is_none_is_a_loss_of_sight_and_takes_nothing_away() {
    for (bad, why) in [
        (Answer::Lines(vec![CREATED.to_owned(), "garbage".to_owned()]), "not etcd's"),
        (lines(&[r#"{"error":{"grpc_code":14,"message":"no leader"}}"#]), "no leader"),
        (lines(&[r#"{"result":{"events":[{"kv":{"key":"%"}}]}}"#]), "not etcd's"),
        (lines(&[&"x".repeat(17 << 20)]), "more than 16777216 bytes"),
    ] {
        let fake = Fake::default();
        fake.answer("/v3/kv/range", [page(&["one"])]);
        fake.answer("/v3/watch", [bad]);
        let (etcd, _serving) = etcd(&fake, LONG).await;
        let mut watch = within(etcd.watch(&Interest::Nodes)).await.unwrap();
        let told = async {
            loop {
                match watch.changed().await {
                    Ok(nodes) => assert_eq!(ids(&nodes), ["one"]),
                    Err(error) => return error.to_string(),
                }
            }
        };
        let error = within(told).await;
        assert!(error.contains(why), "{error} is not {why}");
        // And it is followed again once it tells what is.
        let delete = json!({ "result": { "events": [
            { "type": "DELETE", "kv": { "key": base64(b"/ltq/nodes/one") } },
        ] } });
        fake.answer("/v3/watch", [lines(&[&delete.to_string()])]);
        let gone = async {
            loop {
                if let Ok(nodes) = watch.changed().await {
                    return nodes;
                }
            }
        };
        assert!(within(gone).await.is_empty());
    }
}

#[tokio::test]
async fn answers_to_what_is_read_are_bounded_and_errors_are_named() {
    let again = json!({ "header": { "revision": "5" }, "more": true, "kvs": [
        { "key": base64(b"/ltq/nodes/a") },
    ] });
    for (bad, why) in [
        (
            Answer::Raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_owned()),
            "more than",
        ),
        (Answer::Endless(20 << 20), "more than 16777216 bytes"),
        (
            Answer::Raw(format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(1 << 20))),
            "connection was lost",
        ),
        (Answer::Raw("what is this".to_owned()), "connection was lost"),
        (Answer::Raw("HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno".to_owned()), "502"),
        (Answer::Json(json!([7])), "not etcd's"),
        (Answer::Json(again), "out of order"),
    ] {
        let fake = Fake::default();
        // Only what is long takes long to be refused.
        let patience = if matches!(bad, Answer::Endless(_)) { LONG / 2 } else { LONG / 20 };
        fake.answer("/v3/kv/range", [bad]);
        let (etcd, _serving) = etcd(&fake, patience).await;
        let error = within(etcd.watch(&Interest::Nodes)).await.map(|_| ()).unwrap_err();
        let is_unreachable = matches!(error, DiscoveryError::Unreachable { .. });
        let error = error.to_string();
        assert!(is_unreachable && error.contains(why), "{error} is not {why}");
    }
}

const LONG: Duration = Duration::from_secs(10);
