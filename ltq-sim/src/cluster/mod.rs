//! Several nodes, registries, and clients that know the registries alone, on one seed.
//!
//! The pieces are those of the simulation of one node: brokers on simulated disks, one network, one clock.
//! What is added is what stands between nodes and clients: registries, announcements, watches, and
//! partitions of the network.

mod acts;
mod announcing;
mod checks;
mod clients;
mod consumers;
mod disks;
mod history;
mod node;
mod partitions;
mod plan;
mod producers;
mod registry;
mod seen;
mod simulation;
mod standstill;
mod strangers;
#[cfg(test)]
mod tests;
mod topics;
mod trouble;
mod watchers;
mod world;

pub use history::{Place, Scene, Sight};
pub use simulation::ClusterSimulation;
pub use topics::Mode;
