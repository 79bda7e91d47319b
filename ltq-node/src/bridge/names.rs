//! What the nodes of a source are called in the headers of their messages: [`Names`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ltq_core::BrokerSettings;
use ltq_discovery::NodeId;
use parking_lot::Mutex;
use tracing::warn;

/// What the nodes of a source are called in [`ORIGIN_ID_HEADER`](super::ORIGIN_ID_HEADER): as they call
/// themselves, so that it is the same however a node was found. One that says no name of its own, or the same
/// as another one, is called as it was found.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    by_node: BTreeMap<NodeId, NodeId>,
    /// Who calls itself so.
    by_name: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Names {
    /// What a node that was found so is to be called; `told` is what it says when it is connected to, and
    /// `None` while it is not: then it is what was told before.
    #[must_use]
    pub fn of(&self, found: &NodeId, told: Option<&str>) -> NodeId {
        let mut names = self.0.lock();
        if let Some(told) = told {
            names.note(found, own_name(told));
        }
        let name = names.by_node.get(found);
        let is_its_own = |name: &&NodeId| names.by_name.get(name).is_some_and(|it| it.len() == 1);
        name.filter(is_its_own).unwrap_or(found).clone()
    }

    /// Forgets what a node that is gone said.
    pub(super) fn forget(&self, found: &NodeId) {
        self.0.lock().note(found, None);
    }
}

impl Told {
    fn note(&mut self, found: &NodeId, name: Option<NodeId>) {
        if self.by_node.get(found) == name.as_ref() {
            return;
        }
        if let Some(before) = self.by_node.remove(found)
            && let Some(nodes) = self.by_name.get_mut(&before)
        {
            nodes.remove(found);
            if nodes.is_empty() {
                self.by_name.remove(&before);
            }
        }
        let Some(name) = name else { return };
        let nodes = self.by_name.entry(name.clone()).or_default();
        nodes.insert(found.clone());
        if nodes.len() == 2 {
            warn!(%name, ?nodes, "nodes of the source have the same name; ids have their addresses instead");
        }
        self.by_node.insert(found.clone(), name);
    }
}

/// The name of a node that says this of itself, if it has one of its own: to registries a node without one is
/// known by its first address, too.
fn own_name(told: &str) -> Option<NodeId> {
    match told == BrokerSettings::default().node {
        true => None,
        false => NodeId::new(told).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_is_called_the_same_however_it_was_found() {
        let (by_list, by_registry) = (Names::default(), Names::default());
        let (address, name) = (id("tcp://a:1"), id("east-1"));
        assert_eq!(by_list.of(&address, None), address, "it has said nothing yet");
        assert_eq!(by_list.of(&address, Some("east-1")), name);
        assert_eq!(by_registry.of(&name, Some("east-1")), name);
        assert_eq!(by_list.of(&address, None), name, "its connection is lost");
        // It has none of its own, and registries know it by its address.
        assert_eq!(by_list.of(&id("tcp://b:1"), Some("ltq")), id("tcp://b:1"));
        assert_eq!(by_list.of(&id("tcp://c:1"), Some("no name")), id("tcp://c:1"));
        by_list.forget(&address);
        assert_eq!(by_list.of(&address, None), address);
    }

    #[test]
    fn two_nodes_of_one_name_are_told_apart() {
        let names = Names::default();
        let (a, b) = (id("tcp://a:1"), id("tcp://b:1"));
        assert_eq!(names.of(&a, Some("same")), id("same"));
        assert_eq!(names.of(&b, Some("same")), b);
        assert_eq!(names.of(&a, Some("same")), a);
        assert_eq!(names.of(&b, Some("other")), id("other"));
        assert_eq!(names.of(&a, None), id("same"));
    }
}
