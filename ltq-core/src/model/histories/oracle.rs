//! A topic as simple as can be: checks what the model says and foretells what it must answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::Duration,
};

use super::{
    answers::Answers,
    body,
    channel::{Channel, Settling, State},
    saved::{Saved, SavedChannel, Snapshots, Taken},
    starts::Starts,
};
use crate::{
    Durability, Keep, Monotonic, Now, RefusalCode, Retention, Settlement, TagRange, WriteBatch,
    WriteOp,
    model::{
        Command, ConsumerId, Limit, ModelSettings, ProducerId, Removed, Reply, Topic, TopicAction,
        keys::{self, Key},
        state::decode_channel,
        testing::bodies,
    },
};

#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) channel: String,
    pub(super) granted: (u64, u64),
    /// What it must be told to have left of what it had.
    pub(super) taken_back: Option<(u64, u64)>,
    pub(super) used: (u64, u64),
    pub(super) last_tag: u64,
    pub(super) held: bool,
    pub(super) timeout: Duration,
    /// Whether it was told that it is in its channel.
    pub(super) joined: bool,
}

pub(super) struct Oracle {
    pub(super) limits: ModelSettings,
    /// Every body that was ever committed, by offset.
    pub(super) log: Vec<Rc<str>>,
    /// Where each is.
    pub(super) places: HashMap<Rc<str>, u64>,
    /// The last sequence by prefix.
    pub(super) last: HashMap<String, u64>,
    pub(super) taken: Vec<Taken>,
    /// Everything below was removed by a limit, or is gone from the log.
    pub(super) removed_below: u64,
    /// What was discarded in the middle of the log.
    pub(super) discarded: BTreeSet<u64>,
    /// What cannot be read.
    pub(super) damaged: BTreeSet<u64>,
    /// What the topic was ever set to keep.
    pub(super) retentions: Vec<Retention>,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) consumers: BTreeMap<ConsumerId, Consumer>,
    /// The seats that consumers asked for, and in which turn.
    pub(super) seats: BTreeMap<ConsumerId, (u8, u64)>,
    pub(super) starts: Starts,
    pub(super) answers: Answers,
    /// Bodies that were confirmed, and how durable.
    pub(super) promised: Vec<(Rc<str>, Durability)>,
    /// The commit under way, and what it stores.
    pub(super) under_way: Option<UnderWay>,
    /// The commit that failed with the device: it may be there.
    pub(super) maybe: Option<UnderWay>,
    pub(super) snapshots: Snapshots,
    /// Stored since the node started, in messages and bytes.
    pub(super) published: (u64, u64),
    /// It was not stopped but killed: it will not know of all it has.
    pub(super) crashed: bool,
    /// How large everything from here on is it does know, after whatever crash.
    pub(super) sized_from: u64,
}

/// A commit, what it means for the channels, and how old the messages were.
pub(super) struct UnderWay {
    batch: WriteBatch,
    states: Vec<(String, SavedChannel)>,
    marks: Option<(Now, Rc<[Duration]>)>,
    /// When it was put together.
    built: Monotonic,
}

