//! Drives a topic in tests: plays the store and the clock, and writes down what is said.

#![cfg_attr(not(test), allow(dead_code, reason = "histories need only a part of it"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what is wrong with a test is to be seen at once"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Command, ConsumerId, Event, ModelSettings, ProducerId, Reply, RequestId, SessionId, Topic,
    TopicAction,
    run_set::{Run, RunSet},
};
use crate::{
    Bounds, ChannelName, Committed, Credit, Durability, LogOptions, Message, Monotonic, Now,
    Offset, ProducerName, ReadLimits, RecordBatch, Records, Settlement, StartAt, StoreError, Tag,
    TagRange, Timestamp, TopicName, TopicSettings, Verdict, WriteBatch, WriteOp,
};

/// What a store holds of one topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) log: Option<(LogOptions, Bounds)>,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) values: BTreeMap<Bytes, Bytes>,
}

impl Contents {
    pub(super) fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.ops().iter().cloned() {
            match op {
                WriteOp::CreateLog { options, first, .. } => {
                    assert!(self.log.is_none(), "the log exists already");
                    self.log = Some((options, Bounds { first, end: first }));
                }
                WriteOp::DeleteLog { .. } => {
                    self.log.take().expect("there is no log");
                    self.batches.clear();
                }
                WriteOp::Append { at, time, records, .. } => {
                    let (_, bounds) = self.log.as_mut().expect("there is no log");
                    assert_eq!(bounds.end, at, "the log ends elsewhere");
                    assert!(!records.is_empty());
                    bounds.end = at.plus(records.count() as u64);
                    self.batches.push(RecordBatch { first: at, time, records });
                }
                WriteOp::Truncate { before, .. } => {
                    let (_, bounds) = self.log.as_mut().expect("there is no log");
                    assert!(before <= bounds.end, "truncated beyond the end");
                    bounds.first = bounds.first.max(before);
                    let first = bounds.first;
                    self.batches.retain(|batch| batch.end() > first);
                }
                WriteOp::Discard { from, until, .. } => {
                    let (_, bounds) = self.log.as_ref().expect("there is no log");
                    assert!(from < until && until <= bounds.end, "discarded beyond the end");
                    let kept = |batch: RecordBatch| {
                        let before = batch.slice(batch.first, from.max(batch.first));
                        let behind = batch.slice(until.max(batch.first), batch.end());
                        [before, behind].into_iter().filter(|part| !part.records.is_empty())
                    };
                    self.batches = self.batches.drain(..).flat_map(kept).collect();
                }
                WriteOp::Put { key, value } => {
                    self.values.insert(key, value);
                }
                WriteOp::Delete { key } => {
                    self.values.remove(&key);
                }
            }
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.log.map(|(_, bounds)| bounds).unwrap_or_default()
    }

    /// Loses the records from this offset on, as a log that need not last does.
    pub(super) fn cut(&mut self, end: Offset) {
        let (_, bounds) = self.log.as_mut().expect("there is no log");
        bounds.end = end;
        self.batches.retain(|batch| batch.first < end);
        self.batches
            .iter_mut()
            .for_each(|batch| *batch = batch.slice(batch.first, end.min(batch.end())));
    }

    /// The bodies in the log, from its first record on.
    pub(super) fn bodies(&self) -> Vec<(u64, String)> {
        let first = self.bounds().first;
        let kept = self.batches.iter().map(|batch| batch.slice(first, batch.end()));
        kept.flat_map(|batch| bodies(&batch)).collect()
    }
}

/// The offsets and bodies in a batch.
pub(super) fn bodies(batch: &RecordBatch) -> Vec<(u64, String)> {
    batch.records.verify().expect("good checksums");
    let bodies = batch.records.messages().map(|message| message.expect("a message").body);
    let bodies = bodies.map(|body| String::from_utf8_lossy(&body).into_owned());
    (batch.first.0..).zip(bodies).collect()
}

