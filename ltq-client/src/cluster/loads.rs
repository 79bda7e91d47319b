//! How much waits at each node, for whoever chooses among them. It changes again and again and decides nothing else,
//! so that nobody is told of it: who chooses reads it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ltq_discovery::{NodeId, NodeInfo, NodeSet};

/// That of one node, as it says: always the newest one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLoad(Arc<AtomicU32>);

impl SharedLoad {
    /// In KiB.
    pub(crate) fn get(&self) -> u64 {
        u64::from(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, node: &NodeInfo) {
        self.0.store(node.load().0, Ordering::Relaxed);
    }
}

/// Those of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads(Arc<BTreeMap<NodeId, SharedLoad>>);

impl Loads {
    /// That of a node; none where there is no such node.
    pub(crate) fn of(&self, id: &NodeId) -> SharedLoad {
        self.0.get(id).cloned().unwrap_or_default()
    }

    /// There are these nodes now. Who has the load of one that stays sees it change.
    pub(super) fn update(&mut self, nodes: &NodeSet) {
        let known = self.0.iter();
        if known.len() == nodes.len() && nodes.iter().map(NodeInfo::id).eq(self.0.keys()) {
            known.zip(nodes.iter()).for_each(|((_, load), node)| load.set(node));
            return;
        }
        let load = |node: &NodeInfo| {
            let load = self.of(node.id());
            load.set(node);
            (node.id().clone(), load)
        };
        self.0 = Arc::new(nodes.iter().map(load).collect());
    }
}

/// Whether these differ in nothing but loads.
pub(crate) fn same_but_for_loads(before: &NodeSet, after: &NodeSet) -> bool {
    let same = |(before, after): (&NodeInfo, &NodeInfo)| {
        before == after || before.clone().with_load(after.load()) == *after
    };
    before.len() == after.len() && before.iter().zip(after.iter()).all(same)
}

#[cfg(test)]
mod tests {
    use ltq_discovery::Load;

    use super::*;

    fn node(id: &str, load: u32) -> NodeInfo {
        let address = "tcp://n:1".parse().unwrap();
        NodeInfo::new(id.parse().unwrap(), [address]).unwrap().with_load(Load(load))
    }

    fn set(nodes: &[(&str, u32)]) -> NodeSet {
        nodes.iter().map(|(id, load)| node(id, *load)).collect()
    }

    #[test]
    fn who_has_the_load_of_a_node_sees_it_change_whoever_comes_and_goes() {
        let id = |id: &str| id.parse::<NodeId>().unwrap();
        let mut loads = Loads::default();
        loads.update(&set(&[("a", 1), ("b", 2)]));
        let (a, b) = (loads.of(&id("a")), loads.of(&id("b")));
        assert_eq!((a.get(), b.get(), loads.of(&id("c")).get()), (1, 2, 0));
        loads.update(&set(&[("a", 3), ("b", 4)]));
        assert_eq!((a.get(), b.get()), (3, 4));
        loads.update(&set(&[("b", 5), ("c", 6)]));
        assert_eq!((b.get(), loads.of(&id("c")).get()), (5, 6));
        loads.update(&set(&[("a", 8), ("b", 7)]));
        assert_eq!((loads.of(&id("a")).get(), b.get()), (8, 7));
    }

    #[test]
    fn what_differs_in_loads_alone_is_told_from_what_differs_in_more() {
        let before = set(&[("a", 1), ("b", 2)]);
        for (after, is_same) in [
            (before.clone(), true),
            (set(&[("a", 9), ("b", 8)]), true),
            (set(&[("a", 1)]), false),
            (set(&[("a", 1), ("c", 2)]), false),
            ([node("a", 1), node("b", 2).with_suspicion(true)].into_iter().collect(), false),
        ] {
            assert_eq!(same_but_for_loads(&before, &after), is_same, "{after:?}");
        }
    }
}
