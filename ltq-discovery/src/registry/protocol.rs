//! What nodes, watchers and registries say to each other.
//!
//! A stream carries frames both ways: four bytes of length, the least significant first, and so many
//! bytes of [postcard](https://postcard.jamesmunns.com/wire-format). The client begins with
//! [`Ask::Hello`], and the registry answers [`Say::Welcome`] or [`Say::Goodbye`]. After that a client
//! announces one node, or watches, or both. Both sides say something at each heartbeat; who is silent
//! for [`SILENT_BEATS`] of them is gone.
//!
//! What may be long is said in parts: the topics of a node in as many [`Ask::Topics`] between
//! [`Ask::Announce`] and [`Ask::Announced`] as it takes, and to watchers as [`Part::Node`] with further
//! [`Part::Topics`].

use std::collections::BTreeSet;

use ltq_core::{ChannelName, TopicName};
use serde::{Deserialize, Serialize};

use crate::{Epoch, Interest, Load, NodeId, NodeIdError, NodeInfo, NodeInfoError, NodeState};

/// The version that is spoken here. Another major one is another language.
pub const REGISTRY_PROTOCOL: u16 = 1;

/// The longest frame, in bytes without its length.
pub const REGISTRY_FRAME_BYTES_MAX: usize = 64 << 10;

/// So many heartbeats of silence end a connection.
pub const SILENT_BEATS: u32 = 4;

/// The bytes that a hello begins with, so that nobody is taken for a registry or a client of one who
/// speaks something else.
pub(super) const MAGIC: [u8; 4] = *b"LTQR";

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    Hello {
        magic: [u8; 4],
        version: u16,
        token: Option<String>,
    },
    /// A node begins to be announced: all but its topics.
    Announce {
        node: PlainNode,
        topics_known: bool,
    },
    Topics(Vec<Topic>),
    /// All of it was said.
    Announced,
    /// Something of the announced node is different.
    Change {
        state: Option<State>,
        has: Vec<Topic>,
        lacks: Vec<TopicName>,
    },
    /// It is there.
    Heartbeat {
        load: u32,
    },
    Withdraw,
    Watch {
        watch: u32,
        interest: Interest,
    },
    Unwatch {
        watch: u32,
    },
    /// Nothing new.
    Beat,
}

/// What a registry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Say {
    Welcome {
        version: u16,
        registry: u64,
        heartbeat_ms: u32,
    },
    /// The last words of a stream.
    Goodbye {
        code: GoodbyeCode,
        detail: String,
    },
    /// To each announcement, in order.
    Taken,
    /// The announcement is not taken in, and will not be as long as things are as they are.
    NotTaken {
        superseded: bool,
        detail: String,
    },
    /// A beat, change or withdrawal was about a node that is not announced here.
    NotAnnounced,
    Told {
        watch: u32,
        part: Part,
    },
    /// A watch is not taken in.
    NotWatched {
        watch: u32,
        code: GoodbyeCode,
        detail: String,
    },
    /// Nothing new.
    Beat,
    /// A change is not taken in: the node is there as it was.
    NotChanged {
        detail: String,
    },
}

/// Why a registry speaks no more, or does not take a watch in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GoodbyeCode {
    Version,
    Unauthorized,
    Forbidden,
    Protocol,
    Full,
    Silent,
    Stopping,
    /// It was told too much at a time.
    Flooding,
}

/// A part of what a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    Anew,
    /// `more` says that further topics follow as [`Topics`](Self::Topics).
    Node {
        node: PlainNode,
        topics: Option<Vec<Topic>>,
        is_suspected: bool,
        more: bool,
    },
    Topics {
        topics: Vec<Topic>,
        more: bool,
    },
    /// `withdrawn` is the epoch of the run that said so itself; without one the node was forgotten, or is of no
    /// interest. Before [`Complete`](Self::Complete) those are told that were withdrawn of late.
    Gone {
        id: String,
        withdrawn: Option<(u64, u64)>,
    },
    Complete,
}

/// A topic and its channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) channels: Vec<ChannelName>,
    /// The channels of a topic that has too many for a frame are told in several.
    pub(crate) adds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Ready,
    Draining,
}

