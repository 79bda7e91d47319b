//! What goes to other nodes, and what stays.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_topic_is_there_as_it_is_here_before_its_first_message_is() {
    let field = Field::new().await;
    let other = field.other("b").await;
    let options = TopicOptions {
        retention: ltq_core::RetentionChange {
            keep: Some(ltq_core::Keep::All),
            bytes_max: Some(Some(5 << 20)),
            ..Default::default()
        },
        ..TopicOptions::default()
    };
    let topic = "orders".parse().unwrap();
    field.here.admin(AdminRequest::CreateTopic { topic, options }).await.unwrap();
    for name in ["behind", "done"] {
        channel(&field.here, "orders", name).await;
    }
    publish(&field.here, "orders", &numbers(0..30)).await;
    ack(&field.here, "orders", "done", 30, &(0..30).collect()).await;
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    let (here, there) = (shown(&field.here, "orders").await, shown(&other, "orders").await);
    assert_eq!(there.unwrap().settings, here.unwrap().settings);
    // One that had it, while another had not, sees it again: all of it, from the first on.
    for name in ["behind", "done"] {
        assert_eq!(take(&other, "orders", name).await, numbers(0..30), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn promise_5_consumers_finish_what_they_have_before_the_rest_goes_in_its_order() {
    let field = Field::new().await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..5_000)).await;
    let options = ltq_core::SubscribeOptions {
        credit: ltq_core::Credit { messages: 50, bytes: 1 << 20 },
        ..Default::default()
    };
    let mut consumer = field.here.subscribe("orders", "a", options).await.unwrap();
    let mut seen = vec![consumer.receive().await.unwrap().unwrap()];
    let _going = field.hand_over(&["b"]);
    // It takes its time for each, and longer for all of them than anybody who settles nothing has.
    while let Ok(received) = timeout(Duration::from_secs(2), consumer.receive()).await {
        seen.push(received.unwrap().unwrap());
        assert!(shown(&other, "orders").await.is_none(), "nothing overtakes what is here");
        sleep(Duration::from_secs(1)).await;
        consumer.ack(seen[seen.len() - 2].tag).unwrap();
    }
    consumer.ack(seen.last().unwrap().tag).unwrap();
    field.until_empty().await;
    let messages: Vec<_> = seen.iter().map(|it| it.message.clone()).collect();
    let count = messages.len() as u64;
    assert!((50..200).contains(&count), "{count} here");
    assert_eq!(messages, numbers(0..count));
    assert_eq!(take(&other, "orders", "a").await, numbers(count..5_000));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_settles_nothing_is_waited_for_ten_seconds() {
    let field = Field::new().await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..100)).await;
    let options = ltq_core::SubscribeOptions {
        credit: ltq_core::Credit { messages: 3, bytes: 1 << 20 },
        ..Default::default()
    };
    let mut consumer = field.here.subscribe("orders", "a", options).await.unwrap();
    consumer.receive().await.unwrap().unwrap();
    let began = tokio::time::Instant::now();
    let _going = field.hand_over(&["b"]);
    until("the rest goes", async || shown(&other, "orders").await.is_some_and(|it| it.end.0 == 97))
        .await;
    assert!((10..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(consumer);
    field.until_empty().await;
    let wanted = [numbers(3..100), numbers(0..3)].concat();
    let mut taken = take(&other, "orders", "a").await;
    taken.sort_by_key(|it| wanted.iter().position(|other| it == other));
    assert_eq!(taken, wanted);
}

#[tokio::test(start_paused = true)]
async fn what_is_ephemeral_or_read_by_nobody_does_not_go() {
    let field = Field::new().await;
    let other = field.other("b").await;
    for (topic, name) in [("orders", "a"), ("orders", "b#ephemeral"), ("gone#ephemeral", "a")] {
        channel(&field.here, topic, name).await;
    }
    let topic = "unread".parse().unwrap();
    let options = TopicOptions::default();
    field.here.admin(AdminRequest::CreateTopic { topic, options }).await.unwrap();
    for topic in ["orders", "gone#ephemeral", "unread"] {
        publish(&field.here, topic, &numbers(0..3)).await;
    }
    let _going = field.hand_over(&["b"]);
    until("it goes", async || of_channel(&field.here, "orders", "a").await.backlog() == 0).await;
    sleep(Duration::from_secs(60)).await;
    let there = other.stats().await;
    let names = |it: &TopicStats| (it.topic.to_string(), it.channels.len(), it.end.0);
    assert_eq!(there.topics.iter().map(names).collect::<Vec<_>>(), [("orders".to_owned(), 1, 3)]);
    assert_eq!(field.here.stats().await.backlog(), 6, "what is ephemeral");
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_or_delayed_goes_once_it_is_not() {
    let field = Field::new().await;
    let other = field.other("b").await;
    for topic in ["paused", "delayed", "both"] {
        channel(&field.here, topic, "a").await;
        publish(&field.here, topic, &numbers(0..3)).await;
    }
    let pause = async |paused: bool| {
        let topic: ltq_core::TopicName = "paused".parse().unwrap();
        field.here.admin(AdminRequest::PauseTopic { topic, paused }).await.unwrap();
        let (topic, channel) = ("both".parse().unwrap(), "a".parse().unwrap());
        field.here.admin(AdminRequest::PauseChannel { topic, channel, paused }).await.unwrap();
    };
    let mut consumer = field.here.subscribe("delayed", "a", Default::default()).await.unwrap();
    for _ in 0..3 {
        let received = consumer.receive().await.unwrap().unwrap();
        consumer.requeue(received.tag, Duration::from_secs(40)).unwrap();
    }
    drop(consumer);
    pause(true).await;
    let _going = field.hand_over(&["b"]);
    sleep(Duration::from_secs(39)).await;
    assert_eq!(other.stats().await.backlog(), 0);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(take(&other, "delayed", "a").await, numbers(0..3));
    assert_eq!(field.here.stats().await.backlog(), 6);
    pause(false).await;
    field.until_empty().await;
    for topic in ["paused", "both"] {
        assert_eq!(take(&other, topic, "a").await, numbers(0..3), "{topic}");
    }
}

/// Takes so many seconds for each message, and none for what is asked of it before.
struct Late(MemoryStore, u64);

fn late(seconds: u64) -> Late {
    Late(MemoryStore::new(64 << 20), seconds)
}

#[async_trait]
impl StoreLayer for Late {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    async fn commit(&self, batch: WriteBatch, of: Durability) -> Result<Committed, StoreError> {
        if batch.ops().iter().any(|op| matches!(op, ltq_core::WriteOp::Append { .. })) {
            sleep(Duration::from_secs(self.1)).await;
        }
        self.0.commit(batch, of).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_slowly_is_not_seen_here_as_well() {
    // All of it takes longer than a delivery may, and in the second case longer than it can be made to.
    for longest in [900, 100] {
        let mut here = settings();
        here.model.delivery_timeout_max = Duration::from_secs(longest);
        let field = Field::with(here, MemoryStore::new(64 << 20)).await;
        let other = node(&field.namespace, "b", settings(), late(40)).await;
        for broker in [&field.here, &other] {
            channel(broker, "orders", "a").await;
        }
        let message =
            |number: u64| Message::new(number.to_string()).with_header("h", vec![0; 30_000]);
        publish(&field.here, "orders", &(0..20).map(message).collect::<Vec<_>>()).await;
        let _going = field.hand_over(&["b"]);
        until("it goes", async || of_channel(&field.here, "orders", "a").await.in_flight == 20)
            .await;
        let options = ltq_core::SubscribeOptions {
            credit: ltq_core::Credit { messages: 1, bytes: 1 << 20 },
            ..Default::default()
        };
        let mut consumer = field.here.subscribe("orders", "a", options).await.unwrap();
        let mut seen = BTreeMap::new();
        while let Ok(received) = timeout(Duration::from_secs(1_000), consumer.receive()).await {
            let received = received.unwrap().unwrap();
            *seen.entry(received.message.body).or_insert(0) += 1;
            consumer.ack(received.tag).unwrap();
        }
        assert_eq!(field.here.stats().await.backlog(), 0);
        assert_eq!(longest < 900, !seen.is_empty(), "{} here", seen.len());
        for message in take(&other, "orders", "a").await {
            *seen.entry(message.body).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 20);
        let twice = seen.values().filter(|it| **it > 1).count();
        // One piece.
        assert!(twice <= 2, "{twice} twice");
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_one_by_one_beside_one_that_is_too_large_is_not_seen_here_as_well() {
    // Each takes a while, and all of them longer than a delivery may: in the second case than it can be made to.
    for longest in [900, 100] {
        let mut here = settings();
        here.model.delivery_timeout_max = Duration::from_secs(longest);
        let field = Field::with(here, MemoryStore::new(64 << 20)).await;
        let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
        let other = node(&field.namespace, "b", small, late(10)).await;
        for broker in [&field.here, &other] {
            channel(broker, "orders", "a").await;
        }
        let client = Client::builder().transports(Transports::new().with(field.namespace.clone()));
        let client = client.server("in-process://here").connect().await.unwrap();
        let large = Message::new(vec![0; 20_000]);
        let all = [numbers(0..20), vec![large.clone()]].concat();
        client.producer("orders").await.unwrap().send_batch(all).await.unwrap();
        let _going = field.hand_over(&["b"]);
        until("it goes", async || of_channel(&field.here, "orders", "a").await.in_flight == 21)
            .await;
        let options = ltq_core::SubscribeOptions {
            credit: ltq_core::Credit { messages: 1, bytes: 1 << 20 },
            ..Default::default()
        };
        let mut consumer = field.here.subscribe("orders", "a", options).await.unwrap();
        let mut seen = BTreeMap::new();
        while let Ok(received) = timeout(Duration::from_secs(1_000), consumer.receive()).await {
            let received = received.unwrap().unwrap();
            *seen.entry(received.message.body).or_insert(0) += 1;
            consumer.ack(received.tag).unwrap();
        }
        assert_eq!(seen.remove(&large.body), Some(1), "no other node takes it");
        assert_eq!(longest < 900, !seen.is_empty(), "{} here", seen.len());
        for message in take(&other, "orders", "a").await {
            *seen.entry(message.body).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 20);
        // What had gone of its piece when the time of all of it was over: ten seconds each.
        let twice = seen.values().filter(|it| **it > 1).count();
        assert!(twice <= 10, "{twice} twice");
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_in_several_pieces_is_settled_once() {
    let field = Field::new().await;
    let other = field.other("b").await;
    for name in ["ahead", "behind"] {
        channel(&field.here, "orders", name).await;
    }
    // A piece holds some 60 of them.
    let message = |number: u64| Message::new(number.to_string()).with_header("h", vec![0; 1_000]);
    let all: Vec<_> = (0..400).map(message).collect();
    let client = Client::builder().transports(Transports::new().with(field.namespace.clone()));
    let client = client.server("in-process://here").connect().await.unwrap();
    client.producer("orders").await.unwrap().send_batch(&all).await.unwrap();
    // What went for one channel is done for the other in the midst of what that has.
    let every_third = (0..400).filter(|offset| offset % 3 == 0).collect();
    ack(&field.here, "orders", "ahead", 400, &every_third).await;
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    assert_eq!(take(&other, "orders", "behind").await, all);
    for name in ["ahead", "behind"] {
        assert_eq!(of_channel(&field.here, "orders", name).await.stale, 0, "{name}");
    }
}
