//! What happens in a cluster that does not with one node.

use std::{fmt, time::Duration};

use ltq_core::{Durability, Offset};

use super::Mode;
use crate::body::Body;

/// Something that happens in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scene {
    /// A producer was opened.
    Opened {
        /// Its number: each that is opened has one of its own.
        life: u64,
        /// The topic's number.
        topic: usize,
        /// How it is to go about nodes in trouble.
        mode: Mode,
    },
    /// A message was handed to it.
    Handed {
        /// The producer's number.
        life: u64,
        /// The topic's.
        topic: usize,
        /// The message.
        body: Body,
        /// The number of its key.
        key: u64,
        /// How durable it is to be before anybody sees it.
        durability: Durability,
        /// How long it may take until the producer is told what became of it.
        within: Duration,
    },
    /// It was told that the message is stored.
    Stored {
        /// The message.
        body: Body,
        /// Where.
        node: String,
        /// As what there, if that was said.
        offset: Option<Offset>,
        /// How durably.
        durability: Durability,
    },
    /// It was told that the message is not stored, and never will be.
    NotStored {
        /// The message.
        body: Body,
        /// Whether that is so since the order moves to another node.
        is_move: bool,
        /// In whose words.
        why: String,
    },
    /// Nobody knows whether it is stored.
    MaybeStored {
        /// The message.
        body: Body,
        /// In whose words.
        why: String,
    },
    /// A consumer is there for this channel.
    Consumes {
        /// The topic's number.
        topic: usize,
        /// The channel's.
        channel: usize,
    },
    /// A message came.
    Taken(Place, Body),
    /// A consumer is about to ack it, whatever it is told of that.
    Acks(Place),
    /// What came cannot be read, or is not what was published.
    Unreadable(String),
    /// Somebody who watches was told that these are the nodes.
    Sees {
        /// The watch's number.
        watch: u64,
        /// The nodes, in the order of their names.
        nodes: Vec<Sight>,
    },
    /// It is told nothing any more: whoever watched is gone.
    Blind {
        /// The watch's number.
        watch: u64,
    },
    /// Nothing is wrong from now on, until something of the following is told. These nodes are there.
    Calm {
        /// Their names, in order.
        nodes: Vec<String>,
    },
    /// All registries are gone, and nothing else is wrong.
    RegistriesGone,
    /// They are there again, and know nobody.
    RegistriesBack,
    /// A node is gone without a word, and nothing else is wrong.
    Struck {
        /// Its name.
        node: String,
    },
    /// It may come back from now on.
    Recovers,
    /// Its process is stopped, and does nothing until it goes on.
    StandsStill,
    /// It goes on.
    GoesOn,
    /// A host of that name announces itself as a node, and nobody listens there.
    Poses {
        /// As which one.
        node: String,
        /// Whether registries have to believe it; it shows them a wrong token else.
        is_let_in: bool,
    },
    /// A node that had nothing left was stopped for good.
    Left {
        /// Its name.
        node: String,
    },
    /// What a node has of a topic when everything is delivered.
    Has {
        /// The node's name.
        node: String,
        /// The topic's number.
        topic: usize,
        /// The offset that its next message would have.
        end: Offset,
        /// Of each channel: its number, and how many messages of it are acked.
        acked: Vec<(usize, u64)>,
    },
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Place {
    /// The name of the node that it came from.
    pub node: String,
    /// The topic's number.
    pub topic: usize,
    /// The channel's number.
    pub channel: usize,
    /// Where the message is.
    pub offset: Offset,
    /// Which delivery of it this is.
    pub attempt: u32,
}

/// A node as it is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sight {
    /// Its name.
    pub node: String,
    /// Whether it is ready, and not draining.
    pub is_ready: bool,
    /// Whether it is suspected.
    pub is_suspected: bool,
    /// The host at which it is to be reached.
    pub host: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, topic, channel, offset, attempt } = self;
        write!(f, "{node}/t{topic}/c{channel}@{offset} (attempt {attempt})")
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_ready { "" } else { " draining" };
        let suspected = if self.is_suspected { " suspected" } else { "" };
        let host =
            if self.host == self.node { String::new() } else { format!(" at {}", self.host) };
        write!(f, "{}{host}{state}{suspected}", self.node)
    }
}

fn name(body: &Body) -> String {
    format!("m{}.{}", body.producer, body.number)
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { life, topic, mode } => {
                write!(f, "is producer {life} of t{topic} now, {mode}")
            }
            Self::Handed { topic, body, key, durability, .. } => {
                write!(f, "publishes {} to t{topic}, key {key}, {durability}", name(body))
            }
            Self::Stored { body, node, offset, durability } => {
                let offset = offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
                write!(f, "{} is stored on {node}@{offset}, {durability}", name(body))
            }
            Self::NotStored { body, why, .. } => write!(f, "{} is not stored: {why}", name(body)),
            Self::MaybeStored { body, why } => write!(f, "{} may be stored: {why}", name(body)),
            Self::Consumes { topic, channel } => write!(f, "consumes t{topic}/c{channel}"),
            Self::Taken(place, body) => write!(f, "gets {} from {place}", name(body)),
            Self::Acks(place) => write!(f, "is about to ack {place}"),
            Self::Unreadable(what) => write!(f, "cannot read what came: {what}"),
            Self::Sees { watch, nodes } => {
                let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
                write!(f, "sees, by watch {watch}: {}", nodes.join(", "))
            }
            Self::Blind { watch } => write!(f, "has no watch {watch} any more"),
            Self::Calm { nodes } => {
                write!(f, "nothing is wrong now; there are {}", nodes.join(", "))
            }
            Self::RegistriesGone => write!(f, "all registries are gone"),
            Self::RegistriesBack => write!(f, "all registries are there again"),
            Self::Struck { node } => write!(f, "{node} is gone without a word"),
            Self::Recovers => write!(f, "what was struck comes back"),
            Self::StandsStill => write!(f, "stands still"),
            Self::GoesOn => write!(f, "goes on"),
            Self::Poses { node, is_let_in: true } => write!(f, "says that it is {node}"),
            Self::Poses { node, .. } => write!(f, "says that it is {node}, by a wrong token"),
            Self::Left { node } => write!(f, "{node} has nothing left, and is stopped for good"),
            Self::Has { node, topic, end, acked } => {
                write!(f, "{node} has t{topic} up to {end}, acked by channel: {acked:?}")
            }
        }
    }
}
