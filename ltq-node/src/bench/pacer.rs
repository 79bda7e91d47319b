//! Publishing at a fixed rate, whether or not the node keeps up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// When each message of a run is due. Messages go to the producers in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Nanoseconds on the run's clock when the first is due.
    pub(super) start: u64,
    /// Messages per second over all producers.
    pub(super) rate: u32,
    pub(super) producers: u64,
}

impl Schedule {
    /// When the message with this sequence of this producer is due, in nanoseconds.
    pub(super) fn due(&self, producer: u64, sequence: u64) -> u64 {
        let place = u128::from(sequence) * u128::from(self.producers) + u128::from(producer);
        let after = place * 1_000_000_000 / u128::from(self.rate);
        self.start.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// How many messages of this producer are due in the first so many nanoseconds of the schedule.
    pub(super) fn due_before(&self, producer: u64, duration: u64) -> u64 {
        duration
            .checked_sub(1)
            .map_or(0, |last| self.due_by(producer, self.start.saturating_add(last)))
    }

    /// How many messages of this producer are due at `now`.
    pub(super) fn due_by(&self, producer: u64, now: u64) -> u64 {
        let Some(since) = now.checked_sub(self.start) else { return 0 };
        let places = u128::from(since) * u128::from(self.rate) / 1_000_000_000 + 1;
        let producers = u128::from(self.producers);
        let before = u128::from(producer);
        let due = places.saturating_sub(before).div_ceil(producers);
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

/// Wakes producers when messages are due: a thread, since the runtime's own timer counts in
/// milliseconds. Ends when it is dropped.
pub(super) struct Pacer {
    ended: Arc<AtomicBool>,
}

impl Pacer {
    /// Wakes each of `producers` when its next message is due, from `clock`'s start on.
    pub(super) fn start(
        schedule: Schedule,
        clock: Instant,
        producers: Vec<Arc<Notify>>,
    ) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            let mut woken = vec![0; producers.len()];
            while !until.load(Ordering::Relaxed) {
                let now = nanos(clock.elapsed());
                let mut next = u64::MAX;
                for ((producer, wake), woken) in (0..).zip(&producers).zip(&mut woken) {
                    let due = schedule.due_by(producer, now);
                    if due > *woken {
                        *woken = due;
                        wake.notify_one();
                    }
                    next = next.min(schedule.due(producer, due));
                }
                let wait = next.saturating_sub(nanos(clock.elapsed()));
                thread::sleep(Duration::from_nanos(wait).min(LONGEST_SLEEP));
            }
        })?;
        Ok(Self { ended })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// So that it notices soon that it is to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_in_turn_at_the_rate() {
        let schedule = Schedule { start: 500, rate: 1000, producers: 4 };
        assert_eq!(schedule.due(0, 0), 500);
        assert_eq!(schedule.due(1, 0), 1_000_500);
        assert_eq!(schedule.due(0, 1), 4_000_500);
        for producer in 0..4 {
            assert_eq!(schedule.due_by(producer, 499), 0);
            for sequence in 0..50 {
                let due = schedule.due(producer, sequence);
                assert_eq!(schedule.due_by(producer, due), sequence + 1);
                assert_eq!(schedule.due_by(producer, due - 1), sequence);
            }
        }
        let within: u64 = (0..4).map(|producer| schedule.due_before(producer, 20_000_000)).sum();
        assert_eq!(within, 20);
        assert_eq!(schedule.due_before(0, 0), 0);
        let odd = Schedule { start: 0, rate: 7, producers: 3 };
        for sequence in 0..50 {
            assert!(odd.due_by(2, odd.due(2, sequence)) <= sequence + 1);
            assert!(odd.due_by(2, odd.due(2, sequence) + 1) > sequence);
        }
    }
}
