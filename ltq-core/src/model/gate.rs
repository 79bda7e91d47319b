//! Whether deliveries have somewhere to go, and channels may be made.

use super::ConsumerId;
use crate::{ChannelName, Refusal};

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

    /// Whether a channel that is not there may be made for a consumer that wants to subscribe to it. Asked
    /// when all else is in order, once for each channel that would be made. The default lets all be made.
    ///
    /// # Errors
    /// What the consumer is refused with.
    fn may_make(&mut self, consumer: ConsumerId, channel: &ChannelName) -> Result<(), Refusal> {
        let _ = (consumer, channel);
        Ok(())
    }

    /// A channel has consumers that wait for new messages, and gives out none as it is in
    /// [as many runs](super::ModelSettings::channel_runs_max) as it may be: told when that begins. Only counted; the
    /// default does not.
    fn runs_reached(&mut self) {}
}

impl<F: FnMut(ConsumerId, usize) -> bool> Gate for F {
    fn admit(&mut self, consumer: ConsumerId, bytes: usize) -> bool {
        self(consumer, bytes)
    }
}
