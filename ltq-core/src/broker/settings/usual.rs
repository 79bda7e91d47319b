//! What limits are that nobody has set, and what follows from others.

use std::time::Duration;

use super::BrokerSettings;

impl BrokerSettings {
    /// Bytes that all streams of a connection may have published and not yet confirmed.
    pub(in crate::broker) fn publish_bytes_per_connection(&self) -> usize {
        let usual = self.publish_bytes_max.saturating_mul(2);
        let most = self.publish_bytes_per_connection_max.unwrap_or(usual);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// The same for all connections of one address.
    pub(in crate::broker) fn publish_bytes_per_address(&self) -> usize {
        let usual = (self.publish_bytes_total_max as u64 / 4).max(self.publish_bytes_max);
        let most = self.publish_bytes_per_address_max.unwrap_or(usual);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Subscriptions and producers that one address may have.
    pub(in crate::broker) fn handles_per_address(&self) -> usize {
        self.handles_per_address_max.unwrap_or_else(|| self.handles_total_max.div_ceil(4))
    }

    /// How long a peer may take for a stretch of what waits for it.
    pub(in crate::broker) fn slow_read_timeout(&self) -> Duration {
        self.stall_timeout.saturating_mul(self.slow_read_stalls)
    }

    /// Bytes of deliveries that may wait for all connections of one address.
    pub(in crate::broker) fn delivery_bytes_per_address(&self) -> usize {
        let usual = (self.delivery_bytes_total_max / 4).max(self.delivery_bytes_max);
        self.delivery_bytes_per_address_max.unwrap_or(usual)
    }

    /// Bytes of answers that may wait for all streams of a connection.
    pub(in crate::broker) fn answer_bytes_per_connection(&self) -> usize {
        let usual = self.answer_bytes_max.saturating_mul(4);
        self.answer_bytes_per_connection_max.unwrap_or(usual)
    }

    /// The same for all connections of one address.
    pub(in crate::broker) fn answer_bytes_per_address(&self) -> usize {
        let usual = (self.answer_bytes_total_max / 4).max(self.answer_bytes_per_connection());
        self.answer_bytes_per_address_max.unwrap_or(usual)
    }
}
