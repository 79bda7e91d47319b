//! Who takes part in a simulation, and how often something goes wrong: by the seed. Each part has a
//! name and chance of its own, so that one can be left out without changing what the others do by
//! chance.

use std::collections::BTreeSet;

use crate::{chance::Seeded, leaving::Going, topics::TOPICS, trouble::Trouble};

/// What a seed plays.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Whether nothing goes wrong at all, and everybody does nothing but his work.
    pub(crate) fair: bool,
    pub(crate) producers: Vec<Part>,
    /// Their topic and channel.
    pub(crate) consumers: Vec<(Part, usize, usize)>,
    pub(crate) operators: Vec<Part>,
    pub(crate) troubles: Vec<(Part, Trouble)>,
    /// What happens to the node while it has a paused channel, at the end.
    pub(crate) meanwhile: Option<Trouble>,
    /// How the consumer goes who comes by at the end.
    pub(crate) going: Option<Going>,
    /// What never happens.
    pub(crate) not: BTreeSet<Trouble>,
}

/// Somebody or something.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) number: usize,
    pub(crate) chance: Seeded,
}

impl Plan {
    /// What this seed plays without those of these names.
    pub(crate) fn new(seed: u64, without: &BTreeSet<String>, not: &BTreeSet<Trouble>) -> Self {
        let chance = Seeded::of(seed, "plan");
        let part = |kind: char, number: usize| {
            let name = format!("{kind}{number}");
            let chance = Seeded::of(seed, &name);
            Part { name, number, chance }
        };
        let is_in = |part: &Part| !without.contains(&part.name);
        let fair = chance.one_in(8);
        let producers = (0..1 + chance.below(6) as usize).map(|number| part('p', number));
        let mut consumers = Vec::new();
        for (topic, plan) in TOPICS.iter().enumerate() {
            for channel in 0..plan.channels {
                for _ in 0..1 + chance.below(2) {
                    consumers.push((part('c', consumers.len()), topic, channel));
                }
            }
        }
        consumers.retain(|(part, ..)| is_in(part));
        let operators =
            (0..if fair { 0 } else { chance.below(3) as usize }).map(|number| part('o', number));
        // In a third of all plays only the network is bad.
        let calm = chance.one_in(3);
        let troubles = (0..if fair { 0 } else { 2 + chance.below(20) as usize }).map(|number| {
            let part = part('x', number);
            // The first thing that goes wrong is often the first start.
            let first = number == 0 && !calm && part.chance.one_in(6);
            let trouble = if first { Trouble::DiesStarting } else { kind(&part.chance, calm) };
            (part, trouble)
        });
        let kills = !not.contains(&Trouble::Kill) && !not.contains(&Trouble::PowerCut);
        let going = match Seeded::of(seed, "going").below(4) {
            0 if kills => Going::Outlives,
            3 if !not.contains(&Trouble::Stop) => Going::SeesAStop,
            1 => Going::IsCut,
            _ => Going::Leaves,
        };
        let meanwhile = match Seeded::of(seed, "meanwhile").below(8) {
            0 => Some(Trouble::Stop),
            1 => Some(Trouble::Kill),
            2 => Some(Trouble::PowerCut),
            _ => None,
        };
        let dies = [Trouble::Kill, Trouble::PowerCut, Trouble::DiskStops];
        let mut not = not.clone();
        if dies.iter().any(|trouble| not.contains(trouble)) {
            not.insert(Trouble::DiesStarting);
        }
        Self {
            fair,
            meanwhile: meanwhile.filter(|trouble| !fair && !not.contains(trouble)),
            going: (!fair).then_some(going),
            producers: producers.filter(is_in).collect(),
            consumers,
            operators: operators.filter(is_in).collect(),
            troubles: troubles
                .filter(|(part, trouble)| is_in(part) && !not.contains(trouble))
                .collect(),
            not,
        }
    }

    /// The names of all its parts.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let troubles = self.troubles.iter().map(|(part, _)| part);
        let consumers = self.consumers.iter().map(|(part, ..)| part);
        let parts = troubles.chain(&self.operators).chain(&self.producers).chain(consumers);
        parts.map(|part| part.name.as_str())
    }
}

fn kind(chance: &Seeded, calm: bool) -> Trouble {
    if calm || chance.one_in(2) {
        return Trouble::BadWeather;
    }
    // Damage ends most of what can be checked: it is rare.
    if chance.one_in(80) {
        return Trouble::Damage;
    }
    chance.pick(&[
        Trouble::Kill,
        Trouble::Kill,
        Trouble::PowerCut,
        Trouble::PowerCut,
        Trouble::DiesStarting,
        Trouble::DiesStarting,
        Trouble::DiskStops,
        Trouble::Stop,
        Trouble::ClockJumps,
        Trouble::DiskFull,
        Trouble::SyncFails,
        Trouble::ReadsFail,
        Trouble::WritesFail,
        Trouble::DiskSlow,
    ])
}
