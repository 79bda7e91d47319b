//! What a broker may and may not say on the further streams of a connection.

use std::time::Duration;

use ltq_client::{Client, ConnectError, ConnectionState, Message, RefusalCode};
use ltq_core::{
    Refusal,
    protocol::{Frame, InstanceId, Welcome},
};
use ltq_transport::InProcess;

use crate::fake::{Fake, Peer, welcome, within};

async fn connected() -> (Fake, Client, Peer) {
    let mut fake = Fake::at(&InProcess::multiplexed(), "fake").await;
    let (client, peer) = fake.connected().await;
    (fake, client, peer)
}

async fn cause_of_loss(client: &Client) -> String {
    let mut state = client.state();
    let is_down = |state: &ConnectionState| matches!(state, ConnectionState::Disconnected { .. });
    match &*within(state.wait_for(is_down)).await.unwrap() {
        ConnectionState::Disconnected { error: ConnectError::Lost { cause, .. }, .. } => {
            cause.clone()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_opens_a_producer_or_subscription_does_not_wait_for_the_welcome() {
    let (_fake, client, peer) = connected().await;
    let opening = tokio::spawn({
        let client = client.clone();
        async move { (client.producer("orders").await, client.consumer("orders", "c").await) }
    });
    let mut stream = peer.next_stream().await;
    let Some(Frame::Hello(hello)) = stream.recv_any().await else { panic!("no hello") };
    assert_eq!(Some(hello), peer.hello, "it is as the first stream's");
    // The request is there already.
    assert!(matches!(stream.recv_any().await, Some(Frame::OpenProducer { .. })));
    stream.send(&Frame::Welcome(welcome())).await;
    let durability = ltq_client::Durability::Disk;
    let opened = Frame::ProducerOpened { handle: 0, epoch: 1, last_sequence: 0, durability };
    stream.send(&opened).await;
    let mut second = peer.next_stream().await;
    second.greet(welcome()).await;
    let (handle, _) = second.subscribed().await;
    let (producer, consumer) = within(opening).await.unwrap();
    let pending = producer.unwrap().enqueue(Message::new("a")).await.unwrap();
    assert_eq!(stream.publish().await, (1, vec!["a".to_owned()]));
    stream.confirm(0, 1, 1, 0).await;
    within(pending).await.unwrap();
    second.deliver(handle, 1, 1, &["a"]).await;
    within(consumer.unwrap().next()).await.unwrap().unwrap().ack().unwrap();
    second.settle().await;
}

#[tokio::test]
async fn limits_hold_for_the_stream_whose_welcome_said_them() {
    let (_fake, client, mut peer) = connected().await;
    let mut limits = welcome().limits;
    limits.publish_bytes_max = 1;
    let (producer, mut stream) = tokio::join!(client.producer("orders"), async {
        let mut stream = peer.next_stream().await;
        stream.greet(Welcome { limits, ..welcome() }).await;
        stream.open_producer(1, 0).await;
        stream
    });
    let (other, mut other_stream) = tokio::join!(client.producer("other"), async {
        let mut stream = peer.next_stream().await;
        stream.greet(welcome()).await;
        stream.open_producer(1, 0).await;
        stream
    });
    let (producer, other) = (producer.unwrap(), other.unwrap());
    let big = || Message::new(vec![0; 100_000]);
    let _first = producer.enqueue(big()).await.unwrap();
    assert_eq!(stream.publish().await.0, 1);
    let _second = producer.enqueue(big()).await.unwrap();
    for n in 1..=3 {
        let _pending = other.enqueue(big()).await.unwrap();
        assert_eq!(other_stream.publish().await.0, n);
    }
    // Nothing more came on the other before it was answered.
    peer.send(&Frame::Ping { nonce: 9 }).await;
    while peer.recv_any().await != Some(Frame::Pong { nonce: 9 }) {}
    stream.send(&Frame::Ping { nonce: 9 }).await;
    assert_eq!(stream.recv_any().await, Some(Frame::Pong { nonce: 9 }));
    stream.confirm(0, 1, 1, 0).await;
    assert_eq!(stream.publish().await.0, 2);
}

#[tokio::test]
async fn a_further_stream_that_breaks_the_protocol_cuts_the_connection() {
    let refusal = Refusal::new(RefusalCode::Unauthorized, "for a test");
    let another = Welcome { node: "another".to_owned(), ..welcome() };
    let restarted = Welcome { instance: InstanceId([8; 16]), ..welcome() };
    let mut too_small = welcome();
    too_small.limits.frame_bytes_max = 1;
    let subscribed = Frame::Subscribed { handle: 0, timeout_ms: 1 };
    let answered = Frame::AdminAnswered { request: 0, result: Ok(ltq_core::AdminResponse::Done) };
    let bad = [
        (vec![Frame::Ping { nonce: 1 }], "first frame is no welcome"),
        (vec![subscribed.clone()], "first frame is no welcome"),
        (vec![Frame::Welcome(another)], "welcome is another's"),
        (vec![Frame::Welcome(restarted)], "welcome is another's"),
        (vec![Frame::Welcome(too_small)], "welcome is another's"),
        (vec![Frame::Goodbye { refusal }], "for a test"),
        (vec![Frame::Welcome(welcome()), Frame::Welcome(welcome())], "no place here"),
        // What belongs to the stream before it, and to the first one.
        (vec![Frame::Welcome(welcome()), subscribed], "another stream"),
        (vec![Frame::Welcome(welcome()), answered], "no place here"),
    ];
    for (frames, why) in bad {
        let (mut fake, client, peer) = connected().await;
        let (consumer, mut first) = tokio::join!(client.consumer("orders", "c"), async {
            let mut stream = peer.next_stream().await;
            stream.greet(welcome()).await;
            stream.subscribed().await;
            stream
        });
        let _consumer = consumer.unwrap();
        let opening = tokio::spawn({
            let client = client.clone();
            async move { client.consumer("orders", "c").await }
        });
        let mut stream = peer.next_stream().await;
        for frame in &frames {
            stream.send(frame).await;
        }
        let cause = cause_of_loss(&client).await;
        assert!(cause.contains(why), "{frames:?}: {cause}");
        first.ended().await;
        fake.welcome().await;
        opening.abort();
    }
}

#[tokio::test]
async fn promise_11_a_broker_that_is_going_answers_on_each_stream_what_it_took() {
    let (mut fake, client, mut peer) = connected().await;
    let (producer, mut stream) = tokio::join!(client.producer("orders"), async {
        let mut stream = peer.next_stream().await;
        stream.greet(welcome()).await;
        stream.open_producer(1, 0).await;
        stream
    });
    let producer = producer.unwrap();
    let pending = producer.enqueue(Message::new("a")).await.unwrap();
    stream.publish().await;
    let refusal = Refusal::new(RefusalCode::Stopping, "for a test");
    peer.send(&Frame::Goodbye { refusal: refusal.clone() }).await;
    let state = client.state();
    drop_stream(peer).await;
    // The end of one stream is not that of the others.
    stream.confirm(0, 1, 1, 0).await;
    let receipt = within(pending).await.unwrap();
    assert_eq!(receipt.sequence, 1);
    assert!(matches!(*state.borrow(), ConnectionState::Leaving { .. }), "{:?}", state.borrow());
    stream.send(&Frame::Goodbye { refusal }).await;
    drop_stream(stream).await;
    let cause = cause_of_loss(&client).await;
    assert!(cause.contains("for a test"), "{cause}");
    fake.welcome().await;
}

/// Ends a stream and waits for the client to do so too.
async fn drop_stream(mut stream: Peer) {
    stream.finish().await;
    stream.ended().await;
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_heartbeats_of_its_own() {
    let (_fake, client, mut peer) = connected().await;
    let (consumer, mut stream) = tokio::join!(client.consumer("orders", "c"), async {
        let mut stream = peer.next_stream().await;
        stream.greet(Welcome { heartbeat_ms: 1_000, ..welcome() }).await;
        stream.subscribed().await;
        stream
    });
    let mut consumer = consumer.unwrap();
    // Should the new stream get no answer, the first one's tells whether the connection is well.
    assert!(matches!(peer.recv_any().await, Some(Frame::Ping { .. })));
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        assert!(matches!(stream.recv_any().await, Some(Frame::Ping { .. })));
        stream.send(&Frame::Pong { nonce: 0 }).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(7), "{took:?}");
    // One that says nothing any more is the connection's end, whatever the others say.
    let cause = cause_of_loss(&client).await;
    assert!(cause.contains("not a byte"), "{cause}");
    assert!(tokio::time::timeout(Duration::ZERO, consumer.next()).await.is_err());
}
