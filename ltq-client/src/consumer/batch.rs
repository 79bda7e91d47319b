//! Many deliveries at once.

use std::{fmt, time::Duration};

use ltq_core::{RecordBatch, Verdict};

use super::delivery::{Delivery, Received, Token, requeue};
use crate::{ConsumeError, SettleError, StaleError};

/// Deliveries taken together, for speed: they are decoded as they are looked at and answered as
/// ranges. Dropped without an answer all of them are given back at once.
#[must_use = "dropping a batch gives it back at once"]
pub struct Batch {
    pub(super) parts: Vec<Part>,
}

/// Consecutive deliveries of one attempt.
pub(super) struct Part {
    pub(super) attempt: u32,
    pub(super) batch: RecordBatch,
    pub(super) token: Token,
}

impl Part {
    fn get(&self, index: usize) -> Option<Result<Received, ConsumeError>> {
        let offset = self.batch.first.plus(index as u64);
        Some(match self.batch.records.message(index)? {
            Err(error) => Err(ConsumeError::Unreadable { offset, error }),
            Ok(message) => {
                Ok(Received { message, offset, time: self.batch.time, attempt: self.attempt })
            }
        })
    }
}

impl Batch {
    /// How many deliveries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.batch.records.count()).sum()
    }

    /// Whether there are none; a batch that a consumer returned has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The messages in order.
    ///
    /// An item is an error ([`ConsumeError::Unreadable`]) where a producer did not encode its
    /// message as LTQ does; acking the batch acks it too.
    pub fn iter(&self) -> impl Iterator<Item = Result<Received, ConsumeError>> + '_ {
        self.parts
            .iter()
            .flat_map(|part| (0..part.batch.records.count()).filter_map(|index| part.get(index)))
    }

    /// Acks all of them. See [`Delivery::ack`].
    ///
    /// # Errors
    /// [`StaleError`] when some were void already; the others are acked.
    pub fn ack_all(self) -> Result<(), StaleError> {
        self.settle(Verdict::Ack)
    }

    /// Gives all of them back. See [`Delivery::requeue`].
    ///
    /// # Errors
    /// [`StaleError`] when some were void already; the others are given back.
    pub fn requeue_all(self, after: Duration) -> Result<(), StaleError> {
        self.settle(requeue(after))
    }

    /// Asks for more time for all of them. See [`Delivery::touch`].
    ///
    /// # Errors
    /// [`StaleError`] when some were void already; the others have more time.
    pub fn touch_all(&self) -> Result<(), StaleError> {
        all_of(self.parts.iter().map(|part| part.token.touch()))
    }

    /// Acks all of them and waits for the broker's word.
    ///
    /// # Cancellation
    /// Those whose ack was not on its way yet are given back.
    ///
    /// # Errors
    /// The first [`SettleError`]; the others may be acked all the same.
    pub async fn ack_all_confirmed(self) -> Result<(), SettleError> {
        let answers = self.parts.into_iter().map(|part| part.token.settle_confirmed(Verdict::Ack));
        futures::future::join_all(answers).await.into_iter().collect()
    }

    fn settle(self, verdict: Verdict) -> Result<(), StaleError> {
        all_of(self.parts.into_iter().map(|part| part.token.settle(verdict)))
    }

    /// The deliveries one by one, each to be answered for itself. An unreadable one is given back
    /// for a minute, and its error returned in its place. Those that are not taken are given back.
    pub fn into_deliveries(self) -> impl Iterator<Item = Result<Delivery, ConsumeError>> {
        self.parts.into_iter().flat_map(|part| {
            let Part { attempt, batch, mut token } = part;
            (0..batch.records.count()).map(move |index| {
                let bytes = batch.records.encoded(index).map_or(0, |encoded| encoded.len() as u64);
                Delivery::new(&batch, index, attempt, token.split_off_front(1, bytes))
            })
        })
    }
}

/// Goes through all, whatever became of the ones before.
fn all_of(results: impl Iterator<Item = Result<(), StaleError>>) -> Result<(), StaleError> {
    results.filter(Result::is_err).last().unwrap_or(Ok(()))
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
