//! The consumers of one channel: their credit, and whose turn it is.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use super::{Claim, ConsumerId, in_flight::Slot};
use crate::{Credit, Tag};

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: ConsumerId,
    /// How long a delivery to it may stay unsettled.
    pub(super) timeout: Duration,
    /// Its seat, if it has one.
    pub(super) claim: Option<Box<Claim>>,
    /// What it granted since it subscribed. It may have taken back so much that this is less than
    /// what it got.
    granted: Credit,
    /// What it got.
    used: Credit,
    held: bool,
    /// Whether it wants nobody else to get anything.
    alone: bool,
    /// Whether it takes something now, and so stands in line.
    willing: bool,
    /// Its neighbours in line.
    before: Option<Slot>,
    behind: Option<Slot>,
    /// The last tag that it was sent.
    pub(super) last_tag: Tag,
}

impl Consumer {
    /// What it will take now.
    pub(super) const fn open(&self) -> Credit {
        self.granted.minus(self.used)
    }

    const fn wants(&self) -> bool {
        let open = self.open();
        !self.held && open.messages > 0 && open.bytes > 0
    }
}

/// The consumers of a channel. Those that take something stand in line, linked through their
/// slots, so that joining, leaving and moving to the end cost the same for two and for 100,000.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    slots: Vec<Option<Consumer>>,
    free: Vec<Slot>,
    head: Option<Slot>,
    tail: Option<Slot>,
    count: usize,
    willing: usize,
    /// In a box, so that an idle channel has no room for it.
    rare: Option<Box<Rare>>,
}

/// What few channels have.
#[derive(Debug, Default)]
struct Rare {
    /// Who sits where.
    seats: BTreeMap<SeatKey, Slot>,
    /// Who alone gets anything.
    alone: Option<Slot>,
}

/// A seat whatever its turn.
type SeatKey = (Arc<str>, [u8; 16]);

fn key(claim: &Claim) -> SeatKey {
    (claim.owner.clone(), claim.seat.number)
}

impl Consumers {
    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// How many take something now.
    pub(super) const fn willing(&self) -> usize {
        self.willing
    }

    /// Lets a consumer in and says where it stands.
    pub(super) fn add(
        &mut self,
        id: ConsumerId,
        (timeout, claim): (Duration, Option<Box<Claim>>),
        credit: Credit,
        credit_max: Credit,
    ) -> Slot {
        let seat = claim.as_deref().map(key);
        let consumer = Consumer {
            id,
            timeout,
            claim,
            granted: Credit::default(),
            used: Credit::default(),
            held: false,
            alone: false,
            willing: false,
            before: None,
            behind: None,
            last_tag: Tag(0),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots.is_empty() {
                // Most channels have one or two.
                self.slots.reserve_exact(1);
            }
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(consumer);
        }
        if let Some(seat) = seat {
            self.rare.get_or_insert_default().seats.insert(seat, slot);
        }
        self.count += 1;
        self.grant(slot, credit, credit_max);
        slot
    }

