//! Consuming from many nodes: [`ClusterConsumer`].
//!
//! There is a consumer of the client's at each node that has the topic. A task, the
//! [`Driver`](driver::Driver), opens and ends them and moves the credit among them by the rules of
//! [`SharedCredit`](shared_credit::SharedCredit). Deliveries do not pass through it: the stream takes them
//! from the consumers in turn ([`Merge`](merge::Merge)), and they are answered straight to their node.

mod builder;
mod delivery;
mod driver;
mod error;
mod figures;
mod merge;
mod shared;
mod shared_credit;

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, future::join_all};
use ltq_core::{ChannelName, Credit, Entropy, TopicName};
use ltq_discovery::NodeId;

pub use builder::ClusterConsumerBuilder;
pub use delivery::{ClusterBatch, ClusterDelivery, ClusterReceived};
pub use error::{ClusterConsumeError, ClusterLeaveError};
pub use figures::{ClusterConsumerFigures, ConsumedNode, SubscriptionState};
pub(in crate::cluster) use shared::Shared;

use crate::{Batch, Consumer, CreditUse, ForEach};

/// Takes the messages of one channel of a topic on all nodes that have it.
///
/// A stream of deliveries, each of which says its [node](ClusterDelivery::node);
/// [`next_batch`](Self::next_batch) is the fast way, and [`for_each`](Self::for_each) the comfortable one.
/// Nodes have their turns: none keeps what came from another waiting. There is no order among nodes; what
/// comes from one of them keeps the order that a [`Consumer`](crate::Consumer) of that node would see.
///
/// # Which nodes
/// Those that the discovery scheme says have the topic, whether they are ready, drain or are suspected: what
/// waits there waits for somebody. A node that has the topic later is subscribed at as soon as that is
/// known. Where the scheme does not tell of topics, or may not be asked, it is every node, and topic and
/// channel are made there where the node allows that; so they are with
/// [`every_node`](ClusterConsumerBuilder::every_node). While a scheme that does tell of them cannot be asked, it is
/// each node that says itself that it has the topic; it is made on none.
///
/// A channel is on a node from the moment of the first subscription there: a message that was published
/// before it, and that all channels of that moment have acked, may be gone, as with a single node. Where
/// that matters, and topics are made by publishing, subscribe at every node or make the channels first.
///
/// A node that is not known any more is left: nothing more comes from it, and what came can still be settled
/// for as long as its connection lasts. One that does not answer, or refuses, holds up no other, and is tried
/// again; a reason that stays is asked about again after 15 to 30 s, and what was deleted only where the node
/// says that it is there again. When every known node refuses for such a reason the stream ends with
/// [`ClusterConsumeError::Refused`]. A topic that is deleted where discovery tells of topics is waited for.
///
/// # One credit
/// What is delivered and not settled, and what nodes may still send, is never more than the
/// [credit](ClusterConsumerBuilder::credit) on all nodes together, but for a message on each that uses up its
/// last bytes. The credit is where the messages are: a node that has used up its part is given more, taken
/// back from those that do not use theirs, which takes one round trip to them; among several such it is
/// even. Each node keeps enough for one message; where there are more nodes than messages in the credit they
/// take turns of up to 50 ms. A node that has gone silent while others need what it holds is given 3 s to
/// give it back, and is subscribed at anew then: what came from it is void, and it gives that out again.
///
/// # Lost connections
/// Each node's consumer subscribes again by itself, and meanwhile its part of the credit is the others'.
/// Deliveries from before are void, as for a [`Consumer`](crate::Consumer).
///
/// Dropping it ends the subscriptions: what it has not settled is given back at once, and deliveries that
/// somebody still holds become void.
pub struct ClusterConsumer {
    shared: Arc<Shared>,
}

