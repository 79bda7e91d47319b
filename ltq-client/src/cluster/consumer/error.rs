//! What a cluster's consumer returns that is no message.

use std::fmt;

use ltq_core::{ChannelName, Refusal, TopicName};
use ltq_discovery::NodeId;
use thiserror::Error;

use crate::{ConsumeError, RequestError};

/// An item of a cluster's consumer that is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClusterConsumeError {
    /// A message that cannot be used. It was given back and comes again after a delay; the stream goes
    /// on.
    #[error("from node {node}: {error}")]
    Node {
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        error: ConsumeError,
    },
    /// Every node that is known refuses the subscription for a reason that stays: a missing permission,
    /// say, or a channel that was deleted. The stream ends behind this item.
    #[error(
        "node {node} refuses a subscription to {topic}, channel {channel}, and so does every other: {refusal}"
    )]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// One of the nodes.
        node: NodeId,
        /// Its reason.
        refusal: Refusal,
    },
}

impl ClusterConsumeError {
    /// Whether the stream ends behind this item.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// The node that it is about, or one of them.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        match self {
            Self::Node { node, .. } | Self::Refused { node, .. } => node,
        }
    }
}

/// Some nodes did not say that the subscription is over: the last answers may be lost there. It is over
/// all the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ending the subscription is not confirmed by every node: {}", Failed(nodes))]
pub struct ClusterLeaveError {
    /// Those, each with what came of asking it.
    pub nodes: Vec<(NodeId, RequestError)>,
}

struct Failed<'a>(&'a [(NodeId, RequestError)]);

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (node, error)) in self.0.iter().take(SHOWN_MAX).enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{node}: {error}")?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// How many nodes a message of an error names.
const SHOWN_MAX: usize = 8;
