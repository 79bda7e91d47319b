//! What all forwarders hold in memory, shared out among them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ltq_core::Credit;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// A bound on what all forwarders hold of messages at a time. Each has the same share of it, which is as
/// large as is allowed to one while there are few of them.
///
/// A message counts three times: as it came, once more for what else is in the buffers that it came in, and
/// as it goes. Beyond the bound stand, for each forwarder, the message that uses up the last of its share,
/// and, after its source was lost and found again, as much as its share once more until the next look at what
/// became void.
///
/// A forwarder that ends before all that it sent is answered counts on, as one that ends, until that is: what it
/// sent stays in memory so long.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: u64,
    each_max: Credit,
    forwarders: watch::Sender<u64>,
    /// Of which so many have ended, and what they sent is not answered.
    ending: AtomicU64,
}

/// A forwarder's part of a [`Budget`], for as long as it is kept.
#[derive(Debug)]
pub struct Share {
    counted: Arc<Counted>,
    changes: watch::Receiver<u64>,
}

/// That a forwarder counts, and its place among the topics, if it has one.
#[derive(Debug)]
pub(super) struct Counted {
    budget: Budget,
    place: Option<OwnedSemaphorePermit>,
}

/// That a forwarder counts on after its end, for what it sent and is not answered.
#[derive(Debug)]
pub(super) struct Ending(Arc<Counted>);

impl Budget {
    /// At most `bytes_max` for all, and `each_max` for one.
    #[must_use]
    pub fn new(bytes_max: u64, each_max: Credit) -> Self {
        let (forwarders, _) = watch::channel(0);
        let ending = AtomicU64::new(0);
        Self { shared: Arc::new(Shared { bytes_max, each_max, forwarders, ending }) }
    }

    /// The part of one more.
    #[must_use]
    pub fn share(&self) -> Share {
        self.share_with(None)
    }

    /// The part of one more, which gives back its place when it counts no longer.
    pub(super) fn share_at(&self, place: OwnedSemaphorePermit) -> Share {
        self.share_with(Some(place))
    }

    /// Forwarders that have ended, and whose messages the destination has not answered.
    #[must_use]
    pub fn ending(&self) -> u64 {
        self.shared.ending.load(Ordering::Relaxed)
    }

    fn share_with(&self, place: Option<OwnedSemaphorePermit>) -> Share {
        self.shared.forwarders.send_modify(|count| *count += 1);
        let mut changes = self.shared.forwarders.subscribe();
        changes.mark_changed();
        Share { counted: Arc::new(Counted { budget: self.clone(), place }), changes }
    }

    /// The least bytes that so many forwarders take.
    #[must_use]
    pub const fn least_for(forwarders: u64) -> u64 {
        forwarders.saturating_mul(COPIES * SHARE_BYTES_MIN)
    }
}

impl Share {
    /// What its forwarder may have unsettled at a time.
    #[must_use]
    pub fn credit(&self) -> Credit {
        let shared = &self.counted.budget.shared;
        let count = (*shared.forwarders.borrow()).max(1);
        let bytes =
            (shared.bytes_max / COPIES / count).max(SHARE_BYTES_MIN).min(shared.each_max.bytes);
        // What is remembered of each message is no more than a part of the share, however short messages are.
        let messages = (bytes / MESSAGE_BYTES_MIN).max(1).min(shared.each_max.messages);
        Credit { messages, bytes }
    }

    /// The most that it is ever.
    #[must_use]
    pub fn credit_max(&self) -> Credit {
        self.counted.budget.shared.each_max
    }

    /// What counts as long as it is kept.
    pub(super) const fn counted(&self) -> &Arc<Counted> {
        &self.counted
    }

    /// Waits until it may be another one. The first call does not wait. Cancel safe.
    pub async fn changed(&mut self) -> Credit {
        // Its sender is its own.
        let _there = self.changes.changed().await;
        self.credit()
    }
}

impl Counted {
    /// It counts on after its forwarder's end.
    pub(super) fn ending(self: Arc<Self>) -> Ending {
        self.budget.shared.ending.fetch_add(1, Ordering::Relaxed);
        Ending(self)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.budget.shared.ending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        drop(self.place.take());
        self.budget.shared.forwarders.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// How often a message counts.
const COPIES: u64 = 3;
/// The least bytes of a share.
const SHARE_BYTES_MIN: u64 = 64 << 10;
/// As how many bytes the shortest message counts in a share.
const MESSAGE_BYTES_MIN: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_together_are_never_more_than_the_budget() {
        let budget = Budget::new(96 << 20, Credit { messages: 2_500, bytes: 16 << 20 });
        let mut shares = Vec::new();
        for count in 1..=512_u64 {
            shares.push(budget.share());
            let credit = shares[0].credit();
            assert!(credit.bytes * 3 * count <= 96 << 20, "{count} of {credit:?}");
            assert!(credit.messages >= 1 && credit.messages <= 2_500);
        }
        assert_eq!(Budget::least_for(512), 96 << 20, "there are no more than that");
        assert_eq!(shares[0].credit(), Credit { messages: 256, bytes: 64 << 10 });
        shares.truncate(1);
        assert_eq!(shares[0].credit(), Credit { messages: 2_500, bytes: 16 << 20 });
    }

    #[tokio::test]
    async fn a_share_hears_of_others_that_come_and_go() {
        let budget = Budget::new(6 << 20, Credit { messages: 1_000, bytes: 16 << 20 });
        let mut first = budget.share();
        assert_eq!(first.changed().await.bytes, 2 << 20, "the first call does not wait");
        let second = budget.share();
        assert_eq!(first.changed().await.bytes, 1 << 20);
        drop(second);
        assert_eq!(first.changed().await.bytes, 2 << 20);
    }
}
