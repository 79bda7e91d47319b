//! The only two things that a broker takes from its surroundings besides its store and its
//! streams: wall time and chance. Both can be replaced, so that a whole broker runs under a seed.
//! Waiting is on tokio's clock, which a test can pause.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::{Monotonic, Now, Timestamp};

/// Tells wall time.
pub trait WallClock: Send + Sync + 'static {
    /// The wall time now.
    fn now(&self) -> Timestamp;
}

/// Gives random numbers.
pub trait Entropy: Send + Sync + 'static {
    /// The next number, uniformly distributed. Names and jitter come from it, no secrets.
    fn next(&self) -> u64;
}

/// The operating system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next(&self) -> u64 {
        rand::random()
    }
}

/// Clocks and chance for one broker.
#[derive(Clone)]
pub struct Environment {
    wall: Arc<dyn WallClock>,
    entropy: Arc<dyn Entropy>,
    start: Instant,
}

impl Environment {
    /// The real ones. Monotonic time starts now, on tokio's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// Others.
    #[must_use]
    pub fn new(wall: Arc<dyn WallClock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { wall, entropy, start: Instant::now() }
    }

    /// Both clocks, read once.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { monotonic: Monotonic::default().plus(self.start.elapsed()), wall: self.wall.now() }
    }

    /// A moment of monotonic time as one that tokio can sleep until.
    #[must_use]
    pub fn instant(&self, at: Monotonic) -> Instant {
        self.start + Duration::from_micros(at.0.min(FAR_MICROS))
    }

    /// The next random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.entropy.next()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// Thirty years: what tokio itself calls far away; beyond it an instant could overflow.
const FAR_MICROS: u64 = 30 * 365 * 86_400 * 1_000_000;
