//! Publishing and subscribing from within the program: no socket, no frame, the same rules.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    inbox::{Entry, Inbox},
    outbox::{Outbox, Outgoing},
    shared::Shared,
};
use crate::{
    ChannelName, Credit, Durability, Effect, Message, MessageError, NameError, Offset,
    ProducerName, Records, Refusal, RefusalCode, Settlement, StartAt, Tag, TagRange, Timestamp,
    TopicName, Verdict,
    model::{ConsumerId, Delivery, Event, ProducerId, Reply, SequenceRange, SessionId},
};

/// Why a direct call did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The broker refused. Whether anything happened, the code's
    /// [`effect`](RefusalCode::effect) tells.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A message's key and headers cannot be read: whoever published it encoded them wrongly.
    #[error("message {tag:?} at offset {offset}: {error}")]
    Message {
        /// Its tag, to be settled.
        tag: Tag,
        /// Its offset.
        offset: Offset,
        /// What is wrong.
        error: MessageError,
    },
}

impl DirectError {
    /// What the call has done.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Refused(refusal) => refusal.code.effect(),
            Self::Message { .. } => Effect::Nothing,
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub(super) fn bad_name(error: NameError) -> DirectError {
    Refusal::new(RefusalCode::BadName, error.to_string()).into()
}

fn gone(inbox: &Inbox, shared: &Shared) -> DirectError {
    if shared.is_stopping() {
        return Refusal::new(RefusalCode::Stopping, "the node is stopping").into();
    }
    let detail = format!("topic {} was deleted", inbox.topic());
    Refusal::new(RefusalCode::TopicDeleted, detail).into()
}

/// One session of the program's own with one topic.
struct Link {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    session: SessionId,
    outbox: Arc<Outbox>,
    outgoing: VecDeque<Outgoing>,
}

impl Link {
    fn open(shared: &Arc<Shared>, topic: &TopicName) -> Result<Self, DirectError> {
        let settings = &shared.settings;
        let inbox = shared.topic(topic, settings.auto_create_topics, settings.topic)?;
        let (session, outbox) = (shared.new_session(), Outbox::new());
        let link =
            Self { shared: shared.clone(), inbox, session, outbox, outgoing: VecDeque::new() };
        let attach = Entry::Attach(session, link.outbox.clone());
        link.inbox.push(attach).map_err(|_| gone(&link.inbox, &link.shared))?;
        Ok(link)
    }

    fn tell(&self, event: Event) -> Result<(), DirectError> {
        self.inbox.push(Entry::Event(event)).map_err(|_| gone(&self.inbox, &self.shared))
    }

