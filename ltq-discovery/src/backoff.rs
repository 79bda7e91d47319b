//! How long to wait before something is tried again.

use std::time::Duration;

use ltq_core::Entropy;

/// How long to wait after so many failures in a row: doubling from the one time to the other, and cut short
/// by chance down to a half, so that many clients of what restarts do not come back at one instant.
pub(crate) fn wait(
    (min, max): (Duration, Duration),
    failures: u32,
    entropy: &dyn Entropy,
) -> Duration {
    let full = min.saturating_mul(1 << failures.min(16)).min(max).max(Duration::from_millis(1));
    let nanos = u64::try_from((full / 2).as_nanos()).unwrap_or(u64::MAX);
    full - Duration::from_nanos(entropy.next() % nanos.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Always(u64);

    impl Entropy for Always {
        fn next(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_chance_leaves_half_of_each() {
        let millis = Duration::from_millis;
        let times = (millis(100), millis(5_000));
        for (failures, full) in [(0, 100), (1, 200), (5, 3_200), (6, 5_000), (u32::MAX, 5_000)] {
            let full = millis(full);
            assert_eq!(wait(times, failures, &Always(0)), full);
            let half = u64::try_from((full / 2).as_nanos()).unwrap();
            assert_eq!(wait(times, failures, &Always(half)), full / 2);
        }
        assert_eq!(wait((Duration::ZERO, Duration::ZERO), 3, &Always(0)), millis(1));
    }
}
