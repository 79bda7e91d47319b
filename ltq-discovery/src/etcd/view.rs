//! What is known of the keys below a prefix, and which nodes that makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ltq_core::TopicName;
use thiserror::Error;

use super::{
    keys::{Keys, Part, Place},
    value::{self, Topics, ValueError},
};
use crate::{
    Epoch, Interest, NodeId, NodeInfo, NodeSet,
    withdrawals::{WITHDRAWALS_HEARD_MAX, Withdrawals},
};

/// As much of a prefix as somebody who watches is to know.
pub(super) struct View {
    keys: Keys,
    interest: Interest,
    bounds: Bounds,
    known: BTreeMap<NodeId, Known>,
    /// Runs of nodes that said themselves that they are no more, and are so even where their keys are there still.
    withdrawn: Arc<Withdrawals>,
    /// Of all values that are kept.
    bytes: usize,
    /// The nodes that are of interest, as they were before those changed whose ids are below: what a change of
    /// one costs does not grow with what others have.
    made: BTreeMap<NodeId, NodeInfo>,
    changed: BTreeSet<NodeId>,
}

/// The most that is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) nodes_max: usize,
    pub(super) bytes_max: usize,
}

/// Why a key is left aside.
#[derive(Debug, Error)]
pub(super) enum Skipped {
    #[error("it is none of the keys that nodes stand under")]
    Key,
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("it names topics of another part")]
    Part,
    #[error("there are {0} nodes, which is the most")]
    Nodes(usize),
    #[error("what is known has {0} bytes, which is the most")]
    Bytes(usize),
}

/// What stands there of a node: of its newest run, and what others left or bring.
#[derive(Default)]
struct Known {
    node: Option<Kept<(i64, NodeInfo)>>,
    /// The lease of the run that is heard.
    heard: Option<i64>,
    topics: BTreeMap<(i64, Part), Kept<Topics>>,
}

struct Kept<T> {
    it: T,
    bytes: usize,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.node.is_none() && self.heard.is_none() && self.topics.is_empty()
    }

    /// The node, with what is known of its topics.
    fn node(&self) -> Option<NodeInfo> {
        let Kept { it: (lease, node), .. } = self.node.as_ref()?;
        let node = node.clone().with_suspicion(self.heard != Some(*lease));
        if node.topics().is_none() {
            return Some(node);
        }
        let of_run = self.topics.iter().filter(|((of, _), _)| of == lease);
        let topics = of_run.flat_map(|(_, kept)| kept.it.clone()).collect();
        Some(node.with_topics(topics))
    }
}

