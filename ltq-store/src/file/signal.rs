//! Wakes a thread or a task.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Something for one thread or task to wait for. Raising it while it is raised does nothing.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    thread: OnceLock<Thread>,
    task: Notify,
}

impl Signal {
    /// Names the calling thread as the one that waits. Without it a task does.
    pub(super) fn bind(&self) {
        let _ = self.thread.set(thread::current());
    }

    pub(super) fn raise(&self) {
        if !self.raised.swap(true, SeqCst) {
            match self.thread.get() {
                Some(thread) => thread.unpark(),
                None => self.task.notify_one(),
            }
        }
    }

    /// Waits on this thread until it is raised and lowers it again, or until that moment.
    pub(super) fn wait(&self, until: Option<Instant>) {
        while !self.raised.swap(false, SeqCst) {
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return,
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }

    /// The same in a task.
    pub(super) async fn raised(&self, until: Option<Instant>) {
        while !self.raised.swap(false, SeqCst) {
            match until {
                Some(until) => {
                    if timeout_at(until, self.task.notified()).await.is_err() {
                        return;
                    }
                }
                None => self.task.notified().await,
            }
        }
    }
}
