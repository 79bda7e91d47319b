//! A simulated disk (feature `simulation`): what may go wrong with a real one goes wrong with it, by a
//! seed. A [`FileStore`](crate::FileStore) on it that
//! [works on its runtime](crate::FileStoreOptions::simulated) does the same again for the same seed.
#![allow(
    clippy::indexing_slicing,
    reason = "what is wrong with a simulation is to be seen at once"
)]

mod damage;
mod disk;
mod file;
mod hashing;
mod inode;
mod trouble;

#[cfg(feature = "simulation")]
pub use crate::file::{SteppedStore, StoreStep, Submitted};
pub use disk::SimulatedDisk;
pub(crate) use hashing::Hashing;
pub use hashing::seed_hashing;
pub use trouble::{Chance, DiskFailure, Faults};
