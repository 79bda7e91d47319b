//! What has to be so whenever the topic has come to rest, and after every start.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use super::{
    channel::Channel,
    oracle::{Consumer, Oracle},
    saved::{Saved, Snapshots},
};
use crate::{
    Credit, Durability, Monotonic, Now, TopicStats,
    model::{ConsumerId, Topic, keys, state::decode_channel, testing::channel},
};

impl Oracle {
    /// The node starts anew from `saved`; all that was promised to be as durable as `level` has to
    /// be there.
    pub(super) fn restarted(
        &mut self,
        saved: &Rc<Saved>,
        level: Durability,
        topic: &Topic,
        now: Now,
    ) {
        self.check_promised(saved.len, level);
        self.cut(saved.len);
        if std::mem::take(&mut self.crashed) {
            self.sized_from = self.end();
        }
        let marks = saved.marks.as_ref();
        for (index, taken) in self.taken.iter_mut().enumerate() {
            let age = marks.and_then(|(then, ages)| Some((then, *ages.get(index)?)));
            let since = |(then, age): (&Now, Duration)| age + now.wall.since(then.wall);
            taken.before = age.map_or(Duration::ZERO, since);
            // What was read back is there to stay.
            (taken.since, taken.reached) = (now.monotonic, Durability::Disk);
        }
        self.removed_below = saved.contents.bounds().first.0;
        let mut held = BTreeSet::new();
        saved.contents.batches.iter().for_each(|batch| held.extend(batch.first.0..batch.end().0));
        let gone = (self.removed_below..self.end()).filter(|offset| !held.contains(offset));
        // What is below went one way or the other: what was discarded is done for all channels.
        let below = self.discarded.range(..self.removed_below).copied();
        self.discarded = below.chain(gone).collect();
        self.channels.clear();
        self.snapshots = Snapshots::only(saved.clone());
        for (name, stored) in &saved.channels {
            let restored = match stored {
                None => {
                    let start = start_of(topic, name).expect("the channel");
                    fresh(start, self.stored_floor(name, saved, topic, now))
                }
                Some(stored) => stored.0.restored(stored.1, now, saved.len, &self.limits),
            };
            self.channels.insert(name.clone(), restored);
        }
        self.starts.forget();
    }

    /// What was confirmed is there.
    pub(super) fn check_promised(&self, len: usize, level: Durability) {
        for (body, durability) in &self.promised {
            let kept = self.places.get(body).is_some_and(|&place| place < len as u64);
            assert!(
                kept || *durability < level,
                "promise 1: {body} was said to be on {durability}"
            );
        }
    }

    /// Forgets all that is not among the first so many messages, and everybody.
    fn cut(&mut self, len: usize) {
        self.log.truncate(len);
        self.taken.truncate(len);
        self.places.retain(|_, place| *place < len as u64);
        let places = &self.places;
        self.promised.retain(|(body, _)| places.contains_key(body));
        self.last.clear();
        for body in &self.log {
            let (prefix, sequence) = super::parse(body);
            self.last.insert(prefix.to_owned(), sequence);
        }
        (self.under_way, self.maybe) = (None, None);
        self.answers = Default::default();
        self.consumers.clear();
        self.published = (0, 0);
    }

    /// What the store says of a channel that was not known when it was stored: all that it may be
    /// done with by then is what a limit took.
    fn stored_floor(&self, name: &str, saved: &Saved, topic: &Topic, now: Now) -> u64 {
        let name = channel(name);
        let key = keys::channel_key(topic.name(), &name);
        let value = saved.contents.values.get(&key).expect("a stored channel");
        let bounds = saved.contents.bounds();
        let restored = decode_channel(name, &key, value, bounds, &self.limits, now);
        restored.expect("a channel").floor.0
    }

    /// Takes note of a channel that is there.
    pub(super) fn adopt(&mut self, topic: &Topic, name: &str) {
        // An ephemeral one may have gone again by now.
        if !self.channels.contains_key(name)
            && let Some(start) = start_of(topic, name)
        {
            self.adopt_from(name, start);
        }
    }

    /// Takes note of channels that were made for someone who has left meanwhile, or by operators.
    pub(super) fn adopt_all(&mut self, stats: &TopicStats) {
        for told in &stats.channels {
            let name = told.channel.as_str();
            if !self.channels.contains_key(name) {
                self.adopt_from(name, told.start.0);
            }
        }
    }

    fn adopt_from(&mut self, name: &str, start: u64) {
        // An ephemeral one may be another already than the one that is told of.
        if !name.ends_with("#ephemeral") {
            self.starts.created(name, start, self.first_kept(), &self.log);
        }
        self.channels.insert(name.to_owned(), fresh(start, self.removed_below));
    }

    /// Everything that the model tells about its channels is so.
    pub(super) fn check(&mut self, stats: &TopicStats) {
        assert_eq!(stats.end.0, self.end());
        assert_eq!(stats.channels.len(), self.channels.len(), "{stats:?} {:?}", self.channels);
        let published = (stats.published, stats.published_bytes);
        assert_eq!(published, self.published, "promise 13: {stats:?}");
        for told in &stats.channels {
            let (name, end) = (told.channel.as_str(), self.end());
            let known = self.channels.get_mut(name);
            let channel = known.unwrap_or_else(|| panic!("no {name}"));
            channel.give_up(told, end, (&self.damaged, &self.discarded));
            channel.check(told, end, &self.discarded);
            let consumers = self.inside(name) as u64;
            assert_eq!(told.consumers, consumers, "promise 13: {told:?}");
        }
    }

