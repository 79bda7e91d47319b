//! A discovery scheme in memory: what a test says is so.

use std::sync::Arc;

use async_trait::async_trait;
use ltq_client::{Discovery, NodeInfo, NodeSet};
use ltq_discovery::{Announced, DiscoveryError, Interest, Watch};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Board {
    nodes: Arc<watch::Sender<NodeSet>>,
}

impl Board {
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        Self { nodes: Arc::new(watch::Sender::new(nodes.into_iter().collect())) }
    }

    /// Adds a node, or puts it in the place of the one of its id.
    pub(crate) fn put(&self, node: &NodeInfo) {
        self.nodes.send_modify(|nodes| {
            let others = nodes.iter().filter(|other| other.id() != node.id()).cloned();
            *nodes = others.chain([node.clone()]).collect();
        });
    }

    pub(crate) fn remove(&self, id: &str) {
        self.nodes.send_modify(|nodes| {
            *nodes = nodes.iter().filter(|node| node.id().as_str() != id).cloned().collect();
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
        let mut nodes = self.nodes.subscribe();
        nodes.mark_changed();
        Ok(Box::new(Watching { nodes, interest: interest.clone() }))
    }
}

struct Watching {
    nodes: watch::Receiver<NodeSet>,
    interest: Interest,
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        if self.nodes.changed().await.is_err() {
            return std::future::pending().await;
        }
        let nodes = self.nodes.borrow_and_update();
        Ok(nodes.iter().filter_map(|node| self.interest.view(node)).collect())
    }
}
