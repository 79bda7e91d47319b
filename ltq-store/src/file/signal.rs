//! Wakes a thread.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Something for one thread to wait for. Raising it while it is raised does nothing.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Signal {
    /// Names the calling thread as the one that waits.
    pub(super) fn bind(&self) {
        let _ = self.thread.set(thread::current());
    }

    pub(super) fn raise(&self) {
        if !self.raised.swap(true, SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Waits until it is raised and lowers it again, or until the time is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        while !self.raised.swap(false, SeqCst) {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return,
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }
}
