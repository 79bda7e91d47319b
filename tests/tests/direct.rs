//! The broker from within the program: the same promises without a socket.

use std::time::Duration;

use ltq_core::{
    Broker, BrokerSettings, Credit, DirectError, Durability, Effect, Environment, Message, Offset,
    ProducerName, PublisherOptions, Records, RefusalCode, StartAt, SubscribeOptions, Tag, TagRange,
    TopicSettings, Verdict,
};
use ltq_store::MemoryStore;
use ltq_tests::{DEADLINE, within};

async fn broker() -> Broker<MemoryStore> {
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    Broker::start(MemoryStore::new(64 << 20), settings, Environment::system()).await.expect("it")
}

fn tags(first: u64, last: u64) -> TagRange {
    TagRange { first: Tag(first), last: Tag(last) }
}

fn refusal(error: &DirectError) -> RefusalCode {
    match error {
        DirectError::Refused(refusal) => refusal.code,
        other => panic!("no refusal but {other}"),
    }
}

#[tokio::test]
async fn promise_2_every_channel_sees_every_message_and_consumers_share() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    let messages: Vec<_> = (0..100).map(|n| Message::new(format!("{n}"))).collect();
    publisher.publish_records(Records::encode(&messages)).await.expect("stored");

    let one_at_a_time =
        SubscribeOptions { credit: Credit { messages: 10, bytes: 1 << 20 }, ..Default::default() };
    let mut alone = broker.subscribe("t", "alone", one_at_a_time).await.expect("it");
    let mut left = broker.subscribe("t", "shared", one_at_a_time).await.expect("it");
    let mut right = broker.subscribe("t", "shared", one_at_a_time).await.expect("it");

    for expected in 0..100 {
        let received = within("a message", alone.receive()).await.expect("it").expect("it");
        assert_eq!(received.offset, Offset(expected), "promise 4: in log order");
        assert_eq!(received.message.body, format!("{expected}"));
        alone.ack(received.tag).expect("acked");
    }
    let mut shared = Vec::new();
    let (mut by_left, mut by_right) = (0, 0);
    while shared.len() < 100 {
        let received = tokio::select! {
            received = left.receive() => {
                let received = received.expect("it").expect("it");
                left.ack(received.tag).expect("acked");
                by_left += 1;
                received
            }
            received = right.receive() => {
                let received = received.expect("it").expect("it");
                right.ack(received.tag).expect("acked");
                by_right += 1;
                received
            }
            () = tokio::time::sleep(DEADLINE) => panic!("only {} arrived", shared.len()),
        };
        shared.push(received.offset.0);
    }
    shared.sort_unstable();
    assert_eq!(shared, (0..100).collect::<Vec<_>>(), "each once");
    assert!(by_left > 0 && by_right > 0, "both work: {by_left} and {by_right}");
}

#[tokio::test]
async fn promise_3_a_delivery_given_back_is_settled_by_its_new_owner_alone() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    publisher.publish(&Message::new("x")).await.expect("stored");
    let mut first = broker.subscribe("t", "c", Default::default()).await.expect("it");
    let mut second = broker.subscribe("t", "c", Default::default()).await.expect("it");

    let (old, owner) = tokio::select! {
        received = first.receive() => (received.expect("it").expect("it"), 1),
        received = second.receive() => (received.expect("it").expect("it"), 2),
        () = tokio::time::sleep(DEADLINE) => panic!("nothing arrived"),
    };
    assert_eq!(old.attempt, 1);
    let giver = if owner == 1 { &mut first } else { &mut second };
    let stale = giver
        .settle_confirmed(tags(old.tag.0, old.tag.0), Verdict::Requeue { delay_ms: 0 })
        .await
        .expect("told");
    assert_eq!(stale, []);
    // The old delivery names nothing any more.
    let stale =
        giver.settle_confirmed(tags(old.tag.0, old.tag.0), Verdict::Ack).await.expect("told");
    assert_eq!(stale, [tags(old.tag.0, old.tag.0)]);

    let (again, owner) = tokio::select! {
        received = first.receive() => (received.expect("it").expect("it"), 1),
        received = second.receive() => (received.expect("it").expect("it"), 2),
        () = tokio::time::sleep(DEADLINE) => panic!("nothing arrived"),
    };
    assert_eq!((again.offset, again.attempt), (old.offset, 2));
    let taker = if owner == 1 { &mut first } else { &mut second };
    let ack = taker.settle_confirmed(tags(again.tag.0, again.tag.0), Verdict::Ack).await;
    assert_eq!(ack.expect("told"), []);
    let stats = broker.stats().await;
    assert_eq!(stats.topics[0].channels[0].acked, 1);
}

