//! Publishing from within the program.

use std::{collections::VecDeque, sync::Arc};

use super::link::{DirectError, Link};
use crate::{
    Durability, Message, Offset, Origin, ProducerName, Records, Refusal, RefusalCode, TopicName,
    broker::{outbox::Outgoing, shared::Shared},
    model::{Event, ProducerId, Reply, SequenceRange},
};

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
    /// Why it is open no longer.
    ended: Option<Refusal>,
}

impl Publisher {
    pub(in crate::broker) async fn open(
        shared: &Arc<Shared>,
        topic: &TopicName,
        options: PublisherOptions,
        from: Option<Origin>,
    ) -> Result<Self, DirectError> {
        let mut link = Link::open(shared, topic, from)?;
        let producer = ProducerId { session: link.session, handle: 0 };
        link.tell(Event::OpenProducer { producer, name: options.name, epoch: None, seat: None })?;
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
                        ended: None,
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
    /// brings. Waits while too much is unconfirmed; confirms that come meanwhile are not brought
    /// again. Returns the sequence of the last message. Cancel safe: a call given up has published
    /// nothing.
    ///
    /// # Errors
    /// [`DirectError::Refused`], for these messages or, when it had to wait, for earlier ones.
    pub async fn enqueue(&mut self, records: Records) -> Result<u64, DirectError> {
        self.link.shared.draining.check()?;
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
        while !self.unconfirmed.is_empty()
            && (self.unconfirmed_bytes + bytes > limit || self.rewind.is_some())
        {
            self.confirmed().await?;
        }
        if let Some(refusal) = &self.ended {
            return Err(refusal.clone().into());
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
    /// behind them is then refused as well, with [`RefusalCode::SequenceGap`]. When the publisher
    /// itself is refused, because a newer one has its name or the topic is gone, that is the
    /// answer to everything, now and later.
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
                    self.rewind = None;
                    self.ended = Some(refusal.clone());
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

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
