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
pub(in super::super) struct Hashing(u64);

impl Hashing {
    /// How this thread is to spread logs from now on.
    pub(super) fn seed(seed: u64) {
        SEED.set(seed);
    }
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
