//! The topics of a cluster, one for each way in which a cluster's producer can be set.

use std::fmt;

use ltq_core::{AdminRequest, Broker, Durability, StartAt, Store, TopicOptions};

/// How a producer of a cluster goes about nodes that are in trouble, and about order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// What a node may have stored goes elsewhere, and may be stored twice then.
    Available,
    /// It waits for its node, and is stored once.
    Strict,
    /// One node for a key, and failure while that cannot be reached.
    OrderedFail,
    /// One node for a key, and the next one while that cannot be reached.
    OrderedMove,
}

impl Mode {
    /// Those of the topics, by their numbers.
    pub(super) const ALL: [Self; 4] =
        [Self::Available, Self::Strict, Self::OrderedFail, Self::OrderedMove];

    /// Whether messages of one key keep an order.
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::OrderedFail | Self::OrderedMove)
    }

    /// Whether the topic's messages are each stored once.
    #[must_use]
    pub const fn stores_once(self) -> bool {
        !matches!(self, Self::Available)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Available => "available",
            Self::Strict => "strict",
            Self::OrderedFail => "ordered, or failing",
            Self::OrderedMove => "ordered, or moving",
        })
    }
}

/// Of each topic.
pub(super) const CHANNELS: usize = 2;

/// How durable a topic's messages are where their producer has no wish.
const DURABILITIES: [Durability; 4] =
    [Durability::Disk, Durability::Disk, Durability::Os, Durability::Disk];

/// How durable messages of this topic are without a wish.
pub(super) fn durability(topic: usize) -> Durability {
    DURABILITIES.get(topic).copied().unwrap_or(Durability::Disk)
}

/// How producers of this topic go about it.
pub(super) fn mode(topic: usize) -> Mode {
    Mode::ALL.get(topic).copied().unwrap_or(Mode::Available)
}

/// Makes all topics and channels on a node, where they are not.
pub(super) async fn make<S: Store>(broker: &Broker<S>) -> Result<(), String> {
    for topic in 0..Mode::ALL.len() {
        let name = crate::topics::topic_name(topic).parse().map_err(|_| "no topic's name")?;
        let options =
            TopicOptions { durability: Some(durability(topic)), ..TopicOptions::default() };
        let request = AdminRequest::CreateTopic { topic: name, options };
        broker.admin(request).await.map_err(|refusal| refusal.to_string())?;
        for channel in 0..CHANNELS {
            let topic = crate::topics::topic_name(topic).parse().map_err(|_| "no topic's name")?;
            let channel = crate::topics::channel_name(channel);
            let channel = channel.parse().map_err(|_| "no channel's name")?;
            let request = AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest };
            broker.admin(request).await.map_err(|refusal| refusal.to_string())?;
        }
    }
    Ok(())
}