impl Oracle {
    pub(super) fn new(limits: ModelSettings) -> Self {
        Self {
            limits,
            log: Vec::new(),
            places: HashMap::new(),
            last: HashMap::new(),
            taken: Vec::new(),
            removed_below: 0,
            discarded: BTreeSet::new(),
            damaged: BTreeSet::new(),
            retentions: Vec::new(),
            channels: BTreeMap::new(),
            consumers: BTreeMap::new(),
            seats: BTreeMap::new(),
            starts: Starts::default(),
            answers: Answers::default(),
            promised: Vec::new(),
            under_way: None,
            maybe: None,
            snapshots: Snapshots::default(),
            published: (0, 0),
            crashed: false,
            sized_from: 0,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.log.len() as u64
    }

    /// The first offset that is kept.
    pub(super) fn first_kept(&self) -> u64 {
        self.removed_below.max(self.snapshots.now().contents.bounds().first.0)
    }

    pub(super) fn last_sequence(&self, prefix: &str) -> u64 {
        self.last.get(prefix).copied().unwrap_or(0)
    }

    /// Time passes: what it ends.
    pub(super) fn expire(&mut self, now: Monotonic) {
        self.channels.values_mut().for_each(|channel| channel.expire(now));
    }

    /// A consumer is gone.
    pub(super) fn leave(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        if let Some(channel) = self.channels.get_mut(&consumer.channel) {
            channel.leave(id);
        }
        let inside = |other: &Consumer| other.joined && other.channel == consumer.channel;
        let last = consumer.joined && !self.consumers.values().any(inside);
        if consumer.channel.ends_with("#ephemeral") && last {
            self.channels.remove(&consumer.channel);
        }
    }

    /// The node stops, and everybody was told: channels that are for nobody go.
    pub(super) fn stops(&mut self) {
        self.channels.retain(|name, _| !name.ends_with("#ephemeral"));
    }

    /// Applies settlements and says which tags are stale.
    pub(super) fn settle(
        &mut self,
        id: ConsumerId,
        settlements: &[Settlement],
        now: Monotonic,
    ) -> Vec<TagRange> {
        let consumer = self.consumers.get(&id).filter(|consumer| consumer.joined);
        let (timeout, last_tag) = consumer.map_or((Duration::ZERO, 0), |c| (c.timeout, c.last_tag));
        let channel = consumer.and_then(|consumer| self.channels.get_mut(&consumer.channel));
        let mut none = Channel::default();
        let channel = channel.unwrap_or(&mut none);
        let who = Settling { by: id, timeout, last_tag, now, limits: &self.limits };
        let settle =
            |settlement: &Settlement| channel.settle(who, settlement.tags, settlement.verdict);
        let stale: Vec<TagRange> = settlements.iter().flat_map(settle).collect();
        channel.count_stale(&stale, who.last_tag);
        stale
    }

    /// Checks one thing that the model said.
    pub(super) fn hears(&mut self, command: &Command, topic: &Topic, now: Now) {
        match command {
            Command::Commit { batch, .. } => self.hears_commit(batch, topic, now),
            Command::Removed(removed) => self.hears_removed(removed, now),
            Command::Deliver { consumer, delivery } => {
                let to = self.consumers.get_mut(consumer).expect("delivered to nobody");
                let channel = self.channels.get_mut(&to.channel).expect("a channel");
                let end = self.log.len() as u64;
                let bytes = delivery.batch.records.payload().len() as u64;
                let count = delivery.batch.records.count();
                let first = delivery.batch.first.0;
                if channel.is_new(first) && self.discarded.is_empty() && self.damaged.is_empty() {
                    let runs = channel.runs_at_least();
                    assert!(runs < self.limits.channel_runs_max, "promise 9: {runs} runs");
                }
                assert_eq!(delivery.first_tag.0, to.last_tag + 1, "tags follow on each other");
                assert!(to.joined && !to.held, "delivered to one who is held");
                assert!(count <= self.limits.run_messages_max, "promise 9: too long a run");
                let size = delivery.batch.records.byte_len();
                assert!(count == 1 || size <= self.limits.run_bytes_max, "promise 9: too large");
                let open = to.granted.1.saturating_sub(to.used.1);
                assert!(open > 0 && (count == 1 || bytes <= open), "beyond the credit in bytes");
                to.used.1 += bytes;
                for (offset, body) in bodies(&delivery.batch) {
                    assert!(offset < end, "promise 7: {offset} is not committed");
                    assert_eq!(*body, *self.log[offset as usize], "at {offset}");
                    to.used.0 += 1;
                    to.last_tag += 1;
                    assert!(to.used.0 <= to.granted.0, "delivered beyond the credit");
                    if to.channel.ends_with("#ephemeral") && *channel.at(offset) == State::Damaged {
                        // Which one was given up is a guess until everything of its turn was said: what
                        // such a channel stores does not tell.
                        *channel.at(offset) = State::Waiting;
                    }
                    channel.pass_over(offset, &self.discarded);
                    let mut expected = channel.next(end).expect("nothing to deliver");
                    while expected != offset && self.damaged.contains(&expected) {
                        *channel.at(expected) = State::Damaged;
                        expected = channel.next(end).expect("nothing to deliver");
                    }
                    assert_eq!(offset, expected, "promise 4: in order, what came back first");
                    let attempts = match *channel.at(offset) {
                        State::Due { attempts } => attempts,
                        State::Waiting => 0,
                        state => panic!("promise 3: {offset} was {state:?}"),
                    };
                    assert_eq!(delivery.attempt, attempts + 1, "promise 12: attempts are kept");
                    channel.figures.delivered += 1;
                    channel.figures.redelivered += u64::from(attempts > 0);
                    *channel.at(offset) = State::InFlight {
                        to: *consumer,
                        tag: to.last_tag,
                        attempt: delivery.attempt,
                        delivered: now.monotonic,
                        deadline: now.monotonic.plus(to.timeout),
                    };
                }
            }
            Command::Reply { session, reply } => self.hears_reply(session.0, reply, topic),
            _ => {}
        }
    }

    fn hears_commit(&mut self, batch: &WriteBatch, topic: &Topic, now: Now) {
        assert!(self.under_way.is_none(), "one commit at a time");
        let mut states = Vec::new();
        let mut marks = None;
        for told in topic.stats().channels.iter().filter(|told| told.channel.is_ephemeral()) {
            let end = self.end();
            if let Some(channel) = self.channels.get_mut(told.channel.as_str()) {
                channel.give_up(told, end, (&self.damaged, &self.discarded));
            }
        }
        let appended: usize = batch
            .ops()
            .iter()
            .map(|op| match op {
                WriteOp::Append { records, .. } => records.count(),
                _ => 0,
            })
            .sum();
        for op in batch.ops() {
            match op {
                WriteOp::Put { key, value } => match keys::parse(key) {
                    Some(Key::Channel(_, name)) => {
                        let bounds = topic.bounds();
                        let stored =
                            decode_channel(name.clone(), key, value, bounds, &self.limits, now);
                        let name = name.as_str().to_owned();
                        let end = self.log.len() as u64;
                        if let Some(channel) = self.channels.get_mut(&name) {
                            let told = stored.expect("a channel").stats(bounds.end);
                            channel.give_up(&told, end, (&self.damaged, &self.discarded));
                        }
                        let channel = self.channels.get(&name).cloned();
                        states.push((name, channel.map(|channel| Rc::new((channel, now)))));
                    }
                    Some(Key::Marks(_)) => {
                        let ages = self.taken.iter().map(|taken| taken.age(now.monotonic));
                        let fresh = std::iter::repeat_n(Duration::ZERO, appended);
                        marks = Some((now, ages.chain(fresh).collect()));
                    }
                    _ => {}
                },
                WriteOp::Truncate { before, .. } => {
                    let all_kept = |retention: &Retention| retention.keep == Keep::All;
                    if self.retentions.iter().all(all_kept) {
                        assert!(before.0 <= self.removed_below, "promise 2: all is to be kept");
                    }
                }
                _ => {}
            }
        }
        let built = now.monotonic;
        self.under_way = Some(UnderWay { batch: batch.clone(), states, marks, built });
    }

    /// A limit may remove what is beyond it, and must count what that takes from whom.
    fn hears_removed(&mut self, removed: &Removed, now: Now) {
        let (first, until) = (removed.first.0, removed.until.0);
        assert!(self.removed_below <= first && first < until && until <= self.end());
        let messages = &self.taken[first as usize..until as usize];
        let all: u64 = self.taken[first as usize..].iter().map(|taken| taken.bytes).sum();
        let may = |retention: &Retention| match removed.limit {
            Limit::Age => retention.age_max.is_some_and(|age| {
                // The clocks agree to a millisecond.
                let grain = Duration::from_millis(2);
                messages.iter().all(|taken| taken.age(now.monotonic) + grain >= age)
            }),
            Limit::Bytes => retention.bytes_max.is_some_and(|bytes| all > bytes),
        };
        assert!(
            self.retentions.iter().any(may),
            "promise 2: {removed:?} at {now:?} by {:?}",
            self.retentions
        );
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
        // A channel made after a discard has passed over what it left out, or not yet; the same
        // with what cannot be read.
        if self.discarded.is_empty() && self.damaged.is_empty() {
            assert_eq!(told, dropped, "promise 13: {removed:?}");
        }
    }

    fn hears_reply(&mut self, session: u64, reply: &Reply, topic: &Topic) {
        let session = crate::model::SessionId(session);
        match reply {
            Reply::ProducerOpened { .. } if self.answers.is_gone(session) => {}
            Reply::ProducerOpened { handle, .. } => {
                self.answers.opened(ProducerId { session, handle: *handle });
            }
            Reply::ProducerRefused { handle, .. } => {
                self.answers.not_opened(ProducerId { session, handle: *handle });
            }
            Reply::Confirmed { handle, ranges, durability } => {
                for range in ranges {
                    let id = ProducerId { session, handle: *handle };
                    let (prefix, least) = self.answers.answered(id, range.sequence, range.count);
                    assert!(*durability >= least, "promise 1: {least} was asked, got {durability}");
                    for n in 0..range.count {
                        let body = body(&prefix, range.sequence + n);
                        let place = self.places.get(&*body).copied();
                        let place = place.unwrap_or_else(|| panic!("promise 1: {body} is lost"));
                        if let Some(offset) = range.offset {
                            assert_eq!(place, offset.0 + n, "{body}");
                        }
                        let reached = self.taken[place as usize].reached;
                        assert!(*durability <= reached, "promise 1: {body} is only {reached}");
                        self.promised.push((self.log[place as usize].clone(), *durability));
                    }
                }
            }
            Reply::PublishRefused { handle, sequence, count, refusal } => {
                let id = ProducerId { session, handle: *handle };
                let (prefix, _) = self.answers.answered(id, *sequence, *count);
                // What did not follow, or came too late, may have been stored by another publish.
                use RefusalCode::{
                    DurabilityUnavailable, Fenced, NoSuchHandle, OutcomeUnknown, SequenceGap,
                    Stopping, TopicDeleted,
                };
                let repeats = [
                    DurabilityUnavailable,
                    Fenced,
                    NoSuchHandle,
                    OutcomeUnknown,
                    SequenceGap,
                    Stopping,
                    TopicDeleted,
                ];
                if !repeats.contains(&refusal.code) {
                    for n in 0..*count {
                        let body = body(&prefix, sequence + n);
                        let stored = self.places.contains_key(&*body);
                        assert!(!stored, "promise 15: {body} is refused: {refusal}");
                    }
                }
            }
            Reply::Subscribed { handle, .. } => {
                let id = ConsumerId { session, handle: *handle };
                self.answers.subscribed(id);
                self.check_seat(id);
                let consumer = self.consumers.get_mut(&id).expect("a consumer");
                consumer.joined = true;
                let name = consumer.channel.clone();
                assert!(self.inside(&name) <= self.limits.consumers_max, "promise 9: of {name}");
                self.adopt(topic, &name);
            }
            Reply::SubscribeRefused { handle, refusal } => {
                let id = ConsumerId { session, handle: *handle };
                if refusal.code == RefusalCode::LimitReached
                    && let Some(consumer) = self.consumers.get(&id)
                {
                    let full = self.inside(&consumer.channel) >= self.limits.consumers_max;
                    assert!(
                        full || self.has_all_channels(topic),
                        "promise 15: one too many of none"
                    );
                }
                if refusal.code == RefusalCode::Fenced {
                    self.check_overtaken(id);
                }
                self.answers.subscribed(id);
                self.consumers.remove(&id);
            }
            Reply::SubscriptionClosed { handle, refusal } => {
                let id = ConsumerId { session, handle: *handle };
                if refusal.is_none() {
                    self.answers.unsubscribed(id);
                }
                match refusal.as_ref().map(|refusal| refusal.code) {
                    Some(RefusalCode::Fenced) => self.taken_over(id),
                    Some(_) => self.leave(id),
                    None => {}
                }
            }
            Reply::Admin { request, result } => {
                if matches!(result, Err(refusal) if refusal.code == RefusalCode::LimitReached) {
                    assert!(self.has_all_channels(topic), "promise 15: one too many of none");
                }
                let action = self.answers.request_answered(*request);
                self.answers.deleted |= result.is_ok() && action == TopicAction::Delete;
                match (result, action) {
                    (Ok(_), TopicAction::CreateChannel(name, _)) => {
                        self.adopt(topic, name.as_str());
                    }
                    // What is deleted in the store was seen to be.
                    (Ok(_), TopicAction::DeleteChannel(name)) => {
                        self.forget_channel(name.as_str());
                    }
                    _ => {}
                }
            }
            Reply::Credited { handle, total } => {
                self.credited(ConsumerId { session, handle: *handle }, *total);
            }
            Reply::Settled { .. } => {}
        }
    }

    /// How many consumers were told that they are in a channel.
    pub(super) fn inside(&self, name: &str) -> usize {
        let inside = |consumer: &&Consumer| consumer.joined && consumer.channel == name;
        self.consumers.values().filter(inside).count()
    }

    /// Whether there may be no more channels than there are, or are being made. Those of which nobody
    /// was told yet, who asked for them having left, only the topic knows.
    fn has_all_channels(&self, topic: &Topic) -> bool {
        let there = self.channels.len().max(topic.stats().channels.len());
        there + self.answers.making() >= self.limits.channels_max
    }

    fn forget_channel(&mut self, name: &str) {
        self.channels.remove(name);
        self.consumers.retain(|_, consumer| consumer.channel != name || !consumer.joined);
    }

    /// The commit under way succeeded, and is so durable.
    pub(super) fn committed(&mut self, reached: Durability) {
        let commit = self.under_way.take().expect("a commit");
        self.stored(commit, reached);
    }

    /// The commit that failed with the device is there after all.
    pub(super) fn was_committed(&mut self, reached: Durability) {
        if let Some(commit) = self.maybe.take() {
            // The node is gone, and what was in its memory alone.
            self.channels.retain(|name, _| !name.ends_with("#ephemeral"));
            self.stored(commit, reached);
        }
    }

    fn stored(&mut self, commit: UnderWay, reached: Durability) {
        let mut saved = Saved::clone(self.snapshots.now());
        let mut gone = BTreeSet::new();
        for op in commit.batch.ops() {
            match op {
                WriteOp::Append { at, records, .. } => {
                    assert_eq!(at.0, self.end());
                    for (index, message) in records.messages().enumerate() {
                        let body = String::from_utf8(message.unwrap().body.to_vec()).unwrap();
                        let (prefix, sequence) = super::parse(&body);
                        self.last.insert(prefix.to_owned(), sequence);
                        let body: Rc<str> = body.into();
                        let before = self.places.insert(body.clone(), self.end());
                        assert_eq!(before, None, "promise 6: {body} is stored twice");
                        self.log.push(body);
                        let bytes = records.slice(index..index + 1).byte_len() as u64;
                        self.published = (self.published.0 + 1, self.published.1 + bytes);
                        let (since, before) = (commit.built, Duration::ZERO);
                        let reached = Durability::Memory;
                        self.taken.push(Taken { bytes, since, before, reached });
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
                    if let Some(Key::Channel(_, name)) = keys::parse(key) {
                        self.forget_channel(name.as_str());
                        saved.channels.remove(name.as_str());
                        gone.insert(name.as_str().to_owned());
                    }
                }
                WriteOp::DeleteLog { .. } => {
                    self.promised.clear();
                    saved = Saved { contents: saved.contents, ..Saved::default() };
                }
                _ => {}
            }
        }
        let there = |name: &str| !gone.contains(name);
        saved.channels.extend(commit.states.into_iter().filter(|(name, _)| there(name)));
        saved.contents.apply(&commit.batch);
        saved.len = self.log.len();
        saved.marks = commit.marks.or(saved.marks);
        for taken in &mut self.taken {
            taken.reached = taken.reached.max(reached);
        }
        self.snapshots.push(Rc::new(saved), reached);
    }

    /// The commit under way failed; `perhaps` it is there all the same.
    pub(super) fn not_committed(&mut self, perhaps: bool) {
        let commit = self.under_way.take().expect("a commit");
        if perhaps {
            self.maybe = Some(commit);
        }
    }
}
