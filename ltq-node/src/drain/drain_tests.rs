//! When a drain ends, and what it leaves, on a paused clock.

use std::sync::atomic::{AtomicBool, Ordering};

use ltq_core::{
    AdminRequest, Broker, BrokerSettings, Durability, Environment, Message, StartAt, TopicSettings,
};
use ltq_store::MemoryStore;
use tokio::{task::JoinHandle, time::Instant};

use super::*;
use crate::watched_store::WatchedStore;

/// A broker with a topic `orders` of three messages that its channel `a` has, and its drain.
struct Field {
    broker: NodeBroker,
    known: Known,
    over: JoinHandle<()>,
}

impl Field {
    async fn new() -> Self {
        let topic = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
        let settings = BrokerSettings { topic, ..BrokerSettings::default() };
        let store = WatchedStore::new(Arc::new(MemoryStore::new(1 << 20)), None);
        let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
        let (topic, channel) = ("orders".parse().unwrap(), "a".parse().unwrap());
        let request = AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest };
        broker.admin(request).await.unwrap();
        let mut publisher = broker.publisher("orders", Default::default()).await.unwrap();
        for number in 0..3 {
            publisher.publish(&Message::new(number.to_string())).await.unwrap();
        }
        let drain = Drain::new(&broker, Arc::new(Config::default()), None);
        let known = drain.known.clone();
        let over = tokio::spawn(drain.over());
        Self { broker, known, over }
    }

    async fn ask(&self, seconds: u64) {
        let options = DrainOptions { hand_over_to: Vec::new(), timeout_ms: Some(seconds * 1_000) };
        self.broker.admin(AdminRequest::Drain { options }).await.unwrap();
    }

    /// Whether it is over within some seconds from now.
    async fn is_over_in(&mut self, seconds: u64) -> bool {
        timeout(Duration::from_secs(seconds), &mut self.over).await.is_ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_once_nothing_waits_is_delayed_or_in_flight() {
    let mut field = Field::new().await;
    field.ask(3_600).await;
    assert!(!field.is_over_in(60).await, "three wait");
    assert!(field.broker.is_draining());
    let mut consumer = field.broker.subscribe("orders", "a", Default::default()).await.unwrap();
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(consumer.receive().await.unwrap().unwrap().tag);
    }
    consumer.ack(tags[0]).unwrap();
    consumer.requeue(tags[1], Duration::from_secs(600)).unwrap();
    assert!(!field.is_over_in(10).await, "one is in flight, and one delayed");
    consumer.ack(tags[2]).unwrap();
    assert!(!field.is_over_in(580).await, "one is delayed");
    let last = consumer.receive().await.unwrap().unwrap().tag;
    assert!(!field.is_over_in(10).await, "one is in flight");
    consumer.ack(last).unwrap();
    assert!(field.is_over_in(3).await);
}

#[tokio::test(start_paused = true)]
async fn asked_for_otherwise_its_time_begins_anew_and_asked_for_the_same_it_does_not() {
    let mut field = Field::new().await;
    field.ask(100).await;
    assert!(!field.is_over_in(90).await);
    field.ask(101).await;
    assert!(!field.is_over_in(100).await);
    let began = Instant::now();
    assert!(field.is_over_in(2).await);
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(field.broker.stats().await.backlog(), 3, "what is left is kept");
    let mut field = Field::new().await;
    field.ask(100).await;
    assert!(!field.is_over_in(90).await);
    field.ask(100).await;
    assert!(!field.is_over_in(9).await);
    assert!(field.is_over_in(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_taken_back_takes_in_again_and_shows_nothing_more_as_held_up() {
    let mut field = Field::new().await;
    field.ask(100).await;
    assert!(!field.is_over_in(90).await);
    field.broker.set_held_up(vec![ltq_core::HeldUp {
        topic: "orders".parse().unwrap(),
        offset: ltq_core::Offset(0),
        bytes: 1,
        why: String::new(),
    }]);
    field.broker.admin(AdminRequest::EndDrain).await.unwrap();
    assert!(!field.is_over_in(3_600).await);
    let stats = field.broker.stats().await;
    assert!(!stats.is_draining && stats.held_up.is_empty(), "{stats:?}");
    let mut publisher = field.broker.publisher("orders", Default::default()).await.unwrap();
    publisher.publish(&Message::new("again")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_told_by_its_channels() {
    let field = Field::new().await;
    let left = left(&field.broker.stats().await);
    assert_eq!(left.to_string(), "3 messages, most in orders/a (3)");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_has_ended_before_the_node_takes_in_again() {
    struct Ends(Arc<AtomicBool>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let mut field = Field::new().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Ends(is_over.clone());
    field.ask(100).await;
    field.known.tasks.lock().await.spawn(async move {
        std::future::pending::<()>().await;
        drop(ends);
    });
    assert!(!field.is_over_in(10).await);
    assert!(!is_over.load(Ordering::Relaxed));
    field.broker.admin(AdminRequest::EndDrain).await.unwrap();
    while field.broker.is_draining() {
        tokio::task::yield_now().await;
    }
    assert!(is_over.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_is_told_as_long_as_it_is() {
    let mut field = Field::new().await;
    let pause = async |paused: bool| {
        let topic: ltq_core::TopicName = "orders".parse().unwrap();
        field.broker.admin(AdminRequest::PauseTopic { topic, paused }).await.unwrap();
    };
    pause(true).await;
    field.ask(3_600).await;
    sleep(Duration::from_secs(7)).await;
    let held = field.broker.stats().await.held_up;
    let told: Vec<_> = held.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["orders from 0 on: the topic is paused"]);
    pause(false).await;
    sleep(Duration::from_secs(1)).await;
    assert!(field.broker.stats().await.held_up.is_empty());
    assert!(!field.is_over_in(1).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_ephemeral_is_told_where_all_else_is_handed_over() {
    let field = Field::new().await;
    let (topic, channel) = ("orders".parse().unwrap(), "b#ephemeral".parse().unwrap());
    let request = AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest };
    field.broker.admin(request).await.unwrap();
    for (hands_over, count) in [(false, 0), (true, 1)] {
        for _ in 0..2 {
            field.known.held.look(&field.broker.stats().await, hands_over);
            sleep(Duration::from_secs(6)).await;
        }
        field.known.held.look(&field.broker.stats().await, hands_over);
        let held = field.broker.stats().await.held_up;
        assert_eq!(held.len(), count);
        if let Some(held) = held.first() {
            let wanted = "orders from 0 on: channel b#ephemeral is ephemeral, not handed over";
            assert_eq!(held.to_string(), wanted);
        }
    }
}