    /// The next thing that the topic says. Cancel safe.
    async fn hear(&mut self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.outgoing.pop_front() {
                return outgoing;
            }
            let (outbox, outgoing) = (&self.outbox, &mut self.outgoing);
            poll_fn(|context| outbox.poll_drain(context, outgoing)).await;
            // What is taken is the program's; its credit alone bounds it.
            for (inbox, consumer) in self.outbox.written(0) {
                let _ = inbox.push(Entry::Event(Event::Hold { consumer, held: false }));
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outbox.close();
        // A closed topic knows nobody any more.
        let _ = self.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
    }
}

/// How to publish.
#[derive(Clone, Debug, Default)]
pub struct PublisherOptions {
    /// The name under which the sequence is remembered, so that the program can go on where it
    /// stopped. `None`, the default, remembers nothing.
    pub name: Option<ProducerName>,
    /// How durable a message must be before it is confirmed. `None`, the default, leaves it to
    /// the topic.
    pub durability: Option<Durability>,
}

/// The broker's word on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The topic.
    pub topic: TopicName,
    /// Its place there; of a repeat, the place of the original if that is still remembered.
    pub offset: Option<Offset>,
    /// Its place in what this publisher published, from 1.
    pub sequence: u64,
    /// How durable it is: as asked or better.
    pub durability: Durability,
}

/// Publishes to one topic from within the program. Several publishers are several values; each
/// keeps its own order.
pub struct Publisher {
    link: Link,
    durability: Option<Durability>,
    last_sequence: u64,
    next: u64,
    /// Bytes of each publish that is not answered, with the end of its sequence.
    unconfirmed: VecDeque<(u64, usize)>,
    unconfirmed_bytes: usize,
    /// Where the sequence goes on once everything that followed a refused publish is answered.
    rewind: Option<u64>,
}

impl Publisher {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        topic: &TopicName,
        options: PublisherOptions,
    ) -> Result<Self, DirectError> {
        let mut link = Link::open(shared, topic)?;
        let producer = ProducerId { session: link.session, handle: 0 };
        link.tell(Event::OpenProducer { producer, name: options.name, epoch: None })?;
        loop {
            match link.hear().await {
                Outgoing::Reply(Reply::ProducerOpened { last_sequence, .. }) => {
                    return Ok(Self {
                        link,
                        durability: options.durability,
                        last_sequence,
                        next: last_sequence + 1,
                        unconfirmed: VecDeque::new(),
                        unconfirmed_bytes: 0,
                        rewind: None,
                    });
                }
                Outgoing::Reply(Reply::ProducerRefused { refusal, .. }) => {
                    return Err(refusal.into());
                }
                _ => {}
            }
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.link.inbox.topic()
    }

    /// The sequence of the last message that was stored under this publisher's name before it was
    /// opened; 0 without one. A program that numbers its messages from 1 goes on after it.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Publishes a message and waits for its receipt. Not cancel safe: a publish given up may
    /// still happen.
    ///
    /// # Errors
    /// [`DirectError::Refused`].
    pub async fn publish(&mut self, message: &Message) -> Result<Receipt, DirectError> {
        let (ranges, durability) = self.publish_records(Records::encode([message])).await?;
        Ok(Receipt {
            topic: self.topic().clone(),
            offset: ranges.first().and_then(|range| range.offset),
            sequence: ranges.first().map_or(0, |range| range.sequence),
            durability,
        })
    }

    /// Publishes messages, whole or not at all, and waits until they are stored. Says where they
    /// are and how durable. Not cancel safe.
    ///
    /// # Errors
    /// [`DirectError::Refused`]; an empty batch is refused too.
    pub async fn publish_records(
        &mut self,
        records: Records,
    ) -> Result<(Vec<SequenceRange>, Durability), DirectError> {
        self.flush().await?;
        self.enqueue(records).await?;
        self.confirmed().await
    }

    /// Publishes messages without waiting for their confirm, which [`confirmed`](Self::confirmed)
    /// brings. Waits while too much is unconfirmed. Returns the sequence of the last message.
    /// Cancel safe: a call given up has published nothing.
    ///
    /// # Errors
    /// [`DirectError::Refused`], for these messages or, when it had to wait, for earlier ones.
    pub async fn enqueue(&mut self, records: Records) -> Result<u64, DirectError> {
        let settings = &self.link.shared.settings;
        let (largest, max) = (records.largest(), settings.message_bytes_max as usize);
        if largest > max {
            let detail = format!("a message of {largest} bytes; the limit is {max}");
            return Err(Refusal::new(RefusalCode::MessageTooLarge, detail).into());
        }
        let (bytes, limit) = (records.byte_len(), settings.publish_bytes_max as usize);
        if records.is_empty() || bytes > limit {
            let count = records.count();
            let detail = format!("{count} messages of {bytes} bytes in all; 1 to {limit} bytes");
            return Err(Refusal::new(RefusalCode::OutOfRange, detail).into());
        }
        while self.unconfirmed_bytes + bytes > limit || self.rewind.is_some() {
            self.confirmed().await?;
        }
        let count = records.count() as u64;
        let producer = ProducerId { session: self.link.session, handle: 0 };
        let durability = self.durability;
        self.link.tell(Event::Publish { producer, sequence: self.next, durability, records })?;
        self.next += count;
        self.unconfirmed.push_back((self.next, bytes));
        self.unconfirmed_bytes += bytes;
        Ok(self.next - 1)
    }

    /// The next confirm of what was [enqueued](Self::enqueue): which messages, and how durable
    /// they are. At once, and empty, when nothing is unconfirmed. Cancel safe.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the next messages in order were refused. What was enqueued
    /// behind them is then refused as well, with [`RefusalCode::SequenceGap`].
    pub async fn confirmed(&mut self) -> Result<(Vec<SequenceRange>, Durability), DirectError> {
        while !self.unconfirmed.is_empty() {
            match self.link.hear().await {
                Outgoing::Reply(Reply::Confirmed { ranges, durability, .. }) => {
                    if let Some(last) = ranges.last() {
                        self.answered(last.sequence + last.count);
                    }
                    return Ok((ranges, durability));
                }
                Outgoing::Reply(Reply::PublishRefused { sequence, count, refusal, .. }) => {
                    self.rewind.get_or_insert(sequence);
                    self.answered(sequence + count);
                    return Err(refusal.into());
                }
                Outgoing::Reply(Reply::ProducerRefused { refusal, .. }) => {
                    self.unconfirmed.clear();
                    self.unconfirmed_bytes = 0;
                    return Err(refusal.into());
                }
                _ => {}
            }
        }
        Ok((Vec::new(), Durability::Memory))
    }

    /// Waits until everything enqueued is confirmed. Cancel safe.
    ///
    /// # Errors
    /// [`DirectError::Refused`] for the first messages that were refused.
    pub async fn flush(&mut self) -> Result<(), DirectError> {
        while !self.unconfirmed.is_empty() {
            self.confirmed().await?;
        }
        Ok(())
    }

    fn answered(&mut self, end: u64) {
        while let Some((until, bytes)) = self.unconfirmed.front()
            && *until <= end
        {
            self.unconfirmed_bytes -= bytes;
            self.unconfirmed.pop_front();
        }
        if self.unconfirmed.is_empty()
            && let Some(sequence) = self.rewind.take()
        {
            self.next = sequence;
        }
    }
}

/// How to subscribe.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeOptions {
    /// Where the channel starts if it is new. Default: the oldest message kept.
    pub start: StartAt,
    /// How long a message may stay unsettled. `None`, the default, leaves it to the broker.
    pub timeout: Option<Duration>,
    /// The most messages, and their bytes, that are delivered and not settled. Default: 1,000
    /// messages and 4 MiB. At least 1 of each.
    pub credit: Credit,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            start: StartAt::Earliest,
            timeout: None,
            credit: Credit { messages: 1000, bytes: 4 << 20 },
        }
    }
}