/// A topic, its store and the time.
pub(super) struct World {
    pub(super) topic: Topic,
    pub(super) now: Now,
    pub(super) stored: Contents,
    /// The most durability that the store reaches.
    pub(super) reach: Durability,
    /// Commits wait until [`commit`](Self::commit) or [`fail`](Self::fail).
    pub(super) hold_commits: bool,
    /// Loads wait until [`load`](Self::load).
    pub(super) hold_loads: bool,
    pub(super) damaged: RunSet,
    /// Consumers that the gate has no room for.
    pub(super) full: BTreeSet<ConsumerId>,
    /// Loads fail.
    pub(super) unreadable: bool,
    pub(super) commit: Option<(WriteBatch, Durability)>,
    pub(super) loads: Vec<Command>,
    /// Every commit so far: how durable it was to be, and its changes.
    pub(super) commits: Vec<(Durability, WriteBatch)>,
    pub(super) load_count: usize,
    /// What was said since the last look.
    pub(super) said: Vec<Command>,
    /// Commits are written down with what is said.
    pub(super) trace: bool,
}

pub(super) fn topic_name() -> TopicName {
    TopicName::new("t").unwrap()
}

pub(super) fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

pub(super) fn producer(handle: u32) -> ProducerId {
    ProducerId { session: SessionId(1), handle }
}

pub(super) fn consumer(handle: u32) -> ConsumerId {
    ConsumerId { session: SessionId(1), handle }
}

pub(super) fn credit(messages: u64) -> Credit {
    Credit { messages, bytes: 1 << 20 }
}

pub(super) fn tags(first: u64, last: u64) -> TagRange {
    TagRange { first: Tag(first), last: Tag(last) }
}

/// Messages whose bodies are `prefix` and their sequence.
pub(super) fn records(prefix: &str, sequence: u64, count: u64) -> Records {
    let messages: Vec<_> = (sequence..sequence.saturating_add(count))
        .map(|sequence| Message::new(format!("{prefix}{sequence}")))
        .collect();
    Records::encode(&messages)
}

pub(super) fn full() -> StoreError {
    StoreError::Full { what: "tests".to_owned(), limit: 1, used: 1, wanted: 1 }
}

pub(super) fn failed() -> StoreError {
    StoreError::Failed("a test said so".to_owned())
}

pub(super) const START: Now =
    Now { monotonic: Monotonic(1_000_000), wall: Timestamp(1_000_000_000) };

impl World {
    pub(super) fn new() -> Self {
        Self::with(TopicSettings::default(), ModelSettings::default())
    }

    pub(super) fn with(settings: TopicSettings, model: ModelSettings) -> Self {
        Self::of(Topic::create(topic_name(), settings, Arc::new(model), START))
    }

    pub(super) fn of(topic: Topic) -> Self {
        Self {
            topic,
            now: START,
            stored: Contents::default(),
            reach: Durability::Disk,
            hold_commits: false,
            hold_loads: false,
            damaged: RunSet::default(),
            full: BTreeSet::new(),
            unreadable: false,
            commit: None,
            loads: Vec::new(),
            commits: Vec::new(),
            load_count: 0,
            said: Vec::new(),
            trace: false,
        }
    }

    /// Tells an event without carrying anything out.
    pub(super) fn tell(&mut self, event: Event) {
        self.topic.handle(event, self.now);
    }

    /// Carries out whatever is to be done.
    pub(super) fn run(&mut self) {
        let mut commands = 0;
        while let Some(command) =
            self.topic.poll_command(&mut |consumer, _| !self.full.contains(&consumer))
        {
            commands += 1;
            assert!(commands < 100_000, "there is no end to {command:?}");
            match command {
                Command::Commit { batch, durability } => {
                    assert!(self.commit.is_none(), "one commit at a time");
                    if self.trace {
                        self.said.push(Command::Commit { batch: batch.clone(), durability });
                    } else {
                        self.commits.push((durability, batch.clone()));
                    }
                    self.commit = Some((batch, durability));
                    if !self.hold_commits {
                        self.commit_silently();
                    }
                }
                Command::Load { .. } => {
                    self.load_count += 1;
                    self.loads.push(command);
                    if !self.hold_loads {
                        self.load_silently();
                    }
                }
                Command::Locate { ticket, time } => {
                    let after = |batch: &&RecordBatch| batch.time >= time;
                    let found = self.stored.batches.iter().find(after).map(|batch| batch.first);
                    let offset = found.unwrap_or_else(|| self.stored.bounds().end);
                    self.tell(Event::Located { ticket, result: Ok(offset) });
                }
                said => self.said.push(said),
            }
        }
        self.topic.check();
    }