    /// What is kept is within its limit by size, but for a stretch between marks, and for what a crash
    /// left behind the last of them.
    pub(super) fn check_size(&self, topic: &Topic) {
        let Some(bytes_max) = topic.settings().retention.bytes_max else { return };
        let from = self.first_kept().max(self.sized_from);
        if self.discarded.range(from..).next().is_some() {
            // How many bytes of a stretch were discarded is a guess.
            return;
        }
        let kept = self.taken.iter().skip(from as usize);
        let (mut bytes, mut largest) = (0, 0);
        for taken in kept {
            (bytes, largest) = (bytes + taken.bytes, largest.max(taken.bytes));
        }
        let most = bytes_max + self.limits.mark_bytes + largest;
        assert!(bytes <= most, "promise 9: {bytes} are kept, not {bytes_max}");
    }

    /// Nobody who could have something is without it.
    pub(super) fn check_nobody_waits(&self, stats: &TopicStats) {
        for told in stats.channels.iter().filter(|told| told.waiting > 0 && !told.paused) {
            let name = told.channel.as_str();
            let full = |channel: &Channel| channel.may_be_full(&self.limits, &self.discarded);
            if self.channels.get(name).is_some_and(full) {
                continue;
            }
            for (id, consumer) in &self.consumers {
                let willing = consumer.joined && consumer.channel == name && !consumer.held;
                let open =
                    consumer.used.0 < consumer.granted.0 && consumer.used.1 < consumer.granted.1;
                assert!(
                    stats.paused || !willing || !open,
                    "promise 16: {id:?} waits for nothing: {told:?}"
                );
            }
        }
    }

    /// The next moment at which something must happen in a channel.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.channels.values().filter_map(Channel::next_deadline).min()
    }

    /// A consumer takes so much in all.
    pub(super) fn grant(&mut self, id: ConsumerId, messages: u64, bytes: u64) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            let most = self.limits.credit_max;
            let (before, used) = (consumer.granted, consumer.used);
            let total = (messages.min(used.0 + most.messages), bytes.min(used.1 + most.bytes));
            consumer.granted = total;
            if total.0 < before.0 || total.1 < before.1 {
                consumer.taken_back = Some((total.0.max(used.0), total.1.max(used.1)));
            }
        }
    }

    /// A consumer is told that it has taken credit back.
    pub(super) fn credited(&mut self, id: ConsumerId, total: Credit) {
        let consumer = self.consumers.get_mut(&id).expect("credit of nobody");
        let foretold = consumer.taken_back.take();
        assert_eq!(foretold, Some((total.messages, total.bytes)), "promise 9: of {id:?}");
    }

    /// Who takes credit back is told what holds, if it is still there.
    pub(super) fn check_credited(&self, id: ConsumerId) {
        let owed = self.consumers.get(&id).and_then(|consumer| consumer.taken_back);
        assert_eq!(owed, None, "promise 15: {id:?} does not hear what credit it has");
    }

    pub(super) fn subscribes(
        &mut self,
        id: ConsumerId,
        channel: &str,
        granted: (u64, u64),
        timeout: Duration,
    ) {
        self.answers.subscribes(id);
        self.seats.remove(&id);
        let channel = channel.to_owned();
        let (used, last_tag, held, joined) = ((0, 0), 0, false, false);
        let taken_back = None;
        let consumer =
            Consumer { channel, granted, taken_back, used, last_tag, held, timeout, joined };
        self.consumers.insert(id, consumer);
    }

    /// The others in the channel of a consumer that have asked for its seat, whether they are let in and in
    /// which turn they asked; and its own turn.
    fn of_one_seat(&self, id: ConsumerId) -> (Vec<(bool, u64)>, u64) {
        let Some((number, turn)) = self.seats.get(&id) else { return (Vec::new(), 0) };
        let channel = &self.consumers[&id].channel;
        let others = self
            .consumers
            .iter()
            .filter(|(other, consumer)| **other != id && consumer.channel == *channel);
        let seats = others.filter_map(|(other, consumer)| {
            let (of, turn) = self.seats.get(other)?;
            (of == number).then_some((consumer.joined, *turn))
        });
        (seats.collect(), *turn)
    }

    /// A consumer is let in: nobody else has its seat.
    pub(super) fn check_seat(&self, id: ConsumerId) {
        let (others, _) = self.of_one_seat(id);
        assert!(!others.iter().any(|(joined, _)| *joined), "two have the seat of {id:?}");
    }

    /// A consumer is refused as one that was overtaken: it was.
    pub(super) fn check_overtaken(&self, id: ConsumerId) {
        let (others, own) = self.of_one_seat(id);
        let overtaken = others.iter().any(|(joined, turn)| *joined && *turn > own);
        assert!(overtaken, "promise 15: {id:?} was not overtaken");
    }

    /// A consumer's seat is taken over by one that waits for it, and that gets nothing before what this one
    /// had is there again.
    pub(super) fn taken_over(&mut self, id: ConsumerId) {
        let (others, own) = self.of_one_seat(id);
        let taken = others.iter().any(|(joined, turn)| !joined && *turn >= own);
        assert!(taken && self.consumers[&id].joined, "promise 15: nobody takes the seat of {id:?}");
        if let Some(consumer) = self.consumers.remove(&id)
            && let Some(channel) = self.channels.get_mut(&consumer.channel)
        {
            channel.leave(id);
        }
    }
}

fn start_of(topic: &Topic, name: &str) -> Option<u64> {
    let stats = topic.stats().channels.into_iter().find(|stats| stats.channel.as_str() == name);
    Some(stats?.start.0)
}

fn fresh(start: u64, removed_below: u64) -> Channel {
    let mut channel = Channel { start, ..Channel::default() };
    channel.drop_below(removed_below);
    channel
}
