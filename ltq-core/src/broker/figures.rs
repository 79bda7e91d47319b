//! What a broker says of itself beside the figures of its topics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Limit, Refusal, RefusalCode};

/// What peers hold of a broker's limits at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerUse {
    /// Streams that are served, those without a hello among them.
    pub streams: u64,
    /// Connections on which no hello was accepted so far; see
    /// [`greeting_connections_max`](crate::EntranceSettings::greeting_connections_max).
    pub greeting: u64,
    /// Bytes that are counted against
    /// [`publish_bytes_total_max`](crate::BrokerSettings::publish_bytes_total_max).
    pub publish_bytes: u64,
    /// Bytes that are counted against
    /// [`partial_bytes_total_max`](crate::BrokerSettings::partial_bytes_total_max).
    pub partial_bytes: u64,
    /// Bytes of answers that peers have not read; see
    /// [`answer_bytes_total_max`](crate::BrokerSettings::answer_bytes_total_max).
    pub answer_bytes: u64,
    /// Bytes of deliveries that wait to be read by their peers; see
    /// [`delivery_bytes_total_max`](crate::BrokerSettings::delivery_bytes_total_max).
    pub delivery_bytes: u64,
    /// Subscriptions and open producers of all connections; see
    /// [`handles_total_max`](crate::BrokerSettings::handles_total_max).
    pub handles: u64,
}

/// How often peers were told each kind of refusal, and by which limits.
#[derive(Debug)]
pub(super) struct Refusals {
    by_code: [AtomicU64; RefusalCode::ALL.len()],
    by_limit: [AtomicU64; Limit::ALL.len()],
}

impl Default for Refusals {
    fn default() -> Self {
        let (by_code, by_limit) = (
            std::array::from_fn(|_| AtomicU64::new(0)),
            std::array::from_fn(|_| AtomicU64::new(0)),
        );
        Self { by_code, by_limit }
    }
}

impl Refusals {
    pub(super) fn count(&self, refusal: &Refusal) {
        let code = RefusalCode::ALL.iter().position(|code| *code == refusal.code);
        let limit = refusal.limit.and_then(|limit| Limit::ALL.iter().position(|it| *it == limit));
        let by_code = code.and_then(|place| self.by_code.get(place));
        let by_limit = limit.and_then(|place| self.by_limit.get(place));
        for count in by_code.into_iter().chain(by_limit) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> Vec<(RefusalCode, u64)> {
        let counts = self.by_code.iter().map(|count| count.load(Ordering::Relaxed));
        RefusalCode::ALL.iter().copied().zip(counts).collect()
    }

    pub(super) fn by_limit(&self) -> Vec<(Limit, u64)> {
        let counts = self.by_limit.iter().map(|count| count.load(Ordering::Relaxed));
        Limit::ALL.iter().copied().zip(counts).collect()
    }
}
