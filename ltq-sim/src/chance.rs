//! Where a simulation takes chance and wall time from: its seed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_core::{Entropy, Timestamp, WallClock};
use ltq_store::simulation::Chance;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Chance, by a seed. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(Arc<Mutex<Chance>>);

impl Seeded {
    /// Of this seed.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Chance::new(seed))))
    }

    /// Of this seed for a part of this name: nobody else's, whoever else takes part.
    #[must_use]
    pub(crate) fn of(seed: u64, name: &str) -> Self {
        // FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = Chance::new(seed ^ hash).next();
        Self::new(mixed ^ hash.rotate_left(17) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Another one, which takes nothing from this one later on.
    #[must_use]
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.0.lock().next())
    }

    /// One of the numbers below `limit`.
    #[must_use]
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.0.lock().below(limit)
    }

    /// Yes once in `count` times.
    #[must_use]
    pub(crate) fn one_in(&self, count: u64) -> bool {
        self.0.lock().one_in(count)
    }

    /// One of these.
    #[must_use]
    pub(crate) fn pick<T: Copy, const N: usize>(&self, of: &[T; N]) -> T {
        const { assert!(N > 0, "there must be one to pick") };
        *of.get(self.below(N as u64) as usize).unwrap_or(&of[0])
    }

    /// Up to so many milliseconds.
    #[must_use]
    pub(crate) fn millis(&self, most: u64) -> Duration {
        Duration::from_millis(self.below(most + 1))
    }

    /// Used where a disk is told of chance.
    #[must_use]
    pub(crate) fn chance(&self) -> Chance {
        Chance::new(self.0.lock().next())
    }
}

impl Entropy for Seeded {
    fn next(&self) -> u64 {
        let mut chance = self.0.lock();
        (chance.next() << 32) ^ chance.next()
    }
}

/// A wall clock that goes with simulated time, and jumps when it is told to.
#[derive(Clone)]
pub(crate) struct Clock {
    start: Instant,
    ahead_millis: Arc<AtomicI64>,
}

impl Clock {
    /// One that starts now. A runtime must be there.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), ahead_millis: Arc::default() }
    }

    /// Jumps by so many milliseconds.
    pub(crate) fn jump(&self, millis: i64) {
        self.ahead_millis.fetch_add(millis, Relaxed);
    }
}

impl WallClock for Clock {
    fn now(&self) -> Timestamp {
        let since = self.start.elapsed().as_millis() as i64 + self.ahead_millis.load(Relaxed);
        Timestamp(EPOCH_MILLIS.saturating_add_signed(since))
    }
}

/// When a simulation begins.
const EPOCH_MILLIS: u64 = 1_790_000_000_000;
