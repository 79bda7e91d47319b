//! What a mesh that is closed has left undone.

use std::collections::BTreeMap;

use crate::MeshName;

/// What of the messages to one peer is not known to be in its inbox. Each `send` of them was told so itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// They were never sent, and are not there.
    pub not_sent: u64,
    /// They were sent and not answered, and may be there; those of calls that had timed out or were dropped
    /// before are among them.
    pub unanswered: u64,
}

impl Undelivered {
    pub(crate) const fn count(&mut self, was_sent: bool) {
        match was_sent {
            true => self.unanswered += 1,
            false => self.not_sent += 1,
        }
    }
}

/// What [`Mesh::close`](crate::Mesh::close) has left undone: nothing, for each peer that is not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseReport {
    peers: BTreeMap<MeshName, Undelivered>,
}

impl CloseReport {
    pub(crate) const fn new(peers: BTreeMap<MeshName, Undelivered>) -> Self {
        Self { peers }
    }

    /// Whether everything that was to be sent is known to be stored, or refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peers to which something was left, in the order of their names.
    #[must_use]
    pub const fn peers(&self) -> &BTreeMap<MeshName, Undelivered> {
        &self.peers
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, name: &str) -> Undelivered {
        self.peers.get(name).copied().unwrap_or_default()
    }
}
