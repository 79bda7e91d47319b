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

/// How often somebody does each of some things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds<const N: usize>([u64; N]);

impl<const N: usize> Odds<N> {
    /// Of one who does some of them more often than is usual, and others never, but for the first: that
    /// is what he is there for.
    #[must_use]
    pub(crate) fn about(usual: [u64; N], chance: &Seeded) -> Self {
        let mut odds = usual.map(|often| often * chance.pick(&[0, 1, 1, 2, 4]));
        if let (Some(first), Some(usual)) = (odds.first_mut(), usual.first()) {
            *first = (*first).max(*usual);
        }
        Self(odds)
    }

    /// Which one he does now.
    #[must_use]
    pub(crate) fn draw(&self, chance: &Seeded) -> usize {
        let mut at = chance.below(self.0.iter().sum());
        let drawn = self.0.iter().position(|&often| match at.checked_sub(often) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        drawn.unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_does_what_he_is_there_for_and_some_never_do_the_rest() {
        let (mut never, mut often) = (0, 0);
        for seed in 0..100 {
            let chance = Seeded::new(seed);
            let odds = Odds::about([2, 1, 1], &chance);
            let mut drawn = [0; 3];
            for _ in 0..1_000 {
                drawn[odds.draw(&chance)] += 1;
            }
            assert!(drawn[0] > 100, "{odds:?}: {drawn:?}");
            never += usize::from(drawn[1] == 0);
            often += usize::from(drawn[1] > drawn[0]);
        }
        assert!(never > 5 && often > 5, "{never}, {often}");
    }
}
