//! Simulations of what is not the reference: what they say when it is wrong, and what they refuse.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{
    Address, BrokerSettings, Committed, Connection, Durability, Listener, Store, StoreError,
    Transport, TransportError, WriteBatch,
};
use ltq_sim::{FileStores, Place, Rule, Simulation, SimulationError, Stores, What};
use ltq_store::FileStore;
use ltq_transport::{SimulatedHost, Tcp, Transports};

/// Files that are made as durable as it likes, and said to be as durable as was asked.
struct Lying(FileStore);

#[async_trait]
impl ltq_core::StoreLayer for Lying {
    type Inner = FileStore;

    fn inner(&self) -> &FileStore {
        &self.0
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        self.0.commit(batch, durability.min(Durability::Os)).await?;
        Ok(Committed { durability })
    }
}

struct LyingStores;

#[async_trait]
impl Stores for LyingStores {
    type Store = Lying;

    async fn open(&self, place: Place) -> Result<Lying, StoreError> {
        FileStores::default().open(place).await.map(Lying)
    }
}

#[test]
fn a_store_that_lies_is_told_with_the_least_that_shows_it() {
    let simulation = Simulation::with_stores(LyingStores);
    let failure = simulation.play_all(1..501).expect_err("syncs are left out");
    for seed in 1..failure.seed {
        assert!(simulation.play(seed).broken.is_empty(), "{failure} is not the first: {seed} is");
    }
    assert_eq!(failure.differs, None);
    assert!(!failure.left_out.is_empty() && !failure.parts.is_empty(), "{failure}");
    assert!(failure.left_out.is_disjoint(&failure.parts), "{failure}");
    assert_eq!(&failure.left_out | &failure.parts, simulation.parts(failure.seed));
    let again = simulation.play_part(failure.seed, &failure.left_out);
    assert_eq!(again.broken, failure.least.broken);
    assert!(!again.broken.is_empty());

    let told = failure.to_string();
    assert!(told.contains(&again.broken[0].to_string()), "{told}");
    assert!(told.contains(&format!("LTQ_SIM_SEEDS={0}..{1}", failure.seed, failure.seed + 1)));
    let last = again.trace().lines().last().expect("a trace").to_owned();
    assert!(told.contains(&last), "{told}");
    assert!(told.lines().count() < 60, "{told}");
    assert_eq!(format!("{failure:?}"), told, "a test that unwraps it is told the same");
    assert!(format!("{failure:#}").contains(&again.trace()));
}

/// Panics when it is opened a second time, in the world's own task.
struct Panicking(AtomicU64);

#[async_trait]
impl Stores for Panicking {
    type Store = FileStore;

    async fn open(&self, place: Place) -> Result<FileStore, StoreError> {
        assert_eq!(self.0.fetch_add(1, Relaxed), 0, "cannot be opened again");
        FileStores::default().open(place).await
    }
}

#[test]
fn a_panic_leaves_what_happened_before_it() {
    let seeds = (1..10).map(|seed| Simulation::with_stores(Panicking(0.into())).play(seed));
    let broken: Vec<_> = seeds.filter(|played| !played.broken.is_empty()).collect();
    assert!(!broken.is_empty(), "some node is started twice");
    let mut stories = 0;
    for played in broken {
        assert_eq!(played.broken.len(), 1, "{:?}", played.broken);
        let told = played.broken[0].to_string();
        assert_eq!(played.broken[0].rule, Rule::Panic);
        assert!(told.contains("cannot be opened again"), "{told}");
        let started = played.events.iter().filter(|event| event.what == What::Started).count();
        // None where the first node was struck while it started.
        assert!(started <= 1, "{}", played.trace());
        stories += started;
        assert!(played.simulated >= played.events.last().expect("some").at);
    }
    assert_ne!(stories, 0, "what was done before the panic is kept");
}

/// Takes its time by what nobody's seed says.
struct Moody(AtomicU64);

#[async_trait]
impl Stores for Moody {
    type Store = FileStore;

