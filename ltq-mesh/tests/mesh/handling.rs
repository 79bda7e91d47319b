//! What a handler says, and what becomes of it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use ltq_core::Effect;
use ltq_mesh::{Admission, InboxHandler, MeshName, MeshSettings, SendError};
use ltq_transport::InProcess;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::support::*;

/// Does what the messages say.
struct Obeying(Arc<Semaphore>);

#[async_trait]
impl InboxHandler for Obeying {
    async fn accept(&self, from: &MeshName, body: &Bytes) -> Admission {
        let text = String::from_utf8_lossy(body);
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("no", why) => Admission::reject(format!("{from} said {why}")),
            ("long", _) => Admission::reject("x".repeat(100_000)),
            ("panic", _) => panic!("as it was told"),
            ("wait", _) => {
                self.0.acquire().await.expect("open").forget();
                Admission::Accept
            }
            _ => Admission::Accept,
        }
    }
}

fn rejected(peer: &MeshName, reason: &str) -> Result<(), SendError> {
    Err(SendError::Rejected { peer: peer.clone(), reason: reason.to_owned() })
}

async fn obeying() -> (ltq_mesh::Mesh, ltq_mesh::Mesh, Arc<Semaphore>, InProcess) {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Obeying(gate.clone())).start(store()).await.unwrap();
    let one = linked("one", &links)
        .peer("two", ["in-process://two"])
        .settings(MeshSettings { acknowledgement_timeout: millis(2_000), ..quick() })
        .start(store())
        .await
        .unwrap();
    both(&one, &two).await;
    (one, two, gate, links)
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_not_stored_and_its_sender_is_told_why() {
    let (one, two, ..) = obeying().await;
    let bodies = ["a", "no thanks", "b", "no", "no way", "c"];
    let sent = within("all end", join_all(bodies.map(|body| one.send("two", body)))).await;
    let name = two.name();
    let no = [
        rejected(name, "one said thanks"),
        rejected(name, "one said "),
        rejected(name, "one said way"),
    ];
    let [thanks, nothing, way] = no;
    assert_eq!(sent, [Ok(()), thanks, Ok(()), nothing, way, Ok(())]);
    assert_eq!(sent[1].as_ref().unwrap_err().effect(), Effect::Nothing);
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(texts(&mut inbox, 3).await, ["a", "b", "c"]);
    assert!(is_empty(&mut inbox).await);
    let long = one.send("two", "long").await.unwrap_err();
    assert_eq!(long, rejected(name, &"x".repeat(1_024)).unwrap_err());
}

#[tokio::test]
async fn many_rejections_cost_one_way_there_and_back_together() {
    let (one, two, ..) = obeying().await;
    let bodies = (0..900).map(|n| if n % 3 == 0 { format!("{n}") } else { format!("no {n}") });
    let sent = within("all end", join_all(bodies.map(|body| one.send("two", body)))).await;
    assert!(sent.iter().enumerate().all(|(n, sent)| sent.is_ok() == (n % 3 == 0)));
    let kept = texts(&mut two.inbox().await.unwrap(), 300).await;
    assert!(kept.into_iter().eq((0..300).map(|n| format!("{}", n * 3))));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_rejects_that_message_and_harms_nothing_else() {
    let (one, two, ..) = obeying().await;
    let sent = join_all(["a", "panic", "b"].map(|body| one.send("two", body))).await;
    let panicked = rejected(two.name(), "internal: the inbox handler panicked");
    assert_eq!(sent, [Ok(()), panicked, Ok(())]);
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 2).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_slow_handler_holds_up_its_sender_alone_and_only_for_its_patience() {
    let (one, two, gate, links) = obeying().await;
    let three =
        linked("three", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    both(&three, &two).await;
    let began = tokio::time::Instant::now();
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { join_all(["wait", "b"].map(|body| one.send("two", body))).await }
    });
    tokio::task::yield_now().await;
    within("it is sent", three.send("two", "c")).await.unwrap();
    assert!(began.elapsed() < millis(100), "{:?}", began.elapsed());
    let sent = within("they end", waiting).await.unwrap();
    assert_eq!(began.elapsed(), millis(2_000), "the acknowledgement timeout of who sends");
    assert!(sent.iter().all(|sent| sent.is_err()), "{sent:?}");
    gate.add_permits(1);
    within("it is sent", one.send("two", "wait")).await.unwrap();
    // What its sender no longer waited for may be there, and is there once.
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(next(&mut inbox).await, ("three".into(), "c".into()));
    let mut rest = vec![next(&mut inbox).await.1];
    if rest == ["b"] {
        rest.push(next(&mut inbox).await.1);
    }
    assert_eq!(rest.last().map(String::as_str), Some("wait"));
    assert!(is_empty(&mut inbox).await);
}

/// Takes a while over each message, and notes who begins and who ends.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl InboxHandler for Noting {
    async fn accept(&self, from: &MeshName, body: &Bytes) -> Admission {
        let name = format!("{from} {}", String::from_utf8_lossy(body));
        self.0.lock().push(format!("{name} begins"));
        tokio::time::sleep(millis(50)).await;
        self.0.lock().push(format!("{name} ends"));
        Admission::Accept
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_asked_about_the_messages_of_one_sender_in_turn_and_of_several_at_once() {
    let (links, noted) = (InProcess::new(), Noting::default());
    let hub = linked("hub", &links).handler(noted.clone()).start(store()).await.unwrap();
    let mut senders = Vec::new();
    for name in ["one", "two"] {
        let sender = linked(name, &links).peer("hub", ["in-process://hub"]);
        let sender = sender.start(store()).await.unwrap();
        both(&sender, &hub).await;
        senders.push(sender);
    }
    let began = tokio::time::Instant::now();
    let sends = senders.iter().flat_map(|from| (0..10).map(|n| from.send("hub", n.to_string())));
    assert_eq!(within("all are sent", join_all(sends)).await, vec![Ok(()); 20]);
    let took = began.elapsed();
    assert!((millis(500)..millis(700)).contains(&took), "two at a time: {took:?}");
    let noted = noted.0.lock().clone();
    for name in ["one", "two"] {
        let of_it: Vec<_> = noted.iter().filter(|line| line.starts_with(name)).collect();
        let in_turn = (0..10).flat_map(|n| ["begins", "ends"].map(|it| format!("{name} {n} {it}")));
        assert!(of_it.into_iter().eq(in_turn.collect::<Vec<_>>().iter()), "{noted:?}");
    }
}
