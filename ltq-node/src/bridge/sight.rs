//! What is seen of both sides: [`Sight`] of the nodes that messages come from, [`Reach`] of those that they go to.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ltq_client::{Cluster, ConnectionState};
use ltq_core::TopicName;
use ltq_discovery::{NodeId, NodeInfo, NodeSet};
use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::warn;

/// What is seen of the source.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Nodes that are known; `None` before anything is.
    nodes: Mutex<Option<BTreeMap<NodeId, Seen>>>,
    /// Times that a topic was not forwarded for want of a place.
    without_place: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    trouble: Option<String>,
    left_out: LeftOut,
}

/// Topics that are not forwarded, there being no place for more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) count: usize,
    /// One of them.
    pub(super) one: Option<TopicName>,
}

impl LeftOut {
    pub(super) fn add(&mut self, topic: &TopicName) {
        self.count += 1;
        self.one.get_or_insert_with(|| topic.clone());
    }
}

impl Sight {
    /// The nodes, each with what is the matter with it; `None` before it is known which there are.
    pub(super) fn nodes(&self) -> Option<BTreeMap<NodeId, Option<String>>> {
        let nodes = self.nodes.lock();
        let trouble = |(id, seen): (&NodeId, &Seen)| (id.clone(), seen.trouble.clone());
        nodes.as_ref().map(|nodes| nodes.iter().map(trouble).collect())
    }

    /// The topics that are not forwarded for want of a place.
    pub(super) fn left_out(&self) -> LeftOut {
        let nodes = self.nodes.lock();
        nodes.iter().flat_map(BTreeMap::values).fold(LeftOut::default(), |mut all, seen| {
            all.count += seen.left_out.count;
            all.one = all.one.or_else(|| seen.left_out.one.clone());
            all
        })
    }

    /// Times that a topic was not forwarded for want of a place.
    pub(super) fn times_left_out(&self) -> u64 {
        self.without_place.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, nodes: &NodeSet) {
        let mut known = self.nodes.lock();
        let mut before = known.take().unwrap_or_default();
        let with =
            |node: &NodeInfo| (node.id().clone(), before.remove(node.id()).unwrap_or_default());
        let now = nodes.iter().map(with).collect();
        *known = Some(now);
    }

    pub(super) fn note(&self, node: &NodeId, trouble: Option<String>) {
        self.change(node, |seen| seen.trouble = trouble);
    }

    /// So many topics of a node have no place at present.
    pub(super) fn leave_out(&self, node: &NodeId, left_out: LeftOut) {
        let more = left_out.count as u64;
        let before = self.without_place.fetch_add(more, Ordering::Relaxed);
        if before == 0
            && let Some(topic) = &left_out.one
        {
            warn!(%node, %topic, "not forwarded: as many topics as limits.topics_max allows");
        }
        self.change(node, |seen| seen.left_out = left_out);
    }

    fn change(&self, node: &NodeId, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.nodes.lock().as_mut().and_then(|nodes| nodes.get_mut(node)) {
            change(seen);
        }
    }
}

/// Whether the nodes of the destination can be reached.
#[derive(Debug)]
pub(super) struct Reach {
    /// Each node with what is the matter with it.
    pub(super) nodes: BTreeMap<NodeId, Option<String>>,
}

impl Reach {
    pub(super) fn of(destination: &Cluster) -> Self {
        let trouble = |state: Option<ConnectionState>| match state {
            Some(state) if state.is_connected() => None,
            Some(ConnectionState::Disconnected { error, .. }) => Some(error.to_string()),
            Some(_) => Some("not connected yet".to_owned()),
            None => Some("no connection to it was tried".to_owned()),
        };
        let nodes = destination.state().into_iter();
        Self { nodes: nodes.map(|it| (it.node.id().clone(), trouble(it.connection))).collect() }
    }

    /// How many are connected.
    pub(super) fn connected(&self) -> usize {
        self.nodes.values().filter(|trouble| trouble.is_none()).count()
    }

    /// Why nothing can go there, if nothing can.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.connected() > 0 {
            return None;
        }
        Some(match self.nodes.iter().find_map(|(node, why)| Some((node, why.as_ref()?))) {
            None => "no node of the destination is known".to_owned(),
            Some((node, why)) if self.nodes.len() == 1 => {
                format!("node {node} of the destination: {why}")
            }
            Some((node, why)) => {
                let count = self.nodes.len();
                format!("none of {count} nodes of the destination is connected; {node}: {why}")
            }
        })
    }
}

/// Has a connection to each node of the destination kept, so that it is seen whether they can be reached before
/// there is anything to bring there. For ever; cancel safe.
pub(super) async fn keep_connected(destination: &Cluster, refresh: Duration) {
    loop {
        let nodes = destination.nodes();
        for node in nodes.iter() {
            // What is the matter with it is shown by its state.
            let _connecting = destination.admin(node.id());
        }
        sleep(if nodes.is_empty() { refresh.min(FIRST_LOOK) } else { refresh }).await;
    }
}

/// How soon it is looked again for nodes while there are none.
const FIRST_LOOK: Duration = Duration::from_millis(200);
