//! Plays whole brokers, their clients, a network and a disk in one process, on one seed and simulated
//! time: a week of bad luck in a minute, and every failure can be had again.
//!
//! What is played is real: the broker, its sessions, its store, the client. Simulated are time, chance,
//! the [network](ltq_transport::SimulatedNetwork) and the [disk](ltq_store::simulation::SimulatedDisk).
//! For a while things go wrong ([`Trouble`]): connections are cut, the node is killed or loses its
//! power, its disk fills up, clocks jump; producers and consumers crash, and an operator pauses, deletes
//! and makes anew. Then nothing goes wrong any more, and everything due has to be delivered within a
//! bound. What everybody did and was told is the [`Event`]s; checks, one for each promise that LTQ makes,
//! look at nothing else.
//!
//! ```
//! let played = ltq_sim::Simulation::new().play(7);
//! assert!(played.broken.is_empty(), "{:?}\n{}", played.broken, played.trace());
//! ```
//!
//! Whoever builds a broker of his own plays it with a store, settings or a transport of his own. This is
//! all of the test that he needs:
//!
//! ```
//! use ltq_core::BrokerSettings;
//! use ltq_sim::{FileStores, Simulation, Trouble};
//! use std::{error::Error, time::Duration};
//!
//! # fn main() -> Result<(), Box<dyn Error>> { promises_hold_under_bad_luck() }
//! // In a file of tests/, with #[test] above it:
//! fn promises_hold_under_bad_luck() -> Result<(), Box<dyn Error>> {
//!     let settings =
//!         BrokerSettings { heartbeat: Duration::from_millis(300), ..Simulation::default_settings() };
//!     let simulation = Simulation::with_stores(FileStores::default().segment_bytes(256 << 10))
//!         .settings(settings)?
//!         .without(Trouble::ClockJumps);
//!     let summary = simulation.play_all(ltq_sim::seeds(1..5)?)?;
//!     println!("{summary}");
//!     Ok(())
//! }
//! ```
//!
//! It plays on all processors, and with `LTQ_SIM_SEEDS=1..100001` for longer. When a seed breaks a promise
//! the [`Failure`] says which, shrinks it to the few who take part in that, tells how it ends in words, and
//! how to have it again.
//!
//! [`ClusterSimulation`] plays several nodes, registries, and clients that know the registries alone, with
//! partitions of the network between any of them.
//!
//! The same seed gives the same events, as long as nothing in it asks anything but the seed: no clock but
//! tokio's, no chance but [`Place::entropy`], no thread, no hash map with a seed of its own whose order
//! shows.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod body;
mod chance;
mod checks;
mod clients;
mod cluster;
mod consumers;
mod counted;
mod error;
mod history;
mod lasting;
mod leaving;
mod node;
mod operators;
mod panics;
mod plan;
mod played;
mod points;
mod producers;
mod seeds;
mod simulation;
mod stores;
mod topics;
mod torment;
mod trouble;
mod violation;
mod world;

pub use body::Body;
pub use cluster::{ClusterSimulation, Mode, Place as ClusterPlace, Scene, Sight};
pub use error::SimulationError;
pub use history::{Event, Spot, What};
pub use played::{Difference, Played};
pub use seeds::{Failure, SeedsError, Summary, seeds};
pub use simulation::Simulation;
pub use stores::{FileStores, Place, Stores};
pub use trouble::Trouble;
pub use violation::{Rule, Violation};
