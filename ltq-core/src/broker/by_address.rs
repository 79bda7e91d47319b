//! What a broker remembers of the addresses that its peers come from, within a bound.

use std::collections::BTreeMap;

use crate::Origin;

/// Something for each of the `max` addresses that were seen last.
#[derive(Debug)]
pub(super) struct ByAddress<T> {
    /// With the turn at which each was seen last.
    entries: BTreeMap<Origin, (u64, T)>,
    order: BTreeMap<u64, Origin>,
    turn: u64,
    max: usize,
    forgotten: u64,
}

impl<T> ByAddress<T> {
    pub(super) const fn new(max: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), turn: 0, max, forgotten: 0 }
    }

    /// What is known of an address, which thereby is the one seen last.
    pub(super) fn of(&mut self, origin: Origin, unknown: impl FnOnce() -> T) -> &mut T {
        self.turn += 1;
        if let Some((turn, _)) = self.entries.get(&origin) {
            self.order.remove(turn);
        } else if self.entries.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
            self.forgotten += 1;
        }
        self.order.insert(self.turn, origin);
        let (turn, value) = self.entries.entry(origin).or_insert_with(|| (0, unknown()));
        *turn = self.turn;
        value
    }

    /// What is known of an address, without its having been seen.
    pub(super) fn get(&self, origin: Origin) -> Option<&T> {
        self.entries.get(&origin).map(|(_, value)| value)
    }

    /// How many addresses were forgotten for want of room.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets an address.
    pub(super) fn forget(&mut self, origin: Origin) {
        if let Some((turn, _)) = self.entries.remove(&origin) {
            self.order.remove(&turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn promise_9_the_addresses_seen_last_are_remembered_and_no_more() {
        let nth = |n: u32| Origin::of_ip(IpAddr::V4((n + 1).into())).unwrap();
        let max = 100;
        let mut table = ByAddress::new(max as usize);
        for n in 0..max {
            *table.of(nth(n), || 0) = n;
        }
        // The first is seen again, so that the second is the oldest.
        assert_eq!(*table.of(nth(0), || 99), 0);
        table.of(nth(max), || 1);
        assert_eq!((table.get(nth(0)), table.get(nth(1))), (Some(&0), None));
        assert_eq!((table.entries.len(), table.order.len(), table.forgotten()), (100, 100, 1));
        table.forget(nth(0));
        assert_eq!((table.entries.len(), table.order.len(), table.forgotten()), (99, 99, 1));
    }
}
