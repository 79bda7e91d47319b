//! A call of a cluster's producer on its way from node to node until somebody answers for it.

use std::{fmt, mem};

use ltq_discovery::NodeId;
use tokio::sync::oneshot;

use super::{ClusterBatchReceipt, ClusterReceipt};
use crate::{
    BatchReceipt, ClusterBatchError, ClusterPublishError, Outcome,
    cluster::order::{Slot, Unheard},
    producer::Stored,
};

/// A call that is not answered. Its messages are with a producer on some node, or wait for one.
pub(crate) struct Errand {
    /// Its place among all calls of the producer.
    pub(super) number: u64,
    /// What it shares its order with, in an ordered producer.
    pub(super) slot: Option<Slot>,
    to: To,
    /// Nothing for the one that is answered at its first node.
    past: Option<Box<Past>>,
}

/// Who waits for the answer.
pub(super) enum To {
    One(oneshot::Sender<Answer<ClusterReceipt, ClusterPublishError>>),
    Batch(oneshot::Sender<Answer<ClusterBatchReceipt, ClusterBatchError>>),
}

/// The answer, and what lasts until somebody has taken it where others wait for that.
pub(super) type Answer<T, E> = (Result<T, E>, Option<Unheard>);

/// What became of it on other nodes.
#[derive(Debug, Default)]
struct Past {
    stored: Vec<(NodeId, BatchReceipt)>,
    /// A node that may have stored what is left.
    maybe: Option<NodeId>,
    /// Others wait until its publisher has heard the answer.
    unheard: Option<Unheard>,
}

impl Errand {
    pub(super) const fn new(number: u64, slot: Option<Slot>, to: To) -> Self {
        Self { number, slot, to, past: None }
    }

    /// Others wait until its publisher has heard the answer, which is that the order moves.
    pub(super) fn tell(&mut self, unheard: Unheard) {
        self.past.get_or_insert_default().unheard = Some(unheard);
    }

    /// A node has stored a first part of what is left, and will do nothing about the rest.
    pub(super) fn leave(&mut self, node: &NodeId, stored: Stored, maybe_more: bool) {
        let stored = stored.all();
        if stored.is_none() && !maybe_more {
            return;
        }
        let past = self.past.get_or_insert_default();
        if let Some(stored) = stored {
            past.stored.push((node.clone(), stored));
            // The part that an earlier node may have stored begins where this one went on.
        }
        if maybe_more {
            past.maybe = Some(node.clone());
        }
    }

    /// All of it is stored.
    pub(super) fn succeed(self, node: &NodeId, stored: Stored) {
        let past = self.past.unwrap_or_default();
        // Whoever does not wait for an answer any more does not need it.
        match self.to {
            To::One(to) => {
                if let Some(receipt) = stored.one() {
                    drop(to.send((Ok(ClusterReceipt { node: node.clone(), receipt }), None)));
                }
            }
            To::Batch(to) => {
                let mut parts = past.stored;
                parts.extend(stored.all().map(|stored| (node.clone(), stored)));
                drop(to.send((Ok(ClusterBatchReceipt { parts }), None)));
            }
        }
    }

    /// What is left of it will not be stored, as far as anybody knows.
    pub(super) fn fail(mut self, error: ClusterPublishError) -> ClusterPublishError {
        let past = mem::take(&mut self.past).unwrap_or_default();
        let error = match past.maybe {
            Some(node) if error.outcome() == Outcome::Nothing => {
                ClusterPublishError::MaybeStored { node, later: Box::new(error) }
            }
            _ => error,
        };
        match self.to {
            To::One(to) => drop(to.send((Err(error.clone()), past.unheard))),
            To::Batch(to) => {
                let stored = ClusterBatchReceipt { parts: past.stored };
                let error = ClusterBatchError { stored, error: error.clone() };
                drop(to.send((Err(error), past.unheard)));
            }
        }
        error
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").field("number", &self.number).finish_non_exhaustive()
    }
}
