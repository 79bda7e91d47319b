//! What closing waits for, and what it says.

use std::sync::Arc;

use ltq_core::Effect;
use ltq_mesh::{MeshSettings, SendError, Undelivered};
use ltq_transport::InProcess;
use tokio::{sync::Semaphore, time::Instant};

use crate::{sending::Gate, support::*};

#[tokio::test(start_paused = true)]
async fn promise_11_closing_does_not_wait_for_messages_that_were_given_up_and_counts_them() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Gate(gate)).start(store()).await.unwrap();
    let settings = MeshSettings { unacknowledged_messages_max: 2, ..quick() };
    let one = linked("one", &links).peer("two", ["in-process://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    for _ in 0..2 {
        let sending = one.send("two", "given up");
        tokio::pin!(sending);
        assert!(futures::poll!(&mut sending).is_pending());
        // It is on its way.
        tokio::time::sleep(millis(10)).await;
        assert!(futures::poll!(&mut sending).is_pending());
    }
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "there is no room").await }
    });
    tokio::time::sleep(millis(10)).await;
    let began = Instant::now();
    let report = within("it is closed", one.close()).await.unwrap();
    assert!(began.elapsed() < millis(3_000), "{:?}", began.elapsed());
    let closed = SendError::Closed { effect: Effect::Nothing };
    assert_eq!(within("it is told", waiting).await.unwrap(), Err(closed));
    assert_eq!(report.peer("two"), Undelivered { not_sent: 1, unanswered: 2 });
    assert_eq!(report.peers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn promise_11_closing_with_nothing_on_its_way_leaves_nothing() {
    let (one, two) = pair(&InProcess::new()).await;
    one.send("two", "x").await.unwrap();
    for mesh in [one, two] {
        let began = Instant::now();
        assert!(within("it is closed", mesh.close()).await.unwrap().is_empty());
        assert!(began.elapsed() < millis(3_000), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn promise_11_closing_waits_no_longer_for_a_call_that_is_given_up_meanwhile() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Gate(gate)).start(store()).await.unwrap();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    both(&one, &two).await;
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "x").await }
    });
    // It is on its way.
    tokio::time::sleep(millis(10)).await;
    let closing = tokio::spawn({
        let one = one.clone();
        async move { one.close().await }
    });
    tokio::time::sleep(millis(100)).await;
    assert!(!closing.is_finished(), "somebody waits for an answer");
    let began = Instant::now();
    sending.abort();
    let report = within("it is closed", closing).await.unwrap().unwrap();
    assert!(began.elapsed() < millis(3_000), "{:?}", began.elapsed());
    assert_eq!(report.peer("two"), Undelivered { not_sent: 0, unanswered: 1 });
}

#[tokio::test(start_paused = true)]
async fn promise_11_who_waits_for_room_of_any_kind_is_told_at_once_that_the_mesh_is_closed() {
    let small = MeshSettings { message_bytes_max: 1_000, ..quick() };
    for settings in [
        MeshSettings { unacknowledged_messages_max: 1, ..small.clone() },
        MeshSettings { unacknowledged_bytes_max: 1_000, ..small.clone() },
        MeshSettings {
            unacknowledged_bytes_max: 2_000,
            unacknowledged_bytes_total_max: 2_000,
            ..small
        },
    ] {
        let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
        let two = linked("two", &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
        let one = linked("one", &links).peer("two", ["in-process://two"]).settings(settings);
        let one = one.start(store()).await.unwrap();
        both(&one, &two).await;
        let first = one.send("two", vec![b'x'; 1_000]);
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        tokio::time::sleep(millis(10)).await;
        let second = one.send("two", vec![b'x'; 1_000]);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        let closing = tokio::spawn({
            let one = one.clone();
            async move { one.close().await }
        });
        let began = Instant::now();
        let closed = Err(SendError::Closed { effect: Effect::Nothing });
        assert_eq!(within("it is told", second).await, closed);
        assert!(began.elapsed() < millis(10), "{:?}", began.elapsed());
        // What is on its way is waited for all the same.
        assert!(!closing.is_finished());
        gate.add_permits(1);
        assert_eq!(within("it is sent", first).await, Ok(()));
        let report = within("it is closed", closing).await.unwrap().unwrap();
        assert_eq!(report.peer("two"), Undelivered { not_sent: 1, unanswered: 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn who_drops_the_last_handle_has_left_and_its_inbox_is_over() {
    let (one, two) = pair(&InProcess::new()).await;
    let mut inbox = two.inbox().await.unwrap();
    let other = two.clone();
    drop(two);
    one.send("two", "x").await.unwrap();
    assert_eq!(next(&mut inbox).await.1, "x");
    drop(other);
    let gone = |states: &ltq_mesh::MeshStates| !states.is_connected("two");
    within("it has left", one.watch().until(gone)).await.unwrap();
    let over = within("it is over", inbox.next()).await;
    assert!(over.is_none_or(|next| next.is_err()));
}
