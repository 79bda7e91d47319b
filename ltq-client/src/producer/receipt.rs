//! What a producer gets for its messages.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use ltq_core::{Durability, Offset, TopicName, model::SequenceRange};
use tokio::sync::oneshot;

use crate::{BatchError, PublishError, UnknownCause};

/// The broker's word that one message is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The topic.
    pub topic: TopicName,
    /// Where the message stands in the topic; `None` when it had been stored by an earlier attempt
    /// so long ago that the broker remembers only that it was.
    pub offset: Option<Offset>,
    /// Its sequence under the producer's name.
    pub sequence: u64,
    /// How durable it is: as asked or better.
    pub durability: Durability,
}

/// The broker's word that messages of one batch are stored, in the batch's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchReceipt {
    pub(super) topic: TopicName,
    pub(super) ranges: Vec<SequenceRange>,
    pub(super) durability: Durability,
}

impl BatchReceipt {
    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// How durable all of them are: as asked or better.
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.count as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// A receipt for each message.
    #[must_use]
    pub const fn iter(&self) -> Receipts<'_> {
        Receipts { of: self, range: 0, place: 0 }
    }
}

impl<'a> IntoIterator for &'a BatchReceipt {
    type Item = Receipt;
    type IntoIter = Receipts<'a>;

    fn into_iter(self) -> Receipts<'a> {
        self.iter()
    }
}

/// The receipts of a batch, one after another.
#[derive(Clone, Debug)]
pub struct Receipts<'a> {
    of: &'a BatchReceipt,
    range: usize,
    place: u64,
}

impl Iterator for Receipts<'_> {
    type Item = Receipt;

    fn next(&mut self) -> Option<Receipt> {
        let range = loop {
            let range = self.of.ranges.get(self.range)?;
            if self.place < range.count {
                break range;
            }
            self.range += 1;
            self.place = 0;
        };
        let place = self.place;
        self.place += 1;
        Some(Receipt {
            topic: self.of.topic.clone(),
            offset: range.offset.map(|first| first.plus(place)),
            sequence: range.sequence.saturating_add(place),
            durability: self.of.durability,
        })
    }
}

/// The receipt to come of a message that was enqueued: a future of it.
///
/// It ends by the producer's timeout, counted from when `enqueue` was called. Dropping it changes
/// nothing for the message.
#[must_use = "a receipt that nobody awaits tells nobody of a failure; `flush` does"]
pub struct PendingReceipt {
    pub(super) topic: TopicName,
    pub(super) answer: oneshot::Receiver<Result<Receipt, PublishError>>,
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(abandoned(&self.topic))))
    }
}

impl fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReceipt").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The receipt to come of a batch that was enqueued: one future for all of it.
///
/// It ends by the producer's timeout, counted from when `enqueue_batch` was called. Dropping it
/// changes nothing for the messages.
#[must_use = "a receipt that nobody awaits tells nobody of a failure; `flush` does"]
pub struct PendingBatch {
    pub(super) topic: TopicName,
    pub(super) answer: oneshot::Receiver<Result<BatchReceipt, BatchError>>,
}

impl Future for PendingBatch {
    type Output = Result<BatchReceipt, BatchError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| {
                let stored = BatchReceipt {
                    topic: self.topic.clone(),
                    ranges: Vec::new(),
                    durability: Durability::Memory,
                };
                Err(BatchError { stored, error: abandoned(&self.topic) })
            })
        })
    }
}

impl fmt::Debug for PendingBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingBatch").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The runtime was shut down with the connection's task in it.
fn abandoned(topic: &TopicName) -> PublishError {
    PublishError::Unknown { topic: topic.clone(), cause: UnknownCause::Closed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_receipt_counts_on_within_each_range() {
        let receipt = BatchReceipt {
            topic: TopicName::new("t").unwrap(),
            ranges: vec![
                SequenceRange { sequence: 5, count: 2, offset: Some(Offset(100)) },
                SequenceRange { sequence: 7, count: 0, offset: None },
                SequenceRange { sequence: 7, count: 1, offset: None },
            ],
            durability: Durability::Os,
        };
        let flat: Vec<_> = receipt.iter().map(|r| (r.sequence, r.offset)).collect();
        assert_eq!(flat, [(5, Some(Offset(100))), (6, Some(Offset(101))), (7, None)]);
        assert_eq!(receipt.len(), 3);
    }
}
