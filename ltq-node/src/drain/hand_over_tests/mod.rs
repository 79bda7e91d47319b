//! A backlog that goes from one broker of this process to others, on a paused clock.

mod bounds;
mod held_up;
mod homes;
mod nodes;
mod order;
mod what_goes;

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
    going::CHANNELS_MAX,
    hand_over::{HandOver, Known},
    pieces::PIECE_BYTES,
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
        Self::with(settings(), store).await
    }

    async fn with(settings: BrokerSettings, store: impl Store) -> Self {
        let namespace = InProcess::new();
        let line = Line::new(namespace.clone());
        let here = node(&namespace, "here", settings, store).await;
        Self { namespace, line, here }
    }

    async fn other(&self, name: &str) -> NodeBroker {
        self.other_with(name, settings(), 256 << 20).await
    }

    async fn other_with(&self, name: &str, settings: BrokerSettings, bytes: u64) -> NodeBroker {
        node(&self.namespace, name, settings, MemoryStore::new(bytes)).await
    }

    fn hand_over(&self, to: &[&str]) -> Going {
        self.hand_over_by(to, &Known::new(&self.here))
    }

    fn hand_over_by(&self, to: &[&str], known: &Known) -> Going {
        self.here.set_draining(true);
        let template = Client::builder()
            .transports(Transports::new().with(self.line.clone()))
            .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(100)));
        let to: Vec<_> = to.iter().map(|name| format!("in-process://{name}")).collect();
        let over = HandOver::by(&self.here, &template, &to, known);
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
    (prop::option::of(bytes()), headers, bytes()).prop_map(|(key, headers, body)| Message {
        key: key.map(Into::into),
        headers: headers.into_iter().collect(),
        body: body.into(),
    })
}