/// A node without its topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlainNode {
    id: String,
    started: u64,
    instance: u64,
    addresses: Vec<String>,
    state: State,
    load: u32,
    version: Option<String>,
}

/// Why a node that was told of is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadNode {
    #[error(transparent)]
    Id(#[from] NodeIdError),
    #[error(transparent)]
    Info(#[from] NodeInfoError),
    #[error("node {node} has an address that is none: {address:?}")]
    Address { node: NodeId, address: String },
}

impl PlainNode {
    pub(crate) fn of(node: &NodeInfo) -> Self {
        let Epoch { started, instance } = node.epoch();
        Self {
            id: node.id().to_string(),
            started,
            instance,
            addresses: node.addresses().iter().map(ToString::to_string).collect(),
            state: State::of(node.state()),
            load: node.load().0,
            version: node.version().map(str::to_owned),
        }
    }

    /// Its id, as it came.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The node, whose topics are unknown.
    pub(crate) fn node(self) -> Result<NodeInfo, BadNode> {
        let Self { id, started, instance, addresses, state, load, version } = self;
        let id = NodeId::new(&id)?;
        let mut parsed = Vec::new();
        for address in addresses {
            match address.parse() {
                Ok(address) => parsed.push(address),
                Err(_) => return Err(BadNode::Address { node: id, address }),
            }
        }
        let node = NodeInfo::new(id, parsed)?
            .with_epoch(Epoch { started, instance })
            .with_load(Load(load))
            .with_state(state.state());
        Ok(match version {
            Some(version) => node.with_version(&version)?,
            None => node,
        })
    }
}

impl State {
    pub(crate) const fn of(state: NodeState) -> Self {
        match state {
            NodeState::Ready => Self::Ready,
            NodeState::Draining => Self::Draining,
        }
    }

    pub(crate) const fn state(self) -> NodeState {
        match self {
            Self::Ready => NodeState::Ready,
            Self::Draining => NodeState::Draining,
        }
    }
}

/// Topics in parts of which each fits a frame beside what else is in it.
pub(crate) struct Parts<'a, I: Iterator> {
    topics: std::iter::Peekable<I>,
    /// Channels of the topic that was begun, and not all told.
    rest: Option<(&'a TopicName, std::collections::btree_set::Iter<'a, ChannelName>)>,
}

impl<'a, I: Iterator<Item = (&'a TopicName, &'a BTreeSet<ChannelName>)>> Parts<'a, I> {
    pub(crate) fn of(topics: impl IntoIterator<IntoIter = I>) -> Self {
        Self { topics: topics.into_iter().peekable(), rest: None }
    }

    /// Whether there is nothing more.
    pub(crate) fn is_over(&mut self) -> bool {
        self.rest.is_none() && self.topics.peek().is_none()
    }

    /// The next part; empty when there is none.
    pub(crate) fn next_part(&mut self) -> Vec<Topic> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while bytes < PART_BYTES {
            let (name, mut channels, adds) = match self.rest.take() {
                Some((name, channels)) => (name, channels, true),
                None => match self.topics.next() {
                    Some((name, channels)) => (name, channels.iter(), false),
                    None => break,
                },
            };
            bytes += name.as_str().len() + TOPIC_OVERHEAD;
            let mut told = Vec::new();
            while bytes < PART_BYTES {
                let Some(channel) = channels.next() else { break };
                bytes += channel.as_str().len() + 2;
                told.push(channel.clone());
            }
            if channels.len() > 0 {
                self.rest = Some((name, channels));
            }
            part.push(Topic { name: name.clone(), channels: told, adds });
        }
        part
    }
}

/// Puts topics that were told in parts together again.
pub(crate) fn join(
    into: &mut std::collections::BTreeMap<TopicName, BTreeSet<ChannelName>>,
    part: Vec<Topic>,
) {
    for Topic { name, channels, adds } in part {
        let known = into.entry(name).or_default();
        if !adds {
            known.clear();
        }
        known.extend(channels);
    }
}

