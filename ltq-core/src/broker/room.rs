//! What keeps a session from reading on.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    holds::Hold, inbox::Inbox, outstanding::Outstanding, shared::Shared, together::Together,
    unread::Unread, waiters::Ticket,
};

/// The limits at which a session waits, and its places among those that do.
pub(super) struct Room {
    shared: Arc<Shared>,
    /// What of its publishes counts for its connection and its address.
    pub(super) outstanding: Outstanding,
    /// Answers that it has still to say.
    pub(super) unread: Unread,
    /// Inboxes that the session was too fast for.
    blocked: Vec<(Arc<Inbox>, Ticket)>,
    /// Its place among those that wait for the node to have room for publishes.
    ticket: Ticket,
}

impl Room {
    pub(super) fn new(shared: Arc<Shared>, together: &Arc<Together>) -> Self {
        Self {
            shared,
            outstanding: Outstanding::new(together.clone()),
            unread: Unread::new(together.clone()),
            blocked: Vec::new(),
            ticket: Ticket::default(),
        }
    }

    /// The session was too fast for this one.
    pub(super) fn press(&mut self, inbox: Arc<Inbox>) {
        self.blocked.push((inbox, Ticket::default()));
    }

    /// Whether the session, of whose publishes so many bytes are unconfirmed, may read on. If not, what
    /// keeps it wakes this task when there is room.
    pub(super) fn poll(&mut self, unconfirmed: usize, context: &Context<'_>) -> Result<(), Hold> {
        if !self.unread.has_room(context) {
            return Err(Hold::AnswerBytesPerConnection);
        }
        if unconfirmed as u64 > self.shared.settings.publish_bytes_max {
            // The confirm comes through the outbox, which wakes this task.
            return Err(Hold::PublishBytes);
        }
        self.blocked.retain_mut(|(inbox, ticket)| inbox.poll_room(ticket, context).is_pending());
        if !self.blocked.is_empty() {
            return Err(Hold::InboxEntries);
        }
        self.outstanding.poll_room(context)?;
        match self.shared.published.poll_room(unconfirmed == 0, &mut self.ticket, context) {
            Poll::Ready(()) => Ok(()),
            Poll::Pending => Err(Hold::PublishBytesTotal),
        }
    }

    /// The session waits no more.
    pub(super) fn leave(&mut self) {
        for (inbox, mut ticket) in self.blocked.drain(..) {
            inbox.leave(&mut ticket);
        }
        self.shared.published.leave(&mut self.ticket);
        self.outstanding.leave();
    }
}
