//! What a device that is not what it was may cost: what was published to last no longer than its node's process and
//! had not been synced.

use super::{Account, Became};
use crate::torment::worker;

/// A node's device took nothing any more, and was replaced by what it had taken until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::torment) struct Loss {
    pub(in crate::torment) node: String,
    /// When it began to take nothing.
    pub(in crate::torment) from: u64,
    /// When the node was started again.
    pub(in crate::torment) to: u64,
}

impl Account {
    /// Whether a confirmed message may be lost: it was to last no longer than it did.
    pub(super) fn may_be_lost(&self, topic: &str, it: &Became) -> bool {
        let node = it.receipt.as_ref().map(|(node, _)| node.as_str());
        !it.is_confirmed() || it.is_fleeting || node.is_some_and(|at| self.lost_by(topic, it, at))
    }

    /// Whether a node may have had a message and lost it, together with its place among the others there.
    pub(super) fn lost_by(&self, topic: &str, it: &Became, node: &str) -> bool {
        // The time of the answer is that of the commit at the latest.
        let (from, to) = (it.published, it.published + it.took_ms);
        let is_in = |loss: &Loss| from <= loss.to && to + SYNC_INTERVAL_MS >= loss.from;
        worker::is_unsynced(topic) && self.losses.iter().any(|it| it.node == node && is_in(it))
    }

    /// Whether any node may have done so.
    pub(super) fn lost_somewhere(&self, topic: &str, it: &Became) -> bool {
        self.losses.iter().any(|loss| self.lost_by(topic, it, &loss.node))
    }
}

/// After how long what was confirmed as `os` is synced, unless a node is set otherwise, and what the sync may take.
const SYNC_INTERVAL_MS: u64 = 2_000;
