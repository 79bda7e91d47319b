//! What is played.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use ltq_core::{Address, BrokerSettings, Transport};
use ltq_store::simulation::seed_hashing;
use ltq_transport::{SimulatedHost, SimulatedNetwork};

use crate::{
    chance::Seeded,
    checks,
    error::SimulationError,
    history::{Event, History},
    node::NODE,
    panics,
    plan::Plan,
    played::Played,
    seeds::{self, Plays},
    stores::{FileStores, Stores},
    trouble::Trouble,
    violation::{Rule, Violation},
    world::{End, World},
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
    /// a play waits for two minutes until everything due is delivered. Of
    /// [`delivery_bytes_total_max`](BrokerSettings::delivery_bytes_total_max) many seeds leave little.
    ///
    /// # Errors
    /// [`SimulationError::Settings`] for settings that no broker takes.
    pub fn settings(mut self, settings: BrokerSettings) -> Result<Self, SimulationError> {
        settings.check()?;
        self.settings = settings;
        Ok(self)
    }

    /// What node and clients talk through: made of each host's transport on the simulated network, all
    /// of one scheme, which may be another than the host's. One is made here, for the sake of its scheme.
    ///
    /// # Errors
    /// [`SimulationError::Scheme`] when that is no scheme of an address, as that of several transports
    /// in one.
    pub fn transport<T: Transport>(
        mut self,
        wrap: impl Fn(SimulatedHost) -> T + Send + Sync + 'static,
    ) -> Result<Self, SimulationError> {
        let network = SimulatedNetwork::new(Arc::new(Seeded::of(0, "network")));
        let one = wrap(network.host(NODE));
        let address = format!("{}://{NODE}", one.scheme()).parse::<Address>();
        if !address.is_ok_and(|address| address.scheme() == one.scheme()) {
            return Err(SimulationError::Scheme(one.scheme().to_owned()));
        }
        self.wrap = Arc::new(move |host| Arc::new(wrap(host)));
        Ok(self)
    }

    /// Leaves out what a store is not made for.
    #[must_use]
    pub fn without(mut self, trouble: Trouble) -> Self {
        self.not.insert(trouble);
        self
    }

    /// Plays a seed: some minutes, in some hundredths of a second, on a thread of its own that is
    /// waited for. Within a runtime that is to go on meanwhile, call it where blocking is allowed.
    ///
    /// # Panics
    /// When the operating system gives the process no more threads.
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
    pub fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played {
        let play = |history: History| {
            let plan = Plan::new(seed, left_out, &self.not);
            let (stores, settings) = (self.stores.clone(), self.settings.clone());
            World::new(seed, stores, settings, self.wrap.clone(), history).play(plan)
        };
        play_alone(seed, play, checks::all)
    }

    /// Who and what of a seed that breaks a promise may be left out, and the same promise is broken
    /// still: as much as goes, found by leaving out one after another. Empty if none is broken.
    ///
    /// # Panics
    /// As [`play`](Self::play).
    #[must_use]
    pub fn shrink(&self, seed: u64) -> BTreeSet<String> {
        seeds::shrink(self, seed, self.play(seed)).0
    }
}

impl<S: Stores> Plays for Simulation<S> {
    fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played {
        self.play_part(seed, left_out)
    }

    fn names(&self, seed: u64) -> Vec<String> {
        let plan = Plan::new(seed, &BTreeSet::new(), &self.not);
        plan.names().map(str::to_owned).collect()
    }
}

/// Plays what `play` makes, on a thread of its own and a paused clock, and checks what happened.
#[expect(clippy::expect_used, reason = "as std::thread::spawn has it")]
pub(crate) fn play_alone<F: Future<Output = Result<(), End>>>(
    seed: u64,
    play: impl FnOnce(History) -> F + Send,
    check: fn(&[Event]) -> Vec<Violation>,
) -> Played {
    // What a thread keeps for itself is new to each play, and goes with it.
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    std::thread::scope(|scope| {
        let play = thread.spawn_scoped(scope, || play_here(seed, play, check));
        play.expect("a thread").join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[expect(clippy::expect_used, reason = "no part of a runtime with time alone can be missing")]
fn play_here<F: Future<Output = Result<(), End>>>(
    seed: u64,
    play: impl FnOnce(History) -> F,
    check: fn(&[Event]) -> Vec<Violation>,
) -> Played {
    panics::watch();
    seed_hashing(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let entered = runtime.enter();
    // Whatever becomes of the play, what happened so far stays.
    let history = History::new();
    let play = play(history.clone());
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play)));
    let (events, simulated) = (history.events(), history.elapsed());
    // What is left of it must not go on beside the next one.
    drop(entered);
    drop(runtime);
    let mut broken = Vec::new();
    let panics = panics::told();
    if panics.count > 0 {
        let words = format!("{} of them; the first {}", panics.count, panics.first);
        broken.push(Violation::of(Rule::Panic, words));
    }
    match ended {
        Ok(ended) => {
            if let Err(End::Broken(why)) = ended {
                broken.push(why);
            }
            broken.extend(check(&events));
        }
        // Nothing was waited for: what is missing says nothing.
        Err(_) if broken.is_empty() => {
            broken.push(Violation::of(Rule::Panic, "one that no hook heard of"));
        }
        Err(_) => {}
    }
    Played { events, broken, simulated }
}
