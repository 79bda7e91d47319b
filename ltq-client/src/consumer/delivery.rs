//! One delivered message, and the duty to answer for it.

use std::{fmt, sync::Arc, time::Duration};

use ltq_core::{
    ChannelName, Message, MessageError, Offset, RecordBatch, Timestamp, TopicName, Verdict,
};
use tokio::time::timeout;

use super::shared::ConsumerShared;
use crate::{ConsumeError, SettleError, StaleError, UnknownCause};

/// A message and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Its place in the topic.
    pub offset: Offset,
    /// When the node took it in.
    pub time: Timestamp,
    /// Which delivery of it to this channel this is, from 1.
    pub attempt: u32,
}

/// A delivered message. Whoever has it answers for it: [`ack`](Self::ack) when it is done with,
/// [`requeue`](Self::requeue) to have it delivered again, [`touch`](Self::touch) for more time.
/// Dropped without an answer it is given back at once. Unanswered, it is delivered again after the
/// consumer's timeout.
///
/// Answers are cheap: they are only written down, and sent together with others. A message's bytes
/// are slices of what came with it, some tens of kilobytes; copy what is to be kept for long.
#[must_use = "dropping a delivery gives it back at once"]
pub struct Delivery {
    /// The message.
    pub message: Message,
    pub(super) offset: Offset,
    pub(super) time: Timestamp,
    pub(super) attempt: u32,
    pub(super) token: Token,
}

impl Delivery {
    /// The message at `index` of a batch, with the duty to answer for it. One that cannot be read
    /// is given back.
    pub(super) fn new(
        batch: &RecordBatch,
        index: usize,
        attempt: u32,
        token: Token,
    ) -> Result<Self, ConsumeError> {
        let offset = batch.first.plus(index as u64);
        match batch.records.message(index) {
            Some(Ok(message)) => Ok(Self { message, offset, time: batch.time, attempt, token }),
            Some(Err(error)) => {
                let _void_already = token.settle(requeue(UNREADABLE_DELAY));
                Err(ConsumeError::Unreadable { offset, error })
            }
            None => Err(ConsumeError::Unreadable { offset, error: MessageError }),
        }
    }

    /// Its place in the topic.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// When the node took it in.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Which delivery of it to this channel this is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.token.shared.settings.topic
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.token.shared.settings.channel
    }

    /// Done: it is not delivered again. Does not wait: when its time was up before this reached
    /// the broker, it changes nothing; see [`ack_confirmed`](Self::ack_confirmed).
    ///
    /// # Errors
    /// [`StaleError`] when it is void already.
    pub fn ack(self) -> Result<(), StaleError> {
        self.token.settle(Verdict::Ack)
    }

    /// Gives it back: it is delivered again, to any consumer of the channel, after `after`.
    ///
    /// # Errors
    /// [`StaleError`] when it is void already.
    pub fn requeue(self, after: Duration) -> Result<(), StaleError> {
        self.token.settle(requeue(after))
    }

    /// Asks for more time: its timeout starts anew now.
    ///
    /// # Errors
    /// [`StaleError`] when it is void already.
    pub fn touch(&self) -> Result<(), StaleError> {
        self.token.touch()
    }

    /// Acks and waits for the broker's word that it counted. The word is that of the node's
    /// memory: a crash within `delivery.ack_commit_interval` (20 ms unless the node is set
    /// otherwise) can still have the message delivered once more.
    ///
    /// # Cancellation
    /// Dropped after its first poll the ack is on its way all the same.
    ///
    /// # Errors
    /// [`SettleError::Stale`] when it came too late, [`SettleError::Unknown`] when the connection
    /// was lost or the client's request timeout passed before the answer came.
    pub async fn ack_confirmed(self) -> Result<(), SettleError> {
        self.token.settle_confirmed(Verdict::Ack).await
    }

    /// Requeues and waits for the broker's word that it counted.
    ///
    /// # Cancellation
    /// As for [`ack_confirmed`](Self::ack_confirmed).
    ///
    /// # Errors
    /// As for [`ack_confirmed`](Self::ack_confirmed).
    pub async fn requeue_confirmed(self, after: Duration) -> Result<(), SettleError> {
        self.token.settle_confirmed(requeue(after)).await
    }

    /// Touches and waits for the broker's word: if it is not stale, nobody else has the message
    /// for another timeout.
    ///
    /// # Cancellation
    /// As for [`ack_confirmed`](Self::ack_confirmed).
    ///
    /// # Errors
    /// As for [`ack_confirmed`](Self::ack_confirmed).
    pub async fn touch_confirmed(&self) -> Result<(), SettleError> {
        self.token.touch_confirmed().await
    }

    pub(super) fn split(self) -> (Received, Token) {
        let Self { message, offset, time, attempt, token } = self;
        (Received { message, offset, time, attempt }, token)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("offset", &self.offset)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The duty to answer for consecutive deliveries. Dropped without an answer it gives them back.
pub(super) struct Token {
    pub(super) shared: Arc<ConsumerShared>,
    pub(super) generation: u64,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    answered: bool,
}

impl Token {
    pub(super) const fn new(
        shared: Arc<ConsumerShared>,
        generation: u64,
        first: u64,
        count: u64,
        bytes: u64,
    ) -> Self {
        Self { shared, generation, first, count, bytes, answered: false }
    }

    pub(super) fn settle(mut self, verdict: Verdict) -> Result<(), StaleError> {
        self.answered = true;
        self.shared.settle(self.generation, self.first, self.count, self.bytes, verdict)
    }

    pub(super) fn touch(&self) -> Result<(), StaleError> {
        self.shared.settle(self.generation, self.first, self.count, 0, Verdict::Touch)
    }

    /// Touches without taking the duty to answer over.
    pub(super) fn touch_and_keep(mut self) -> Result<(), StaleError> {
        self.answered = true;
        self.touch()
    }

    pub(super) async fn settle_confirmed(mut self, verdict: Verdict) -> Result<(), SettleError> {
        self.answered = true;
        self.confirmed(verdict).await
    }

    pub(super) async fn touch_confirmed(&self) -> Result<(), SettleError> {
        self.confirmed(Verdict::Touch).await
    }

    async fn confirmed(&self, verdict: Verdict) -> Result<(), SettleError> {
        let Self { shared, generation, first, count, bytes, .. } = self;
        let answer = shared.settle_confirmed(*generation, *first, *count, *bytes, verdict)?;
        let after = shared.hub.config.request_timeout;
        match timeout(after, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SettleError::Unknown(UnknownCause::Closed)),
            Err(_) => Err(SettleError::Unknown(UnknownCause::TimedOut { after })),
        }
    }

    /// Takes the first `count` deliveries, of so many bytes, off.
    pub(super) fn split_off_front(&mut self, count: u64, bytes: u64) -> Self {
        let front = Self::new(self.shared.clone(), self.generation, self.first, count, bytes);
        self.first += count;
        self.count = self.count.saturating_sub(count);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.answered |= self.count == 0;
        front
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.answered {
            let now = Verdict::Requeue { delay_ms: 0 };
            let Self { generation, first, count, bytes, .. } = *self;
            let _void_already = self.shared.settle(generation, first, count, bytes, now);
        }
    }
}

/// Rounded up: no delay ends early.
pub(super) fn requeue(after: Duration) -> Verdict {
    let millis = after.as_nanos().div_ceil(1_000_000);
    Verdict::Requeue { delay_ms: u64::try_from(millis).unwrap_or(u64::MAX) }
}

/// An unreadable message will not be readable next time either, unless the consumer is another
/// one.
const UNREADABLE_DELAY: Duration = Duration::from_secs(60);
