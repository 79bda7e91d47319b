//! One topic: the events that it is told and the commands that it gives.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Command, ConsumerId, Event, Gate, LoadTicket, Reply, SessionId,
    channels::Channels,
    commit::CommitSlot,
    discarding::Discarding,
    in_flight::Returned,
    keys::{self, Key},
    marks::{Marks, MarksState},
    persisting::Persisting,
    producers::Producers,
    settings::ModelSettings,
    state::{self, ProducerState, RestoreError, TopicState},
    subscribing::Subscription,
    window::Window,
    wish::Wish,
};
use crate::{
    Bounds, ChannelName, Durability, LogName, Monotonic, Now, Offset, Refusal, RefusalCode,
    TopicName, TopicSettings, TopicStats,
};

/// A topic with its channels, producers and consumers, as a machine without a clock, a disk or a
/// network.
///
/// # How to drive it
///
/// Tell it what happened with [`handle`](Self::handle), as often as there is something to tell;
/// then call [`poll_command`](Self::poll_command) and carry out what it says until it returns
/// `None`. Everything that was told before the first poll is worked off together: publishes
/// become one commit, and deliveries are planned once. Answers to commands are events; they may be
/// told while polling, or at any time later. After that,
/// [`poll_timeout`](Self::poll_timeout) says when to call
/// [`handle_timeout`](Self::handle_timeout), after which commands are to be polled again.
///
/// The monotonic part of the times passed in must not go back; where it does, the latest one so
/// far is taken.
#[derive(Debug)]
pub struct Topic {
    pub(super) name: TopicName,
    pub(super) log: LogName,
    pub(super) settings: TopicSettings,
    pub(super) limits: Arc<ModelSettings>,
    pub(super) now: Now,
    pub(super) stage: Stage,
    pub(super) paused: bool,
    pub(super) stopping: bool,
    /// For an ephemeral topic that nobody needs any more: from when on to delete it.
    pub(super) vanish_at: Option<Monotonic>,
    /// What is committed of the log.
    pub(super) bounds: Bounds,
    /// What waits for its place in a commit, in the order in which it came.
    pub(super) wishes: VecDeque<Wish>,
    /// Wishes that wait for the offset of a time.
    pub(super) locating: Vec<(LoadTicket, Wish)>,
    /// Bytes of records among the wishes.
    pub(super) wished_bytes: usize,
    pub(super) commit: CommitSlot,
    pub(super) store: StoreWord,
    pub(super) producers: Producers,
    pub(super) channels: Channels,
    pub(super) consumers: BTreeMap<ConsumerId, Subscription>,
    pub(super) last_serial: u64,
    pub(super) window: Window,
    pub(super) persisting: Persisting,
    pub(super) marks: Marks,
    pub(super) discarding: Discarding,
    /// Everything before it is beyond a limit: no channel wants it, and the log goes up to here.
    pub(super) cut: Offset,
    pub(super) out: VecDeque<Command>,
    pub(super) scratch: Vec<Returned>,
    pub(super) figures: Figures,
}

/// How far a topic's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The store does not know it yet.
    New,
    /// It has its log.
    Live,
    /// It has come to rest for good, deleted or stopped.
    Over,
}

/// What the store has shown of itself.
#[derive(Clone, Debug)]
pub(super) struct StoreWord {
    /// The most durability that it can reach for this topic, as far as known.
    pub(super) ceiling: Durability,
    /// The most that a commit was seen to reach.
    pub(super) proven: Option<Durability>,
    /// Why it takes no commits any more.
    pub(super) failed: Option<String>,
}

/// What only users look at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) published: u64,
    pub(super) published_bytes: u64,
    pub(super) duplicates: u64,
    pub(super) refused: u64,
}

impl Topic {
    /// What a publish, or whatever else waits for a commit, takes beside its records, in bytes:
    /// its places in the lists from an inbox to its answer.
    pub const WISH_BYTES: usize = 256;

