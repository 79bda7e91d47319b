//! Who publishes, and what is remembered of it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{ProducerId, SequenceRange, SessionId, keys, state::ProducerState};
use crate::{Durability, ProducerName, Seat, Timestamp, TopicName};

/// A producer's place in the table.
pub(super) type Entry = u32;

/// A producer that is open, or whose name is remembered.
#[derive(Debug)]
pub(super) struct Producer {
    pub(super) name: Option<Named>,
    pub(super) epoch: u64,
    /// The epoch that the commit under way gives it.
    pub(super) next_epoch: Option<u64>,
    /// The last sequence that is stored.
    pub(super) committed: u64,
    /// The last sequence that is stored or in the commit under way.
    pub(super) accepted: u64,
    /// The last ranges that were stored, in order.
    recent: VecDeque<SequenceRange>,
    /// Whose it is.
    pub(super) session: Option<ProducerId>,
    /// With which request of which program it was opened last. It outlasts the session, as what comes late does.
    seat: Option<Box<Seat>>,
    used: Timestamp,
    /// The least durable of its stored messages.
    pub(super) durability: Durability,
    /// The number of the last commit that it has a part in.
    pub(super) commit: u64,
    /// Its place among that commit's groups of outcomes.
    pub(super) group: Option<usize>,
    idle: u64,
    /// Its name goes when it is closed and answered.
    pub(super) forget: bool,
}

/// What a named producer is stored under.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: ProducerName,
    pub(super) key: Bytes,
}

/// What a session's number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    Open(Entry),
    /// A newer instance took over.
    Fenced,
    Unknown,
}

/// All producers of a topic.
#[derive(Debug, Default)]
pub(super) struct Producers {
    entries: Vec<Option<Box<Producer>>>,
    free: Vec<Entry>,
    names: BTreeMap<ProducerName, Entry>,
    open: BTreeMap<ProducerId, Entry>,
    /// Numbers of fenced instances, the latest ones only.
    fenced: VecDeque<ProducerId>,
    /// Remembered names that nobody has open, the one closed longest ago first.
    idle: BTreeMap<u64, Entry>,
    closes: u64,
    /// Names that are forgotten, and that the store still holds.
    pub(super) forgotten: Vec<ProducerName>,
}

impl Producer {
    fn new(name: Option<Named>, durability: Durability) -> Self {
        Self {
            name,
            epoch: 0,
            next_epoch: None,
            committed: 0,
            accepted: 0,
            recent: VecDeque::new(),
            session: None,
            seat: None,
            used: Timestamp(0),
            durability,
            commit: 0,
            group: None,
            idle: 0,
            forget: false,
        }
    }

    /// Whether a request was overtaken on its way by the one that it was opened with last.
    pub(super) fn has_overtaken(&self, seat: Option<Seat>) -> bool {
        let (Some(last), Some(seat)) = (&self.seat, seat) else { return false };
        last.number == seat.number && last.turn > seat.turn
    }

    /// Notes that a range was stored.
    pub(super) fn remember(&mut self, range: SequenceRange) {
        if let Some(last) = self.recent.back_mut()
            && follows(last, &range)
        {
            last.count += range.count;
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(range);
    }

    /// Tells where stored messages went, in pieces: with their offsets as far as remembered.
    pub(super) fn recall(&self, sequence: u64, count: u64, mut tell: impl FnMut(SequenceRange)) {
        let end = sequence.saturating_add(count);
        let mut at = sequence;
        for range in &self.recent {
            let first = range.sequence.max(at);
            let until = (range.sequence + range.count).min(end);
            if first >= until {
                continue;
            }
            if at < first {
                tell(SequenceRange { sequence: at, count: first - at, offset: None });
            }
            let offset = range.offset.map(|offset| offset.plus(first - range.sequence));
            tell(SequenceRange { sequence: first, count: until - first, offset });
            at = until;
        }
        if at < end {
            tell(SequenceRange { sequence: at, count: end - at, offset: None });
        }
    }

    /// What the store keeps of it, `range` being what the commit under way adds last, at
    /// `durability`.
    pub(super) fn state(
        &self,
        range: Option<SequenceRange>,
        now: Timestamp,
        durability: Durability,
    ) -> ProducerState {
        let mut last = self.recent.back().copied();
        if let Some(range) = range {
            last = Some(match last {
                Some(before) if follows(&before, &range) => {
                    SequenceRange { count: before.count + range.count, ..before }
                }
                _ => range,
            });
        }
        ProducerState {
            epoch: self.next_epoch.unwrap_or(self.epoch),
            last: self.accepted,
            range: last,
            used: now,
            durability: self.durability.min(durability),
        }
    }
}

impl Producers {
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn known_count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn get(&self, entry: Entry) -> Option<&Producer> {
        self.entries.get(entry as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, entry: Entry) -> Option<&mut Producer> {
        self.entries.get_mut(entry as usize)?.as_deref_mut()
    }

    pub(super) fn handle(&self, id: ProducerId) -> Handle {
        match self.open.get(&id) {
            Some(&entry) => Handle::Open(entry),
            None if self.fenced.contains(&id) => Handle::Fenced,
            None => Handle::Unknown,
        }
    }

    pub(super) fn by_name(&self, name: &ProducerName) -> Option<Entry> {
        self.names.get(name).copied()
    }

    /// A new producer without a session. A named one is remembered from now on.
    pub(super) fn add(&mut self, topic: &TopicName, name: Option<ProducerName>) -> Entry {
        let named = name.clone().map(|name| Named { key: keys::producer_key(topic, &name), name });
        let entry = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as Entry
        });
        if let Some(place) = self.entries.get_mut(entry as usize) {
            *place = Some(Box::new(Producer::new(named, Durability::Disk)));
        }
        if let Some(name) = name {
            self.names.insert(name, entry);
        }
        entry
    }

