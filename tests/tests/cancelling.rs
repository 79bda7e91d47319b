//! Calls of the direct API that are given up half way do what their documentation says.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    Broker, BrokerSettings, Credit, DirectError, Environment, Message, Offset, Records,
    RefusalCode, SubscribeOptions, TagRange, Verdict,
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, Served, within};
use tokio::{sync::watch, time::timeout};

const A_WHILE: Duration = Duration::from_secs(1);

async fn broker(settings: BrokerSettings) -> (Broker<Gated<MemoryStore>>, watch::Sender<bool>) {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let broker = Broker::start(store, settings, Environment::system()).await.expect("it");
    (broker, gate)
}

fn records(bytes: usize) -> Records {
    Records::encode([&Message::new(vec![1; bytes])])
}

#[tokio::test(start_paused = true)]
async fn a_publish_given_up_may_still_happen_and_later_receipts_are_right() {
    let (broker, gate) = broker(Served::settings()).await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("it");
    gate.send_replace(false);
    assert!(timeout(A_WHILE, publisher.publish(&Message::new("given up"))).await.is_err());
    gate.send_replace(true);
    let receipt = within("it", publisher.publish(&Message::new("kept"))).await.expect("stored");
    assert_eq!((receipt.sequence, receipt.offset), (2, Some(Offset(1))));
}

#[tokio::test(start_paused = true)]
async fn an_enqueue_given_up_has_published_nothing() {
    let settings = BrokerSettings {
        message_bytes_max: 64 << 10,
        frame_bytes_max: 68 << 10,
        publish_bytes_max: 68 << 10,
        ..Served::settings()
    };
    let (broker, gate) = broker(settings).await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("it");
    gate.send_replace(false);
    assert_eq!(publisher.enqueue(records(60_000)).await.expect("taken"), 1);
    for _ in 0..3 {
        assert!(timeout(A_WHILE, publisher.enqueue(records(60_000))).await.is_err());
        assert!(timeout(A_WHILE, publisher.confirmed()).await.is_err());
        assert!(timeout(A_WHILE, publisher.flush()).await.is_err());
    }
    gate.send_replace(true);
    let (ranges, _) = within("the confirm", publisher.confirmed()).await.expect("stored");
    assert_eq!((ranges[0].sequence, ranges[0].count), (1, 1), "it was not lost by giving up");
    assert_eq!(publisher.enqueue(records(10)).await.expect("taken"), 2);
    within("the rest", publisher.flush()).await.expect("stored");
    assert_eq!(broker.stats().await.topics[0].end, Offset(2));
}

#[tokio::test(start_paused = true)]
async fn a_receive_given_up_loses_no_message() {
    let (broker, _gate) = broker(Served::settings()).await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("it");
    let credit = Credit { messages: 3, bytes: 1 << 20 };
    let options = SubscribeOptions { credit, ..Default::default() };
    let mut consumer = broker.subscribe("t", "c", options).await.expect("it");
    let mut next = 0;
    for round in 0..50 {
        for _ in 0..round % 3 {
            publisher.enqueue(records(10)).await.expect("taken");
        }
        // Given up at every possible point: after no poll, one, two and so on.
        for polls in 0..4 {
            let mut receive = Box::pin(consumer.receive());
            let mut received = None;
            for _ in 0..polls {
                if let std::task::Poll::Ready(done) = futures::poll!(&mut receive) {
                    received = Some(done.expect("no refusal").expect("a message"));
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(receive);
            if let Some(received) = received {
                assert_eq!(received.offset, Offset(next));
                assert_eq!(received.attempt, 1);
                next += 1;
                consumer.ack(received.tag).expect("acked");
            }
        }
    }
    publisher.flush().await.expect("stored");
    let end = broker.stats().await.topics[0].end.0;
    while next < end {
        let received = within("it", consumer.receive()).await.expect("it").expect("it");
        assert_eq!(received.offset, Offset(next));
        next += 1;
        consumer.ack(received.tag).expect("acked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_settlement_given_up_counts_and_the_next_one_is_told_apart() {
    let (broker, _gate) = broker(Served::settings()).await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("it");
    publisher
        .publish_records(Records::encode(&[Message::new("a"), Message::new("b")]))
        .await
        .expect("stored");
    let mut consumer = broker.subscribe("t", "c", Default::default()).await.expect("it");
    let one = consumer.receive().await.expect("it").expect("it").tag;
    let other = consumer.receive().await.expect("it").expect("it").tag;
    let tags = |tag| TagRange { first: tag, last: tag };
    let mut given_up = Box::pin(consumer.settle_confirmed(tags(one), Verdict::Ack));
    assert!(futures::poll!(&mut given_up).is_pending());
    drop(given_up);
    let stale = consumer.settle_confirmed(tags(other), Verdict::Ack).await.expect("told");
    assert_eq!(stale, []);
    let stale = consumer.settle_confirmed(tags(one), Verdict::Ack).await.expect("told");
    assert_eq!(stale, [tags(one)], "it was settled by the one that was given up");
    assert_eq!(broker.stats().await.topics[0].channels[0].acked, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_and_given_up_leaves_nobody_behind() {
    let (broker, gate) = broker(Served::settings()).await;
    let broker = Arc::new(broker);
    gate.send_replace(false);
    assert!(timeout(A_WHILE, broker.publisher("t", Default::default())).await.is_err());
    assert!(timeout(A_WHILE, broker.subscribe("t", "c", Default::default())).await.is_err());
    gate.send_replace(true);
    let again = within("it", broker.subscribe("t", "c", Default::default())).await.expect("it");
    let stats = broker.stats().await;
    assert_eq!(stats.topics[0].producers, 0);
    assert_eq!(stats.topics[0].channels[0].consumers, 1);
    drop(again);
    // A publisher that is dropped while its publishes wait is confirmed all the same.
    let mut publisher = broker.publisher("t", Default::default()).await.expect("it");
    gate.send_replace(false);
    publisher.enqueue(records(10)).await.expect("taken");
    drop(publisher);
    gate.send_replace(true);
    within("the publish", async {
        while broker.stats().await.topics[0].end != Offset(1) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(broker.stats().await.topics[0].producers, 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_to_a_channel_that_is_deleted_ends_with_the_reason() {
    let (broker, _gate) = broker(Served::settings()).await;
    let mut consumer = broker.subscribe("t", "c", Default::default()).await.expect("it");
    let delete = ltq_core::AdminRequest::DeleteChannel {
        topic: ltq_core::TopicName::new("t").expect("a name"),
        channel: ltq_core::ChannelName::new("c").expect("a name"),
    };
    broker.admin(delete).await.expect("deleted");
    for _ in 0..2 {
        match within("the end", consumer.receive()).await {
            Err(DirectError::Refused(refusal)) => {
                assert_eq!(refusal.code, RefusalCode::ChannelDeleted);
            }
            other => panic!("{other:?}"),
        }
    }
}
