//! What keeps a session from reading on.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    budget::Turn, holds::Hold, inbox::Inbox, outstanding::Outstanding, producers::Producers,
    shared::Shared, together::Together, unread::Unread, waiters::Ticket,
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
    turn: Turn,
}

impl Room {
    pub(super) fn new(shared: Arc<Shared>, together: &Arc<Together>) -> Self {
        Self {
            shared,
            outstanding: Outstanding::new(together.clone()),
            unread: Unread::new(together.clone()),
            blocked: Vec::new(),
            turn: Turn::default(),
        }
    }

    /// The session was too fast for this one.
    pub(super) fn press(&mut self, inbox: Arc<Inbox>) {
        self.blocked.push((inbox, Ticket::default()));
    }

    /// Whether the session, which has these producers, may read on. If not, what keeps it wakes this task
    /// when there is room. A hold [of publishes](Hold::is_of_publishes) comes last: it keeps those alone,
    /// and one without a producer has none.
    pub(super) fn poll(
        &mut self,
        producers: &Producers,
        context: &Context<'_>,
    ) -> Result<(), Hold> {
        self.unread.poll_room(context)?;
        self.blocked.retain_mut(|(inbox, ticket)| inbox.poll_room(ticket, context).is_pending());
        if !self.blocked.is_empty() {
            return Err(Hold::InboxEntries);
        }
        let unconfirmed = producers.unconfirmed_bytes();
        if unconfirmed as u64 > self.shared.settings.publish_bytes_max {
            // The confirm comes through the outbox, which wakes this task.
            return Err(Hold::PublishBytes);
        }
        if producers.len() == 0 {
            self.outstanding.leave();
            self.shared.published.leave(&mut self.turn);
            return Ok(());
        }
        self.outstanding.poll_room(context)?;
        match self.shared.published.poll_room(unconfirmed == 0, &mut self.turn, context) {
            Poll::Ready(()) => Ok(()),
            Poll::Pending => Err(Hold::PublishBytesTotal),
        }
    }

    /// Whether one that has just opened its first producer has to wait before it publishes.
    pub(super) fn is_crowded(&self) -> bool {
        self.shared.published.is_crowded() || self.outstanding.is_crowded()
    }

    /// The session waits no more.
    pub(super) fn leave(&mut self) {
        for (inbox, mut ticket) in self.blocked.drain(..) {
            inbox.leave(&mut ticket);
        }
        self.shared.published.leave(&mut self.turn);
        self.outstanding.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::broker::testing;

    #[tokio::test(start_paused = true)]
    async fn promise_10_a_stream_without_a_producer_is_read_however_many_publishes_there_are() {
        let (shared, _gate) = testing::shared(true);
        let together = shared.together(testing::far(1));
        let context = Context::from_waker(Waker::noop());
        let (mut publisher, mut consumer) =
            (Room::new(shared.clone(), &together), Room::new(shared.clone(), &together));
        let (mut one, none) = (Producers::default(), Producers::default());
        one.open(1, 0);
        let most = 2 * shared.settings.publish_bytes_total_max;
        let counts: [(&dyn Fn(), Hold); 2] = [
            (&|| shared.published.take(most + 1), Hold::PublishBytesTotal),
            (&|| together.published(most + 1), Hold::PublishBytesPerConnection),
        ];
        assert_eq!(publisher.poll(&one, &context), Ok(()));
        for (count, hold) in counts {
            count();
            assert!(publisher.is_crowded());
            assert_eq!(publisher.poll(&one, &context), Err(hold));
            assert_eq!(consumer.poll(&none, &context), Ok(()));
        }
        // What it waited for with its producer is nothing to it without.
        assert_eq!(publisher.poll(&none, &context), Ok(()));
    }
}
