//! Publishing to many nodes: [`ClusterProducer`].
//!
//! There is a producer of the client's on each node that is used. They share one window, and a task, the
//! [`Keeper`](keeper::Keeper), that opens and ends them and tells the [`Router`](router::Router) which of
//! them may be given messages. A message is put by its publisher straight into the window of the producer
//! on its node, and answered from there: nothing stands between where nothing fails. What fails there and
//! may be stored elsewhere comes back encoded, with whoever waits for its answer, as an
//! [`Errand`](errand::Errand): so it goes on whether or not anybody polls for its receipt.

mod behalf;
mod builder;
mod errand;
mod figures;
mod id;
mod keeper;
mod receipt;
mod router;
mod shared;
mod subset;
mod twins;

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ltq_core::{Message, ProducerName, Records, TABLE_ENTRY_BYTES, TopicName};
use tokio::{sync::oneshot, time::Instant};

pub(crate) use behalf::Behalf;
pub use builder::ClusterProducerBuilder;
pub(crate) use errand::Errand;
pub use figures::{ClusterFigures, NodeFigures};
pub use receipt::{
    ClusterBatchReceipt, ClusterPendingBatch, ClusterPendingReceipt, ClusterReceipt,
};
pub(in crate::cluster) use shared::Shared;

use crate::{
    ClusterBatchError, ClusterPublishError,
    connection::deadline,
    producer::{ALONE_BYTES, Load, Then, encode_by},
};
use errand::To;
use id::Id;

/// The header by which consumers can tell repeats of a message: the name of the cluster's producer, `-`,
/// and the message's number among all that this producer took. It is the same on every attempt. A
/// message that has such a header already keeps it.
///
/// It tells repeats apart for as long as the producer's name is unique: a program that gives a name of
/// its own, and starts again, counts from 1 again.
pub const ID_HEADER: &str = "ltq-id";

/// What becomes of messages that were sent to a node whose connection is lost then, so that nobody knows
/// whether it has stored them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failover {
    /// They go to another node when the connection stays down, or the node is gone, and may be stored
    /// twice then. Where there is no other node they wait for this one, which stores them once.
    #[default]
    AtLeastOnce,
    /// They wait for that node until the publish timeout is up, and are stored there once or not at all;
    /// [`Unknown`](crate::Outcome::Unknown) when it does not come back in time. What was never sent, or
    /// refused, still goes elsewhere. A node that is announced at other addresses, and is gone from where
    /// it was, does not come back there: its outcome is `Unknown` at once.
    SameNode,
}

