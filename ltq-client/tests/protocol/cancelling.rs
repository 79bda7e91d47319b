//! Calls that are given up half way do what their documentation says.

use std::time::Duration;

use futures::FutureExt;
use ltq_client::{Client, Message, Producer, RefusalCode};
use ltq_core::{Refusal, Verdict, protocol::Frame};
use ltq_transport::{InProcess, Transports};
use tokio::time::timeout;

use crate::fake::{Fake, Opened, Peer, within};

const A_WHILE: Duration = Duration::from_millis(50);

/// A producer with room for one message.
async fn narrow(fake: &mut Fake) -> (Client, Producer, Peer, Opened) {
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").window_messages(1);
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    (client, producer.unwrap(), peer, opened)
}

/// Waits until the broker has seen all that the client had to say before.
async fn nothing_more(client: &Client, peer: &mut Peer) {
    let admin = client.admin();
    let (_, frame) = tokio::join!(timeout(A_WHILE, admin.list_topics()), peer.recv());
    assert!(matches!(frame, Frame::Admin { .. }), "{frame:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connect_given_up_leaves_no_connection_behind() {
    let mut fake = Fake::start().await;
    let (given_up, mut peer) =
        tokio::join!(timeout(A_WHILE, fake.builder().connect()), fake.accept());
    assert!(given_up.is_err());
    peer.ended().await;
    assert!(timeout(Duration::from_secs(15), fake.accept()).await.is_err(), "nor makes another");
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_and_given_up_is_closed_again() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    assert!(timeout(A_WHILE, client.producer("orders")).await.is_err());
    let producer = peer.open_producer(1, 0).await.handle;
    assert!(timeout(A_WHILE, client.consumer("orders", "c")).await.is_err());
    let mut closed = Vec::new();
    while closed.len() < 2 {
        match peer.recv().await {
            Frame::CloseProducer { handle, .. } | Frame::Unsubscribe { handle } => {
                closed.push(handle)
            }
            Frame::Subscribe { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(closed.contains(&producer));
    nothing_more(&client, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_given_up_while_it_waits_for_room_has_done_nothing() {
    let mut fake = Fake::start().await;
    let (client, producer, mut peer, opened) = narrow(&mut fake).await;
    let first = producer.enqueue(Message::new("first")).await.unwrap();
    peer.publish().await;
    for _ in 0..3 {
        assert!(timeout(A_WHILE, producer.send(Message::new("lost"))).await.is_err());
        assert!(timeout(A_WHILE, producer.enqueue(Message::new("lost"))).await.is_err());
        let batch = [Message::new("lost")];
        assert!(timeout(A_WHILE, producer.enqueue_batch(&batch)).await.is_err());
        assert!(timeout(A_WHILE, producer.send_batch(&batch)).await.is_err());
    }
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(first).await.unwrap();
    nothing_more(&client, &mut peer).await;
    let next = producer.enqueue(Message::new("next")).await.unwrap();
    assert_eq!(peer.publish().await, (2, vec!["next".to_owned()]), "and took no room with it");
    peer.confirm(opened.handle, 2, 1, 1).await;
    within(next).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_given_up_later_is_published_all_the_same() {
    let mut fake = Fake::start().await;
    let (_client, producer, mut peer, opened) = narrow(&mut fake).await;
    assert!(producer.send(Message::new("a")).now_or_never().is_none());
    assert_eq!(peer.publish().await, (1, vec!["a".to_owned()]));
    peer.confirm(opened.handle, 1, 1, 0).await;
    drop(producer.enqueue(Message::new("b")).await.unwrap());
    assert_eq!(peer.publish().await.0, 2);
    assert!(producer.flush().now_or_never().is_none());
    assert!(producer.clone().close().now_or_never().is_none());
    peer.refuse(opened.handle, 2, 1, RefusalCode::StoreFull).await;
    let third = within(producer.enqueue(Message::new("c"))).await.unwrap();
    assert_eq!(peer.publish().await, (2, vec!["c".to_owned()]));
    peer.confirm(opened.handle, 2, 1, 1).await;
    within(third).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_settlement_given_up_counts_once_it_was_polled_and_gives_back_before() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c"]).await;
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(within(consumer.next()).await.unwrap().unwrap());
    }
    let third = deliveries.pop().unwrap();
    assert!(third.touch_confirmed().now_or_never().is_none());
    assert_eq!(peer.settle().await.1, [(3, 3, Verdict::Touch)]);
    assert!(deliveries.pop().unwrap().ack_confirmed().now_or_never().is_none());
    assert_eq!(peer.settle().await.1, [(2, 2, Verdict::Ack)]);
    drop(deliveries.pop().unwrap().ack_confirmed());
    assert_eq!(peer.settle().await.1, [(1, 1, Verdict::Requeue { delay_ms: 0 })]);
    third.ack().unwrap();
    assert_eq!(peer.settle().await.1, [(3, 3, Verdict::Ack)]);
}

#[tokio::test(start_paused = true)]
async fn a_close_given_up_closes_all_the_same() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    assert!(consumer.unwrap().close().now_or_never().is_none());
    assert_eq!(peer.recv().await, Frame::Unsubscribe { handle });
    peer.send(&Frame::SubscriptionClosed { handle, refusal: None }).await;
    let other = client.clone();
    assert!(client.close().now_or_never().is_none());
    peer.ended().await;
    drop(peer);
    let error = within(other.producer("orders")).await.unwrap_err();
    assert_eq!(error.outcome(), ltq_client::Outcome::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_before_there_is_a_connection_is_never_sent() {
    let namespace = InProcess::new();
    let client = Client::builder()
        .server("in-process://later")
        .transports(Transports::new().with(namespace.clone()))
        .connect_in_background()
        .unwrap();
    let admin = client.admin();
    assert!(timeout(A_WHILE, admin.delete_topic("orders")).await.is_err());
    let mut fake = Fake::at(&namespace, "later").await;
    let mut peer = fake.welcome().await;
    let refusal = Refusal::new(RefusalCode::NoSuchTopic, "");
    let (answer, ()) = tokio::join!(admin.show_topic("orders"), async {
        let Frame::Admin { request, action } = peer.recv().await else { panic!() };
        assert!(matches!(action, ltq_core::AdminRequest::ShowTopic { .. }), "{action:?}");
        peer.send(&Frame::AdminAnswered { request, result: Err(refusal) }).await;
    });
    answer.unwrap_err();
}