    pub(super) fn event(&mut self, event: Event) {
        self.tell(event);
        self.run();
    }

    fn commit_silently(&mut self) {
        let (batch, asked) = self.commit.take().expect("a commit");
        self.stored.apply(&batch);
        let durable = self.stored.log.is_none_or(|(options, _)| options.durable);
        let reach = if durable { self.reach } else { Durability::Memory };
        let durability = asked.min(reach);
        self.tell(Event::Committed { result: Ok(Committed { durability }) });
    }

    /// Lets the held commit succeed.
    pub(super) fn commit(&mut self) {
        self.commit_silently();
        self.run();
    }

    /// Lets the held commit fail.
    pub(super) fn fail(&mut self, error: StoreError) {
        self.commit.take().expect("a commit");
        self.tell(Event::Committed { result: Err(error) });
        self.run();
    }

    fn load_silently(&mut self) {
        let Command::Load { ticket, from, limits } = self.loads.remove(0) else { unreachable!() };
        let result = self.read(from, limits);
        self.tell(Event::Loaded { ticket, result });
    }

    /// Answers the first held load.
    pub(super) fn load(&mut self) {
        self.load_silently();
        self.run();
    }

    pub(super) fn read(
        &self,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let bounds = self.stored.bounds();
        if self.unreadable {
            let (doing, cause) = ("reading".to_owned(), "a test said so".to_owned());
            return Err(StoreError::Io { doing, cause });
        }
        if from < bounds.first || from > bounds.end {
            let log = self.topic.log_name().clone();
            return Err(StoreError::OutOfRange { log, bounds, from });
        }
        let covering = |at: Offset| {
            self.stored.batches.iter().find(|batch| batch.first <= at && at < batch.end())
        };
        let Some(batch) = covering(from) else {
            if from == bounds.end {
                return Ok(Vec::new());
            }
            let log = self.topic.log_name().clone();
            let kept = self.stored.batches.iter().map(|batch| batch.first);
            let until = kept.filter(|&first| first > from).min().unwrap_or(bounds.end);
            return Err(StoreError::Discarded { log, from, until });
        };
        if let Some(run) = self.damaged.covering(from) {
            // What was discarded cannot be damaged.
            let mut until = batch.end();
            while until < run.end
                && let Some(next) = covering(until)
            {
                until = next.end();
            }
            return Err(StoreError::Damaged {
                log: self.topic.log_name().clone(),
                from,
                until: until.min(run.end),
                file: "f".to_owned(),
                position: 0,
                what: "a test said so".to_owned(),
            });
        }
        let behind = self.damaged.iter().find(|run| run.first > from).map(|run| run.first);
        let end = behind.unwrap_or(bounds.end);
        let mut found = Vec::new();
        let (mut left, mut bytes) = (limits.records, limits.bytes);
        let mut at = from;
        for batch in &self.stored.batches {
            let batch = batch.slice(from.max(batch.first), end.min(batch.end()));
            if batch.records.is_empty() || left == 0 {
                continue;
            }
            if batch.first != at {
                break;
            }
            at = batch.end();
            let count = batch.records.fitting(0, left, bytes);
            if !found.is_empty()
                && batch.slice(batch.first, batch.first.plus(count as u64)).records.byte_len()
                    > bytes
            {
                break;
            }
            let all = count == batch.records.count();
            let batch = batch.slice(batch.first, batch.first.plus(count as u64));
            left -= count;
            bytes = bytes.saturating_sub(batch.records.byte_len());
            found.push(batch);
            if !all || bytes == 0 {
                break;
            }
        }
        Ok(found)
    }

