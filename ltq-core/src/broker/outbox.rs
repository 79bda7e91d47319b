//! What a session has still to be told.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::inbox::Inbox;
use crate::model::{ConsumerId, Delivery, Reply};

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
/// what the session asked for, and deliveries by [`OUTBOX_BYTES_HIGH`] as well: beyond it topics
/// hold the session's consumers until it has written enough.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    /// Bytes of deliveries in `queue`, and those that the session took and has not written.
    queued_bytes: usize,
    unwritten_bytes: usize,
    held: Vec<(Arc<Inbox>, ConsumerId)>,
    reader: Option<Waker>,
    closed: bool,
}

impl Outbox {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds anything but a delivery. The caller wakes the session when its turn is over: see
    /// [`Self::wake`].
    pub(super) fn push(&self, outgoing: Outgoing) {
        let mut state = self.state.lock();
        if !state.closed {
            state.queue.push_back(outgoing);
        }
    }

    /// Adds a delivery, and says whether the topic must hold that consumer from now on: then the
    /// session will release it through `inbox`.
    pub(super) fn push_delivery(
        &self,
        consumer: ConsumerId,
        delivery: Delivery,
        inbox: &Arc<Inbox>,
    ) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.queued_bytes += delivery.batch.records.byte_len();
        state.queue.push_back(Outgoing::Delivery(consumer.handle, delivery));
        if state.queued_bytes + state.unwritten_bytes <= OUTBOX_BYTES_HIGH {
            return false;
        }
        if !state.held.iter().any(|(_, held)| *held == consumer) {
            state.held.push((inbox.clone(), consumer));
        }
        true
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

    /// Says how many bytes the session still has to write, and returns the consumers to be
    /// released when these are few.
    pub(super) fn written(&self, unwritten_bytes: usize) -> Vec<(Arc<Inbox>, ConsumerId)> {
        let mut state = self.state.lock();
        state.unwritten_bytes = unwritten_bytes;
        if state.held.is_empty() || state.queued_bytes + unwritten_bytes > OUTBOX_BYTES_LOW {
            return Vec::new();
        }
        mem::take(&mut state.held)
    }

    /// The session is over: nothing is kept for it any more.
    pub(super) fn close(&self) {
        let state =
            mem::replace(&mut *self.state.lock(), State { closed: true, ..State::default() });
        // Not under the lock: there may be much of it.
        drop(state);
    }
}

/// Bytes of deliveries that wait for one session, above which its consumers are held. Held
/// consumers get nothing more, so that a session keeps at most this and one run for each of its
/// subscriptions.
const OUTBOX_BYTES_HIGH: usize = 1 << 20;
/// Bytes at which they are released: low enough to make a full write worth it, high enough for
/// the socket never to run dry.
const OUTBOX_BYTES_LOW: usize = 256 << 10;
/// Room for this many entries is kept while the session rests.
const QUEUE_KEPT: usize = 4;

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
