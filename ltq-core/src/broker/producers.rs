//! The producers that a session has open, and what they have published and were not told about.

use foldhash::HashMap;

use super::unconfirmed::Unconfirmed;
use crate::model::Reply;

/// A session's producers. Each has the number that the client gave it, and one that it alone ever
/// has, by which topics know it: so what a topic still says to one that is gone is not taken for
/// an answer to the next one of its number.
#[derive(Debug, Default)]
pub(super) struct Producers {
    ids: HashMap<u32, u32>,
    producers: HashMap<u32, Producer>,
    last_id: u32,
    unconfirmed_bytes: usize,
}

/// Kept until the client has closed it and all that it sent is answered.
#[derive(Debug)]
struct Producer {
    handle: u32,
    slot: usize,
    unconfirmed: Unconfirmed,
    /// Once it is open: the last sequence that was stored before.
    opened: Option<u64>,
    closed: bool,
    /// Something that it published was stored.
    useful: bool,
}

/// Where a producer's topic is among those of the session, and what it is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: usize,
    pub(super) id: u32,
}

/// What a producer leaves that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) slot: usize,
    /// It was closed, and nothing that it published was stored.
    pub(super) useless: bool,
}

impl Producers {
    pub(super) fn contains(&self, handle: u32) -> bool {
        self.ids.contains_key(&handle)
    }

    pub(super) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Bytes of everything that is published and not answered.
    pub(super) const fn unconfirmed_bytes(&self) -> usize {
        self.unconfirmed_bytes
    }

    /// Adds one, and returns what it is called from now on.
    pub(super) fn open(&mut self, handle: u32, slot: usize) -> Place {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id;
        let unconfirmed = Unconfirmed::default();
        let producer =
            Producer { handle, slot, unconfirmed, opened: None, closed: false, useful: false };
        self.ids.insert(handle, id);
        self.producers.insert(id, producer);
        Place { slot, id }
    }

    /// Where a publish goes, if that producer may publish.
    pub(super) fn place(&self, handle: u32) -> Option<Place> {
        let id = *self.ids.get(&handle)?;
        let producer = self.producers.get(&id).filter(|producer| !producer.closed)?;
        Some(Place { slot: producer.slot, id })
    }

    /// The last sequence that was stored when it was opened; `None` when it is not open yet.
    pub(super) fn stored(&self, id: u32) -> Option<u64> {
        self.producers.get(&id)?.opened
    }

    /// Notes a publish of at least one message.
    pub(super) fn published(&mut self, id: u32, sequence: u64, count: u64, bytes: usize) {
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.unconfirmed.push(sequence, count, bytes);
            self.unconfirmed_bytes += bytes;
        }
    }

    /// Notes that a producer will publish no more.
    pub(super) fn close(&mut self, id: u32) {
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.closed = true;
        }
    }

    /// How many there are of which nothing was stored, nor is going to be.
    pub(super) fn useless(&self) -> usize {
        let all = self.producers.values();
        all.filter(|producer| !producer.useful && producer.unconfirmed.is_empty()).count()
    }

    /// Bytes of what is published and not answered, to the topic of each of so many slots. Looks at each
    /// producer once: there may be thousands of both. Nothing where all is answered.
    pub(super) fn unconfirmed_by_slot(&self, slots: usize) -> Vec<usize> {
        if self.unconfirmed_bytes == 0 {
            return Vec::new();
        }
        let mut bytes = vec![0; slots];
        for producer in self.producers.values() {
            if let Some(sum) = bytes.get_mut(producer.slot) {
                *sum += producer.unconfirmed.bytes();
            }
        }
        bytes
    }

    /// Forgets a producer if nothing is to come for it, and says what it leaves.
    pub(super) fn forget_if_done(&mut self, id: u32) -> Option<Left> {
        let producer = self.producers.get(&id)?;
        let done = producer.closed && producer.opened.is_some() && producer.unconfirmed.is_empty();
        if done { self.forget(id) } else { None }
    }

    fn forget(&mut self, id: u32) -> Option<Left> {
        let producer = self.producers.remove(&id)?;
        self.unconfirmed_bytes -= producer.unconfirmed.bytes();
        self.ids.remove(&producer.handle);
        let useless = producer.closed && !producer.useful;
        Some(Left { slot: producer.slot, useless })
    }

    /// Notes what a topic says to a producer, and gives it the client's number for it. Says what
    /// the producer leaves by that; an error if there is nobody any more to be told.
    pub(super) fn replied(&mut self, reply: &mut Reply) -> Result<Option<Left>, Nobody> {
        let (Reply::ProducerOpened { handle, .. }
        | Reply::ProducerRefused { handle, .. }
        | Reply::Confirmed { handle, .. }
        | Reply::PublishRefused { handle, .. }) = reply
        else {
            return Ok(None);
        };
        let id = *handle;
        let producer = self.producers.get_mut(&id).ok_or(Nobody)?;
        *handle = producer.handle;
        let mut answered = |sequence, count| {
            self.unconfirmed_bytes -= producer.unconfirmed.answered(sequence, count);
        };
        match reply {
            Reply::ProducerOpened { last_sequence, .. } => producer.opened = Some(*last_sequence),
            Reply::Confirmed { ranges, .. } => {
                producer.useful = true;
                ranges.iter().for_each(|range| answered(range.sequence, range.count));
            }
            Reply::PublishRefused { sequence, count, .. } => answered(*sequence, *count),
            _ => return Ok(self.forget(id)),
        }
        if self.producers.get(&id).is_some_and(|producer| producer.closed) {
            return Ok(self.forget_if_done(id));
        }
        Ok(None)
    }

    /// The session is over.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.producers.clear();
        self.unconfirmed_bytes = 0;
    }
}

