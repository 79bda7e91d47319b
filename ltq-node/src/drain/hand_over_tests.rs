//! A backlog that goes from one broker of this process to others, on a paused clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ltq_client::{Backoff, Client};
use ltq_core::{
    Address, AdminRequest, Broker, BrokerSettings, ChannelStats, Committed, Durability,
    Environment, LogName, Message, Offset, ReadLimits, RecordBatch, StartAt, Store, StoreError,
    StoreLayer, TopicOptions, TopicSettings, TopicStats, Transport as _, WriteBatch,
};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Transports};
use proptest::prelude::*;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    going::{CHANNELS_MAX, PIECE_BYTES},
    hand_over::{Done, HandOver},
};
use crate::{NodeBroker, line::Line, watched_store::WatchedStore};

/// Brokers of this process, of which the first one hands over to the others.
struct Field {
    namespace: InProcess,
    line: Line,
    here: NodeBroker,
}

/// A hand-over under way, until it is dropped.
struct Going(JoinHandle<()>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn settings() -> BrokerSettings {
    let topic = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    BrokerSettings { topic, ..BrokerSettings::default() }
}

impl Field {
    async fn new() -> Self {
        Self::over(MemoryStore::new(256 << 20)).await
    }

    async fn over(store: impl Store) -> Self {
        let namespace = InProcess::new();
        let line = Line::new(namespace.clone());
        let here = node(&namespace, "here", settings(), store).await;
        Self { namespace, line, here }
    }

    async fn other(&self, name: &str) -> NodeBroker {
        self.other_with(name, settings(), 256 << 20).await
    }

    async fn other_with(&self, name: &str, settings: BrokerSettings, bytes: u64) -> NodeBroker {
        node(&self.namespace, name, settings, MemoryStore::new(bytes)).await
    }

    fn hand_over(&self, to: &[&str]) -> Going {
        self.here.set_draining(true);
        let template = Client::builder()
            .transports(Transports::new().with(self.line.clone()))
            .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(100)));
        let to: Vec<_> = to.iter().map(|name| format!("in-process://{name}")).collect();
        let over = HandOver::by(&self.here, &template, &to, Done::default());
        Going(tokio::spawn(async move { over.run().await }))
    }

    /// Waits until nothing is left here.
    async fn until_empty(&self) {
        until("nothing is left", async || self.here.stats().await.backlog() == 0).await;
    }
}

