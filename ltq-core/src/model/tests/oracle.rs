//! A topic as simple as can be, with one entry for every message: checks what the model says and
//! foretells what it must answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::{
    Durability, Keep, Monotonic, Now, RefusalCode, Retention, Tag, TagRange, Timestamp, Verdict,
    WriteBatch, WriteOp,
    model::{
        Command, ConsumerId, Limit, ModelSettings, ProducerId, Removed, Reply, Topic, keys,
        state::decode_channel,
        testing::{Contents, bodies, channel},
    },
};

/// The one state that a message is in, for one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Due {
        attempts: u32,
    },
    Delayed {
        attempts: u32,
        due: Monotonic,
    },
    InFlight {
        to: ConsumerId,
        tag: u64,
        attempt: u32,
        delivered: Monotonic,
        deadline: Monotonic,
    },
    Acked,
    /// A limit took it before it was acked.
    Dropped,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Channel {
    pub(super) start: u64,
    /// By offset; offsets beyond wait.
    states: Vec<State>,
}

#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) channel: String,
    pub(super) granted: u64,
    used: u64,
    pub(super) last_tag: u64,
    pub(super) held: bool,
    /// Whether it was told that it is in its channel.
    joined: bool,
}

/// What a store holds, and what it means.
#[derive(Clone, Default)]
pub(super) struct Saved {
    pub(super) contents: Contents,
    log: Vec<String>,
    taken_in: Vec<Taken>,
    channels: BTreeMap<String, SavedChannel>,
}

/// A message's size, and when it was taken in.
#[derive(Clone, Copy, Debug)]
struct Taken {
    bytes: u64,
    at: Timestamp,
}

/// A channel as it was when its state was put together, and the clocks then; `None` when it came
/// to be with the same commit.
type SavedChannel = Option<(Channel, Now)>;

pub(super) struct Oracle {
    limits: ModelSettings,
    /// Every body that was ever committed, by offset.
    pub(super) log: Vec<String>,
    taken_in: Vec<Taken>,
    /// Everything below was removed by a limit, or is gone from the log.
    removed_below: u64,
    /// What was discarded in the middle of the log.
    discarded: BTreeSet<u64>,
    /// What the topic was ever set to keep.
    pub(super) retentions: Vec<Retention>,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) consumers: BTreeMap<ConsumerId, Consumer>,
    /// Publishes that are not answered: producer, body prefix, and ranges in order.
    unanswered: BTreeMap<ProducerId, (String, VecDeque<(u64, u64)>)>,
    /// Bodies that were confirmed to be on disk.
    on_disk: Vec<String>,
    /// The commit under way, and what it stores.
    under_way: Option<(WriteBatch, Vec<(String, SavedChannel)>)>,
    pub(super) now_saved: Saved,
    /// What a power loss leaves.
    pub(super) durable: Saved,
}

impl Channel {
    fn at(&mut self, offset: u64) -> &mut State {
        let offset = offset as usize;
        if offset >= self.states.len() {
            self.states.resize(offset + 1, State::Waiting);
        }
        &mut self.states[offset]
    }

    /// Whether nothing of a stretch is wanted.
    fn is_done(&self, from: u64, until: u64, discarded: &BTreeSet<u64>) -> bool {
        (from..until).all(|offset| match self.states.get(offset as usize) {
            Some(State::Acked | State::Dropped) => true,
            Some(State::Waiting) | None => discarded.contains(&offset),
            _ => false,
        })
    }

    /// Takes what was gone before it came to it as done.
    fn pass_over(&mut self, until: u64, discarded: &BTreeSet<u64>) {
        for offset in self.start..until {
            if *self.at(offset) == State::Waiting && discarded.contains(&offset) {
                *self.at(offset) = State::Acked;
            }
        }
    }

    /// A limit removes everything below `until`; says how much of it was not done.
    fn drop_below(&mut self, until: u64) -> u64 {
        let mut lost = 0;
        for offset in self.start..until {
            let state = self.at(offset);
            if !matches!(state, State::Acked | State::Dropped) {
                *state = State::Dropped;
                lost += 1;
            }
        }
        lost
    }

