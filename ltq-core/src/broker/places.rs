//! What peers may have open at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{settings::BrokerSettings, shares::Share};
use crate::{Limit, Refusal};

/// So many places, and how many of them are taken.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: AtomicUsize,
}

impl Places {
    pub(super) const fn new(max: usize) -> Self {
        Self { max, taken: AtomicUsize::new(0) }
    }

    /// Takes one, if there is one left.
    pub(super) fn take(&self) -> bool {
        let one_more = |taken: usize| (taken < self.max).then(|| taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    pub(super) fn give_back(&self, count: usize) {
        if count > 0 {
            let before = self.taken.fetch_sub(count, Relaxed);
            debug_assert!(before >= count, "{count} given back, {before} taken");
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

/// What a peer opens, and keeps the broker from forgetting until it closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Subscription,
    Producer,
    /// An operator's request, until it is answered.
    Request,
}

/// What all streams of a connection have open, which counts for the node and for an address too.
#[derive(Debug)]
pub(super) struct Open {
    subscriptions: Places,
    producers: Places,
    requests: Places,
    /// Subscriptions and producers of all connections, and of those of the same address.
    of_node: Arc<Places>,
    of_address: Option<Arc<Share>>,
}

impl Open {
    pub(super) fn new(
        of_node: Arc<Places>,
        of_address: Option<Arc<Share>>,
        settings: &BrokerSettings,
    ) -> Self {
        Self {
            subscriptions: Places::new(settings.subscriptions_max as usize),
            producers: Places::new(settings.producers_max as usize),
            requests: Places::new(settings.requests_max as usize),
            of_node,
            of_address,
        }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// A refusal that names the limit that leaves no room for it.
    pub(super) fn take(&self, kind: Kind) -> Result<(), Refusal> {
        let places = self.of(kind);
        if !places.take() {
            let (limit, what) = match kind {
                Kind::Subscription => (Limit::Subscriptions, "subscriptions"),
                Kind::Producer => (Limit::Producers, "producers"),
                Kind::Request => (Limit::Requests, "unanswered operators' requests"),
            };
            let max = places.max;
            let detail =
                format!("a connection may have {max} {what} at a time, on all its streams");
            return Err(Refusal::limit(limit, detail));
        }
        if kind == Kind::Request {
            return Ok(());
        }
        let refusal = if let Some(share) = &self.of_address
            && !share.handles.take()
        {
            let max = share.handles.max;
            let detail =
                format!("one address may have {max} subscriptions and producers at a time");
            Refusal::limit(Limit::HandlesPerAddress, detail)
        } else if !self.of_node.take() {
            if let Some(share) = &self.of_address {
                share.handles.give_back(1);
            }
            let max = self.of_node.max;
            let detail = format!("the node has {max} subscriptions and producers, the most it may");
            Refusal::limit(Limit::Handles, detail)
        } else {
            return Ok(());
        };
        places.give_back(1);
        Err(refusal)
    }

    /// So many are closed.
    pub(super) fn give_back(&self, kind: Kind, count: usize) {
        self.of(kind).give_back(count);
        if kind != Kind::Request {
            self.of_node.give_back(count);
            if let Some(share) = &self.of_address {
                share.handles.give_back(count);
            }
        }
    }

    const fn of(&self, kind: Kind) -> &Places {
        match kind {
            Kind::Subscription => &self.subscriptions,
            Kind::Producer => &self.producers,
            Kind::Request => &self.requests,
        }
    }
}

#[cfg(test)]
impl Open {
    /// How many of this kind are open.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of(kind).taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{shares::Shares, testing};

    #[test]
    fn promise_9_what_is_open_counts_for_the_connection_the_address_and_the_node() {
        let settings = BrokerSettings {
            subscriptions_max: 3,
            producers_max: 3,
            requests_max: 1,
            handles_total_max: 6,
            handles_per_address_max: Some(4),
            ..BrokerSettings::default()
        };
        let node = Arc::new(Places::new(settings.handles_total_max));
        let shares = Shares::new(&settings);
        let connection = |far: bool| {
            let address = far.then(|| shares.of(testing::far(1)));
            Open::new(node.clone(), address.flatten(), &settings)
        };
        let take = |open: &Open, kind| open.take(kind).map_err(|refusal| refusal.limit.unwrap());
        let (one, two, near) = (connection(true), connection(true), connection(false));
        for _ in 0..3 {
            assert_eq!(take(&one, Kind::Subscription), Ok(()));
        }
        assert_eq!(take(&one, Kind::Subscription), Err(Limit::Subscriptions));
        assert_eq!(take(&one, Kind::Producer), Ok(()), "counted apart");
        assert_eq!(take(&two, Kind::Producer), Err(Limit::HandlesPerAddress));
        // Other peers of this machine share no address.
        assert_eq!(take(&near, Kind::Producer), Ok(()));
        assert_eq!(take(&near, Kind::Producer), Ok(()));
        assert_eq!(take(&near, Kind::Subscription), Err(Limit::Handles));
        // Requests are neither.
        assert_eq!(take(&near, Kind::Request), Ok(()));
        assert_eq!(take(&near, Kind::Request), Err(Limit::Requests));
        // What was refused counts nowhere.
        assert_eq!((node.taken(), two.count(Kind::Producer)), (6, 0));
        one.give_back(Kind::Subscription, 3);
        assert_eq!(take(&two, Kind::Producer), Ok(()));
        assert_eq!(take(&near, Kind::Subscription), Ok(()));
        assert_eq!(node.taken(), 5);
    }
}
