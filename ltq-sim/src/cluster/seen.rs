//! What everybody who watches is told of the nodes, written down.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use ltq_discovery::{
    Announced, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, NodeState, Watch,
    registry::Registries,
};

use super::history::{Scene, Sight};
use crate::history::{History, What};

/// Registries, of whose words to one host all are written down.
pub(super) struct Seen {
    pub(super) registries: Registries,
    pub(super) host: String,
    pub(super) history: History,
    /// How many watches there were.
    pub(super) watches: Arc<AtomicU64>,
    /// Whether it never hears that a node is gone. That is a mistake, made to see that it is found.
    pub(super) misses_removals: bool,
}

#[async_trait]
impl Discovery for Seen {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.registries.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let inner = self.registries.watch(interest).await?;
        let number = self.watches.fetch_add(1, Relaxed);
        let (host, history) = (self.host.clone(), self.history.clone());
        let kept = self.misses_removals.then(NodeSet::default);
        Ok(Box::new(SeenWatch { inner, number, host, history, kept }))
    }

    fn tells_topics(&self) -> bool {
        self.registries.tells_topics()
    }
}

struct SeenWatch {
    inner: Box<dyn Watch>,
    number: u64,
    host: String,
    history: History,
    kept: Option<NodeSet>,
}

#[async_trait]
impl Watch for SeenWatch {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        let mut nodes = match self.inner.changed().await {
            Ok(nodes) => nodes,
            Err(error) => {
                self.history.note(&self.host, format!("watch {}: {error}", self.number));
                return Err(error);
            }
        };
        if let Some(kept) = &mut self.kept {
            nodes = kept.iter().chain(nodes.iter()).cloned().collect();
            *kept = nodes.clone();
        }
        let sight = |node: &NodeInfo| Sight {
            node: node.id().to_string(),
            is_ready: node.state() == NodeState::Ready,
            is_suspected: node.is_suspected(),
            host: node.addresses().first().map(|it| it.rest().to_owned()).unwrap_or_default(),
        };
        let seen = Scene::Sees { watch: self.number, nodes: nodes.iter().map(sight).collect() };
        self.history.add(&self.host, What::Cluster(seen));
        Ok(nodes)
    }
}

impl Drop for SeenWatch {
    fn drop(&mut self) {
        self.history.add(&self.host, What::Cluster(Scene::Blind { watch: self.number }));
    }
}
