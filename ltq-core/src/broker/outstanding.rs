//! The publishes of one stream, as its connection and its address count them.

use std::{mem, sync::Arc, task::Context};

use super::{budget::Turn, holds::Hold, together::Together};

/// What a stream has published and was not told about. Counted once for each read and each time that
/// topics are heard, not for each publish.
#[derive(Debug)]
pub(super) struct Outstanding {
    together: Arc<Together>,
    counted: usize,
    /// Its places among those that wait.
    of_connection: Turn,
    of_address: Turn,
}

impl Outstanding {
    pub(super) fn new(together: Arc<Together>) -> Self {
        let (of_connection, of_address) = (Turn::default(), Turn::default());
        Self { together, counted: 0, of_connection, of_address }
    }

    /// So many bytes are unconfirmed now.
    pub(super) fn count(&mut self, bytes: usize) {
        let before = mem::replace(&mut self.counted, bytes);
        if bytes > before {
            self.together.published(bytes - before);
        } else {
            self.together.answered(before - bytes);
        }
    }

    /// Whether the connection and its address have room for more. If not, who makes some wakes this
    /// task.
    pub(super) fn poll_room(&mut self, context: &Context<'_>) -> Result<(), Hold> {
        let nothing = self.counted == 0;
        let connection = &self.together.publishes;
        if connection.poll_room(nothing, &mut self.of_connection, context).is_pending() {
            return Err(Hold::PublishBytesPerConnection);
        }
        if let Some(address) = &self.together.address
            && address.published.poll_room(nothing, &mut self.of_address, context).is_pending()
        {
            return Err(Hold::PublishBytesPerAddress);
        }
        Ok(())
    }

    /// Whether not even a stream that has nothing unconfirmed may publish.
    pub(super) fn is_crowded(&self) -> bool {
        let address = &self.together.address;
        self.together.publishes.is_crowded()
            || address.as_ref().is_some_and(|address| address.published.is_crowded())
    }

    /// It waits no more.
    pub(super) fn leave(&mut self) {
        self.together.publishes.leave(&mut self.of_connection);
        if let Some(address) = &self.together.address {
            address.published.leave(&mut self.of_address);
        }
    }

    /// Leaves so many of the bytes to somebody who knows when they are answered.
    pub(super) fn leave_behind(&mut self, bytes: usize) -> LeftBehind {
        let bytes = bytes.min(self.counted);
        self.counted -= bytes;
        LeftBehind { together: self.together.clone(), bytes }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.leave();
        self.count(0);
    }
}

/// Publishes to one topic of a stream that is gone: they count for its connection and its address
/// until this is dropped. Else whoever ends its streams might begin anew without end.
#[derive(Debug)]
pub(super) struct LeftBehind {
    together: Arc<Together>,
    bytes: usize,
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.together.answered(self.bytes);
    }
}

/// What streams that are gone left behind with one topic.
#[derive(Debug, Default)]
pub(super) struct LeftWithTopic {
    /// Bytes that the topic has answered, or whose answer nobody is to hear.
    answered: u64,
    /// With how many that will be when all is answered that was there before.
    left: Vec<(u64, LeftBehind)>,
}

impl LeftWithTopic {
    /// A stream has ended, at which the topic has so many bytes unanswered.
    pub(super) fn leave(&mut self, unanswered: usize, behind: LeftBehind) {
        self.left.push((self.answered + unanswered as u64, behind));
    }

    /// The topic has so many bytes unanswered, and had so many before. It answers in order, so that
    /// what is answered is what came first.
    pub(super) fn count(&mut self, before: usize, unanswered: usize) {
        self.answered += before.saturating_sub(unanswered) as u64;
        if self.left.is_empty() {
            return;
        }
        if unanswered == 0 {
            self.left = Vec::new();
        } else {
            let due = self.left.iter().take_while(|(at, _)| *at <= self.answered).count();
            self.left.drain(..due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::budget::Budget;

    #[test]
    fn promise_9_what_was_left_behind_counts_until_all_before_it_is_answered() {
        let together = Together::of(Arc::new(Budget::new(0)));
        let mut stream = Outstanding::new(together.clone());
        stream.count(1_000);
        let mut topic = LeftWithTopic::default();
        topic.leave(1_000, stream.leave_behind(700));
        drop(stream);
        assert_eq!(together.publishes.used(), 700, "300 were another topic's");
        // Others publish meanwhile.
        topic.count(1_500, 800);
        assert_eq!(together.publishes.used(), 700);
        topic.count(2_800, 2_500);
        assert_eq!(
            together.publishes.used(),
            0,
            "a thousand are answered, and all that came later is not"
        );
        let mut next = Outstanding::new(together.clone());
        next.count(400);
        topic.leave(2_900, next.leave_behind(400));
        topic.count(2_900, 0);
        assert_eq!(together.publishes.used(), 0);
    }
}