    fn count(&self, which: impl Fn(&State) -> bool) -> u64 {
        let from = (self.start as usize).min(self.states.len());
        self.states[from..].iter().filter(|state| which(state)).count() as u64
    }

    /// Whether it came through a clean restart as `before`.
    pub(super) fn is_as_kept(&self, before: &Self) -> bool {
        let kept = |before: State, after: State| match (before, after) {
            (State::Delayed { attempts, .. }, State::Delayed { attempts: kept, .. })
            | (State::Delayed { attempts, .. }, State::Due { attempts: kept }) => attempts == kept,
            // What a limit is to remove may be removed only after the restart.
            (before, State::Dropped) => before != State::Acked,
            (before, after) => before == after,
        };
        let mut after = self.clone();
        let states = (before.start..).zip(before.states.iter().skip(before.start as usize));
        self.start == before.start
            && states.into_iter().all(|(offset, state)| kept(*state, *after.at(offset)))
    }

    fn first(&self, end: u64, which: impl Fn(&State) -> bool) -> Option<u64> {
        (self.start..end)
            .find(|&offset| which(self.states.get(offset as usize).unwrap_or(&State::Waiting)))
    }
}

impl Oracle {
    pub(super) fn new(limits: ModelSettings) -> Self {
        Self {
            limits,
            log: Vec::new(),
            taken_in: Vec::new(),
            removed_below: 0,
            discarded: BTreeSet::new(),
            retentions: Vec::new(),
            channels: BTreeMap::new(),
            consumers: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            on_disk: Vec::new(),
            under_way: None,
            now_saved: Saved::default(),
            durable: Saved::default(),
        }
    }

    pub(super) fn published(&mut self, id: ProducerId, prefix: &str, sequence: u64, count: u64) {
        let (_, waiting) =
            self.unanswered.entry(id).or_insert_with(|| (prefix.to_owned(), VecDeque::new()));
        waiting.push_back((sequence, count));
    }

    pub(super) fn last_sequence(&self, prefix: &str) -> u64 {
        let sequence = |body: &String| body.strip_prefix(prefix)?.parse().ok();
        self.log.iter().filter_map(sequence).max().unwrap_or(0)
    }

    /// Time passes: what it ends.
    pub(super) fn expire(&mut self, now: Monotonic) {
        for state in self.channels.values_mut().flat_map(|channel| &mut channel.states) {
            match *state {
                State::InFlight { attempt: attempts, deadline, .. } if deadline <= now => {
                    *state = State::Due { attempts };
                }
                State::Delayed { attempts, due } if due <= now => *state = State::Due { attempts },
                _ => {}
            }
        }
    }

    /// A consumer is gone.
    pub(super) fn leave(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        if let Some(channel) = self.channels.get_mut(&consumer.channel) {
            for state in &mut channel.states {
                match *state {
                    State::InFlight { to, attempt: attempts, .. } if to == id => {
                        *state = State::Due { attempts };
                    }
                    _ => {}
                }
            }
        }
        let inside = |other: &Consumer| other.joined && other.channel == consumer.channel;
        let last = consumer.joined && !self.consumers.values().any(inside);
        if consumer.channel.ends_with("#ephemeral") && last {
            self.channels.remove(&consumer.channel);
        }
    }

