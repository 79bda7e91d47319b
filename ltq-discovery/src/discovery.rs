//! The contract between nodes, clients and what brings them together.

use std::{error::Error, fmt};

use async_trait::async_trait;
use ltq_core::TopicName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{NodeId, NodeInfo, NodeSet};

/// Why a discovery scheme could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// What keeps the nodes did not answer, or not in time. Trying again is right.
    #[error("{backend} cannot be reached: {source}")]
    Unreachable {
        /// What keeps the nodes: a registry's address, say.
        backend: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// What keeps the nodes does not want this, and will not want it again.
    #[error("{backend} refused: {why}")]
    Refused {
        /// What keeps the nodes.
        backend: String,
        /// What is wrong with the request.
        why: String,
    },
    /// Not everybody who may tell of the node knows that it is withdrawn: those who do not forget it when its
    /// heartbeats stay away.
    #[error(
        "the node is not withdrawn from {}, and is from {}",
        unheard.join(", "),
        if heard.is_empty() { "nobody".to_owned() } else { heard.join(", ") }
    )]
    NotWithdrawn {
        /// Who has answered that the node is gone.
        heard: Vec<String>,
        /// Who may have the node, and has not answered: the addresses of registries, say.
        unheard: Vec<String>,
    },
}

/// Brings nodes and clients together.
///
/// # Contract
/// - All calls may be made at once, from any task. None waits longer than its own deadline, and
///   each is cancel safe.
/// - What a watch says is knowledge of a moment, not a lease: a node that is named may be gone,
///   and one that is up may be named late. Connecting is the proof.
/// - Losing sight of the backend takes no node away: the last set that was told stays in force
///   until the backend says otherwise. A client that works goes on working.
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Makes a node known, until the returned handle is withdrawn or dropped. Where nodes are
    /// found by heartbeat the handle sees to that too.
    ///
    /// A node announces itself once it serves. Another announcement under the same id takes the
    /// place of the earlier one. A run of a node that was withdrawn is not announced again under the same epoch by
    /// another handle: whoever hears of it late may take it for what was withdrawn.
    ///
    /// # Errors
    /// [`DiscoveryError`]; then nothing was announced, or it is forgotten soon.
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError>;

    /// Watches the nodes that are of interest, each with as much of it as is.
    ///
    /// Draining nodes are among them, marked so.
    ///
    /// # Errors
    /// [`DiscoveryError`], when not even a first set can be had.
    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError>;

    /// Whether it tells which nodes have a topic, whenever it can be asked. Where it does, who consumes makes no topic
    /// on the nodes while it cannot be. Default: no.
    fn tells_topics(&self) -> bool {
        false
    }
}

/// What somebody who watches wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Interest {
    /// All brokers, without their topics: for who brings messages somewhere. Whoever may do anything at
    /// all may know it. What it costs does not grow with the topics.
    Nodes,
    /// The brokers that have this topic, or may, each with no other: for who consumes.
    Topic(TopicName),
    /// All nodes with all their topics and channels, and the programs of all meshes: for operators.
    Everything,
    /// The [programs](crate::NodeId::of_program) of the mesh of this name: for each other. Whoever may do anything
    /// at all may know them.
    Mesh(String),
}

impl Interest {
    /// Whether who watches this is told, when he begins, that a node of this id was withdrawn. Whom a topic brings
    /// together is not: that would be one word for each such node to each of many watches.
    pub(crate) fn is_of_withdrawn(&self, id: &NodeId) -> bool {
        match self {
            Self::Nodes => id.program().is_none(),
            Self::Topic(_) => false,
            Self::Everything => true,
            Self::Mesh(mesh) => id.program().is_some_and(|(of, _)| of == mesh),
        }
    }

    /// As much of the node as is of interest, if anything is.
    #[must_use]
    pub fn view(&self, node: &NodeInfo) -> Option<NodeInfo> {
        let program = node.id().program();
        match self {
            Self::Nodes => program.is_none().then(|| node.without_topics()),
            Self::Topic(topic) => {
                (program.is_none() && node.may_have(topic)).then(|| node.with_topic_only(topic))
            }
            Self::Everything => Some(node.clone()),
            Self::Mesh(mesh) => {
                program.is_some_and(|(of, _)| of == mesh).then(|| node.without_topics())
            }
        }
    }

    /// The interest of somebody who asks a scheme that knows nodes by their addresses alone, as a list does: to
    /// one of a mesh all of them may be programs of it.
    #[must_use]
    pub fn of_mere_addresses(&self) -> Self {
        match self {
            Self::Mesh(_) => Self::Nodes,
            other => other.clone(),
        }
    }
}

impl fmt::Display for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("all nodes"),
            Self::Topic(topic) => write!(f, "the nodes that have {topic}"),
            Self::Everything => f.write_str("all nodes and their topics"),
            Self::Mesh(mesh) => write!(f, "the programs of the mesh {mesh}"),
        }
    }
}

/// What became of an announcement.
#[must_use = "dropping an announcement withdraws it"]
pub enum Announced {
    /// The node can be found.
    Known(Box<dyn Announcement>),
    /// This scheme takes no announcements: clients learn of the node in another way, or not at
    /// all. Says which way.
    NotTaken(&'static str),
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(_) => f.write_str("Known"),
            Self::NotTaken(why) => f.debug_tuple("NotTaken").field(why).finish(),
        }
    }
}

/// A node that is known. Dropping it withdraws it as far as that goes without waiting; what did
/// not go is forgotten when heartbeats stay away.
#[async_trait]
pub trait Announcement: Send + 'static {
    /// Tells what is different now: topics that came, or that the node drains. The id must be
    /// the announced one. Of several quick updates the last one counts.
    ///
    /// # Errors
    /// [`DiscoveryError`]; the update is then told with the next one or with a heartbeat.
    /// [`DiscoveryError::Refused`] for another id: nothing is changed.
    async fn update(&mut self, node: NodeInfo) -> Result<(), DiscoveryError>;

    /// Withdraws the node, and waits until that is known by everybody who may tell of it. Whoever never had
    /// the node does not have to hear of it.
    ///
    /// # Errors
    /// [`DiscoveryError::NotWithdrawn`] where only some have answered, and which; any other
    /// [`DiscoveryError`] where there is but one to be told. The node is forgotten there when heartbeats stay
    /// away.
    async fn withdraw(self: Box<Self>) -> Result<(), DiscoveryError>;
}

/// The nodes of interest, now and whenever they change. Dropping it ends the watching.
#[async_trait]
pub trait Watch: Send + 'static {
    /// The first call gives the nodes as they are; each later one waits until they differ from
    /// what was given last, or until more is known of those that [are gone](NodeSet::has_lost). What came and went between two calls is not told. Waits for ever
    /// where nothing changes. Cancel safe: a dropped call loses no set.
    ///
    /// # Errors
    /// [`DiscoveryError`], once each time that sight of the backend is lost. The set that was
    /// given last stays in force, and the next call waits for news as before.
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError>;
}
