//! What a cluster's producer gets for its messages.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use ltq_core::{Durability, TopicName};
use ltq_discovery::NodeId;
use tokio::sync::oneshot;

use super::errand::Answer;
use crate::{BatchReceipt, ClusterBatchError, ClusterPublishError, Receipt};

/// A node's word that one message is stored there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterReceipt {
    /// Where it is stored.
    pub node: NodeId,
    /// As what. The sequence is that of the producer's name on this node.
    pub receipt: Receipt,
}

/// The word of one or more nodes that the messages of one batch are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterBatchReceipt {
    pub(super) parts: Vec<(NodeId, BatchReceipt)>,
}

impl ClusterBatchReceipt {
    /// Which node has which part, in the order of the batch. More than one where a node failed amid it.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&NodeId, &BatchReceipt)> {
        self.parts.iter().map(|(node, receipt)| (node, receipt))
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|(_, receipt)| receipt.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How durable all of them are: as asked or better. `None` without a message.
    #[must_use]
    pub fn durability(&self) -> Option<Durability> {
        self.parts.iter().map(|(_, receipt)| receipt.durability()).min()
    }

    /// A receipt for each message, in the order of the batch.
    pub fn iter(&self) -> impl Iterator<Item = ClusterReceipt> + '_ {
        self.parts.iter().flat_map(|(node, part)| {
            part.iter().map(|receipt| ClusterReceipt { node: node.clone(), receipt })
        })
    }
}

/// The receipt to come of a message that was enqueued: a future of it.
///
/// It ends by the producer's timeout, counted from when `enqueue` was called. It need not be polled for
/// the message to be published, nor to go to another node where that is called for; dropping it changes
/// nothing for the message.
#[must_use = "a receipt that nobody awaits tells nobody of a failure; `flush` does"]
pub struct ClusterPendingReceipt {
    pub(super) topic: TopicName,
    pub(super) answer: oneshot::Receiver<Answer<ClusterReceipt, ClusterPublishError>>,
}

impl Future for ClusterPendingReceipt {
    type Output = Result<ClusterReceipt, ClusterPublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.map_or_else(|_| Err(abandoned(&self.topic)), |(answer, _)| answer))
    }
}

impl fmt::Debug for ClusterPendingReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPendingReceipt").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The receipt to come of a batch that was enqueued: one future for all of it.
///
/// It ends by the producer's timeout, counted from when `enqueue_batch` was called. Dropping it changes
/// nothing for the messages.
#[must_use = "a receipt that nobody awaits tells nobody of a failure; `flush` does"]
pub struct ClusterPendingBatch {
    pub(super) topic: TopicName,
    pub(super) answer: oneshot::Receiver<Answer<ClusterBatchReceipt, ClusterBatchError>>,
}

impl Future for ClusterPendingBatch {
    type Output = Result<ClusterBatchReceipt, ClusterBatchError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            let Ok((answer, _heard)) = answer else {
                let stored = ClusterBatchReceipt::default();
                return Err(ClusterBatchError { stored, error: abandoned(&self.topic) });
            };
            answer
        })
    }
}

impl fmt::Debug for ClusterPendingBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPendingBatch").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The runtime was shut down with the producer's task in it.
fn abandoned(topic: &TopicName) -> ClusterPublishError {
    ClusterPublishError::Abandoned { topic: topic.clone() }
}