    /// Applies a settlement and says which tags are stale.
    pub(super) fn settle(
        &mut self,
        id: ConsumerId,
        tags: TagRange,
        verdict: Verdict,
        now: Monotonic,
    ) -> Vec<TagRange> {
        let mine = |state: &State| match *state {
            State::InFlight { to, tag, .. } if to == id => Some(tag),
            _ => None,
        };
        let channel = self.consumers.get(&id).map(|consumer| consumer.channel.clone());
        let mut none = Channel::default();
        let channel = channel.and_then(|name| self.channels.get_mut(&name)).unwrap_or(&mut none);
        let mut held: Vec<u64> = channel.states.iter().filter_map(mine).collect();
        held.sort_unstable();
        let (mut first, last) = (tags.first.0, tags.last.0);
        if last < first || last == 0 {
            return Vec::new();
        }
        if first == 0 {
            first = held.first().copied().filter(|&oldest| oldest <= last).unwrap_or(last);
        }
        for state in &mut channel.states {
            let State::InFlight { to, tag, attempt, delivered, .. } = *state else { continue };
            if to != id || tag < first || tag > last {
                continue;
            }
            *state = match verdict {
                Verdict::Ack => State::Acked,
                Verdict::Requeue { delay_ms: 0 } => State::Due { attempts: attempt },
                Verdict::Requeue { delay_ms } => {
                    let delay = std::time::Duration::from_millis(delay_ms);
                    let due = now.plus(delay.min(self.limits.requeue_delay_max));
                    State::Delayed { attempts: attempt, due }
                }
                Verdict::Touch => {
                    let most = delivered.plus(self.limits.delivery_timeout_max);
                    let deadline = now.plus(self.limits.delivery_timeout).min(most);
                    State::InFlight { to, tag, attempt, delivered, deadline }
                }
            };
        }
        let mut stale = Vec::new();
        let mut at = first;
        for tag in held.into_iter().filter(|&tag| (first..=last).contains(&tag)) {
            if at < tag {
                stale.push(TagRange { first: Tag(at), last: Tag(tag - 1) });
            }
            at = tag + 1;
        }
        if at <= last {
            stale.push(TagRange { first: Tag(at), last: Tag(last) });
        }
        stale
    }

    /// Checks one thing that the model said.
    pub(super) fn hears(&mut self, command: &Command, topic: &Topic, now: Now) {
        match command {
            Command::Commit { batch, .. } => {
                assert!(self.under_way.is_none());
                let put = |op: &WriteOp| match op {
                    WriteOp::Put { key, .. } => {
                        let name = channel_of(key)?;
                        let channel = self.channels.get(&name).cloned();
                        Some((name, channel.map(|channel| (channel, now))))
                    }
                    _ => None,
                };
                let states = batch.ops().iter().filter_map(put).collect();
                let all_kept = |retention: &Retention| retention.keep == Keep::All;
                for op in batch.ops() {
                    if let WriteOp::Truncate { before, .. } = op
                        && self.retentions.iter().all(all_kept)
                    {
                        assert!(before.0 <= self.removed_below, "all is to be kept");
                    }
                }
                self.under_way = Some((batch.clone(), states));
            }
            Command::Removed(removed) => self.hears_removed(removed, now),
            Command::Deliver { consumer, delivery } => {
                let to = self.consumers.get_mut(consumer).expect("delivered to nobody");
                let channel = self.channels.get_mut(&to.channel).expect("a channel");
                let end = self.log.len() as u64;
                assert_eq!(delivery.first_tag.0, to.last_tag + 1, "tags follow on each other");
                assert!(!to.held, "delivered to one who is held");
                for (offset, body) in bodies(&delivery.batch) {
                    assert!(offset < end, "promise 7: {offset} is not committed");
                    assert_eq!(body, self.log[offset as usize], "at {offset}");
                    to.used += 1;
                    to.last_tag += 1;
                    assert!(to.used <= to.granted, "delivered beyond the credit");
                    channel.pass_over(offset, &self.discarded);
                    let due = channel.first(end, |state| matches!(state, State::Due { .. }));
                    let expected = due
                        .or_else(|| channel.first(end, |state| *state == State::Waiting))
                        .expect("nothing to deliver");
                    assert_eq!(offset, expected, "promise 4: in order, what came back first");
                    let attempts = match *channel.at(offset) {
                        State::Due { attempts } => attempts,
                        State::Waiting => 0,
                        state => panic!("promise 3: {offset} was {state:?}"),
                    };
                    assert_eq!(delivery.attempt, attempts + 1, "promise 12: attempts are kept");
                    *channel.at(offset) = State::InFlight {
                        to: *consumer,
                        tag: to.last_tag,
                        attempt: delivery.attempt,
                        delivered: now.monotonic,
                        deadline: now.monotonic.plus(self.limits.delivery_timeout),
                    };
                }
            }
            Command::Reply { session, reply } => self.hears_reply(session.0, reply, topic),
            _ => {}
        }
    }

