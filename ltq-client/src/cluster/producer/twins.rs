//! Which nodes are one and the same broker. No IO, no clock.

use std::collections::{BTreeMap, HashMap};

use ltq_core::Address;
use ltq_discovery::{NodeId, NodeInfo, NodeSet};

/// Brokers that are listed under two ids: one that was started anew under another id while the old one is
/// still listed, or one that two discovery schemes tell of.
///
/// A producer has the same name on all nodes, so the second one on a broker fences the first. A node that
/// shares an address with one that is in use is therefore left alone; where only the broker's name gives
/// it away, being fenced after that is taken for what it is, and not for the work of another program.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// By the broker of which name, and as the how-manyth, a producer was asked for on each node last.
    opened: BTreeMap<NodeId, (String, u64)>,
    count: u64,
    /// Nodes that turned out to be another, which is used in their place.
    twins: BTreeMap<NodeId, NodeId>,
}

impl Twins {
    /// A producer is asked for on a node, which is the broker of this name. Word of the older one's end may
    /// come before that of its own beginning.
    pub(super) fn opened(&mut self, node: &NodeId, server: &str) {
        self.count += 1;
        self.opened.insert(node.clone(), (server.to_owned(), self.count));
    }

    /// A newer producer has the name there. Returns whether it is one of ours: one that was opened
    /// later, at a broker of the same name. That is believed once for each that was opened.
    pub(super) fn fenced(&mut self, node: &NodeId) -> bool {
        if self.twins.contains_key(node) {
            return true;
        }
        let Some((server, at)) = self.opened.get(node) else { return false };
        let mut others = self.opened.iter();
        let later = others.find(|(id, (by, since))| *id != node && by == server && since > at);
        let Some(twin) = later.map(|(id, _)| id.clone()) else { return false };
        self.opened.remove(node);
        self.twins.insert(node.clone(), twin);
        true
    }

    /// Forgets the twins of nodes that are not in use any more, and all that is known of nodes that are
    /// not there.
    pub(super) fn retain(
        &mut self,
        is_there: impl Fn(&NodeId) -> bool,
        is_used: impl Fn(&NodeId) -> bool,
    ) {
        self.opened.retain(|id, _| is_there(id));
        self.twins.retain(|id, twin| is_there(id) && is_used(twin));
    }

    /// The node that is used in the place of this one.
    pub(super) fn of(&self, node: &NodeId) -> Option<&NodeId> {
        self.twins.get(node)
    }
}

/// The addresses of the nodes in use.
pub(super) struct Places<'a>(HashMap<&'a Address, &'a NodeId>);

impl<'a> Places<'a> {
    pub(super) fn of(nodes: &'a NodeSet, used: impl Iterator<Item = &'a NodeId>) -> Self {
        let used = used.filter_map(|id| nodes.get(id));
        let places = used.flat_map(|node| node.addresses().iter().map(|at| (at, node.id())));
        Self(places.collect())
    }

    /// The node in use, other than this one, that has one of its addresses.
    pub(super) fn at_same_address(&self, node: &NodeInfo) -> Option<&'a NodeId> {
        let mut owners = node.addresses().iter().filter_map(|address| self.0.get(address));
        owners.find(|id| **id != node.id()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_later_producer_of_ours_at_the_same_broker_is_a_twin() {
        let mut twins = Twins::default();
        twins.opened(&id("a"), "x");
        assert!(!twins.fenced(&id("a")), "that is another program");
        twins.opened(&id("b"), "y");
        assert!(!twins.fenced(&id("a")), "b is another broker");
        twins.opened(&id("c"), "x");
        assert!(!twins.fenced(&id("c")), "a was opened before it");
        assert!(twins.fenced(&id("a")));
        assert_eq!(twins.of(&id("a")), Some(&id("c")));
        twins.retain(|_| true, |used| *used == id("b"));
        assert_eq!(twins.of(&id("a")), None, "c is not in use any more");
        assert!(!twins.fenced(&id("a")), "it was believed once");
    }
}
