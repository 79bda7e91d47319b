//! Nodes that one registry told of, and no more than it may.

use std::collections::BTreeMap;

use crate::{NodeId, NodeInfo};

/// How much one registry may tell a watch; one that tells more is taken for broken, and not listened to for that
/// watch.
///
/// The defaults are those of what a registry takes in, but ten times as many nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldLimits {
    /// The most nodes. Default 100,000.
    pub nodes_max: usize,
    /// The most topics of all of them together, each counted at each of its nodes. Default 10,000,000.
    pub topics_max: usize,
    /// The most channels of all of them together, counted the same. Default 10,000,000.
    pub channels_max: usize,
}

impl Default for ToldLimits {
    fn default() -> Self {
        Self { nodes_max: 100_000, topics_max: 10_000_000, channels_max: 10_000_000 }
    }
}

/// Nodes within limits, each with the number under which it was told.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    limits: ToldLimits,
    nodes: BTreeMap<NodeId, (NodeInfo, u64)>,
    topics: usize,
    channels: usize,
}

impl Nodes {
    pub(super) const fn new(limits: ToldLimits) -> Self {
        Self { limits, nodes: BTreeMap::new(), topics: 0, channels: 0 }
    }

    /// Puts a node in, in the place of the one of its id. False, and nothing is changed, if that is too much.
    pub(super) fn insert(&mut self, node: NodeInfo, told: u64) -> bool {
        let known = self.nodes.get(node.id()).map(|(node, _)| sizes(node));
        let (before, after) = (known.unwrap_or_default(), sizes(&node));
        let nodes = self.nodes.len() + usize::from(known.is_none());
        let topics = self.topics - before.0 + after.0;
        let channels = self.channels - before.1 + after.1;
        let ToldLimits { nodes_max, topics_max, channels_max } = self.limits;
        if nodes > nodes_max || topics > topics_max || channels > channels_max {
            return false;
        }
        (self.topics, self.channels) = (topics, channels);
        self.nodes.insert(node.id().clone(), (node, told));
        true
    }

    pub(super) fn remove(&mut self, id: &NodeId) {
        if let Some((node, _)) = self.nodes.remove(id) {
            let (topics, channels) = sizes(&node);
            (self.topics, self.channels) = (self.topics - topics, self.channels - channels);
        }
    }

    pub(super) fn has(&self, id: &NodeId) -> bool {
        self.nodes.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeInfo, u64)> {
        self.nodes.values().map(|(node, told)| (node, *told))
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&NodeInfo) -> bool) {
        let all = self.nodes.values().map(|(node, _)| node);
        let gone: Vec<_> = all.filter(|node| !keep(node)).map(|node| node.id().clone()).collect();
        gone.iter().for_each(|id| self.remove(id));
    }

    /// All of them were told under this number, but those that were known to be so before.
    pub(super) fn stamp(&mut self, before: &Self, now: u64) {
        for (id, (node, told)) in &mut self.nodes {
            *told = match before.nodes.get(id) {
                Some((known, told)) if known == node => *told,
                _ => now,
            };
        }
    }

    /// Puts in what there is room for.
    pub(super) fn take_over(&mut self, others: Self) {
        if self.nodes.is_empty() {
            *self = others;
            return;
        }
        for (node, told) in others.nodes.into_values() {
            self.insert(node, told);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limits);
    }
}

/// Topics and channels.
fn sizes(node: &NodeInfo) -> (usize, usize) {
    let topics = node.topics().into_iter().flatten();
    topics.fold((0, 0), |(topics, channels), (_, of)| (topics + 1, channels + of.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_makes_room_for_others() {
        let limits = ToldLimits { nodes_max: 2, topics_max: 2, channels_max: 2 };
        let mut nodes = Nodes::new(limits);
        let node = |id: &str, topics: usize| {
            let topic = |n| (format!("t{n}").parse().unwrap(), ["c".parse().unwrap()].into());
            let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
            node.with_topics((0..topics).map(topic).collect())
        };
        for turn in 0..5 {
            assert!(nodes.insert(node("a", 2), 0), "in turn {turn}");
            // In its own place it needs none.
            assert!(nodes.insert(node("a", 1), 0) && nodes.insert(node("a", 2), 0));
            assert!(!nodes.insert(node("b", 1), 0) && nodes.insert(node("b", 0), 0));
            assert!(nodes.insert(node("b", 0), 0) && !nodes.insert(node("c", 0), 0));
            nodes.remove(&"a".parse().unwrap());
            nodes.remove(&"b".parse().unwrap());
        }
    }
}
