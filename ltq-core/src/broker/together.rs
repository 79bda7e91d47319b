//! What the streams of one connection share.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;

use super::{
    budget::Budget,
    holds::{Hold, Holds},
    in_vain::{InVain, VainMax},
    outbox::Outbox,
    places::{Open, Places},
    settings::BrokerSettings,
    shares::Share,
};
use crate::Origin;

/// Counts over all streams of a connection. A peer opens a stream for next to nothing, so that no
/// limit on what it costs the node may be multiplied by their number.
#[derive(Debug)]
pub(super) struct Together {
    /// Deliveries that wait for any session of the broker.
    delivered: Arc<Budget>,
    holds: Arc<Holds>,
    /// Deliveries that may wait for one stream.
    delivery_bytes_max: usize,
    /// Memory that half-read short frames may take without being counted against the broker's limit.
    partial_bytes_free: usize,
    /// Those that wait for sessions of this connection.
    delivery_bytes: AtomicUsize,
    /// Streams that want a turn, in order, and whether there is any. That is set before the counts are
    /// looked at for the last time, and looked at after they have become less.
    waiting: Mutex<VecDeque<Weak<Outbox>>>,
    waited_for: AtomicBool,
    /// Memory of short frames that are there in part.
    half_read_bytes: AtomicUsize,
    /// What brought nothing.
    pub(super) in_vain: InVain,
    /// Publishes that are not answered, here and of all connections of the address.
    pub(super) publishes: Budget,
    pub(super) address: Option<Arc<Share>>,
    /// Answers that its peer has not read, and those of all peers.
    pub(super) answers: Budget,
    pub(super) answers_of_node: Arc<Budget>,
    pub(super) open: Open,
    /// Where the peer comes from, as far as limits count.
    pub(super) origin: Option<Origin>,
}

/// Where a connection comes from, and what it shares with others.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) delivered: Arc<Budget>,
    pub(super) answers: Arc<Budget>,
    pub(super) holds: Arc<Holds>,
    pub(super) handles: Arc<Places>,
    pub(super) origin: Option<Origin>,
    pub(super) address: Option<Arc<Share>>,
}

impl Together {
    pub(super) fn new(common: Common, settings: &BrokerSettings) -> Arc<Self> {
        let Common { delivered, answers, holds, handles, origin, address } = common;
        Arc::new(Self {
            publishes: Budget::new(settings.publish_bytes_per_connection()),
            answers: Budget::new(settings.answer_bytes_per_connection()),
            answers_of_node: answers,
            open: Open::new(handles, address.clone(), settings),
            address,
            origin,
            delivered,
            holds,
            delivery_bytes_max: settings.delivery_bytes_max,
            partial_bytes_free: settings.partial_bytes_free,
            delivery_bytes: AtomicUsize::new(0),
            waiting: Mutex::default(),
            waited_for: AtomicBool::new(false),
            half_read_bytes: AtomicUsize::new(0),
            in_vain: InVain::new(VainMax::of(settings)),
        })
    }

    /// Bytes of deliveries that wait for one stream, above which it is given no more.
    pub(super) const fn delivery_bytes_max(&self) -> usize {
        self.delivery_bytes_max
    }

    /// A stream is made to wait for a delivery.
    pub(super) fn held_back(&self, hold: Hold) {
        self.holds.count(hold);
    }