    /// Brings back a named producer.
    pub(super) fn restore(&mut self, topic: &TopicName, name: ProducerName, state: &ProducerState) {
        let entry = self.add(topic, Some(name));
        let Some(producer) = self.get_mut(entry) else { return };
        producer.epoch = state.epoch;
        producer.accepted = state.last;
        producer.committed = state.last;
        producer.used = state.used;
        producer.durability = state.durability;
        producer.recent.extend(state.range.filter(|range| {
            range
                .sequence
                .checked_add(range.count)
                .is_some_and(|end| end.checked_sub(1) == Some(state.last))
        }));
    }

    /// After the last [`restore`](Self::restore): puts the names in the order of their last use.
    pub(super) fn restored(&mut self) {
        let mut order: Vec<_> = (0..)
            .zip(&self.entries)
            .filter_map(|(entry, producer)| Some((producer.as_ref()?.used, entry)))
            .collect();
        order.sort_unstable();
        for (_, entry) in order {
            self.rest(entry);
        }
    }

    /// Gives a producer to a session. Whoever had it before is fenced and returned.
    pub(super) fn attach(&mut self, entry: Entry, id: ProducerId) -> Option<ProducerId> {
        self.fenced.retain(|fenced| *fenced != id);
        let producer = self.get_mut(entry)?;
        // Whoever closed it meant the name to go with its last user, and here is another one.
        producer.forget = false;
        let before = producer.session.replace(id);
        if let Some(before) = before {
            self.open.remove(&before);
            if self.fenced.len() == FENCED_MAX {
                self.fenced.pop_front();
            }
            self.fenced.push_back(before);
        }
        let idle = self.get(entry)?.idle;
        self.idle.remove(&idle);
        self.open.insert(id, entry);
        before
    }

    /// A producer is opened by this request.
    pub(super) fn take_seat(&mut self, entry: Entry, seat: Option<Seat>) {
        if let Some(producer) = self.get_mut(entry) {
            producer.seat = seat.map(Box::new);
        }
    }

    /// Ends a session's hold on a producer and says which it was. What it stands for stays until
    /// [`settle_down`](Self::settle_down).
    pub(super) fn detach(&mut self, id: ProducerId, now: Timestamp) -> Option<Entry> {
        self.fenced.retain(|fenced| *fenced != id);
        let entry = self.open.remove(&id)?;
        let producer = self.get_mut(entry)?;
        producer.session = None;
        producer.used = now;
        Some(entry)
    }

    /// A producer without a session rests if it has a name to be kept, and else is gone.
    pub(super) fn settle_down(&mut self, entry: Entry) {
        match self.get(entry) {
            Some(producer) if producer.session.is_some() => {}
            Some(producer) if producer.forget => self.forget(entry),
            Some(producer) if producer.name.is_some() => self.rest(entry),
            _ => self.remove(entry),
        }
    }

    /// The producers that a session has open.
    pub(super) fn of(&self, session: SessionId) -> Vec<ProducerId> {
        let first = ProducerId { session, handle: 0 };
        let last = ProducerId { session, handle: u32::MAX };
        self.open.range(first..=last).map(|(&id, _)| id).collect()
    }

