//! Nodes that are written down.

use std::{collections::BTreeSet, future::pending, str::FromStr};

use async_trait::async_trait;
use ltq_core::{Address, AddressError};
use thiserror::Error;

use crate::{
    Announced, Discovery, DiscoveryError, Interest, NodeId, NodeIdError, NodeInfo, NodeInfoError,
    NodeSet, Watch,
};

/// Why a list of nodes is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StaticListError {
    /// It names no node.
    #[error("the list of nodes is empty")]
    Empty,
    /// A text in it is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An address does not do for a node.
    #[error(transparent)]
    Node(#[from] NodeInfoError),
    /// An address does not do for a node's id.
    #[error(transparent)]
    Id(#[from] NodeIdError),
    /// An address or id is there twice, which would count one node as two.
    #[error("the list of nodes holds {0} twice")]
    Twice(String),
}

/// A fixed list of nodes: for one node, for a few that seldom change, and for tests.
///
/// A watch gives the list once and then waits for ever. Nothing is looked at: a node that is
/// down stays in the list, and connecting tells. Announcing does nothing and says so, by
/// [`Announced::NotTaken`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticList {
    nodes: NodeSet,
}

impl StaticList {
    /// One node at each address, whose id is the address, and which may have any topic.
    ///
    /// # Errors
    /// [`StaticListError`] for no address, a malformed one, or one that is there twice.
    pub fn of_addresses(
        addresses: impl IntoIterator<Item = Address>,
    ) -> Result<Self, StaticListError> {
        let nodes = addresses.into_iter().map(|address| {
            let id = NodeId::new(&address.to_string())?;
            Ok(NodeInfo::new(id, [address])?)
        });
        Self::of_nodes(nodes.collect::<Result<Vec<_>, StaticListError>>()?)
    }

    /// These nodes. Where their topics are known, only those of a topic are given to its watches.
    ///
    /// # Errors
    /// [`StaticListError::Empty`] without a node, [`StaticListError::Twice`] if an id or an
    /// address is there twice.
    pub fn of_nodes(nodes: impl IntoIterator<Item = NodeInfo>) -> Result<Self, StaticListError> {
        let nodes: Vec<_> = nodes.into_iter().collect();
        if nodes.is_empty() {
            return Err(StaticListError::Empty);
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for node in &nodes {
            if !ids.insert(node.id()) {
                return Err(StaticListError::Twice(node.id().to_string()));
            }
            for address in node.addresses() {
                if !addresses.insert((address.scheme(), address.rest())) {
                    return Err(StaticListError::Twice(address.to_string()));
                }
            }
        }
        Ok(Self { nodes: nodes.into_iter().collect() })
    }
}

impl FromStr for StaticList {
    type Err = StaticListError;

    /// Addresses between commas; white space around them does not count.
    fn from_str(text: &str) -> Result<Self, StaticListError> {
        let addresses = text.split(',').map(|address| address.trim().parse());
        match text.trim() {
            "" => Err(StaticListError::Empty),
            _ => Self::of_addresses(addresses.collect::<Result<Vec<_>, _>>()?),
        }
    }
}

#[async_trait]
impl Discovery for StaticList {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("clients have a fixed list of nodes"))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        Ok(Box::new(Once(Some(self.nodes.view(&interest.of_mere_addresses())))))
    }
}

struct Once(Option<NodeSet>);

#[async_trait]
impl Watch for Once {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        match self.0.take() {
            Some(nodes) => Ok(nodes),
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What a call gives without anything else happening.
    fn now<T>(future: impl Future<Output = T>) -> Poll<T> {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_watch_gives_the_list_once_and_is_quiet_then() {
        let list: StaticList = "tcp://b:1, a:1 ,in-process://broker".parse().unwrap();
        let (topic, mesh) = ("orders".parse().unwrap(), "shop".to_owned());
        for interest in [Interest::Nodes, Interest::Topic(topic), Interest::Mesh(mesh)] {
            let mut watch = list.watch(&interest).await.unwrap();
            // A call that was given up without being polled has used nothing up.
            drop(watch.changed());
            let ids: Vec<_> =
                watch.changed().await.unwrap().iter().map(|node| node.id().to_string()).collect();
            assert_eq!(ids, ["in-process://broker", "tcp://a:1", "tcp://b:1"]);
            assert!(now(watch.changed()).is_pending());
            assert!(now(watch.changed()).is_pending());
        }
    }

    #[tokio::test]
    async fn a_topic_has_its_nodes_where_they_are_known() {
        let node = |id: &str, topic: &str| {
            let address = Address::new("tcp", format!("{id}:1"));
            let topics = [(topic.parse().unwrap(), BTreeSet::new())].into();
            NodeInfo::new(id.parse().unwrap(), [address]).unwrap().with_topics(topics)
        };
        let list = StaticList::of_nodes([node("a", "orders"), node("b", "mail")]).unwrap();
        let mut watch = list.watch(&Interest::Topic("mail".parse().unwrap())).await.unwrap();
        assert_eq!(watch.changed().await.unwrap(), [node("b", "mail")].into_iter().collect());
    }

    #[tokio::test]
    async fn announcing_does_nothing_and_says_so() {
        let list: StaticList = "tcp://a:1".parse().unwrap();
        let node = NodeInfo::new("n".parse().unwrap(), ["tcp://n:1".parse().unwrap()]).unwrap();
        let announced = list.announce(node).await.unwrap();
        assert!(matches!(announced, Announced::NotTaken(why) if why.contains("fixed list")));
        assert_eq!(
            list.watch(&Interest::Everything).await.unwrap().changed().await.unwrap().len(),
            1
        );
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("tcp://a:1,", "\"\" is no address"),
            ("tcp://a:1, ://b", "\"://b\" is no address"),
            ("tcp://a:1, b:1, a:1", "holds tcp://a:1 twice"),
            ("tcp://a b:1", "is no address"),
        ] {
            let error = text.parse::<StaticList>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let malformed = StaticList::of_addresses([Address::new("tcp", "")]).unwrap_err();
        assert!(matches!(malformed, StaticListError::Node(_)), "{malformed}");
        let at =
            |id: &str| NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
        assert_eq!(StaticList::of_nodes([]), Err(StaticListError::Empty));
        assert_eq!(
            StaticList::of_nodes([at("x"), at("y")]),
            Err(StaticListError::Twice("tcp://a:1".to_owned()))
        );
        assert_eq!(
            StaticList::of_nodes([at("x"), at("x")]),
            Err(StaticListError::Twice("x".to_owned()))
        );
    }
}
