//! Processes that can be stopped.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

/// A process among others on one runtime. Clones are the same one.
///
/// While it is [stopped](Self::stop) none of its tasks is polled. Time goes on and its sockets take in what is
/// sent; when it [goes on](Self::go_on) it finds everything at once: what came, and that its timers are late.
#[derive(Clone, Default)]
pub struct Process(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_stopped: bool,
    is_killed: bool,
    /// Tasks that were to be polled meanwhile, in that order.
    due: Vec<Waker>,
    /// All of its tasks, in the order in which they began.
    tasks: BTreeMap<u64, Waker>,
    begun: u64,
}

impl Process {
    /// One that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops it. Nothing of it happens until it goes on, but that its tasks may be dropped.
    pub fn stop(&self) {
        self.0.lock().is_stopped = true;
    }

    /// Lets it go on, if it was stopped.
    pub fn go_on(&self) {
        let due = {
            let mut state = self.0.lock();
            state.is_stopped = false;
            std::mem::take(&mut state.due)
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// Kills it: all of its tasks are dropped, and none is polled again.
    pub fn kill(&self) {
        let tasks = {
            let mut state = self.0.lock();
            state.is_killed = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.into_values().for_each(Waker::wake);
    }

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.lock().is_stopped
    }

    /// Does this as a task of it, together with all that is [spawned](inherit) by that.
    pub fn run<F: Future>(&self, future: F) -> Running<F> {
        Running::new(Some(self.clone()), future)
    }

    /// Whether a task may be polled. One that waits is woken when that has changed.
    fn may_run(&self, task: u64, context: &Context<'_>) -> May {
        let mut state = self.0.lock();
        let waker = context.waker();
        if state.is_killed {
            return May::Never;
        }
        if state.tasks.get(&task).is_none_or(|known| !known.will_wake(waker)) {
            state.tasks.insert(task, waker.clone());
        }
        if !state.is_stopped {
            return May::Now;
        }
        if !state.due.iter().any(|due| due.will_wake(waker)) {
            state.due.push(waker.clone());
        }
        May::Later
    }

    fn next_task(&self) -> u64 {
        let mut state = self.0.lock();
        state.begun += 1;
        state.begun
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("is_stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

/// A task of the process that spawns it, or of none where that is none.
pub fn inherit<F: Future>(future: F) -> Running<F> {
    Running::new(CURRENT.with_borrow(Clone::clone), future)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Now,
    Later,
    Never,
}

/// Something that a process does. Cancel safe if what it does is.
#[must_use = "it does nothing unless it is polled"]
pub struct Running<F> {
    /// Whose it is, and its number there.
    process: Option<(Process, u64)>,
    /// `None` once its process was killed.
    future: Option<Pin<Box<F>>>,
}

impl<F> Running<F> {
    fn new(process: Option<Process>, future: F) -> Self {
        let process = process.map(|process| {
            let task = process.next_task();
            (process, task)
        });
        Self { process, future: Some(Box::pin(future)) }
    }
}

impl<F> Drop for Running<F> {
    fn drop(&mut self) {
        if let Some((process, task)) = &self.process {
            let known = process.0.lock().tasks.remove(task);
            drop(known);
        }
    }
}

impl<F> fmt::Debug for Running<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("process", &self.process).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let may = match &self.process {
            Some((process, task)) => process.may_run(*task, context),
            None => May::Now,
        };
        let _current = self.process.as_ref().map(|it| Current::of(it.0.clone()));
        match (may, &mut self.future) {
            (May::Now, Some(future)) => future.as_mut().poll(context),
            (May::Now | May::Later, _) => Poll::Pending,
            (May::Never, future) => {
                *future = None;
                Poll::Pending
            }
        }
    }
}

thread_local! {
    /// What is polled belongs to this one.
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// As long as it is there its process is the current one of this thread.
struct Current(Option<Process>);

impl Current {
    fn of(process: Process) -> Self {
        Self(CURRENT.replace(Some(process)))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Duration,
    };

    use tokio::time::{Instant, interval, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_stopped_process_spawned_does_nothing_until_it_goes_on() {
        let (process, ticks) = (Process::new(), Arc::new(AtomicU64::new(0)));
        let counted = ticks.clone();
        tokio::spawn(process.run(async move {
            tokio::spawn(inherit(async move {
                let mut every = interval(Duration::from_secs(1));
                loop {
                    every.tick().await;
                    counted.fetch_add(1, Relaxed);
                }
            }));
        }));
        sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ticks.load(Relaxed), 3);
        process.stop();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(ticks.load(Relaxed), 3);
        process.go_on();
        sleep(Duration::from_millis(1)).await;
        // Late timers are all due at once.
        assert_eq!(ticks.load(Relaxed), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn others_go_on_and_a_timer_is_found_late() {
        let process = Process::new();
        let began = Instant::now();
        let late = tokio::spawn(process.run(sleep(Duration::from_secs(1))));
        process.stop();
        tokio::spawn(inherit(sleep(Duration::from_secs(3)))).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
        assert!(!late.is_finished());
        process.go_on();
        late.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_a_killed_process_spawned_is_dropped_stopped_or_not() {
        for is_stopped in [false, true] {
            let (process, held) = (Process::new(), Arc::new(()));
            let theirs = held.clone();
            tokio::spawn(process.run(async move {
                let further = theirs.clone();
                tokio::spawn(inherit(async move {
                    sleep(Duration::from_secs(60)).await;
                    drop(further);
                }));
                std::future::pending::<()>().await;
                drop(theirs);
            }));
            sleep(Duration::from_secs(1)).await;
            assert_eq!(Arc::strong_count(&held), 3);
            if is_stopped {
                process.stop();
            }
            process.kill();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(Arc::strong_count(&held), 1, "stopped: {is_stopped}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_may_be_dropped() {
        let process = Process::new();
        process.stop();
        let (held, is_there) = (Arc::new(()), Arc::new(()));
        let held_there = held.clone();
        let task = tokio::spawn(process.run(async move {
            let _held = held_there;
            std::future::pending::<()>().await;
        }));
        sleep(Duration::from_secs(1)).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!((Arc::strong_count(&held), Arc::strong_count(&is_there)), (1, 1));
        process.go_on();
    }
}
