//! What a cluster's producer has done so far.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use ltq_discovery::NodeId;

use super::behalf::NodeCounts;

/// What a producer has done since it was opened: [`ClusterProducer::figures`](super::ClusterProducer::figures).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterFigures {
    /// Messages that left a node they had been given to, for another one or the same one later: its
    /// connection was lost, it stopped or refused them. One may count more than once.
    pub moved: u64,
    /// Those of them that the node may have stored all the same, so that they may be there twice.
    pub maybe_repeated: u64,
    /// How often the order of a slot moved and its publisher was told.
    pub order_moves: u64,
    /// How often the producer has looked at what is known of all its nodes. Each look costs as much as there
    /// are nodes, and takes all news in that there were since the last.
    pub looks: u64,
    /// The nodes that were used and are still known.
    pub nodes: BTreeMap<NodeId, NodeFigures>,
}

/// The same for one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeFigures {
    /// Messages that it has stored, and said so.
    pub stored: u64,
    /// Messages that left it.
    pub moved: u64,
}

/// Counts of nodes, and of those that are forgotten.
#[derive(Debug, Default)]
pub(super) struct Counts {
    nodes: BTreeMap<NodeId, Arc<NodeCounts>>,
    forgotten: (u64, u64),
    pub(super) order_moves: u64,
    pub(super) looks: u64,
}

impl Counts {
    pub(super) fn of(&mut self, node: &NodeId) -> Arc<NodeCounts> {
        self.nodes.entry(node.clone()).or_default().clone()
    }

    /// Keeps only the counts of these nodes apart.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        let forgotten = &mut self.forgotten;
        self.nodes.retain(|node, counts| {
            // One that a producer still works with is not done.
            let stays = keep(node) || Arc::strong_count(counts) > 1;
            if !stays {
                forgotten.0 += counts.moved_away.load(Ordering::Relaxed);
                forgotten.1 += counts.maybe_repeated.load(Ordering::Relaxed);
            }
            stays
        });
    }

    pub(super) fn figures(&self) -> ClusterFigures {
        let (mut moved, mut maybe_repeated) = self.forgotten;
        let mut nodes = BTreeMap::new();
        for (node, counts) in &self.nodes {
            let figures = NodeFigures {
                stored: counts.stored.load(Ordering::Relaxed),
                moved: counts.moved_away.load(Ordering::Relaxed),
            };
            moved += figures.moved;
            maybe_repeated += counts.maybe_repeated.load(Ordering::Relaxed);
            nodes.insert(node.clone(), figures);
        }
        let (order_moves, looks) = (self.order_moves, self.looks);
        ClusterFigures { moved, maybe_repeated, order_moves, looks, nodes }
    }
}
