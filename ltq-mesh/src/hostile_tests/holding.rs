//! Peers that are let in, and take up room for as long as they are let.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use ltq_core::Effect;
use tokio::sync::Semaphore;

use super::*;
use crate::{Admission, CloseReport, InboxHandler, MeshName, Undelivered};

/// Wants nothing, and says so at length.
#[derive(Default)]
struct Refusing(Arc<AtomicU64>);

#[async_trait]
impl InboxHandler for Refusing {
    async fn accept(&self, _: &MeshName, _: &Bytes) -> Admission {
        self.0.fetch_add(1, Ordering::Relaxed);
        Admission::reject("x".repeat(1_024))
    }
}

/// Says that it is asked, and thinks until it is let.
struct Thinking(Arc<Semaphore>, Arc<Semaphore>);

#[async_trait]
impl InboxHandler for Thinking {
    async fn accept(&self, _: &MeshName, _: &Bytes) -> Admission {
        self.1.add_permits(1);
        self.0.acquire().await.expect("open").forget();
        Admission::Accept
    }
}

async fn handling(links: &InProcess, handler: impl InboxHandler, settings: MeshSettings) -> Mesh {
    Mesh::builder("ours")
        .transports(Transports::new().with(links.clone()))
        .listen("in-process://ours")
        .handler(handler)
        .settings(settings)
        .start(MemoryStore::new(64 << 20))
        .await
        .expect("a mesh")
}

async fn resumed(links: &InProcess, from: &str, dialer: u64) -> Raw {
    let (mut raw, _) = Raw::join(links, from, dialer).await;
    raw.say(&resume(0)).await;
    raw
}