async fn node(
    namespace: &InProcess,
    name: &str,
    settings: BrokerSettings,
    store: impl Store,
) -> NodeBroker {
    let store = WatchedStore::new(Arc::new(store), None);
    let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
    let listener = namespace.listen(&Address::new("in-process", name)).await.unwrap();
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    broker
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let seen = async {
        while !is_so().await {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(Duration::from_secs(600), seen).await.is_ok(), "{what}: it did not come");
}

/// Waits until something is so, while no time passes.
async fn at_once(is_so: impl AsyncFn() -> bool) {
    for _ in 0..1_000_000 {
        if is_so().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not come");
}

async fn channel(broker: &NodeBroker, topic: &str, channel: &str) {
    let (topic, channel) = (topic.parse().unwrap(), channel.parse().unwrap());
    let request = AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest };
    broker.admin(request).await.unwrap();
}

async fn publish(broker: &NodeBroker, topic: &str, messages: &[Message]) {
    let mut publisher = broker.publisher(topic, Default::default()).await.unwrap();
    for message in messages {
        publisher.publish(message).await.unwrap();
    }
}

fn numbers(range: Range<u64>) -> Vec<Message> {
    range.map(|number| Message::new(number.to_string())).collect()
}

async fn shown(broker: &NodeBroker, topic: &str) -> Option<TopicStats> {
    let stats = broker.stats().await;
    stats.topics.into_iter().find(|it| it.topic.as_str() == topic)
}

async fn of_channel(broker: &NodeBroker, topic: &str, channel: &str) -> ChannelStats {
    let topic = shown(broker, topic).await.unwrap();
    topic.channels.into_iter().find(|it| it.channel.as_str() == channel).unwrap()
}

/// Takes and acks all that a channel has, in the order in which it comes.
async fn take(broker: &NodeBroker, topic: &str, channel: &str) -> Vec<Message> {
    let count = of_channel(broker, topic, channel).await.backlog();
    let mut taken = Vec::new();
    let mut consumer = broker.subscribe(topic, channel, Default::default()).await.unwrap();
    for _ in 0..count {
        let received = timeout(Duration::from_secs(60), consumer.receive()).await;
        let received = received.expect("it comes").unwrap().expect("it is not over");
        assert_eq!(received.attempt, 1);
        taken.push(received.message);
        consumer.ack(received.tag).unwrap();
    }
    taken
}

/// Acks these offsets in a channel, of so many that it has.
async fn ack(broker: &NodeBroker, topic: &str, channel: &str, count: usize, acked: &BTreeSet<u64>) {
    let mut consumer = broker.subscribe(topic, channel, Default::default()).await.unwrap();
    for _ in 0..count {
        let received = consumer.receive().await.unwrap().unwrap();
        if acked.contains(&received.offset.0) {
            consumer.ack(received.tag).unwrap();
        }
    }
}

/// A runtime whose clock stands still while anything happens.
fn paused<T>(what: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(what)
}

fn any_message() -> impl Strategy<Value = Message> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let headers = prop::collection::vec(("[a-c]{0,2}", bytes()), 0..4);
    (prop::option::of(bytes()), headers, bytes()).prop_map(|(key, headers, body)| {
        let headers = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        Message { key: key.map(Into::into), headers, body: body.into() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_message_is_the_same_byte_for_byte_and_in_its_place(
        mut messages in prop::collection::vec(any_message(), 1..60),
        at in any::<prop::sample::Index>(),
    ) {
        // As large as a message may be, and one with nothing in it.
        let beside = 1;
        let largest = settings().message_bytes_max as usize - beside;
        messages.insert(at.index(messages.len()), Message::new(vec![7; largest]));
        messages.insert(at.index(messages.len()), Message::default());
        let (taken, weak) = paused(async {
            let field = Field::new().await;
            let other = field.other("b").await;
            channel(&field.here, "orders", "a").await;
            publish(&field.here, "orders", &messages).await;
            let _going = field.hand_over(&["b"]);
            field.until_empty().await;
            let weak = of_channel(&other, "orders", "a").await.delivered;
            (take(&other, "orders", "a").await, weak)
        });
        prop_assert_eq!((taken, weak), (messages, 0));
    }

    #[test]
    fn what_any_channel_has_still_to_settle_goes_once_and_in_the_order_of_the_topic(
        acked in prop::collection::vec(prop::collection::btree_set(0_u64..60, 0..60), 1..5),
    ) {
        let wanted: Vec<_> = (0..60).filter(|it| acked.iter().any(|of| !of.contains(it))).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|it| Message::new(it.to_string())).collect();
        paused(async {
            let field = Field::new().await;
            let other = field.other("b").await;
            let names: Vec<_> = (0..acked.len()).map(|index| format!("c{index}")).collect();
            for name in &names {
                channel(&field.here, "orders", name).await;
            }
            publish(&field.here, "orders", &numbers(0..60)).await;
            for (name, acked) in names.iter().zip(&acked) {
                ack(&field.here, "orders", name, 60, acked).await;
            }
            let _going = field.hand_over(&["b"]);
            field.until_empty().await;
            for name in &names {
                if !wanted.is_empty() {
                    assert_eq!(take(&other, "orders", name).await, wanted, "{name}");
                }
            }
        });
    }
}

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
async fn attempts_are_counted_anew() {
    let field = Field::new().await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..1)).await;
    for attempt in 1..4 {
        let mut consumer = field.here.subscribe("orders", "a", Default::default()).await.unwrap();
        let received = consumer.receive().await.unwrap().unwrap();
        assert_eq!(received.attempt, attempt);
        consumer.requeue(received.tag, Duration::ZERO).unwrap();
    }
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    // It asks for the first attempt.
    assert_eq!(take(&other, "orders", "a").await, numbers(0..1));
}

