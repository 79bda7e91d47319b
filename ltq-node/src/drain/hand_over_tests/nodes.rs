//! Which node is given what.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_lost_node_had_stored_unsaid_is_64_kib_of_each_topic_at_most() {
    let field = Field::new().await;
    let (lost, next) = (field.other("b").await, field.other("c").await);
    let topics: Vec<_> = (0..8).map(|index| format!("t{index}")).collect();
    let message = |number: u64| Message::new(number.to_string()).with_header("h", vec![0; 1_000]);
    let all: Vec<_> = (0..600).map(message).collect();
    for topic in &topics {
        channel(&field.here, topic, "a").await;
        publish(&field.here, topic, &all).await;
    }
    let _going = field.hand_over(&["b", "c"]);
    at_once(async || lost.stats().await.topics.iter().any(|it| it.end.0 > 200)).await;
    field.line.mute_answers_of("b");
    // What it takes until then is not said any more, and not acked here.
    sleep(Duration::from_secs(5)).await;
    let mut unsaid = 0;
    for topic in lost.stats().await.topics {
        let here = of_channel(&field.here, topic.topic.as_str(), "a").await;
        let kept = here.backlog() - (600 - topic.end.0).min(here.backlog());
        unsaid += kept;
        assert!(kept * 1_000 <= PIECE_BYTES as u64, "{}: {kept} too many", topic.topic);
    }
    assert!(unsaid > 0, "nothing was on its way");
    field.until_empty().await;
    let mut on_both = 0;
    for topic in &topics {
        let mut found: BTreeMap<_, u32> = BTreeMap::new();
        for broker in [&lost, &next] {
            if shown(broker, topic).await.is_some_and(|it| !it.channels.is_empty()) {
                let taken = take(broker, topic, "a").await;
                for message in taken {
                    *found.entry(message.body).or_default() += 1;
                }
            }
        }
        assert_eq!(found.len(), 600, "{topic}");
        let twice = found.values().filter(|times| **times > 1).count();
        assert!(twice * 1_000 <= PIECE_BYTES, "{topic}: {twice} twice");
        on_both += twice as u64;
    }
    assert_eq!(on_both, unsaid);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_for_one_node_goes_to_another() {
    let field = Field::new().await;
    let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
    let mut others = Vec::new();
    for (name, settings) in [("b", small), ("c", settings())] {
        others.push(field.other_with(name, settings, 64 << 20).await);
    }
    let topics = ["t0", "t1", "t2", "t3"];
    for topic in topics {
        channel(&field.here, topic, "a").await;
        publish(&field.here, topic, &numbers(0..3)).await;
        publish(&field.here, topic, &[Message::new(vec![0; 20_000])]).await;
        publish(&field.here, topic, &numbers(4..6)).await;
    }
    let _going = field.hand_over(&["b", "c"]);
    field.until_empty().await;
    assert!(field.here.stats().await.held_up.is_empty());
    for topic in topics {
        let mut both = Vec::new();
        for other in &others {
            if shown(other, topic).await.is_some() {
                both.extend(take(other, topic, "a").await);
            }
        }
        assert_eq!(both.len(), 6, "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_left_for_the_next_and_nothing_is_twice() {
    let field = Field::new().await;
    let full = field.other_with("b", settings(), 200_000).await;
    let next = field.other("c").await;
    let key = |number: u64| format!("{number:01000}");
    let message = |number: u64| Message::new(number.to_string()).with_key(key(number));
    let all: Vec<_> = (0..300).map(message).collect();
    let topics = ["t0", "t1", "t2", "t3", "t4", "t5"];
    for topic in topics {
        channel(&field.here, topic, "a").await;
        publish(&field.here, topic, &all).await;
    }
    let _going = field.hand_over(&["b", "c"]);
    field.until_empty().await;
    let ends = |it: &TopicStats| it.end.0;
    let on_full: u64 = full.stats().await.topics.iter().map(ends).sum();
    let on_next: u64 = next.stats().await.topics.iter().map(ends).sum();
    assert!(on_full > 0, "it has room for some");
    assert_eq!(on_full + on_next, 300 * topics.len() as u64);
}

/// Says that it can do what is on a device, and of each commit that this was reached.
struct Says(MemoryStore, Durability);

#[async_trait]
impl StoreLayer for Says {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    fn durability_max(&self) -> Durability {
        Durability::Disk
    }

    async fn commit(&self, batch: WriteBatch, of: Durability) -> Result<Committed, StoreError> {
        self.0.commit(batch, of).await?;
        Ok(Committed { durability: of.min(self.1) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_store_reaches_less_is_given_nothing_and_one_that_keeps_it_as_safely_all() {
    let store = |reached| Says(MemoryStore::new(64 << 20), reached);
    let field = Field::over(store(Durability::Disk)).await;
    let weak = node(&field.namespace, "b", settings(), store(Durability::Os)).await;
    let options = TopicOptions { durability: Some(Durability::Disk), ..TopicOptions::default() };
    let topic = "orders".parse().unwrap();
    field.here.admin(AdminRequest::CreateTopic { topic, options }).await.unwrap();
    channel(&field.here, "orders", "a").await;
    let message = |number: u64| Message::new(number.to_string()).with_key(vec![0; 1_000]);
    publish(&field.here, "orders", &(0..300).map(message).collect::<Vec<_>>()).await;
    let going = field.hand_over(&["b"]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(of_channel(&field.here, "orders", "a").await.backlog(), 300);
    assert_eq!(shown(&weak, "orders").await.unwrap().end.0, 0);
    drop(going);
    // One that keeps it as safely gets all of it.
    let safe = node(&field.namespace, "c", settings(), store(Durability::Disk)).await;
    let _going = field.hand_over(&["b", "c"]);
    field.until_empty().await;
    assert_eq!(shown(&safe, "orders").await.unwrap().end.0, 300);
}

#[tokio::test(start_paused = true)]
async fn only_what_every_node_refused_is_called_too_large_and_each_limit_is_named() {
    let field = Field::new().await;
    for (name, bytes) in [("b", 10_000), ("c", 15_000)] {
        let small = BrokerSettings { message_bytes_max: bytes, ..settings() };
        field.other_with(name, small, 64 << 20).await;
    }
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &[Message::new(vec![0; 20_000])]).await;
    let going = field.hand_over(&["b", "c", "gone"]);
    sleep(Duration::from_secs(60)).await;
    let held = field.here.stats().await.held_up;
    assert!(held.is_empty(), "one was never asked: {held:?}");
    drop(going);
    let _going = field.hand_over(&["b", "c"]);
    until("it is told", async || !field.here.stats().await.held_up.is_empty()).await;
    let told = field.here.stats().await.held_up[0].to_string();
    let named = ["in-process://b", "10000", "in-process://c", "15000"];
    assert!(named.iter().all(|name| told.contains(name)), "{told}");
}
