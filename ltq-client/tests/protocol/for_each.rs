use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ltq_client::{Backoff, ConsumeError, Received, RefusalCode};
use ltq_core::{Refusal, Verdict, protocol::Frame};
use tokio::sync::Notify;

use crate::fake::{Fake, Peer, within};

/// Settlements by verdict until `count` messages are settled for good.
async fn settled(peer: &mut Peer, count: u64) -> Vec<(u64, Verdict)> {
    let mut all = Vec::new();
    while (all.len() as u64) < count {
        match peer.recv().await {
            Frame::Settle { settlements, .. } => {
                for settlement in settlements {
                    let tags = settlement.tags.first.0..=settlement.tags.last.0;
                    if settlement.verdict != Verdict::Touch {
                        all.extend(tags.map(|tag| (tag, settlement.verdict)));
                    }
                }
            }
            Frame::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all.sort_by_key(|settled| settled.0);
    all
}

async fn unsubscribed(peer: &mut Peer, handle: u32) {
    loop {
        match peer.recv().await {
            Frame::Unsubscribe { .. } => break,
            Frame::Settle { .. } | Frame::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    peer.send(&Frame::SubscriptionClosed { handle, refusal: None }).await;
}

#[tokio::test]
async fn a_handler_that_succeeds_acks_and_one_that_fails_or_panics_gives_back() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let one = Duration::from_secs(1);
    let running = consumer
        .unwrap()
        .for_each(2, |received: Received| async move {
            match &received.message.body[..] {
                b"good" => Ok(()),
                b"bad" => Err("no good"),
                _ => panic!("worse"),
            }
        })
        .backoff(Backoff::new(one, Duration::from_secs(8)));
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["good", "bad", "good", "worse"]).await;
    peer.deliver(handle, 5, 3, &["bad"]).await;
    let settled = settled(&mut peer, 5).await;
    let delay = |index: usize| match settled[index].1 {
        Verdict::Requeue { delay_ms } => delay_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!((settled[0].1, settled[2].1), (Verdict::Ack, Verdict::Ack));
    for first in [delay(1), delay(3)] {
        assert!((500..=1_000).contains(&first), "{first} ms");
    }
    assert!((2_000..=4_000).contains(&delay(4)), "the third attempt waits longer");
    stop.stop();
    unsubscribed(&mut peer, handle).await;
    let summary = within(running).await.unwrap().unwrap();
    assert_eq!((summary.acked, summary.failed, summary.panicked), (2, 2, 1));
}

#[tokio::test]
async fn no_more_handlers_run_at_once_than_were_asked_for() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let running = consumer.unwrap().for_each(3, move |_| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, String>(())
        }
    });
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["x"; 50]).await;
    settled(&mut peer, 50).await;
    stop.stop();
    unsubscribed(&mut peer, handle).await;
    assert_eq!(within(running).await.unwrap().unwrap().acked, 50);
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_touched_while_their_handlers_run() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let done = Arc::new(Notify::new());
    let wait = done.clone();
    let running = consumer.unwrap().for_each(8, move |_| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Ok::<_, String>(())
        }
    });
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["a", "b"]).await;
    // The timeout is 60 s.
    let start = tokio::time::Instant::now();
    for touch in 1..=4 {
        assert_eq!(peer.settle().await.1, [(1, 2, Verdict::Touch)]);
        assert_eq!(start.elapsed().as_secs(), 20 * touch);
    }
    // Stopping waits for them, and goes on touching.
    stop.stop();
    assert_eq!(peer.settle().await.1, [(1, 2, Verdict::Touch)]);
    done.notify_waiters();
    assert_eq!(settled(&mut peer, 2).await, [(1, Verdict::Ack), (2, Verdict::Ack)]);
    unsubscribed(&mut peer, handle).await;
    assert_eq!(running.await.unwrap().unwrap().acked, 2);
}

#[tokio::test]
async fn dropping_it_gives_back_what_is_being_handled() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let started = Arc::new(Notify::new());
    let note = started.clone();
    let running = consumer.unwrap().for_each(8, move |_| {
        note.notify_one();
        std::future::pending::<Result<(), String>>()
    });
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["a"]).await;
    within(started.notified()).await;
    running.abort();
    let frame = peer.recv().await;
    if let Frame::Settle { settlements, .. } = &frame {
        assert_eq!(settlements[0].verdict, Verdict::Requeue { delay_ms: 0 });
    } else {
        assert!(matches!(frame, Frame::Unsubscribe { .. }), "{frame:?}");
    }
}

#[tokio::test]
async fn handlers_that_outlive_their_connection_are_counted_as_stale() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let (started, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (note, wait) = (started.clone(), done.clone());
    let running = consumer.unwrap().for_each(8, move |received: Received| {
        note.notify_one();
        let wait = wait.clone();
        async move {
            if received.attempt == 1 {
                wait.notified().await;
            }
            Ok::<_, String>(())
        }
    });
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["a"]).await;
    within(started.notified()).await;
    drop(peer);
    let mut peer = fake.welcome().await;
    peer.subscribed().await;
    done.notify_waiters();
    peer.deliver(handle, 1, 2, &["a"]).await;
    assert_eq!(settled(&mut peer, 1).await, [(1, Verdict::Ack)]);
    stop.stop();
    unsubscribed(&mut peer, handle).await;
    let summary = within(running).await.unwrap().unwrap();
    assert_eq!((summary.acked, summary.stale), (1, 1));
}

#[tokio::test]
async fn it_ends_with_the_reason_when_the_subscription_does() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let running = consumer.unwrap().for_each(8, |_| async { Ok::<_, String>(()) });
    let running = tokio::spawn(running.into_future());
    let refusal = Refusal::new(RefusalCode::TopicDeleted, "orders");
    peer.send(&Frame::SubscriptionClosed { handle, refusal: Some(refusal.clone()) }).await;
    let error = within(running).await.unwrap().unwrap_err();
    assert_eq!(error, ConsumeError::Ended(refusal));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_slow_handlers_is_touched_and_handled_once() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let running = consumer.unwrap().for_each(1, |_| async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        Ok::<_, String>(())
    });
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    peer.deliver(handle, 1, 1, &["a", "b"]).await;
    peer.deliver(handle, 3, 1, &["c", "d"]).await;
    // The timeout is 60 s, and each handler takes 50.
    let mut touched = [0_u32; 5];
    let mut acked = Vec::new();
    while acked.len() < 3 {
        for (first, last, verdict) in peer.settle().await.1 {
            match verdict {
                Verdict::Touch => (first..=last).for_each(|tag| touched[tag as usize] += 1),
                Verdict::Ack => acked.extend(first..=last),
                Verdict::Requeue { .. } => panic!("{first} to {last} were given back"),
            }
        }
    }
    assert_eq!(acked, [1, 2, 3]);
    assert!(touched[4] >= 6 && touched[1] >= 2, "{touched:?}");
    stop.stop();
    // The last handler is waited for.
    let asked = tokio::time::Instant::now();
    while !settled(&mut peer, 1).await.contains(&(4, Verdict::Ack)) {}
    assert!(asked.elapsed().as_secs() <= 50);
    unsubscribed(&mut peer, handle).await;
    assert_eq!(running.await.unwrap().unwrap().acked, 4);
}
