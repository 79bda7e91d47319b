//! Consumers that are opened while nobody can be asked which nodes have their topic.

use std::sync::Arc;

use async_trait::async_trait;
use ltq_client::{
    Client, Cluster, ClusterConsumer, ClusterError, Discovery, NodeInfo, RefusalCode,
    SubscriptionState,
};
use ltq_discovery::{Announced, DiscoveryError, Interest, Watch};
use ltq_transport::Transports;
use tokio::sync::watch;

use super::{
    Field,
    consuming::{take, until, with_topics},
};
use crate::{board::Board, node::within};

/// A board of which nobody learns which nodes have a topic, until it is cleared.
#[derive(Clone)]
struct Veiled {
    board: Board,
    /// Whether it says that it tells of topics.
    tells_topics: bool,
    is_clear: Arc<watch::Sender<bool>>,
}

impl Veiled {
    fn new(board: &Board, tells_topics: bool) -> Self {
        let is_clear = Arc::new(watch::Sender::new(false));
        Self { board: board.clone(), tells_topics, is_clear }
    }

    fn clear(&self) {
        self.is_clear.send_replace(true);
    }
}

#[async_trait]
impl Discovery for Veiled {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.board.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        if matches!(interest, Interest::Topic(_)) && !*self.is_clear.borrow() {
            let (backend, source) = ("a test".to_owned(), "nobody answers".into());
            return Err(DiscoveryError::Unreachable { backend, source });
        }
        self.board.watch(interest).await
    }

    fn tells_topics(&self) -> bool {
        self.tells_topics
    }
}

async fn cluster(field: &Field, veiled: &Veiled) -> Cluster {
    let client = Client::builder().transports(Transports::new().with(field.net.clone()));
    let builder = Cluster::builder().discovery(veiled.clone()).client(client);
    within(builder.connect()).await.unwrap()
}

async fn opened(cluster: &Cluster) -> Result<ClusterConsumer, ClusterError> {
    within(cluster.consumer("orders", "billing")).await
}

/// Whether a node has said that it does not have the topic.
fn lacks(consumer: &ClusterConsumer, name: &str) -> bool {
    let figures = consumer.figures();
    let state = figures.nodes.get(&name.parse().unwrap()).map(|node| &node.state);
    matches!(state, Some(SubscriptionState::Refused(why)) if why.code == RefusalCode::NoSuchTopic)
}

#[tokio::test]
async fn while_nobody_can_be_asked_nodes_are_consumed_that_have_the_topic_and_it_is_made_on_none() {
    let field = Field::with(&["a", "b"]).await;
    field.publish("a", 0..5).await;
    let veiled = Veiled::new(&field.board, true);
    let cluster = cluster(&field, &veiled).await;
    let mut consumer = opened(&cluster).await.unwrap();
    take(&mut consumer, 5).await;
    until(async || lacks(&consumer, "b")).await;
    assert!(!field.has_topic("b").await);
    // It is asked again, as long as nobody else says so.
    field.publish("b", 0..5).await;
    take(&mut consumer, 5).await;
}

#[tokio::test]
async fn a_topic_that_no_node_has_is_waited_for_while_nobody_can_be_asked_and_goes_by_what_is_said_then()
 {
    let field = Field::with(&["a", "b"]).await;
    let veiled = Veiled::new(&field.board, true);
    let cluster = cluster(&field, &veiled).await;
    let mut consumer = opened(&cluster).await.unwrap();
    assert!(lacks(&consumer, "a") && lacks(&consumer, "b"));
    // The one is said to have it, and the other not.
    field.board.put(&with_topics("a", &[]));
    field.board.put(&with_topics("b", &["orders"]));
    veiled.clear();
    until(async || field.has_topic("b").await).await;
    field.publish("b", 0..5).await;
    take(&mut consumer, 5).await;
    let figures = consumer.figures();
    assert!(!figures.nodes.contains_key(&"a".parse().unwrap()), "{figures:?}");
    assert!(!field.has_topic("a").await);
}

#[tokio::test]
async fn where_topics_are_never_told_all_nodes_are_consumed_though_nobody_can_be_asked() {
    let field = Field::with(&["a", "b"]).await;
    let veiled = Veiled::new(&field.board, false);
    let cluster = cluster(&field, &veiled).await;
    let mut consumer = opened(&cluster).await.unwrap();
    until(async || field.has_topic("a").await && field.has_topic("b").await).await;
    field.publish("b", 0..5).await;
    take(&mut consumer, 5).await;
}
