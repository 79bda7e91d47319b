//! The topics that a session's handles are of: each has a slot as long as it has a handle.

use super::{Handles, TopicSlot};
use crate::{
    Action, Refusal, TopicName, TopicSettings,
    broker::{inbox::Entry, places::Kind, producers::Left},
    model::Event,
};

/// What becomes of who names a topic that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is made, where that is allowed.
    Made,
    Refused,
}

impl Handles {
    /// A place for one more, and the slot of its topic.
    pub(super) fn place(
        &mut self,
        kind: Kind,
        to: Action,
        topic: &TopicName,
        missing: Missing,
    ) -> Result<usize, Refusal> {
        self.standing.open().take(kind)?;
        let slot = self.standing.permit(to, topic).and_then(|()| self.slot(topic, missing));
        if slot.is_err() {
            self.standing.open().give_back(kind, 1);
        }
        slot
    }

    /// The slot of a topic.
    fn slot(&mut self, topic: &TopicName, missing: Missing) -> Result<usize, Refusal> {
        if let Some(index) = self.slots.get(topic)
            && let Some(Some(slot)) = self.topics.get_mut(*index)
        {
            slot.users += 1;
            return Ok(*index);
        }
        let inbox = match missing {
            Missing::Made => self.shared.topic_by_use(topic, self.standing.origin()),
            Missing::Refused => self.shared.topic(topic, false, TopicSettings::default()),
        }?;
        // If it closes at once, so do the events that follow.
        let _ = inbox.push(Entry::Attach(self.session, self.outbox.clone()));
        let slot = Some(TopicSlot { inbox, events: Vec::new(), users: 1 });
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(place) = self.topics.get_mut(index) {
                    *place = slot;
                }
                index
            }
            None => {
                self.topics.push(slot);
                self.topics.len() - 1
            }
        };
        self.slots.insert(topic.clone(), index);
        Ok(index)
    }

    /// A producer is gone.
    pub(super) fn leave_producer(&mut self, left: Left) {
        if left.useless {
            self.standing.useless("the end of a producer of which nothing was stored");
        }
        self.leave_slot(left.slot, Kind::Producer);
    }

    /// One user of a slot less; a slot without users detaches the session from the topic.
    pub(super) fn leave_slot(&mut self, index: usize, kind: Kind) {
        self.standing.open().give_back(kind, 1);
        let Some(place) = self.topics.get_mut(index) else { return };
        let Some(slot) = place else { return };
        slot.users -= 1;
        if slot.users > 0 {
            return;
        }
        let _ = slot.inbox.push_all(&mut slot.events);
        let _ = slot.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
        let topic = slot.inbox.topic().clone();
        *place = None;
        self.free.push(index);
        if self.slots.get(&topic) == Some(&index) {
            self.slots.remove(&topic);
        }
    }
}