    /// Lets time pass, waking the topic exactly when it wants to be woken.
    pub(super) fn advance(&mut self, duration: Duration) {
        let until = self.now.monotonic.plus(duration);
        let wall = self.now.wall.0 * 1_000 + duration.as_micros() as u64;
        let mut wakes = 0;
        while let Some(at) = self.topic.poll_timeout().filter(|&at| at <= until) {
            self.now.monotonic = self.now.monotonic.max(at);
            self.now.wall =
                Timestamp((wall - until.since(self.now.monotonic).as_micros() as u64) / 1_000);
            self.topic.handle_timeout(self.now);
            self.run();
            wakes += 1;
            assert!(wakes < 10_000, "woken again and again: {:?}", self.topic.poll_timeout());
        }
        self.now = Now { monotonic: until, wall: Timestamp(wall / 1_000) };
    }

    pub(super) fn advance_ms(&mut self, millis: u64) {
        self.advance(Duration::from_millis(millis));
    }

    /// Starts anew from what is stored.
    pub(super) fn restart(&mut self) {
        self.restore();
        self.run();
    }

    /// The same, carrying nothing out yet.
    pub(super) fn restore(&mut self) {
        let values = self.stored.values.clone().into_iter().collect();
        let (name, limits) = (self.topic.name.clone(), self.topic.limits.clone());
        let bounds = self.stored.bounds();
        // Monotonic time means nothing across processes.
        self.now.monotonic = Monotonic(7);
        self.topic = Topic::restore(name, limits, bounds, values, self.now).expect("restored");
        (self.commit, self.loads) = (None, Vec::new());
    }

    pub(super) fn open(&mut self, handle: u32) {
        let producer = producer(handle);
        self.event(Event::OpenProducer { producer, name: None, epoch: None, seat: None });
    }

    pub(super) fn open_named(&mut self, id: ProducerId, name: &str, epoch: Option<u64>) {
        let epoch = epoch.map(|epoch| EPOCHS + epoch);
        let name = Some(ProducerName::new(name).unwrap());
        self.event(Event::OpenProducer { producer: id, name, epoch, seat: None });
    }

    pub(super) fn tell_publish(&mut self, handle: u32, sequence: u64, count: u64) {
        let records = records(&format!("p{handle}-"), sequence, count);
        self.tell(Event::Publish {
            producer: producer(handle),
            sequence,
            durability: None,
            records,
        });
    }

    pub(super) fn publish(&mut self, handle: u32, sequence: u64, count: u64) {
        self.tell_publish(handle, sequence, count);
        self.run();
    }

    pub(super) fn publish_at(&mut self, sequence: u64, count: u64, durability: Durability) {
        let records = records("p1-", sequence, count);
        let durability = Some(durability);
        self.event(Event::Publish { producer: producer(1), sequence, durability, records });
    }

    pub(super) fn subscribe(&mut self, handle: u32, to: &str, messages: u64) {
        self.subscribe_at(handle, to, messages, StartAt::Earliest);
    }

    pub(super) fn subscribe_at(&mut self, handle: u32, to: &str, messages: u64, start: StartAt) {
        self.event(Event::Subscribe {
            consumer: consumer(handle),
            channel: channel(to),
            start,
            create: true,
            timeout: None,
            credit: credit(messages),
            claim: None,
        });
    }

    pub(super) fn grant(&mut self, handle: u32, messages: u64) {
        self.event(Event::Credit { consumer: consumer(handle), total: credit(messages) });
    }

    pub(super) fn settle(
        &mut self,
        handle: u32,
        request: u32,
        first: u64,
        last: u64,
        verdict: Verdict,
    ) {
        let settlements = vec![Settlement { tags: tags(first, last), verdict }];
        self.event(Event::Settle { consumer: consumer(handle), request, settlements });
    }

    pub(super) fn ack(&mut self, handle: u32, first: u64, last: u64) {
        self.settle(handle, 0, first, last, Verdict::Ack);
    }

