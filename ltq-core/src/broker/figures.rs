//! What a broker says of itself beside the figures of its topics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Refusal, RefusalCode};

/// What peers hold of a broker's limits at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerUse {
    /// Streams that are served, those without a hello among them.
    pub streams: u64,
    /// Bytes that are counted against
    /// [`publish_bytes_total_max`](crate::BrokerSettings::publish_bytes_total_max).
    pub publish_bytes: u64,
    /// Bytes that are counted against
    /// [`partial_bytes_total_max`](crate::BrokerSettings::partial_bytes_total_max).
    pub partial_bytes: u64,
}

/// How often peers were told each kind of refusal.
#[derive(Debug)]
pub(super) struct Refusals([AtomicU64; RefusalCode::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Refusals {
    pub(super) fn count(&self, refusal: &Refusal) {
        let place = RefusalCode::ALL.iter().position(|code| *code == refusal.code);
        if let Some(count) = place.and_then(|place| self.0.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> Vec<(RefusalCode, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        RefusalCode::ALL.iter().copied().zip(counts).collect()
    }
}
