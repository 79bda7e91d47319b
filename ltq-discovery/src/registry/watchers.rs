//! Who is to be told of which nodes.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use ltq_core::TopicName;

use crate::{Epoch, Interest, NodeId, NodeInfo, Topics, withdrawals::Withdrawals};

/// Somebody who watches: whatever number tells him from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// What a watcher is told, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// All that was told before counts no more: what follows, up to [`Complete`](Self::Complete), is
    /// all that there is.
    Anew,
    /// A node as it is now, with as much of it as is of interest.
    Node(Box<NodeInfo>),
    /// A node that is gone, or of no interest any more. It may never have been told of.
    Gone {
        /// Which one.
        id: NodeId,
        /// The run of it that was withdrawn, if one was and none came since. One that was not heard of for too
        /// long has none.
        withdrawn: Option<Epoch>,
    },
    /// The nodes are told that there were when the watching began, and those of interest that were withdrawn of late.
    Complete,
}

/// One who watches.
#[derive(Debug)]
struct Watcher {
    interest: Interest,
    /// Nodes that he has to be told of.
    owed: BTreeSet<NodeId>,
    /// How far what there was when he began has been told; `None` once all was.
    beginning: Option<Beginning>,
}

/// What there was when somebody began to watch. Nodes are told in their order, as they are by then, and behind them
/// those that were withdrawn: so it takes no more memory than two ids, whatever there is and however slowly it is
/// read.
#[derive(Debug, Default)]
struct Beginning {
    is_said: bool,
    /// The last node that was looked at.
    behind: Option<NodeId>,
    /// The same of those that were withdrawn.
    behind_withdrawn: Option<NodeId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    watchers: BTreeMap<WatcherId, Watcher>,
    of_topic: HashMap<TopicName, BTreeSet<WatcherId>>,
    of_nodes: BTreeSet<WatcherId>,
    of_mesh: HashMap<String, BTreeSet<WatcherId>>,
    of_everything: BTreeSet<WatcherId>,
    /// Those who are owed something and were not named since.
    ready: BTreeSet<WatcherId>,
}

impl Watchers {
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    pub(super) fn has(&self, id: WatcherId) -> bool {
        self.watchers.contains_key(&id)
    }

    /// One begins.
    pub(super) fn add(&mut self, id: WatcherId, interest: Interest) {
        self.remove(id);
        match &interest {
            Interest::Nodes => self.of_nodes.insert(id),
            Interest::Topic(topic) => self.of_topic.entry(topic.clone()).or_default().insert(id),
            Interest::Everything => self.of_everything.insert(id),
            Interest::Mesh(mesh) => self.of_mesh.entry(mesh.clone()).or_default().insert(id),
        };
        let beginning = Some(Beginning::default());
        self.watchers.insert(id, Watcher { interest, owed: BTreeSet::new(), beginning });
        self.ready.insert(id);
    }

    pub(super) fn remove(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        self.ready.remove(&id);
        self.of_nodes.remove(&id);
        self.of_everything.remove(&id);
        match watcher.interest {
            Interest::Topic(topic) => take_out(&mut self.of_topic, &topic, id),
            Interest::Mesh(mesh) => take_out(&mut self.of_mesh, &mesh, id),
            Interest::Nodes | Interest::Everything => {}
        }
    }

    /// A node is not what it was, beside its topics: for those who watch all nodes, or the programs of its mesh.
    /// Returns how many those are, as the others below do.
    pub(super) fn changed(&mut self, node: &NodeId) -> usize {
        let those = match node.program() {
            None => Some(&self.of_nodes),
            Some((mesh, _)) => self.of_mesh.get(mesh),
        };
        let those = those.into_iter().flatten().chain(&self.of_everything);
        owe(&mut self.watchers, &mut self.ready, those, node)
    }

    /// It has other topics or channels: for those who watch everything.
    pub(super) fn changed_in_topics(&mut self, node: &NodeId) -> usize {
        owe(&mut self.watchers, &mut self.ready, &self.of_everything, node)
    }

    /// The same for those who watch this topic.
    pub(super) fn changed_in(&mut self, node: &NodeId, topic: &TopicName) -> usize {
        let those = self.of_topic.get(topic).into_iter().flatten();
        owe(&mut self.watchers, &mut self.ready, those, node)
    }