/// Where a part ends: a topic or channel may go beyond it, and the frame has room for one and for a
/// node without topics.
const PART_BYTES: usize = 48 << 10;
/// What a topic takes beside its name.
const TOPIC_OVERHEAD: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::wire, *};
    use crate::{ADDRESSES_MAX, VERSION_BYTES_MAX};

    #[test]
    fn a_node_is_read_as_it_was_written() {
        let node = NodeInfo::new(
            "n1".parse().unwrap(),
            ["tcp://a:1", "quic://[::1]:2"].map(|text| text.parse().unwrap()),
        )
        .unwrap()
        .with_epoch(Epoch { started: 7, instance: u64::MAX })
        .with_load(Load(9))
        .with_state(NodeState::Draining)
        .with_version("0.1.0")
        .unwrap();
        assert_eq!(PlainNode::of(&node).node(), Ok(node.clone()));
        let plain = || PlainNode::of(&node);
        let address = "tcp://a:1".to_owned();
        for (bad, why) in [
            (PlainNode { id: "a b".to_owned(), ..plain() }, "white space"),
            (PlainNode { addresses: Vec::new(), ..plain() }, "no address"),
            (PlainNode { addresses: vec![address; 17], ..plain() }, "17 addresses"),
            (PlainNode { addresses: vec!["://".to_owned()], ..plain() }, "\"://\""),
            (PlainNode { addresses: vec!["x".repeat(300)], ..plain() }, "306 bytes"),
            (PlainNode { version: Some("x".repeat(65)), ..plain() }, "65 bytes"),
            (PlainNode { version: Some("\u{1b}[2J".to_owned()), ..plain() }, "control character"),
        ] {
            let error = bad.node().expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
    }

    /// The largest node, and topics of which none leaves room for another in the frame.
    #[test]
    fn whatever_node_can_be_announced_can_be_told() {
        let long = |prefix: &str| prefix.to_owned() + &"x".repeat(255 - prefix.len());
        let node = NodeInfo::new(
            long("n").parse().unwrap(),
            (0..ADDRESSES_MAX).map(|n| long(&format!("tcp://{n}-")).parse().unwrap()),
        )
        .unwrap()
        .with_epoch(Epoch { started: u64::MAX, instance: u64::MAX })
        .with_load(Load(u32::MAX))
        .with_version(&"\u{fffd}".repeat(VERSION_BYTES_MAX / 3))
        .unwrap();
        let plain = PlainNode::of(&node);
        let mut into = bytes::BytesMut::new();
        let announce = Ask::Announce { node: plain.clone(), topics_known: true };
        wire::encode(&announce, &mut into).unwrap();
        for (length, wide) in [(5, 0), (64, 0), (5, 1), (64, 1), (64, 900)] {
            let name = |n: usize, bytes: usize| format!("{n:-<bytes$}");
            let channels: BTreeSet<ChannelName> =
                (0..wide).map(|n| name(n, 64).parse().unwrap()).collect();
            let topics: BTreeMap<TopicName, _> = (0..if wide > 1 { 9 } else { 9_000 })
                .map(|n| (name(n, length).parse().unwrap(), channels.clone()))
                .collect();
            let mut parts = Parts::of(&topics);
            let topics = Some(parts.next_part());
            let part = Part::Node { node: plain.clone(), topics, is_suspected: true, more: true };
            wire::encode(&Say::Told { watch: u32::MAX, part }, &mut into).unwrap();
            into.clear();
        }
    }

    #[test]
    fn topics_in_parts_are_what_they_were() {
        let channel = |n: usize| format!("channel-{n}").parse().unwrap();
        let mut topics = BTreeMap::new();
        for n in 0..3_000 {
            let channels = (0..[0, 1, 7][n % 3]).map(channel).collect();
            topics.insert(format!("topic-{n}").parse().unwrap(), channels);
        }
        topics.insert("wide".parse().unwrap(), (0..20_000).map(channel).collect());
        let mut parts = Parts::of(&topics);
        let (mut joined, mut count) = (BTreeMap::new(), 0);
        while !parts.is_over() {
            let part = parts.next_part();
            assert!(postcard::to_stdvec(&part).unwrap().len() < PART_BYTES + 1_000);
            join(&mut joined, part);
            count += 1;
        }
        assert!(parts.next_part().is_empty() && count > 5);
        assert_eq!(joined, topics);
    }
}
