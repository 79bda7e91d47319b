//! What a session has still to be told.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{
    inbox::{Entry, Inbox},
    together::Together,
};
use crate::model::{ConsumerId, Delivery, Event, Reply};

/// One entry of an [`Outbox`].
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Messages for one of its consumers.
    Delivery(u32, Delivery),
    /// What a topic says.
    Reply(Reply),
    /// What the session itself says; it changes nothing of what is open.
    Own(Reply),
    /// The node stops: nothing follows.
    Closing,
}

/// The one way to a session. Topics add to it without waiting; what they may add is bounded by
/// what the session asked for, and deliveries by the room that there is: topics ask for it before
/// each of them, and what they had no room for they are told of when there is some again.
///
/// There is room while no more than [`OUTBOX_BYTES_HIGH`] wait for the session; and where all
/// sessions together have more waiting than the broker is to keep, while nothing waits for any
/// stream of its connection. So a session that reads gets one run after another even then.
#[derive(Debug)]
pub(super) struct Outbox {
    together: Arc<Together>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    /// Bytes of deliveries that were let in and are on their way here, of those in `queue`, and of
    /// those that the session took and has not written.
    admitted_bytes: usize,
    queued_bytes: usize,
    unwritten_bytes: usize,
    held: Vec<Held>,
    reader: Option<Waker>,
    closed: bool,
}

/// A consumer that there was no room for, and its topic.
type Held = (Arc<Inbox>, ConsumerId);

impl State {
    const fn delivery_bytes(&self) -> usize {
        self.admitted_bytes + self.queued_bytes + self.unwritten_bytes
    }
}

impl Outbox {
    /// Of one stream of those that share `together`.
    pub(super) fn new(together: Arc<Together>) -> Arc<Self> {
        Arc::new(Self { together, state: Mutex::default() })
    }

    /// Adds anything but a delivery. The caller wakes the session when its turn is over: see
    /// [`Self::wake`].
    pub(super) fn push(&self, outgoing: Outgoing) {
        let mut state = self.state.lock();
        if !state.closed {
            state.queue.push_back(outgoing);
        }
    }

    /// Whether there is room for a delivery of so many bytes, which is taken if so. If not, `inbox`
    /// hears when there may be.
    pub(super) fn admit(
        self: &Arc<Self>,
        id: ConsumerId,
        bytes: usize,
        inbox: &Arc<Inbox>,
    ) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            // Whatever comes is forgotten.
            return true;
        }
        let own = state.delivery_bytes();
        if own > OUTBOX_BYTES_HIGH || self.together.must_wait(self, own) {
            if !state.held.iter().any(|(_, held)| *held == id) {
                state.held.push((inbox.clone(), id));
            }
            return false;
        }
        state.admitted_bytes += bytes;
        self.together.take(bytes);
        true
    }

    /// Adds a delivery that was [admitted](Self::admit).
    pub(super) fn push_delivery(&self, handle: u32, delivery: Delivery) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let bytes = delivery.batch.records.byte_len();
        state.admitted_bytes = state.admitted_bytes.saturating_sub(bytes);
        state.queued_bytes += bytes;
        state.queue.push_back(Outgoing::Delivery(handle, delivery));
    }

    /// Tells the session that there is something, if it sleeps.
    pub(super) fn wake(&self) {
        let reader = self.state.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Takes everything out into `into`, which is empty; pending when there is nothing.
    pub(super) fn poll_drain(
        &self,
        context: &Context<'_>,
        into: &mut VecDeque<Outgoing>,
    ) -> Poll<()> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            match &mut state.reader {
                Some(reader) => reader.clone_from(context.waker()),
                None => state.reader = Some(context.waker().clone()),
            }
            if state.queue.capacity() > QUEUE_KEPT {
                state.queue = VecDeque::new();
            }
            return Poll::Pending;
        }
        mem::swap(&mut state.queue, into);
        state.unwritten_bytes += mem::take(&mut state.queued_bytes);
        Poll::Ready(())
    }

    /// Says how many bytes the session still has to write: topics are told if these are few.
    pub(super) fn written(&self, unwritten_bytes: usize) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let before = mem::replace(&mut state.unwritten_bytes, unwritten_bytes);
        self.together.change(before, unwritten_bytes);
        let own = state.delivery_bytes();
        let enough = own == 0 || own <= OUTBOX_BYTES_LOW && !self.together.is_crowded();
        let held = if enough { mem::take(&mut state.held) } else { Vec::new() };
        drop(state);
        release(held);
        self.together.relieve();
    }

    /// There is room again on its connection.
    pub(super) fn release_held(&self) {
        let held = mem::take(&mut self.state.lock().held);
        release(held);
    }

    /// The session is over: nothing is kept for it any more.
    pub(super) fn close(&self) {
        let state =
            mem::replace(&mut *self.state.lock(), State { closed: true, ..State::default() });
        self.together.change(state.delivery_bytes(), 0);
        self.together.relieve();
        // Not under the lock: there may be much of it.
        drop(state);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // A session that never began is not closed either.
        self.close();
    }
}

fn release(held: Vec<Held>) {
    for (inbox, consumer) in held {
        // A closed topic delivers no more.
        let _ = inbox.push(Entry::Event(Event::Release { consumer }));
    }
}

/// Bytes of deliveries that wait for one session, above which it is given no more: it keeps at most
/// this and one run.
const OUTBOX_BYTES_HIGH: usize = 1 << 20;
/// Bytes at which topics may go on: low enough to make a full write worth it, high enough for the
/// socket never to run dry.
const OUTBOX_BYTES_LOW: usize = 256 << 10;
/// Room for this many entries is kept while the session rests.
const QUEUE_KEPT: usize = 4;

#[cfg(test)]
#[path = "outbox_tests.rs"]
pub(super) mod tests;
