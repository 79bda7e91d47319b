//! To which nodes a producer keeps where there are many. No IO, no clock.

use std::collections::{BTreeMap, BTreeSet};

use ltq_discovery::NodeId;

use crate::cluster::order::hash;

/// The nodes that weigh most by a random number of the client's. That is rendezvous hashing, as for keys: a
/// node that goes is replaced by the next one and no other changes, and one that comes back has its place
/// again. Clients have different numbers, so that all nodes are used alike.
#[derive(Debug)]
pub(super) struct Subset {
    seed: u64,
    max: usize,
    /// Of nodes that are there.
    weights: BTreeMap<NodeId, u64>,
}

impl Subset {
    pub(super) const fn new(seed: u64, max: usize) -> Self {
        Self { seed, max, weights: BTreeMap::new() }
    }

    /// Those of the nodes that would do which are left out.
    pub(super) fn left_out(&mut self, would_do: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let Some(beyond) = would_do.len().checked_sub(self.max).filter(|beyond| *beyond > 0) else {
            return BTreeSet::new();
        };
        let seed = self.seed.to_be_bytes();
        let mut ranked: Vec<_> = would_do
            .into_iter()
            .map(|id| {
                let weigh = || hash(&[&seed, id.as_str().as_bytes()]);
                let weight = *self.weights.entry(id.clone()).or_insert_with(weigh);
                (weight, id)
            })
            .collect();
        ranked.sort_unstable();
        ranked.truncate(beyond);
        ranked.into_iter().map(|(_, id)| id).collect()
    }

    /// Forgets the weights of other nodes.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.weights.retain(|id, _| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> BTreeSet<NodeId> {
        (0..count).map(|n| format!("node-{n}").parse().unwrap()).collect()
    }

    fn kept(subset: &mut Subset, of: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let out = subset.left_out(of.clone());
        of.difference(&out).cloned().collect()
    }

    #[test]
    fn few_nodes_are_all_used() {
        assert!(Subset::new(1, 16).left_out(nodes(16)).is_empty());
        assert_eq!(Subset::new(1, 16).left_out(nodes(17)).len(), 1);
    }

    #[test]
    fn one_that_goes_is_replaced_by_one_and_has_its_place_again() {
        let all = nodes(1_000);
        let mut subset = Subset::new(7, 16);
        let before = kept(&mut subset, &all);
        assert_eq!(before.len(), 16);
        for gone in &before {
            let mut rest = all.clone();
            rest.remove(gone);
            subset.retain(|id| rest.contains(id));
            let after = kept(&mut subset, &rest);
            assert_eq!(after.len(), 16);
            assert_eq!(before.difference(&after).collect::<Vec<_>>(), [gone]);
            assert_eq!(kept(&mut subset, &all), before);
        }
    }

    #[test]
    fn many_clients_use_all_nodes_alike() {
        let all = nodes(50);
        let mut counts = BTreeMap::<NodeId, usize>::new();
        for seed in 0..1_000 {
            for id in kept(&mut Subset::new(seed, 16), &all) {
                *counts.entry(id).or_default() += 1;
            }
        }
        // 320 on the average, with a deviation of 15.
        assert!(counts.values().all(|count| (240..=400).contains(count)), "{counts:?}");
        assert_eq!(counts.len(), 50);
    }
}