    /// The same for those who watch any topic. A program of a mesh has none.
    pub(super) fn changed_in_any(&mut self, node: &NodeId) -> usize {
        if node.program().is_some() {
            return 0;
        }
        let those = self.of_topic.values().flatten();
        owe(&mut self.watchers, &mut self.ready, those, node)
    }

    /// Whether somebody watches this topic.
    pub(super) fn is_watched(&self, topic: &TopicName) -> bool {
        self.of_topic.contains_key(topic)
    }

    /// Those of these topics that somebody watches.
    pub(super) fn watched_of(&self, topics: &Topics) -> BTreeSet<TopicName> {
        match self.of_topic.len() < topics.len() {
            true => self.of_topic.keys().filter(|it| topics.contains_key(it)).cloned().collect(),
            false => topics.keys().filter(|it| self.is_watched(it)).cloned().collect(),
        }
    }

    /// How many names are looked up to find who watches a topic of a node that has so many.
    pub(super) fn looks(&self, topics: usize) -> usize {
        self.of_topic.len().min(topics)
    }

    /// Those who have to be told something, each once until he has been told all.
    pub(super) fn take_ready(&mut self) -> BTreeSet<WatcherId> {
        std::mem::take(&mut self.ready)
    }

    /// Whether there is something that he has to be told.
    pub(super) fn is_owed(&self, id: WatcherId) -> bool {
        let watcher = self.watchers.get(&id);
        watcher.is_some_and(|watcher| watcher.beginning.is_some() || !watcher.owed.is_empty())
    }

    /// What a watcher is to be told next: so many nodes at most. `nodes` says what a node is, and `behind` which
    /// there are behind one, in their order; `withdrawn`, which are withdrawn.
    pub(super) fn tell<'n, I: Iterator<Item = &'n NodeInfo>>(
        &mut self,
        id: WatcherId,
        most: usize,
        nodes: impl Fn(&NodeId) -> Option<&'n NodeInfo>,
        behind: impl FnOnce(Option<&NodeId>) -> I,
        withdrawn: &Withdrawals,
    ) -> Vec<Told> {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Vec::new() };
        let mut told = Vec::new();
        if let Some(beginning) = &mut watcher.beginning {
            if !std::mem::replace(&mut beginning.is_said, true) {
                told.push(Told::Anew);
            }
            let mut left = most;
            for node in behind(beginning.behind.clone().as_ref()) {
                if left == 0 {
                    return told;
                }
                // As it is now: what changed of it since is told with it.
                watcher.owed.remove(node.id());
                if let Some(node) = watcher.interest.view(node) {
                    told.push(Told::Node(Box::new(node)));
                    left -= 1;
                }
                beginning.behind = Some(node.id().clone());
            }
            for (id, epoch) in withdrawn.behind(beginning.behind_withdrawn.clone().as_ref()) {
                if left == 0 {
                    return told;
                }
                if watcher.interest.is_of_withdrawn(id) {
                    told.push(Told::Gone { id: id.clone(), withdrawn: Some(epoch) });
                    left -= 1;
                }
                beginning.behind_withdrawn = Some(id.clone());
            }
            told.push(Told::Complete);
            watcher.beginning = None;
        }
        let tell = |id: NodeId| match nodes(&id).and_then(|node| watcher.interest.view(node)) {
            Some(node) => Told::Node(Box::new(node)),
            None => Told::Gone { withdrawn: withdrawn.epoch(&id), id },
        };
        for _ in 0..most {
            let Some(node) = watcher.owed.pop_first() else { break };
            told.push(tell(node));
        }
        told
    }
}

/// One does not watch what has this name any more.
fn take_out<K: Borrow<Q> + Eq + Hash, Q: Eq + Hash + ?Sized>(
    those: &mut HashMap<K, BTreeSet<WatcherId>>,
    name: &Q,
    id: WatcherId,
) {
    if let Some(of) = those.get_mut(name) {
        of.remove(&id);
        if of.is_empty() {
            those.remove(name);
        }
    }
}

fn owe<'w>(
    watchers: &mut BTreeMap<WatcherId, Watcher>,
    ready: &mut BTreeSet<WatcherId>,
    those: impl IntoIterator<Item = &'w WatcherId>,
    node: &NodeId,
) -> usize {
    let mut count = 0;
    for id in those {
        if let Some(watcher) = watchers.get_mut(id) {
            watcher.owed.insert(node.clone());
            ready.insert(*id);
            count += 1;
        }
    }
    count
}
