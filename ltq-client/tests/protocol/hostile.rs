//! Promise 10, seen from the client: a broker that breaks the protocol harms nobody but its own
//! connection.

use std::time::Duration;

use ltq_client::{Credit, Durability, Message, Offset, RefusalCode, Timestamp};
use ltq_core::{
    RecordBatch, Records, Refusal, Tag, TagRange, model::SequenceRange, protocol::Frame,
};
use ltq_transport::InProcess;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::fake::{Fake, Peer, welcome, within};

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
        Frame::CloseProducer { handle: 0, forget: true },
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
        Frame::Credited { handle: 1, total: Credit::default() },
        Frame::Credited { handle: 99, total: Credit::default() },
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
    let mut fake = Fake::start().await;
    let (_client, mut peer) = busy(&mut fake).await;
    let (first, time) = (Offset(u64::MAX), Timestamp(0));
    let batch = RecordBatch { first, time, records: Records::encode([&Message::new("a")]) };
    peer.send(&Frame::Deliver { handle: 1, first_tag: Tag(1), attempt: 1, batch }).await;
    peer.ended().await;
    fake.welcome().await;
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
    assert_eq!(peer.recv().await, Frame::CloseProducer { handle, forget: true });
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

#[tokio::test]
async fn random_bytes_in_frames_of_every_type_end_in_a_new_connection_at_worst() {
    let mut random = SmallRng::seed_from_u64(7);
    let mut fake = Fake::start().await;
    let (_client, mut peer) = busy(&mut fake).await;
    for _ in 0..300 {
        for _ in 0..random.random_range(1..8) {
            let kinds = [2, 3, 4, 5, 17, 18, 20, 21, 33, 34, 36, 38, 40, 49, 255];
            let mut frame = vec![kinds[random.random_range(0..kinds.len())]];
            // Small numbers are what most fields take.
            let length = random.random_range(0..24);
            frame.extend((0..length).map(|_| match random.random_range(0..4) {
                0 => random.random::<u8>(),
                _ => random.random_range(0..3),
            }));
            let mut bytes = (frame.len() as u32).to_le_bytes().to_vec();
            bytes.extend(frame);
            peer.try_send_raw(&bytes).await;
        }
        // Half a frame, and the end.
        peer.try_send_raw(&[9, 0, 0, 0, 36]).await;
        drop(peer);
        peer = fake.welcome().await;
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_a_byte_now_and_then_cut_the_connection() {
    let mut fake = Fake::start().await;
    let (_client, mut peer) = busy(&mut fake).await;
    let start = tokio::time::Instant::now();
    peer.send_raw(&(1_u32 << 20).to_le_bytes()).await;
    while peer.try_send_raw(&[36]).await {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() <= Duration::from_secs(62), "{:?}", start.elapsed());
    }
    assert!(start.elapsed() >= Duration::from_secs(60), "{:?}", start.elapsed());
    fake.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_wants_no_heartbeats_is_found_out_about_all_the_same() {
    for heartbeat_ms in [0, u32::MAX] {
        let mut fake = Fake::start().await;
        let (client, _peer) = tokio::join!(fake.builder().connect(), async {
            let mut peer = fake.accept().await;
            peer.greet(ltq_core::protocol::Welcome { heartbeat_ms, ..welcome() }).await;
            peer
        });
        let start = tokio::time::Instant::now();
        client.unwrap().state().wait_for(|state| !state.is_connected()).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 90);
    }
}

#[tokio::test]
async fn limits_that_allow_nothing_or_everything_stop_no_client() {
    for (nothing, all) in [(true, 0), (false, u32::MAX)] {
        let mut fake = Fake::start().await;
        let (client, mut peer) = tokio::join!(fake.builder().connect(), async {
            let mut peer = fake.accept().await;
            let mut welcome = welcome();
            welcome.limits.message_bytes_max = all;
            welcome.limits.publish_bytes_max = u64::from(all);
            welcome.limits.credit_max = Credit { messages: all.into(), bytes: all.into() };
            welcome.limits.subscriptions_max = all;
            welcome.limits.producers_max = all;
            welcome.limits.frame_bytes_max = all.max(4096);
            peer.greet(welcome).await;
            peer
        });
        let client = client.unwrap();
        let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
        let producer = producer.unwrap();
        let pending = producer.enqueue(Message::new("a")).await.unwrap();
        if nothing {
            let refusal = within(pending).await.unwrap_err();
            assert_eq!(refusal.refusal().unwrap().code, RefusalCode::MessageTooLarge);
            continue;
        }
        peer.publish().await;
        peer.confirm(opened.handle, 1, 1, 0).await;
        within(pending).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_is_refused_again_and_again_is_asked_for_once() {
    let mut fake = Fake::start().await;
    let (_client, mut peer) = busy(&mut fake).await;
    for _ in 0..1_000 {
        let full = || refusal(RefusalCode::LimitReached);
        peer.send(&Frame::ProducerRefused { handle: 0, refusal: full() }).await;
        peer.send(&Frame::SubscriptionClosed { handle: 1, refusal: Some(full()) }).await;
        peer.send(&Frame::SubscribeRefused { handle: 1, refusal: full() }).await;
    }
    let asked = [peer.recv().await, peer.recv().await];
    assert!(asked.iter().any(|frame| matches!(frame, Frame::OpenProducer { .. })), "{asked:?}");
    assert!(asked.iter().any(|frame| matches!(frame, Frame::Subscribe { .. })), "{asked:?}");
    peer.send(&Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 1 }, "nothing is asked twice");
}

#[tokio::test]
async fn promise_16_a_server_that_loses_every_connection_is_left_for_another() {
    let namespace = InProcess::new();
    let mut one = Fake::at(&namespace, "one").await;
    let mut two = Fake::at(&namespace, "two").await;
    let (client, peer) = one.connect(one.builder().server(&two.address)).await;
    drop(peer);
    let losing = tokio::spawn(async move {
        loop {
            drop(one.welcome().await);
        }
    });
    let mut peer = within(two.welcome()).await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    producer.unwrap();
    losing.abort();
}
