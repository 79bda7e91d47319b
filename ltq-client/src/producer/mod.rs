//! Publishing: [`Producer`], the window of what is not answered, and receipts.

mod builder;
mod calls;
mod chunks;
mod elsewhere;
mod lent;
mod receipt;
mod room;
mod seat;
mod shared;
mod silence;
mod window;

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ltq_core::{Message, ProducerName, Records, RecordsBuilder, TABLE_ENTRY_BYTES, TopicName};
use tokio::{sync::oneshot, time::Instant};

pub use builder::ProducerBuilder;
pub(crate) use builder::WINDOW_MAX;
pub(crate) use calls::{Failure, Rest};
pub(crate) use elsewhere::{Elsewhere, Fault};
pub(crate) use lent::{Lending, Lent, Load, Stored};
pub use receipt::{BatchReceipt, PendingBatch, PendingReceipt, Receipt, Receipts};
pub(crate) use room::{NoRoom, Room, Rooms};
pub(crate) use seat::ProducerSeat;
pub(crate) use shared::{Again, ProducerShared, Settings, Then, passes};
pub(crate) use silence::Heard;
pub(crate) use window::{FrameLimits, Violation, publish_bytes};

use crate::{
    BatchError, PublishError, UnknownCause,
    connection::{Command, Lease, deadline},
};
use chunks::CHUNK_BYTES;
use shared::Reply;
use window::message_too_large;

/// Publishes to one topic.
///
/// Cheap to clone; clones share the window, the name and the order. All methods may be called from
/// many tasks at once.
///
/// What is not answered yet is kept, and counts against the producer's window in messages and
/// bytes; when that is full, calls wait. After a lost connection it is sent again under the same
/// name and sequence, which the broker stores once. Every call ends by the producer's timeout.
///
/// A message that is refused fails alone: those behind it are stored all the same, in their order.
/// Some refusals end the producer, and every call fails with them from then on: a newer instance of
/// its name has taken over ([`Fenced`](crate::RefusalCode::Fenced)), or its topic was deleted
/// ([`TopicDeleted`](crate::RefusalCode::TopicDeleted)), which it does not undo behind the
/// operator's back. A program that wants the topic again opens another producer.
///
/// When the last clone is dropped nothing more can be published; what was enqueued before is still
/// sent, for as long as its time lasts.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<ProducerShared>,
    _lease: Arc<ProducerLease>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.shared.settings;
        f.debug_struct("Producer")
            .field("topic", &settings.topic)
            .field("name", &settings.name)
            .finish_non_exhaustive()
    }
}

/// Closes the producer when its last handle goes.
struct ProducerLease {
    handle: u32,
    client: Arc<Lease>,
}

impl Drop for ProducerLease {
    fn drop(&mut self) {
        self.client.hub().command(Command::CloseProducer(self.handle));
    }
}