#[tokio::test(start_paused = true)]
async fn promise_9_who_does_not_confirm_to_have_heard_of_rejections_gets_no_further_than_its_grant()
{
    let links = InProcess::new();
    let _mesh = handling(&links, Refusing::default(), settings()).await;
    let mut raw = resumed(&links, "them", 1).await;
    for number in 1..=4 {
        raw.message(number, "a").await;
        let heard = raw.hear().await.expect("an answer").0;
        assert!(matches!(heard, Say::NotStored { number: it, .. } if it == number), "{heard:?}");
    }
    raw.message(5, "a").await;
    let (farewell, detail) = raw.goodbye().await;
    assert_eq!(farewell, Farewell::Protocol);
    assert!(detail.contains("more than 4 messages"), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn promise_9_who_does_not_confirm_to_have_heard_of_a_rejection_is_cut_after_a_while() {
    let links = InProcess::new();
    let mesh = handling(&links, Refusing::default(), settings()).await;
    let mut raw = resumed(&links, "them", 1).await;
    raw.message(1, "a").await;
    let began = Instant::now();
    assert!(matches!(raw.hear().await.expect("an answer").0, Say::NotStored { number: 1, .. }));
    let (farewell, detail) = raw.goodbye().await;
    assert!(farewell == Farewell::Protocol && detail.contains("does not confirm"), "{detail}");
    assert_eq!(began.elapsed(), 2 * settings().read_timeout);
    // Who confirms is not.
    drop(raw);
    let good = Mesh::builder("good")
        .transports(Transports::new().with(links.clone()))
        .peer("ours", ["in-process://ours"])
        .settings(settings())
        .start(MemoryStore::new(1 << 20))
        .await
        .expect("a mesh");
    within("it is connected", good.connected("ours")).await.expect("open");
    for _ in 0..20 {
        let rejected = good.send("ours", "a").await.expect_err("it wants nothing");
        assert!(matches!(rejected, SendError::Rejected { .. }), "{rejected:?}");
        sleep(Duration::from_secs(10)).await;
    }
    assert!(mesh.states().is_connected("good"));
}

#[tokio::test(start_paused = true)]
async fn promise_9_who_does_not_read_what_is_rejected_has_no_more_judged() {
    let links = InProcess::new();
    let (asked, settings) = (Arc::new(AtomicU64::new(0)), MeshSettings::default());
    let _mesh = handling(&links, Refusing(asked.clone()), settings).await;
    let mut raw = resumed(&links, "them", 1).await;
    for number in 1..=1_000 {
        raw.message(number, "a").await;
    }
    // It is cut for that, and not before all that can be is judged.
    let is_gone = |states: &MeshStates| !states.is_connected("them");
    within("it is cut", _mesh.watch().until(is_gone)).await.expect("open");
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 600, "{asked} refusals of a kilobyte wait");
}

#[tokio::test(start_paused = true)]
async fn who_reads_late_what_is_rejected_hears_of_all_of_it_in_order() {
    let links = InProcess::new();
    let (asked, settings) = (Arc::new(AtomicU64::new(0)), MeshSettings::default());
    let _mesh = handling(&links, Refusing(asked.clone()), settings).await;
    let mut raw = resumed(&links, "them", 1).await;
    for number in 1..=1_000 {
        raw.message(number, "a").await;
    }
    // As many as can be are judged.
    sleep(Duration::from_secs(1)).await;
    assert!(asked.load(Ordering::Relaxed) < 600);
    for number in 1..=1_000 {
        let heard = raw.hear().await.expect("an answer").0;
        assert!(matches!(heard, Say::NotStored { number: it, .. } if it == number), "{heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn promise_9_who_does_not_end_a_frame_is_cut_however_busy_it_looks() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let mut raw = resumed(&links, "them", 1).await;
    let mut frame = BytesMut::new();
    crate::wire::encode(&Say::Message { number: 1 }, 10_000, &mut frame).expect("a frame");
    frame.put_bytes(0, 9_999);
    let slow = tokio::spawn({
        let mut watch = mesh.watch();
        let slow = |states: &MeshStates| matches!(down(states, "them"), Some(DownCause::Slow(_)));
        async move { watch.until(slow).await }
    });
    let began = Instant::now();
    for byte in frame {
        let sent = poll_fn(|context| raw.0.mouth.poll_raw(context, &[IoSlice::new(&[byte])])).await;
        assert_eq!(sent.expect("it is open"), 1);
        // Goodbye.
        if timeout(Duration::from_secs(1), raw.0.ear.hear_some(None)).await.is_ok() {
            break;
        }
    }
    let (least, took) = (settings().read_timeout, began.elapsed());
    assert!((least..=least + Duration::from_secs(2)).contains(&took), "{took:?}");
    within("it is told", slow).await.expect("no panic").expect("open");
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn who_ends_each_frame_in_time_is_not_cut_however_many_come_in_parts() {
    let links = InProcess::new();
    let _mesh = mesh(&links, settings()).await;
    let mut raw = resumed(&links, "them", 1).await;
    // All together take three times as long as one may.
    for number in 1..=9 {
        let mut frame = BytesMut::new();
        crate::wire::encode(&Say::Message { number }, 1_000, &mut frame).expect("a frame");
        frame.put_bytes(0, 1_000);
        let rest = frame.split_off(500);
        for part in [frame, rest] {
            sleep(settings().read_timeout / 6).await;
            let slices = [IoSlice::new(&part)];
            let sent = poll_fn(|context| raw.0.mouth.poll_raw(context, &slices)).await;
            assert_eq!(sent.expect("it is open"), part.len());
        }
        let heard = raw.hear().await.expect("an answer").0;
        assert_eq!(heard, Say::Stored { through: number });
    }
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_comes_from_all_programs_together_is_bounded_and_told_as_a_full_inbox() {
    let links = InProcess::new();
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    // One message of 10,000 bytes fits, and no second one.
    let settings = MeshSettings { unacknowledged_bytes_total_max: 20_000, ..settings() };
    let _mesh = handling(&links, Thinking(gate.clone(), asked.clone()), settings).await;
    let mut first = resumed(&links, "first", 1).await;
    let mut second = resumed(&links, "second", 2).await;
    first.message(1, vec![0; 10_000]).await;
    within("it is there", asked.acquire()).await.expect("open").forget();
    second.message(1, vec![0; 10_000]).await;
    let refused = second.hear().await.expect("an answer").0;
    let Say::NotStored { number: 1, why: NotStored::Full(why) } = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("all programs"), "{why}");
    // What it sends behind that is stored once it has confirmed, and what was there before is as ever.
    second.message(2, "b").await;
    gate.add_permits(2);
    assert_eq!(first.hear().await.expect("an answer").0, Say::Stored { through: 1 });
    second.say(&Say::Heard { number: 1 }).await;
    assert_eq!(second.hear().await.expect("an answer").0, Say::Stored { through: 2 });
    gate.add_permits(1);
    second.message(3, vec![0; 10_000]).await;
    assert_eq!(second.hear().await.expect("an answer").0, Say::Stored { through: 3 });
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_peer_that_answers_nothing_costs_its_senders_a_timeout_and_closing_nothing() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let mut raw = resumed(&links, "mute", 1).await;
    within("it is up", mesh.connected("mute")).await.expect("open");
    // It gives signs of life, and no answer to any message.
    tokio::spawn(async move { while raw.hear().await.is_ok() {} });
    let sends = (0..6).map(|_| mesh.send("mute", vec![0; 5_000]));
    let sent = within("all end", futures::future::join_all(sends)).await;
    let effects: Vec<_> =
        sent.iter().map(|sent| sent.as_ref().map_err(SendError::effect)).collect();
    let (unknown, nothing) = (Err(Effect::Unknown), Err(Effect::Nothing));
    assert_eq!(effects, [unknown, unknown, unknown, unknown, nothing, nothing]);
    assert!(sent.iter().all(|sent| matches!(sent, Err(SendError::TimedOut { .. }))), "{sent:?}");
    serves(&mesh, &links).await;
    // One more waits for room when the mesh is closed.
    let late = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("mute", "x").await }
    });
    tokio::task::yield_now().await;
    let began = Instant::now();
    let report = within("it is closed", mesh.close()).await.expect("closed");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let late = within("it ends", late).await.expect("no panic");
    assert_eq!(late, Err(SendError::Closed { effect: Effect::Nothing }));
    assert_eq!(report.peers().len(), 1);
    assert_eq!(report.peer("mute"), Undelivered { not_sent: 1, unanswered: 4 });
    assert_eq!(mesh.close().await.expect("closed"), report, "it says the same");
    assert!(!report.is_empty() && CloseReport::default().is_empty());
}

#[tokio::test(start_paused = true)]
async fn promise_9_names_that_call_in_a_flood_are_no_more_than_peers_max_and_are_forgotten() {
    let links = InProcess::new();
    let settings = MeshSettings { peers_max: 8, ..settings() };
    let mesh = mesh(&links, settings).await;
    let mut held = Vec::new();
    for nth in 0..60 {
        let mut raw = Raw::connect(&links).await;
        raw.say(&hello(&format!("n{nth}"), nth, 1, None)).await;
        match raw.hear().await.expect("an answer").0 {
            Say::Welcome { .. } => held.push(raw),
            Say::Goodbye { why, .. } => assert_eq!(why, Farewell::Full),
            other => panic!("{other:?}"),
        }
    }
    // The one that is configured is there as well.
    assert_eq!((held.len(), mesh.states().peers().len()), (7, 8));
    drop(held);
    let alone = |states: &MeshStates| states.peers().len() == 1;
    within("they are forgotten", mesh.watch().until(alone)).await.expect("open");
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_peer_that_calls_anew_without_end_harms_nobody_else() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    for attempt in 1..=300 {
        let mut raw = Raw::connect(&links).await;
        raw.say(&hello("them", 7, attempt, None)).await;
        if attempt % 3 == 0 {
            let _any = raw.hear().await;
        }
    }
    serves(&mesh, &links).await;
    assert!(mesh.states().peers().len() <= 2);
}
