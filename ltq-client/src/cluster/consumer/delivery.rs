//! Deliveries that say which node they come from.

use std::{fmt, ops::Deref, time::Duration};

use ltq_discovery::NodeId;

use crate::{Batch, ConsumeError, Delivery, Received, SettleError, StaleError};

/// A message from one node of a cluster, and the duty to answer for it: a [`Delivery`] that knows its node.
/// Its offset is its place in that node's topic.
#[must_use = "dropping a delivery gives it back at once"]
pub struct ClusterDelivery {
    pub(super) node: NodeId,
    pub(super) delivery: Delivery,
}

impl ClusterDelivery {
    /// The node that it comes from, and to which its answer goes.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Done; see [`Delivery::ack`].
    ///
    /// # Errors
    /// [`StaleError`] when it is void already.
    pub fn ack(self) -> Result<(), StaleError> {
        self.delivery.ack()
    }

    /// Gives it back; see [`Delivery::requeue`].
    ///
    /// # Errors
    /// [`StaleError`] when it is void already.
    pub fn requeue(self, after: Duration) -> Result<(), StaleError> {
        self.delivery.requeue(after)
    }

    /// Acks and waits for the node's word; see [`Delivery::ack_confirmed`].
    ///
    /// # Cancellation
    /// Dropped after its first poll the ack is on its way all the same.
    ///
    /// # Errors
    /// As for [`Delivery::ack_confirmed`].
    pub async fn ack_confirmed(self) -> Result<(), SettleError> {
        self.delivery.ack_confirmed().await
    }

    /// Requeues and waits for the node's word; see [`Delivery::requeue_confirmed`].
    ///
    /// # Cancellation
    /// As for [`ack_confirmed`](Self::ack_confirmed).
    ///
    /// # Errors
    /// As for [`Delivery::requeue_confirmed`].
    pub async fn requeue_confirmed(self, after: Duration) -> Result<(), SettleError> {
        self.delivery.requeue_confirmed(after).await
    }

    /// The delivery alone, with the duty to answer for it: to take its message out of it, say.
    pub fn into_delivery(self) -> Delivery {
        self.delivery
    }
}

impl Deref for ClusterDelivery {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl fmt::Debug for ClusterDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterDelivery")
            .field("node", &self.node)
            .field("delivery", &self.delivery)
            .finish()
    }
}

/// A message of one node of a cluster and where it comes from: what a handler is given that
/// [`ClusterConsumer::for_each`](crate::ClusterConsumer::for_each) runs. A message is known by its node and offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterReceived {
    /// The node that it comes from.
    pub node: NodeId,
    /// What came. Its offset is its place in that node's topic.
    pub received: Received,
}

impl Deref for ClusterReceived {
    type Target = Received;

    fn deref(&self) -> &Received {
        &self.received
    }
}

/// Deliveries taken together from one node: a [`Batch`] that knows its node.
#[must_use = "dropping a batch gives it back at once"]
pub struct ClusterBatch {
    pub(super) node: NodeId,
    pub(super) batch: Batch,
}

impl ClusterBatch {
    /// The node that all of them come from.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Acks all of them; see [`Batch::ack_all`].
    ///
    /// # Errors
    /// [`StaleError`] when some were void already; the others are acked.
    pub fn ack_all(self) -> Result<(), StaleError> {
        self.batch.ack_all()
    }

    /// Gives all of them back; see [`Batch::requeue_all`].
    ///
    /// # Errors
    /// [`StaleError`] when some were void already; the others are given back.
    pub fn requeue_all(self, after: Duration) -> Result<(), StaleError> {
        self.batch.requeue_all(after)
    }

    /// Acks all of them and waits for the node's word; see [`Batch::ack_all_confirmed`].
    ///
    /// # Cancellation
    /// Those whose ack was not on its way yet are given back.
    ///
    /// # Errors
    /// The first [`SettleError`]; the others may be acked all the same.
    pub async fn ack_all_confirmed(self) -> Result<(), SettleError> {
        self.batch.ack_all_confirmed().await
    }

    /// The deliveries one by one; see [`Batch::into_deliveries`].
    pub fn into_deliveries(self) -> impl Iterator<Item = Result<ClusterDelivery, ConsumeError>> {
        let Self { node, batch } = self;
        batch.into_deliveries().map(move |delivery| {
            delivery.map(|delivery| ClusterDelivery { node: node.clone(), delivery })
        })
    }
}

impl Deref for ClusterBatch {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl fmt::Debug for ClusterBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBatch")
            .field("node", &self.node)
            .field("len", &self.batch.len())
            .finish_non_exhaustive()
    }
}