    /// Lets a consumer go.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Consumer> {
        self.step_out(slot);
        let consumer = self.slots.get_mut(slot as usize)?.take()?;
        if let (Some(claim), Some(rare)) = (consumer.claim.as_deref(), &mut self.rare)
            && rare.seats.get(&key(claim)) == Some(&slot)
        {
            rare.seats.remove(&key(claim));
        }
        self.count -= 1;
        if self.count == 0 {
            *self = Self::default();
            return Some(consumer);
        }
        self.free.push(slot);
        if self.alone() == Some(slot) {
            let next = self.all().find(|slot| self.get(*slot).is_some_and(|it| it.alone));
            self.set_alone(next);
        }
        Some(consumer)
    }

    /// Who alone gets anything, if anybody does.
    pub(super) fn alone(&self) -> Option<Slot> {
        self.rare.as_ref()?.alone
    }

    fn set_alone(&mut self, slot: Option<Slot>) {
        self.rare.get_or_insert_default().alone = slot;
        for slot in self.all() {
            self.reconsider(slot);
        }
    }

    /// Nobody else is to get anything as long as this one is here. Of several the first one has it.
    pub(super) fn leave_alone(&mut self, slot: Slot) {
        let Some(consumer) = self.get_mut(slot) else { return };
        consumer.alone = true;
        if self.alone().is_none() {
            self.set_alone(Some(slot));
        }
    }

    fn all(&self) -> impl Iterator<Item = Slot> + use<> {
        0..self.slots.len() as Slot
    }

    /// Who has the seat that is claimed.
    pub(super) fn seated(&self, claim: &Claim) -> Option<(Slot, &Consumer)> {
        let slot = *self.rare.as_ref()?.seats.get(&key(claim))?;
        Some((slot, self.get(slot)?))
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Consumer> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut Consumer> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Consumer> + '_ {
        self.slots.iter().flatten()
    }

    /// A consumer takes up to `total` since it subscribed, as far as the limit on open credit
    /// goes. If that is less than before, returns what holds now: what it got is not taken back.
    pub(super) fn grant(&mut self, slot: Slot, total: Credit, open_max: Credit) -> Option<Credit> {
        let consumer = self.get_mut(slot)?;
        let used = consumer.used;
        let granted = total.at_most(used.plus(open_max));
        let before = mem::replace(&mut consumer.granted, granted);
        self.reconsider(slot);
        (!before.is_within(granted)).then(|| granted.at_least(used))
    }

    /// A consumer is to get nothing, whatever its credit.
    pub(super) fn hold(&mut self, slot: Slot) {
        self.set_held(slot, true);
    }

    /// It may get something again.
    pub(super) fn release(&mut self, slot: Slot) {
        self.set_held(slot, false);
    }

    fn set_held(&mut self, slot: Slot, held: bool) {
        let Some(consumer) = self.get_mut(slot) else { return };
        consumer.held = held;
        self.reconsider(slot);
    }

    /// Whose turn it is.
    pub(super) fn next(&self) -> Option<(Slot, &Consumer)> {
        let slot = self.head?;
        Some((slot, self.get(slot)?))
    }

    /// The one whose turn it was got something, and the next comes to the front. Returns the
    /// first of the new tags.
    pub(super) fn delivered(&mut self, messages: u64, bytes: u64) -> Tag {
        let Some(slot) = self.head else { return Tag(0) };
        self.step_out(slot);
        let Some(consumer) = self.get_mut(slot) else { return Tag(0) };
        consumer.used.messages = consumer.used.messages.saturating_add(messages);
        consumer.used.bytes = consumer.used.bytes.saturating_add(bytes);
        let first = Tag(consumer.last_tag.0 + 1);
        consumer.last_tag = Tag(consumer.last_tag.0 + messages);
        self.reconsider(slot);
        first
    }

    /// Puts a consumer in line or takes it out, as it now wants.
    fn reconsider(&mut self, slot: Slot) {
        let Some(consumer) = self.get(slot) else { return };
        let wants = consumer.wants() && self.alone().is_none_or(|alone| alone == slot);
        match (consumer.willing, wants) {
            (false, true) => self.step_in(slot),
            (true, false) => self.step_out(slot),
            _ => {}
        }
    }

    fn step_in(&mut self, slot: Slot) {
        let before = self.tail.replace(slot);
        if let Some(consumer) = self.get_mut(slot) {
            consumer.willing = true;
            consumer.before = before;
            consumer.behind = None;
        }
        match before.and_then(|before| self.get_mut(before)) {
            Some(consumer) => consumer.behind = Some(slot),
            None => self.head = Some(slot),
        }
        self.willing += 1;
    }

    fn step_out(&mut self, slot: Slot) {
        let Some(consumer) = self.get_mut(slot).filter(|consumer| consumer.willing) else { return };
        consumer.willing = false;
        let (before, behind) = (consumer.before.take(), consumer.behind.take());
        match before.and_then(|before| self.get_mut(before)) {
            Some(consumer) => consumer.behind = behind,
            None => self.head = behind,
        }
        match behind.and_then(|behind| self.get_mut(behind)) {
            Some(consumer) => consumer.before = before,
            None => self.tail = before,
        }
        self.willing -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Credit = Credit { messages: 100, bytes: 1_000 };

    fn credit(messages: u64, bytes: u64) -> Credit {
        Credit { messages, bytes }
    }

    fn three() -> Consumers {
        let mut consumers = Consumers::default();
        for handle in 0..3 {
            let id = ConsumerId { handle, ..ConsumerId::default() };
            consumers.add(id, (Duration::ZERO, None), credit(10, 500), MAX);
        }
        consumers
    }

    #[test]
    fn consumers_take_turns() {
        let mut consumers = three();
        let mut turns = Vec::new();
        while let Some((slot, _)) = consumers.next() {
            turns.push(slot);
            consumers.delivered(5, 1);
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        assert_eq!(consumers.willing(), 0);
        consumers.grant(1, credit(11, 500), MAX);
        assert_eq!(consumers.next().unwrap().0, 1);
        assert_eq!(consumers.delivered(1, 1), Tag(11));
    }

    #[test]
    fn credit_is_cut_to_the_limit() {
        let mut consumers = three();
        consumers.grant(0, credit(u64::MAX, 2_000), MAX);
        assert_eq!(consumers.get(0).unwrap().open(), MAX);
        consumers.delivered(60, 5_000);
        assert_eq!(consumers.get(0).unwrap().open(), credit(40, 0));
        assert_eq!(consumers.willing(), 2, "no bytes, no messages");
        assert_eq!(consumers.grant(0, credit(160, 6_000), MAX), None);
        assert_eq!(consumers.get(0).unwrap().open(), MAX);
    }

    #[test]
    fn credit_is_taken_back_as_far_as_it_is_not_used() {
        let mut consumers = three();
        consumers.delivered(4, 40);
        assert_eq!(consumers.grant(0, credit(6, 500), MAX), Some(credit(6, 500)));
        assert_eq!(consumers.get(0).unwrap().open(), credit(2, 460));
        // In one and not in the other.
        assert_eq!(consumers.grant(0, credit(9, 300), MAX), Some(credit(9, 300)));
        assert_eq!(consumers.grant(0, credit(1, 1), MAX), Some(credit(4, 40)));
        assert_eq!(consumers.get(0).unwrap().open(), credit(0, 0));
        assert_eq!(consumers.willing(), 2, "who takes nothing stands in no line");
        // It counts from what was said last, not from what it came to.
        assert_eq!(consumers.grant(0, credit(3, 39), MAX), None);
        assert_eq!((consumers.get(0).unwrap().open(), consumers.willing()), (credit(0, 0), 2));
        assert_eq!(consumers.grant(0, credit(3, 39), MAX), None, "the same again");
        assert_eq!(consumers.grant(0, credit(5, 41), MAX), None);
        assert_eq!((consumers.get(0).unwrap().open(), consumers.willing()), (credit(1, 1), 3));
        assert_eq!(consumers.grant(7, credit(0, 0), MAX), None, "of nobody");
    }

    #[test]
    fn who_takes_credit_back_leaves_the_line_wherever_it_stands_held_or_not() {
        for slot in 0..3 {
            let mut consumers = three();
            consumers.grant(slot, credit(0, 500), MAX).unwrap();
            let mut turns = Vec::new();
            for _ in 0..4 {
                turns.push(consumers.next().unwrap().0);
                consumers.delivered(1, 1);
            }
            let others: Vec<Slot> = (0..3).filter(|other| *other != slot).collect();
            assert_eq!(turns, [&others[..], &others[..]].concat());
        }
        let mut consumers = three();
        consumers.hold(1);
        assert_eq!(consumers.grant(1, credit(0, 0), MAX), Some(credit(0, 0)));
        consumers.release(1);
        assert_eq!(consumers.willing(), 2);
        consumers.grant(1, credit(1, 1), MAX);
        assert_eq!(consumers.willing(), 3);
    }

    #[test]
    fn who_is_alone_has_every_turn_until_it_leaves() {
        let mut consumers = three();
        let turns = |consumers: &mut Consumers| {
            let mut turn = || {
                let slot = consumers.next()?.0;
                consumers.delivered(1, 1);
                Some(slot)
            };
            (0..4).filter_map(|_| turn()).collect::<Vec<_>>()
        };
        consumers.leave_alone(1);
        consumers.leave_alone(2);
        assert_eq!((turns(&mut consumers), consumers.alone()), (vec![1; 4], Some(1)));
        let id = ConsumerId { handle: 9, ..ConsumerId::default() };
        consumers.add(id, (Duration::ZERO, None), credit(10, 10), MAX);
        consumers.grant(0, credit(11, 500), MAX);
        consumers.hold(1);
        assert_eq!(turns(&mut consumers), [0; 0], "not even those that came later");
        consumers.remove(1).unwrap();
        assert_eq!((turns(&mut consumers), consumers.alone()), (vec![2; 4], Some(2)));
        consumers.remove(2).unwrap();
        assert_eq!((turns(&mut consumers), consumers.alone()), (vec![0, 3, 0, 3], None));
    }

    #[test]
    fn who_is_held_or_gone_gets_no_turn() {
        let mut consumers = three();
        consumers.hold(0);
        consumers.remove(1).unwrap();
        assert_eq!((consumers.count(), consumers.willing()), (2, 1));
        assert_eq!(consumers.next().unwrap().0, 2);
        let id = ConsumerId { handle: 9, ..ConsumerId::default() };
        assert_eq!(consumers.add(id, (Duration::ZERO, None), credit(10, 10), MAX), 1);
        consumers.release(0);
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(consumers.next().unwrap().0);
            consumers.delivered(1, 1);
        }
        turns.sort_unstable();
        assert_eq!(turns, [0, 1, 2, 2]);
        for slot in 0..3 {
            consumers.remove(slot);
        }
        assert_eq!((consumers.count(), consumers.willing(), consumers.slots.capacity()), (0, 0, 0));
        assert!(consumers.next().is_none());
    }
}