#[tokio::test]
async fn promise_11_a_subscription_that_is_dropped_gives_back_at_once() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    publisher.publish(&Message::new("x")).await.expect("stored");
    let mut first = broker.subscribe("t", "c", Default::default()).await.expect("it");
    within("it", first.receive()).await.expect("it");
    drop(first);
    let mut second = broker.subscribe("t", "c", Default::default()).await.expect("it");
    let again = within("it", second.receive()).await.expect("it").expect("it");
    assert_eq!(again.attempt, 2);
}

#[tokio::test]
async fn credit_bounds_what_is_unsettled_and_comes_back_with_acks() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    let messages: Vec<_> = (0..50).map(|_| Message::new("x")).collect();
    publisher.publish_records(Records::encode(&messages)).await.expect("stored");
    let credit = Credit { messages: 4, bytes: 1 << 20 };
    let options = SubscribeOptions { credit, ..Default::default() };
    let mut consumer = broker.subscribe("t", "c", options).await.expect("it");
    let mut seen = 0;
    while seen < 50 {
        let received = within("it", consumer.receive()).await.expect("it").expect("it");
        seen += 1;
        let in_flight = broker.stats().await.topics[0].channels[0].in_flight;
        assert!(in_flight <= 4, "{in_flight} in flight");
        consumer.ack(received.tag).expect("acked");
    }
}

#[tokio::test]
async fn promise_6_a_name_remembers_its_sequence() {
    let broker = broker().await;
    let name = Some(ProducerName::new("loader").expect("a name"));
    let options = PublisherOptions { name, durability: None };
    let mut publisher = broker.publisher("t", options.clone()).await.expect("a publisher");
    assert_eq!(publisher.last_sequence(), 0);
    for n in 1..=3 {
        let receipt = publisher.publish(&Message::new("x")).await.expect("stored");
        assert_eq!(receipt.sequence, n);
    }
    let newer = broker.publisher("t", options).await.expect("a publisher");
    assert_eq!(newer.last_sequence(), 3);
    // The older instance is fenced.
    let error = publisher.publish(&Message::new("x")).await.expect_err("fenced");
    assert_eq!(refusal(&error), RefusalCode::Fenced);
    assert_eq!(error.effect(), Effect::Nothing);
}

