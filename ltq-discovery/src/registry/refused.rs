//! What a registry does not do, and why.

use thiserror::Error;

use crate::{Epoch, NodeId};

/// Why a node is not taken in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// Another run of it was started later, and is heard of. Two nodes have one id, or this one should
    /// have ended.
    #[error(
        "node {node} of epoch {epoch} is not taken in: one of epoch {known} was started after it and is there"
    )]
    Superseded {
        /// The node.
        node: NodeId,
        /// Of this run.
        epoch: Epoch,
        /// Of the one that is there.
        known: Epoch,
    },
    /// There are as many of something as there may be.
    #[error("node {node} is not taken in: of {what} there are {count}, and {max} is the most")]
    TooMany {
        /// The node.
        node: NodeId,
        /// Of what.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        max: usize,
    },
}

/// What was said is about a node that this connection has not announced, or that was forgotten or taken
/// over meanwhile. It is to be announced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no node is announced by this connection")]
pub struct NotAnnounced;

/// Why nothing of a node is changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// There is none.
    #[error(transparent)]
    NotAnnounced(#[from] NotAnnounced),
    /// It would not be taken in.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
}

/// There are as many watchers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{max} watch already, which is the most")]
pub struct TooManyWatchers {
    /// How many there may be.
    pub max: usize,
}