    async fn open(&self, place: Place) -> Result<FileStore, StoreError> {
        place.disk.set_latency_max(Duration::from_millis(self.0.fetch_add(7, Relaxed)));
        FileStores::default().open(place).await
    }
}

#[test]
fn what_asks_more_than_the_seed_is_told_by_the_first_event_that_differs() {
    let simulation = Simulation::with_stores(Moody(0.into()));
    let (once, again) = (simulation.play(1), simulation.play(1));
    let differs = once.difference(&again).expect("the second one is slower");
    let at = once.trace().lines().zip(again.trace().lines()).position(|(a, b)| a != b);
    let at = at.expect("in words too");
    assert_eq!(once.trace().lines().nth(at), Some(differs.once.as_str()));
    assert_eq!(again.trace().lines().nth(at), Some(differs.again.as_str()));
    assert_eq!(once.difference(&once), None);

    let failure = simulation.play_all(7..8).expect_err("nor is the first of many the same");
    assert_eq!((failure.seed, failure.left_out.len()), (7, 0));
    assert!(failure.differs.is_some(), "{failure}");
    assert!(failure.to_string().contains("it is not the same a second time"), "{failure}");
}

#[test]
fn what_no_broker_or_client_takes_is_refused_before_anything_is_played() {
    let settings = BrokerSettings { node: String::new(), ..Simulation::default_settings() };
    let refused = Simulation::new().settings(settings).expect_err("a node without a name");
    assert!(matches!(&refused, SimulationError::Settings(why) if why.setting == "node"));
    let several = |host| Transports::new().with(host).with(Tcp::default());
    let refused = Simulation::new().transport(several).expect_err("two schemes");
    assert!(matches!(&refused, SimulationError::Scheme(both) if both.contains(',')), "{refused}");
}

/// A host of the simulated network under a scheme of its own, which sees who comes by.
struct Renamed {
    host: SimulatedHost,
    connects: Arc<AtomicU64>,
    accepts: Arc<AtomicU64>,
}

impl Renamed {
    fn below(&self, address: &Address) -> Address {
        assert_eq!(address.scheme(), self.scheme(), "nobody is asked for another's address");
        Address::new(self.host.scheme(), address.rest())
    }
}

struct RenamedListener {
    inner: Box<dyn Listener>,
    accepts: Arc<AtomicU64>,
}

#[async_trait]
impl Transport for Renamed {
    fn scheme(&self) -> &str {
        "renamed"
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.host.listen(&self.below(address)).await?;
        Ok(Box::new(RenamedListener { inner, accepts: self.accepts.clone() }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        self.connects.fetch_add(1, Relaxed);
        self.host.connect(&self.below(address)).await
    }
}

#[async_trait]
impl Listener for RenamedListener {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let accepted = self.inner.accept().await?;
        self.accepts.fetch_add(1, Relaxed);
        Ok(accepted)
    }

    fn local_address(&self) -> Address {
        let below = self.inner.local_address();
        Address::new("renamed", below.rest())
    }
}

#[test]
fn promises_hold_over_a_transport_of_ones_own() {
    let (connects, accepts) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let of = (connects.clone(), accepts.clone());
    let renamed = move |host| Renamed { host, connects: of.0.clone(), accepts: of.1.clone() };
    let simulation = Simulation::new().transport(renamed).expect("one scheme");
    let summary = simulation.play_all(1..21).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(summary.seeds, 20);
    let (connects, accepts) = (connects.load(Relaxed), accepts.load(Relaxed));
    assert!(accepts >= summary.seeds && connects > accepts, "{accepts} of {connects}");
}

#[tokio::test]
async fn a_play_within_a_runtime_is_the_same_as_without() {
    let within = Simulation::new().play(3);
    let without = std::thread::spawn(|| Simulation::new().play(3)).join().expect("a play");
    assert_eq!(within.difference(&without), None);
    assert!(!within.events.is_empty());
}
