//! The one timer of the connection's task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Fires no later than the earliest moment that it was told of, and then forgets all of them. It
/// may be that nothing is due then, or no longer: whoever it wakes looks for itself, and tells the
/// next moments again.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), at: None }
    }

    /// Fires at `at` or earlier.
    pub(super) fn no_later_than(&mut self, at: Instant) {
        if self.at.is_none_or(|now_set| at < now_set) {
            self.at = Some(at);
            self.sleep.as_mut().reset(at);
        }
    }

    /// Whether it fires at `at` or earlier.
    pub(super) fn is_no_later_than(&self, at: Instant) -> bool {
        self.at.is_some_and(|now_set| now_set <= at)
    }

    /// Ready when it fires.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.at.is_none() || self.sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.at = None;
        Poll::Ready(())
    }
}
