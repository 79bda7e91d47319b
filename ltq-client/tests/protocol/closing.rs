use std::time::Duration;

use ltq_client::{ConnectionState, Message, PublishError, RequestError};
use ltq_core::{Verdict, protocol::Frame};

use crate::fake::{Fake, within};

#[tokio::test]
async fn promise_11_close_waits_for_answers_sends_the_last_acks_and_ends_the_stream() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let (producer, mut consumer) = (producer.unwrap(), consumer.unwrap());
    peer.deliver(handle, 1, 1, &["a", "b"]).await;
    let delivery = within(consumer.next()).await.unwrap().unwrap();
    let held = within(consumer.next()).await.unwrap().unwrap();
    let pending = producer.enqueue(Message::new("x")).await.unwrap();
    delivery.ack().unwrap();
    let state = client.state();
    let mut closing = tokio::spawn(client.close());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match peer.recv().await {
            Frame::Publish { .. } => seen.push("publish"),
            Frame::Settle { settlements, .. } => {
                assert_eq!(settlements[0].verdict, Verdict::Ack);
                seen.push("settle");
            }
            Frame::Unsubscribe { .. } => seen.push("unsubscribe"),
            other => panic!("{other:?}"),
        }
    }
    let place = |what| seen.iter().position(|seen| *seen == what).unwrap();
    assert!(place("settle") < place("unsubscribe"), "{seen:?}");
    peer.send(&Frame::SubscriptionClosed { handle, refusal: None }).await;
    assert!(futures::poll!(&mut closing).is_pending(), "a publish is not answered");
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
    assert_eq!(peer.recv().await, Frame::CloseProducer { handle: opened.handle, forget: true });
    peer.ended().await;
    drop(peer);
    within(closing).await.unwrap().unwrap();
    assert!(matches!(&*state.borrow(), ConnectionState::Closed));
    assert!(held.ack().is_err());
    assert!(within(consumer.next()).await.is_none());
    let error = producer.send(Message::new("y")).await.unwrap_err();
    assert!(matches!(error, PublishError::Closed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn promise_15_close_ends_by_its_deadline_and_tells_what_is_open() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().request_timeout(Duration::from_secs(2));
    let (client, mut peer) = fake.connect(builder).await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let (consumer, _) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let pending = producer.unwrap().enqueue(Message::new("x")).await.unwrap();
    let start = tokio::time::Instant::now();
    let error = client.close().await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!((error.publishes, error.subscriptions), (1, 1));
    assert!(matches!(pending.await, Err(PublishError::Unknown { .. })));
    drop(consumer);
}

#[tokio::test]
async fn a_closed_client_refuses_everything() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let other = client.clone();
    let closing = tokio::spawn(client.close());
    peer.ended().await;
    drop(peer);
    within(closing).await.unwrap().unwrap();
    assert!(matches!(other.producer("t").await, Err(RequestError::Closed { .. })));
    assert!(matches!(other.consumer("t", "c").await, Err(RequestError::Closed { .. })));
    assert!(matches!(other.admin().stats().await, Err(RequestError::Closed { .. })));
    within(other.close()).await.unwrap();
}

#[tokio::test]
async fn dropping_everything_ends_the_connection() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let state = client.state();
    drop(client);
    peer.ended().await;
    drop(peer);
    let mut state = state;
    within(state.wait_for(|state| matches!(state, ConnectionState::Closed))).await.unwrap();
}

#[tokio::test]
async fn what_was_enqueued_is_still_sent_when_everything_was_dropped() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(producer.enqueue(Message::new("x")).await.unwrap());
    drop(producer);
    drop(client);
    assert_eq!(peer.publish().await.1, ["x"]);
    peer.confirm(opened.handle, 1, 1, 0).await;
    assert_eq!(peer.recv().await, Frame::CloseProducer { handle: opened.handle, forget: true });
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn dropped_clients_do_not_wait_for_a_broker_for_ever() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(producer.enqueue(Message::new("x")).await.unwrap());
    let mut state = client.state();
    let start = tokio::time::Instant::now();
    drop((producer, client));
    state.wait_for(|state| matches!(state, ConnectionState::Closed)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dropped_consumer_gives_everything_back() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c"]).await;
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    let held = within(consumer.next()).await.unwrap().unwrap();
    drop(consumer);
    assert_eq!(peer.settle().await.1, [(1, 1, Verdict::Ack)]);
    assert_eq!(peer.recv().await, Frame::Unsubscribe { handle });
    peer.send(&Frame::SubscriptionClosed { handle, refusal: None }).await;
    peer.send(&Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 1 });
    assert!(held.ack().is_err());
}

#[tokio::test]
async fn promise_11_closing_a_consumer_waits_for_the_broker() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut closing = tokio::spawn(consumer.unwrap().close());
    assert_eq!(peer.recv().await, Frame::Unsubscribe { handle });
    assert!(futures::poll!(&mut closing).is_pending());
    peer.send(&Frame::SubscriptionClosed { handle, refusal: None }).await;
    within(closing).await.unwrap().unwrap();

    let (consumer, _) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let closing = tokio::spawn(consumer.unwrap().close());
    peer.recv().await;
    drop(peer);
    assert!(matches!(within(closing).await.unwrap(), Err(RequestError::Unknown { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_close_at_once_both_hear_of_the_end() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let pending = producer.unwrap().enqueue(Message::new("x")).await.unwrap();
    peer.publish().await;
    let state = client.state();
    let both = [tokio::spawn(client.clone().close()), tokio::spawn(client.close())];
    peer.confirm(opened.handle, 1, 1, 0).await;
    peer.ended().await;
    drop(peer);
    for closing in both {
        within(closing).await.unwrap().unwrap();
        assert!(matches!(&*state.borrow(), ConnectionState::Closed));
    }
    within(pending).await.unwrap();
}

#[tokio::test]
async fn a_name_that_the_user_chose_is_kept_when_its_producer_is_closed() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let named = client.producer_builder("orders").name("loader").open();
    let (producer, opened) = tokio::join!(named, peer.open_producer(1, 0));
    drop(producer.unwrap());
    let close = Frame::CloseProducer { handle: opened.handle, forget: false };
    assert_eq!(peer.recv().await, close);
}
