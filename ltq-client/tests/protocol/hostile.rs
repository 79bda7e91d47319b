//! Promise 10, seen from the client: a broker that breaks the protocol harms nobody but its own
//! connection.

use std::time::Duration;

use ltq_client::{Durability, Message, Offset, RefusalCode};
use ltq_core::{Refusal, Tag, TagRange, model::SequenceRange, protocol::Frame};

use crate::fake::{Fake, Peer, within};

/// A client with a producer (handle 0) that has one message in flight and a subscription (handle
/// 1) with credit for 4.
async fn busy(fake: &mut Fake) -> (impl Sized + use<>, Peer) {
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let builder = client.consumer_builder("orders", "c").credit(4, 1000);
    let (consumer, (handle, _)) = tokio::join!(builder.open(), peer.subscribed());
    assert_eq!((opened.handle, handle), (0, 1));
    let producer = producer.unwrap();
    let pending = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    ((client, producer, pending, consumer.unwrap()), peer)
}

fn refusal(code: RefusalCode) -> Refusal {
    Refusal::new(code, "for a test")
}

fn confirmed(handle: u32, sequence: u64, count: u64) -> Frame {
    let ranges = vec![SequenceRange { sequence, count, offset: Some(Offset(u64::MAX)) }];
    Frame::Confirmed { handle, ranges, durability: Durability::Disk }
}

#[tokio::test]
async fn frames_that_break_the_protocol_cut_the_connection() {
    let hello = {
        let mut fake = Fake::start().await;
        let (_client, peer) = fake.connected().await;
        peer.hello.unwrap()
    };
    let opened = |handle, last_sequence| Frame::ProducerOpened {
        handle,
        epoch: 1,
        last_sequence,
        durability: Durability::Disk,
    };
    let settled = |handle, request| {
        let stale = vec![TagRange { first: Tag(9), last: Tag(0) }];
        Frame::Settled { handle, request, stale }
    };
    let bad = [
        Frame::Hello(hello),
        Frame::CloseProducer { handle: 0 },
        opened(0, 0),
        opened(99, 0),
        confirmed(0, 2, 1),
        confirmed(0, 1, u64::MAX),
        confirmed(0, u64::MAX, u64::MAX),
        confirmed(99, 1, 1),
        Frame::PublishRefused {
            handle: 0,
            sequence: 1,
            count: 1,
            refusal: refusal(RefusalCode::SequenceGap),
        },
        Frame::PublishRefused {
            handle: 0,
            sequence: 7,
            count: u64::MAX,
            refusal: refusal(RefusalCode::StoreFull),
        },
        Frame::Subscribed { handle: 1, timeout_ms: 1 },
        Frame::Subscribed { handle: 99, timeout_ms: 1 },
        Frame::SubscribeRefused { handle: 99, refusal: refusal(RefusalCode::Internal) },
        Frame::SubscriptionClosed { handle: 1, refusal: None },
        Frame::SubscriptionClosed { handle: 99, refusal: None },
        settled(1, 77),
        settled(99, 0),
        Frame::AdminAnswered { request: 77, result: Err(refusal(RefusalCode::Internal)) },
        Frame::Goodbye { refusal: refusal(RefusalCode::Malformed) },
    ];
    for frame in bad {
        let mut fake = Fake::start().await;
        let (_client, mut peer) = busy(&mut fake).await;
        peer.send(&frame).await;
        peer.ended().await;
        let mut peer = fake.welcome().await;
        for _ in 0..2 {
            let again = peer.recv().await;
            let expected = matches!(again, Frame::OpenProducer { .. } | Frame::Subscribe { .. });
            assert!(expected, "after {frame:?}: {again:?}");
        }
    }
}

#[tokio::test]
async fn deliveries_beyond_the_credit_or_out_of_step_cut_the_connection() {
    for (first_tag, bodies) in [
        (1, &["a", "b", "c", "d", "e"][..]),
        (2, &["a"]),
        (0, &["a"]),
        (u64::MAX, &["a", "b"]),
        (1, &[]),
    ] {
        let mut fake = Fake::start().await;
        let (_client, mut peer) = busy(&mut fake).await;
        peer.deliver(1, first_tag, 1, bodies).await;
        peer.ended().await;
        fake.welcome().await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_frames_cut_the_connection() {
    for bytes in [&[0, 0, 0, 0][..], &[0xff; 4], &[1, 0, 0, 0, 250], &[2, 0, 0, 0, 36, 0xff]] {
        let mut fake = Fake::start().await;
        let (_client, mut peer) = busy(&mut fake).await;
        peer.send_raw(bytes).await;
        peer.ended().await;
        fake.welcome().await;
    }
}

#[tokio::test]
async fn what_comes_late_for_closed_numbers_is_passed_over() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    drop(producer);
    let handle = opened.handle;
    assert_eq!(peer.recv().await, Frame::CloseProducer { handle });
    let (consumer, (subscription, _)) =
        tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    drop(consumer);
    assert_eq!(peer.recv().await, Frame::Unsubscribe { handle: subscription });
    peer.deliver(subscription, 1, 1, &["late"]).await;
    let stale = vec![TagRange { first: Tag(1), last: Tag(1) }];
    peer.send(&Frame::Settled { handle: subscription, request: 0, stale }).await;
    peer.send(&Frame::SubscriptionClosed { handle: subscription, refusal: None }).await;
    peer.send(&confirmed(handle, 1, 1)).await;
    let gone = refusal(RefusalCode::NoSuchHandle);
    peer.send(&Frame::PublishRefused { handle, sequence: 1, count: 1, refusal: gone }).await;
    peer.send(&Frame::Ping { nonce: 5 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 5 }, "the connection lives");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_breaks_the_protocol_again_and_again_is_not_asked_in_a_tight_loop() {
    let mut fake = Fake::start().await;
    let builder =
        ltq_client::Client::builder().server(&fake.address).transports(fake.transports.clone());
    let (_client, mut peer) = fake.connect(builder).await;
    let start = tokio::time::Instant::now();
    for _ in 0..10 {
        peer.send_raw(&[0; 4]).await;
        peer = within(fake.welcome()).await;
    }
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_broker_that_asks_and_does_not_read_heaps_nothing_up() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    for nonce in 0..300_000 {
        peer.send(&Frame::Ping { nonce }).await;
    }
    let mut pongs = 0u64;
    let admin = client.admin();
    let (_, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(300), admin.list_topics()),
        async {
            loop {
                match peer.recv().await {
                    Frame::Pong { .. } => pongs += 1,
                    Frame::Admin { .. } => break,
                    other => panic!("{other:?}"),
                }
            }
        }
    );
    assert!(pongs < 300_000, "{pongs} answers were kept");
}
