//! When this machine kept a program from running, by a thread that notes how late it wakes up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Times in which this process was not run, though it wanted to: the machine had other things to do, or the process
/// was stopped. Watched for as long as this lives.
pub struct Stalls {
    found: Arc<Mutex<Vec<Stall>>>,
    ends: Arc<AtomicBool>,
    watching: Option<JoinHandle<()>>,
}

/// One such time: from when the thread was to be woken until it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Its begin.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

impl Stall {
    /// How much of a time it was.
    fn part_of(&self, from: Instant, to: Instant) -> Duration {
        self.to.min(to).saturating_duration_since(self.from.max(from))
    }
}

impl Stalls {
    /// Begins to watch.
    #[must_use]
    pub fn watch() -> Self {
        let found = Arc::new(Mutex::new(Vec::new()));
        let keep = found.clone();
        Self::telling(found, move |stall| keep.lock().push(stall))
    }

    /// Begins to watch, and tells each one at its end, too.
    #[must_use]
    pub fn watch_and(mut tell: impl FnMut(Stall) + Send + 'static) -> Self {
        let found = Arc::new(Mutex::new(Vec::new()));
        let keep = found.clone();
        Self::telling(found, move |stall| {
            keep.lock().push(stall);
            tell(stall);
        })
    }

    fn telling(
        found: Arc<Mutex<Vec<Stall>>>,
        mut tell: impl FnMut(Stall) + Send + 'static,
    ) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let watching = thread::spawn(move || {
            let mut due = Instant::now() + TICK;
            while !told.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let now = Instant::now();
                if now.saturating_duration_since(due) >= NOTED {
                    tell(Stall { from: due, to: now });
                }
                due = now + TICK;
            }
        });
        Self { found, ends, watching: Some(watching) }
    }

    /// How much of a time this process was kept from running.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Duration {
        self.found.lock().iter().map(|stall| stall.part_of(from, to)).sum()
    }

    /// What is left of a time without them: what is to be judged of it, and words on both for whoever is told.
    #[must_use]
    pub fn without(&self, from: Instant, to: Instant) -> Judged {
        let stalled = self.between(from, to);
        let took = to.saturating_duration_since(from);
        Judged { own: took.saturating_sub(stalled), took, stalled }
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(watching) = self.watching.take() {
            // It ends at its next tick.
            let _ = watching.join();
        }
    }
}

/// How long something took, and how much of that was the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Judged {
    /// Without the stalls: what may be judged.
    pub own: Duration,
    /// In all.
    pub took: Duration,
    /// The stalls.
    pub stalled: Duration,
}

/// How often the thread wakes up.
const TICK: Duration = Duration::from_millis(5);
/// Less than this late is nothing.
const NOTED: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_time_is_taken_from_it_and_nothing_else() {
        let stalls = Stalls::watch();
        let zero = Instant::now() + Duration::from_secs(3_600);
        let at = |ms: u64| zero + Duration::from_millis(ms);
        for (from, to) in [(100, 200), (400, 900), (2_000, 2_100)] {
            stalls.found.lock().push(Stall { from: at(from), to: at(to) });
        }
        for (from, to, stalled) in [(0, 100, 0), (0, 300, 100), (150, 500, 150), (500, 600, 100)] {
            let judged = stalls.without(at(from), at(to));
            let ms = |duration: Duration| duration.as_millis() as u64;
            assert_eq!(ms(judged.stalled), stalled, "{from} to {to}");
            assert_eq!((ms(judged.took), ms(judged.own)), (to - from, to - from - stalled));
        }
    }
}
