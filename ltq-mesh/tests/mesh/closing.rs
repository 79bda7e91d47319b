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
