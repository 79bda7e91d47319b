//! One run of one case: its nodes, its deadlines and how it stops.

use std::{collections::BTreeSet, sync::Arc};

pub(super) use ltq_core::conformance::{CaseResult, ensure, fail, poll_once, skip, worked};
use ltq_core::{ChannelName, TopicName};
use tokio::time::timeout;

use super::{Backend, Harness};
use crate::{
    Announced, Announcement, DiscoveryError, Epoch, Interest, NodeId, NodeInfo, NodeSet, Topics,
    Watch,
};

pub(super) struct Trial {
    pub(super) harness: Harness,
}

impl Trial {
    pub(super) const fn new(harness: Harness) -> Self {
        Self { harness }
    }

    /// Fails the case when this takes too long.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = T>,
    ) -> CaseResult<T> {
        let patience = self.harness.patience;
        match timeout(patience, future).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => fail(format!("{what} took more than {patience:?}")),
        }
    }

    /// A topic's name, if the scheme knows of topics.
    pub(super) fn topic(&self, name: &str) -> CaseResult<TopicName> {
        if !self.harness.tells_topics {
            return skip("the harness says that topics are not told");
        }
        worked("making a name", TopicName::new(name))
    }

    pub(super) fn backend(&self) -> CaseResult<Arc<dyn Backend>> {
        match self.harness.backend.clone() {
            Some(backend) => Ok(backend),
            None => skip("the harness has no backend that can be taken away"),
        }
    }

    /// A node of the first epoch, with these topics.
    pub(super) fn node(id: &str, topics: &[&str]) -> CaseResult<NodeInfo> {
        Self::run_of_node(1, id, topics)
    }

    /// The so-manieth run of a node.
    pub(super) fn run_of_node(run: u64, id: &str, topics: &[&str]) -> CaseResult<NodeInfo> {
        let channels = worked("making a name", ChannelName::new("c"))?;
        let mut by_name = Topics::new();
        for topic in topics {
            let name = worked("making a name", TopicName::new(topic))?;
            by_name.insert(name, BTreeSet::from([channels.clone()]));
        }
        Ok(Self::bare_node(run, id)?.with_topics(by_name))
    }

    /// A node that says nothing of topics.
    pub(super) fn bare_node(run: u64, id: &str) -> CaseResult<NodeInfo> {
        let id_of = worked("making an id", id.parse())?;
        let address = worked("making an address", format!("tcp://{id}.invalid:7440").parse())?;
        let node = worked("describing a node", NodeInfo::new(id_of, [address]))?;
        Ok(node.with_epoch(Epoch { started: run, instance: 7 }))
    }

    /// A program of a mesh.
    pub(super) fn program(mesh: &str, name: &str) -> CaseResult<NodeInfo> {
        let id = worked("making an id", NodeId::of_program(mesh, name))?;
        let address = format!("tcp://{name}.{mesh}.invalid:7440").parse();
        let node = NodeInfo::new(id, [worked("making an address", address)?]);
        Ok(worked("describing a program", node)?.with_epoch(Epoch { started: 1, instance: 7 }))
    }

    /// Announces a node, or skips the case where that is not taken.
    pub(super) async fn announce(&self, node: NodeInfo) -> CaseResult<Box<dyn Announcement>> {
        let announcing = self.within("announce", self.harness.discovery.announce(node)).await?;
        match worked("announcing", announcing)? {
            Announced::Known(announcement) => Ok(announcement),
            Announced::NotTaken(why) => skip(format!("announcements are not taken: {why}")),
        }
    }

    pub(super) async fn watch(&self, interest: &Interest) -> CaseResult<Box<dyn Watch>> {
        let watching = self.within("watch", self.harness.discovery.watch(interest)).await?;
        worked("watching", watching)
    }

    /// Waits until a watch gives a set that is as wanted; a loss of sight on the way is no end.
    pub(super) async fn until(
        &self,
        what: &str,
        watch: &mut Box<dyn Watch>,
        wanted: impl Fn(&NodeSet) -> bool,
    ) -> CaseResult<NodeSet> {
        let mut last = None;
        let waiting = async {
            loop {
                // One that always has something to say must not keep the deadline from passing.
                tokio::task::yield_now().await;
                match watch.changed().await {
                    Ok(nodes) if wanted(&nodes) => return nodes,
                    Ok(nodes) => last = Some(Ok(nodes)),
                    Err(error) => last = Some(Err(error)),
                }
            }
        };
        match timeout(self.harness.patience, waiting).await {
            Ok(nodes) => Ok(nodes),
            Err(_) => fail(format!("it was not told that {what}; the last was {last:?}")),
        }
    }

    /// The set that a new watch gives first.
    pub(super) async fn first(&self, watch: &mut Box<dyn Watch>) -> CaseResult<NodeSet> {
        worked("the first call", self.within("the first call", watch.changed()).await?)
    }
}

/// The ids of a set.
pub(super) fn ids(nodes: &NodeSet) -> Vec<&str> {
    nodes.iter().map(|node| node.id().as_str()).collect()
}

/// Whether a node is told of, and how.
pub(super) fn has(nodes: &NodeSet, id: &str, is: impl Fn(&NodeInfo) -> bool) -> bool {
    nodes.iter().any(|node| node.id().as_str() == id && is(node))
}

/// That an update may not have been told yet is no failure of it.
pub(super) fn told_or_later(result: Result<(), DiscoveryError>) -> CaseResult {
    match result {
        Err(DiscoveryError::Refused { backend, why }) => fail(format!("{backend} refused: {why}")),
        Ok(()) | Err(_) => Ok(()),
    }
}
