//! Many nodes as one: [`Cluster`].
//!
//! Nodes share nothing and know nothing of each other. What is here stands on top of the client, one for
//! each node: [`Members`] says which nodes there are and has their clients, producers choose among them, and
//! consumers take from all.

mod builder;
mod choice;
mod consumer;
mod error;
mod following;
mod loads;
mod lost;
mod members;
mod order;
mod producer;

use std::{
    fmt,
    sync::{Arc, Weak},
};

use futures::future::join_all;
use ltq_core::{ChannelName, TopicName};
use ltq_discovery::{NodeId, NodeInfo, NodeSet};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use builder::ClusterBuilder;
pub use choice::Choice;
pub use consumer::{
    ClusterBatch, ClusterConsumeError, ClusterConsumer, ClusterConsumerBuilder,
    ClusterConsumerFigures, ClusterDelivery, ClusterLeaveError, ClusterReceived, ConsumedNode,
    SubscriptionState,
};
pub use error::{ClusterBatchError, ClusterError, ClusterPublishError, NodeNotUsed, NodesNotUsed};
pub(crate) use members::Members;
pub use order::{Availability, ordered_home};
pub(crate) use producer::{Behalf, Errand};
pub use producer::{
    ClusterBatchReceipt, ClusterFigures, ClusterPendingBatch, ClusterPendingReceipt,
    ClusterProducer, ClusterProducerBuilder, ClusterReceipt, Failover, ID_HEADER, NodeFigures,
};

use crate::{Admin, CloseError, ConnectionState, RequestError, admin::named, connection::deadline};
use producer::Shared;

/// The nodes that a discovery scheme tells of, as one place to publish to and to consume from.
///
/// Cheap to clone; clones share what is known of the nodes, and one connection to each node that is
/// used. It follows the discovery scheme for as long as there are handles; where that loses sight of
/// the nodes, what is known stays in use. A node is connected to when it is first used, at the first of
/// its addresses that answers and whose transport the client knows. A connection that nobody uses any more,
/// no producer, consumer or [`Admin`], ends after 30 to 60 s, and at once where its node is gone.
///
/// ```no_run
/// use ltq_client::{Client, Cluster, Message};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::builder()
///     .registry("tcp://10.0.0.9:7450")
///     .client(Client::builder().token("secret"))
///     .connect()
///     .await?;
/// let producer = cluster.producer("orders").await?;
/// let receipt = producer.send(Message::new("hello")).await?;
/// println!("stored on {}", receipt.node);
///
/// let mut consumer = cluster.consumer("orders", "billing").await?;
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     println!("{} bytes from {}", delivery.message.body.len(), delivery.node());
///     delivery.ack()?;
/// }
/// cluster.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    members: Arc<Members>,
    /// `None` once the cluster is closed.
    handles: Mutex<Option<Handles>>,
}

/// Those that are closed with the cluster.
#[derive(Default)]
struct Handles {
    producers: Vec<Weak<Shared>>,
    consumers: Vec<Weak<consumer::Shared>>,
}

/// What is known of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeStatus {
    /// What the discovery scheme tells of it.
    pub node: NodeInfo,
    /// What the connection to it is doing; `None` for a node that is not used.
    pub connection: Option<ConnectionState>,
}