    /// A limit may remove what is beyond it, and must count what that takes from whom.
    fn hears_removed(&mut self, removed: &Removed, now: Now) {
        let (first, until) = (removed.first.0, removed.until.0);
        assert!(self.removed_below <= first && first < until && until <= self.log.len() as u64);
        let messages = &self.taken_in[first as usize..until as usize];
        let all: u64 = self.taken_in[first as usize..].iter().map(|taken| taken.bytes).sum();
        let may = |retention: &Retention| match removed.limit {
            Limit::Age => retention.age_max.is_some_and(|age| {
                // The clocks agree to a millisecond.
                let grain = std::time::Duration::from_millis(1);
                messages.iter().all(|taken| now.wall.since(taken.at) + grain >= age)
            }),
            Limit::Bytes => retention.bytes_max.is_some_and(|bytes| all > bytes),
        };
        assert!(self.retentions.iter().any(may), "{removed:?} at {now:?} by {:?}", self.retentions);
        self.removed_below = until;
        let mut dropped = Vec::new();
        for (name, channel) in &mut self.channels {
            let lost = channel.drop_below(until);
            if lost > 0 {
                dropped.push((name.clone(), lost));
            }
        }
        let mut told: Vec<_> =
            removed.dropped.iter().map(|(name, lost)| (name.as_str().to_owned(), *lost)).collect();
        // One that was made for someone who has left meanwhile is taken note of later.
        told.retain(|(name, _)| self.channels.contains_key(name));
        told.sort_unstable();
        // A channel made after a discard has passed over what it left out, or not yet.
        if self.discarded.is_empty() {
            assert_eq!(told, dropped, "promise 13: {removed:?}");
        }
    }

    fn hears_reply(&mut self, session: u64, reply: &Reply, topic: &Topic) {
        let session = crate::model::SessionId(session);
        match reply {
            Reply::Confirmed { handle, ranges, durability } => {
                for range in ranges {
                    let id = ProducerId { session, handle: *handle };
                    let prefix = self.answered(id, range.sequence, range.count);
                    for n in 0..range.count {
                        let body = format!("{prefix}{}", range.sequence + n);
                        match range.offset {
                            Some(offset) => assert_eq!(self.log[(offset.0 + n) as usize], body),
                            None => assert!(self.log.contains(&body), "promise 1: {body}"),
                        }
                        if *durability == Durability::Disk {
                            self.on_disk.push(body);
                        }
                    }
                }
            }
            Reply::PublishRefused { handle, sequence, count, refusal } => {
                let id = ProducerId { session, handle: *handle };
                let prefix = self.answered(id, *sequence, *count);
                // What did not follow, or came too late, may have been stored by another publish.
                use RefusalCode::{Fenced, OutcomeUnknown, SequenceGap, Stopping};
                if ![Fenced, OutcomeUnknown, SequenceGap, Stopping].contains(&refusal.code) {
                    for n in 0..*count {
                        let body = format!("{prefix}{}", sequence + n);
                        assert!(!self.log.contains(&body), "{body} is refused: {refusal}");
                    }
                }
            }
            Reply::Subscribed { handle, .. } => {
                let id = ConsumerId { session, handle: *handle };
                let consumer = self.consumers.get_mut(&id).expect("a consumer");
                consumer.joined = true;
                let name = consumer.channel.clone();
                if !self.channels.contains_key(&name) {
                    let channel = fresh(topic, &name, self.removed_below);
                    self.channels.insert(name, channel);
                }
            }
            _ => {}
        }
    }

    /// An answer for a range must be for what was published first.
    fn answered(&mut self, id: ProducerId, sequence: u64, count: u64) -> String {
        let (prefix, waiting) = self.unanswered.get_mut(&id).expect("an answer to nobody");
        let mut left = (sequence, count);
        while left.1 > 0 {
            let front = waiting.front_mut().expect("an answer to nothing");
            assert_eq!(front.0, left.0, "answers come in the order of publishes");
            let part = front.1.min(left.1);
            *front = (front.0 + part, front.1 - part);
            left = (left.0 + part, left.1 - part);
            if front.1 == 0 {
                waiting.pop_front();
            }
        }
        prefix.clone()
    }

