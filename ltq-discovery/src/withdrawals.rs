//! Which runs of nodes were withdrawn of late.

use std::{collections::BTreeMap, ops::Bound};

use crate::{Epoch, NodeId};

/// Runs of nodes that were withdrawn, and are not back: so many brokers at most, the newest, and as many programs of
/// meshes: those come and go in other numbers, and take no broker's place.
#[derive(Clone, Debug)]
pub(crate) struct Withdrawals {
    max: usize,
    all: BTreeMap<NodeId, Withdrawal>,
    /// By their numbers, of which the least is the oldest.
    brokers: BTreeMap<u64, NodeId>,
    programs: BTreeMap<u64, NodeId>,
    numbers: u64,
}

#[derive(Clone, Copy, Debug)]
struct Withdrawal {
    epoch: Epoch,
    /// Who said so.
    by: usize,
    number: u64,
}

impl Withdrawals {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            max,
            all: BTreeMap::new(),
            brokers: BTreeMap::new(),
            programs: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// This run of a node was withdrawn, as one of those says who may know.
    pub(crate) fn insert(&mut self, id: NodeId, epoch: Epoch, by: usize) {
        if self.epoch(&id).is_some_and(|known| known > epoch) {
            return;
        }
        self.remove(&id);
        self.numbers += 1;
        let (number, max) = (self.numbers, self.max);
        let order = self.order(&id);
        order.insert(number, id.clone());
        let oldest = if order.len() > max { order.pop_first() } else { None };
        self.all.insert(id, Withdrawal { epoch, by, number });
        if let Some((_, oldest)) = oldest {
            self.all.remove(&oldest);
        }
    }

    /// Nothing of the node counts as withdrawn any more.
    pub(crate) fn remove(&mut self, id: &NodeId) {
        if let Some(Withdrawal { number, .. }) = self.all.remove(id) {
            self.order(id).remove(&number);
        }
    }

    /// The newest run of the node that is known to be withdrawn.
    pub(crate) fn epoch(&self, id: &NodeId) -> Option<Epoch> {
        self.all.get(id).map(|it| it.epoch)
    }

    /// The same, and who said so.
    pub(crate) fn said(&self, id: &NodeId) -> Option<(Epoch, usize)> {
        self.all.get(id).map(|it| (it.epoch, it.by))
    }

    /// Whether this run of the node, or a later one, was withdrawn.
    pub(crate) fn has(&self, id: &NodeId, epoch: Epoch) -> bool {
        self.epoch(id).is_some_and(|withdrawn| epoch <= withdrawn)
    }

    /// Those behind an id, in the order of ids.
    pub(crate) fn behind(&self, id: Option<&NodeId>) -> impl Iterator<Item = (&NodeId, Epoch)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.all.range::<NodeId, _>((from, Bound::Unbounded));
        behind.map(|(id, it)| (id, it.epoch))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn order(&mut self, id: &NodeId) -> &mut BTreeMap<u64, NodeId> {
        match id.program() {
            None => &mut self.brokers,
            Some(_) => &mut self.programs,
        }
    }
}

/// Who said so, and in which order, makes no difference.
impl PartialEq for Withdrawals {
    fn eq(&self, other: &Self) -> bool {
        self.behind(None).eq(other.behind(None))
    }
}

impl Eq for Withdrawals {}

/// What is told of: more than a cluster withdraws for good while somebody is out of sight.
pub(crate) const WITHDRAWALS_MAX: usize = 1_024;
/// What is kept of that, which several may tell of, each of its own.
pub(crate) const WITHDRAWALS_HEARD_MAX: usize = 4 * WITHDRAWALS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(started: u64) -> Epoch {
        Epoch { started, instance: 0 }
    }

    #[test]
    fn the_newest_withdrawals_are_kept_and_programs_take_no_brokers_place() {
        let mut withdrawals = Withdrawals::new(WITHDRAWALS_MAX);
        let broker = |n: usize| NodeId::new(&format!("n{n}")).unwrap();
        // The oldest is neither the first nor the last by name.
        for n in (0..WITHDRAWALS_MAX).map(|n| (n + 500) % WITHDRAWALS_MAX) {
            withdrawals.insert(broker(n), epoch(1), 0);
        }
        for n in 0..=WITHDRAWALS_MAX {
            let program = NodeId::of_program("floor", &format!("p{n}")).unwrap();
            withdrawals.insert(program, epoch(1), 0);
        }
        assert_eq!(withdrawals.len(), 2 * WITHDRAWALS_MAX);
        assert!(withdrawals.has(&broker(500), epoch(1)));
        // What is withdrawn again is no old one.
        withdrawals.insert(broker(500), epoch(2), 0);
        withdrawals.insert(broker(WITHDRAWALS_MAX), epoch(1), 0);
        assert_eq!(withdrawals.len(), 2 * WITHDRAWALS_MAX);
        let is_there = [500, 501, 502].map(|n| withdrawals.has(&broker(n), epoch(1)));
        assert_eq!(is_there, [true, false, true]);
        withdrawals.remove(&broker(502));
        assert!(!withdrawals.has(&broker(502), epoch(1)));
        withdrawals.insert(broker(501), epoch(1), 0);
        assert!(withdrawals.has(&broker(503), epoch(1)), "there was room");
    }

    #[test]
    fn a_withdrawal_is_that_of_a_run_and_of_those_before_it() {
        let (mut withdrawals, id) = (Withdrawals::new(9), NodeId::new("n").unwrap());
        withdrawals.insert(id.clone(), epoch(5), 1);
        withdrawals.insert(id.clone(), epoch(4), 2);
        assert_eq!(withdrawals.said(&id), Some((epoch(5), 1)));
        let are = [4, 5, 6].map(|started| withdrawals.has(&id, epoch(started)));
        assert_eq!(are, [true, true, false]);
        assert!(!withdrawals.has(&NodeId::new("m").unwrap(), epoch(1)));
    }
}
