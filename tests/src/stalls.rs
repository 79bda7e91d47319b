//! When this machine kept a program from running, by a thread that notes how late it wakes up; and when it kept
//! other programs from running that are watched, by what the kernel says of how long their threads waited for a
//! processor.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Times in which this process, or one that it watches, was not run though it wanted to be: the machine had other
/// things to do, or this process was stopped. Watched for as long as this lives.
pub struct Stalls {
    found: Arc<Mutex<Found>>,
    others: Arc<Mutex<Vec<Other>>>,
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

/// All of them, none of which touches another, in order.
#[derive(Debug, Default)]
struct Found(Vec<Stall>);

impl Found {
    /// Takes in one that ends behind all others.
    fn add(&mut self, mut stall: Stall) {
        while let Some(last) = self.0.pop_if(|last| last.to >= stall.from) {
            stall = Stall { from: last.from.min(stall.from), to: last.to.max(stall.to) };
        }
        self.0.push(stall);
    }

    fn between(&self, from: Instant, to: Instant) -> Duration {
        let first = self.0.partition_point(|stall| stall.to <= from);
        let those = self.0.iter().skip(first).take_while(|stall| stall.from < to);
        those.map(|it| it.to.min(to).saturating_duration_since(it.from.max(from))).sum()
    }
}

/// Another process, and for each of its threads how long it had waited for a processor when it was looked at last, and
/// how often.
struct Other {
    pid: u32,
    waited: HashMap<PathBuf, (Duration, u32)>,
}

impl Other {
    /// How long each thread of it waited since the last look, if it did not get one in its turn: those who share the
    /// processors with each other wait some milliseconds again and again, which is nobody else's doing.
    fn look(&mut self) -> Vec<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let look = |thread: io::Result<fs::DirEntry>| {
            let path = thread.ok()?.path();
            // How long it ran, how long it waited, and how often; see the kernel's sched-stats.
            let told = fs::read_to_string(path.join("schedstat")).ok()?;
            let mut words = told.split_whitespace().skip(1).map(|word| word.parse::<u64>().ok());
            let (waited, times) = (Duration::from_nanos(words.next()??), words.next()?? as u32);
            // What a thread waited before it was seen first is not known to be of late.
            let before = self.waited.insert(path, (waited, times)).unwrap_or((waited, times));
            let (waited, times) = (waited.saturating_sub(before.0), times.wrapping_sub(before.1));
            (times > 0 && waited / times >= NOTED).then_some(waited)
        };
        threads.into_iter().flatten().filter_map(look).collect()
    }
}

/// What all of them waited since they were looked at last, so long ago. One thread may wait for another one, and both
/// for a processor: that takes no longer than all together, nor than there was time.
fn waited(others: &mut [Other], since: Duration) -> Duration {
    let waited: Vec<_> = others.iter_mut().flat_map(Other::look).collect();
    let longest = waited.iter().max().copied().unwrap_or_default();
    longest.max(waited.iter().sum::<Duration>().min(since))
}

impl Stalls {
    /// Begins to watch.
    #[must_use]
    pub fn watch() -> Self {
        Self::telling(|_| {})
    }

    /// Begins to watch, and tells each one of this process at its end, too.
    #[must_use]
    pub fn watch_and(tell: impl FnMut(Stall) + Send + 'static) -> Self {
        Self::telling(tell)
    }

    /// Watches another process, too, until it ends: whatever this one waits for may wait for that one. Times in
    /// which it was stopped are none of the machine's.
    pub fn watch_process(&self, pid: Option<u32>) {
        let other = pid.map(|pid| Other { pid, waited: HashMap::new() });
        self.others.lock().extend(other);
    }

    fn telling(mut tell: impl FnMut(Stall) + Send + 'static) -> Self {
        let (found, ends) = (Arc::new(Mutex::new(Found::default())), Arc::default());
        let others = Arc::new(Mutex::new(Vec::<Other>::new()));
        let (keep, look, told) = (found.clone(), others.clone(), Arc::<AtomicBool>::clone(&ends));
        let watching = thread::spawn(move || {
            let mut looked = Instant::now();
            let mut due = looked + TICK;
            for turn in 1_u64.. {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let now = Instant::now();
                if now.saturating_duration_since(due) >= NOTED {
                    let stall = Stall { from: due, to: now };
                    keep.lock().add(stall);
                    tell(stall);
                }
                if turn.is_multiple_of(LOOK_TURNS) {
                    let waited = waited(&mut look.lock(), now.saturating_duration_since(looked));
                    looked = now;
                    if !waited.is_zero()
                        && let Some(from) = now.checked_sub(waited)
                    {
                        keep.lock().add(Stall { from, to: now });
                    }
                }
                due = Instant::now() + TICK;
            }
        });
        Self { found, others, ends, watching: Some(watching) }
    }

    /// How much of a time this process, or one that it watches, was kept from running.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Duration {
        self.found.lock().between(from, to)
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
/// At which of its turns it looks at other processes, which takes a file for each of their threads.
const LOOK_TURNS: u64 = 4;

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn what_lies_in_a_time_is_taken_from_it_and_nothing_else() {
        let stalls = Stalls::watch();
        let zero = Instant::now() + Duration::from_secs(3_600);
        let at = |ms: u64| zero + Duration::from_millis(ms);
        // Some of several programs lie over one another, and count once.
        for (from, to) in
            [(120, 150), (100, 200), (400, 500), (600, 700), (450, 900), (2_000, 2_100)]
        {
            stalls.found.lock().add(Stall { from: at(from), to: at(to) });
        }
        assert_eq!(stalls.found.lock().0.len(), 3);
        for (from, to, stalled) in [
            (0, 100, 0),
            (0, 300, 100),
            (150, 500, 150),
            (500, 600, 100),
            (0, 3_000, 700),
            (900, 2_000, 0),
        ] {
            let judged = stalls.without(at(from), at(to));
            let ms = |duration: Duration| duration.as_millis() as u64;
            assert_eq!(ms(judged.stalled), stalled, "{from} to {to}");
            assert_eq!((ms(judged.took), ms(judged.own)), (to - from, to - from - stalled));
        }
    }

    /// Killed when it is dropped.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn runs(what: &str) -> Running {
        Running(Command::new("sh").args(["-c", what]).spawn().unwrap())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_among_many_is_known_to_wait_and_one_that_is_stopped_is_not() {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let busy: Vec<_> = (0..processors * 8).map(|_| runs("while :; do :; done")).collect();
        let pid = busy[0].0.id();
        let (stalls, others) = (Stalls::watch(), Stalls::watch());
        stalls.watch_process(Some(pid));
        stalls.watch_process(None);
        let began = Instant::now();
        let until = |what: &str, is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(began.elapsed() < crate::DEADLINE, "{what}");
                thread::sleep(TICK);
            }
        };
        // It has a small part of a processor: most of the time it waits, and who does not watch it does not.
        let known = || stalls.between(began, Instant::now());
        until("it never waited", &|| known() >= Duration::from_secs(1));
        let own = others.between(began, Instant::now());
        assert!(own < known(), "{own:?}");
        let stopped = Command::new("kill").args(["-STOP", &pid.to_string()]).status();
        assert!(stopped.unwrap().success());
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        until("it is not stopped", &|| state().contains(") T "));
        let mut other = Other { pid, waited: HashMap::new() };
        other.look();
        let before = other.waited.clone();
        thread::sleep(TICK);
        assert!(other.look().is_empty());
        assert_eq!(other.waited, before);
    }
}