impl Cluster {
    /// Sets a cluster up.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    pub(crate) fn new(members: Arc<Members>) -> Self {
        Self { inner: Arc::new(Inner { members, handles: Mutex::new(Some(Handles::default())) }) }
    }

    pub(crate) fn members(&self) -> &Arc<Members> {
        &self.inner.members
    }

    /// A producer that is to be closed with the cluster.
    fn register(&self, producer: &Arc<Shared>) -> Result<(), ClusterError> {
        let mut handles = self.inner.handles.lock();
        let Some(Handles { producers, .. }) = &mut *handles else {
            return Err(ClusterError::Closed);
        };
        producers.retain(|one| one.strong_count() > 0);
        producers.push(Arc::downgrade(producer));
        Ok(())
    }

    /// A consumer that is to be closed with the cluster.
    fn register_consumer(&self, consumer: &Arc<consumer::Shared>) -> Result<(), ClusterError> {
        let mut handles = self.inner.handles.lock();
        let Some(Handles { consumers, .. }) = &mut *handles else {
            return Err(ClusterError::Closed);
        };
        consumers.retain(|one| one.strong_count() > 0);
        consumers.push(Arc::downgrade(consumer));
        Ok(())
    }

    /// Opens a producer for a topic, with everything else at its default.
    ///
    /// # Cancellation
    /// As for [`ClusterProducerBuilder::open`].
    ///
    /// # Errors
    /// As for [`ClusterProducerBuilder::open`].
    pub async fn producer<N>(&self, topic: N) -> Result<ClusterProducer, ClusterError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        self.producer_builder(topic).open().await
    }

    /// Sets a producer up. A name that is none is an error of
    /// [`open`](ClusterProducerBuilder::open).
    pub fn producer_builder<N>(&self, topic: N) -> ClusterProducerBuilder
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        ClusterProducerBuilder::new(self.clone(), named(topic))
    }

    /// Subscribes to a channel of a topic at all nodes that have it, with everything else at its default.
    ///
    /// # Cancellation
    /// As for [`ClusterConsumerBuilder::open`].
    ///
    /// # Errors
    /// As for [`ClusterConsumerBuilder::open`].
    pub async fn consumer<N, C>(
        &self,
        topic: N,
        channel: C,
    ) -> Result<ClusterConsumer, ClusterError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        self.consumer_builder(topic, channel).open().await
    }

    /// Sets a consumer up. A name that is none is an error of
    /// [`open`](ClusterConsumerBuilder::open).
    pub fn consumer_builder<N, C>(&self, topic: N, channel: C) -> ClusterConsumerBuilder
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        ClusterConsumerBuilder::new(self.clone(), named(topic), named(channel))
    }

    /// Waits no longer for a node that crashed and was forgotten ([`lost`](Self::lost) names them): ordered producers of this cluster with
    /// [`Availability::Fail`] move its keys, and say so as of any move. For a node that will not come back, whose
    /// data are lost or were consumed otherwise. Returns whether it was waited for; a node that is known, or
    /// that nobody was told of, is not.
    pub fn give_up(&self, node: &NodeId) -> bool {
        self.inner.members.give_up(node)
    }

    /// The nodes that ordered producers of this cluster with [`Availability::Fail`] wait for though nobody tells of
    /// them any more: they served, and went without a word, as far as is known. Each is waited for until it is back, or
    /// a node in its place under its id, or it is [given up](Self::give_up). In the order of their ids, the newest 4,096.
    #[must_use]
    pub fn lost(&self) -> Vec<NodeId> {
        self.inner.members.lost().into_iter().collect()
    }

    /// The nodes, as the discovery scheme told last.
    #[must_use]
    pub fn nodes(&self) -> NodeSet {
        self.inner.members.nodes()
    }

    /// What is known of each node, in the order of their ids.
    #[must_use]
    pub fn state(&self) -> Vec<NodeStatus> {
        self.inner.members.statuses()
    }

    /// An operator's requests to one node, which is connected to for that if it is not used.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`], [`ClusterError::Closed`].
    pub fn admin(&self, node: &NodeId) -> Result<Admin, ClusterError> {
        match self.inner.members.client(node) {
            Some(client) => Ok(client.admin()),
            None if self.inner.members.is_closed() => Err(ClusterError::Closed),
            None => Err(ClusterError::NoSuchNode(node.clone())),
        }
    }

    /// Says another token to every node from now on, or none; see
    /// [`Client::set_token`](crate::Client::set_token).
    pub fn set_token(&self, token: Option<String>) {
        self.inner.members.set_token(token);
    }

    /// Closes the cluster with all its clones, producers and consumers: waits until everything that was
    /// enqueued is answered, sends the last settlements, gives back what is unsettled, and ends the
    /// connections. Calls made meanwhile or later fail as closed.
    ///
    /// # Cancellation
    /// Once polled it takes nothing more; dropped before its end, the connections go when nobody uses
    /// them any more.
    ///
    /// # Errors
    /// [`CloseError`] when not everything was answered and every connection ended within the request
    /// timeout, which is one for all of it; the cluster is closed all the same. Its `publishes` counts messages.
    pub async fn close(self) -> Result<(), CloseError> {
        let after = self.inner.members.template().get_request_timeout();
        let by = deadline(Instant::now(), after);
        let handles = self.inner.handles.lock().take().unwrap_or_default();
        let Handles { producers, consumers } = handles;
        // Their connections say when they are at their end.
        consumers.iter().filter_map(Weak::upgrade).for_each(|consumer| consumer.close());
        let producers: Vec<_> = producers.iter().filter_map(Weak::upgrade).collect();
        producers.iter().for_each(|producer| producer.close());
        let unanswered = join_all(producers.iter().map(|producer| producer.closed_by(by))).await;
        let mut publishes: usize = unanswered.into_iter().sum();
        let mut subscriptions = 0;
        let mut is_clean = publishes == 0;
        let clients = self.inner.members.close();
        for result in join_all(clients.into_iter().map(|client| client.close_by(by))).await {
            if let Err(error) = result {
                is_clean = false;
                publishes += error.publishes;
                subscriptions += error.subscriptions;
            }
        }
        if is_clean { Ok(()) } else { Err(CloseError { publishes, subscriptions, after }) }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("members", &self.inner.members).finish_non_exhaustive()
    }
}
