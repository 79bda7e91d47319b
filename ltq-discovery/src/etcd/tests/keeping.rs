//! How often etcd is told what, on a clock of its own.

use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::*;
use crate::{Announced, Announcement, Load, NodeState};

const GRANT: &str = "/v3/lease/grant";
const KEEP: &str = "/v3/lease/keepalive";
const TXN: &str = "/v3/kv/txn";
const RANGE: &str = "/v3/kv/range";
const AUTHENTICATE: &str = "/v3/auth/authenticate";

fn done(succeeded: bool) -> Answer {
    Answer::Json(json!({ "succeeded": succeeded }))
}

impl Fake {
    /// One that takes everything in.
    fn willing() -> Self {
        let fake = Self::default();
        for path in [GRANT, "/v3/lease/revoke"] {
            fake.answer(path, [Answer::Json(json!({}))]);
        }
        fake.answer(KEEP, [Answer::Json(json!({ "result": { "TTL": "3" } }))]);
        fake.answer(RANGE, [page(&[])]);
        fake.answer(TXN, [done(true)]);
        fake
    }

    /// What it was asked since the last time.
    fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.1.lock())
    }
}

fn node() -> NodeInfo {
    NodeInfo::new("one".parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap()
}

async fn announce(etcd: &Etcd) -> Box<dyn Announcement> {
    match within(etcd.announce(node())).await.unwrap() {
        Announced::Known(announcement) => announcement,
        other @ Announced::NotTaken(_) => panic!("{other:?}"),
    }
}

/// Whether a transaction writes the node's own key.
fn writes(asked: &Asked) -> bool {
    let key = base64(b"/ltq/nodes/one");
    let ops = asked.json["success"].as_array().into_iter().flatten();
    asked.path == TXN && ops.into_iter().any(|op| op["request_put"]["key"] == json!(key))
}

/// The longest time between two of these, and between the ends and those.
fn longest(begun: Instant, ended: Instant, times: impl Iterator<Item = Instant>) -> Duration {
    let mut all: Vec<_> = times.collect();
    all.insert(0, begun);
    all.push(ended);
    all.windows(2).map(|two| two[1] - two[0]).max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_heard_three_times_as_often_as_it_would_be_suspected_and_no_beat_writes_anything()
{
    for (suspected_after, forgotten_after) in [(3, 30), (10, 60)] {
        let fake = Fake::willing();
        let seconds = Duration::from_secs;
        let (etcd, _serving) = etcd_of(&fake, |builder| {
            let builder = builder.suspected_after(seconds(suspected_after));
            builder.forgotten_after(seconds(forgotten_after))
        });
        let one = announce(&etcd).await;
        let granted: Vec<_> =
            fake.take_asked().into_iter().filter(|asked| asked.path == GRANT).collect();
        let lease = |lasts: u64| {
            let lasts = json!(lasts.to_string());
            let of = granted.iter().find(|asked| asked.json["TTL"] == lasts);
            of.unwrap_or_else(|| panic!("{granted:?}")).json["ID"].clone()
        };
        let begun = Instant::now();
        sleep(seconds(300)).await;
        let (asked, ended) = (fake.take_asked(), Instant::now());
        for lasts in [suspected_after, forgotten_after] {
            let kept = asked.iter().filter(|it| it.path == KEEP && it.json["ID"] == lease(lasts));
            let longest = longest(begun, ended, kept.map(|asked| asked.at));
            // The longer lease is kept with the beats of the shorter one.
            let beat = seconds(suspected_after) / 3;
            let third = seconds(lasts) / 3;
            let most = if lasts == suspected_after { third } else { third + beat };
            assert!(longest <= most + Duration::from_millis(10), "{lasts} s: {longest:?}");
            assert!(longest >= third, "no more often than that: {longest:?}");
        }
        // To keep a lease writes nothing, and neither does a transaction that only asks.
        for asked in asked {
            let is_idle =
                asked.path == KEEP || asked.path == TXN && asked.json["success"] == json!([]);
            assert!(is_idle, "{asked:?}");
        }
        drop(one);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_key_is_announced_anew_within_a_third_of_its_lease_or_at_once() {
    let fake = Fake::willing();
    let (etcd, _serving) = etcd(&fake, LONG).await;
    let mut one = announce(&etcd).await;
    let again = async |writes_before: usize| {
        let (mut count, began) = (0, Instant::now());
        loop {
            count += fake.take_asked().iter().filter(|asked| writes(asked)).count();
            if count > writes_before && etcd.is_announced() {
                return began.elapsed();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    for _ in 0..3 {
        fake.take_asked();
        // The next transaction finds that the key does not go with the lease any more.
        fake.answer(TXN, [done(false), done(true)]);
        let after = within_virtual(again(0)).await;
        // Of 30 s.
        assert!(after <= Duration::from_millis(11_100), "{after:?}");
        assert!(after >= Duration::from_secs(5), "nothing told it: {after:?}");
    }
    fake.take_asked();
    fake.answer(TXN, [done(false), done(true)]);
    one.update(node().with_state(NodeState::Draining)).await.unwrap();
    let after = within_virtual(again(1)).await;
    assert!(after <= Duration::from_millis(100), "{after:?}");
}

async fn within_virtual<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(300), future).await.expect("it to happen in time")
}

#[tokio::test(start_paused = true)]
async fn a_load_is_written_every_three_seconds_at_most_and_the_last_one_is() {
    let fake = Fake::willing();
    let (etcd, _serving) = etcd(&fake, LONG).await;
    let mut one = announce(&etcd).await;
    fake.take_asked();
    for tenth in 0..600 {
        // Another one, and worth telling, at each beat.
        one.update(node().with_load(Load(100 << (tenth / 10 % 7)))).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    one.update(node().with_load(Load(77_777))).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let written: Vec<_> = fake.take_asked().into_iter().filter(writes).collect();
    let gaps = written.windows(2).map(|two| two[1].at - two[0].at);
    let least = gaps.min().unwrap();
    assert!(least >= Duration::from_millis(2_990), "{least:?}");
    assert!((18..=22).contains(&written.len()), "{} times in 65 s", written.len());
    let value = &written.last().unwrap().json["success"][0]["request_put"]["value"];
    let expected = value::of_node(&node(), Load(77_777)).unwrap();
    assert_eq!(*value, json!(base64(&expected)));
}

#[tokio::test]
async fn a_withdrawal_that_reaches_nobody_ends_when_patience_does() {
    let fake = Fake::willing();
    let (etcd, mut serving) =
        etcd_of(&fake, |builder| builder.patience(Duration::from_millis(500)));
    let one = announce(&etcd).await;
    serving.shutdown().await;
    assert!(within(one.withdraw()).await.is_err());
    let ended = async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(ended).await;
}

/// An answer to a token that has expired.
fn expired() -> Answer {
    let why = json!({ "error": "etcdserver: invalid auth token", "code": 16,
        "message": "etcdserver: invalid auth token" })
    .to_string();
    let length = why.len();
    Answer::Raw(format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {length}\r\n\r\n{why}"))
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_is_asked_for_again_by_nodes_and_by_who_watches() {
    let fake = Fake::willing();
    let tokens: Vec<_> = (0..9).map(|n| format!("token-{n}")).collect();
    let answers = tokens.iter().map(|token| Answer::Json(json!({ "token": token })));
    fake.answer(AUTHENTICATE, answers);
    let (etcd, _serving) = etcd_of(&fake, |builder| builder.user("node", "secret"));
    let one = announce(&etcd).await;
    let keep = || Answer::Json(json!({ "result": { "TTL": "3" } }));
    fake.answer(KEEP, [expired(), keep()]);
    fake.take_asked();
    sleep(Duration::from_secs(10)).await;
    let asked = fake.take_asked();
    let with = |path: &str| {
        let asked = asked.iter().filter(|asked| asked.path == path);
        asked.map(|asked| asked.token.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(with(AUTHENTICATE), [""], "{asked:?}");
    let kept = with(KEEP);
    // Both leases.
    assert!((8..=13).contains(&kept.len()), "{kept:?}");
    assert!(kept[0] == "token-0" && kept[1..].iter().all(|it| it == "token-1"), "{kept:?}");
    assert!(etcd.is_announced());
    drop(one);

    let fake = Fake::default();
    let answers = tokens.iter().map(|token| Answer::Json(json!({ "token": token })));
    fake.answer(AUTHENTICATE, answers);
    fake.answer(RANGE, [page(&["one"]), expired(), page(&["one", "two"])]);
    fake.answer("/v3/watch", [lines(&[])]);
    let (etcd, _serving) = etcd_of(&fake, |builder| builder.user("client", "secret"));
    let mut watch = within(etcd.watch(&Interest::Nodes)).await.unwrap();
    let told = async {
        loop {
            match watch.changed().await {
                Ok(nodes) if ids(&nodes) == ["one", "two"] => return,
                Ok(nodes) => assert_eq!(ids(&nodes), ["one"]),
                Err(error) => assert!(error.to_string().contains("invalid auth token"), "{error}"),
            }
        }
    };
    within_virtual(told).await;
    let asked = fake.take_asked();
    let first = asked.iter().find(|asked| asked.path == RANGE).unwrap();
    let last = asked.iter().rfind(|asked| asked.path == RANGE).unwrap();
    assert_eq!(first.token.as_deref(), Some("token-0"));
    assert!(last.token.is_some() && last.token != first.token, "{asked:?}");
}

/// Counts warnings.
struct Warnings(Arc<std::sync::atomic::AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_is_left_aside_is_counted_each_time_and_logged_ever_more_seldom() {
    let warnings = Arc::default();
    let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let figures = Figures::default();
    let mut logged = Vec::new();
    for number in 1..=1_000 {
        let before = warnings.load(Ordering::Relaxed);
        figures.skip("/ltq/nodes/one", &"it is none");
        if warnings.load(Ordering::Relaxed) > before {
            logged.push(number);
        }
    }
    assert_eq!(logged, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    assert_eq!(figures.skipped.load(Ordering::Relaxed), 1_000);
}
