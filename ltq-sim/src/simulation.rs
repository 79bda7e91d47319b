//! What is played, and what comes of it.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use ltq_core::{BrokerSettings, Transport};
use ltq_store::simulation::seed_hashing;
use ltq_transport::SimulatedHost;

use crate::{
    history::{Event, trace},
    panics,
    plan::Plan,
    stores::{FileStores, Stores},
    trouble::Trouble,
    world::World,
};

/// Makes a host's transport out of the network's.
pub(crate) type Wrap = Arc<dyn Fn(SimulatedHost) -> Arc<dyn Transport> + Send + Sync>;

/// Plays seeds: a node, its clients, and what goes wrong.
pub struct Simulation<S: Stores = FileStores> {
    stores: Arc<S>,
    settings: BrokerSettings,
    wrap: Wrap,
    not: BTreeSet<Trouble>,
}

impl<S: Stores> fmt::Debug for Simulation<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("settings", &self.settings)
            .field("not", &self.not)
            .finish_non_exhaustive()
    }
}

impl Default for Simulation {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulation {
    /// Of the reference broker: a [`FileStore`](ltq_store::FileStore), and
    /// [`default_settings`](Self::default_settings).
    #[must_use]
    pub fn new() -> Self {
        Self::with_stores(FileStores::default())
    }

    /// The broker's own, but for what tells that a peer is gone: heartbeats of 1 s, 2 s for a
    /// greeting and 5 s for what stalls, so that much happens in a short play.
    #[must_use]
    pub fn default_settings() -> BrokerSettings {
        BrokerSettings {
            heartbeat: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(5),
            ..BrokerSettings::default()
        }
    }
}

impl<S: Stores> Simulation<S> {
    /// Of a broker on a store of your own.
    #[must_use]
    pub fn with_stores(stores: S) -> Self {
        Self {
            stores: Arc::new(stores),
            settings: Simulation::default_settings(),
            wrap: Arc::new(|host| Arc::new(host)),
            not: BTreeSet::new(),
        }
    }

    /// The broker's settings. No timeout, delay or interval of them should be longer than some seconds:
    /// a play waits for two minutes until everything due is delivered.
    #[must_use]
    pub fn settings(mut self, settings: BrokerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// What node and clients talk through: made of each host's transport on the simulated network,
    /// and of its scheme or another one.
    #[must_use]
    pub fn transport<T: Transport>(
        mut self,
        wrap: impl Fn(SimulatedHost) -> T + Send + Sync + 'static,
    ) -> Self {
        self.wrap = Arc::new(move |host| Arc::new(wrap(host)));
        self
    }

    /// Leaves out what a store is not made for.
    #[must_use]
    pub fn without(mut self, trouble: Trouble) -> Self {
        self.not.insert(trouble);
        self
    }

    /// Plays a seed: some minutes, in some hundredths of a second.
    ///
    /// # Panics
    /// When called within a tokio runtime; when the [settings](Self::settings) are refused.
    #[must_use]
    pub fn play(&self, seed: u64) -> Played {
        self.play_part(seed, &BTreeSet::new())
    }

    /// Who and what takes part in a seed, by names: producers `p0` and up, consumers `c0`, operators `o0`,
    /// troubles `x0`.
    #[must_use]
    pub fn parts(&self, seed: u64) -> BTreeSet<String> {
        let plan = Plan::new(seed, &BTreeSet::new(), &self.not);
        plan.names().map(str::to_owned).collect()
    }

    /// Plays a seed without some of those that take part in it, by the names that
    /// [`parts`](Self::parts) tells and [`shrink`](Self::shrink) returns; other names change nothing.
    ///
    /// A panic of whatever is played breaks the play; to see all of them this adds to what the
    /// process does at a panic, once.
    ///
    /// # Panics
    /// As [`play`](Self::play).
    #[must_use]
    #[expect(clippy::expect_used, reason = "there is no simulation without a runtime")]
    pub fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played {
        self.settings.check().expect("settings that a broker takes");
        seed_hashing(seed);
        let plan = Plan::new(seed, left_out, &self.not);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let (stores, settings) = (self.stores.clone(), self.settings.clone());
        panics::watch();
        let panics = panics::count();
        let play = async { World::new(seed, stores, settings, self.wrap.clone()).play(plan).await };
        let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play)));
        // What is left of it must not go on beside the next one.
        drop(runtime);
        let mut played = played.unwrap_or_else(|_| Played {
            events: Vec::new(),
            broken: Vec::new(),
            simulated: Duration::ZERO,
        });
        let panics = panics::count() - panics;
        if panics > 0 {
            played.broken.push(format!("panic: {panics} of them, told on standard error"));
        }
        played
    }

    /// Who and what of a seed that breaks a promise may be left out, and the same promise is broken
    /// still: as much as goes, found by leaving out one after another. Empty if none is broken.
    ///
    /// # Panics
    /// As [`play`](Self::play).
    #[must_use]
    pub fn shrink(&self, seed: u64) -> BTreeSet<String> {
        let which = |played: &Played| -> BTreeSet<String> {
            let promise = |broken: &String| broken.split(':').next().map(str::to_owned);
            played.broken.iter().filter_map(promise).collect()
        };
        let wanted = which(&self.play(seed));
        let mut left_out = BTreeSet::new();
        if wanted.is_empty() {
            return left_out;
        }
        let plan = Plan::new(seed, &left_out, &self.not);
        for name in plan.names() {
            left_out.insert(name.to_owned());
            if which(&self.play_part(seed, &left_out)).is_disjoint(&wanted) {
                left_out.remove(name);
            }
        }
        left_out
    }
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Played {
    /// Everything that happened.
    pub events: Vec<Event>,
    /// What of it breaks a promise, each with what is broken before a colon: a promise's number, or
    /// `progress` (something was not done within two minutes without trouble), `start` (a node did not
    /// start), `pause` (a paused channel delivered), `panic`.
    pub broken: Vec<String>,
    /// How long it took, in simulated time.
    pub simulated: Duration,
}

impl Played {
    /// All of it in words, a line for each event: when, who, what.
    #[must_use]
    pub fn trace(&self) -> String {
        trace(&self.events)
    }
}
