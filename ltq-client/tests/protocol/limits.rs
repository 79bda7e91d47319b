//! A broker whose limits are reached, for a while or for good.

use std::time::Duration;

use ltq_client::RequestError;
use ltq_core::{Refusal, RefusalCode, protocol::Frame};
use tokio::time::Instant;

use crate::fake::{Fake, Peer, within};

const TIMEOUT: Duration = Duration::from_secs(3);

fn full() -> Refusal {
    Refusal::new(RefusalCode::LimitReached, "for a test")
}

/// Refuses what it is asked to open.
async fn refuse(peer: &mut Peer) {
    let refusal = full();
    let frame = match peer.recv().await {
        Frame::OpenProducer { handle, .. } => Frame::ProducerRefused { handle, refusal },
        Frame::Subscribe { handle, .. } => Frame::SubscribeRefused { handle, refusal },
        other => unreachable!("{other:?}"),
    };
    peer.send(&frame).await;
}

#[tokio::test(start_paused = true)]
async fn promise_16_a_limit_that_falls_free_is_asked_about_again_and_nobody_hears_of_it() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let served = async {
        for _ in 0..5 {
            refuse(&mut peer).await;
        }
        peer.open_producer(1, 0).await;
    };
    let (producer, ()) = tokio::join!(client.producer("orders"), served);
    let _producer = producer.unwrap();
    let served = async {
        for _ in 0..5 {
            refuse(&mut peer).await;
        }
        peer.subscribed().await;
    };
    let (consumer, ()) = tokio::join!(client.consumer("orders", "c"), served);
    consumer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_16_a_limit_that_stays_reached_is_told_within_the_request_timeout() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().request_timeout(TIMEOUT);
    let (client, mut peer) = fake.connect(builder).await;
    tokio::spawn(async move {
        loop {
            refuse(&mut peer).await;
        }
    });
    let began = Instant::now();
    let producer = within(client.producer("orders")).await.err();
    let took = began.elapsed();
    let consumer = within(client.consumer("orders", "c")).await.err();
    for error in [producer, consumer] {
        let Some(RequestError::Refused { refusal, .. }) = error else { panic!("{error:?}") };
        assert_eq!(refusal, full());
    }
    let most = TIMEOUT / 4 * 3;
    assert!((most - Duration::from_millis(100)..most).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_while_a_limit_is_reached_asks_no_more() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    tokio::select! {
        _ = client.consumer("orders", "c") => panic!("it was refused"),
        () = async { refuse(&mut peer).await; refuse(&mut peer).await } => {}
    }
    // One that was on its way is the last.
    let quiet = tokio::time::timeout(TIMEOUT, async {
        loop {
            match peer.recv().await {
                Frame::Subscribe { handle, .. } => {
                    peer.send(&Frame::SubscribeRefused { handle, refusal: full() }).await;
                    assert!(matches!(peer.recv().await, Frame::Unsubscribe { .. }));
                }
                Frame::Unsubscribe { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(quiet.await.is_err());
}
