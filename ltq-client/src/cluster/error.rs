//! Why a cluster could not do what it was asked, and what is left of it.

use std::{fmt, sync::Arc, time::Duration};

use ltq_core::{ChannelName, NameError, Refusal, TopicName};
use ltq_discovery::{DiscoveryError, NodeId, registry::RegistriesError};
use thiserror::Error;

use super::{ClusterBatchReceipt, ClusterConsumeError};
use crate::{Outcome, PublishError, RequestError};

/// Why there is no cluster, or no producer or consumer of it.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Nothing tells which nodes there are.
    #[error(
        "neither a registry nor another discovery scheme was given; it tells which nodes there are"
    )]
    NoDiscovery,
    /// Registries were named beside a discovery scheme.
    #[error("registries were named beside a discovery scheme; give one of them")]
    TwoDiscoveries,
    /// The registries are none.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// The client that says how nodes are talked to names a server.
    #[error("the client of a cluster names a server; its servers are what discovery tells")]
    ServerNamed,
    /// The discovery scheme did not say in time which nodes there are.
    #[error("no word of the nodes within {after:?}{}", because(source.as_ref()))]
    NoWord {
        /// The time that it had.
        after: Duration,
        /// What it said last.
        source: Option<Arc<DiscoveryError>>,
    },
    /// There is no such node, or no transport knows any of its addresses.
    #[error("node {0} is not known, or has no address that a transport of this client knows")]
    NoSuchNode(NodeId),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No node has opened the producer in time.
    #[error("no node has opened a producer for {topic} within {after:?}: {nodes}")]
    NoNode {
        /// The topic.
        topic: TopicName,
        /// The time that it had.
        after: Duration,
        /// What is the matter with each.
        nodes: NodesNotUsed,
    },
    /// Every node that there is refuses the producer.
    #[error("node {node} refuses a producer for {topic}, and so does every other: {refusal}")]
    Refused {
        /// The topic.
        topic: TopicName,
        /// One of them.
        node: NodeId,
        /// Its reason.
        refusal: Refusal,
    },
    /// An option is out of its range.
    #[error("{what} is {got}; {allowed}")]
    Option {
        /// The option.
        what: &'static str,
        /// The value given.
        got: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Every node that there is refuses the consumer.
    #[error(transparent)]
    NotConsumed(ClusterConsumeError),
    /// No node has let the consumer subscribe in time.
    #[error("no subscription to {topic}, channel {channel}, within {after:?}: {nodes}")]
    NoSubscription {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// The time that it had.
        after: Duration,
        /// What is the matter with each.
        nodes: NodesNotUsed,
    },
    /// The cluster is closed.
    #[error("the cluster is closed")]
    Closed,
}

fn because(source: Option<&Arc<DiscoveryError>>) -> String {
    source.map_or_else(String::new, |error| format!(": {error}"))
}

impl From<RequestError> for ClusterError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Name(error) => Self::Name(error),
            RequestError::Option { what, got, allowed } => Self::Option { what, got, allowed },
            _ => Self::Closed,
        }
    }
}

/// Why a message that was given to a cluster's producer has no receipt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClusterPublishError {
    /// A node's answer, or the lack of one, that ends it.
    #[error("on node {node}: {error}")]
    Node {
        /// The node.
        node: NodeId,
        /// What it came to there.
        error: PublishError,
    },
    /// A node may have stored it, and what was tried elsewhere after that failed.
    #[error("node {node} may have stored it; later: {later}")]
    MaybeStored {
        /// The node that may have it.
        node: NodeId,
        /// What came after that.
        later: Box<Self>,
    },
    /// Its time was up before a node would take it: nothing happened.
    #[error("publishing to {topic}: no node took it within {after:?}: {nodes}")]
    NoNode {
        /// The topic.
        topic: TopicName,
        /// The time that it had.
        after: Duration,
        /// What is the matter with each.
        nodes: NodesNotUsed,
    },
    /// Its time was up while the window was full: nothing happened.
    #[error("publishing to {topic}: there was no room in the window within {after:?}")]
    NoRoom {
        /// The topic.
        topic: TopicName,
        /// The time that it had.
        after: Duration,
    },
    /// What has the same order went to another node before: nothing happened. It is said once, to all that
    /// waited then and to all that is published until these have heard it; what is published from then on goes to the
    /// new node.
    #[error("publishing to {topic}: its order moves from node {from} to node {to}")]
    OrderMoved {
        /// The topic.
        topic: TopicName,
        /// The node that has what was published before.
        from: NodeId,
        /// The node that has what is published from now on.
        to: NodeId,
    },
    /// An ordered producer was given a batch whose messages do not all belong to one node: nothing
    /// happened.
    #[error("publishing to {topic}: a batch of an ordered producer holds keys of several slots")]
    MixedBatch {
        /// The topic.
        topic: TopicName,
    },
    /// The producer or cluster is closed: nothing happened.
    #[error("publishing to {topic}: the producer is closed")]
    Closed {
        /// The topic.
        topic: TopicName,
    },
    /// The runtime that the producer works in was shut down: it may have happened.
    #[error("publishing to {topic}: the runtime of the producer was shut down")]
    Abandoned {
        /// The topic.
        topic: TopicName,
    },
}

