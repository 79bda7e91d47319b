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
//! assert_eq!(played.broken, Vec::<String>::new(), "{}", played.trace());
//! ```
//!
//! Whoever builds a broker of his own plays it with a store, settings or a transport of his own:
//!
//! ```
//! use ltq_core::BrokerSettings;
//! use ltq_sim::{FileStores, Simulation, Trouble};
//! use std::time::Duration;
//!
//! let settings =
//!     BrokerSettings { heartbeat: Duration::from_millis(300), ..Simulation::default_settings() };
//! let simulation = Simulation::with_stores(FileStores::default().segment_bytes(256 << 10))
//!     .settings(settings)
//!     .without(Trouble::ClockJumps);
//! for seed in 1..5 {
//!     let played = simulation.play(seed);
//!     if !played.broken.is_empty() {
//!         let left_out = simulation.shrink(seed);
//!         let least = simulation.play_part(seed, &left_out);
//!         panic!("seed {seed}: {:?}\n{}", least.broken, least.trace());
//!     }
//! }
//! ```
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
mod consumers;
mod counted;
mod history;
mod lasting;
mod leaving;
mod node;
mod operators;
mod panics;
mod plan;
mod points;
mod producers;
mod simulation;
mod stores;
mod topics;
mod torment;
mod trouble;
mod world;

pub use body::Body;
pub use history::{Event, Spot, What};
pub use simulation::{Played, Simulation};
pub use stores::{FileStores, Place, Stores};
pub use trouble::Trouble;
