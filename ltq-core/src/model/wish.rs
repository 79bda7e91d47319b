//! Everything that needs a place in a commit, and how each finds it.
//!
//! What needs a commit is done strictly in the order in which it came, so that a channel that
//! starts with the latest message starts behind what was published before it was wanted, and a
//! producer that is fenced is fenced behind what it had published.

use super::{
    ConsumerId, Gate, ProducerId, Reply, RequestId, SessionId, Topic, TopicAction,
    channels::Index,
    commit::{Effect, Opening},
    keys,
    producers::{Entry, Handle},
    publishing::Publish,
    state::{self, TopicState},
    topic::Stage,
};
use crate::{
    AdminResponse, ChannelName, Durability, Limit, ProducerName, Refusal, RefusalCode, Seat,
    StartAt,
};

/// Something that waits for its place in a commit.
#[derive(Debug)]
pub(super) enum Wish {
    Publish(Publish),
    /// A publish that came too late, waiting behind the earlier ones of its producer.
    RefusePublish {
        producer: ProducerId,
        sequence: u64,
        count: u64,
        refusal: Refusal,
    },
    Open {
        producer: ProducerId,
        name: Option<ProducerName>,
        epoch: Option<u64>,
        seat: Option<Seat>,
    },
    Close {
        producer: ProducerId,
        forget: bool,
    },
    SessionEnded(SessionId),
    Subscribe {
        consumer: ConsumerId,
        serial: u64,
        channel: ChannelName,
        start: StartAt,
        create: bool,
    },
    /// An operator's wish, or without a request the topic's own.
    Admin {
        request: Option<RequestId>,
        action: TopicAction,
    },
}

/// How putting a commit together goes on.
#[derive(Debug)]
pub(super) enum Flow {
    /// With the next wish.
    Next,
    /// Not at all: the commit must end first.
    Last,
    /// Not at all: this wish comes first in the next one.
    Wait(Wish),
}

impl Topic {
    /// Finds a wish its place in the commit that is being put together, or answers it.
    pub(super) fn take(&mut self, wish: Wish, gate: &mut dyn Gate) -> Flow {
        match wish {
            Wish::Publish(publish) => return self.take_publish(publish),
            Wish::RefusePublish { producer, sequence, count, refusal } => {
                self.refuse_publish(producer, sequence, count, refusal);
            }
            Wish::Open { producer, .. } if self.is_closing(producer) => return Flow::Wait(wish),
            Wish::Open { producer, name: None, .. } => self.take_open_unnamed(producer),
            Wish::Open { producer, name: Some(name), epoch, seat } => {
                return self.take_open_named(producer, name, epoch, seat);
            }
            Wish::Close { producer, forget } => self.close_producer(producer, forget),
            Wish::SessionEnded(session) => {
                for producer in self.producers.of(session) {
                    self.close_producer(producer, false);
                }
            }
            Wish::Subscribe { consumer, serial, channel, start, create } => {
                if self.commit.dropping.contains(&channel) {
                    return Flow::Wait(Wish::Subscribe {
                        consumer,
                        serial,
                        channel,
                        start,
                        create,
                    });
                }
                self.take_subscribe(consumer, serial, channel, create.then_some(start), gate);
            }
            Wish::Admin { request, action } => return self.take_admin(request, action),
        }
        Flow::Next
    }

    pub(super) fn wish_open(
        &mut self,
        producer: ProducerId,
        name: Option<ProducerName>,
        epoch: Option<u64>,
        seat: Option<Seat>,
    ) {
        match self.closed() {
            Some(refusal) => self.refuse_producer(producer, refusal),
            None => self.wishes.push_back(Wish::Open { producer, name, epoch, seat }),
        }
    }

    pub(super) fn refuse_producer(&mut self, producer: ProducerId, refusal: Refusal) {
        let handle = producer.handle;
        self.reply(producer.session, Reply::ProducerRefused { handle, refusal });
    }

    /// Whether this number still has outcomes to be told from before it was closed.
    fn is_closing(&self, id: ProducerId) -> bool {
        self.commit.closing.iter().any(|(closing, _)| *closing == id)
    }

    fn take_open_unnamed(&mut self, id: ProducerId) {
        if self.refuse_open(id) {
            return;
        }
        let entry = self.producers.add(&self.name, None);
        self.producers.attach(entry, id);
        if self.stage == Stage::New {
            self.will_open(id, entry, Opening::New);
        } else {
            self.tell_opened(id, entry, u64::MAX);
        }
    }