#[tokio::test]
async fn a_full_store_refuses_and_takes_again_when_there_is_room() {
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = Broker::start(MemoryStore::new(1 << 20), settings, Environment::system())
        .await
        .expect("a broker");
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    let message = Message::new(vec![1; 100_000]);
    let mut stored = 0;
    let error = loop {
        match publisher.publish(&message).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the bound is not kept");
    };
    assert_eq!(refusal(&error), RefusalCode::StoreFull);
    assert_eq!(error.effect(), Effect::Nothing);

    // Consumers go on, and what they ack makes room.
    let mut consumer = broker.subscribe("t", "c", Default::default()).await.expect("it");
    for _ in 0..stored {
        let received = within("it", consumer.receive()).await.expect("it").expect("it");
        consumer.ack(received.tag).expect("acked");
    }
    within("publishing goes on", async {
        while publisher.publish(&message).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn promise_11_stopping_refuses_new_work_and_tells_everybody() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    publisher.publish(&Message::new("x")).await.expect("stored");
    let mut consumer = broker.subscribe("t", "c", Default::default()).await.expect("it");
    within("it", consumer.receive()).await.expect("it");
    within("the stop", broker.stop(DEADLINE)).await.expect("a clean stop");
    let error = consumer.receive().await.expect_err("the subscription is over");
    assert_eq!(refusal(&error), RefusalCode::Stopping);
    let error = publisher.publish(&Message::new("x")).await.expect_err("refused");
    assert_eq!(refusal(&error), RefusalCode::Stopping);
    let error = broker.publisher("u", Default::default()).await.err().expect("refused");
    assert_eq!(refusal(&error), RefusalCode::Stopping);
    broker.stop(DEADLINE).await.expect("twice is harmless");
}

#[tokio::test]
async fn names_and_credits_that_cannot_be_are_refused() {
    let broker = broker().await;
    let error = broker.publisher("a b", Default::default()).await.err().expect("refused");
    assert_eq!(refusal(&error), RefusalCode::BadName);
    let error = broker.subscribe("t", "", Default::default()).await.err().expect("refused");
    assert_eq!(refusal(&error), RefusalCode::BadName);
    for credit in [
        Credit { messages: 0, bytes: 1 },
        Credit { messages: 1, bytes: 0 },
        Credit { messages: 2501, bytes: 1 },
        Credit { messages: 1, bytes: (16 << 20) + 1 },
    ] {
        let options = SubscribeOptions { credit, ..Default::default() };
        let error = broker.subscribe("t", "c", options).await.err().expect("refused");
        assert_eq!(refusal(&error), RefusalCode::OutOfRange);
    }
}

#[tokio::test]
async fn a_channel_starts_where_it_is_asked_to() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    for _ in 0..10 {
        publisher.publish(&Message::new("x")).await.expect("stored");
    }
    let at = |start| SubscribeOptions { start, ..Default::default() };
    let mut earliest = broker.subscribe("t", "earliest", at(StartAt::Earliest)).await.expect("it");
    let mut fourth =
        broker.subscribe("t", "fourth", at(StartAt::Offset(Offset(4)))).await.expect("it");
    let mut latest = broker.subscribe("t", "latest", at(StartAt::Latest)).await.expect("it");
    publisher.publish(&Message::new("x")).await.expect("stored");
    for (consumer, offset) in [(&mut earliest, 0), (&mut fourth, 4), (&mut latest, 10)] {
        let received = within("it", consumer.receive()).await.expect("it").expect("it");
        assert_eq!(received.offset, Offset(offset));
    }
}

#[tokio::test]
async fn a_pipeline_refuses_what_follows_a_refused_publish_and_goes_on() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    let records = || Records::encode([&Message::new("x")]);
    for _ in 0..100 {
        publisher.enqueue(records()).await.expect("taken");
    }
    publisher.flush().await.expect("all stored");
    let too_large = Records::encode([&Message::new(vec![0; 2 << 20])]);
    let error = publisher.enqueue(too_large).await.expect_err("too large");
    assert_eq!(refusal(&error), RefusalCode::MessageTooLarge);
    let receipt = publisher.publish(&Message::new("y")).await.expect("stored");
    assert_eq!((receipt.sequence, receipt.offset), (101, Some(Offset(100))));
}

#[tokio::test]
async fn touch_and_timeout_follow_the_channels_clock() {
    let broker = broker().await;
    let mut publisher = broker.publisher("t", Default::default()).await.expect("a publisher");
    publisher.publish(&Message::new("x")).await.expect("stored");
    let options =
        SubscribeOptions { timeout: Some(Duration::from_millis(150)), ..Default::default() };
    let mut consumer = broker.subscribe("t", "c", options).await.expect("it");
    let first = within("it", consumer.receive()).await.expect("it").expect("it");
    consumer.touch(first.tag).expect("touched");
    let again = within("the timeout", consumer.receive()).await.expect("it").expect("it");
    assert_eq!((again.offset, again.attempt), (first.offset, 2));
}
