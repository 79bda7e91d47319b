//! Who takes part in a cluster's play, by the seed.

use std::collections::BTreeSet;

use super::{
    topics::{CHANNELS, Mode},
    trouble::{self, Trouble},
};
use crate::{chance::Seeded, plan::Part};

/// What a seed plays.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Part>,
    /// So many of the last nodes come while the others are there already.
    pub(super) late: usize,
    pub(super) registries: Vec<Part>,
    /// Whether they want a token.
    pub(super) is_guarded: bool,
    /// Their topics.
    pub(super) producers: Vec<(Part, usize)>,
    /// Their topics and channels.
    pub(super) consumers: Vec<(Part, usize, usize)>,
    pub(super) watchers: Vec<Part>,
    pub(super) troubles: Vec<(Part, Trouble)>,
    /// What happens when nothing else is wrong.
    pub(super) acts: Vec<(Part, Act)>,
}

/// Something that is looked at by itself, when nothing else is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// All registries go, and come back knowing nobody.
    NoRegistry,
    /// A node is gone without a word.
    LosesNode,
}

impl Plan {
    /// What this seed plays without those of these names.
    pub(super) fn new(seed: u64, without: &BTreeSet<String>) -> Self {
        let chance = Seeded::of(seed, "cluster's plan");
        let part = |kind: &str, number: usize| {
            let name = format!("{kind}{number}");
            let chance = Seeded::of(seed, &format!("cluster's {name}"));
            Part { name, number, chance }
        };
        let is_in = |part: &Part| !without.contains(&part.name);
        let fair = chance.one_in(10);
        let nodes: Vec<_> = (0..2 + chance.below(3) as usize).map(|n| part("n", n)).collect();
        let registries = (0..1 + chance.below(3) as usize).map(|n| part("r", n)).collect();
        let is_guarded = part("guard", 0).chance.one_in(2);
        let late = if fair { 0 } else { chance.below(nodes.len() as u64) as usize };
        // Most plays have some of the modes only, so that each has more to do.
        let first = chance.below(4) as usize;
        let topics = 1 + chance.below(2) as usize;
        let topics: Vec<_> = (0..topics).map(|n| (first + n) % Mode::ALL.len()).collect();
        let mut producers = Vec::new();
        let mut consumers = Vec::new();
        for &topic in &topics {
            for _ in 0..1 + chance.below(2) {
                producers.push((part("p", producers.len()), topic));
            }
            for channel in 0..1 + chance.below(CHANNELS as u64) as usize {
                for _ in 0..1 + chance.below(2) {
                    consumers.push((part("c", consumers.len()), topic, channel));
                }
            }
        }
        let watchers = (0..1 + chance.below(2) as usize).map(|n| part("w", n));
        let troubles = if fair { 0 } else { 3 + chance.below(10) as usize };
        let troubles = (0..troubles).map(|number| {
            let part = part("x", number);
            let trouble = trouble::kind(&part.chance);
            (part, trouble)
        });
        let acts = [Act::NoRegistry, Act::LosesNode].into_iter().enumerate();
        let acts: Vec<_> = acts.map(|(number, act)| (part("a", number), act)).collect();
        Self {
            late,
            registries,
            is_guarded,
            nodes,
            watchers: watchers.filter(is_in).collect(),
            troubles: troubles.filter(|(part, _)| is_in(part)).collect(),
            acts: acts.into_iter().filter(|it| chance.one_in(2) && is_in(&it.0)).collect(),
            producers: producers.into_iter().filter(|it| is_in(&it.0)).collect(),
            consumers: consumers.into_iter().filter(|it| is_in(&it.0)).collect(),
        }
    }

    /// The names of all that can be left out.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let troubles = self.troubles.iter().map(|it| &it.0);
        let acts = self.acts.iter().map(|it| &it.0);
        let producers = self.producers.iter().map(|it| &it.0);
        let consumers = self.consumers.iter().map(|it| &it.0);
        let all = troubles.chain(acts).chain(producers).chain(&self.watchers).chain(consumers);
        all.map(|part| part.name.as_str())
    }
}
