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