/// Publishes to one topic on the nodes of a cluster.
///
/// Cheap to clone; clones share the window, the name and the numbers. All methods may be called from
/// many tasks at once. Every call ends by the producer's timeout, whatever was tried for it.
///
/// # Which node
/// A message goes to a node that is ready and not suspected, and whose connection is not known to be
/// down; failing such, to a suspected one; never to one that drains. Among those it
/// [chooses](crate::Choice). A node that refuses for a reason that is its own (it is stopping, full, has
/// failed, does not have the topic) is passed over for 100 ms, doubling to 5 s while it goes on
/// refusing, each cut short by chance; the message goes on to another at once. One whose topic was deleted
/// is used no more by this producer. Refusals that any node would repeat (the message is too large, the
/// publisher may not) end the call. While no node will do, messages wait for one.
///
/// # How often
/// A message with a receipt is stored on the receipt's node. Where the connection to a node is lost
/// after a message was sent there, the message waits for that node, which stores it once; with
/// [`Failover::AtLeastOnce`] it goes to another node when the connection stays down for
/// [`failover_after`](ClusterProducerBuilder::failover_after) and there is another, and may then be on both. It
/// has the same [`ID_HEADER`] on both. What was never sent is never stored twice.
///
/// # In which order
/// Without [`ordered`](ClusterProducerBuilder::ordered), messages that one node gets from this producer
/// are stored there in the order in which they were taken as long as nothing fails; among nodes there is
/// no order.
///
/// An ordered producer gives every message with the same key to one node, which rendezvous hashing names
/// among all known nodes that do not drain, suspected or not, and with [`Availability::Fail`](crate::Availability::Fail)
/// those that crashed and were forgotten; messages without a key go by their topic.
/// They are stored there in the order in which they were taken, over lost connections too. Nothing that
/// its node may have stored is sent to another: when that node is given up, its outcome is
/// [`Unknown`](crate::Outcome::Unknown). What came back and is known not to be stored, because the node
/// stops or drains or refused something before it, goes on. One that is refused otherwise fails alone,
/// and those behind it are stored all the same.
/// When nodes come and go the node of a key may become another: once everything that went to the old one
/// is answered, the first publish to the new one fails with
/// [`OrderMoved`](crate::ClusterPublishError::OrderMoved), nothing happened, and with it those of the same
/// slot that waited behind it; later ones go to the new node. Later is when all who waited have taken their
/// answers, or dropped them, or their time is up: until then a publish of the slot fails with the same
/// `OrderMoved`, so that whoever has many messages under way can publish again from the first one on that
/// was not stored, and nothing is in front of it. That is the moment to see whether the
/// old node's backlog is consumed. Keys move by slot: all that fall on the same of 4,096 together. A new
/// producer remembers no node, and is told nothing.
///
/// When the last clone is dropped nothing more can be published; what was enqueued before is still sent,
/// for as long as its time lasts.
#[derive(Clone)]
pub struct ClusterProducer {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// Closes the producer when its last handle goes.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ClusterProducer {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.shared.settings.topic
    }

    /// The name under which each node remembers a sequence: the one given, or a random one.
    #[must_use]
    pub fn name(&self) -> &ProducerName {
        &self.shared.settings.name
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.settings.timeout
    }

    /// What it has done so far. Cheap.
    #[must_use]
    pub fn figures(&self) -> ClusterFigures {
        self.shared.counts.lock().figures()
    }

    /// Publishes one message and waits for its receipt.
    ///
    /// # Cancellation
    /// Dropped while it waits for room it has done nothing. Later the message is published all the same.
    ///
    /// # Errors
    /// A [`ClusterPublishError`], whose [`outcome`](ClusterPublishError::outcome) says whether it may
    /// have happened.
    pub async fn send(&self, message: Message) -> Result<ClusterReceipt, ClusterPublishError> {
        self.take(message, Then::Wait).await?.await
    }

    /// Takes one message, waiting only for room in the window, and returns the future of its receipt.
    /// While no node will do, the message waits for one.
    ///
    /// # Cancellation
    /// Dropped before it returns it has done nothing.
    ///
    /// # Errors
    /// A [`ClusterPublishError`] whose outcome is that nothing happened.
    pub async fn enqueue(
        &self,
        message: Message,
    ) -> Result<ClusterPendingReceipt, ClusterPublishError> {
        self.take(message, Then::More).await
    }

    async fn take(
        &self,
        message: Message,
        then: Then,
    ) -> Result<ClusterPendingReceipt, ClusterPublishError> {
        let settings = &self.shared.settings;
        let now = Instant::now();
        let due = deadline(now, settings.timeout);
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let slot = keeper::slot(&self.shared, message.key.as_deref());
        let message = self.with_id(message, number);
        let bytes = message.encoded_len_max();
        // A large message is encoded outside the lock of the producer that takes it.
        let load = match bytes > ALONE_BYTES {
            true => Load::Records(vec![Records::encode([&message])]),
            false => Load::One(message),
        };
        let permits = self.shared.rooms.take(due, 1, bytes + TABLE_ENTRY_BYTES).await;
        let permits = permits.map_err(|no| self.shared.no_room(no))?;
        let (to, answer) = oneshot::channel();
        let errand = Errand::new(number, slot, To::One(to));
        let linger = settings.linger;
        let linger_until = (!linger.is_zero()).then(|| deadline(now, linger));
        self.shared.place(load, errand, (permits.keep(), due), linger_until, then)?;
        Ok(ClusterPendingReceipt { topic: settings.topic.clone(), answer })
    }

    /// Publishes messages in one go and waits for their receipts.
    ///
    /// A batch goes to one node as a whole; where that fails amid it, what is left goes to another. It is
    /// not atomic: a failure may leave a first part of it stored, never a later part without those
    /// before. It may be larger than the window: then it goes when it has the whole window for itself.
    /// An ordered producer takes only batches whose messages all have the same key, or keys of one slot.
    ///
    /// # Cancellation
    /// As for [`send`](Self::send).
    ///
    /// # Errors
    /// A [`ClusterBatchError`], which tells which messages are stored and what became of the others.
    pub async fn send_batch<I>(&self, messages: I) -> Result<ClusterBatchReceipt, ClusterBatchError>
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        let batch = self.encode(messages);
        match self.enqueue_encoded(batch).await {
            Ok(pending) => pending.await,
            Err(error) => Err(ClusterBatchError { stored: ClusterBatchReceipt::default(), error }),
        }
    }

    /// Takes messages in one go, waiting only for room in the window, and returns one future for all
    /// their receipts. See [`send_batch`](Self::send_batch).
    ///
    /// # Cancellation
    /// Dropped before it returns it has done nothing.
    ///
    /// # Errors
    /// A [`ClusterPublishError`] whose outcome is that nothing happened.
    pub async fn enqueue_batch<I>(
        &self,
        messages: I,
    ) -> Result<ClusterPendingBatch, ClusterPublishError>
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        let batch = self.encode(messages);
        self.enqueue_encoded(batch).await
    }

    /// Encodes a batch, each message with its id.
    fn encode<I>(&self, messages: I) -> EncodedBatch
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        let mut number = None;
        let mut slot = None;
        let mut is_mixed = false;
        let records = encode_by(messages, |builder, message| {
            let message = message.borrow();
            let own = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
            number.get_or_insert(own);
            let own_slot = keeper::slot(&self.shared, message.key.as_deref());
            is_mixed |= slot.is_some() && slot != own_slot;
            slot = own_slot;
            if self.needs_id(message) {
                let id = Id::new(&self.shared.settings.name, own);
                builder.push_with_header(message, ID_HEADER, id.as_ref());
            } else {
                builder.push(message);
            }
        });
        EncodedBatch { number, slot, is_mixed, records }
    }

    async fn enqueue_encoded(
        &self,
        batch: EncodedBatch,
    ) -> Result<ClusterPendingBatch, ClusterPublishError> {
        let topic = self.topic().clone();
        let due = deadline(Instant::now(), self.shared.settings.timeout);
        let EncodedBatch { number, slot, is_mixed, records } = batch;
        if is_mixed {
            return Err(ClusterPublishError::MixedBatch { topic });
        }
        let (to, answer) = oneshot::channel();
        let Some(number) = number else {
            // Nothing to wait for.
            drop(to.send((Ok(ClusterBatchReceipt::default()), None)));
            return Ok(ClusterPendingBatch { topic, answer });
        };
        let messages = records.iter().map(Records::count).sum();
        let bytes = records.iter().map(Records::byte_len).sum();
        let permits = self.shared.rooms.take(due, messages, bytes).await;
        let permits = permits.map_err(|no| self.shared.no_room(no))?;
        let errand = Errand::new(number, slot, To::Batch(to));
        let room = (permits.keep(), due);
        self.shared.place(Load::Records(records), errand, room, None, Then::More)?;
        Ok(ClusterPendingBatch { topic, answer })
    }

    /// Waits until everything that was enqueued before, by any clone, is answered. What is published
    /// meanwhile waits for that, too: it takes the whole window for a moment.
    ///
    /// # Cancellation
    /// Dropping it changes nothing for the messages.
    ///
    /// # Errors
    /// The first failure of a message since the last flush, whether or not somebody awaited its receipt;
    /// [`NoRoom`](ClusterPublishError::NoRoom) when that was not done within the producer's timeout.
    pub async fn flush(&self) -> Result<(), ClusterPublishError> {
        let due = deadline(Instant::now(), self.shared.settings.timeout);
        let all = self.shared.rooms.window().messages;
        let permits = self.shared.rooms.take(due, all, 0).await;
        if let Some(failure) = self.shared.take_failure() {
            return Err(failure);
        }
        permits.map(drop).map_err(|no| self.shared.no_room(no))
    }

    /// Flushes and drops this handle.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), ClusterPublishError> {
        self.flush().await
    }

    fn needs_id(&self, message: &Message) -> bool {
        self.shared.ids && message.headers.get(ID_HEADER).is_none()
    }

    fn with_id(&self, message: Message, number: u64) -> Message {
        if !self.needs_id(&message) {
            return message;
        }
        message.with_header(ID_HEADER, Id::new(&self.shared.settings.name, number))
    }
}

/// A batch as it goes to a node.
struct EncodedBatch {
    /// That of its first message; `None` without one.
    number: Option<u64>,
    slot: Option<crate::cluster::order::Slot>,
    is_mixed: bool,
    records: Vec<Records>,
}

impl fmt::Debug for ClusterProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.shared.settings;
        f.debug_struct("ClusterProducer")
            .field("topic", &settings.topic)
            .field("name", &settings.name)
            .finish_non_exhaustive()
    }
}
