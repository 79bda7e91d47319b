//! The order in which a store comes to its logs: by chance, and the same again for the same seed.

use std::{
    cell::Cell,
    hash::{BuildHasher, DefaultHasher, Hasher},
};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Spreads logs by the seed that its thread had when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashing(u64);

/// In which order stores that this thread opens from now on come to their logs. Without it that
/// order is one of 2^64 too, always the same.
pub fn seed_hashing(seed: u64) {
    SEED.set(seed);
}

impl Default for Hashing {
    fn default() -> Self {
        Self(SEED.get())
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}