#[tokio::test(start_paused = true)]
async fn consumers_go_on_here_and_each_message_is_seen_at_one_place() {
    let field = Field::new().await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..5_000)).await;
    let options = ltq_core::SubscribeOptions {
        credit: ltq_core::Credit { messages: 10, bytes: 1 << 20 },
        ..Default::default()
    };
    let mut consumer = field.here.subscribe("orders", "a", options).await.unwrap();
    let mut seen = Vec::new();
    let _going = field.hand_over(&["b"]);
    while let Ok(received) = timeout(Duration::from_secs(2), consumer.receive()).await {
        let received = received.unwrap().unwrap();
        seen.push(received.message);
        consumer.ack(received.tag).unwrap();
    }
    field.until_empty().await;
    assert!(seen.len() > 10, "{} here", seen.len());
    seen.extend(take(&other, "orders", "a").await);
    let number = |it: &Message| String::from_utf8_lossy(&it.body).parse::<u64>().unwrap();
    seen.sort_by_key(number);
    assert_eq!(seen, numbers(0..5_000));
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
async fn a_message_that_no_node_takes_is_told_and_holds_up_what_is_behind_it_alone() {
    let field = Field::new().await;
    let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
    let other = field.other_with("b", small, 64 << 20).await;
    for topic in ["orders", "other", "alone"] {
        channel(&field.here, topic, "a").await;
    }
    let large = || vec![Message::new(vec![0; 20_000])];
    publish(&field.here, "other", &numbers(0..3)).await;
    publish(&field.here, "alone", &large()).await;
    // All of them come together.
    let client = Client::builder().transports(Transports::new().with(field.namespace.clone()));
    let client = client.server("in-process://here").connect().await.unwrap();
    let all = [numbers(0..3), large(), numbers(4..6)].concat();
    client.producer("orders").await.unwrap().send_batch(all).await.unwrap();
    let _going = field.hand_over(&["b"]);
    until("it is told", async || field.here.stats().await.held_up.len() == 2).await;
    let mut held = field.here.stats().await.held_up;
    assert_eq!(held.remove(0).topic.as_str(), "alone");
    let told = held.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let named = ["orders from 3 on", "20001 bytes", "in-process://b", "10000", "message_too_large"];
    assert!(named.iter().all(|name| told.contains(name)), "{told}");
    assert_eq!((held.len(), held[0].offset.0, held[0].bytes), (1, 3, 20_001));
    sleep(Duration::from_secs(60)).await;
    // Those before it went, once, and other topics do not wait.
    assert_eq!(take(&other, "orders", "a").await, numbers(0..3));
    assert_eq!(take(&other, "other", "a").await, numbers(0..3));
    assert_eq!(field.here.stats().await.backlog(), 4);
    // They are consumed here: what was behind one goes.
    ack(&field.here, "alone", "a", 1, &BTreeSet::from([0])).await;
    let mut consumer = field.here.subscribe("orders", "a", Default::default()).await.unwrap();
    loop {
        let received = consumer.receive().await.unwrap().unwrap();
        if received.offset.0 == 3 {
            consumer.ack(received.tag).unwrap();
            break;
        }
    }
    drop(consumer);
    field.until_empty().await;
    assert_eq!(take(&other, "orders", "a").await, numbers(4..6));
    until("it is told no more", async || field.here.stats().await.held_up.is_empty()).await;
}

/// Takes a while to read the first 30 messages of a log, and none to read others.
struct Slow(MemoryStore);

#[async_trait]
impl StoreLayer for Slow {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        if from.0 < 30 { None } else { self.0.try_read(log, from, limits) }
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        sleep(Duration::from_millis(300)).await;
        self.0.read(log, from, limits).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_slowly_is_waited_for_and_comes_before_what_is_behind_it() {
    let field = Field::over(Slow(MemoryStore::new(64 << 20))).await;
    let other = field.other("b").await;
    for name in ["ahead", "behind"] {
        channel(&field.here, "orders", name).await;
    }
    publish(&field.here, "orders", &numbers(0..60)).await;
    ack(&field.here, "orders", "ahead", 60, &(0..30).collect()).await;
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    for name in ["ahead", "behind"] {
        assert_eq!(take(&other, "orders", name).await, numbers(0..60), "{name}");
    }
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
    let message = |number: u64| Message::new(number.to_string()).with_key(vec![0; 1_000]);
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
async fn what_a_hand_over_has_in_memory_is_bounded_however_many_channels_there_are() {
    let field = Field::new().await;
    field.other("b").await;
    let names: Vec<_> = (0..40).map(|index| format!("c{index}")).collect();
    for topic in ["one", "two"] {
        for name in &names {
            channel(&field.here, topic, name).await;
        }
        publish(&field.here, topic, &vec![Message::new(vec![0; 5_000]); 1_500]).await;
    }
    let _going = field.hand_over(&["b"]);
    let in_flight = async || {
        let topics = field.here.stats().await.topics;
        let of = |it: &TopicStats| it.channels.iter().map(|it| it.in_flight).sum::<u64>();
        topics.iter().map(of).collect::<Vec<_>>()
    };
    at_once(async || in_flight().await.iter().all(|it| *it > 0)).await;
    field.line.mute_answers_of("b");
    // More than was asked for once does not come.
    sleep(Duration::from_secs(2)).await;
    for (topic, count) in field.here.stats().await.topics.iter().zip(in_flight().await) {
        let consumers = topic.channels.iter().filter(|it| it.consumers > 0).count();
        assert_eq!(consumers, CHANNELS_MAX);
        let most = (4 << 20) + consumers as u64 * 5_000;
        assert!(count * 5_000 <= most, "{}: {count} of 5,000 bytes", topic.topic);
    }
}
