//! When watchers hear of loads.
//!
//! A load is told to whoever watches the node, and may be another at each beat: with a thousand nodes and ten
//! thousand watchers that is ten million words a second. So loads are told in rounds, a node once in each at
//! most, with the load that it has by then, and no more of them in a round than can be afforded; the others wait
//! for the next one, in the order in which they came.

use std::{collections::BTreeMap, time::Duration};

use ltq_core::Monotonic;

use crate::NodeId;

/// Nodes whose load watchers do not know yet.
#[derive(Debug, Default)]
pub(super) struct LoadNews {
    /// In the order in which they came, by numbers that count up.
    waiting: BTreeMap<u64, NodeId>,
    places: BTreeMap<NodeId, u64>,
    last: u64,
    /// When the next round may begin.
    not_before: Monotonic,
}

impl LoadNews {
    /// A node has a load that is worth telling. It keeps its place if it had one.
    pub(super) fn wait(&mut self, id: &NodeId) {
        if !self.places.contains_key(id) {
            self.last += 1;
            self.places.insert(id.clone(), self.last);
            self.waiting.insert(self.last, id.clone());
        }
    }

    /// It has none any more.
    pub(super) fn forget(&mut self, id: &NodeId) {
        if let Some(place) = self.places.remove(id) {
            self.waiting.remove(&place);
        }
    }

    /// When the next round is due, if it is.
    pub(super) fn next_round(&self) -> Option<Monotonic> {
        (!self.waiting.is_empty()).then_some(self.not_before)
    }

    /// Begins a round, if it is time.
    pub(super) fn begin_round(&mut self, now: Monotonic) -> bool {
        let begins = self.next_round().is_some_and(|due| due <= now);
        if begins {
            self.not_before = now.plus(LOADS_EVERY);
        }
        begins
    }

    /// The next one in a round.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        let (_, id) = self.waiting.pop_first()?;
        self.places.remove(&id);
        Some(id)
    }

    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        let places = self.waiting.iter().map(|(place, id)| (id.clone(), *place));
        assert_eq!(self.places, places.collect());
    }
}

/// How long from one round of loads to the next.
pub(crate) const LOADS_EVERY: Duration = Duration::from_secs(3);
/// To how many watchers loads are told in a round, each node counted: the round ends with the node that reaches
/// it. By measurement that takes one to four hundredths of a processor.
pub(super) const LOADS_TOLD_MAX: usize = 50_000;
/// So many names looked up count as much there as somebody told.
pub(super) const LOOKS_FOR_ONE: usize = 8;
