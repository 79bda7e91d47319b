//! Which consumer of its channel a consumer is: [`ConsumerSeat`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ltq_core::{ChannelName, Entropy, Seat, SystemEntropy, TopicName, protocol::InstanceId};
use parking_lot::Mutex;

/// A consumer's seat in a channel. Cheap to clone; all clones are one seat.
///
/// Whoever subscribes with a seat ends the subscription that has it there, as long as it belongs to the same
/// program for the broker (the same token or certificate). What that one had comes first to the new one, if it is
/// alone in its channel, and ahead of everything that was never delivered. Each [`Consumer`](crate::Consumer) has
/// a seat of its own, and so takes over from itself after a lost connection, which the broker may not have found
/// dead yet. Give one seat to several consumers, [one after another](crate::ConsumerBuilder::seat), where a later
/// one goes on in the place of an earlier one whose connection may be lost: the earlier one does not come back.
///
/// Consumers of different channels are not in each other's way, whatever seat they have, nor are consumers at
/// different brokers: a seat is one in each of them. One that the broker does not let in takes nothing from those
/// before it.
#[derive(Clone, Debug)]
pub struct ConsumerSeat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: [u8; 16],
    /// Consumers that came to it so far.
    comers: AtomicU32,
    /// The last of them that were let in, by channel: one for each server.
    seated: Mutex<BTreeMap<(TopicName, ChannelName), Vec<Seated>>>,
}

/// The last consumer that a broker let in.
#[derive(Debug)]
struct Seated {
    comer: u32,
    /// Where it was let in. A broker that has started anew is the same under its name and address, and one
    /// that is reached by another address by its instance.
    server: String,
    instance: InstanceId,
}

impl Seated {
    fn is_at(&self, server: &str, instance: InstanceId) -> bool {
        self.instance == instance || self.server == server
    }
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
        Self(Arc::new(Inner { number, comers: AtomicU32::new(0), seated: Mutex::default() }))
    }

    /// A further consumer comes, in the place of those before it in its channel.
    pub(super) fn sit(self, topic: TopicName, channel: ChannelName) -> Sitting {
        let comer = self.0.comers.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let (asked, at) = (AtomicU32::new(0), Mutex::default());
        Sitting { seat: self, place: (topic, channel), comer, asked, at }
    }
}

impl Default for ConsumerSeat {
    fn default() -> Self {
        Self::new()
    }
}

/// A consumer's hold on a seat.
pub(super) struct Sitting {
    seat: ConsumerSeat,
    place: (TopicName, ChannelName),
    comer: u32,
    /// How often it was asked for.
    asked: AtomicU32,
    /// Where it was asked for last.
    at: Mutex<Option<(String, InstanceId)>>,
}

impl Sitting {
    /// As it is asked for once more at this server, which is this broker; `None` once a later consumer has
    /// it there.
    pub(super) fn again(&self, server: &str, instance: InstanceId) -> Option<Seat> {
        let is_taken =
            |seated: &Seated| seated.comer > self.comer && seated.is_at(server, instance);
        if self.seat.0.seated.lock().get(&self.place).is_some_and(|all| all.iter().any(is_taken)) {
            return None;
        }
        *self.at.lock() = Some((server.to_owned(), instance));
        let asked = self.asked.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // A later consumer's is larger, however often an earlier one asked.
        let turn = u64::from(self.comer) << 32 | u64::from(asked);
        Some(Seat { number: self.seat.0.number, turn })
    }

    /// The broker let it in. An earlier one may still be told so, by an answer from before the later one's.
    pub(super) fn seated(&self) {
        let Some((server, instance)) = self.at.lock().clone() else { return };
        let mut seated = self.seat.0.seated.lock();
        let all = seated.entry(self.place.clone()).or_default();
        match all.iter_mut().find(|seated| seated.server == server) {
            Some(seated) => {
                seated.comer = seated.comer.max(self.comer);
                seated.instance = instance;
            }
            None => all.push(Seated { comer: self.comer, server, instance }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_consumer_has_a_seat_at_its_broker_however_that_is_reached_and_at_no_other() {
        let seat = ConsumerSeat::new();
        let sit = || seat.clone().sit(TopicName::new("t").unwrap(), ChannelName::new("c").unwrap());
        let [one, other, restarted] = [1, 2, 3].map(|n| InstanceId([n; 16]));
        let (earlier, later) = (sit(), sit());
        assert!(earlier.again("a", one).is_some());
        earlier.seated();
        assert!(later.again("b", other).is_some());
        later.seated();
        assert!(earlier.again("a", one).is_some(), "another broker");
        assert!(later.again("a", one).is_some());
        assert!(earlier.again("a", one).is_some(), "it was not let in");
        earlier.seated();
        assert!(later.again("a", one).is_some());
        later.seated();
        assert!(earlier.again("a", one).is_none());
        assert!(earlier.again("by another address", one).is_none());
        assert!(earlier.again("a", restarted).is_none());
        assert!(later.again("a", restarted).is_some());
        assert!(earlier.again("c", InstanceId([4; 16])).is_some());
    }
}