    fn take_open_named(
        &mut self,
        id: ProducerId,
        name: ProducerName,
        epoch: Option<u64>,
        seat: Option<Seat>,
    ) -> Flow {
        let known = self.producers.by_name(&name);
        let producer = known.and_then(|entry| Some((entry, self.producers.get(entry)?)));
        if producer.is_some_and(|(_, producer)| producer.next_epoch.is_some()) {
            // Another instance opens with this very commit.
            return Flow::Wait(Wish::Open { producer: id, name: Some(name), epoch, seat });
        }
        if let Some((_, producer)) = producer
            && producer.has_overtaken(seat)
        {
            let detail = format!("producer {name}: a later request of the same program came first");
            self.refuse_producer(id, Refusal::new(RefusalCode::Fenced, detail));
            return Flow::Next;
        }
        let known = producer.map(|(entry, producer)| Known {
            entry,
            epoch: producer.epoch,
            in_use: producer.session.is_some(),
            in_commit: self.commit.has(producer),
        });
        if self.refuse_open(id) {
            return Flow::Next;
        }
        match (epoch, known) {
            (None, Some(known)) => return self.take_new_instance(id, known, seat),
            (None, None) => self.take_new_name(id, name, seat),
            (Some(epoch), Some(known)) if epoch == known.epoch => {
                if known.in_commit && known.in_use {
                    let (name, epoch) = (Some(name), Some(epoch));
                    return Flow::Wait(Wish::Open { producer: id, name, epoch, seat });
                }
                self.producers.attach(known.entry, id);
                self.producers.take_seat(known.entry, seat);
                if known.in_commit {
                    self.will_open(id, known.entry, Opening::Resumed);
                } else {
                    self.tell_opened(id, known.entry, u64::MAX);
                }
            }
            (Some(epoch), Some(known)) if epoch < known.epoch => {
                self.refuse_producer(id, fenced(&name, known.epoch));
            }
            (Some(epoch), known) => {
                let topic = &self.name;
                let why = match known {
                    Some(known) => format!("the last one given out is {}", known.epoch),
                    None => format!("topic {topic} does not remember it: open it anew"),
                };
                let detail = format!("producer {name} comes back with epoch {epoch}, and {why}");
                self.refuse_producer(id, Refusal::new(RefusalCode::OutOfRange, detail));
            }
        }
        Flow::Next
    }

    /// A new instance of a name that is remembered.
    fn take_new_instance(&mut self, id: ProducerId, known: Known, seat: Option<Seat>) -> Flow {
        self.producers.take_seat(known.entry, seat);
        self.new_epoch(known.entry, known.epoch.saturating_add(1));
        if known.in_use {
            // The old instance keeps it until the new one's epoch is stored.
            self.will_open(id, known.entry, Opening::TakesOver);
            return Flow::Last;
        }
        self.producers.attach(known.entry, id);
        self.will_open(id, known.entry, Opening::Again);
        Flow::Next
    }

    /// The first instance of a name, as far as is remembered.
    fn take_new_name(&mut self, id: ProducerId, name: ProducerName, seat: Option<Seat>) {
        let limit = self.limits.producers_known_max;
        if self.producers.known_count() >= limit && !self.producers.forget_oldest() {
            let detail = format!(
                "producer {name}: topic {} remembers {limit} producers, the most it may, and all \
                 are open",
                self.name
            );
            return self.refuse_producer(id, Refusal::limit(Limit::ProducersKnown, detail));
        }
        let entry = self.producers.add(&self.name, Some(name));
        self.producers.take_seat(entry, seat);
        self.new_epoch(entry, self.first_epoch());
        self.producers.attach(entry, id);
        self.will_open(id, entry, Opening::New);
    }

    /// The first epoch of a name that is not remembered. It may have been: by a topic that was
    /// deleted since, or lost its memory, or had no room for it. An instance from then must not be
    /// taken for the new one, so that epochs go on with time.
    const fn first_epoch(&self) -> u64 {
        if self.now.wall.0 == 0 { 1 } else { self.now.wall.0 }
    }

    /// Refuses to open a producer for reasons that have nothing to do with its name.
    fn refuse_open(&mut self, id: ProducerId) -> bool {
        let refusal = match self.producers.handle(id) {
            Handle::Open(_) => {
                let detail = format!("producer {} is open already", id.handle);
                Some(Refusal::new(RefusalCode::HandleInUse, detail))
            }
            Handle::Fenced | Handle::Unknown => self.store_failed(),
        };
        refusal.is_some_and(|refusal| {
            self.refuse_producer(id, refusal);
            true
        })
    }

    /// The commit gives a producer a new epoch.
    fn new_epoch(&mut self, entry: Entry, epoch: u64) {
        if let Some(producer) = self.producers.get_mut(entry) {
            producer.next_epoch = Some(epoch);
            self.commit.puts.push(entry);
            self.commit.needs(self.settings.durability);
        }
    }

