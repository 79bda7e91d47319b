//! Which consumer of its channel a consumer is: [`ConsumerSeat`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ltq_core::{Entropy, Seat, SystemEntropy};

/// A consumer's seat in a channel. Cheap to clone; all clones are one seat.
///
/// Whoever subscribes with a seat ends the subscription that has it there, as long as it belongs to the same
/// program for the broker (the same token or certificate). What that one had comes first to the new one, if it is
/// alone in its channel, and ahead of everything that was never delivered. Each [`Consumer`](crate::Consumer) has
/// a seat of its own, and so takes over from itself after a lost connection, which the broker may not have found
/// dead yet. Give one seat to several consumers, [after another](crate::ConsumerBuilder::seat), where a later one
/// goes on in the place of an earlier one whose connection may be lost.
#[derive(Clone, Debug)]
pub struct ConsumerSeat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: [u8; 16],
    turns: AtomicU64,
}

impl ConsumerSeat {
    /// A seat that nobody has.
    #[must_use]
    pub fn new() -> Self {
        Self::drawn(&SystemEntropy)
    }

    pub(crate) fn drawn(entropy: &dyn Entropy) -> Self {
        let mut number = [0; 16];
        number[..8].copy_from_slice(&entropy.next().to_le_bytes());
        number[8..].copy_from_slice(&entropy.next().to_le_bytes());
        Self(Arc::new(Inner { number, turns: AtomicU64::new(0) }))
    }

    /// As it is asked for once more.
    pub(super) fn again(&self) -> Seat {
        let turn = self.0.turns.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Seat { number: self.0.number, turn }
    }
}

impl Default for ConsumerSeat {
    fn default() -> Self {
        Self::new()
    }
}
