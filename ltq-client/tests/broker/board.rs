//! A discovery scheme in memory: what a test says is so.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use ltq_client::{Discovery, NodeInfo, NodeSet};
use ltq_discovery::{Announced, DiscoveryError, Epoch, Interest, NodeId, Watch};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Board {
    said: Arc<watch::Sender<Said>>,
}

#[derive(Default)]
struct Said {
    nodes: BTreeMap<NodeId, NodeInfo>,
    withdrawn: BTreeMap<NodeId, Epoch>,
}

impl Board {
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.id().clone(), node)).collect();
        Self { said: Arc::new(watch::Sender::new(Said { nodes, ..Said::default() })) }
    }

    /// Adds a node, or puts it in the place of the one of its id.
    pub(crate) fn put(&self, node: &NodeInfo) {
        self.said.send_modify(|said| {
            said.withdrawn.remove(node.id());
            said.nodes.insert(node.id().clone(), node.clone());
        });
    }

    /// A node says that it is no more.
    pub(crate) fn withdraw(&self, id: &str) {
        self.gone(id, true);
    }

    /// A node is no more: it said so, or nothing was heard of it for too long.
    pub(crate) fn gone(&self, id: &str, said_so: bool) {
        self.said.send_modify(|said| {
            let node = said.nodes.remove(&id.parse().unwrap());
            let withdrawn = node.filter(|_| said_so).map(|node| (node.id().clone(), node.epoch()));
            said.withdrawn.extend(withdrawn);
        });
    }
}

/// A node of this id at an in-process address of the same name.
pub(crate) fn node(id: &str) -> NodeInfo {
    let address = format!("in-process://{id}").parse().unwrap();
    NodeInfo::new(id.parse().unwrap(), [address]).unwrap()
}

#[async_trait]
impl Discovery for Board {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("a test says which nodes there are"))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let mut said = self.said.subscribe();
        said.mark_changed();
        Ok(Box::new(Watching { said, interest: interest.clone() }))
    }
}

struct Watching {
    said: watch::Receiver<Said>,
    interest: Interest,
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        if self.said.changed().await.is_err() {
            return std::future::pending().await;
        }
        let said = self.said.borrow_and_update();
        let nodes = said.nodes.values().filter_map(|node| self.interest.view(node));
        Ok(nodes.collect::<NodeSet>().with_withdrawn(said.withdrawn.clone()))
    }
}