    fn will_open(&mut self, id: ProducerId, entry: Entry, how: Opening) {
        self.vanish_at = None;
        if let Some(producer) = self.producers.get_mut(entry) {
            self.commit.enlist(producer);
            self.commit.needs(self.settings.durability);
            let last = producer.accepted;
            self.commit.effects.push(Effect::Opened { id, entry, how, last });
        }
    }

    /// Tells a session that its producer is open behind what is stored, up to `last`: what it has
    /// published since is no news to it.
    pub(super) fn tell_opened(&mut self, id: ProducerId, entry: Entry, last: u64) {
        if matches!(self.producers.handle(id), Handle::Open(_)) {
            // It may have left again before its opening was stored.
            self.vanish_at = None;
        }
        let Some(producer) = self.producers.get(entry) else { return };
        let (epoch, last_sequence) = (producer.epoch, producer.committed.min(last));
        let durability = self.settings.durability.min(self.store.ceiling);
        let handle = id.handle;
        let opened = Reply::ProducerOpened { handle, epoch, last_sequence, durability };
        self.reply(id.session, opened);
    }

    fn close_producer(&mut self, id: ProducerId, forget: bool) {
        let Some(entry) = self.producers.detach(id, self.now.wall) else { return };
        if let Some(producer) = self.producers.get_mut(entry) {
            producer.forget = forget;
        }
        match self.producers.get(entry) {
            Some(producer) if self.commit.has(producer) => self.commit.closing.push((id, entry)),
            _ => self.producers.settle_down(entry),
        }
        self.vanish_if_unused();
    }

    fn take_subscribe(
        &mut self,
        consumer: ConsumerId,
        serial: u64,
        channel: ChannelName,
        create: Option<StartAt>,
        gate: &mut dyn Gate,
    ) {
        if !self.still_waits(consumer, serial) {
            return;
        }
        if let Some(index) = self.channels.find(&channel) {
            return self.join(index, consumer, serial);
        }
        let created = match create {
            _ if self.commit.creating.contains_key(&channel) => Ok(()),
            Some(start) => {
                self.create_channel(&channel, start, || gate.may_make(consumer, &channel))
            }
            None => {
                let detail = format!("topic {} has no channel {channel}", self.name);
                Err(Refusal::new(RefusalCode::NoSuchChannel, detail))
            }
        };
        match created {
            Ok(()) => self.commit.effects.push(Effect::Joined { consumer, serial, channel }),
            Err(refusal) => self.refuse_subscriber(consumer, serial, refusal),
        }
    }

    /// Makes a channel part of the commit.
    fn create_channel(
        &mut self,
        name: &ChannelName,
        start: StartAt,
        may_make: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let limit = self.limits.channels_max;
        if self.channels.len() + self.commit.creating.len() >= limit {
            let detail = format!(
                "channel {name}: topic {} has {limit} channels, the most it may",
                self.name
            );
            return Err(Refusal::limit(Limit::Channels, detail));
        }
        let durable = !name.is_ephemeral();
        if durable && let Some(refusal) = self.store_failed() {
            return Err(refusal);
        }
        may_make()?;
        let (first, end) = (self.first_kept(), self.end_ahead());
        let start = match start {
            StartAt::Earliest => first,
            StartAt::Latest => end,
            StartAt::Offset(offset) => offset.clamp(first, end),
            // It became an offset before it came here.
            StartAt::Time(_) => end,
        };
        if durable {
            self.put_new_channel(name, start);
        }
        self.commit.creating.insert(name.clone(), start);
        self.commit.effects.push(Effect::Created { channel: name.clone(), start });
        Ok(())
    }

    fn take_admin(&mut self, request: Option<RequestId>, action: TopicAction) -> Flow {
        use TopicAction::{CreateChannel, Delete, DeleteChannel, PauseChannel};
        let commit = &self.commit;
        let waits = match &action {
            Delete => !commit.is_blank() || commit.creates,
            CreateChannel(name, _) => commit.dropping.contains(name),
            DeleteChannel(name) | PauseChannel(name, _) => {
                commit.dropping.contains(name) || commit.creating.contains_key(name)
            }
            _ => false,
        };
        if waits {
            return Flow::Wait(Wish::Admin { request, action });
        }
        match self.include(request, action) {
            Ok(flow) => flow,
            Err(refusal) => {
                self.answer(request, Err(refusal));
                Flow::Next
            }
        }
    }