/// A message as a [`Subscription`] gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// By which it is settled.
    pub tag: Tag,
    /// Its place in the topic.
    pub offset: Offset,
    /// When the node took it in.
    pub time: Timestamp,
    /// Which delivery of this message it is, from 1.
    pub attempt: u32,
    /// The message.
    pub message: Message,
}

/// Consumes from one channel within the program. Credit is given anew as messages are settled.
/// Dropping it gives back what is not settled.
pub struct Subscription {
    link: Link,
    consumer: ConsumerId,
    credit: Credit,
    granted: Credit,
    /// Messages received and not yet settled by the program, and how many it has settled.
    unsettled: Unsettled,
    settled: u64,
    received_bytes: u64,
    /// The run that is being received, and how much of it was.
    current: Option<(Delivery, usize)>,
    waiting: VecDeque<Delivery>,
    ended: Option<Option<Refusal>>,
    stale: u64,
    requests: u32,
}

impl Subscription {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        topic: &TopicName,
        channel: ChannelName,
        options: SubscribeOptions,
    ) -> Result<Self, DirectError> {
        let max = shared.settings.model.credit_max;
        let credit = options.credit;
        let fits = |wanted: u64, max: u64| (1..=max).contains(&wanted);
        if !fits(credit.messages, max.messages) || !fits(credit.bytes, max.bytes) {
            let detail = format!(
                "credit for {} messages and {} bytes; allowed are 1 to {} and 1 to {}",
                credit.messages, credit.bytes, max.messages, max.bytes
            );
            return Err(Refusal::new(RefusalCode::OutOfRange, detail).into());
        }
        let mut link = Link::open(shared, topic)?;
        let consumer = ConsumerId { session: link.session, handle: 0 };
        link.tell(Event::Subscribe {
            consumer,
            channel,
            start: options.start,
            create: shared.settings.auto_create_channels,
            timeout: options.timeout,
            credit,
        })?;
        loop {
            match link.hear().await {
                Outgoing::Reply(Reply::Subscribed { .. }) => break,
                Outgoing::Reply(Reply::SubscribeRefused { refusal, .. }) => {
                    return Err(refusal.into());
                }
                _ => {}
            }
        }
        Ok(Self {
            link,
            consumer,
            credit,
            granted: credit,
            unsettled: Unsettled::default(),
            settled: 0,
            received_bytes: 0,
            current: None,
            waiting: VecDeque::new(),
            ended: None,
            stale: 0,
            requests: 0,
        })
    }

    /// The next message; `None` when the subscription is over without a reason. Cancel safe.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when it is over: the channel or topic was deleted, or the node
    /// stops. [`DirectError::Message`] for a message that cannot be read; the next call goes on.
    pub async fn receive(&mut self) -> Result<Option<Received>, DirectError> {
        loop {
            if let Some((delivery, index)) = &mut self.current {
                let at = *index;
                if let Some(message) = delivery.batch.records.message(at) {
                    *index += 1;
                    let tag = Tag(delivery.first_tag.0 + at as u64);
                    let offset = delivery.batch.first.plus(at as u64);
                    let message =
                        message.map_err(|error| DirectError::Message { tag, offset, error })?;
                    let (time, attempt) = (delivery.batch.time, delivery.attempt);
                    return Ok(Some(Received { tag, offset, time, attempt, message }));
                }
            }
            let Some(next) = self.receive_run().await? else { return Ok(None) };
            self.current = Some((next, 0));
        }
    }

    /// The next messages as they come: consecutive ones of one attempt, still encoded. What
    /// [`receive`](Self::receive) has begun to hand out is not part of it. Cancel safe.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the subscription is over.
    pub async fn receive_run(&mut self) -> Result<Option<Delivery>, DirectError> {
        loop {
            if let Some(delivery) = self.waiting.pop_front() {
                self.received_bytes += delivery.batch.records.payload().len() as u64;
                self.unsettled.insert(&delivery);
                self.grant()?;
                return Ok(Some(delivery));
            }
            match &self.ended {
                Some(Some(refusal)) => return Err(refusal.clone().into()),
                Some(None) => return Ok(None),
                None => {}
            }
            let heard = self.link.hear().await;
            self.take_in(heard);
        }
    }

    /// Says what became of messages, without waiting. Verdicts that come too late change nothing
    /// and are counted by [`stale`](Self::stale).
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the topic is gone.
    pub fn settle(&mut self, tags: TagRange, verdict: Verdict) -> Result<(), DirectError> {
        self.tell_settlement(0, tags, verdict)
    }

    /// Says what became of messages, and waits to hear which of them it came too late for. Not
    /// cancel safe: a verdict given up counts all the same.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the topic is gone or the subscription over.
    pub async fn settle_confirmed(
        &mut self,
        tags: TagRange,
        verdict: Verdict,
    ) -> Result<Vec<TagRange>, DirectError> {
        self.requests = self.requests.wrapping_add(1).max(1);
        let wanted = self.requests;
        self.tell_settlement(wanted, tags, verdict)?;
        loop {
            match self.link.hear().await {
                Outgoing::Reply(Reply::Settled { request, stale, .. }) if request == wanted => {
                    return Ok(stale);
                }
                heard => self.take_in(heard),
            }
            if let Some(Some(refusal)) = &self.ended {
                return Err(refusal.clone().into());
            }
        }
    }

    /// The message is done.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the topic is gone.
    pub fn ack(&mut self, tag: Tag) -> Result<(), DirectError> {
        self.settle(TagRange { first: tag, last: tag }, Verdict::Ack)
    }

    /// Deliver the message again, to any consumer, after `delay`.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the topic is gone.
    pub fn requeue(&mut self, tag: Tag, delay: Duration) -> Result<(), DirectError> {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.settle(TagRange { first: tag, last: tag }, Verdict::Requeue { delay_ms })
    }

    /// The message's timeout starts anew.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the topic is gone.
    pub fn touch(&mut self, tag: Tag) -> Result<(), DirectError> {
        self.settle(TagRange { first: tag, last: tag }, Verdict::Touch)
    }

    /// How many ranges of messages were settled too late so far.
    #[must_use]
    pub const fn stale(&self) -> u64 {
        self.stale
    }

    fn tell_settlement(
        &mut self,
        request: u32,
        tags: TagRange,
        verdict: Verdict,
    ) -> Result<(), DirectError> {
        let consumer = self.consumer;
        let settlements = vec![Settlement { tags, verdict }];
        self.link.tell(Event::Settle { consumer, request, settlements })?;
        if verdict != Verdict::Touch {
            self.settled += self.unsettled.remove(tags);
            self.grant()?;
        }
        Ok(())
    }

    /// Gives credit anew once half of it is free, so that credit costs little.
    fn grant(&mut self) -> Result<(), DirectError> {
        let total = Credit {
            messages: self.settled + self.credit.messages,
            bytes: self.received_bytes + self.credit.bytes,
        };
        let due = total.messages - self.granted.messages >= self.credit.messages.div_ceil(2)
            || total.bytes - self.granted.bytes >= self.credit.bytes.div_ceil(2);
        if due {
            self.granted = total;
            self.link.tell(Event::Credit { consumer: self.consumer, total })?;
        }
        Ok(())
    }

    fn take_in(&mut self, heard: Outgoing) {
        match heard {
            Outgoing::Delivery(_, delivery) => self.waiting.push_back(delivery),
            Outgoing::Reply(Reply::Settled { stale, .. }) => self.stale += stale.len() as u64,
            Outgoing::Reply(Reply::SubscriptionClosed { refusal, .. }) => {
                self.ended = Some(refusal);
            }
            Outgoing::Reply(_) => {}
        }
    }
}

