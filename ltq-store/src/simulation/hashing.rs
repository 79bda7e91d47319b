//! The order in which a store comes to its logs: by chance, and the same again for the same seed.

use std::{
    cell::Cell,
    hash::{BuildHasher, DefaultHasher, Hasher, RandomState},
};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Spreads logs by the seed that its thread had when it was made; as nobody can foresee where it had none,
/// since this is also what a node gets that was built together with a simulation.
#[derive(Clone, Debug)]
pub(crate) enum Hashing {
    Seeded(u64),
    Random(RandomState),
}

/// In which order stores that this thread opens from now on come to their logs.
pub fn seed_hashing(seed: u64) {
    SEED.set(Some(seed));
}

impl Default for Hashing {
    fn default() -> Self {
        SEED.get().map_or_else(|| Self::Random(RandomState::new()), Self::Seeded)
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        match self {
            Self::Seeded(seed) => {
                let mut hasher = DefaultHasher::new();
                hasher.write_u64(*seed);
                hasher
            }
            Self::Random(random) => random.build_hasher(),
        }
    }
}
