//! The limits that all sessions of a broker share.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::waiters::{Ticket, Waiters};

/// Bytes of publishes that are in the inboxes and commits of all topics. Those who have read them
/// count them, topics count them down, and whoever wants to read more waits for room first, so
/// that the limit is passed by at most one read of each; and by as much again at most by those who
/// have nothing in it. Each connection and each address has one of its own beside it, and all three
/// another one for answers. Deliveries that wait for their peers are counted in one too, which nobody
/// waits for: see [`Together`](super::together::Together).
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    /// Those who have something in it, and those who have nothing.
    going_on: Line,
    beginning: Line,
}

/// Those who wait until no more than `most` is used.
#[derive(Debug)]
struct Line {
    most: usize,
    /// Somebody is in `waiters`. Set before what is used is looked at for the last time, and looked at
    /// after that has become less, so that nobody waits for room that is there.
    waited_for: AtomicBool,
    waiters: Mutex<Waiters>,
}

/// A task's places before a [`Budget`].
#[derive(Debug, Default)]
pub(super) struct Turn {
    going_on: Ticket,
    beginning: Ticket,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            going_on: Line::new(limit),
            beginning: Line::new(limit.saturating_mul(BEYOND)),
        }
    }

    pub(super) fn take(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_add(bytes, Ordering::SeqCst);
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "{bytes} given back, {before} taken");
        let used = before.saturating_sub(bytes);
        self.beginning.relieve(used);
        self.going_on.relieve(used);
    }

    /// Ready when there is room: for one that has `nothing` in it, up to twice as much.
    pub(super) fn poll_room(
        &self,
        nothing: bool,
        turn: &mut Turn,
        context: &Context<'_>,
    ) -> Poll<()> {
        match nothing {
            true => {
                self.going_on.leave(&mut turn.going_on);
                self.beginning.poll(&self.used, &mut turn.beginning, context)
            }
            false => {
                self.beginning.leave(&mut turn.beginning);
                self.going_on.poll(&self.used, &mut turn.going_on, context)
            }
        }
    }

    /// A task does not wait any more.
    pub(super) fn leave(&self, turn: &mut Turn) {
        self.going_on.leave(&mut turn.going_on);
        self.beginning.leave(&mut turn.beginning);
    }

    /// Bytes that are counted now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Whether they are more than they should be.
    pub(super) fn is_full(&self) -> bool {
        self.used() > self.going_on.most
    }

    /// Whether not even those who have nothing in it may begin.
    pub(super) fn is_crowded(&self) -> bool {
        self.used() > self.beginning.most
    }
}

impl Line {
    fn new(most: usize) -> Self {
        Self { most, waited_for: AtomicBool::new(false), waiters: Mutex::default() }
    }

    /// So much is used now, and was more before.
    fn relieve(&self, used: usize) {
        if used > self.most || !self.waited_for.load(Ordering::SeqCst) {
            return;
        }
        // Those who waited longest go first. A few at a time fill what little room there is.
        self.wake(if used <= self.most / 2 { usize::MAX } else { WOKEN_AT_ONCE });
    }

    fn wake(&self, count: usize) {
        let mut waiters = self.waiters.lock();
        let woken = waiters.first(count);
        self.waited_for.store(!waiters.is_empty(), Ordering::SeqCst);
        drop(waiters);
        woken.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, used: &AtomicUsize, ticket: &mut Ticket, context: &Context<'_>) -> Poll<()> {
        if used.load(Ordering::SeqCst) > self.most {
            let mut waiters = self.waiters.lock();
            waiters.wait(ticket, context);
            self.waited_for.store(true, Ordering::SeqCst);
            if used.load(Ordering::SeqCst) > self.most {
                return Poll::Pending;
            }
        }
        if ticket.is_waiting() {
            self.leave(ticket);
            // Nothing may be given back for long, and there may be room for the next one too.
            if self.waited_for.load(Ordering::SeqCst) {
                self.wake(1);
            }
        }
        Poll::Ready(())
    }

    fn leave(&self, ticket: &mut Ticket) {
        if ticket.is_waiting() {
            self.waiters.lock().leave(ticket);
        }
    }
}

/// How many times the limit may be reached by those who begin.
const BEYOND: usize = 2;
/// Enough for the workers of a machine; the next room wakes more.
const WOKEN_AT_ONCE: usize = 16;

/// Bytes of long frames that are there in part, over all sessions. Beyond the limit only the
/// frame that began first goes on: so one of them is always completed, and all of them in turn.
#[derive(Debug)]
pub(super) struct Partials {
    limit: usize,
    state: Mutex<PartialsState>,
}

#[derive(Debug, Default)]
struct PartialsState {
    used: usize,
    last: u64,
    /// All frames that are being read, in the order in which they began, and who waits to go on.
    frames: BTreeMap<u64, Option<Waker>>,
}

/// A session's part in [`Partials`].
#[derive(Debug, Default)]
pub(super) struct Partial {
    bytes: usize,
    number: u64,
}

impl Partials {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Notes how much a session holds of such a frame; 0 when it is complete or given up.
    pub(super) fn set(&self, partial: &mut Partial, bytes: usize) {
        if bytes == partial.bytes {
            return;
        }
        let mut state = self.state.lock();
        if partial.bytes == 0 {
            state.last += 1;
            partial.number = state.last;
            let number = partial.number;
            state.frames.insert(number, None);
        }
        state.used = state.used.saturating_sub(partial.bytes).saturating_add(bytes);
        let less = bytes < partial.bytes;
        partial.bytes = bytes;
        if bytes == 0 {
            state.frames.remove(&partial.number);
        }
        if !less {
            return;
        }
        let next = if state.used <= self.limit { usize::MAX } else { 1 };
        let woken: Vec<_> = state.frames.values_mut().take(next).filter_map(Option::take).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Bytes that are counted now.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }

    /// Ready when the session may read on.
    pub(super) fn poll_room(&self, partial: &Partial, context: &Context<'_>) -> Poll<()> {
        if partial.bytes == 0 {
            return Poll::Ready(());
        }
        let mut state = self.state.lock();
        let first = state.frames.first_key_value().map(|(number, _)| *number);
        if state.used <= self.limit || first == Some(partial.number) {
            return Poll::Ready(());
        }
        if let Some(waker) = state.frames.get_mut(&partial.number) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Partial {
    /// Bytes that it is counted with.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