/// Tags that the program has in hand, as runs: the first of each, and the one behind its last.
#[derive(Default)]
struct Unsettled(BTreeMap<u64, u64>);

impl Unsettled {
    fn insert(&mut self, delivery: &Delivery) {
        let first = delivery.first_tag.0;
        self.0.insert(first, first + delivery.batch.records.count() as u64);
    }

    /// Removes tags and says how many there were.
    fn remove(&mut self, tags: TagRange) -> u64 {
        let (from, to) = (tags.first.0, tags.last.0.saturating_add(1));
        let mut removed = 0;
        while let Some((&first, &end)) = self.0.range(..to).next_back() {
            if end <= from {
                break;
            }
            self.0.remove(&first);
            removed += end.min(to) - first.max(from);
            if first < from {
                self.0.insert(first, from);
            }
            if end > to {
                self.0.insert(to, end);
            }
            if first <= from {
                break;
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsettled_tags_are_counted_once() {
        let mut unsettled = Unsettled(BTreeMap::from([(1, 11), (11, 21)]));
        let range = |first, last| TagRange { first: Tag(first), last: Tag(last) };
        assert_eq!(unsettled.remove(range(5, 5)), 1);
        assert_eq!(unsettled.remove(range(5, 5)), 0);
        assert_eq!(unsettled.remove(range(9, 12)), 4);
        assert_eq!(unsettled.remove(range(0, 6)), 5);
        assert_eq!(unsettled.remove(range(0, u64::MAX)), 10);
        assert!(unsettled.0.is_empty());
    }
}
