//! Answers that a stream's peer has not read.

use std::{mem, sync::Arc, task::Context};

use super::{budget::Turn, outbox::Outgoing, together::Together};

/// What a session has to say besides deliveries, as its connection counts it: told once for each turn.
#[derive(Debug)]
pub(super) struct Unread {
    together: Arc<Together>,
    counted: usize,
    /// Those that are not encoded.
    waiting: usize,
    /// Bytes of those that were encoded since nothing encoded was left: more than are left at most.
    encoded: usize,
    turn: Turn,
}

impl Unread {
    pub(super) fn new(together: Arc<Together>) -> Self {
        Self { together, counted: 0, waiting: 0, encoded: 0, turn: Turn::default() }
    }

    /// One more is to be said.
    pub(super) const fn waits(&mut self) {
        self.waiting += 1;
    }

    /// One that [waited](Self::waits) is encoded.
    pub(super) const fn says(&mut self, bytes: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.encoded += bytes;
    }

    /// One is encoded at once.
    pub(super) const fn said(&mut self, bytes: usize) {
        self.encoded += bytes;
    }

    /// So many bytes are encoded and not sent, deliveries among them.
    pub(super) fn count(&mut self, unsent: usize) {
        self.encoded = self.encoded.min(unsent);
        let bytes = self.encoded + self.waiting * mem::size_of::<Outgoing>();
        let before = mem::replace(&mut self.counted, bytes);
        if bytes > before {
            self.together.answers.take(bytes - before);
        } else {
            self.together.answers.give_back(before - bytes);
        }
    }

    /// Whether the streams of the connection have read enough for more to be asked. If not, this task is
    /// woken when they have.
    pub(super) fn has_room(&mut self, context: &Context<'_>) -> bool {
        self.together.answers.poll_room(false, &mut self.turn, context).is_ready()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.together.answers.leave(&mut self.turn);
        self.together.answers.give_back(mem::take(&mut self.counted));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::broker::budget::Budget;

    #[test]
    fn promise_9_answers_count_from_when_they_are_due_until_they_are_sent() {
        let together = Together::of(Arc::new(Budget::new(0)));
        let mut unread = Unread::new(together.clone());
        let used = || together.answers.used();
        (0..10).for_each(|_| unread.waits());
        unread.count(0);
        assert_eq!(used(), 10 * mem::size_of::<Outgoing>());
        (0..10).for_each(|_| unread.says(100));
        unread.count(5_000);
        assert_eq!(used(), 1_000, "the rest are deliveries");
        unread.count(300);
        assert_eq!(used(), 300);
        unread.said(50);
        unread.count(350);
        assert_eq!(used(), 350);
        let context = Context::from_waker(Waker::noop());
        assert!(unread.has_room(&context));
        let mut other = Unread::new(together.clone());
        other.said(4 << 20);
        other.count(4 << 20);
        assert!(!unread.has_room(&context), "all streams of the connection count");
        drop(other);
        assert!(unread.has_room(&context));
        drop(unread);
        assert_eq!(used(), 0);
    }
}
