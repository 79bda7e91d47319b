//! Consuming within the program.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::link::{DirectError, Link};
use crate::{
    ChannelName, Credit, Message, Offset, Refusal, RefusalCode, Settlement, StartAt, Tag, TagRange,
    Timestamp, TopicName, Verdict,
    broker::{outbox::Outgoing, shared::Shared},
    model::{ConsumerId, Delivery, Event, Reply},
};

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
    /// Whether nobody else gets anything of the channel as long as this subscription is there, and it gets
    /// nothing itself before what others have is settled or given back: for who takes a channel's messages elsewhere, in
    /// their order. Of several such subscriptions one after the other has the channel. Default: false.
    pub alone: bool,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            start: StartAt::Earliest,
            timeout: None,
            credit: Credit { messages: 1000, bytes: 4 << 20 },
            alone: false,
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
    pub(in crate::broker) async fn open(
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
        let mut link = Link::open(shared, topic, None)?;
        let consumer = ConsumerId { session: link.session, handle: 0 };
        link.tell(Event::Subscribe {
            consumer,
            channel,
            start: options.start,
            create: shared.settings.auto_create_channels && !shared.draining.is_on(),
            timeout: options.timeout,
            // Who is to be alone gets nothing before it is.
            credit: if options.alone { Credit { messages: 0, bytes: 0 } } else { credit },
            // It has no connection that could be lost.
            claim: None,
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
        if options.alone {
            link.tell(Event::Alone { consumer })?;
            link.tell(Event::Credit { consumer, total: credit })?;
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
            _ => {}
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
