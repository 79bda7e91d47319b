//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double from `min` to `max`, each cut short by chance down to its half, so that many
/// clients of a broker that restarts do not come back at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Waits from `min` (at least 1 ms) to `max` (at least `min`).
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self { min, max: max.max(min) }
    }

    /// The longest that [`wait`](Self::wait) comes to after so many failures.
    pub(crate) fn longest(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }

    /// The wait after so many failures in a row, the first being 1, with a random number for
    /// chance.
    #[must_use]
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let full = self.longest(failures);
        let half = full / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        full - Duration::from_nanos(random.checked_rem(nanos.saturating_add(1)).unwrap_or(0))
    }
}

impl Default for Backoff {
    /// From 50 ms to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_keep_at_least_half() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for (failures, full) in
            [(0, 100), (1, 100), (2, 200), (4, 800), (5, 1000), (u32::MAX, 1000)]
        {
            assert_eq!(backoff.wait(failures, 0), Duration::from_millis(full));
            for random in [1, 77_777_777, u64::MAX] {
                let wait = backoff.wait(failures, random);
                assert!(wait <= Duration::from_millis(full));
                assert!(wait >= Duration::from_millis(full / 2), "{wait:?}");
            }
        }
    }

    #[test]
    fn odd_bounds_are_put_right() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(backoff.wait(9, 0), Duration::from_millis(1));
        let huge = Backoff::new(Duration::MAX, Duration::MAX);
        assert!(huge.wait(40, 3) <= Duration::MAX);
    }
}