impl Producer {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.shared.settings.topic
    }

    /// The name under which its sequence is remembered: the one given, or a random one.
    #[must_use]
    pub fn name(&self) -> &ProducerName {
        &self.shared.settings.name
    }

    /// The last sequence that was stored under this name when the producer was opened; 0 for none.
    /// A loader that numbers its input from 1 and publishes all of it goes on behind it after a
    /// restart; it must stop at the first message that fails, since those behind it are counted
    /// without it.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.shared.last_sequence.load(Ordering::Relaxed)
    }

    /// Publishes one message and waits for its receipt.
    ///
    /// Many at once are sent together. One at a time from one task costs a round trip and, with
    /// [`Durability::Disk`](crate::Durability::Disk), a sync each: see [`enqueue`](Self::enqueue).
    ///
    /// # Cancellation
    /// Dropped while it waits for room it has done nothing. Later the message is published all
    /// the same.
    ///
    /// # Errors
    /// A [`PublishError`], whose [`outcome`](PublishError::outcome) says whether it may have
    /// happened.
    pub async fn send(&self, message: Message) -> Result<Receipt, PublishError> {
        self.take(message, Then::Wait).await?.await
    }

    /// Takes one message, waiting only for room in the window, and returns the future of its
    /// receipt. Messages are stored in the order in which this took them.
    ///
    /// # Cancellation
    /// Dropped before it returns it has done nothing.
    ///
    /// # Errors
    /// A [`PublishError`] whose outcome is that nothing happened.
    pub async fn enqueue(&self, message: Message) -> Result<PendingReceipt, PublishError> {
        self.take(message, Then::More).await
    }

    async fn take(&self, message: Message, then: Then) -> Result<PendingReceipt, PublishError> {
        let settings = &self.shared.settings;
        let now = Instant::now();
        let due = deadline(now, settings.timeout);
        let bytes = message.encoded_len_max();
        let alone = bytes > ALONE_BYTES;
        // A large message is encoded outside the lock, and its size checked exactly.
        let records = if alone { Some(Records::encode([&message])) } else { None };
        if let Some(records) = &records {
            self.check_size(records)?;
        }
        let permits = self.shared.room(due, 1, bytes + TABLE_ENTRY_BYTES).await?;
        let (reply, answer) = oneshot::channel();
        let reply = Reply::One(reply);
        match records {
            Some(records) => self.shared.push_records([records], permits, due, reply)?,
            None => {
                let linger = settings.linger;
                let until = (!linger.is_zero()).then(|| deadline(now, linger));
                self.shared.push(&message, permits, due, until, reply, then)?;
            }
        }
        Ok(PendingReceipt { topic: settings.topic.clone(), answer })
    }

    /// Publishes messages in one go and waits for their receipts. This is the fastest way.
    ///
    /// A batch is not atomic: a failure may leave a first part of it stored, never a later part
    /// without those before. It may be larger than the window: then it goes when it has the whole
    /// window for itself.
    ///
    /// # Cancellation
    /// As for [`send`](Self::send).
    ///
    /// # Errors
    /// A [`BatchError`], which tells which messages are stored and what became of the others.
    pub async fn send_batch<I>(&self, messages: I) -> Result<BatchReceipt, BatchError>
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        let encoded = encode(messages);
        match self.enqueue_encoded(encoded).await {
            Ok(pending) => pending.await,
            Err(error) => {
                let stored = BatchReceipt {
                    topic: self.topic().clone(),
                    ranges: Vec::new(),
                    durability: ltq_core::Durability::Memory,
                };
                Err(BatchError { stored, error })
            }
        }
    }

    /// Takes messages in one go, waiting only for room in the window, and returns one future for
    /// all their receipts. See [`send_batch`](Self::send_batch).
    ///
    /// # Cancellation
    /// Dropped before it returns it has done nothing.
    ///
    /// # Errors
    /// A [`PublishError`] whose outcome is that nothing happened.
    pub async fn enqueue_batch<I>(&self, messages: I) -> Result<PendingBatch, PublishError>
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        let encoded = encode(messages);
        self.enqueue_encoded(encoded).await
    }

    async fn enqueue_encoded(&self, batch: Vec<Records>) -> Result<PendingBatch, PublishError> {
        let deadline = deadline(Instant::now(), self.shared.settings.timeout);
        for records in &batch {
            self.check_size(records)?;
        }
        let messages = batch.iter().map(Records::count).sum();
        let bytes = batch.iter().map(Records::byte_len).sum();
        let permits = self.shared.room(deadline, messages, bytes).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.push_records(batch, permits, deadline, Reply::Batch(reply))?;
        Ok(PendingBatch { topic: self.topic().clone(), answer })
    }

    /// Waits until everything that was enqueued before, by any clone, is answered.
    ///
    /// # Cancellation
    /// Dropping it changes nothing for the messages.
    ///
    /// # Errors
    /// The first failure of a message since the last flush, whether or not somebody awaited its
    /// receipt.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let deadline = deadline(Instant::now(), self.shared.settings.timeout);
        let permits = self.shared.room(deadline, 0, 0).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.push_records([], permits, deadline, Reply::Flush(reply))?;
        let closed = || self.shared.error(&Failure::Unknown(UnknownCause::Closed));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Flushes and drops this handle.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), PublishError> {
        self.flush().await
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.settings.timeout
    }

    /// Refuses a message that the broker would refuse, before it takes others with it.
    fn check_size(&self, records: &Records) -> Result<(), PublishError> {
        let (bytes, limit) = (records.largest(), self.shared.message_bytes_max());
        if bytes <= limit {
            return Ok(());
        }
        Err(self.shared.error(&Failure::Refused(message_too_large(bytes, limit))))
    }
}

/// Encodes messages in parts of which each fits a frame, and memory is given back part by part.
pub(crate) fn encode<I>(messages: I) -> Vec<Records>
where
    I: IntoIterator,
    I::Item: Borrow<Message>,
{
    encode_by(messages, |builder, message| builder.push(message.borrow()))
}

/// The same, where each is pushed in a way of its own.
pub(crate) fn encode_by<I: IntoIterator>(
    messages: I,
    mut push: impl FnMut(&mut RecordsBuilder, I::Item),
) -> Vec<Records> {
    let mut parts = Vec::new();
    let mut builder = RecordsBuilder::new();
    for message in messages {
        push(&mut builder, message);
        if builder.byte_len() >= CHUNK_BYTES {
            parts.push(builder.finish());
        }
    }
    if builder.count() > 0 {
        parts.push(builder.finish());
    }
    parts
}

/// Messages larger than this are not copied under the producer's lock, and travel alone.
pub(crate) const ALONE_BYTES: usize = 16 << 10;