impl ClusterConsumer {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.shared.settings.topic
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.shared.settings.channel
    }

    /// The next delivery, from whatever node; `None` when the cluster was closed, or behind the error that
    /// told why the stream is over.
    ///
    /// # Cancellation
    /// Safe: a delivery that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<ClusterDelivery, ClusterConsumeError>> {
        poll_fn(|context| self.poll_delivery(context)).await
    }

    /// Waits for a delivery and returns it with all others that are there from the same node, at most `max`
    /// (at least 1). `None` as for [`next`](Self::next).
    ///
    /// # Cancellation
    /// Safe: deliveries that were not returned are returned by the next call.
    pub async fn next_batch(
        &mut self,
        max: usize,
    ) -> Option<Result<ClusterBatch, ClusterConsumeError>> {
        poll_fn(|context| {
            let mut merge = self.shared.merge();
            let polled = merge.poll(
                context,
                |consumer, context| consumer.poll_batch(context, max.max(1)),
                |batch: &Batch| batch.len() as u64,
            );
            polled.map(|item| Some(item?.map(|(node, batch)| ClusterBatch { node, batch })))
        })
        .await
    }

    /// Runs `handler` for each message of all nodes, up to `concurrency` (at least 1) at a time, as
    /// [`Consumer::for_each`](crate::Consumer::for_each) does. It is told the node, too: offsets are those of one
    /// node. Where every node refuses, it ends with that
    /// node's reason as [`ConsumeError::Ended`](crate::ConsumeError::Ended).
    pub fn for_each<H, F, E>(self, concurrency: usize, handler: H) -> ForEach<H, Self>
    where
        H: FnMut(ClusterReceived) -> F,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        ForEach::new(self, concurrency.max(1), handler)
    }

    /// Makes the [credit](ClusterConsumerBuilder::credit) of all nodes together larger or smaller; at least 1
    /// of each. Does not wait. As with [`Consumer::set_credit`](crate::Consumer::set_credit), a smaller one
    /// holds once the nodes have given back what they had not used.
    pub fn set_credit(&self, credit: Credit) {
        self.shared.set_credit(credit);
    }

    /// What the credit stands at on all nodes together.
    #[must_use]
    pub fn credit_use(&self) -> CreditUse {
        self.shared.credit_use()
    }

    /// How it stands with each node.
    #[must_use]
    pub fn figures(&self) -> ClusterConsumerFigures {
        self.shared.figures()
    }

    /// Ends the subscriptions and waits until the nodes have handled the last answers: what was acked is
    /// acked then, the rest is given back.
    ///
    /// # Cancellation
    /// Dropping it ends the subscriptions all the same.
    ///
    /// # Errors
    /// [`ClusterLeaveError`] with the nodes whose connection was lost meanwhile, or that did not answer by
    /// the client's request timeout.
    pub async fn close(self) -> Result<(), ClusterLeaveError> {
        let close = |(node, consumer): (NodeId, Consumer)| async move {
            consumer.close().await.err().map(|error| (node, error))
        };
        let closing = self.shared.take_all().into_iter().map(close);
        let nodes: Vec<_> = join_all(closing).await.into_iter().flatten().collect();
        if nodes.is_empty() { Ok(()) } else { Err(ClusterLeaveError { nodes }) }
    }

    /// Asks for more time for everything that came and was not taken.
    pub(crate) fn touch_waiting(&self) {
        self.shared.merge().sources().for_each(|source| source.consumer.touch_waiting());
    }

    /// The shortest time that a node gives a delivery, as far as nodes have said so.
    pub(crate) fn shortest_timeout(&self) -> Duration {
        let mut merge = self.shared.merge();
        let timeouts = merge.sources().map(|source| source.consumer.timeout());
        timeouts.filter(|timeout| !timeout.is_zero()).min().unwrap_or(UNKNOWN_TIMEOUT)
    }

    pub(crate) fn entropy(&self) -> Arc<dyn Entropy> {
        self.shared.entropy.clone()
    }

    fn poll_delivery(
        &self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<ClusterDelivery, ClusterConsumeError>>> {
        let mut merge = self.shared.merge();
        let polled = merge.poll(context, |one, context| one.poll_delivery(context), |_| 1);
        polled.map(|item| Some(item?.map(|(node, delivery)| ClusterDelivery { node, delivery })))
    }
}

impl Drop for ClusterConsumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Stream for ClusterConsumer {
    type Item = Result<ClusterDelivery, ClusterConsumeError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ClusterDelivery, ClusterConsumeError>>> {
        self.poll_delivery(context)
    }
}

impl fmt::Debug for ClusterConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConsumer")
            .field("topic", self.topic())
            .field("channel", self.channel())
            .finish_non_exhaustive()
    }
}

/// While no node has said how long a delivery may take, it is not long until that is looked at again.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(3);
