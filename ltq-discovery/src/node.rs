//! What is known of a node.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use ltq_core::{Address, ChannelName, TopicName};
use thiserror::Error;

use crate::Topics;

/// The longest [`NodeId`], in bytes.
pub const NODE_ID_BYTES_MAX: usize = 255;

/// The longest version of a node's program, in bytes.
pub const VERSION_BYTES_MAX: usize = 64;

/// The most addresses of a node.
pub const ADDRESSES_MAX: usize = 16;

/// The longest address of a node, in bytes as text.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Which node. It stays the same over restarts and changes of address.
///
/// 1 to 255 bytes without white space and control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

/// Why a text is no [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeIdError {
    /// The text is empty.
    #[error("a node id is empty; it must have 1 to {NODE_ID_BYTES_MAX} bytes")]
    Empty,
    /// The text is longer than [`NODE_ID_BYTES_MAX`].
    #[error("a node id has {0} bytes; the limit is {NODE_ID_BYTES_MAX}")]
    TooLong(usize),
    /// The text holds white space or a control character.
    #[error("node id {0:?} holds white space or a control character")]
    Character(String),
}

impl NodeId {
    /// Checks `text` and makes an id of it.
    ///
    /// # Errors
    /// A [`NodeIdError`] that says which rule was broken.
    pub fn new(text: &str) -> Result<Self, NodeIdError> {
        if text.is_empty() {
            return Err(NodeIdError::Empty);
        }
        if text.len() > NODE_ID_BYTES_MAX {
            return Err(NodeIdError::TooLong(text.len()));
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(NodeIdError::Character(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// That of a program of a mesh, which brings messages to no broker: `mesh:MESH/PROGRAM`. Whoever looks for
    /// brokers is not told of it, and who looks for the [programs of that mesh](crate::Interest::Mesh) of
    /// nothing else. So meshes and brokers may share what brings nodes together, whatever they call themselves.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn of_program(mesh: &str, program: &str) -> Result<Self, NodeIdError> {
        Self::new(&format!("{PROGRAM}{mesh}/{program}"))
    }

    /// Of which mesh it is a program, and what that is called there. `None` of a broker.
    #[must_use]
    pub fn program(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(PROGRAM)?.split_once('/')
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What ids of programs of a mesh begin with.
const PROGRAM: &str = "mesh:";

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        Self::new(text)
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It serves.
    #[default]
    Ready,
    /// It is about to stop: it takes no new work, and clients that have a choice go elsewhere.
    Draining,
}

/// Which run of a node: of two under one id, the greater one was started later.
///
/// Clocks may be wrong, so that a later run can have the smaller epoch: it counts as the newer one
/// once nothing is heard of the other any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// When it was started, in milliseconds since 1970.
    pub started: u64,
    /// Tells two runs of one moment apart: by chance.
    pub instance: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.started, self.instance)
    }
}

/// How busy a node is, as it says itself: 0 at rest, and twice as much where twice as much waits. It
/// means something only beside that of another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Load(pub u32);

impl Load {
    /// Whether watchers who were told of this one have to know of the new one: one that is twice or half as
    /// much, and not each that differs; little is as good as none, or all would be told of the ups and downs of
    /// every node that has next to nothing to do.
    pub(crate) fn is_old_beside(self, new: Self) -> bool {
        let class = |load: Self| u32::BITS - (load.0 / LITTLE_LOAD).leading_zeros();
        let differs = self.0.abs_diff(new.0).saturating_mul(2) > self.0.min(new.0);
        class(self) != class(new) && differs
    }
}

/// Of a load, in whatever unit nodes tell it: KiB that wait, those of LTQ.
const LITTLE_LOAD: u32 = 64;

/// Why a node cannot be described so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeInfoError {
    /// There is no address.
    #[error("node {0} has no address")]
    NoAddress(NodeId),
    /// An address could not be written down and read back.
    #[error("node {node} has an address that is none: {address:?}; it looks like tcp://HOST:PORT")]
    BadAddress {
        /// The node.
        node: NodeId,
        /// The address as text.
        address: String,
    },
    /// There are more than [`ADDRESSES_MAX`].
    #[error("node {node} has {count} addresses; the limit is {ADDRESSES_MAX}")]
    TooManyAddresses {
        /// The node.
        node: NodeId,
        /// How many there are.
        count: usize,
    },
    /// An address is longer than [`ADDRESS_BYTES_MAX`].
    #[error("node {node} has an address of {bytes} bytes; the limit is {ADDRESS_BYTES_MAX}")]
    LongAddress {
        /// The node.
        node: NodeId,
        /// How long it is.
        bytes: usize,
    },
    /// The version is longer than [`VERSION_BYTES_MAX`].
    #[error("node {node} has a version of {bytes} bytes; the limit is {VERSION_BYTES_MAX}")]
    LongVersion {
        /// The node.
        node: NodeId,
        /// How long it is.
        bytes: usize,
    },
    /// The version holds a control character.
    #[error("node {node} has a version with a control character: {version:?}")]
    BadVersion {
        /// The node.
        node: NodeId,
        /// Its version.
        version: String,
    },
}

/// A node: who it is, where, and what it has. Cheap to clone, whatever it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    id: NodeId,
    addresses: Arc<[Address]>,
    topics: Option<Topics>,
    state: NodeState,
    epoch: Epoch,
    load: Load,
    version: Option<Arc<str>>,
    is_suspected: bool,
}