    /// Whether every publish was answered.
    pub(super) fn all_answered(&self) -> bool {
        self.unanswered.values().all(|(_, waiting)| waiting.is_empty())
    }

    /// The commit under way succeeded.
    pub(super) fn committed(&mut self, asked: Durability) {
        let (batch, states) = self.under_way.take().expect("a commit");
        for op in batch.ops() {
            match op {
                WriteOp::Append { at, records, time, .. } => {
                    assert_eq!(at.0, self.log.len() as u64);
                    for message in records.messages() {
                        let body = String::from_utf8(message.unwrap().body.to_vec()).unwrap();
                        assert!(!self.log.contains(&body), "promise 6: {body} is stored twice");
                        self.log.push(body);
                    }
                    for index in 0..records.count() {
                        let bytes = records.slice(index..index + 1).byte_len() as u64;
                        self.taken_in.push(Taken { bytes, at: *time });
                    }
                }
                WriteOp::Truncate { before, .. } => {
                    for channel in self.channels.values() {
                        let done = channel.is_done(channel.start, before.0, &self.discarded);
                        assert!(done, "promise 2: truncated to {before} too early");
                    }
                }
                WriteOp::Discard { from, until, .. } => {
                    for channel in self.channels.values() {
                        let start = from.0.max(channel.start);
                        let done = channel.is_done(start, until.0, &self.discarded);
                        assert!(done, "promise 2: {from} to {until} is discarded too early");
                    }
                    self.discarded.extend(from.0..until.0);
                }
                WriteOp::Delete { key } => {
                    if let Some(name) = channel_of(key) {
                        self.channels.remove(&name);
                        self.now_saved.channels.remove(&name);
                        self.consumers.retain(|_, consumer| consumer.channel != name);
                    }
                }
                _ => {}
            }
        }
        self.now_saved.channels.extend(states);
        self.now_saved.contents.apply(&batch);
        self.now_saved.log.clone_from(&self.log);
        self.now_saved.taken_in.clone_from(&self.taken_in);
        if asked == Durability::Disk {
            self.durable = self.now_saved.clone();
        }
    }

    /// The commit under way failed.
    pub(super) fn not_committed(&mut self) {
        self.under_way.take().expect("a commit");
    }