    /// Makes what an operator wants part of the commit.
    fn include(
        &mut self,
        request: Option<RequestId>,
        action: TopicAction,
    ) -> Result<Flow, Refusal> {
        let changes = match action {
            TopicAction::Ensure => self.stage == Stage::New,
            TopicAction::Show | TopicAction::CreateChannel(..) => false,
            _ => true,
        };
        if changes && let Some(refusal) = self.store_failed() {
            return Err(refusal);
        }
        self.commit.needs(Durability::Disk);
        let Some(request) = request else {
            self.delete_in_commit(None);
            return Ok(Flow::Last);
        };
        match action {
            TopicAction::Ensure => self.commit.effects.push(Effect::Done { request }),
            TopicAction::Show => {
                let stats = AdminResponse::Topic(Box::new(self.stats()));
                self.answer(Some(request), Ok(stats));
            }
            TopicAction::Delete => {
                self.delete_in_commit(Some(request));
                return Ok(Flow::Last);
            }
            TopicAction::Alter(change) => {
                self.alter(change, request);
                return Ok(Flow::Last);
            }
            TopicAction::Pause(paused) => {
                let before = std::mem::replace(&mut self.paused, paused);
                self.channels.touch_all();
                self.put_topic();
                self.commit.effects.push(Effect::TopicPaused { before, request });
            }
            TopicAction::CreateChannel(name, start) => {
                let is_there = self.channels.find(&name).is_some();
                if !is_there && !self.commit.creating.contains_key(&name) {
                    self.create_channel(&name, start, || Ok(()))?;
                }
                self.commit.effects.push(Effect::Done { request });
            }
            TopicAction::DeleteChannel(name) => {
                self.existing(&name)?;
                if !name.is_ephemeral() {
                    self.commit.batch.delete(keys::channel_key(&self.name, &name));
                }
                self.commit.dropping.push(name.clone());
                self.commit.effects.push(Effect::Dropped { channel: name, request });
            }
            TopicAction::PauseChannel(name, paused) => {
                let index = self.existing(&name)?;
                if let Some(channel) = self.channels.get_mut(index) {
                    let before = std::mem::replace(&mut channel.paused, paused);
                    self.channels.touch(index);
                    // Of an ephemeral one nothing is stored, and its changes wait for the commit
                    // that gives up what it has acked.
                    if !name.is_ephemeral() {
                        self.put_channel(index);
                        if self.states_failed() {
                            // States that ride along give up what they need no more, but these
                            // would not have.
                            self.list_truncation();
                        }
                    }
                    let effect = Effect::ChannelPaused { channel: index, before, request };
                    self.commit.effects.push(effect);
                }
            }
        }
        Ok(Flow::Next)
    }

    fn existing(&self, name: &ChannelName) -> Result<Index, Refusal> {
        self.channels.find(name).ok_or_else(|| {
            let detail = format!("topic {} has no channel {name}", self.name);
            Refusal::new(RefusalCode::NoSuchChannel, detail)
        })
    }

    /// Puts the topic's own value into the commit.
    pub(super) fn put_topic(&mut self) {
        let value = TopicState { settings: self.settings, paused: self.paused };
        self.commit.batch.put(keys::topic_key(&self.name), state::encode(&value));
    }

    fn delete_in_commit(&mut self, request: Option<RequestId>) {
        let topic = &self.name;
        let batch = &mut self.commit.batch;
        batch
            .delete_log(self.log.clone())
            .delete(keys::topic_key(topic))
            .delete(keys::marks_key(topic));
        for channel in self.channels.iter().filter(|channel| !channel.name.is_ephemeral()) {
            batch.delete(keys::channel_key(topic, &channel.name));
        }
        for producer in self.producers.known().chain(&self.producers.forgotten) {
            batch.delete(keys::producer_key(topic, producer));
        }
        self.commit.deletes = true;
        self.commit.effects.push(Effect::Deleted { request });
    }

    /// Answers an operator, if it was one who asked.
    pub(super) fn answer(
        &mut self,
        request: Option<RequestId>,
        result: Result<AdminResponse, Refusal>,
    ) {
        if let Some(RequestId { session, request }) = request {
            self.reply(session, Reply::Admin { request, result });
        }
    }
}

/// What counts of a remembered producer when its name is opened.
#[derive(Clone, Copy)]
struct Known {
    entry: Entry,
    epoch: u64,
    in_use: bool,
    in_commit: bool,
}

/// What an instance is told when a newer one has taken over.
pub(super) fn fenced(name: &ProducerName, epoch: u64) -> Refusal {
    let detail = format!("a newer instance of producer {name} has epoch {epoch}");
    Refusal::new(RefusalCode::Fenced, detail)
}
