//! What a forwarder is given: where messages come from, and which of them go on.

use ltq_client::{Client, ConnectionState};
use ltq_core::{ChannelName, StartAt, TopicName};
use ltq_discovery::NodeId;

use super::{HeaderFilter, Names, Refused, Sites};

/// Where a forwarder takes messages from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The client of the node. It must lead to that node alone.
    pub client: Client,
    /// Which node it is, as it was found.
    pub node: NodeId,
    /// What nodes call themselves.
    pub names: Names,
    /// The topic.
    pub topic: TopicName,
    /// The channel that keeps the place. It is made where it does not exist.
    pub channel: ChannelName,
    /// Where it begins then.
    pub start: StartAt,
}

/// Which messages are forwarded, and what becomes of those that are not wanted.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Between which sites; `None` leaves messages as they are, and forwards all.
    pub sites: Option<Sites>,
    /// The headers that a message must have.
    pub headers: Vec<HeaderFilter>,
    /// What becomes of a message that the destination refuses for good.
    pub refused: Refused,
}

impl Source {
    /// What the node is called in the origin of its messages.
    pub(super) fn name(&self) -> NodeId {
        let state = self.client.state();
        let told = match &*state.borrow() {
            ConnectionState::Connected { node, .. } | ConnectionState::Leaving { node, .. } => {
                Some(node.clone())
            }
            _ => None,
        };
        self.names.of(&self.node, told.as_deref())
    }
}
