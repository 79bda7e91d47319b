//! Consumers over several brokers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::IntoFuture,
    time::Duration,
};

use async_trait::async_trait;
use ltq_client::{
    Backoff, Choice, Client, Cluster, ClusterConsumer, ClusterDelivery, Credit, Discovery, Message,
    NodeId, NodeInfo, SubscriptionState,
};
use ltq_core::{Address, Transport};
use ltq_discovery::{Announced, DiscoveryError, Interest, NodeState, Watch};
use ltq_transport::Transports;
use tokio::time::{sleep, timeout};

use super::{Field, credit::hold};
use crate::{
    board::{Board, node},
    node::within,
};

/// A node that says that it has these topics.
pub(super) fn with_topics(name: &str, topics: &[&str]) -> NodeInfo {
    let topics = topics.iter().map(|topic| (topic.parse().unwrap(), BTreeSet::new()));
    node(name).with_topics(topics.collect())
}

impl Field {
    /// Puts so many messages on one node, named after it.
    pub(super) async fn publish(&self, name: &str, numbers: std::ops::Range<usize>) {
        let client = self.brokers[name].client().await;
        let producer = within(client.producer("orders")).await.unwrap();
        let messages: Vec<_> = numbers.map(|n| Message::new(format!("{name}-{n}"))).collect();
        for some in messages.chunks(500) {
            within(producer.send_batch(some)).await.unwrap();
        }
        within(client.close()).await.unwrap();
    }

    pub(super) async fn consumer(&self, credit: u64) -> ClusterConsumer {
        let builder = self.cluster.consumer_builder("orders", "billing");
        within(builder.credit(credit, 16 << 20).open()).await.unwrap()
    }

    /// What a broker says of the channel: acked, in flight, redelivered.
    pub(super) async fn channel(&self, name: &str) -> (u64, u64, u64) {
        let client = self.brokers[name].client().await;
        let shown = within(client.admin().show_topic("orders")).await.unwrap();
        let channel = shown.channels.iter().find(|channel| channel.channel.as_str() == "billing");
        let found = channel.map(|one| (one.acked, one.in_flight, one.redelivered));
        within(client.close()).await.unwrap();
        found.unwrap_or_default()
    }

    pub(super) async fn in_flight(&self) -> u64 {
        let mut all = 0;
        for name in self.brokers.keys() {
            all += self.channel(name).await.1;
        }
        all
    }

    pub(super) async fn has_topic(&self, name: &str) -> bool {
        let client = self.brokers[name].client().await;
        let topics = within(client.admin().list_topics()).await.unwrap();
        topics.iter().any(|topic| topic.as_str() == "orders")
    }
}

pub(super) fn body(delivery: &ClusterDelivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).unwrap()
}

/// Takes and acks so many, and says how often each came.
pub(super) async fn take(consumer: &mut ClusterConsumer, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert!(body(&delivery).starts_with(delivery.node().as_str()));
        *seen.entry(body(&delivery)).or_default() += 1;
        delivery.ack().unwrap();
    }
    seen
}

/// Waits until something is so; looks again whenever a message comes, and every few milliseconds.
pub(super) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

