use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use ltq_client::{ConsumeError, Offset, RefusalCode, SettleError, StartAt, Timestamp};
use ltq_core::{Credit, Message, Records, Refusal, Tag, TagRange, Verdict, protocol::Frame};

use crate::fake::{Fake, welcome, within};

const NOW: Verdict = Verdict::Requeue { delay_ms: 0 };

#[tokio::test]
async fn the_builder_says_where_to_start_and_how_much() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client
        .consumer_builder("orders", "billing")
        .start(StartAt::Offset(Offset(9)))
        .timeout(Duration::from_secs(7))
        .credit(3, 300);
    let (consumer, ()) = tokio::join!(builder.open(), async {
        let Frame::Subscribe {
            handle,
            topic,
            channel,
            start,
            timeout_ms,
            credit,
            make_topic,
            seat,
        } = peer.recv().await
        else {
            panic!()
        };
        assert_eq!((topic.as_str(), channel.as_str()), ("orders", "billing"));
        assert_eq!((start, timeout_ms), (StartAt::Offset(Offset(9)), Some(7_000)));
        assert_eq!(credit, Credit { messages: 3, bytes: 300 });
        assert!(make_topic);
        assert_eq!(seat.map(|seat| seat.turn), Some(1 << 32 | 1));
        peer.send(&Frame::Subscribed { handle, timeout_ms: 6_500 }).await;
    });
    assert_eq!(consumer.unwrap().timeout(), Duration::from_millis(6_500));
}

#[tokio::test]
async fn a_consumer_asks_for_no_more_credit_than_the_broker_allows() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = tokio::join!(fake.builder().connect(), async {
        let mut peer = fake.accept().await;
        let mut welcome = welcome();
        welcome.limits.credit_max = Credit { messages: 7, bytes: 4_096 };
        peer.greet(welcome).await;
        peer
    });
    let client = client.unwrap();
    for (asked, given) in [((100, 1 << 20), (7, 4_096)), ((3, 300), (3, 300))] {
        let builder = client.consumer_builder("orders", "billing").credit(asked.0, asked.1);
        let (consumer, ()) = tokio::join!(builder.open(), async {
            let Frame::Subscribe { handle, credit, .. } = peer.recv().await else { panic!() };
            assert_eq!((credit.messages, credit.bytes), given);
            peer.send(&Frame::Subscribed { handle, timeout_ms: 6_500 }).await;
        });
        consumer.unwrap();
        let Frame::Unsubscribe { .. } = peer.recv().await else { panic!() };
    }
}

#[tokio::test]
async fn a_delivery_tells_all_about_itself_and_is_acked() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) =
        tokio::join!(client.consumer("orders", "billing"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    let message = Message::new("hello").with_key("k").with_header("h", "v");
    peer.deliver_records(handle, 1, 3, Records::encode([&message])).await;
    let delivery = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(delivery.message, message);
    assert_eq!((delivery.offset(), delivery.time()), (Offset(0), Timestamp(1_000)));
    assert_eq!(delivery.attempt(), 3);
    assert_eq!((delivery.topic().as_str(), delivery.channel().as_str()), ("orders", "billing"));
    delivery.ack().unwrap();
    assert_eq!(peer.settle().await, (0, vec![(1, 1, Verdict::Ack)]));
}

#[tokio::test]
async fn acks_given_in_one_go_are_one_range() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let consumer = consumer.unwrap();
    let bodies = ["x"; 100];
    peer.deliver(handle, 1, 1, &bodies).await;
    let mut deliveries: Vec<_> = within(consumer.take(100).collect::<Vec<_>>()).await;
    deliveries.reverse();
    for delivery in deliveries {
        delivery.unwrap().ack().unwrap();
    }
    assert_eq!(peer.settle().await, (0, vec![(1, 100, Verdict::Ack)]));
}

#[tokio::test]
async fn each_answer_reaches_the_broker_as_it_was_given() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c", "d"]).await;
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(within(consumer.next()).await.unwrap().unwrap());
    }
    let dropped = deliveries.pop();
    let later = deliveries.pop().unwrap();
    let touched = deliveries.pop().unwrap();
    touched.touch().unwrap();
    later.requeue(Duration::from_micros(1_500_001)).unwrap();
    drop(dropped);
    let expected =
        vec![(2, 2, Verdict::Touch), (4, 4, NOW), (3, 3, Verdict::Requeue { delay_ms: 1_501 })];
    assert_eq!(peer.settle().await, (0, expected));
}

#[tokio::test]
async fn promise_3_a_confirmed_answer_says_whether_it_counted() {
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
    let second = deliveries.pop().unwrap();
    let first = deliveries.pop().unwrap();
    let (first, second, third, ()) = tokio::join!(
        first.ack_confirmed(),
        second.requeue_confirmed(Duration::ZERO),
        third.touch_confirmed(),
        async {
            let mut seen = 0;
            while seen < 3 {
                let (request, settlements) = peer.settle().await;
                assert_ne!(request, 0);
                seen += settlements.len();
                let stale = vec![TagRange { first: Tag(2), last: Tag(2) }];
                peer.send(&Frame::Settled { handle, request, stale }).await;
            }
        }
    );
    assert_eq!((first, second, third), (Ok(()), Err(SettleError::Stale), Ok(())));
    assert!(consumer.stale() >= 1);
}

