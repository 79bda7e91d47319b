//! A broker of your own under bad luck: with a store of your own, here a layer around the file store
//! that counts what passes through it, played by seeds until one breaks a promise.
//!
//! ```text
//! cargo run --release -p ltq-examples --example simulated -- 200
//! ```

use std::{
    error::Error,
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

fn main() -> Result<(), Box<dyn Error>> {
    let seeds: u64 = std::env::args().nth(1).map_or(Ok(20), |word| word.parse())?;
    let changes = Arc::new(AtomicU64::new(0));
    let stores = CountedStores { files: FileStores::default(), changes: Arc::clone(&changes) };
    let settings =
        BrokerSettings { heartbeat: Duration::from_millis(700), ..Simulation::default_settings() };
    let simulation = Simulation::with_stores(stores).settings(settings)?;
    // A transport of your own goes around each host's: `.transport(|host| Yours::around(host))?`.
    // What breaks a promise, if anything does, with as few as possible who do it, and how it ends.
    let summary = simulation.play_all(ltq_sim::seeds(1..seeds + 1)?)?;
    assert!(changes.load(Relaxed) > 0, "the layer is what the broker used");
    println!("{summary}; {} changes passed through the layer", changes.load(Relaxed));
    Ok(())
}
