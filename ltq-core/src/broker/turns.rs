//! Whose turn it is to ask for room.

use std::{collections::VecDeque, mem, sync::Arc};

use super::inbox::Inbox;
use crate::model::ConsumerId;

/// A consumer that there was no room for, and its topic.
pub(super) type Held = (Arc<Inbox>, ConsumerId);

/// The consumers of a session that there was no room for. When there is some they are released in
/// the order in which they came, a few at a time: each of them asks its topic to look for something
/// to deliver, which it may have no more, and most would be refused again.
///
/// A turn ends when its consumer is given something or is refused again, and, where its topic has
/// nothing for it any more, when that topic says so.
#[derive(Debug, Default)]
pub(super) struct Turns {
    held: VecDeque<Held>,
    /// The handles of those that were released, and whether the topic reads what it will deliver.
    released: Vec<(u32, bool)>,
}

impl Turns {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// There was no room for this one: it goes to the end.
    pub(super) fn refuse(&mut self, inbox: &Arc<Inbox>, consumer: ConsumerId) {
        self.end(consumer.handle);
        self.held.push_back((inbox.clone(), consumer));
    }

    /// It was given something, or left.
    pub(super) fn end(&mut self, handle: u32) -> bool {
        let before = self.released.len();
        self.released.retain(|(released, _)| *released != handle);
        self.released.len() < before
    }

    /// There is room for what its topic is going to read.
    pub(super) fn reads(&mut self, handle: u32) {
        if let Some((_, reads)) = self.released.iter_mut().find(|(released, _)| *released == handle)
        {
            *reads = true;
        }
    }

    /// Its topic has come to rest: it has nothing for it, unless it reads something. Says whether
    /// this ended the turn.
    pub(super) fn over(&mut self, handle: u32) -> bool {
        let reads = |released: &(u32, bool)| *released == (handle, true);
        !self.released.iter().any(reads) && self.end(handle)
    }

    /// It is no consumer any more. Says whether it had a turn.
    pub(super) fn forget(&mut self, handle: u32) -> bool {
        self.held.retain(|(_, held)| held.handle != handle);
        self.end(handle)
    }

    /// Takes out those that come next, until so many have a turn.
    pub(super) fn next(&mut self, at_once: usize) -> Vec<Held> {
        let count = at_once.saturating_sub(self.released.len()).min(self.held.len());
        let next: Vec<_> = self.held.drain(..count).collect();
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
        self.released.extend(next.iter().map(|(_, consumer)| (consumer.handle, false)));
        next
    }

    /// Whoever had a turn has none any more. Says whether anybody had.
    pub(super) fn end_all(&mut self) -> bool {
        !mem::take(&mut self.released).is_empty()
    }
}