    /// The node starts anew from `saved`.
    pub(super) fn restarted(&mut self, saved: Saved, topic: &Topic, now: Now) {
        self.under_way = None;
        self.unanswered.clear();
        self.consumers.clear();
        self.log.clone_from(&saved.log);
        self.taken_in.clone_from(&saved.taken_in);
        self.removed_below = saved.contents.bounds().first.0;
        let held = |offset: &u64| {
            saved.contents.batches.iter().any(|b| b.first.0 <= *offset && *offset < b.end().0)
        };
        self.discarded =
            (self.removed_below..self.log.len() as u64).filter(|offset| !held(offset)).collect();
        let lost = self.on_disk.iter().find(|body| !self.log.contains(body));
        assert_eq!(lost, None, "promise 1: it was said to be on disk");
        self.channels.clear();
        for (name, channel) in &saved.channels {
            let mut restored = match channel {
                None => fresh(topic, name, self.stored_floor(name, &saved, topic, now)),
                Some((channel, then)) => {
                    let mut channel = channel.clone();
                    for state in &mut channel.states {
                        *state = after_restart(*state, *then, now);
                    }
                    channel
                }
            };
            restored.states.truncate(saved.log.len());
            self.channels.insert(name.clone(), restored);
        }
        self.now_saved = saved.clone();
        // What was read back is there to stay.
        self.durable = saved;
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

    /// Takes note of channels that were stored for someone who has left meanwhile.
    pub(super) fn adopt(&mut self, topic: &Topic) {
        for stats in topic.stats().channels {
            let name = stats.channel.as_str();
            if self.now_saved.channels.contains_key(name) && !self.channels.contains_key(name) {
                self.channels.insert(name.to_owned(), fresh(topic, name, self.removed_below));
            }
        }
    }

    /// Everything that the model tells about its channels is so.
    pub(super) fn check(&self, topic: &Topic) {
        let stats = topic.stats();
        assert_eq!(stats.end.0, self.log.len() as u64);
        assert_eq!(stats.channels.len(), self.channels.len(), "{stats:?} {:?}", self.channels);
        for told in &stats.channels {
            let name = told.channel.as_str();
            let channel = self.channels.get(name).unwrap_or_else(|| panic!("no {name}"));
            let delayed = channel.count(|state| matches!(state, State::Delayed { .. }));
            let in_flight = channel.count(|state| matches!(state, State::InFlight { .. }));
            let acked = channel.count(|state| *state == State::Acked);
            let dropped = channel.count(|state| *state == State::Dropped);
            let all = (self.log.len() as u64).saturating_sub(channel.start);
            // What was discarded before this channel was made is done once it comes to it.
            let passed = told.acked.saturating_sub(acked);
            let not_dropped = dropped.saturating_sub(told.dropped);
            let most = self.discarded.len() as u64;
            assert!(passed <= most && not_dropped <= passed, "{told:?} {passed} {not_dropped}");
            let (acked, dropped) = (acked + passed, dropped - not_dropped);
            let waiting = all - delayed - in_flight - acked - dropped;
            let ours = (channel.start, waiting, delayed, in_flight, acked, 0, dropped);
            let theirs = (
                told.start.0,
                told.waiting,
                told.delayed,
                told.in_flight,
                told.acked,
                told.damaged,
                told.dropped,
            );
            assert_eq!(theirs, ours, "promise 13: {told:?}");
        }
    }

    /// Nobody who could have something is without it.
    pub(super) fn check_nobody_waits(&self, topic: &Topic) {
        let stats = topic.stats();
        for told in stats.channels.iter().filter(|told| told.waiting > 0 && !told.paused) {
            let name = told.channel.as_str();
            for (id, consumer) in &self.consumers {
                let willing = consumer.joined && consumer.channel == name && !consumer.held;
                assert!(
                    stats.paused || !willing || consumer.used >= consumer.granted,
                    "promise 16: {id:?} waits for nothing: {told:?}"
                );
            }
        }
    }

    /// The next moment at which something must happen in a channel.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let states = self.channels.values().flat_map(|channel| &channel.states);
        let deadline = |state: &State| match *state {
            State::InFlight { deadline, .. } => Some(deadline),
            State::Delayed { due, .. } => Some(due),
            _ => None,
        };
        states.filter_map(deadline).min()
    }

    pub(super) fn grant(&mut self, id: ConsumerId, total: u64) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            let most = consumer.used + self.limits.credit_max.messages;
            consumer.granted = consumer.granted.max(total.min(most));
        }
    }

    pub(super) fn subscribed(&mut self, id: ConsumerId, channel: &str, credit: u64) {
        let (channel, granted) = (channel.to_owned(), credit);
        let (used, last_tag, held, joined) = (0, 0, false, false);
        let consumer = Consumer { channel, granted, used, last_tag, held, joined };
        self.consumers.insert(id, consumer);
    }
}

fn fresh(topic: &Topic, name: &str, removed_below: u64) -> Channel {
    let stats = topic.stats().channels.into_iter().find(|stats| stats.channel.as_str() == name);
    let mut channel = Channel { start: stats.expect("the channel").start.0, states: Vec::new() };
    channel.drop_below(removed_below);
    channel
}

/// What a stored state has become when it is read back.
fn after_restart(state: State, then: Now, now: Now) -> State {
    match state {
        State::InFlight { attempt: attempts, .. } => State::Due { attempts },
        State::Delayed { attempts, due } => {
            let left = due.since(then.monotonic).as_micros().div_ceil(1_000) as u64;
            let left = Timestamp(then.wall.0 + left).since(now.wall);
            match left.is_zero() {
                true => State::Due { attempts },
                false => State::Delayed { attempts, due: now.monotonic.plus(left) },
            }
        }
        other => other,
    }
}

fn channel_of(key: &Bytes) -> Option<String> {
    let key = std::str::from_utf8(key).expect("a key");
    Some(key.strip_prefix("c/t/")?.to_owned())
}