    /// Whether all sessions together, or those of the address, have more waiting than they should.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowd().is_some()
    }

    /// The limit that is passed, if one is.
    pub(super) fn crowd(&self) -> Option<Hold> {
        if self.address.as_ref().is_some_and(|address| address.delivered.is_full()) {
            return Some(Hold::DeliveryBytesPerAddress);
        }
        self.delivered.is_full().then_some(Hold::DeliveryBytesTotal)
    }

    /// Whether there is room for so many bytes to a stream that `own` bytes wait for, which are taken
    /// if so. One that nothing waits for gets a turn when there is room again; others see it themselves.
    pub(super) fn admit(&self, stream: &Arc<Outbox>, own: usize, bytes: usize) -> bool {
        if !self.is_crowded() {
            self.take(bytes);
            return true;
        }
        if own > 0 {
            return false;
        }
        if self.take_alone(bytes) {
            return true;
        }
        self.wait(stream);
        // Who took the last bytes away meanwhile may have looked at the list before.
        let admitted = match self.is_crowded() {
            true => self.take_alone(bytes),
            false => {
                self.take(bytes);
                true
            }
        };
        if admitted && bytes > 0 {
            self.leave(stream);
        }
        admitted
    }

    /// A stream wants a turn.
    pub(super) fn wait(&self, stream: &Arc<Outbox>) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|known| known.as_ptr() == Arc::as_ptr(stream)) {
            waiting.push_back(Arc::downgrade(stream));
        }
        self.waited_for.store(true, SeqCst);
    }

    /// A stream wants none any more.
    pub(super) fn leave(&self, stream: &Outbox) {
        self.waiting.lock().retain(|known| !std::ptr::eq(known.as_ptr(), stream));
    }

    fn take_alone(&self, bytes: usize) -> bool {
        // An address with many connections has no run for each of them beyond this.
        if self.address.as_ref().is_some_and(|address| address.delivered.is_crowded()) {
            return false;
        }
        let alone = self.delivery_bytes.compare_exchange(0, bytes, SeqCst, SeqCst).is_ok();
        if alone {
            self.count_delivered(bytes);
        }
        alone
    }

    /// Deliveries are let in.
    pub(super) fn take(&self, bytes: usize) {
        self.delivery_bytes.fetch_add(bytes, SeqCst);
        self.count_delivered(bytes);
    }

    fn count_delivered(&self, bytes: usize) {
        self.delivered.take(bytes);
        if let Some(address) = &self.address {
            address.delivered.take(bytes);
        }
    }

    /// What waits for one stream has become less or more.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.take(after - before);
        } else {
            self.delivery_bytes.fetch_sub(before - after, SeqCst);
            self.delivered.give_back(before - after);
            if let Some(address) = &self.address {
                address.delivered.give_back(before - after);
            }
        }
    }

    /// Lets streams go on that wait for a turn, if there is room now: in a crowd the first that has
    /// use for it, which comes last then. Said when something here has become less; of a crowd that
    /// ends elsewhere streams hear with their next heartbeat.
    pub(super) fn relieve(&self) {
        while self.waited_for.load(SeqCst) {
            let crowded = self.is_crowded();
            if crowded && self.delivery_bytes.load(SeqCst) > 0 {
                return;
            }
            let mut waiting = self.waiting.lock();
            let stream = waiting.pop_front();
            self.waited_for.store(!waiting.is_empty(), SeqCst);
            drop(waiting);
            let Some(stream) = stream else { return };
            let Some(stream) = stream.upgrade() else { continue };
            let (any, others) = stream.take_turn();
            if crowded && any {
                if others {
                    self.wait(&stream);
                }
                return;
            }
        }
    }

    /// Streams have published so much.
    pub(super) fn published(&self, bytes: usize) {
        self.publishes.take(bytes);
        if let Some(address) = &self.address {
            address.published.take(bytes);
        }
    }

    /// So much of it is answered.
    pub(super) fn answered(&self, bytes: usize) {
        self.publishes.give_back(bytes);
        if let Some(address) = &self.address {
            address.published.give_back(bytes);
        }
    }

    /// Streams have so many bytes of answers to say.
    pub(super) fn says(&self, bytes: usize) {
        self.answers.take(bytes);
        self.answers_of_node.take(bytes);
        if let Some(address) = &self.address {
            address.answers.take(bytes);
        }
    }

    /// So many of them are said, or are not to be said any more.
    pub(super) fn said(&self, bytes: usize) {
        self.answers.give_back(bytes);
        self.answers_of_node.give_back(bytes);
        if let Some(address) = &self.address {
            address.answers.give_back(bytes);
        }
    }

    /// One stream's short frame takes so much memory now instead of so much before. Says whether all
    /// of them together are free still.
    pub(super) fn half_read(&self, before: usize, after: usize) -> bool {
        if before == 0 && after == 0 {
            return true;
        }
        let all = if after >= before {
            self.half_read_bytes.fetch_add(after - before, SeqCst) + (after - before)
        } else {
            self.half_read_bytes.fetch_sub(before - after, SeqCst) - (before - after)
        };
        all <= self.partial_bytes_free
    }
}

#[cfg(test)]
impl Together {
    /// With the usual limits.
    pub(super) fn of(delivered: Arc<Budget>) -> Arc<Self> {
        Self::with(delivered, &BrokerSettings::default())
    }

    /// With these limits.
    pub(super) fn with(delivered: Arc<Budget>, settings: &BrokerSettings) -> Arc<Self> {
        let handles = Arc::new(Places::new(settings.handles_total_max));
        let answers = Arc::new(Budget::new(settings.answer_bytes_total_max));
        let common = Common {
            delivered,
            answers,
            holds: Arc::default(),
            handles,
            origin: None,
            address: None,
        };
        Self::new(common, settings)
    }
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
