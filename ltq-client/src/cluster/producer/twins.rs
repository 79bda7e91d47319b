//! Which nodes are one and the same broker. No IO, no clock.

use std::collections::{BTreeMap, HashMap};

use ltq_core::{Address, protocol::InstanceId};
use ltq_discovery::{NodeId, NodeInfo, NodeSet};

/// Brokers that are listed under two ids: one that was started anew under another id while the old one is
/// still listed, or one that two discovery schemes tell of.
///
/// A producer has the same name on all nodes, so the second one on a broker fences the first. A node that
/// shares an address with one that is in use, or is connected to and is the same instance, is therefore left
/// alone. Where that is found out only when a producer is asked for, being fenced after that is taken for what
/// it is, and not for the work of another program.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// At which broker a producer was asked for on each node in use last.
    opened: BTreeMap<NodeId, InstanceId>,
    /// Nodes that turned out to be another, which is used in their place.
    twins: BTreeMap<NodeId, NodeId>,
}

impl Twins {
    /// A producer is asked for on a node, which is this broker. Word of the older one's end may come before
    /// that of its own beginning.
    pub(super) fn opened(&mut self, node: &NodeId, broker: InstanceId) {
        self.opened.insert(node.clone(), broker);
    }

    /// A newer producer has the name there. Returns whether it is one of ours: one that was opened at the same
    /// broker. That is believed once for each that was opened.
    pub(super) fn fenced(&mut self, node: &NodeId) -> bool {
        if self.twins.contains_key(node) {
            return true;
        }
        let Some(broker) = self.opened.get(node) else { return false };
        // Whichever was asked for first: one that comes back after a cut goes by the older epoch.
        let mut others = self.opened.iter();
        let other = others.find(|(id, by)| *id != node && *by == broker);
        let Some(twin) = other.map(|(id, _)| id.clone()) else { return false };
        self.opened.remove(node);
        self.twins.insert(node.clone(), twin);
        true
    }

    /// Forgets what is known of nodes that are not there, and what was opened on those, and the twins of those,
    /// that are not in use any more.
    pub(super) fn retain(
        &mut self,
        is_there: impl Fn(&NodeId) -> bool,
        is_used: impl Fn(&NodeId) -> bool,
    ) {
        self.opened.retain(|id, _| is_there(id) && is_used(id));
        self.twins.retain(|id, twin| is_there(id) && is_used(twin));
    }

    /// The node that is used in the place of this one.
    pub(super) fn of(&self, node: &NodeId) -> Option<&NodeId> {
        self.twins.get(node)
    }
}

/// Where the nodes in use are, and which brokers.
pub(super) struct Places<'a> {
    addresses: HashMap<&'a Address, &'a NodeId>,
    brokers: HashMap<InstanceId, &'a NodeId>,
}

impl<'a> Places<'a> {
    /// `broker` tells which one a node is connected to.
    pub(super) fn of<'u>(
        nodes: &'a NodeSet,
        used: impl Iterator<Item = &'u NodeId>,
        broker: impl Fn(&NodeId) -> Option<InstanceId>,
    ) -> Self {
        let mut places = Self { addresses: HashMap::new(), brokers: HashMap::new() };
        for node in used.filter_map(|id| nodes.get(id)) {
            places.add(node, broker(node.id()));
        }
        places
    }

    /// One more is in use.
    pub(super) fn add(&mut self, node: &'a NodeInfo, broker: Option<InstanceId>) {
        self.addresses.extend(node.addresses().iter().map(|at| (at, node.id())));
        self.brokers.extend(broker.map(|broker| (broker, node.id())));
    }

    /// The node in use, other than this one, that has one of its addresses, or is the broker that this one
    /// is connected to.
    pub(super) fn same(
        &self,
        node: &NodeInfo,
        broker: impl FnOnce() -> Option<InstanceId>,
    ) -> Option<&'a NodeId> {
        let owners = node.addresses().iter().filter_map(|address| self.addresses.get(address));
        let mut others = owners.filter(|id| **id != node.id());
        let same = others.next().or_else(|| self.brokers.get(&broker()?));
        same.copied().filter(|id| *id != node.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    const X: InstanceId = InstanceId([1; 16]);
    const Y: InstanceId = InstanceId([2; 16]);

    fn node(name: &str) -> NodeInfo {
        NodeInfo::new(id(name), [format!("tcp://{name}:1").parse().unwrap()]).unwrap()
    }

    #[test]
    fn a_node_that_is_connected_to_a_broker_in_use_is_the_same() {
        let nodes: NodeSet = [node("a"), node("b"), node("c")].into_iter().collect();
        let used = [id("a")];
        let places = Places::of(&nodes, used.iter(), |_| Some(X));
        assert_eq!(places.same(&node("b"), || Some(X)), Some(&id("a")));
        assert_eq!(places.same(&node("b"), || Some(Y)), None);
        assert_eq!(places.same(&node("c"), || None), None, "nobody knows yet");
        assert_eq!(places.same(&node("a"), || Some(X)), None, "that is itself");
    }

    #[test]
    fn only_a_producer_of_ours_at_the_same_broker_is_a_twin() {
        let mut twins = Twins::default();
        twins.opened(&id("a"), X);
        assert!(!twins.fenced(&id("a")), "that is another program");
        twins.opened(&id("b"), Y);
        assert!(!twins.fenced(&id("a")), "b is another broker");
        twins.opened(&id("c"), X);
        assert!(twins.fenced(&id("a")));
        assert_eq!(twins.of(&id("a")), Some(&id("c")));
        twins.retain(|_| true, |used| *used == id("b"));
        assert_eq!(twins.of(&id("a")), None, "c is not in use any more");
        assert!(!twins.fenced(&id("a")), "it was believed once");
    }

    #[test]
    fn one_that_comes_back_after_a_cut_is_fenced_by_the_twin_that_it_had_before() {
        let mut twins = Twins::default();
        twins.opened(&id("b"), X);
        twins.opened(&id("a"), X);
        twins.retain(|_| true, |_| true);
        assert!(twins.fenced(&id("a")), "b has it by a later epoch");
        assert!(!twins.fenced(&id("b")), "that is another program");
        twins.opened(&id("a"), X);
        twins.retain(|_| true, |used| *used == id("b"));
        twins.opened(&id("b"), X);
        assert!(!twins.fenced(&id("b")), "a is not in use");
    }
}
