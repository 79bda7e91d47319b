//! Which consumer of its channel a consumer is: [`ConsumerSeat`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ltq_core::{ChannelName, Entropy, Seat, SystemEntropy, TopicName};
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
/// Consumers of different channels are not in each other's way, whatever seat they have. One that the broker does
/// not let in takes nothing from those before it.
#[derive(Clone, Debug)]
pub struct ConsumerSeat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: [u8; 16],
    /// Consumers that came to it so far.
    comers: AtomicU32,
    /// The last of them that was let in, by channel.
    seated: Mutex<BTreeMap<(TopicName, ChannelName), u32>>,
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
        Sitting { seat: self, place: (topic, channel), comer, asked: AtomicU32::new(0) }
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
}

impl Sitting {
    /// As it is asked for once more; `None` once a later consumer has it.
    pub(super) fn again(&self) -> Option<Seat> {
        if self.seat.0.seated.lock().get(&self.place).is_some_and(|seated| *seated > self.comer) {
            return None;
        }
        let asked = self.asked.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // A later consumer's is larger, however often an earlier one asked.
        let turn = u64::from(self.comer) << 32 | u64::from(asked);
        Some(Seat { number: self.seat.0.number, turn })
    }

    /// The broker let it in. An earlier one may still be told so, by an answer from before the later one's.
    pub(super) fn seated(&self) {
        let mut seated = self.seat.0.seated.lock();
        let last = seated.entry(self.place.clone()).or_default();
        *last = (*last).max(self.comer);
    }
}
