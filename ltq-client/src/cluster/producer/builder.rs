//! How a cluster's producer is made.

use std::{sync::Arc, time::Duration};

use ltq_core::{Durability, NameError, ProducerName, TopicName};
use tokio::{sync::oneshot, time::timeout};

use super::{
    ClusterProducer, Failover, Handle,
    keeper::Keeper,
    router::Router,
    shared::{Parts, Shared},
};
use crate::{
    Availability, Choice, Cluster, ClusterError, RequestError,
    cluster::order::Order,
    producer::{Room, Settings, WINDOW_MAX},
};

/// Sets a producer up: [`Cluster::producer_builder`].
#[derive(Debug)]
#[must_use = "nothing happens before `open`"]
pub struct ClusterProducerBuilder {
    cluster: Cluster,
    topic: Result<TopicName, RequestError>,
    name: Option<Result<ProducerName, NameError>>,
    durability: Option<Durability>,
    window: Room,
    timeout: Duration,
    linger: Duration,
    choice: Choice,
    failover: Failover,
    failover_after: Duration,
    ordered: Option<Availability>,
    moves_silently: bool,
    ids: bool,
}

impl ClusterProducerBuilder {
    pub(in crate::cluster) const fn new(
        cluster: Cluster,
        topic: Result<TopicName, RequestError>,
    ) -> Self {
        Self {
            cluster,
            topic,
            name: None,
            durability: None,
            window: Room { messages: 10_000, bytes: 8 << 20 },
            timeout: Duration::from_secs(10),
            linger: Duration::ZERO,
            choice: Choice::LeastLoaded,
            failover: Failover::AtLeastOnce,
            failover_after: Duration::from_millis(500),
            ordered: None,
            moves_silently: false,
            ids: true,
        }
    }

    /// The name under which each node remembers a sequence of its own, as for
    /// [`ProducerBuilder::name`](crate::ProducerBuilder::name), and by which messages are told apart
    /// (see [`ids`](Self::ids)). One name is for one producer at a time. Default: a random name.
    ///
    /// Nodes share nothing: a name keeps no repeat away that goes to another node.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(ProducerName::new(name));
        self
    }

    /// How durable a message is to be before it is confirmed. Default: as the topic is set at its node.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// How many messages may be unanswered, on all nodes together; at least 1, at most a billion.
    /// Default: 10,000.
    pub fn window_messages(mut self, messages: usize) -> Self {
        self.window.messages = messages.clamp(1, WINDOW_MAX);
        self
    }

    /// How many bytes of messages may be unanswered, on all nodes together; at least 1, at most a
    /// billion. They are what the producer holds in memory; one message or batch may go beyond.
    /// Default: 8 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window.bytes = bytes.clamp(1, WINDOW_MAX);
        self
    }

    /// How long each call may take in all: waiting for room and for a node, and every attempt on
    /// whatever node. Default: 10 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a message waits for others to be sent with it to the same node, unless there are
    /// already many. Default: not at all.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How a node is chosen for each message or batch. Default: [`Choice::LeastLoaded`]. An ordered
    /// producer has no choice.
    pub const fn choice(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// What becomes of messages that a node may have stored, and of which it does not say whether it
    /// has. Default: [`Failover::AtLeastOnce`]. An ordered producer sends such messages nowhere else.
    pub const fn failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    /// How long the connection to a node is to be down, or the node to be gone from discovery, before
    /// what it was sent goes elsewhere, and before the order moves where it
    /// [may](Availability::Move). Default: 500 ms.
    pub const fn failover_after(mut self, after: Duration) -> Self {
        self.failover_after = after;
        self
    }

    /// Keeps an order: messages with the same key are stored on one node, one behind another, and those
    /// without a key likewise. See [`ClusterProducer`] for what that promises. Default: messages
    /// go anywhere.
    pub const fn ordered(mut self, availability: Availability) -> Self {
        self.ordered = Some(availability);
        self
    }

    /// Whether an ordered producer goes on at another node without an
    /// [`OrderMoved`](crate::ClusterPublishError::OrderMoved). Default: no.
    pub const fn moves_silently(mut self, silently: bool) -> Self {
        self.moves_silently = silently;
        self
    }

    /// Whether each message is given a header [`ID_HEADER`](super::ID_HEADER), by which consumers can tell
    /// repeats. Default: yes.
    pub const fn ids(mut self, ids: bool) -> Self {
        self.ids = ids;
        self
    }

    /// Opens the producer: waits until a first node has opened it, making the topic where that node
    /// allows it. On the others it is opened when they are first chosen.
    ///
    /// # Cancellation
    /// Dropping it gives the producer up; topics may have been made.
    ///
    /// # Errors
    /// [`ClusterError::Name`]; [`ClusterError::Refused`] when every node refuses it for a reason that
    /// stays; [`ClusterError::NoNode`] by the client's request timeout; [`ClusterError::Closed`].
    pub async fn open(self) -> Result<ClusterProducer, ClusterError> {
        let members = self.cluster.members().clone();
        let template = members.template();
        let (entropy, after) = (template.get_entropy().clone(), template.get_request_timeout());
        let topic = self.topic?;
        let auto_name = self.name.is_none();
        let name = match self.name {
            Some(name) => name?,
            None => {
                let [a, b] = [(); 2].map(|()| entropy.next());
                ProducerName::new(&format!("auto-{a:016x}{b:016x}"))?
            }
        };
        let order = self.ordered.map(|_| Order::new(self.moves_silently));
        let shared = Arc::new(Shared::new(Parts {
            settings: Settings {
                topic: topic.clone(),
                name,
                auto_name,
                durability: self.durability,
                timeout: self.timeout,
                linger: self.linger,
            },
            failover: self.failover,
            failover_after: self.failover_after,
            ordered: self.ordered,
            ids: self.ids,
            window: self.window,
            router: Router::new(self.choice, order),
            entropy,
        }));
        self.cluster.register(&shared)?;
        let (first, opened) = oneshot::channel();
        tokio::spawn(Keeper::new(shared.clone(), members.clone(), first).run());
        // From here on dropping this future closes the producer.
        let handle = Arc::new(Handle(shared.clone()));
        match timeout(after, opened).await {
            Ok(opened) => opened.unwrap_or(Err(ClusterError::Closed))?,
            Err(_) => {
                let nodes = Keeper::why_not(&shared, &members);
                return Err(ClusterError::NoNode { topic, after, nodes });
            }
        }
        Ok(ClusterProducer { shared, _handle: handle })
    }
}
