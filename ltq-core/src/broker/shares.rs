//! What the peers of one address have of what all peers share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{budget::Budget, places::Places, settings::BrokerSettings};
use crate::Origin;

/// The part of one address, so that it does not take the others'.
#[derive(Debug)]
pub(super) struct Share {
    /// Publishes that are not answered, those of streams and connections that are gone among them.
    pub(super) published: Budget,
    /// Answers that are not read.
    pub(super) answers: Budget,
    /// Deliveries that wait to be read.
    pub(super) delivered: Budget,
    /// Subscriptions and producers.
    pub(super) handles: Places,
}

/// The parts of all addresses that have something.
#[derive(Debug)]
pub(super) struct Shares {
    publish_bytes: usize,
    answer_bytes: usize,
    delivery_bytes: usize,
    handles: usize,
    by_origin: Mutex<ByOrigin>,
}

/// With how many there may be before those that are gone are looked for.
#[derive(Debug)]
struct ByOrigin {
    shares: BTreeMap<Origin, Weak<Share>>,
    tidy_at: usize,
}

impl Shares {
    pub(super) fn new(settings: &BrokerSettings) -> Self {
        Self {
            publish_bytes: settings.publish_bytes_per_address(),
            answer_bytes: settings.answer_bytes_per_address(),
            delivery_bytes: settings.delivery_bytes_per_address(),
            handles: settings.handles_per_address(),
            by_origin: Mutex::new(ByOrigin { shares: BTreeMap::new(), tidy_at: TIDY_MIN }),
        }
    }

    /// The part of an address; none where there is no address to count by.
    pub(super) fn of(&self, from: Option<Origin>) -> Option<Arc<Share>> {
        let origin = from?;
        let mut by_origin = self.by_origin.lock();
        if let Some(share) = by_origin.shares.get(&origin).and_then(Weak::upgrade) {
            return Some(share);
        }
        if by_origin.shares.len() >= by_origin.tidy_at {
            by_origin.shares.retain(|_, share| share.strong_count() > 0);
            by_origin.tidy_at = TIDY_MIN.max(2 * by_origin.shares.len());
        }
        let share = Arc::new(Share {
            published: Budget::new(self.publish_bytes),
            answers: Budget::new(self.answer_bytes),
            delivered: Budget::new(self.delivery_bytes),
            handles: Places::new(self.handles),
        });
        by_origin.shares.insert(origin, Arc::downgrade(&share));
        Some(share)
    }
}

/// So few are kept whether or not anybody has them.
const TIDY_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::far;

    #[test]
    fn promise_9_an_address_keeps_its_part_while_anything_counts_and_is_forgotten_then() {
        let shares = Shares::new(&BrokerSettings::default());
        assert!(shares.of(None).is_none());
        let first = shares.of(far(0)).unwrap();
        first.published.take(7);
        assert_eq!(shares.of(far(0)).unwrap().published.used(), 7);
        assert_eq!(shares.of(far(1)).unwrap().published.used(), 0);
        // As many addresses as like come and go, and of those that are gone nothing is kept.
        for n in 2..100_000 {
            let _ = shares.of(far(n));
            assert!(shares.by_origin.lock().shares.len() <= TIDY_MIN);
        }
        assert_eq!(shares.of(far(0)).unwrap().published.used(), 7);
        drop(first);
        let held: Vec<_> = (0..1_000).map(|n| shares.of(far(n))).collect();
        assert_eq!(shares.of(far(0)).unwrap().published.used(), 0);
        assert!(shares.by_origin.lock().shares.len() <= 2 * held.len());
    }
}
