//! What was forwarded of late: [`Memory`] of one topic on one node, and [`Memories`] for those that come back.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt, mem,
    sync::Arc,
};

use ltq_client::{ConsumerSeat, Delivery};
use ltq_core::{Offset, Timestamp};
use parking_lot::Mutex;

use super::TopicOnNode;

/// Which message of a topic. The time tells apart topics of one name that were made after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Offset, Timestamp);

impl Key {
    pub(super) const fn of(delivery: &Delivery) -> Self {
        Self(delivery.offset(), delivery.time())
    }
}

/// The messages that were forwarded last, as many as can come again for acks that were lost with their
/// connection. Dropped, it goes to the [`Memories`] that it is of, if it is of any.
#[derive(Default)]
pub struct Memory {
    done: Done,
    of: Option<(Memories, TopicOnNode)>,
}

#[derive(Default)]
struct Done {
    order: VecDeque<Key>,
    known: HashSet<Key>,
    max: u64,
    /// The consumer's, which takes over what an earlier one of it has still in flight.
    seat: ConsumerSeat,
}

/// What forwarders that have ended remember, for those that go on with the same topic of the same node: a node
/// that moves, or is forgotten by registries and comes back, does not have its messages forwarded twice for
/// that. Those that ended first are forgotten first where there are too many.
#[derive(Clone, Default)]
pub struct Memories(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// With its turn.
    by_place: HashMap<TopicOnNode, (u64, Done)>,
    /// By turn: the first is given up first.
    order: BTreeMap<u64, TopicOnNode>,
    next_turn: u64,
    keys: usize,
}

impl Memory {
    pub(super) fn has(&self, key: Key) -> bool {
        self.done.known.contains(&key)
    }

    pub(super) fn remember(&mut self, key: Key) {
        if self.done.known.insert(key) {
            self.done.order.push_back(key);
        }
        self.shorten();
    }

    /// Remembers so many from now on, and some at least.
    pub(super) fn keep(&mut self, max: u64) {
        self.done.max = max;
        self.shorten();
    }

    /// What comes from now on is to be forwarded, whether it was or not.
    pub(super) fn forget(&mut self) {
        let Done { max, seat, .. } = mem::take(&mut self.done);
        self.done = Done { max, seat, ..Done::default() };
    }

    /// The seat in which whoever has this consumes.
    pub(super) const fn seat(&self) -> &ConsumerSeat {
        &self.done.seat
    }

    fn shorten(&mut self) {
        while self.done.order.len() as u64 > self.done.max.max(DONE_MIN) {
            if let Some(key) = self.done.order.pop_front() {
                self.done.known.remove(&key);
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some((memories, place)) = self.of.take() {
            memories.put(place, mem::take(&mut self.done));
        }
    }
}

impl Memories {
    /// What is remembered of a topic on a node, for who forwards it now. It comes back when that ends.
    #[must_use]
    pub fn take(&self, place: TopicOnNode) -> Memory {
        let mut kept = self.0.lock();
        let done = kept.remove(&place).unwrap_or_default();
        drop(kept);
        Memory { done, of: Some((self.clone(), place)) }
    }

    fn put(&self, place: TopicOnNode, done: Done) {
        let mut kept = self.0.lock();
        kept.remove(&place);
        kept.keys += done.weight();
        let turn = kept.next_turn;
        kept.next_turn += 1;
        kept.by_place.insert(place.clone(), (turn, done));
        kept.order.insert(turn, place);
        while kept.keys > KEYS_MAX
            && let Some(first) = kept.order.first_key_value().map(|(_, place)| place.clone())
        {
            kept.remove(&first);
        }
    }
}

impl Done {
    /// What it counts, in keys: a topic of which nothing was forwarded has a seat and a place, too.
    fn weight(&self) -> usize {
        self.order.len() + PLACE_KEYS
    }
}

impl Kept {
    fn remove(&mut self, place: &TopicOnNode) -> Option<Done> {
        let (turn, done) = self.by_place.remove(place)?;
        self.order.remove(&turn);
        self.keys = self.keys.saturating_sub(done.weight());
        Some(done)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("messages", &self.done.order.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Memories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.lock();
        f.debug_struct("Memories").field("topics", &kept.order.len()).finish_non_exhaustive()
    }
}

/// How many are remembered at least.
const DONE_MIN: u64 = 512;
/// What a topic takes beside its messages, in as many of these.
const PLACE_KEYS: usize = 8;
/// How many are remembered of all topics that are not forwarded at present: some 10 MiB.
const KEYS_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use ltq_core::Credit;

    use super::*;
    use crate::bridge::{Budget, Refused, ledger::Ledger};

    fn place(topic: &str) -> TopicOnNode {
        ("n".parse().unwrap(), topic.parse().unwrap())
    }

    const fn key(offset: u64) -> Key {
        Key(Offset(offset), Timestamp(1))
    }

    #[test]
    fn what_one_remembers_the_next_knows_unless_it_was_to_be_forgotten() {
        let memories = Memories::default();
        let mut first = memories.take(place("t"));
        first.keep(1_000);
        (0..1_500).for_each(|offset| first.remember(key(offset)));
        assert!(!first.has(key(499)) && first.has(key(500)), "the last thousand");
        drop(first);
        let mut second = memories.take(place("t"));
        assert!(second.has(key(1_499)) && !memories.take(place("other")).has(key(1_499)));
        second.forget();
        drop(second);
        assert!(!memories.take(place("t")).has(key(1_499)));
        assert_eq!(memories.0.lock().keys, 2 * PLACE_KEYS, "no message of either");
    }

    #[test]
    fn twice_the_credit_is_remembered() {
        let credit = Credit { messages: 1_000, bytes: 1 << 20 };
        let share = Budget::new(64 << 20, credit).share();
        let mut ledger = Ledger::new(&Refused::Hold, Memory::default(), share.counted().clone());
        ledger.remember(credit);
        let mut memory = ledger.into_memory();
        (0..2_500).for_each(|offset| memory.remember(key(offset)));
        assert!(!memory.has(key(499)) && memory.has(key(500)));
    }

    #[test]
    fn of_topics_that_are_not_forwarded_any_more_only_so_much_is_remembered() {
        let memories = Memories::default();
        for topic in 0..500 {
            let mut memory = memories.take(place(&format!("t{topic}")));
            (0..600).for_each(|offset| memory.remember(key(offset)));
        }
        let kept = memories.0.lock();
        assert!(kept.keys <= KEYS_MAX && kept.keys > KEYS_MAX - 1_000, "{}", kept.keys);
        assert_eq!(kept.by_place.len(), kept.order.len());
        drop(kept);
        assert!(memories.take(place("t499")).has(key(599)));
        assert!(!memories.take(place("t0")).has(key(599)));
    }
}
