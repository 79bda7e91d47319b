//! What sending promises.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use ltq_core::{Effect, Entropy as _};
use ltq_mesh::{Admission, DownCause, InboxHandler, Mesh, MeshName, MeshSettings, SendError};
use ltq_transport::{InProcess, Weather};
use tokio::{sync::Semaphore, time::timeout};

use crate::support::*;

#[tokio::test]
async fn a_message_is_in_the_others_inbox_when_send_returns() {
    let (one, two) = pair(&InProcess::new()).await;
    one.send("two", "hello").await.unwrap();
    two.send("one", "good day").await.unwrap();
    one.send("one", "a note").await.unwrap();
    assert_eq!(next(&mut two.inbox().await.unwrap()).await, ("one".into(), "hello".into()));
    let mut inbox = one.inbox().await.unwrap();
    assert_eq!(next(&mut inbox).await, ("two".into(), "good day".into()));
    assert_eq!(next(&mut inbox).await, ("one".into(), "a note".into()));
    one.close().await.unwrap();
    two.close().await.unwrap();
    let closed = SendError::Closed { effect: Effect::Nothing };
    assert_eq!(one.send("two", "late").await, Err(closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_sender_are_stored_in_the_order_of_the_calls() {
    const COUNT: usize = 3_000;
    let (one, two) = pair(&InProcess::multiplexed()).await;
    let bodies = (0..COUNT).map(|n| format!("{n:04} {}", "x".repeat(n % 700)));
    let sent = join_all(bodies.clone().map(|body| one.send("two", body)));
    assert!(within("all are sent", sent).await.into_iter().all(|sent| sent.is_ok()));
    let received = texts(&mut two.inbox().await.unwrap(), COUNT).await;
    assert!(received.into_iter().eq(bodies));
}

/// Does not want every seventh number.
struct Choosing;

#[async_trait]
impl InboxHandler for Choosing {
    async fn accept(&self, _: &MeshName, body: &Bytes) -> Admission {
        match String::from_utf8_lossy(body).parse::<u64>() {
            Ok(number) if !number.is_multiple_of(7) => Admission::Accept,
            _ => Admission::reject("a seventh"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promise_6_messages_are_stored_once_and_in_order_over_connections_that_are_cut() {
    send_over_cuts(4_000, 50, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_the_same_holds_on_many_threads() {
    send_over_cuts(400, 3, 4).await;
}

/// Sends so many messages over a network that is cut, and more until it was cut so often and a quarter came through.
/// What takes time takes so many times as long.
async fn send_over_cuts(count: u64, cuts_min: u32, pace: u64) {
    let network = network();
    let settings = MeshSettings {
        read_timeout: millis(300 * pace),
        acknowledgement_timeout: millis(400 * pace),
        unacknowledged_messages_max: 50,
        ..quick()
    };
    let part = |name: &str| hosted(name, &network).settings(settings.clone());
    let one = part("one").peer("two", ["sim://two"]).start(store()).await.unwrap();
    let two = part("two").peer("one", ["sim://one"]).handler(Choosing);
    let two = two.start(store()).await.unwrap();
    both(&one, &two).await;
    network.set_weather(Weather {
        delay_max: millis(10),
        stall_one_in: 50,
        stall_max: millis(100),
        refuse_one_in: 10,
        half_close_one_in: 300,
        pieces: true,
        ..Weather::default()
    });
    let cutting = tokio::spawn({
        let (network, chance) = (network.clone(), Counting(AtomicU64::new(77)));
        async move {
            loop {
                tokio::time::sleep(millis(pace * (20 + chance.next() % 150))).await;
                network.cut("two", chance.next().is_multiple_of(8));
            }
        }
    });
    let cuts = Arc::new(AtomicU32::new(0));
    let watching = tokio::spawn({
        let (mut watch, cuts) = (one.watch(), cuts.clone());
        async move {
            while let Some(states) = watch.changed().await {
                cuts.fetch_add(u32::from(!states.is_connected("two")), Ordering::Relaxed);
            }
        }
    });
    let (mut sure, mut unsure, mut never) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut sent = 0;
    // A busy machine needs more of them.
    while sent < count
        || cuts.load(Ordering::Relaxed) <= cuts_min
        || sure.len() as u64 <= count / 4 && sent < 20 * count
    {
        within("they connect", one.connected("two")).await.unwrap();
        let sending = join_all((0..20).map(|n| {
            let (number, one) = (sent + n, &one);
            async move { (number, one.send("two", format!("{number}")).await) }
        }));
        for (number, sent) in within("all have ended", sending).await {
            match sent {
                Ok(()) => sure.insert(number),
                Err(error) if error.effect() == Effect::Unknown => unsure.insert(number),
                Err(_) => never.insert(number),
            };
        }
        sent += 20;
    }
    cutting.abort();
    network.set_weather(Weather::default());
    let last = sent + 1 + u64::from((sent + 1).is_multiple_of(7));
    let sent = async {
        while one.send("two", last.to_string()).await.is_err() {
            tokio::time::sleep(millis(10)).await;
        }
    };
    within("it is sent", sent).await;
    let mut inbox = two.inbox().await.unwrap();
    let mut received = Vec::new();
    while received.last() != Some(&last) {
        received.push(next(&mut inbox).await.1.parse::<u64>().unwrap());
    }
    assert!(received.is_sorted_by(|a, b| a < b), "in order and once: {received:?}");
    received.pop();
    let received: BTreeSet<_> = received.into_iter().collect();
    assert!(sure.is_subset(&received), "{:?} are missing", sure.difference(&received));
    assert!(never.is_disjoint(&received));
    assert!(received.iter().all(|number| sure.contains(number) || unsure.contains(number)));
    one.close().await.unwrap();
    within("it is closed", watching).await.unwrap();
    let cuts = cuts.load(Ordering::Relaxed);
    println!("{cuts} cuts; {} sure, {} unsure, {} never", sure.len(), unsure.len(), never.len());
    assert!(cuts > cuts_min && sure.len() as u64 > count / 4, "{cuts} cuts, {sure:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_the_connection_is_cut_is_sent_again_and_stored_once() {
    let network = network();
    let one = hosted("one", &network).peer("two", ["sim://two"]).start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    // The message takes longer than the connection lasts.
    network.set_weather(Weather {
        delay_min: millis(30),
        delay_max: millis(30),
        ..Weather::default()
    });
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "x").await }
    });
    for after in [10, 100] {
        tokio::time::sleep(millis(after)).await;
        network.cut("two", false);
    }
    assert_eq!(within("it is sent", sending).await.unwrap(), Ok(()));
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(next(&mut inbox).await.1, "x");
    assert!(is_empty(&mut inbox).await);
}

#[tokio::test]
async fn promise_15_a_message_that_is_too_large_for_either_side_is_refused_at_once() {
    let links = InProcess::new();
    let small = MeshSettings { message_bytes_max: 100, ..quick() };
    let two = linked("two", &links).settings(small).start(store()).await.unwrap();
    let large = MeshSettings { message_bytes_max: 200, ..quick() };
    let one = linked("one", &links).settings(large).peer("two", ["in-process://two"]);
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    for (bytes, max) in [(101, 100), (200, 100), (201, 200)] {
        let error = one.send("two", vec![0; bytes]).await.unwrap_err();
        assert_eq!(error, SendError::TooLarge { bytes, max });
        assert_eq!(error.effect(), Effect::Nothing);
    }
    one.send("two", vec![b'x'; 100]).await.unwrap();
    two.send("one", vec![b'y'; 100]).await.unwrap();
    assert_eq!(
        two.send("one", vec![0; 101]).await,
        Err(SendError::TooLarge { bytes: 101, max: 100 })
    );
}

#[tokio::test]
async fn a_message_of_many_megabytes_arrives_whole() {
    let links = InProcess::new();
    let settings =
        MeshSettings { message_bytes_max: 16 << 20, unacknowledged_bytes_max: 16 << 20, ..quick() };
    let two = linked("two", &links).settings(settings.clone()).start(store()).await.unwrap();
    let one = linked("one", &links).settings(settings).peer("two", ["in-process://two"]);
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    let body: Vec<u8> = (0..16 << 20).map(|n: u32| (n % 251) as u8).collect();
    within("it is sent", one.send("two", body.clone())).await.unwrap();
    let mut inbox = two.inbox().await.unwrap();
    let message = within("it is there", inbox.next()).await.unwrap().unwrap();
    assert!(message.body() == &body);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_connected_is_told_so_at_once_and_is_connected_to_later() {
    let links = InProcess::new();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let unknown = one.send("nobody", "x").await.unwrap_err();
    assert_eq!(unknown, SendError::NoSuchPeer { peer: "nobody".to_owned() });
    let long = one.send(&"x".repeat(1_000), "x").await.unwrap_err();
    assert_eq!(long, SendError::NoSuchPeer { peer: "x".repeat(80) });
    let is_down = |states: &ltq_mesh::MeshStates| {
        matches!(states.peer("two"), Some(ltq_mesh::PeerState::Disconnected { failures: 2, .. }))
    };
    within("it fails twice", one.watch().until(is_down)).await.unwrap();
    let down = one.send("two", "x").await.unwrap_err();
    assert!(
        matches!(&down, SendError::NotConnected { peer, cause: DownCause::Unreachable(_) } if *peer == "two"),
        "{down:?}"
    );
    assert_eq!(down.effect(), Effect::Nothing);
    let two = linked("two", &links).start(store()).await.unwrap();
    both(&one, &two).await;
    one.send("two", "x").await.unwrap();
    // It goes and comes back as another process.
    two.close().await.unwrap();
    drop(two);
    within("it is gone", one.watch().until(|states| !states.is_connected("two"))).await.unwrap();
    assert!(matches!(one.send("two", "y").await, Err(SendError::NotConnected { .. })));
    let two = linked("two", &links).start(store()).await.unwrap();
    both(&one, &two).await;
    one.send("two", "z").await.unwrap();
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(next(&mut inbox).await.1, "z");
    assert!(is_empty(&mut inbox).await);
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_call_ends_by_its_deadline_and_says_whether_the_message_may_be_there() {
    let network = network();
    let settings = MeshSettings {
        acknowledgement_timeout: millis(300),
        unacknowledged_messages_max: 2,
        ..quick()
    };
    let one = hosted("one", &network).peer("two", ["sim://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    // Nothing comes through any more, and nobody is told.
    network.cut("two", true);
    let began = tokio::time::Instant::now();
    let sent = join_all((0..3).map(|_| one.send("two", "x"))).await;
    assert_eq!(began.elapsed(), millis(300));
    let effects: Vec<_> =
        sent.iter().map(|sent| sent.as_ref().map_err(SendError::effect)).collect();
    assert_eq!(effects, [Err(Effect::Unknown), Err(Effect::Unknown), Err(Effect::Nothing)]);
    assert!(sent.iter().all(|sent| matches!(sent, Err(SendError::TimedOut { .. }))), "{sent:?}");
    // Once the connection is known to be lost, it says so.
    let lost = |states: &ltq_mesh::MeshStates| !states.is_connected("two");
    within("it is found out", one.watch().until(lost)).await.unwrap();
    both(&one, &two).await;
    one.send("two", "y").await.unwrap();
    network.set_weather(Weather {
        delay_min: millis(50),
        delay_max: millis(50),
        ..Weather::default()
    });
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "z").await }
    });
    tokio::time::sleep(millis(20)).await;
    network.set_down("two", true);
    network.cut("two", false);
    let error = within("it ends", sending).await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::WriteFailed { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_before_the_message_was_sent_has_done_nothing() {
    let network = network();
    let settings = MeshSettings { unacknowledged_messages_max: 1, ..quick() };
    let one = hosted("one", &network).peer("two", ["sim://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    network.set_weather(Weather {
        delay_min: millis(50),
        delay_max: millis(50),
        ..Weather::default()
    });
    let first = one.send("two", "a");
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    {
        let second = one.send("two", "b");
        tokio::pin!(second);
        assert!(futures::poll!(second).is_pending());
    }
    within("it is sent", first).await.unwrap();
    within("it is sent", one.send("two", "c")).await.unwrap();
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 2).await, ["a", "c"]);
}

/// Does not answer before it may.
pub(crate) struct Gate(pub(crate) Arc<Semaphore>);

#[async_trait]
impl InboxHandler for Gate {
    async fn accept(&self, _: &MeshName, _: &Bytes) -> Admission {
        self.0.acquire().await.expect("open").forget();
        Admission::Accept
    }
}

#[tokio::test(start_paused = true)]
async fn promise_11_closing_answers_what_is_stored_and_waits_for_what_is_on_its_way() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    both(&one, &two).await;
    let sending = one.send("two", "x");
    tokio::pin!(sending);
    assert!(futures::poll!(&mut sending).is_pending());
    let closing = tokio::spawn({
        let one = one.clone();
        async move { one.close().await }
    });
    tokio::time::sleep(millis(100)).await;
    assert!(!closing.is_finished());
    assert_eq!(one.send("two", "y").await, Err(SendError::Closed { effect: Effect::Nothing }));
    gate.add_permits(1);
    within("it is sent", sending).await.unwrap();
    within("it is closed", closing).await.unwrap().unwrap();
    assert!(one.watch().changed().await.is_some_and(|states| states.peers().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn promise_15_who_waits_for_an_answer_when_the_mesh_is_closed_is_told_what_is_known() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Gate(gate)).start(store()).await.unwrap();
    let settings = MeshSettings { unacknowledged_messages_max: 1, ..quick() };
    let one = linked("one", &links).peer("two", ["in-process://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    let sending = join_all(["x", "y"].map(|body| one.send("two", body)));
    let (sent, closed) = tokio::join!(sending, async {
        tokio::time::sleep(millis(9_990)).await;
        timeout(millis(1), one.close()).await
    });
    assert!(closed.is_err(), "it is given up");
    let effects: Vec<_> =
        sent.iter().map(|sent| sent.as_ref().map_err(SendError::effect)).collect();
    assert_eq!(effects, [Err(Effect::Unknown), Err(Effect::Nothing)], "{sent:?}");
    within("it is closed", one.close()).await.unwrap();
}

#[tokio::test]
async fn a_full_inbox_says_so_and_takes_more_once_it_is_read() {
    let links = InProcess::new();
    let two = linked("two", &links).start(ltq_store::MemoryStore::new(1 << 20)).await.unwrap();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    both(&one, &two).await;
    let mut stored = 0;
    let full = loop {
        match one.send("two", vec![b'x'; 100_000]).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "it takes everything");
    };
    assert!(matches!(full, SendError::InboxFull { .. }), "{full:?}");
    assert_eq!(full.effect(), Effect::Nothing);
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(texts(&mut inbox, stored).await.len(), stored);
    let sent = async {
        while one.send("two", "again").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("there is room", sent).await;
    assert_eq!(next(&mut inbox).await.1, "again");
}

#[tokio::test]
async fn an_unacked_message_is_delivered_again() {
    let one = Mesh::builder("one").start(store()).await.unwrap();
    one.send("one", "x").await.unwrap();
    let mut inbox = one.inbox().await.unwrap();
    let message = within("a message", inbox.next()).await.unwrap().unwrap();
    assert_eq!(message.attempt(), 1);
    drop(message);
    let message = within("it comes again", inbox.next()).await.unwrap().unwrap();
    assert_eq!((message.attempt(), &message.body()[..]), (2, &b"x"[..]));
    message.requeue(millis(1)).unwrap();
    let message = within("it comes again", inbox.next()).await.unwrap().unwrap();
    message.touch().unwrap();
    assert_eq!(message.attempt(), 3);
    message.ack().unwrap();
}
