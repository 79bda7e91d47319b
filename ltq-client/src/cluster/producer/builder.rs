//! How a cluster's producer is made.

use std::{sync::Arc, time::Duration};

use ltq_core::{Durability, NameError, ProducerName, TopicName, process::inherit};
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
    silent_after: Option<Duration>,
    nodes_max: usize,
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
            silent_after: None,
            nodes_max: NODES_MAX,
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

    /// How long the connection to a node is to be down, the node to be gone from discovery, or to be
    /// [silent](Self::silent_after), before what it was sent goes elsewhere, and before the order moves where it
    /// [may](Availability::Move). Default: 500 ms.
    pub const fn failover_after(mut self, after: Duration) -> Self {
        self.failover_after = after;
        self
    }

    /// How long a node may answer none of the messages that it has, not one, before it counts as silent: its
    /// host is frozen or overwhelmed, its disk stands still, or the line to it is cut without a word, which
    /// the connection itself finds out after three heartbeats only (45 s by default). A silent node is given
    /// nothing more and what was not sent to it yet goes elsewhere at once; what it was sent goes elsewhere
    /// [`failover_after`](Self::failover_after) later, where it [may](Failover). It is used again when it
    /// answers.
    ///
    /// A message of anybody that it confirms on the same connection, as durably as those of this producer are to
    /// be, counts as an answer, but for no longer than three times this. Anything else that it says there shows
    /// that it runs, and not that its disk does: that puts the silence off until twice this time, and no longer.
    ///
    /// Default: a quarter of the [`timeout`](Self::timeout), so that what it was sent has more than half of its
    /// time left for another node, but 5 s at most, and 250 ms at least: a node that is merely busy, such as
    /// with a sync of its disk of 100 ms, answers something within that. A single message that takes longer than this on its
    /// way makes its node look silent; where large ones go over slow lines it is to be longer. As long as the
    /// timeout or longer: never.
    pub const fn silent_after(mut self, after: Duration) -> Self {
        self.silent_after = Some(after);
        self
    }

    /// How many nodes the producer keeps to, at least 1. Where more would do it uses those that a random number
    /// of its [`Cluster`] names, the same ones for as long as they will do, for all producers of the cluster
    /// that have the same maximum; when one of them will not do, another takes its place until it does again.
    /// So many programs together use all nodes alike, and none is connected to all of them for long: a
    /// connection to one that was tried, and is left out then, ends when nobody has used it for 30 to 60 s. Default: 16.
    ///
    /// An ordered producer takes no notice of it: the node of a key is not for it to choose. It is connected to
    /// the nodes of the keys that it publishes.
    pub const fn nodes_max(mut self, nodes: usize) -> Self {
        self.nodes_max = if nodes == 0 { 1 } else { nodes };
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
        let silent_after = self
            .silent_after
            .unwrap_or_else(|| (self.timeout / 4).clamp(SILENT_AFTER_MIN, SILENT_AFTER_MAX));
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
            silent_after,
            nodes_max: self.nodes_max,
            ordered: self.ordered,
            ids: self.ids,
            window: self.window,
            router: Router::new(self.choice, order),
            entropy,
        }));
        self.cluster.register(&shared)?;
        let (first, opened) = oneshot::channel();
        tokio::spawn(inherit(Keeper::new(shared.clone(), members.clone(), first).run()));
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

/// How many nodes a producer keeps to. Sixteen are enough that one that is slow or gone is a small part, and
/// of two drawn among them one has little to do; each is a connection of every program that publishes.
const NODES_MAX: usize = 16;
/// A sync of a slow disk under load takes 100 ms and more.
const SILENT_AFTER_MIN: Duration = Duration::from_millis(250);
/// Who has all the time in the world would rather have it elsewhere.
const SILENT_AFTER_MAX: Duration = Duration::from_secs(5);