    /// A topic that the store does not know yet. The first thing that anyone wants of it makes
    /// it: its first commit creates its log and stores its settings, beside what was wanted.
    pub fn create(
        name: TopicName,
        settings: TopicSettings,
        limits: impl Into<Arc<ModelSettings>>,
        now: Now,
    ) -> Self {
        let ceiling = match settings.durability {
            // Its log is not one that is written down.
            Durability::Memory => Durability::Memory,
            Durability::Os | Durability::Disk => Durability::Disk,
        };
        Self {
            log: keys::log_name(&name),
            name,
            settings,
            limits: limits.into(),
            now,
            stage: Stage::New,
            paused: false,
            stopping: false,
            vanish_at: None,
            bounds: Bounds::default(),
            wishes: VecDeque::new(),
            locating: Vec::new(),
            wished_bytes: 0,
            commit: CommitSlot::default(),
            store: StoreWord { ceiling, proven: None, failed: None },
            producers: Producers::default(),
            channels: Channels::default(),
            consumers: BTreeMap::new(),
            last_serial: 0,
            window: Window::default(),
            persisting: Persisting::default(),
            marks: Marks::new(Offset::ZERO, now.monotonic),
            discarding: Discarding::default(),
            cut: Offset::ZERO,
            out: VecDeque::new(),
            scratch: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// A topic that the store knows. `bounds` are those of its log; `values` are all values under
    /// its keys (see [`keys`]). What was in flight when they were stored is due
    /// now; delays go on, none ending early.
    ///
    /// # Errors
    /// [`RestoreError`] when the values are not those of this topic or cannot be read.
    pub fn restore(
        name: TopicName,
        limits: impl Into<Arc<ModelSettings>>,
        bounds: Bounds,
        values: Vec<(Bytes, Bytes)>,
        now: Now,
    ) -> Result<Self, RestoreError> {
        let own = keys::topic_key(&name);
        let Some((_, value)) = values.iter().find(|(key, _)| *key == own) else {
            return Err(RestoreError::NoTopic(name.to_string()));
        };
        let TopicState { settings, paused } = state::decode(&own, value)?;
        let mut topic = Self::create(name, settings, limits, now);
        topic.stage = Stage::Live;
        topic.paused = paused;
        topic.bounds = bounds;
        topic.window.lost_before(bounds.first);
        topic.cut = bounds.first;
        let mut marks = MarksState::at(bounds.first);
        for (key, value) in values {
            match keys::parse(&key) {
                Some(Key::Topic(of)) if of == topic.name => {}
                Some(Key::Channel(of, channel)) if of == topic.name => {
                    let limits = &topic.limits;
                    let mut channel =
                        state::decode_channel(channel, &key, &value, bounds, limits, now)?;
                    // Others will have the offsets of what is lost: what was done to those must not
                    // be taken for theirs after one more restart.
                    channel.put.changed |= state::channel_end(&key, &value)? > bounds.end;
                    let index = topic.channels.add(channel);
                    topic.list_state(index);
                }
                Some(Key::Producer(of, producer)) if of == topic.name => {
                    let state: ProducerState = state::decode(&key, &value)?;
                    if state.is_ahead_of(bounds) {
                        topic.producers.forgotten.push(producer);
                    } else {
                        topic.producers.restore(&topic.name, producer, &state);
                    }
                }
                Some(Key::Marks(of)) if of == topic.name => marks = state::decode(&key, &value)?,
                _ => {
                    let key = String::from_utf8_lossy(&key).into_owned();
                    return Err(RestoreError::ForeignKey { topic: topic.name.to_string(), key });
                }
            }
        }
        let ahead = marks.end() > bounds.end;
        let (marks, closed) = Marks::restore(&marks, bounds, now).map_err(|why| {
            let key = String::from_utf8_lossy(&keys::marks_key(&topic.name)).into_owned();
            RestoreError::Value { key, why: why.to_owned() }
        })?;
        topic.marks = marks;
        topic.marks_restored(closed, ahead);
        topic.discarding.missed = true;
        topic.producers.restored();
        while topic.producers.known_count() > topic.limits.producers_known_max
            && topic.producers.forget_oldest()
        {}
        if topic.name.is_ephemeral() && topic.channels.is_empty() {
            topic.vanish_at = Some(now.monotonic);
        }
        Ok(topic)
    }

    /// Takes in what happened. What follows from it is said by
    /// [`poll_command`](Self::poll_command).
    pub fn handle(&mut self, event: Event, now: Now) {
        self.pass_to(now);
        if self.stage == Stage::Over {
            return self.refuse_event(event);
        }
        match event {
            Event::OpenProducer { producer, name, epoch, seat } => {
                self.wish_open(producer, name, epoch, seat);
            }
            Event::Publish { producer, sequence, durability, records } => {
                self.wish_publish(producer, sequence, durability, records);
            }
            Event::RefusePublish { producer, sequence, count, refusal } => {
                self.wishes.push_back(Wish::RefusePublish { producer, sequence, count, refusal });
            }
            Event::CloseProducer { producer, forget } => {
                self.wishes.push_back(Wish::Close { producer, forget });
            }
            Event::Subscribe { consumer, channel, start, create, timeout, credit, claim } => {
                self.subscribe(consumer, (channel, start, create), timeout, credit, claim);
            }
            Event::Credit { consumer, total } => self.grant(consumer, total),
            Event::Release { consumer } => self.release(consumer),
            Event::Alone { consumer } => self.leave_alone(consumer),
            Event::Settle { consumer, request, settlements } => {
                self.settle(consumer, request, &settlements);
            }
            Event::Unsubscribe { consumer } => self.unsubscribe(consumer),
            Event::SessionEnded { session } => self.session_ended(session),
            Event::Admin { request, action } => self.admin(request, action),
            Event::Committed { result } => self.committed(result),
            Event::Loaded { ticket, result } => {
                self.window.loaded(ticket, result, &self.limits, self.now.monotonic);
                self.channels.feed_starved();
            }
            Event::Located { ticket, result } => self.located(ticket, result),
            Event::Stop => self.stop(),
        }
    }

    /// Lets time pass: call it when the moment that [`poll_timeout`](Self::poll_timeout) named
    /// has come. Calling it earlier or more often changes nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        self.pass_to(now);
        if self.stage == Stage::Over {
            return;
        }
        let now = self.now.monotonic;
        self.channels.handle_timeout(now);
        if self.window.handle_timeout(now) {
            self.channels.feed_starved();
        }
    }

    /// The next moment at which something here happens by itself; `None` when nothing waits for
    /// time. Exact once [`poll_command`](Self::poll_command) has returned `None`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        if self.stage == Stage::Over {
            return None;
        }
        // Whatever needs a commit of its own looks again when the one under way has ended.
        let committing = match self.commit.outstanding {
            true => None,
            false => {
                let vanish_at = self.vanish_at.filter(|&at| at > self.now.monotonic);
                let due = [self.states_due(), self.marks_due(), self.discards_due(), vanish_at];
                due.into_iter().flatten().min()
            }
        };
        let deadlines = [
            self.channels.next_deadline(),
            self.window.next_deadline(),
            self.limits_due(),
            committing,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// What is to be done next; `None` when there is nothing more for now. The gate is asked about
    /// every delivery, and every channel that a consumer would make, before it is decided on.
    pub fn poll_command(&mut self, gate: &mut dyn Gate) -> Option<Command> {
        loop {
            if let Some(command) = self.out.pop_front() {
                return Some(command);
            }
            if self.stage == Stage::Over {
                return None;
            }
            self.decide(gate);
            let stuck = self.commit.outstanding || self.wishes.is_empty();
            if self.out.is_empty() && stuck {
                self.relax();
                return None;
            }
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &TopicName {
        &self.name
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> TopicSettings {
        self.settings
    }

    /// The name of its log in the store.
    #[must_use]
    pub const fn log_name(&self) -> &LogName {
        &self.log
    }

    /// What its log holds, as far as committed.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Bytes that are kept for whatever waits for a commit or is in one: the records, and
    /// [`WISH_BYTES`](Self::WISH_BYTES) for each of the things that were asked for.
    #[must_use]
    pub fn unanswered_bytes(&self) -> usize {
        let appends = &self.commit.appends;
        let count = self.wishes.len() + appends.publishes;
        self.wished_bytes + appends.bytes + count * Self::WISH_BYTES
    }

    /// Whether it has neither producers nor consumers, and nothing to do or to wait for but
    /// delays.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.consumers.is_empty()
            && self.producers.open_count() == 0
            && self.wishes.is_empty()
            && self.locating.is_empty()
            && self.out.is_empty()
            && !self.commit.outstanding
            && self.window.is_empty()
            && self.states_due().is_none()
            && self.discards_due().is_none()
            && self.vanish_at.is_none()
    }

    /// The names of its channels.
    #[must_use]
    pub fn channel_names(&self) -> BTreeSet<ChannelName> {
        self.channels.names().cloned().collect()
    }

    /// Whether channels came or went since this was asked last.
    pub fn take_channels_changed(&mut self) -> bool {
        self.channels.take_changed()
    }

    /// Its figures and those of its channels.
    #[must_use]
    pub fn stats(&self) -> TopicStats {
        TopicStats {
            topic: self.name.clone(),
            settings: self.settings,
            paused: self.paused,
            first: self.bounds.first,
            end: self.bounds.end,
            bytes: self.bytes_kept(),
            published: self.figures.published,
            published_bytes: self.figures.published_bytes,
            duplicates: self.figures.duplicates,
            refused: self.figures.refused,
            producers: self.producers.open_count() as u64,
            producers_known: self.producers.known_count() as u64,
            channels: self.channels.iter().map(|channel| channel.stats(self.bounds.end)).collect(),
        }
    }

    /// Decides on everything that was told since the last time.
    fn decide(&mut self, gate: &mut dyn Gate) {
        while !self.commit.outstanding && self.stage != Stage::Over && !self.wishes.is_empty() {
            if self.states_overdue_apart() {
                break;
            }
            self.build(gate);
        }
        self.apply_limits();
        self.deliver(gate);
        if !self.commit.outstanding && self.stage != Stage::Over {
            self.put_states_if_due();
        }
        if !self.commit.outstanding && self.wishes.is_empty() && self.stage != Stage::Over {
            self.end_if_wished(gate);
        }
    }

    fn pass_to(&mut self, now: Now) {
        let monotonic = self.now.monotonic.max(now.monotonic);
        self.now = Now { monotonic, wall: now.wall };
    }

    /// Gives back memory that was needed in busier times.
    fn relax(&mut self) {
        if self.consumers.is_empty() && self.producers.open_count() == 0 && self.is_idle() {
            self.out = VecDeque::new();
            self.wishes = VecDeque::new();
            self.scratch = Vec::new();
            self.consumers = BTreeMap::new();
            self.commit.relax();
            self.channels.relax();
            self.producers.relax();
            self.persisting.relax();
        } else {
            if self.out.capacity() > KEPT {
                self.out.shrink_to(KEPT);
            }
            if self.wishes.capacity() > KEPT && self.wishes.is_empty() {
                self.wishes = VecDeque::new();
            }
        }
    }

    pub(super) fn reply(&mut self, session: SessionId, reply: Reply) {
        self.out.push_back(Command::Reply { session, reply });
    }

    /// Why nothing new is taken in, if it is not.
    pub(super) fn closed(&self) -> Option<Refusal> {
        let topic = &self.name;
        if self.stopping {
            let detail = format!("topic {topic}: the node is stopping");
            return Some(Refusal::new(RefusalCode::Stopping, detail));
        }
        (self.stage == Stage::Over)
            .then(|| Refusal::new(RefusalCode::TopicDeleted, format!("topic {topic} was deleted")))
    }

    /// Why nothing can be stored, if so.
    pub(super) fn store_failed(&self) -> Option<Refusal> {
        let why = self.store.failed.as_ref()?;
        let detail = format!("topic {}: the store takes no commits: {why}", self.name);
        Some(Refusal::new(RefusalCode::StoreFailed, detail))
    }

    /// The end of the log with what the commit being put together adds.
    pub(super) fn end_ahead(&self) -> Offset {
        self.commit.appends.end
    }

    /// Panics unless every channel's messages are in one state each.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn check(&self) {
        for channel in self.channels.iter() {
            channel.check(self.bounds.end);
        }
    }
}

/// Commands and wishes for which room is kept on a topic that is in use.
const KEPT: usize = 256;