impl View {
    pub(super) fn new(keys: Keys, interest: Interest, bounds: Bounds) -> Self {
        Self {
            keys,
            interest,
            bounds,
            known: BTreeMap::new(),
            withdrawn: Arc::new(Withdrawals::new(WITHDRAWALS_HEARD_MAX)),
            bytes: 0,
            made: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// The ranges of keys that are of interest: what each of them begins with.
    pub(super) fn ranges(&self) -> Vec<String> {
        let nodes = self.keys.nodes();
        match &self.interest {
            Interest::Nodes | Interest::Mesh(_) => vec![nodes],
            Interest::Topic(topic) => vec![nodes, self.keys.all_topics(Some(Part::of(topic)))],
            Interest::Everything => vec![nodes, self.keys.all_topics(None)],
        }
    }

    /// What the keys begin with whose changes are of interest. Those of nodes and of topics are one watch,
    /// in which nothing overtakes.
    pub(super) fn watched(&self) -> String {
        match &self.interest {
            Interest::Nodes | Interest::Mesh(_) => self.keys.nodes(),
            Interest::Topic(_) | Interest::Everything => self.keys.all(),
        }
    }

    /// A key has this value now, and goes with this lease.
    ///
    /// # Errors
    /// It is left aside, and what was known under it stays.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Result<(), Skipped> {
        let place = self.keys.place(key).ok_or(Skipped::Key)?;
        let changed = match &place {
            Place::Node(id) | Place::Heard(id) | Place::Topics { node: id, .. } => id.clone(),
            Place::Withdrawn(id) => {
                let epoch = value::epoch(value).ok_or(Skipped::Key)?;
                Arc::make_mut(&mut self.withdrawn).insert(id.clone(), epoch, 0);
                self.changed.insert(id.clone());
                return Ok(());
            }
        };
        let nodes_max = self.bounds.nodes_max;
        if self.known.len() >= nodes_max && !self.known.contains_key(&changed) {
            return Err(Skipped::Nodes(nodes_max));
        }
        let bytes = key.len() + value.len();
        match place {
            Place::Node(id) => {
                let node = value::node(&id, value)?;
                self.fits(bytes)?;
                let known = self.known.entry(id).or_default();
                let before = known.node.replace(Kept { it: (lease, node), bytes });
                self.bytes = self.bytes + bytes - before.map_or(0, |before| before.bytes);
            }
            Place::Heard(id) => {
                let text = std::str::from_utf8(value).ok();
                let heard = text.and_then(super::keys::number).ok_or(Skipped::Key)?;
                self.known.entry(id).or_default().heard = Some(heard);
            }
            // It was looked at above.
            Place::Withdrawn(_) => {}
            Place::Topics { node, lease, part } => {
                let Some(topics) = self.of_interest(part, value)? else { return Ok(()) };
                self.fits(bytes)?;
                let known = self.known.entry(node).or_default();
                let before = known.topics.insert((lease, part), Kept { it: topics, bytes });
                self.bytes = self.bytes + bytes - before.map_or(0, |before| before.bytes);
            }
        }
        self.changed.insert(changed);
        Ok(())
    }

    /// As much of a part's topics as is of interest, if any can be.
    fn of_interest(&self, part: Part, value: &[u8]) -> Result<Option<Topics>, Skipped> {
        let only: Option<&TopicName> = match &self.interest {
            Interest::Nodes | Interest::Mesh(_) => return Ok(None),
            Interest::Topic(topic) if Part::of(topic) != part => return Ok(None),
            Interest::Topic(topic) => Some(topic),
            Interest::Everything => None,
        };
        let mut topics = value::topics(value)?;
        if topics.keys().any(|topic| Part::of(topic) != part) {
            return Err(Skipped::Part);
        }
        if let Some(only) = only {
            topics.retain(|topic, _| topic == only);
        }
        Ok(Some(topics))
    }

    const fn fits(&self, bytes: usize) -> Result<(), Skipped> {
        if self.bytes.saturating_add(bytes) > self.bounds.bytes_max {
            return Err(Skipped::Bytes(self.bounds.bytes_max));
        }
        Ok(())
    }

    /// A key is not there any more.
    pub(super) fn delete(&mut self, key: &[u8]) {
        let Some(place) = self.keys.place(key) else { return };
        let (Place::Node(id)
        | Place::Heard(id)
        | Place::Withdrawn(id)
        | Place::Topics { node: id, .. }) = &place;
        if let Place::Withdrawn(id) = &place {
            Arc::make_mut(&mut self.withdrawn).remove(id);
            self.changed.insert(id.clone());
            return;
        }
        let Some(known) = self.known.get_mut(id) else { return };
        let gone = match &place {
            Place::Node(_) => known.node.take().map_or(0, |kept| kept.bytes),
            Place::Heard(_) => {
                known.heard = None;
                0
            }
            Place::Withdrawn(_) => 0,
            Place::Topics { lease, part, .. } => {
                known.topics.remove(&(*lease, *part)).map_or(0, |kept| kept.bytes)
            }
        };
        self.bytes -= gone;
        self.changed.insert(id.clone());
        if known.is_empty() {
            self.known.remove(id);
        }
    }

    /// The nodes that are of interest.
    pub(super) fn nodes(&mut self) -> NodeSet {
        while let Some(id) = self.changed.pop_first() {
            let node = self.known.get(&id).and_then(Known::node);
            let node = node.filter(|node| !self.is_withdrawn(&id, node.epoch()));
            match node.and_then(|node| self.interest.view(&node)) {
                Some(node) => drop(self.made.insert(id, node)),
                None => drop(self.made.remove(&id)),
            }
        }
        let nodes: NodeSet = self.made.values().cloned().collect();
        nodes.with_withdrawals(Arc::clone(&self.withdrawn))
    }

    /// Whether this run of the node, or a later one, withdrew itself, and none came since.
    pub(super) fn is_withdrawn(&self, id: &NodeId, epoch: Epoch) -> bool {
        self.withdrawn.has(id, epoch)
    }

    /// Those that did.
    pub(super) fn withdrawn(&self) -> Arc<Withdrawals> {
        Arc::clone(&self.withdrawn)
    }

    /// Whether the node stands there.
    pub(super) fn has(&self, id: &NodeId) -> bool {
        self.known.get(id).is_some_and(|known| known.node.is_some())
    }

    /// Which node stands under a key, if it is one of a node.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<NodeId> {
        match self.keys.place(key)? {
            Place::Node(id) => Some(id),
            Place::Heard(_) | Place::Withdrawn(_) | Place::Topics { .. } => None,
        }
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