#[tokio::test]
async fn a_batch_is_acked_as_ranges() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c"]).await;
    peer.deliver(handle, 4, 2, &["d", "e"]).await;
    peer.send(&Frame::Ping { nonce: 1 }).await;
    peer.recv().await;
    let batch = within(consumer.next_batch(4)).await.unwrap().unwrap();
    let all: Vec<_> = batch.iter().map(|m| m.unwrap()).collect();
    let plain: Vec<_> = all.iter().map(|m| (&m.message.body[..], m.offset.0, m.attempt)).collect();
    assert_eq!(plain, [(&b"a"[..], 0, 1), (b"b", 1, 1), (b"c", 2, 1), (b"d", 3, 2)]);
    batch.touch_all().unwrap();
    batch.ack_all().unwrap();
    assert_eq!(peer.settle().await.1, [(1, 4, Verdict::Touch), (1, 4, Verdict::Ack)]);
    let rest = within(consumer.next_batch(4)).await.unwrap().unwrap();
    assert_eq!(rest.len(), 1);
    drop(rest);
    assert_eq!(peer.settle().await.1, [(5, 5, NOW)]);
}

#[tokio::test]
async fn a_batch_can_be_answered_one_by_one() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c", "d"]).await;
    let batch = within(consumer.next_batch(100)).await.unwrap().unwrap();
    let mut deliveries = batch.into_deliveries();
    deliveries.next().unwrap().unwrap().ack().unwrap();
    let second = deliveries.next().unwrap().unwrap();
    assert_eq!(&second.message.body[..], b"b");
    second.requeue(Duration::from_secs(1)).unwrap();
    drop(deliveries);
    let (_, settled) = peer.settle().await;
    assert_eq!(
        settled,
        [(1, 1, Verdict::Ack), (3, 4, NOW), (2, 2, Verdict::Requeue { delay_ms: 1_000 })]
    );
}

#[tokio::test]
async fn credit_comes_back_as_deliveries_are_settled() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.consumer_builder("orders", "c").credit(4, 1 << 20);
    let (consumer, (handle, credit)) = tokio::join!(builder.open(), peer.subscribed());
    let mut consumer = consumer.unwrap();
    assert_eq!(credit.messages, 4);
    peer.deliver(handle, 1, 1, &["a", "b", "c", "d"]).await;
    let batch = within(consumer.next_batch(4)).await.unwrap().unwrap();
    let bytes: u64 = 4 * 2;
    batch.ack_all().unwrap();
    peer.settle().await;
    let Frame::Credit { total, .. } = peer.recv().await else { panic!("no credit") };
    assert_eq!(total, Credit { messages: 8, bytes: (1 << 20) + bytes });
}

#[tokio::test]
async fn credit_is_made_smaller_and_larger_while_a_consumer_runs() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.consumer_builder("orders", "c").credit(100, 1 << 20);
    let (consumer, (handle, _)) = tokio::join!(builder.open(), peer.subscribed());
    let mut consumer = consumer.unwrap();
    let credit = |messages| Credit { messages, bytes: 1 << 20 };
    consumer.set_credit(credit(3));
    assert_eq!(peer.recv().await, Frame::Credit { handle, total: credit(3) });
    // On its way before the broker hears of it: the old total counts.
    peer.deliver(handle, 1, 1, &["a", "b", "c", "d", "e"]).await;
    for _ in 0..5 {
        within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    }
    assert_eq!(peer.settle().await.1, [(1, 5, Verdict::Ack)]);
    // Set again before the answer: nothing is said until it comes.
    consumer.set_credit(credit(4));
    peer.send(&Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 1 });
    peer.send(&Frame::Credited { handle, total: Credit { messages: 5, bytes: 1 << 20 } }).await;
    let total = Credit { messages: 9, bytes: (1 << 20) + 10 };
    assert_eq!(peer.recv().await, Frame::Credit { handle, total });
    assert_eq!(consumer.credit_use().open, credit(4));
    assert!(!consumer.credit_use().is_exhausted() && consumer.credit_use().is_idle());
    // What is not connected has nothing open, and the newest size holds on the next connection.
    drop(peer);
    let mut peer = fake.welcome().await;
    assert_eq!(peer.subscribed().await, (handle, credit(4)));
}

#[tokio::test]
async fn a_broker_that_takes_credit_back_otherwise_than_asked_is_cut_off() {
    for total in [2, 4] {
        let mut fake = Fake::start().await;
        let (client, mut peer) = fake.connected().await;
        let builder = client.consumer_builder("orders", "c").credit(100, 1 << 20);
        let (consumer, (handle, _)) = tokio::join!(builder.open(), peer.subscribed());
        let consumer = consumer.unwrap();
        consumer.set_credit(Credit { messages: 3, bytes: 1 << 20 });
        peer.recv().await;
        let total = Credit { messages: total, bytes: 1 << 20 };
        peer.send(&Frame::Credited { handle, total }).await;
        peer.ended().await;
        fake.welcome().await;
    }
}