#[tokio::test]
async fn a_broker_under_two_ids_is_subscribed_at_once_and_its_order_holds() {
    const COUNT: usize = 2_000;
    let field = Field::with(&["a"]).await;
    // The same broker, found at another address: with the first node, and in its place.
    let listener = field.net.steady().listen(&"in-process://a2".parse().unwrap()).await.unwrap();
    let broker = field.brokers["a"].broker.clone();
    tokio::spawn(async move { broker.serve(listener).await });
    let topics = &["orders"];
    field.publish("a", 0..COUNT).await;
    field.board.put(&with_topics("a", topics));
    field.board.put(&with_topics("a2", topics));
    let mut consumer = field.consumer(100).await;
    let mut one_after_another = async |numbers: std::ops::Range<usize>| {
        for n in numbers {
            let delivery = within(consumer.next()).await.unwrap().unwrap();
            assert_eq!(delivery.message.body, format!("a-{n}"));
            delivery.ack().unwrap();
        }
        let nodes = consumer.figures().nodes;
        let is_up = |one: &&NodeId| nodes[*one].state == SubscriptionState::Subscribed;
        let up: Vec<_> = nodes.keys().filter(is_up).collect();
        assert_eq!(up.len(), 1, "{nodes:?}");
        up[0].to_string()
    };
    let by = one_after_another(0..COUNT).await;
    // Answers that the line takes with it would be asked for again.
    within(async {
        while field.channel("a").await.0 < COUNT as u64 {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    // By whichever it was: when there is no way to it any more it goes on by the other one.
    field.net.take_away(&by);
    field.publish("a", COUNT..COUNT + 100).await;
    assert_ne!(one_after_another(COUNT..COUNT + 100).await, by);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_each_message_of_three_nodes_comes_once_and_is_acked() {
    let field = Field::with(&NAMES).await;
    for name in NAMES {
        field.publish(name, 0..2_000).await;
    }
    let mut consumer = field.consumer(500).await;
    let seen = take(&mut consumer, 3_000).await;
    let mut bodies: BTreeSet<_> = seen.keys().cloned().collect();
    while bodies.len() < 6_000 {
        let batch = within(consumer.next_batch(100)).await.unwrap().unwrap();
        assert!(batch.len() <= 100);
        for received in batch.iter() {
            let body = String::from_utf8(received.unwrap().message.body.to_vec()).unwrap();
            assert!(body.starts_with(batch.node().as_str()));
            assert!(bodies.insert(body), "it came twice");
        }
        batch.ack_all().unwrap();
    }
    let figures = consumer.figures();
    assert!(figures.nodes.values().all(|node| node.taken == 2_000), "{figures:?}");
    within(consumer.close()).await.unwrap();
    for name in NAMES {
        assert_eq!(field.channel(name).await, (2_000, 0, 0), "{name}");
    }
}

#[tokio::test]
async fn what_is_published_to_the_cluster_is_consumed_from_it() {
    let field = Field::with(&NAMES).await;
    let mut consumer = within(field.cluster.consumer("orders", "billing")).await.unwrap();
    let builder = field.cluster.producer_builder("orders").choice(Choice::RoundRobin);
    let producer = within(builder.open()).await.unwrap();
    for n in 0..300 {
        within(producer.send(Message::new(n.to_string()))).await.unwrap();
    }
    let mut bodies = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    while bodies.len() < 300 {
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert!(bodies.insert(body(&delivery)));
        nodes.insert(delivery.node().clone());
        within(delivery.ack_confirmed()).await.unwrap();
    }
    assert_eq!(nodes.len(), 3);
}

#[tokio::test]
async fn nodes_have_their_turns_however_much_waits_at_one() {
    let field = Field::with(&["a", "b"]).await;
    field.publish("a", 0..5_000).await;
    field.publish("b", 0..50).await;
    let mut consumer = field.consumer(1_000).await;
    let is_there = async |consumer: &ClusterConsumer| {
        let figures = consumer.figures();
        let unsettled = |name: &str| {
            let node = figures.nodes.get(&name.parse().unwrap());
            node.map_or(0, |node| node.credit.unsettled.messages)
        };
        unsettled("a") >= 100 && unsettled("b") == 50
    };
    until(async || is_there(&consumer).await).await;
    let mut of_b = 0;
    for _ in 0..100 {
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        of_b += usize::from(delivery.node().as_str() == "b");
        delivery.ack().unwrap();
    }
    assert_eq!(of_b, 50, "every other one");
}

#[tokio::test]
async fn a_node_that_joins_is_consumed_and_one_that_is_forgotten_is_left_when_all_is_settled() {
    let mut field = Field::with(&["a", "b"]).await;
    field.publish("a", 0..10).await;
    field.publish("b", 0..10).await;
    let mut consumer = field.consumer(100).await;
    take(&mut consumer, 20).await;
    field.start("c").await;
    field.publish("c", 0..10).await;
    field.board.put(&node("c"));
    let seen = take(&mut consumer, 10).await;
    assert!(seen.keys().all(|body| body.starts_with('c')));
    // What came from a node that goes can still be acked.
    field.publish("b", 10..11).await;
    let held = within(consumer.next()).await.unwrap().unwrap();
    field.board.withdraw("b");
    let id = "b".parse().unwrap();
    until(async || {
        let figures = consumer.figures();
        figures.nodes.get(&id).is_some_and(|node| node.state == SubscriptionState::Leaving)
    })
    .await;
    within(held.ack_confirmed()).await.unwrap();
    until(async || !consumer.figures().nodes.contains_key(&id)).await;
    assert_eq!(field.channel("b").await, (11, 0, 0));
    // All credit is with those that are left.
    until(async || consumer.credit_use().open.messages == 100).await;
    field.publish("b", 11..20).await;
    field.publish("a", 10..20).await;
    let seen = take(&mut consumer, 10).await;
    assert!(seen.keys().all(|body| body.starts_with('a')), "{seen:?}");
    // And it is consumed again when it is back.
    field.board.put(&node("b"));
    let seen = take(&mut consumer, 9).await;
    assert!(seen.keys().all(|body| body.starts_with('b')), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_2_nothing_is_lost_when_nodes_are_cut_and_return() {
    let field = Field::with(&NAMES).await;
    for name in NAMES {
        field.publish(name, 0..1_000).await;
    }
    let mut consumer = field.consumer(200).await;
    let mut acked = BTreeSet::new();
    let mut held = VecDeque::new();
    let mut count = 0;
    while acked.len() < 3_000 {
        // Some of what is held is void by now: it comes again.
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        held.push_back(delivery);
        count += 1;
        if count % 400 == 0 && count <= 2_000 {
            field.net.cut(NAMES[count / 400 % 3]);
        }
        while held.len() > 20 || (acked.len() + held.len() >= 3_000 && !held.is_empty()) {
            let delivery = held.pop_front().unwrap();
            let body = body(&delivery);
            if delivery.ack_confirmed().await.is_ok() {
                assert!(acked.insert(body), "it was acked before");
            }
        }
    }
    for name in NAMES {
        assert_eq!(field.channel(name).await.0, 1_000, "{name}");
    }
}

#[tokio::test]
async fn a_topic_that_appears_on_a_node_later_is_consumed_and_made_nowhere() {
    let field = Field::with(&NAMES).await;
    field.publish("a", 0..5).await;
    field.board.put(&with_topics("a", &["mail", "orders"]));
    field.board.put(&with_topics("b", &["mail"]));
    field.board.put(&with_topics("c", &[]));
    let mut consumer = field.consumer(100).await;
    take(&mut consumer, 5).await;
    assert!(!field.has_topic("b").await && !field.has_topic("c").await);
    field.publish("c", 0..5).await;
    field.board.put(&with_topics("c", &["orders"]));
    let seen = take(&mut consumer, 5).await;
    assert!(seen.keys().all(|body| body.starts_with('c')), "{seen:?}");
    assert!(!field.has_topic("b").await);
}

#[tokio::test]
async fn a_topic_that_no_node_has_is_waited_for() {
    let field = Field::with(&["a"]).await;
    field.board.put(&with_topics("a", &[]));
    let mut consumer = field.consumer(100).await;
    assert!(!field.has_topic("a").await);
    field.publish("a", 0..5).await;
    field.board.put(&with_topics("a", &["orders"]));
    take(&mut consumer, 5).await;
    // It is deleted, and made anew.
    let client = field.brokers["a"].client().await;
    within(client.admin().delete_topic("orders")).await.unwrap();
    until(async || {
        let figures = consumer.figures();
        let refused =
            |node: &ltq_client::ConsumedNode| matches!(node.state, SubscriptionState::Refused(_));
        figures.nodes.values().any(refused)
    })
    .await;
    assert!(!field.has_topic("a").await, "it is not made by asking for it");
    field.board.put(&with_topics("a", &[]));
    until(async || consumer.figures().nodes.is_empty()).await;
    field.publish("a", 10..15).await;
    field.board.put(&with_topics("a", &["orders"]));
    take(&mut consumer, 5).await;
}

#[tokio::test]
async fn at_every_node_topic_and_channel_are_there_before_the_first_message() {
    let field = Field::with(&["a", "b"]).await;
    field.board.put(&with_topics("a", &[]));
    field.board.put(&with_topics("b", &[]));
    let builder = field.cluster.consumer_builder("orders", "billing").every_node(true);
    let mut consumer = within(builder.open()).await.unwrap();
    until(async || field.has_topic("a").await && field.has_topic("b").await).await;
    field.publish("b", 0..5).await;
    take(&mut consumer, 5).await;
}

/// Tells of all nodes, and of no topic's.
#[derive(Clone)]
struct NoTopics(Board);

#[async_trait]
impl Discovery for NoTopics {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.0.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        if let Interest::Topic(topic) = interest {
            let why = format!("the permission is missing to know of {topic}");
            return Err(DiscoveryError::Refused { backend: "a test".to_owned(), why });
        }
        self.0.watch(interest).await
    }
}

#[tokio::test]
async fn where_nobody_says_which_nodes_have_the_topic_all_are_consumed() {
    let field = Field::with(&["a", "b"]).await;
    field.publish("a", 0..5).await;
    field.publish("b", 0..5).await;
    let client = Client::builder().transports(Transports::new().with(field.net.clone()));
    let builder = Cluster::builder().discovery(NoTopics(field.board.clone())).client(client);
    let cluster = within(builder.connect()).await.unwrap();
    let mut consumer = within(cluster.consumer("orders", "billing")).await.unwrap();
    take(&mut consumer, 10).await;
}

#[tokio::test]
async fn nodes_that_drain_or_are_suspected_are_consumed() {
    let field = Field::with(&["a", "b"]).await;
    field.publish("a", 0..5).await;
    field.publish("b", 0..5).await;
    field.board.put(&node("a").with_state(NodeState::Draining));
    field.board.put(&node("b").with_suspicion(true));
    let mut consumer = field.consumer(100).await;
    take(&mut consumer, 10).await;
    field.board.put(&node("a").with_suspicion(true));
    field.board.put(&node("b").with_state(NodeState::Draining));
    field.publish("a", 5..10).await;
    field.publish("b", 5..10).await;
    take(&mut consumer, 10).await;
}

#[tokio::test]
async fn a_node_that_never_answers_holds_up_nobody_and_keeps_no_credit() {
    let field = Field::with(&["a", "b"]).await;
    // There is somebody at its address, who says nothing.
    let address: Address = "in-process://mute".parse().unwrap();
    let _mute = field.net.steady().listen(&address).await.unwrap();
    field.board.put(&node("mute"));
    field.board.put(&node("nobody"));
    field.publish("a", 0..200).await;
    let mut consumer = field.consumer(100).await;
    let held = hold(&field, &mut consumer, 95, 100).await;
    let figures = consumer.figures();
    for name in ["mute", "nobody"] {
        let node = &figures.nodes[&name.parse().unwrap()];
        assert_eq!(node.state, SubscriptionState::Waiting);
        assert_eq!(node.credit.size, Credit::default());
    }
    drop(held);
    // Nor does closing wait for it.
    within(consumer.close()).await.unwrap();
}

#[tokio::test]
async fn promise_11_closing_gives_back_everything() {
    let field = Field::with(&NAMES).await;
    for name in NAMES {
        field.publish(name, 0..100).await;
    }
    let mut consumer = field.consumer(200).await;
    let mut held = hold(&field, &mut consumer, 60, 200).await;
    for delivery in held.drain(..30) {
        delivery.ack().unwrap();
    }
    within(consumer.close()).await.unwrap();
    assert_eq!(field.in_flight().await, 0);
    let mut acked = 0;
    for name in NAMES {
        acked += field.channel(name).await.0;
    }
    assert_eq!(acked, 30);
    for delivery in held {
        assert!(delivery.ack().is_err(), "it is void");
    }
    // Dropping does too, and closing the cluster.
    let mut dropped = field.consumer(100).await;
    let held = hold(&field, &mut dropped, 10, 100).await;
    drop(dropped);
    until(async || field.in_flight().await == 0).await;
    drop(held);
    let mut ended = field.consumer(100).await;
    let held = hold(&field, &mut ended, 10, 100).await;
    within(field.cluster.clone().close()).await.unwrap();
    assert_eq!(field.in_flight().await, 0);
    assert!(within(ended.next()).await.is_none());
    assert!(within(ended.next()).await.is_none());
    drop(held);
    assert!(within(field.cluster.consumer("orders", "billing")).await.is_err());
}

#[tokio::test]
async fn a_call_of_next_that_is_dropped_loses_nothing() {
    let field = Field::with(&NAMES).await;
    let mut consumer = field.consumer(50).await;
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        let name = NAMES[round % 3];
        let publishing = field.publish(name, round * 10..round * 10 + 10);
        let (taken, ()) = tokio::join!(
            async {
                let mut taken = Vec::new();
                while taken.len() < 10 {
                    // Given up again and again before anything is there.
                    if let Ok(next) = timeout(Duration::from_micros(50), consumer.next()).await {
                        let delivery = next.unwrap().unwrap();
                        taken.push(body(&delivery));
                        delivery.ack().unwrap();
                    }
                }
                taken
            },
            publishing
        );
        seen.extend(taken);
    }
    assert_eq!(seen.len(), 200);
}

#[tokio::test]
async fn a_handler_is_run_for_the_messages_of_every_node() {
    let field = Field::with(&NAMES).await;
    for name in NAMES {
        field.publish(name, 0..100).await;
    }
    let (done, mut handled) = tokio::sync::mpsc::unbounded_channel();
    let running = field.consumer(50).await.for_each(10, move |received| {
        let done = done.clone();
        async move {
            match received.attempt {
                1 if received.offset.0 % 10 == 0 => Err("not yet"),
                _ => done.send(received).map_err(|_| "nobody listens"),
            }
        }
    });
    let running = running.backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(5)));
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    let (mut bodies, mut places) = (BTreeSet::new(), BTreeSet::new());
    while bodies.len() < 300 {
        let received = within(handled.recv()).await.unwrap();
        // Offsets are those of one node: only with it is a message known by them.
        assert!(places.insert((received.node.clone(), received.offset)));
        let of = received.node.as_str();
        assert!(received.message.body.starts_with(of.as_bytes()), "{received:?}");
        assert!(bodies.insert(received.received.message.body));
    }
    stop.stop();
    let summary = within(running).await.unwrap().unwrap();
    assert_eq!((summary.acked, summary.failed, summary.stale), (300, 30, 0));
    for name in NAMES {
        assert_eq!(field.channel(name).await, (100, 0, 10), "{name}");
    }
}

#[tokio::test]
async fn promise_15_opening_ends_in_time_where_no_node_answers() {
    let net = super::net::Net::default();
    let client = Client::builder()
        .transports(Transports::new().with(net))
        .request_timeout(Duration::from_millis(200))
        .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(5)));
    let builder = Cluster::builder().discovery(Board::new([node("gone")])).client(client);
    let cluster = within(builder.connect()).await.unwrap();
    let error = within(cluster.consumer("orders", "billing")).await.unwrap_err();
    assert!(error.to_string().contains("gone (no answer yet)"), "{error}");
    let error = within(cluster.consumer("or ders", "billing")).await.unwrap_err();
    assert!(matches!(error, ltq_client::ClusterError::Name(_)), "{error}");
    let builder = cluster.consumer_builder("orders", "billing").timeout(Duration::ZERO);
    let error = within(builder.open()).await.unwrap_err();
    assert!(error.to_string().contains("at least 1 ms"), "{error}");
}
