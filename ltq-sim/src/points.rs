//! Where a process may be killed: between any two things that it does.
//!
//! What is counted, as a point, is each poll of one of its streams, each turn of a task that begins with a
//! look at the clock (each of a topic does), each poll of a client's program, and each change that it makes
//! to its disk. What a process leaves behind is what it sent and what its disk has, and both are changed at
//! points only: to be killed anywhere else is to be killed at the next of them.

use std::{fmt, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use ltq_core::{Timestamp, WallClock};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What a process is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// To change its disk.
    Disk,
    /// Anything else.
    Other,
}

/// The points of one process, from its start to its end. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Points(Arc<State>);

struct State {
    armed: Mutex<Option<Armed>>,
    struck: watch::Sender<bool>,
}

struct Armed {
    left: u64,
    strike: Box<dyn FnOnce(Point) + Send>,
}

impl Default for Points {
    fn default() -> Self {
        Self(Arc::new(State { armed: Mutex::default(), struck: watch::channel(false).0 }))
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Points").field("struck", &self.has_struck()).finish_non_exhaustive()
    }
}

impl Points {
    /// Strikes at the point behind so many others, before anything is done there.
    pub(crate) fn arm(&self, after: u64, strike: impl FnOnce(Point) + Send + 'static) {
        *self.0.armed.lock() = Some(Armed { left: after, strike: Box::new(strike) });
    }

    /// It comes to its end in another way: what is left of it passes points still.
    pub(crate) fn disarm(&self) {
        *self.0.armed.lock() = None;
    }

    /// Here is one.
    pub(crate) fn pass(&self, point: Point) {
        let due = {
            let mut armed = self.0.armed.lock();
            match &mut *armed {
                None => None,
                Some(Armed { left: 0, .. }) => armed.take(),
                Some(Armed { left, .. }) => {
                    *left -= 1;
                    None
                }
            }
        };
        if let Some(Armed { strike, .. }) = due {
            strike(point);
            self.0.struck.send_replace(true);
        }
    }

    /// Whether it is dead.
    pub(crate) fn has_struck(&self) -> bool {
        *self.0.struck.borrow()
    }

    /// Resolves when it is. Cancel safe.
    pub(crate) async fn struck(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.0.struck.subscribe().wait_for(|struck| *struck).await;
    }

    /// Does this, with a point before each poll, and drops it when a point strikes. `None` then.
    pub(crate) async fn count<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let (mut what, mut struck) = (pin!(what), pin!(self.struck()));
        poll_fn(|context| {
            self.pass(Point::Other);
            // Asked behind the point, and before what a dead process would not do any more.
            if struck.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            what.as_mut().poll(context).map(Some)
        })
        .await
    }
}

/// A wall clock that a process looks at.
pub(crate) struct Looked<C>(pub(crate) C, pub(crate) Points);

impl<C: WallClock> WallClock for Looked<C> {
    fn now(&self) -> Timestamp {
        self.1.pass(Point::Other);
        self.0.now()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        task::{Context, Waker},
    };

    use super::*;

    #[test]
    fn the_point_behind_so_many_others_strikes_once() {
        let (points, struck_at) = (Points::default(), Arc::new(AtomicU64::new(0)));
        let at = Arc::new(AtomicU64::new(0));
        let (now, to) = (Arc::clone(&at), Arc::clone(&struck_at));
        points.arm(2, move |point| {
            assert_eq!(point, Point::Disk);
            to.fetch_add(now.load(Relaxed), Relaxed);
        });
        for number in 1..=5 {
            at.store(number, Relaxed);
            points.pass(if number == 3 { Point::Disk } else { Point::Other });
            assert_eq!(points.has_struck(), number >= 3);
        }
        assert_eq!(struck_at.load(Relaxed), 3);
    }

    #[test]
    fn a_program_is_dropped_before_the_poll_that_is_its_last() {
        let (points, polls) = (Points::default(), Arc::new(AtomicU64::new(0)));
        points.arm(2, |_| {});
        let counts = Arc::clone(&polls);
        let program = poll_fn(move |_| {
            counts.fetch_add(1, Relaxed);
            Poll::<()>::Pending
        });
        let mut counted = pin!(points.count(program));
        let mut context = Context::from_waker(Waker::noop());
        assert!(counted.as_mut().poll(&mut context).is_pending());
        assert!(counted.as_mut().poll(&mut context).is_pending());
        assert_eq!(counted.as_mut().poll(&mut context), Poll::Ready(None));
        assert_eq!(polls.load(Relaxed), 2);
    }

    #[test]
    fn a_program_that_sleeps_hears_that_another_point_struck() {
        let points = Points::default();
        let mut counted = pin!(points.count(pending::<()>()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(counted.as_mut().poll(&mut context).is_pending());
        points.arm(0, |_| {});
        points.pass(Point::Other);
        assert_eq!(counted.as_mut().poll(&mut context), Poll::Ready(None));
    }
}