#[tokio::test]
async fn a_consumer_that_holds_some_and_has_nothing_to_do_gets_the_rest_of_its_credit() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.consumer_builder("orders", "c").credit(10, 1 << 20);
    let (consumer, (handle, _)) = tokio::join!(builder.open(), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["x"; 10]).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    held.pop().unwrap().ack().unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await.map(|d| d.unwrap().ack()) });
    peer.settle().await;
    let Frame::Credit { total, .. } = peer.recv().await else { panic!("no credit") };
    assert_eq!(total.messages, 11);
    peer.deliver(handle, 11, 1, &["y"]).await;
    within(waiting).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn promise_8_a_damaged_message_is_told_and_given_back_and_costs_no_other() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    let messages: Vec<_> = ["aa", "bb", "cc", "dd"].map(Message::new).to_vec();
    let good = Records::encode(&messages);
    let mut payload = BytesMut::from(&good.payload()[..]);
    payload[4] ^= 1;
    payload[7] ^= 1;
    let damaged = Records::from_parts(0, good.table().clone(), payload.freeze()).unwrap();
    peer.deliver_records(handle, 1, 1, damaged).await;
    let first = within(consumer.next_batch(9)).await.unwrap().unwrap();
    assert_eq!(first.len(), 1);
    for offset in [1, 2] {
        let error = within(consumer.next()).await.unwrap().unwrap_err();
        let ConsumeError::Damaged { offset: at, .. } = error else { panic!("{error}") };
        assert_eq!(at, Offset(offset));
    }
    let last = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(&last.message.body[..], b"dd");
    last.ack().unwrap();
    first.ack_all().unwrap();
    let (_, settled) = peer.settle().await;
    let later = Verdict::Requeue { delay_ms: 1_000 };
    assert_eq!(settled, [(1, 1, Verdict::Ack), (4, 4, Verdict::Ack), (2, 3, later)]);
}

#[tokio::test]
async fn an_unreadable_message_is_told_and_given_back() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    // A length of the meta part beyond the message, with the right checksum.
    let payload: &[u8] = &[9];
    let crc = {
        let one = Records::encode([&Message::new("")]);
        assert_eq!(one.payload().len(), 1);
        crc32c(payload)
    };
    let mut table = BytesMut::new();
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(&crc.to_le_bytes());
    let records = Records::from_parts(0, table.freeze(), payload.into()).unwrap();
    records.verify().unwrap();
    peer.deliver_records(handle, 1, 1, records).await;
    let error = within(consumer.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, ConsumeError::Unreadable { .. }), "{error}");
    let (_, settled) = peer.settle().await;
    assert_eq!(settled, [(1, 1, Verdict::Requeue { delay_ms: 60_000 })]);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

#[tokio::test]
async fn a_subscription_that_ends_tells_why_and_then_ends_the_stream() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    let refusal = Refusal::new(RefusalCode::ChannelDeleted, "c");
    peer.send(&Frame::SubscriptionClosed { handle, refusal: Some(refusal.clone()) }).await;
    let error = within(consumer.next()).await.unwrap().unwrap_err();
    assert_eq!(error, ConsumeError::Ended(refusal));
    assert!(within(consumer.next()).await.is_none());
    assert!(within(consumer.next_batch(5)).await.is_none());
    drop(peer);
    let mut peer = fake.welcome().await;
    peer.send(&Frame::Ping { nonce: 3 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 3 }, "it does not subscribe again");
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, (handle, _)) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let mut consumer = consumer.unwrap();
    for tag in 1..=20 {
        {
            let next = consumer.next();
            futures::pin_mut!(next);
            assert!(futures::poll!(next).is_pending());
        }
        peer.deliver(handle, tag, 1, &["x"]).await;
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert_eq!(delivery.offset(), Offset(tag - 1));
        delivery.ack().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn promise_3_what_waited_until_its_time_was_up_is_not_handed_out() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (consumer, handle) = tokio::join!(client.consumer("orders", "c"), async {
        let Frame::Subscribe { handle, .. } = peer.recv().await else { panic!() };
        peer.send(&Frame::Subscribed { handle, timeout_ms: 10_000 }).await;
        handle
    });
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c"]).await;
    let first = within(consumer.next()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let second = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(&second.message.body[..], b"b");
    second.ack().unwrap();
    assert_eq!(peer.settle().await.1, [(2, 2, Verdict::Ack)]);
    peer.deliver(handle, 4, 1, &["d"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let batch = within(consumer.next_batch(10)).await.unwrap().unwrap();
    let bodies: Vec<_> = batch.iter().map(|one| one.unwrap().message.body).collect();
    assert_eq!(bodies, ["d"], "the third is somebody else's by now");
    assert_eq!(peer.settle().await.1, [(3, 3, Verdict::Requeue { delay_ms: 0 })]);
    // What was handed out in time is its holder's to answer for.
    first.ack().unwrap();
    batch.ack_all().unwrap();
    assert_eq!(peer.settle().await.1, [(1, 1, Verdict::Ack), (4, 4, Verdict::Ack)]);
}
