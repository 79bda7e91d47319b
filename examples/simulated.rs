//! A broker of your own under bad luck: with a store of your own, here a layer around the file store
//! that counts what passes through it, played by seeds until one breaks a promise.
//!
//! ```text
//! cargo run --release -p ltq-examples --example simulated -- 200
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{BrokerSettings, Committed, Durability, Store, StoreError, WriteBatch};
use ltq_sim::{FileStores, Place, Simulation, Stores};

/// Counts the changes that pass through it.
struct Counted<S> {
    inner: S,
    changes: Arc<AtomicU64>,
}

#[async_trait]
impl<S: Store> ltq_core::StoreLayer for Counted<S> {
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        self.changes.fetch_add(batch.ops().len() as u64, Relaxed);
        self.inner.commit(batch, durability).await
    }
}

/// Opens it, each time that the node starts.
struct CountedStores {
    files: FileStores,
    changes: Arc<AtomicU64>,
}

#[async_trait]
impl Stores for CountedStores {
    type Store = Counted<<FileStores as Stores>::Store>;

    async fn open(&self, place: Place) -> Result<Self::Store, StoreError> {
        let (inner, changes) = (self.files.open(place).await?, Arc::clone(&self.changes));
        Ok(Counted { inner, changes })
    }
}

fn main() {
    let seeds = std::env::args().nth(1).map_or(Ok(20), |word| word.parse());
    let seeds = seeds.expect("how many seeds, as a number");
    let changes = Arc::new(AtomicU64::new(0));
    let stores = CountedStores { files: FileStores::default(), changes: Arc::clone(&changes) };
    let settings =
        BrokerSettings { heartbeat: Duration::from_millis(700), ..Simulation::default_settings() };
    let simulation = Simulation::with_stores(stores).settings(settings);
    let mut simulated = Duration::ZERO;
    for seed in 1..=seeds {
        let played = simulation.play(seed);
        simulated += played.simulated;
        if !played.broken.is_empty() {
            // As few as possible who do what breaks it, and what happens then.
            let left_out = simulation.shrink(seed);
            let least = simulation.play_part(seed, &left_out);
            panic!("seed {seed}: {:?}\n{}", least.broken, least.trace());
        }
    }
    assert!(changes.load(Relaxed) > 0, "the layer is what the broker used");
    println!(
        "{seeds} seeds, {} s of bad luck, {} changes: every promise kept",
        simulated.as_secs(),
        changes.load(Relaxed)
    );
}