/// What was said is for nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nobody;

#[cfg(test)]
impl Producers {
    /// The slots of all, closed ones too.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.producers.values().map(|producer| producer.slot)
    }

    /// Panics unless the sums are right.
    pub(super) fn check(&self) {
        let bytes = self.producers.values().map(|producer| producer.unconfirmed.bytes()).sum();
        assert_eq!(self.unconfirmed_bytes, bytes);
        assert_eq!(self.ids.len(), self.producers.len());
    }

    /// Whether all that are left are open and have no answer to come.
    pub(super) fn are_at_rest(&self) -> bool {
        let mut all = self.producers.values();
        all.all(|one| one.opened.is_some() && !one.closed && one.unconfirmed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, Refusal, RefusalCode, model::SequenceRange};

    fn opened(id: u32) -> Reply {
        let durability = Durability::Memory;
        Reply::ProducerOpened { handle: id, epoch: 0, last_sequence: 0, durability }
    }

    fn confirmed(id: u32, sequence: u64, count: u64) -> Reply {
        let ranges = vec![SequenceRange { sequence, count, offset: None }];
        Reply::Confirmed { handle: id, ranges, durability: Durability::Memory }
    }

    fn refused(id: u32) -> Reply {
        let refusal = Refusal::new(RefusalCode::Fenced, "a newer one");
        Reply::ProducerRefused { handle: id, refusal }
    }

    #[test]
    fn a_closed_producer_stays_until_everything_is_answered() {
        let mut producers = Producers::default();
        let Place { id, .. } = producers.open(7, 3);
        producers.published(id, 1, 2, 100);
        producers.close(id);
        assert_eq!(producers.forget_if_done(id), None);
        assert_eq!(producers.place(7), None, "it publishes no more");
        assert!(producers.contains(7));
        assert_eq!(producers.replied(&mut opened(id)), Ok(None));
        assert_eq!(producers.replied(&mut confirmed(id, 1, 1)), Ok(None));
        let mut last = confirmed(id, 2, 1);
        assert_eq!(producers.replied(&mut last), Ok(Some(Left { slot: 3, useless: false })));
        assert_eq!(last, confirmed(7, 2, 1), "told by the client's number");
        assert!(!producers.contains(7));
        assert_eq!(producers.unconfirmed_bytes(), 0);
    }

    #[test]
    fn what_is_unconfirmed_is_summed_up_for_each_slot() {
        let mut producers = Producers::default();
        for handle in 0..10 {
            let Place { id, .. } = producers.open(handle, handle as usize % 3);
            producers.published(id, 1, 1, 100);
        }
        assert_eq!(producers.unconfirmed_by_slot(4), [400, 300, 300, 0]);
        for id in 1..=10 {
            assert_eq!(producers.replied(&mut confirmed(id, 1, 1)), Ok(None));
        }
        assert!(producers.unconfirmed_by_slot(4).is_empty());
    }

    #[test]
    fn promise_10_a_producer_is_of_use_once_something_of_it_is_stored() {
        let mut producers = Producers::default();
        let mut all = Vec::new();
        // One publishes nothing, one what is refused, one what is stored.
        for handle in 0..3 {
            let Place { id, .. } = producers.open(handle, 7);
            assert_eq!(producers.replied(&mut opened(id)), Ok(None));
            all.push(id);
        }
        assert_eq!(producers.useless(), 3);
        producers.published(all[1], 1, 1, 100);
        producers.published(all[2], 1, 2, 100);
        assert_eq!(producers.useless(), 1, "what is not answered may be stored");
        all.iter().for_each(|id| producers.close(*id));
        let left = |useless| Some(Left { slot: 7, useless });
        assert_eq!(producers.forget_if_done(all[0]), left(true));
        let refusal = Refusal::new(RefusalCode::OutOfRange, "not the next");
        let mut refused = Reply::PublishRefused { handle: all[1], sequence: 1, count: 1, refusal };
        assert_eq!(producers.replied(&mut refused), Ok(left(true)));
        assert_eq!(producers.replied(&mut confirmed(all[2], 1, 1)), Ok(None));
        assert_eq!(producers.useless(), 0);
        assert_eq!(producers.replied(&mut confirmed(all[2], 2, 1)), Ok(left(false)));
    }

    #[test]
    fn what_is_said_to_one_that_is_gone_is_not_for_the_next_of_its_number() {
        let mut producers = Producers::default();
        let Place { id: old, .. } = producers.open(1, 0);
        producers.published(old, 1, 1, 100);
        let left = Left { slot: 0, useless: false };
        assert_eq!(producers.replied(&mut refused(old)), Ok(Some(left)));
        assert_eq!(producers.unconfirmed_bytes(), 0);
        let Place { id: new, .. } = producers.open(1, 0);
        producers.published(new, 1, 1, 50);
        for mut late in [confirmed(old, 1, 1), refused(old), opened(old)] {
            assert_eq!(producers.replied(&mut late), Err(Nobody));
        }
        assert_eq!(producers.unconfirmed_bytes(), 50);
        assert_eq!(producers.replied(&mut confirmed(new, 1, 1)), Ok(None));
        producers.check();
    }
}
