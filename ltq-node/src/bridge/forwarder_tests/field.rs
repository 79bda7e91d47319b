//! Brokers of this process, and forwarders between them.

use std::{collections::BTreeMap, ops::Range};

use ltq_client::{ClientBuilder, Cluster, Consumer};
use ltq_core::{
    Address, Broker, BrokerSettings, ChannelStats, Credit, Durability, Environment, TopicSettings,
    TopicStats, Transport as _,
};
use ltq_discovery::StaticList;
use ltq_store::MemoryStore;
use ltq_transport::InProcess;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    bridge::{Budget, Memories, Names, Order, RouteCounts, RouteFigures, Site},
    line::Line,
};

/// Brokers `a` and `b`, and `c` where it is started, each with a client.
pub(super) struct Field {
    namespace: InProcess,
    clients: BTreeMap<&'static str, Client>,
    brokers: Mutex<BTreeMap<String, Broker<MemoryStore>>>,
    pub(super) budget: Budget,
    pub(super) memories: Memories,
    names: Names,
}

/// What a forwarder is made of, for a test to change.
pub(super) struct Change {
    pub(super) destination: Destination,
    pub(super) rules: Rules,
    /// Another one than `bridge.test`.
    pub(super) channel: Option<ltq_core::ChannelName>,
}

/// A forwarder that runs.
pub(super) struct Forwarding {
    pub(super) figures: Arc<TopicFigures>,
    stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<Ended>,
}

impl Forwarding {
    pub(super) async fn stop(self) -> Ended {
        self.stop.send_replace(true);
        within("the stop", self.task).await.unwrap()
    }

    /// Stops, and says what was done.
    pub(super) async fn end(self) -> RouteCounts {
        let figures = self.figures.clone();
        assert_eq!(self.stop().await, Ended::Stopped);
        figures.route().counts()
    }
}

impl Field {
    pub(super) async fn new() -> Self {
        let field = Self::without_b().await;
        field.start("b", settings()).await;
        field
    }

    /// There is no `b` yet.
    pub(super) async fn without_b() -> Self {
        let field = Self::empty();
        field.start("a", settings()).await;
        field
    }

    /// There is nobody yet.
    pub(super) fn empty() -> Self {
        let namespace = InProcess::new();
        let clients = ["a", "b", "c"].map(|name| {
            let client = client(&namespace).server(&format!("in-process://{name}"));
            (name, client.connect_in_background().unwrap())
        });
        let budget = Budget::new(64 << 20, Credit { messages: 200, bytes: 1 << 20 });
        let clients = BTreeMap::from(clients);
        let (memories, names) = (Memories::default(), Names::default());
        Self { namespace, clients, brokers: Mutex::default(), budget, memories, names }
    }

    pub(super) async fn start(&self, name: &str, settings: BrokerSettings) {
        let store = MemoryStore::new(256 << 20);
        let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
        self.brokers.lock().insert(name.to_owned(), broker.clone());
        let listener = self.namespace.listen(&Address::new("in-process", name)).await.unwrap();
        tokio::spawn(async move { broker.serve(listener).await });
    }

    /// A client `line` of a broker, on a line of its own that can be lost.
    pub(super) fn lay_line(&mut self, to: &str) -> Line {
        let line = Line::new(self.namespace.clone());
        let builder = client(&self.namespace).server(&format!("in-process://{to}"));
        let builder = builder.transports(ltq_transport::Transports::new().with(line.clone()));
        self.clients.insert("line", builder.connect_in_background().unwrap());
        line
    }

    /// A cluster of these brokers, over a line.
    pub(super) async fn cluster(&self, line: &Line, names: &[&str]) -> Cluster {
        let names: Vec<_> = names.iter().map(|name| format!("in-process://{name}")).collect();
        let list: StaticList = names.join(",").parse().unwrap();
        let client = client(&self.namespace);
        let client = client.transports(ltq_transport::Transports::new().with(line.clone()));
        let cluster = Cluster::builder().discovery(list).client(client).connect();
        within("the list", cluster).await.unwrap()
    }

    /// A line that no client has yet.
    pub(super) fn line(&self) -> Line {
        Line::new(self.namespace.clone())
    }

    pub(super) fn replace(&mut self, name: &'static str, client: Client) {
        self.clients.insert(name, client);
    }

    /// Stops a broker; what it had is gone with it.
    pub(super) async fn stop(&self, name: &str) {
        let broker = self.brokers.lock().remove(name).unwrap();
        within("its stop", broker.stop(Duration::from_secs(20))).await.unwrap();
    }

