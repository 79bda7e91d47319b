//! Which nodes went without a word.

use std::collections::BTreeMap;

use ltq_discovery::{NodeId, NodeInfo, NodeSet, NodeState};

/// Nodes that served when they were seen last, and are [lost](NodeSet::has_lost) since: those of which an order waits.
#[derive(Debug, Default)]
pub(super) struct Lost {
    nodes: BTreeMap<NodeId, LostNode>,
    /// How many were lost in all.
    count: u64,
}

#[derive(Debug)]
struct LostNode {
    /// As it was seen last.
    node: NodeInfo,
    number: u64,
}

impl Lost {
    /// There are these nodes now, and were those before.
    ///
    /// What drained had handed its order on, and gets it back by being there, and not by being lost.
    pub(super) fn update(&mut self, before: &NodeSet, now: &NodeSet) {
        // What became of it may be told late.
        self.nodes.retain(|_, lost| now.has_lost(&lost.node));
        let is_lost = |node: &&NodeInfo| node.state() == NodeState::Ready && now.has_lost(node);
        for node in before.iter().filter(is_lost) {
            self.count += 1;
            let lost = LostNode { node: node.clone(), number: self.count };
            self.nodes.insert(node.id().clone(), lost);
        }
        while self.nodes.len() > LOST_MAX {
            let oldest = self.nodes.iter().min_by_key(|(_, lost)| lost.number);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            self.nodes.remove(&oldest);
        }
    }

    /// Waits for it no longer. Returns whether it was waited for.
    pub(super) fn give_up(&mut self, id: &NodeId) -> bool {
        self.nodes.remove(id).is_some()
    }

    /// In the order of their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }
}

/// How many are remembered: more than there are in any cluster.
const LOST_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use ltq_discovery::Epoch;

    use super::*;

    fn node(id: &str) -> NodeInfo {
        let address = "tcp://a:1".parse().unwrap();
        NodeInfo::new(id.parse().unwrap(), [address]).unwrap()
    }

    /// Of a scheme that tells who was withdrawn: nobody was.
    fn set(nodes: impl IntoIterator<Item = NodeInfo>) -> NodeSet {
        nodes.into_iter().collect::<NodeSet>().with_withdrawn([])
    }

    fn ids(lost: &Lost) -> Vec<&str> {
        lost.ids().map(NodeId::as_str).collect()
    }

    #[test]
    fn who_served_and_went_without_a_word_is_lost_until_it_is_back_or_a_word_of_it_comes() {
        let mut lost = Lost::default();
        let draining = node("draining").with_state(NodeState::Draining);
        let all = set([node("a"), node("b").with_suspicion(true), draining, node("stays")]);
        let stays = set([node("stays")]);
        lost.update(&all, &stays);
        assert_eq!(ids(&lost), ["a", "b"]);
        // Of one it is told late that it was withdrawn.
        let told = stays.clone().with_withdrawn([("a".parse().unwrap(), Epoch::default())]);
        lost.update(&stays, &told);
        assert_eq!(ids(&lost), ["b"]);
        lost.update(&told, &set([node("b")]));
        assert_eq!(ids(&lost), ["stays"], "one is back, and another one went");
        assert!(lost.give_up(&"stays".parse().unwrap()) && !lost.give_up(&"b".parse().unwrap()));
        // Nor does one that was given up come again by itself.
        lost.update(&set([]), &set([]));
        assert!(ids(&lost).is_empty());
        let list: NodeSet = [node("a")].into_iter().collect();
        lost.update(&all, &list);
        assert!(ids(&lost).is_empty(), "those in a list no more were taken out of it");
    }

    #[test]
    fn the_oldest_is_no_longer_waited_for_where_there_are_too_many() {
        let mut lost = Lost::default();
        // The oldest is not the first by name.
        for id in (0..=LOST_MAX).rev() {
            lost.update(&set([node(&format!("n{id:04}"))]), &set([]));
        }
        let ids = ids(&lost);
        assert_eq!(
            (ids.len(), ids.first(), ids.last()),
            (LOST_MAX, Some(&"n0000"), Some(&"n4095"))
        );
    }
}