impl NodeInfo {
    /// A node that is ready and at rest, at these addresses, the preferred ones first; its topics and
    /// version are unknown, and its epoch is the least.
    ///
    /// # Errors
    /// [`NodeInfoError`] without an address, with more than [`ADDRESSES_MAX`], or with one that is malformed
    /// or longer than [`ADDRESS_BYTES_MAX`].
    pub fn new(
        id: NodeId,
        addresses: impl IntoIterator<Item = Address>,
    ) -> Result<Self, NodeInfoError> {
        let addresses: Arc<[_]> = addresses.into_iter().collect();
        if addresses.is_empty() {
            return Err(NodeInfoError::NoAddress(id));
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(NodeInfoError::TooManyAddresses { node: id, count: addresses.len() });
        }
        // An address can be put together from any two texts.
        for address in &*addresses {
            let text = address.to_string();
            if text.len() > ADDRESS_BYTES_MAX {
                return Err(NodeInfoError::LongAddress { node: id, bytes: text.len() });
            }
            if !text.parse().is_ok_and(|parsed: Address| parsed == *address) {
                return Err(NodeInfoError::BadAddress { node: id, address: text });
            }
        }
        Ok(Self {
            id,
            addresses,
            topics: None,
            state: NodeState::Ready,
            epoch: Epoch::default(),
            load: Load::default(),
            version: None,
            is_suspected: false,
        })
    }

    /// The node with these topics, each with its channels. Costs nothing in their number where others hold them,
    /// too.
    #[must_use]
    pub fn with_topics(mut self, topics: Topics) -> Self {
        self.topics = Some(topics);
        self
    }

    /// This run of the node.
    #[must_use]
    pub const fn with_epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = epoch;
        self
    }

    /// The node with so much to do.
    #[must_use]
    pub const fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// The node of this version of its program.
    ///
    /// # Errors
    /// [`NodeInfoError::LongVersion`], [`NodeInfoError::BadVersion`].
    pub fn with_version(mut self, version: &str) -> Result<Self, NodeInfoError> {
        let bytes = version.len();
        if bytes > VERSION_BYTES_MAX {
            return Err(NodeInfoError::LongVersion { node: self.id, bytes });
        }
        // It is shown to people, on terminals too.
        if version.contains(char::is_control) {
            return Err(NodeInfoError::BadVersion { node: self.id, version: version.to_owned() });
        }
        self.version = Some(version.into());
        Ok(self)
    }

    /// The node, suspected or not.
    #[must_use]
    pub const fn with_suspicion(mut self, is_suspected: bool) -> Self {
        self.is_suspected = is_suspected;
        self
    }

    /// The node with this one of its topics at most.
    #[must_use]
    pub fn with_topic_only(&self, topic: &TopicName) -> Self {
        let topics = self.topics.as_ref().map(|topics| {
            let only = topics.get(topic).map(|channels| (topic.clone(), channels.clone()));
            only.into_iter().collect()
        });
        Self { topics, ..self.without_topics() }
    }

    /// The node, of which it is not said what topics it has.
    #[must_use]
    pub fn without_topics(&self) -> Self {
        let Self { id, addresses, state, epoch, load, version, is_suspected, topics: _ } = self;
        Self {
            id: id.clone(),
            addresses: addresses.clone(),
            topics: None,
            state: *state,
            epoch: *epoch,
            load: *load,
            version: version.clone(),
            is_suspected: *is_suspected,
        }
    }

    /// The node in this state.
    #[must_use]
    pub const fn with_state(mut self, state: NodeState) -> Self {
        self.state = state;
        self
    }

    /// Which node it is.
    #[must_use]
    pub const fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where it is, the preferred addresses first; at least one.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the transport of this scheme finds it: the first address of that scheme.
    #[must_use]
    pub fn address(&self, scheme: &str) -> Option<&Address> {
        self.addresses.iter().find(|address| address.scheme() == scheme)
    }

    /// Its topics and their channels, or `None` where they are unknown.
    #[must_use]
    pub const fn topics(&self) -> Option<&Topics> {
        self.topics.as_ref()
    }

    /// What it is doing.
    #[must_use]
    pub const fn state(&self) -> NodeState {
        self.state
    }

    /// Which run of it this is.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How busy it is.
    #[must_use]
    pub const fn load(&self) -> Load {
        self.load
    }

    /// Of which version its program is, where that is known.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it missed heartbeats, and is avoided where there is a choice. It may be well, and out of
    /// sight of who says so.
    #[must_use]
    pub const fn is_suspected(&self) -> bool {
        self.is_suspected
    }

    /// Adds topics, or puts others in the place of those of the same name.
    pub(crate) fn add_topics(
        &mut self,
        topics: impl IntoIterator<Item = (TopicName, BTreeSet<ChannelName>)>,
    ) {
        self.topics.get_or_insert_default().extend(topics);
    }

    /// Takes a topic away.
    pub(crate) fn remove_topic(&mut self, topic: &TopicName) {
        if let Some(topics) = &mut self.topics {
            topics.remove(topic);
        }
    }

    pub(crate) const fn set_state(&mut self, state: NodeState) {
        self.state = state;
    }

    pub(crate) const fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    pub(crate) const fn set_suspicion(&mut self, is_suspected: bool) {
        self.is_suspected = is_suspected;
    }

    /// Whether it has the topic, as far as is known: where its topics are unknown it may.
    #[must_use]
    pub fn may_have(&self, topic: &TopicName) -> bool {
        self.topics.as_ref().is_none_or(|topics| topics.contains_key(topic))
    }
}

#[cfg(test)]
impl NodeInfo {
    /// One with an address of any length.
    pub(crate) fn beyond_bounds(id: NodeId, bytes: usize) -> Self {
        let address = Address::new("tcp", "x".repeat(bytes));
        let node = Self::new(id, [Address::new("tcp", "x")]).expect("within bounds");
        Self { addresses: [address].into(), ..node }
    }
}

#[cfg(test)]
mod tests;
