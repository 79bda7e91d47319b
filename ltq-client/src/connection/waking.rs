//! How each lane of a connection is woken by itself, so that a turn of the task costs nothing for
//! the lanes that have nothing to do.

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use parking_lot::Mutex;

use super::{Hub, place::LaneNumber};

/// The lanes that were woken since the task looked last.
pub(super) struct Woken {
    hub: Arc<Hub>,
    /// Each waker stands in it at most once.
    lanes: Mutex<Vec<LaneNumber>>,
}

impl Woken {
    pub(super) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub, lanes: Mutex::new(Vec::new()) }
    }

    /// Takes those that were woken. `into` is empty, and lends its memory.
    pub(super) fn take(&self, into: &mut Vec<LaneNumber>) {
        mem::swap(&mut *self.lanes.lock(), into);
    }
}

/// What wakes one lane.
pub(super) struct LaneWaker {
    state: Arc<State>,
    waker: Waker,
}

struct State {
    lane: LaneNumber,
    /// It stands among the woken ones, or its turn has not begun yet.
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl LaneWaker {
    pub(super) fn new(lane: LaneNumber, woken: Arc<Woken>) -> Self {
        let state = Arc::new(State { lane, is_woken: AtomicBool::new(false), woken });
        Self { waker: Waker::from(state.clone()), state }
    }

    pub(super) const fn as_waker(&self) -> &Waker {
        &self.waker
    }

    /// The lane is about to be looked at: what wakes it from here on is news.
    pub(super) fn rest(&self) {
        // What a waker that came before this saw is seen by whoever looks after it.
        self.state.is_woken.swap(false, Ordering::AcqRel);
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.lanes.lock().push(self.lane);
            self.woken.hub.waker.wake();
        }
    }
}

impl fmt::Debug for LaneWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneWaker").field(&self.state.lane).finish()
    }
}
