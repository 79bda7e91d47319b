//! Whether deliveries have somewhere to go.

use super::ConsumerId;

/// Whoever carries a topic's deliveries to consumers, and may have no room for more.
///
/// It is asked before each delivery, so that what piles up for a peer that does not read is bounded
/// by more than the credit that this peer granted itself.
pub trait Gate {
    /// Whether there is room for a delivery of so many bytes (of encoded records) to a consumer. If
    /// so, the delivery follows with one of the next commands; if not, the consumer gets nothing,
    /// whatever its credit, until [`Event::Release`](super::Event::Release). Asked for no bytes:
    /// whether there is room for anything, before it is read from the store.
    fn admit(&mut self, consumer: ConsumerId, bytes: usize) -> bool;
}

impl<F: FnMut(ConsumerId, usize) -> bool> Gate for F {
    fn admit(&mut self, consumer: ConsumerId, bytes: usize) -> bool {
        self(consumer, bytes)
    }
}
