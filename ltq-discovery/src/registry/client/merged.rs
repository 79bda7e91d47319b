//! What several registries tell, as one.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::{NodeId, NodeInfo, NodeSet};

/// What each registry told last.
#[derive(Debug)]
pub(super) struct Merged {
    views: Vec<View>,
}

#[derive(Debug, Default)]
struct View {
    nodes: BTreeMap<NodeId, NodeInfo>,
    /// It told all that there is, once at least.
    is_complete: bool,
    /// Since when it cannot be heard, and until when what it told counts beside others.
    lost: Option<Instant>,
}

impl Merged {
    pub(super) fn new(registries: usize) -> Self {
        Self { views: (0..registries).map(|_| View::default()).collect() }
    }

    /// A registry has told all that there is.
    pub(super) fn told(&mut self, registry: usize, nodes: BTreeMap<NodeId, NodeInfo>) {
        if let Some(view) = self.views.get_mut(registry) {
            *view = View { nodes, is_complete: true, lost: None };
        }
    }

    /// One of its nodes is different, or gone.
    pub(super) fn changed(&mut self, registry: usize, id: NodeId, node: Option<NodeInfo>) {
        let Some(view) = self.views.get_mut(registry) else { return };
        match node {
            Some(node) => drop(view.nodes.insert(id, node)),
            None => drop(view.nodes.remove(&id)),
        }
    }

    /// It cannot be heard any more; until then its nodes count beside what others tell.
    pub(super) fn lost(&mut self, registry: usize, until: Instant) {
        if let Some(view) = self.views.get_mut(registry)
            && view.lost.is_none()
        {
            view.lost = Some(until);
        }
    }

    /// Whether any registry has told all that it knows.
    pub(super) fn is_known(&self) -> bool {
        self.views.iter().any(|view| view.is_complete)
    }

    /// Whether any registry is heard.
    fn is_heard(&self) -> bool {
        self.views.iter().any(|view| view.is_complete && view.lost.is_none())
    }

    /// When what counts is another by time alone.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.is_heard() {
            return None;
        }
        self.views.iter().filter_map(|view| view.lost).filter(|until| *until > now).min()
    }

    /// All that counts: a node as the newest run of it is told of, and suspected when all who are heard
    /// suspect it. What a registry told that is not heard any more is suspected beside what others
    /// tell, and counts as it is while none is heard.
    pub(super) fn nodes(&self, now: Instant) -> NodeSet {
        let is_heard = self.is_heard();
        let mut all: BTreeMap<&NodeId, NodeInfo> = BTreeMap::new();
        for view in self.views.iter().filter(|view| view.is_complete) {
            let is_old = match view.lost {
                Some(until) if is_heard && until <= now => continue,
                lost => is_heard && lost.is_some(),
            };
            for (id, node) in &view.nodes {
                let node = node.clone().with_suspicion(node.is_suspected() || is_old);
                let better = |known: &NodeInfo| {
                    (!node.is_suspected(), node.epoch()) > (!known.is_suspected(), known.epoch())
                };
                if all.get(id).is_none_or(better) {
                    all.insert(id, node);
                }
            }
        }
        all.into_values().collect()
    }
}