impl ClusterPublishError {
    /// Whether it may have happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Node { error, .. } => error.outcome(),
            Self::MaybeStored { .. } | Self::Abandoned { .. } => Outcome::Unknown,
            Self::NoNode { .. }
            | Self::NoRoom { .. }
            | Self::OrderMoved { .. }
            | Self::MixedBatch { .. }
            | Self::Closed { .. } => Outcome::Nothing,
        }
    }

    /// The node that it is about, where it is about one: that which refused it, may have it, or is to
    /// have what comes next.
    #[must_use]
    pub const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Node { node, .. } | Self::MaybeStored { node, .. } => Some(node),
            Self::OrderMoved { to, .. } => Some(to),
            _ => None,
        }
    }

    /// A node's refusal, where there is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Node { error, .. } => error.refusal(),
            Self::MaybeStored { later, .. } => later.refusal(),
            _ => None,
        }
    }
}

/// Why a batch was not stored whole. Of its messages a first part may have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{error} (the first {} messages of the batch were stored)", stored.len())]
pub struct ClusterBatchError {
    /// The messages from the front that are certainly stored.
    pub stored: ClusterBatchReceipt,
    /// What became of all others.
    pub error: ClusterPublishError,
}

impl ClusterBatchError {
    /// Whether those that are not in `stored` may have been stored all the same.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.error.outcome()
    }
}

/// Why a node is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeNotUsed {
    /// It says that it drains.
    #[error("draining")]
    Draining,
    /// It crashed or was cut off, and was forgotten by those who tell of nodes; it keeps the order of its keys:
    /// see [`Availability::Fail`](crate::Availability::Fail).
    #[error("lost; the order of its keys waits for it")]
    Lost,
    /// No transport of this client knows any of its addresses.
    #[error("no address of a known transport")]
    NoAddress,
    /// The connection to it is down, or ends.
    #[error("not connected")]
    NotConnected,
    /// It refused the producer, a message or the consumer: it is passed over for a while, or has said nothing
    /// else since then.
    #[error("passed over: {0}")]
    PassedOver(Refusal),
    /// It is the same broker as this other node, by its address or by its word, and used as that.
    #[error("the same as {0}")]
    SameAs(NodeId),
    /// It has answered nothing of what it was sent for
    /// [`silent_after`](crate::ClusterProducerBuilder::silent_after).
    #[error("silent")]
    Silent,
    /// Others do, and the producer keeps to
    /// [so many](crate::ClusterProducerBuilder::nodes_max).
    #[error("not among the nodes that this producer keeps to")]
    LeftOut,
    /// Nobody has said yet whether it has the topic.
    #[error("not known whether it has the topic")]
    TopicNotKnown,
    /// It has not answered yet.
    #[error("no answer yet")]
    NoAnswer,
    /// Nothing is the matter with it; the order of what is published asks for another one, or for what
    /// came before to be answered first.
    #[error("not its turn")]
    NotItsTurn,
}

impl NodeNotUsed {
    /// In a few words, without what is said of the one node.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::NoAddress => "without a known address",
            Self::NotConnected => "not connected",
            Self::PassedOver(_) => "passed over",
            Self::SameAs(_) => "the same as others",
            Self::Silent => "silent",
            Self::LeftOut => "not kept to",
            Self::TopicNotKnown => "not known to have the topic",
            Self::NoAnswer => "without an answer yet",
            Self::NotItsTurn => "not in their turn",
        }
    }

    /// Whether it is the same that is the matter: refusals of one code are, whatever their words.
    fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PassedOver(one), Self::PassedOver(other)) => one.code == other.code,
            _ => self.kind() == other.kind(),
        }
    }
}

/// Why none of the nodes is used: each with its reason.
///
/// As a text it names up to eight nodes, among them one for each thing that is the matter with any, and how
/// many there are of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesNotUsed(pub Arc<[(NodeId, NodeNotUsed)]>);

impl fmt::Display for NodesNotUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there is no node");
        }
        // Each thing that is the matter with some node is told of one of them, before it is told of another.
        let mut kinds = Vec::<(&NodeNotUsed, usize)>::new();
        let (mut shown, mut others) = (Vec::new(), Vec::new());
        for one in self.0.iter() {
            match kinds.iter_mut().find(|(kind, _)| kind.is_alike(&one.1)) {
                Some((_, count)) => {
                    *count += 1;
                    others.push(one);
                }
                None => {
                    kinds.push((&one.1, 1));
                    shown.push(one);
                }
            }
        }
        shown.extend(others);
        for (index, (node, why)) in shown.iter().take(SHOWN_MAX).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{node} ({why})")?;
        }
        let more = shown.len().saturating_sub(SHOWN_MAX);
        if more == 0 {
            return Ok(());
        }
        write!(f, " and {more} more; of all {}:", shown.len())?;
        for (index, (kind, count)) in kinds.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {count} {}", kind.kind())?;
        }
        Ok(())
    }
}

/// How many nodes a message of an error names.
const SHOWN_MAX: usize = 8;