    pub(super) fn requeue(&mut self, handle: u32, first: u64, last: u64, delay_ms: u64) {
        self.settle(handle, 0, first, last, Verdict::Requeue { delay_ms });
    }

    pub(super) fn admin(&mut self, request: u32, action: TopicAction) {
        let request = RequestId { session: SessionId(1), request };
        self.event(Event::Admin { request, action });
    }

    /// A topic with an open producer and nothing said so far.
    pub(super) fn ready() -> Self {
        let mut world = Self::new();
        world.open(1);
        world.said.clear();
        world
    }

    /// What was said since the last time, in short.
    pub(super) fn said(&mut self) -> Vec<String> {
        self.said.drain(..).map(|command| short(&command)).collect()
    }

    /// Checks what was said since the last time.
    #[track_caller]
    pub(super) fn expect(&mut self, said: &[&str]) {
        assert_eq!(self.said(), said);
    }

    pub(super) fn stats(&self, of: &str) -> crate::ChannelStats {
        let stats = self.topic.stats().channels.into_iter();
        stats.into_iter().find(|stats| stats.channel.as_str() == of).expect("the channel")
    }
}

/// Epochs of names count from here: the first one, at [`START`], is 1.
const EPOCHS: u64 = START.wall.0 - 1;

/// A command in a few words: `p` is a producer, `c` a consumer, `a` an operator.
pub(super) fn short(command: &Command) -> String {
    let (session, reply) = match command {
        Command::Deliver { consumer, delivery } => {
            let (first, last) = (delivery.batch.first.0, delivery.batch.end().0 - 1);
            let (tag, attempt) = (delivery.first_tag.0, delivery.attempt);
            return format!("c{} got {first}-{last} tag {tag} try {attempt}", consumer.handle);
        }
        Command::Deleted => return "deleted".to_owned(),
        Command::Stopped => return "stopped".to_owned(),
        Command::Reply { session, reply } => (session.0, reply),
        other => return format!("{other:?}"),
    };
    let said = match reply {
        Reply::ProducerOpened { handle, epoch, last_sequence, durability } => {
            let epoch = epoch.saturating_sub(EPOCHS);
            format!("p{handle} open epoch {epoch} last {last_sequence} {durability}")
        }
        Reply::ProducerRefused { handle, refusal } => {
            format!("p{handle} not open: {}", refusal.code)
        }
        Reply::Confirmed { handle, ranges, durability } => {
            let mut said = format!("p{handle} confirmed");
            for range in ranges {
                let offset =
                    range.offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
                write!(said, " {}+{}@{offset}", range.sequence, range.count).unwrap();
            }
            format!("{said} {durability}")
        }
        Reply::PublishRefused { handle, sequence, count, refusal } => {
            format!("p{handle} refused {sequence}+{count}: {}", refusal.code)
        }
        Reply::Subscribed { handle, .. } => format!("c{handle} subscribed"),
        Reply::SubscribeRefused { handle, refusal } => {
            format!("c{handle} not subscribed: {}", refusal.code)
        }
        Reply::Settled { handle, request, stale } => {
            let stale: Vec<_> =
                stale.iter().map(|tags| format!("{}-{}", tags.first.0, tags.last.0)).collect();
            format!("c{handle} settled {request} stale [{}]", stale.join(" "))
        }
        Reply::Credited { handle, total: Credit { messages, bytes } } => {
            format!("c{handle} credited {messages}, {bytes} bytes")
        }
        Reply::SubscriptionClosed { handle, refusal: None } => format!("c{handle} closed"),
        Reply::SubscriptionClosed { handle, refusal: Some(refusal) } => {
            format!("c{handle} closed: {}", refusal.code)
        }
        Reply::Admin { request, result: Ok(_) } => format!("a{request} done"),
        Reply::Admin { request, result: Err(refusal) } => {
            format!("a{request} refused: {}", refusal.code)
        }
    };
    if session == 1 { said } else { format!("s{session} {said}") }
}

/// A stretch of offsets.
pub(super) fn run(first: u64, end: u64) -> Run {
    Run::new(Offset(first), Offset(end))
}