    /// All open producers.
    pub(super) fn all_open(&self) -> impl Iterator<Item = ProducerId> + '_ {
        self.open.keys().copied()
    }

    /// All remembered names.
    pub(super) fn known(&self) -> impl Iterator<Item = &ProducerName> + '_ {
        self.names.keys()
    }

    /// Forgets the name that was closed longest ago; says whether there was one.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let Some((_, entry)) = self.idle.pop_first() else { return false };
        self.forget(entry);
        true
    }

    /// Removes a producer, and its name with the next commit.
    fn forget(&mut self, entry: Entry) {
        if let Some(named) = self.get_mut(entry).and_then(|producer| producer.name.take()) {
            self.names.remove(&named.name);
            self.forgotten.push(named.name);
        }
        self.remove(entry);
    }

    /// Removes a producer and its name without telling the store, which does not know it.
    pub(super) fn remove(&mut self, entry: Entry) {
        let Some(producer) = self.entries.get_mut(entry as usize).and_then(Option::take) else {
            return;
        };
        if let Some(named) = producer.name {
            self.names.remove(&named.name);
        }
        self.idle.remove(&producer.idle);
        if let Some(id) = producer.session {
            self.open.remove(&id);
        }
        self.free.push(entry);
        if self.free.len() == self.entries.len() {
            (self.entries, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Gives back memory that was needed in busier times; nobody has a producer open.
    pub(super) fn relax(&mut self) {
        self.open = BTreeMap::new();
        self.fenced = VecDeque::new();
        self.forgotten.shrink_to_fit();
        if self.names.is_empty() && self.forgotten.is_empty() {
            *self = Self { closes: self.closes, ..Self::default() };
        }
    }

    /// What was stored up to now is at least so durable.
    pub(super) fn all_durable(&mut self, durability: Durability) {
        for producer in self.entries.iter_mut().flatten() {
            producer.durability = producer.durability.max(durability);
        }
    }

    fn rest(&mut self, entry: Entry) {
        self.closes += 1;
        let place = self.closes;
        let Some(producer) = self.get_mut(entry) else { return };
        let before = std::mem::replace(&mut producer.idle, place);
        if producer.recent.len() > 1 {
            producer.recent = producer.recent.pop_back().into_iter().collect();
        }
        self.idle.remove(&before);
        self.idle.insert(place, entry);
    }
}

fn follows(before: &SequenceRange, range: &SequenceRange) -> bool {
    before.sequence + before.count == range.sequence
        && before.offset.map(|offset| offset.plus(before.count)) == range.offset
}

/// Ranges remembered of each open producer. Ranges that follow on each other are one, so that a
/// producer alone on its topic needs one and many producers taking turns need one each per commit.
const RECENT_MAX: usize = 64;
/// Fenced instances that are told so when they still publish; older ones are unknown.
const FENCED_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    fn range(sequence: u64, count: u64, offset: u64) -> SequenceRange {
        SequenceRange { sequence, count, offset: Some(Offset(offset)) }
    }

    fn recalled(producer: &Producer, sequence: u64, count: u64) -> Vec<SequenceRange> {
        let mut told = Vec::new();
        producer.recall(sequence, count, |range| told.push(range));
        told
    }

    #[test]
    fn promise_6_recent_ranges_are_recalled_with_their_offsets() {
        let mut producer = Producer::new(None, Durability::Disk);
        producer.remember(range(1, 10, 0));
        producer.remember(range(11, 5, 10));
        producer.remember(range(16, 5, 40));
        assert_eq!(recalled(&producer, 4, 3), [range(4, 3, 3)]);
        assert_eq!(recalled(&producer, 14, 4), [range(14, 2, 13), range(16, 2, 40)]);
        for n in 0..RECENT_MAX as u64 {
            producer.remember(range(21 + n, 1, 100 + 2 * n));
        }
        assert_eq!(producer.recent.len(), RECENT_MAX);
        let unknown = SequenceRange { sequence: 19, count: 2, offset: None };
        assert_eq!(recalled(&producer, 19, 3), [unknown, range(21, 1, 100)]);
    }

    #[test]
    fn promise_9_the_name_closed_longest_ago_is_forgotten() {
        let topic = TopicName::new("t").unwrap();
        let name = |n: u32| ProducerName::new(&format!("p{n}")).unwrap();
        let id = |handle| ProducerId { session: SessionId(1), handle };
        let mut producers = Producers::default();
        for n in 0..4 {
            let entry = producers.add(&topic, Some(name(n)));
            producers.attach(entry, id(n));
        }
        assert!(!producers.forget_oldest(), "all are open");
        for n in [2, 0, 3] {
            let entry = producers.detach(id(n), Timestamp(0)).unwrap();
            producers.settle_down(entry);
        }
        let again = producers.by_name(&name(2)).unwrap();
        producers.attach(again, id(9));
        assert!(producers.forget_oldest());
        assert_eq!(producers.forgotten, [name(0)]);
        assert_eq!((producers.known_count(), producers.open_count()), (3, 2));
        assert!(producers.forget_oldest());
        assert!(!producers.forget_oldest());
        assert_eq!(producers.of(SessionId(1)), [id(1), id(9)]);
    }

    #[test]
    fn a_producer_without_a_name_leaves_nothing_behind() {
        let topic = TopicName::new("t").unwrap();
        let mut producers = Producers::default();
        let id = ProducerId { session: SessionId(1), handle: 1 };
        let entry = producers.add(&topic, None);
        producers.attach(entry, id);
        assert_eq!(producers.handle(id), Handle::Open(entry));
        let entry = producers.detach(id, Timestamp(0)).unwrap();
        producers.settle_down(entry);
        assert_eq!((producers.handle(id), producers.entries.capacity()), (Handle::Unknown, 0));
    }
}
