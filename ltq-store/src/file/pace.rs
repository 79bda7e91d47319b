//! How long something takes at worst, of late.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The longest time of late: each time that is noted takes an eighth off what it was before.
#[derive(Debug, Default)]
pub(super) struct Pace {
    nanos: AtomicU64,
}

impl Pace {
    /// Something took so long.
    pub(super) fn note(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let before = self.nanos.load(Relaxed);
        self.nanos.store(nanos.max(before - before / 8), Relaxed);
    }

    /// How long it is to be expected to take at worst; nothing before the first time.
    pub(super) fn worst(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_time_is_remembered_for_a_while() {
        let pace = Pace::default();
        assert_eq!(pace.worst(), Duration::ZERO);
        let short = Duration::from_micros(100);
        pace.note(short);
        assert_eq!(pace.worst(), short);
        pace.note(Duration::from_millis(100));
        assert_eq!(pace.worst(), Duration::from_millis(100));
        let times = (1..).find(|_| {
            pace.note(short);
            pace.worst() < Duration::from_millis(1)
        });
        assert_eq!(times, Some(35));
        (0..100).for_each(|_| pace.note(short));
        assert_eq!(pace.worst(), short);
    }
}
