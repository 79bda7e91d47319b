//! What is played of a cluster.

use std::{collections::BTreeSet, fmt, ops::Range, sync::Arc};

use ltq_core::BrokerSettings;

use super::{
    checks,
    plan::Plan,
    world::{Made, World},
};
use crate::{
    error::SimulationError,
    history::History,
    played::Played,
    seeds::{self, Failure, Plays, Summary},
    simulation::{Simulation, Wrap, play_alone},
    stores::{FileStores, Stores},
};

/// Plays seeds of a cluster: two to four nodes, one to three registries, and clients that know nothing but
/// where registries are, over one network, each on a host of its own.
///
/// Nodes are killed, lose their power, are stopped and drained, come late and leave; registries are
/// killed and know nobody when they are back; hosts are cut off from all others, from one or from all of a
/// kind, in one direction or both; ways are slow, the network is bad, clocks are wrong; processes of nodes,
/// registries and programs are stopped and go on later; disks are full, fail or are slow; a registry wants a
/// token that nobody has, and somebody takes the id of a node. Producers of every
/// [`Mode`](super::Mode) and consumers go on meanwhile. Then nothing is wrong any more, and at last all
/// registries go at once or are stopped, or a node does or is, without a word, and nothing else.
///
/// ```
/// let played = ltq_sim::ClusterSimulation::new().play(7);
/// assert!(played.broken.is_empty(), "{:?}\n{}", played.broken, played.trace());
/// ```
pub struct ClusterSimulation<S: Stores = FileStores> {
    stores: Arc<S>,
    settings: BrokerSettings,
    wrap: Wrap,
    mistake: Option<Mistake>,
}

/// What is done wrong, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "tests make mistakes, and nobody else")]
pub(crate) enum Mistake {
    /// Who watches never hears that a node is gone.
    MissesRemovals,
    /// A producer that is to store once sends what may be stored elsewhere.
    ResendsElsewhere,
    /// An ordered producer does not say that its order moves.
    MovesSilently,
    /// The first producer publishes everything twice.
    PublishesTwice,
}

impl<S: Stores> fmt::Debug for ClusterSimulation<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSimulation")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Default for ClusterSimulation {
    fn default() -> Self {
        Self::new()
    }
}

impl ClusterSimulation {
    /// Of the reference broker: a [`FileStore`](ltq_store::FileStore), and
    /// [`Simulation::default_settings`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_stores(FileStores::default())
    }
}

impl<S: Stores> ClusterSimulation<S> {
    /// Of brokers on a store of your own.
    #[must_use]
    pub fn with_stores(stores: S) -> Self {
        Self {
            stores: Arc::new(stores),
            settings: Simulation::default_settings(),
            wrap: Arc::new(|host| Arc::new(host)),
            mistake: None,
        }
    }

    /// The brokers' settings, but for their [names](BrokerSettings::node); see [`Simulation::settings`].
    ///
    /// # Errors
    /// [`SimulationError::Settings`] for settings that no broker takes.
    pub fn settings(mut self, settings: BrokerSettings) -> Result<Self, SimulationError> {
        settings.check()?;
        self.settings = settings;
        Ok(self)
    }

    #[cfg(test)]
    pub(crate) const fn with_mistake(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }

    /// Plays a seed: some minutes, in some tenths of a second; see [`Simulation::play`].
    ///
    /// # Panics
    /// When the operating system gives the process no more threads.
    #[must_use]
    pub fn play(&self, seed: u64) -> Played {
        self.play_part(seed, &BTreeSet::new())
    }

    /// Who and what takes part in a seed and can be left out, by names: producers `p0` and up, consumers
    /// `c0`, watchers `w0`, troubles `x0`, and what happens by itself at the end, `a0` and `a1`. Nodes
    /// `n0` and registries `r0` cannot.
    #[must_use]
    pub fn parts(&self, seed: u64) -> BTreeSet<String> {
        self.names(seed).into_iter().collect()
    }

    /// Plays a seed without some of those that take part in it; see [`Simulation::play_part`].
    ///
    /// # Panics
    /// As [`play`](Self::play).
    #[must_use]
    pub fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played {
        let play = |history: History| {
            let plan = Plan::new(seed, left_out);
            let made = Made {
                seed,
                stores: self.stores.clone(),
                settings: self.settings.clone(),
                wrap: self.wrap.clone(),
                history,
                mistake: self.mistake,
            };
            World::new(made, &plan).play(plan)
        };
        play_alone(seed, play, checks::all)
    }

    /// Plays seeds on all processors until one of them breaks a promise; see [`Simulation::play_all`].
    ///
    /// # Errors
    /// [`Failure`] for the first seed, of all these, that breaks one or is not the same a second time.
    ///
    /// # Panics
    /// As [`play`](Self::play).
    pub fn play_all(&self, seeds: Range<u64>) -> Result<Summary, Failure> {
        seeds::play_all(self, seeds)
    }

    /// Who and what of a seed that breaks a promise may be left out; see [`Simulation::shrink`].
    ///
    /// # Panics
    /// As [`play`](Self::play).
    #[must_use]
    pub fn shrink(&self, seed: u64) -> BTreeSet<String> {
        seeds::shrink(self, seed, self.play(seed)).0
    }
}

impl<S: Stores> Plays for ClusterSimulation<S> {
    fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played {
        self.play_part(seed, left_out)
    }

    fn names(&self, seed: u64) -> Vec<String> {
        Plan::new(seed, &BTreeSet::new()).names().map(str::to_owned).collect()
    }
}
