//! Processes that can be stopped.

use std::{
    cell::RefCell,
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
    /// Tasks that were to be polled meanwhile, in that order.
    due: Vec<Waker>,
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

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.lock().is_stopped
    }

    /// Does this as a task of it, together with all that is [spawned](inherit) by that.
    pub fn run<F: Future>(&self, future: F) -> Running<F> {
        Running { process: Some(self.clone()), future: Box::pin(future) }
    }

    /// Whether a task has to wait; it is woken then.
    fn holds_up(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        if state.is_stopped {
            let waker = context.waker();
            if !state.due.iter().any(|due| due.will_wake(waker)) {
                state.due.push(waker.clone());
            }
        }
        state.is_stopped
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("is_stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

/// A task of the process that spawns it, or of none where that is none.
pub fn inherit<F: Future>(future: F) -> Running<F> {
    Running { process: CURRENT.with_borrow(Clone::clone), future: Box::pin(future) }
}

/// Something that a process does. Cancel safe if what it does is.
#[must_use = "it does nothing unless it is polled"]
pub struct Running<F> {
    process: Option<Process>,
    future: Pin<Box<F>>,
}

impl<F> fmt::Debug for Running<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("process", &self.process).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(process) = self.process.clone() else {
            return self.future.as_mut().poll(context);
        };
        if process.holds_up(context) {
            return Poll::Pending;
        }
        let _current = Current::of(process);
        self.future.as_mut().poll(context)
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