    pub(super) fn client(&self, name: &str) -> &Client {
        &self.clients[name]
    }

    pub(super) async fn publish(&self, node: &str, topic: &str, numbers: Range<u32>) {
        let producer = self.client(node).producer(topic).await.unwrap();
        let messages = numbers.map(|number| Message::new(number.to_string()));
        within("the publish", producer.send_batch(messages)).await.unwrap();
    }

    pub(super) async fn forward(
        &self,
        from: &str,
        to: &str,
        topic: &str,
        change: impl FnOnce(&mut Change),
    ) -> Forwarding {
        let topic: TopicName = topic.parse().unwrap();
        let site = |name: &str| Site::new(&format!("site-{name}")).unwrap();
        let route = Arc::new(RouteFigures::default());
        let figures = Arc::new(TopicFigures::new(route, topic.clone()));
        let (stop, stopped) = watch::channel(false);
        let source = Source {
            client: self.client(from).clone(),
            node: format!("in-process://{from}").parse().unwrap(),
            names: self.names.clone(),
            topic: topic.clone(),
            channel: "bridge.test".parse().unwrap(),
            start: StartAt::Earliest,
        };
        let rules = Rules {
            sites: Some(Sites { from: site(from), to: site(to), hops_max: 8 }),
            headers: Vec::new(),
            refused: Refused::Hold,
        };
        let (share, of) = (self.budget.share(), figures.clone());
        let list: StaticList = format!("in-process://{to}").parse().unwrap();
        let cluster = Cluster::builder().discovery(list).client(client(&self.namespace)).connect();
        let cluster = within("the list", cluster).await.unwrap();
        let destination =
            Destination::Cluster { cluster, topic, durability: None, order: Order::Waiting };
        let mut made = Change { destination, rules, channel: None };
        change(&mut made);
        let channel = made.channel.take();
        let source = Source { channel: channel.unwrap_or(source.channel), ..source };
        let memory = self.memories.take((source.node.clone(), source.topic.clone()));
        let forwarder = Forwarder::new(source, made.destination, made.rules, share, of);
        let forwarder = forwarder.memory(memory);
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
        let task = tokio::spawn(forwarder.backoff(backoff).run(stopped));
        Forwarding { figures, stop, task }
    }

    /// The first messages of a topic, in the order of its log.
    pub(super) async fn consume(&self, node: &str, topic: &str, count: usize) -> Vec<Message> {
        within("the messages", async {
            // The forwarder makes the topic with its first message.
            let mut consumer: Consumer = loop {
                let topics = self.client(node).admin().list_topics().await.unwrap();
                if topics.iter().any(|it| it.as_str() == topic) {
                    break self.client(node).consumer(topic, "check").await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            let mut found = Vec::new();
            while found.len() < count {
                let delivery = consumer.next().await.unwrap().unwrap();
                found.push(delivery.message.clone());
                delivery.ack().unwrap();
            }
            found
        })
        .await
    }

    pub(super) async fn topic(&self, node: &str, topic: &str) -> TopicStats {
        self.client(node).admin().show_topic(topic).await.unwrap()
    }

    /// The bridge's channel.
    pub(super) async fn channel(&self, node: &str, topic: &str) -> ChannelStats {
        let stats = self.topic(node, topic).await;
        let mut channels = stats.channels.into_iter();
        channels.find(|channel| channel.channel.as_str() == "bridge.test").unwrap()
    }

    /// Waits until so many messages are acked in the bridge's channel.
    pub(super) async fn until_acked(&self, node: &str, topic: &str, count: u64) {
        within("the acks", async {
            loop {
                if let Ok(stats) = self.client(node).admin().show_topic(topic).await
                    && stats.channels.iter().any(|channel| {
                        channel.channel.as_str() == "bridge.test" && channel.acked >= count
                    })
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

fn client(namespace: &InProcess) -> ClientBuilder {
    Client::builder()
        .transports(ltq_transport::Transports::new().with(namespace.clone()))
        .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(50)))
}

/// Those of brokers here.
pub(super) fn settings() -> BrokerSettings {
    let topic = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    BrokerSettings { topic, ..BrokerSettings::default() }
}

pub(super) fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|it| String::from_utf8_lossy(&it.body).into_owned()).collect()
}

/// What a test waits for comes soon, or never.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come"),
    }
}

/// Waits until something is so.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
