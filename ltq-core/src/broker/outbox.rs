//! What a session has still to be told.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    answers::Answer,
    holds::Hold,
    inbox::{Entry, Inbox},
    replies,
    together::Together,
    turns::{Held, Turns},
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
    /// To an operator's request.
    Answer(Box<Answer>),
    /// The node stops: nothing follows.
    Closing,
}

impl Outgoing {
    /// What it holds until it is encoded, if it is an answer. Those to operators' requests count by themselves what
    /// they hold beside this.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Delivery(..) | Self::Closing => 0,
            Self::Reply(reply) | Self::Own(reply) => size_of::<Self>() + replies::heap_bytes(reply),
            Self::Answer(_) => size_of::<Self>() + size_of::<Answer>(),
        }
    }
}

/// The one way to a session. Topics add to it without waiting; what they may add is bounded by
/// what the session asked for, and deliveries by the room that there is: topics ask for it before
/// each of them, and what they had no room for they are told of when there is some again.
///
/// There is room while no more than `delivery_bytes_max` wait for the session; and in a crowd, when
/// all sessions together, or those of its address, have more waiting than the broker is to keep, while nothing waits for any
/// stream of its connection. So a session that reads gets one run after another even then, and its
/// consumers take [`Turns`].
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
    turns: Turns,
    reader: Option<Waker>,
    closed: bool,
}

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

    /// What its stream shares with others.
    pub(super) const fn together(&self) -> &Arc<Together> {
        &self.together
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
    /// hears when there may be. Of no bytes: whether it is worth reading what is to be delivered.
    pub(super) fn admit(
        self: &Arc<Self>,
        consumer: ConsumerId,
        bytes: usize,
        inbox: &Arc<Inbox>,
    ) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            // Whatever comes is forgotten.
            return true;
        }
        let own = state.delivery_bytes();
        let has_room = own <= self.together.delivery_bytes_max();
        let admitted = has_room && self.together.admit(self, own, bytes);
        if !admitted {
            self.together.held_back(match has_room {
                // Which may be over by now.
                true => self.together.crowd().unwrap_or(Hold::DeliveryBytesTotal),
                false => Hold::DeliveryBytes,
            });
            state.turns.refuse(inbox, consumer);
        } else if bytes == 0 {
            state.turns.reads(consumer.handle);
        } else {
            state.admitted_bytes += bytes;
            state.turns.end(consumer.handle);
            let next = self.next_turns(&mut state);
            drop(state);
            self.release(next);
        }
        admitted
    }

    /// Adds a delivery that was [admitted](Self::admit).
    pub(super) fn push_delivery(&self, handle: u32, mut delivery: Delivery) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let bytes = delivery.batch.records.byte_len();
        state.admitted_bytes = state.admitted_bytes.saturating_sub(bytes);
        if bytes < COPIED_BYTES_MAX && state.delivery_bytes() > 0 {
            // It may stay, and with it the much larger block that it was read in.
            delivery.batch.records = delivery.batch.records.copied();
        }
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
    pub(super) fn written(self: &Arc<Self>, unwritten_bytes: usize) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let before = mem::replace(&mut state.unwritten_bytes, unwritten_bytes);
        self.together.change(before, unwritten_bytes);
        self.go_on(state);
    }

    /// A topic that was told of room for a consumer has come to rest, or has `read` what it was going
    /// to deliver to it.
    pub(super) fn turn_over(self: &Arc<Self>, handle: u32, read: bool) {
        let mut state = self.state.lock();
        let ended = match read {
            true => state.turns.end(handle),
            false => state.turns.over(handle),
        };
        if ended {
            self.go_on(state);
        }
    }

    /// One of the session's subscriptions has ended.
    pub(super) fn forget(self: &Arc<Self>, handle: u32) {
        let mut state = self.state.lock();
        if state.turns.forget(handle) {
            self.go_on(state);
        }
    }

    /// Ends turns of which nothing was heard, as of a topic that keeps reading in vain, and looks for
    /// room that others made. To be called once in a while.
    pub(super) fn nudge(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.turns.end_all() || !state.turns.is_empty() {
            self.go_on(state);
        }
    }

    /// There may be room: in a crowd the streams of a connection take turns, as the consumers of a
    /// stream do.
    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let crowded = self.together.is_crowded();
        let next = if crowded { Vec::new() } else { self.next_turns(&mut state) };
        let waits = crowded && state.delivery_bytes() == 0 && !state.turns.is_empty();
        drop(state);
        if waits {
            self.together.wait(self);
        }
        self.release(next);
        self.together.relieve();
    }

    /// It is this stream's turn. Says whether it let somebody go on, and whether others wait here.
    pub(super) fn take_turn(&self) -> (bool, bool) {
        let mut state = self.state.lock();
        let next = self.next_turns(&mut state);
        let others = !state.turns.is_empty();
        drop(state);
        (self.release(next), others)
    }

    /// Those who may ask for room now.
    fn next_turns(&self, state: &mut State) -> Vec<Held> {
        if state.turns.is_empty() {
            return Vec::new();
        }
        let own = state.delivery_bytes();
        let at_once = match self.together.is_crowded() {
            true => usize::from(own == 0),
            false if own <= self.together.delivery_bytes_max() / LOW_PART => TURNS_AT_ONCE,
            false => 0,
        };
        state.turns.next(at_once)
    }

    /// Tells their topics, and says whether any heard it.
    fn release(&self, next: Vec<Held>) -> bool {
        let (mut next, mut any) = (VecDeque::from(next), false);
        while let Some((inbox, consumer)) = next.pop_front() {
            if inbox.push(Entry::Event(Event::Release { consumer })).is_err() {
                // A closed topic delivers no more.
                let mut state = self.state.lock();
                state.turns.end(consumer.handle);
                next.extend(self.next_turns(&mut state));
            } else {
                any = true;
            }
        }
        any
    }

    /// The session is over: nothing is kept for it any more.
    pub(super) fn close(&self) {
        let state =
            mem::replace(&mut *self.state.lock(), State { closed: true, ..State::default() });
        if state.closed {
            return;
        }
        self.together.leave(self);
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

/// The part of what may wait at which topics go on: low enough to make a full write worth it, high
/// enough for the socket never to run dry.
const LOW_PART: usize = 4;
/// Consumers that may ask for room at one time.
const TURNS_AT_ONCE: usize = 16;
/// Deliveries smaller than this are copied while anything waits before them.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// Room for this many entries is kept while the session rests.
const QUEUE_KEPT: usize = 4;

#[cfg(test)]
#[path = "outbox_tests.rs"]
pub(super) mod tests;
