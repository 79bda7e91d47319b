//! What a topic has still to hear.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{
    budget::Budget,
    outbox::Outbox,
    outstanding::LeftBehind,
    waiters::{Ticket, Waiters},
};
use crate::{
    TopicName,
    model::{Event, SessionId, Topic},
};

/// One entry of an [`Inbox`].
#[derive(Debug)]
pub(super) enum Entry {
    /// Replies and deliveries for this session go here from now on.
    Attach(SessionId, Arc<Outbox>),
    /// Something happened.
    Event(Event),
    /// A session is gone that has published what is not answered. Comes before the news of its end.
    Left(LeftBehind),
    /// Tell this one the topic's figures now.
    Show(Arc<Outbox>),
    /// Tell the catalogue of its channels.
    Tell,
    /// The time to come to rest is over: whatever the store still does is not waited for.
    Cut,
}

impl Entry {
    /// What it counts for in the [`Budget`].
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Event(event) => weight(event),
            Self::Attach(..) | Self::Left(_) | Self::Show(_) | Self::Tell | Self::Cut => 0,
        }
    }
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Publish { records, .. } => records.byte_len() + Topic::WISH_BYTES,
        _ => 0,
    }
}

/// Ranges of messages that an event settles: few bytes of a frame hold very many.
fn settlements(event: &Event) -> usize {
    match event {
        Event::Settle { settlements, .. } => settlements.len(),
        _ => 0,
    }
}

/// The topic takes no events any more: it was deleted, or the node has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InboxClosed;

/// The one way to a topic's task. Entered once for each topic and each read of a session, and
/// emptied whole in each of the topic's turns.
///
/// What is in it counts in the [`Budget`] of all topics; whoever takes it out counts it down.
#[derive(Debug)]
pub(super) struct Inbox {
    topic: TopicName,
    budget: Arc<Budget>,
    /// Entries at which sessions wait. A session adds at most what one read held, so that the inbox is
    /// bounded by this, one read of each session, and the consumers that wait for room in its outbox,
    /// some at a time. Publishes are bounded in bytes besides.
    entries_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// How many settlements are in them.
    settlements: usize,
    closed: bool,
    /// The topic's task, when it sleeps.
    reader: Option<Waker>,
    /// Sessions that wait for room.
    writers: Waiters,
}

impl State {
    const fn is_full(&self, entries_max: usize) -> bool {
        self.entries.len() + self.settlements / SETTLEMENTS_OF_ENTRY >= entries_max
    }
}

impl Inbox {
    pub(super) fn new(topic: TopicName, budget: Arc<Budget>, entries_max: usize) -> Arc<Self> {
        Arc::new(Self { topic, budget, entries_max, state: Mutex::default() })
    }

    pub(super) const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Adds one entry.
    pub(super) fn push(&self, entry: Entry) -> Result<(), InboxClosed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(InboxClosed);
        }
        self.budget.take(entry.weight());
        if let Entry::Event(event) = &entry {
            state.settlements += settlements(event);
        }
        state.entries.push(entry);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Adds these events, leaving `events` empty, and says whether the session must now wait
    /// for room; a closed inbox leaves the events where they are.
    pub(super) fn push_all(&self, events: &mut Vec<Event>) -> Result<bool, InboxClosed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(InboxClosed);
        }
        self.budget.take(events.iter().map(weight).sum());
        state.settlements += events.iter().map(settlements).sum::<usize>();
        state.entries.extend(events.drain(..).map(Entry::Event));
        let pressed = state.is_full(self.entries_max);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(pressed)
    }

    /// Ready when there is room: before that, a session reads nothing more from its peer.
    pub(super) fn poll_room(&self, ticket: &mut Ticket, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.closed || !state.is_full(self.entries_max) {
            state.writers.leave(ticket);
            return Poll::Ready(());
        }
        state.writers.wait(ticket, context);
        Poll::Pending
    }

    /// A session waits no more.
    pub(super) fn leave(&self, ticket: &mut Ticket) {
        self.state.lock().writers.leave(ticket);
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Takes everything out into `into`, which is empty; pending when there is nothing.
    pub(super) fn poll_drain(&self, context: &Context<'_>, into: &mut Vec<Entry>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.entries.is_empty() {
            match &mut state.reader {
                Some(reader) => reader.clone_from(context.waker()),
                None => state.reader = Some(context.waker().clone()),
            }
            // Nothing is kept through a rest: there may be very many topics.
            state.entries = Vec::new();
            return Poll::Pending;
        }
        mem::swap(&mut state.entries, into);
        state.settlements = 0;
        let writers = state.writers.first(usize::MAX);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    /// Takes no more entries, and hands over those that nobody will hear. Nobody finds it closed
    /// before `answer` has seen the last of them: what a session answers itself, because it comes
    /// too late, must not overtake the answers to what it sent before. So `answer` runs under the
    /// lock, and wakes nobody.
    pub(super) fn close(&self, answer: impl FnMut(Entry)) {
        let mut state = self.state.lock();
        state.closed = true;
        mem::take(&mut state.entries).into_iter().for_each(answer);
        let writers = state.writers.first(usize::MAX);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
    }
}

/// Settlements that take as much memory as one entry does, about.
const SETTLEMENTS_OF_ENTRY: usize = 8;

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
