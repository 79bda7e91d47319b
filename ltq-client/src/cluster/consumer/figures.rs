//! How a cluster's consumer stands with each node.

use std::collections::BTreeMap;

use ltq_core::Refusal;
use ltq_discovery::NodeId;

use crate::CreditUse;

/// How a consumer stands: [`ClusterConsumer::figures`](super::ClusterConsumer::figures).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterConsumerFigures {
    /// The nodes that it is subscribed at, or would be.
    pub nodes: BTreeMap<NodeId, ConsumedNode>,
}

/// The same for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumedNode {
    /// What the subscription there is doing.
    pub state: SubscriptionState,
    /// Messages that the program took from it.
    pub taken: u64,
    /// Messages whose answers came too late, as the node said.
    pub stale: u64,
    /// How much of the one credit is there: `size` is what it is lent now.
    pub credit: CreditUse,
}

/// What a subscription at a node is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// There is no connection, or no answer yet. It is tried for as long as the node is known.
    #[default]
    Waiting,
    /// It is up.
    Subscribed,
    /// The node is not known any more, or is elsewhere now: nothing more comes by this subscription, and
    /// what came is still to be settled.
    Leaving,
    /// The node refused it, and may be asked again later.
    Refused(Refusal),
    /// It is the same broker as this other node, which is subscribed at.
    SameAs(NodeId),
    /// No transport of this client knows any of the node's addresses.
    NoAddress,
}
