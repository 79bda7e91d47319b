//! Plays a scenario: the topic, its clients, its store and its clocks.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    channel::union,
    limits,
    oracle::Oracle,
    real::RealStore,
    scenario::{CHANNELS, PRODUCERS, Restart, Scenario, Step},
    words::{self, Words},
};
use crate::{
    AdminResponse, Durability, Monotonic, Now, ProducerName, RecordBatch, RefusalCode, StoreError,
    TagRange, Timestamp, TopicSettings,
    model::{
        Command, ConsumerId, Event, LoadTicket, ProducerId, Reply, SessionId, TopicAction,
        keys::{self, Key},
        testing::{START, World, channel, run},
        topic::{Stage, Topic},
    },
};

/// A producer as the history knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Publisher {
    /// Whether it was told that it is open.
    pub(super) open: bool,
    /// Whether it has asked to be.
    pub(super) asked: bool,
    pub(super) epoch: u64,
    pub(super) next: u64,
    pub(super) prefix: String,
    pub(super) session: u64,
    /// How many of its names were given up.
    pub(super) names: u64,
    /// Under which it is open.
    pub(super) used: Option<ProducerName>,
}

pub(super) struct History {
    pub(super) world: World,
    pub(super) oracle: Oracle,
    pub(super) publishers: Vec<Publisher>,
    /// Of topics that are made.
    pub(super) settings: TopicSettings,
    pub(super) lives: u64,
    pub(super) requests: u32,
    /// Names that were to be forgotten, since the last restart.
    pub(super) given_up: Vec<ProducerName>,
    /// Names that a producer was to open under, since the topic was made.
    pub(super) names: BTreeSet<ProducerName>,
    /// What the topic takes for the time: it may not have been told of any for a while.
    pub(super) told: Now,
    /// Whether names may be forgotten since what was stored under them is lost.
    pub(super) may_forget: bool,
    /// A producer was told that it is open, since the topic was made.
    pub(super) opened: bool,
    /// So many more events are told before the topic is asked what to do.
    pub(super) gathering: usize,
    /// Times to be looked up.
    pub(super) locates: VecDeque<(LoadTicket, Timestamp)>,
    /// What is to be answered to settlements.
    pub(super) settled: VecDeque<Vec<TagRange>>,
    pub(super) stopping: bool,
    pub(super) stopped: bool,
    /// A commit failed while it stopped.
    pub(super) unsaved: bool,
    /// The topic said that it is gone.
    pub(super) gone: bool,
    /// The store that is compared with the one that is played.
    pub(super) store: Option<Box<dyn RealStore>>,
    /// Its power is gone, and the node with it, though nobody has noticed yet.
    pub(super) dark: bool,
    words: Option<Words>,
}

impl Publisher {
    /// Its name was forgotten: what it published under it is nothing to it any more, and it takes
    /// another one the next time.
    fn begin_anew(&mut self, index: usize) {
        self.prefix = format!("{}.again-", self.name(index));
        self.names += 1;
    }

    pub(super) fn name(&self, index: usize) -> ProducerName {
        ProducerName::new(&format!("n{index}.{}", self.names)).unwrap()
    }

    pub(super) fn session(&self) -> SessionId {
        SessionId(1_000 + self.session)
    }

    pub(super) fn id(&self, index: usize) -> ProducerId {
        ProducerId { session: self.session(), handle: index as u32 }
    }
}

pub(super) fn consumer(index: usize) -> ConsumerId {
    ConsumerId { session: SessionId(index as u64), handle: index as u32 }
}

impl History {
    pub(super) fn new(
        scenario: &Scenario,
        words: Option<Words>,
        store: Option<Box<dyn RealStore>>,
    ) -> Self {
        let limits = Arc::new(limits(scenario.narrow));
        let topic = Topic::create(scenario.topic(), scenario.settings, limits.clone(), START);
        let mut world = World::of(topic);
        if store.is_none() {
            world.reach = scenario.reach;
        }
        let mut oracle = Oracle::new((*limits).clone());
        oracle.retentions.push(scenario.settings.retention);
        Self {
            world,
            oracle,
            publishers: vec![Publisher { next: 1, ..Publisher::default() }; PRODUCERS],
            settings: scenario.settings,
            lives: 0,
            requests: 0,
            given_up: Vec::new(),
            names: BTreeSet::new(),
            told: START,
            may_forget: false,
            opened: false,
            gathering: 0,
            locates: VecDeque::new(),
            settled: VecDeque::new(),
            stopping: false,
            stopped: false,
            unsaved: false,
            gone: false,
            store,
            dark: false,
            words,
        }
    }

    pub(super) fn note(&self, who: &str, what: impl FnOnce() -> String) {
        if let Some(words) = &self.words {
            words.add(self.world.now, who, &what());
        }
    }

    /// Tells the topic something, and carries out what it says unless more is to be told first.
    pub(super) fn tell(&mut self, event: Event) {
        self.tell_first(event);
        match self.gathering {
            0 | 1 => self.flush(),
            _ => self.gathering -= 1,
        }
    }

    /// Tells the topic something, and hears what it says to that at once.
    pub(super) fn tell_first(&mut self, event: Event) {
        self.inform(event);
        while !self.dark
            && let Some(command) = self.world.topic.out.pop_front()
        {
            self.carry_out(command);
        }
    }

    pub(super) fn inform(&mut self, event: Event) {
        if self.dark {
            return;
        }
        self.note("", || words::event(&event));
        self.passes_to(self.world.now);
        self.world.topic.handle(event, self.world.now);
    }

    /// Nothing more is told first.
    pub(super) fn flush(&mut self) {
        self.gathering = 0;
        self.run();
    }

    /// Carries out what is to be done and checks every word.
    pub(super) fn run(&mut self) {
        let mut commands = 0;
        while !self.dark {
            // What was said with a commit is said before that is done.
            if self.world.topic.out.is_empty()
                && !self.world.hold_commits
                && self.world.commit.is_some()
            {
                self.commit_one();
            }
            let held = |id| self.oracle.consumers.get(&id).is_some_and(|known| known.held);
            let command = self.world.topic.poll_command(&mut |id, _| !held(id));
            let Some(command) = command else { break };
            commands += 1;
            assert!(commands < 100_000, "there is no end to {command:?}");
            self.carry_out(command);
        }
        if self.gone && !self.dark {
            self.make_anew();
        }
    }

    fn carry_out(&mut self, command: Command) {
        self.note("topic:", || words::command(&command));
        self.oracle.hears(&command, &self.world.topic, self.told);
        match command {
            Command::Commit { batch, durability } => self.begin_commit(batch, durability),
            Command::Load { .. } => {
                self.world.loads.push(command);
                if !self.world.hold_loads {
                    self.load_one();
                }
            }
            Command::Locate { ticket, time } => {
                self.locates.push_back((ticket, time));
                if !self.world.hold_loads {
                    self.locate_one();
                }
            }
            Command::Reply { session, reply } => self.hears(session, &reply),
            Command::Deleted => {
                self.gone = true;
                self.check_end();
            }
            Command::Stopped => {
                assert!(self.stopping && !self.stopped, "promise 11: it stops once");
                self.stopped = true;
            }
            Command::Deliver { .. } | Command::Removed(_) => {}
        }
    }

    fn hears(&mut self, session: SessionId, reply: &Reply) {
        match reply {
            &Reply::ProducerOpened { handle, epoch, last_sequence, .. } => {
                let most = self.oracle.limits.producers_known_max;
                let may_forget = self.may_forget || self.names.len() > most;
                let publisher = &mut self.publishers[handle as usize];
                // Another instance may have been told of it first, or one of which nobody heard.
                let last = self.oracle.last_sequence(&publisher.prefix);
                if last_sequence == 0 && last > 0 && may_forget {
                    publisher.begin_anew(handle as usize);
                }
                if publisher.session() == session && publisher.asked {
                    let last = self.oracle.last_sequence(&publisher.prefix);
                    assert_eq!(last_sequence, last, "promise 6: of {publisher:?}");
                    (publisher.open, publisher.epoch) = (true, epoch);
                    self.opened = true;
                    publisher.next = last + 1;
                }
            }
            Reply::ProducerRefused { handle, refusal } => {
                if refusal.code == RefusalCode::LimitReached {
                    let known = self.world.topic.producers.known_count();
                    let most = self.oracle.limits.producers_known_max;
                    // Some may have been forgotten since, before this was heard; while the node stops
                    // nobody keeps count of them.
                    let forgotten = if self.stopping { PRODUCERS } else { self.given_up.len() };
                    let then = known..=known + forgotten;
                    assert!(then.contains(&most), "promise 15: refused as one too many");
                }
                let handle = *handle;
                let publisher = &mut self.publishers[handle as usize];
                if publisher.session() == session {
                    (publisher.open, publisher.asked) = (false, false);
                }
            }
            Reply::Settled { stale, .. } => {
                let foretold = self.settled.pop_front().expect("nothing was to be answered");
                assert_eq!(union(stale), union(&foretold), "promise 3");
            }
            Reply::Admin { result: Ok(AdminResponse::Topic(stats)), .. } => {
                assert_eq!(**stats, self.world.topic.stats(), "promise 13");
            }
            _ => {}
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Open { producer, resume } => self.open(producer, resume),
            Step::Close { producer, forget } => self.close(producer, forget),
            Step::ProducerGone { producer } => self.producer_gone(producer),
            Step::Publish { producer, back, count, durability } => {
                let sequence = self.publishers[producer].next.saturating_sub(back).max(1);
                self.publish(producer, sequence, count, durability);
            }
            Step::Gap { producer } => {
                let next = self.publishers[producer].next;
                self.publish(producer, next + 3, 2, None);
                self.publishers[producer].next = next;
            }
            Step::RefusePublish { producer } => self.refuse_publish(producer),
            Step::Subscribe { consumer, channel, start, create, terms } => {
                self.subscribe(consumer, CHANNELS[channel], start, create, terms);
            }
            Step::Unsubscribe { consumer: index } => self.unsubscribe(consumer(index)),
            Step::SessionEnded { session } => {
                self.oracle.leave(consumer(session));
                let session = SessionId(session as u64);
                self.oracle.answers.gone(session);
                self.oracle.answers.back(session);
                self.tell(Event::SessionEnded { session });
            }
            Step::Grant { consumer: index, messages, bytes } => {
                self.grant(consumer(index), messages, bytes);
            }
            Step::TakeBack { consumer: index, messages, bytes } => {
                self.take_back(consumer(index), messages, bytes);
            }
            Step::Hold { consumer: index, held } => {
                let consumer = consumer(index);
                if let Some(known) = self.oracle.consumers.get_mut(&consumer) {
                    known.held = held;
                    if held {
                        self.note("", || {
                            format!("there is no room for {}", words::consumer(consumer))
                        });
                    } else {
                        self.tell(Event::Release { consumer });
                    }
                }
            }
            Step::Settle { consumer: index, answer, ref parts } => {
                self.settle_parts(consumer(index), answer, parts);
            }
            Step::Gather { events } => self.gathering = self.gathering.max(events),
            Step::Damage { back, count } => self.damage(back, count),
            Step::Unreadable(unreadable) => self.world.unreadable = unreadable,
            Step::Ensure => self.admin(TopicAction::Ensure),
            Step::Show => self.admin(TopicAction::Show),
            Step::PauseTopic(paused) => self.admin(TopicAction::Pause(paused)),
            Step::PauseChannel(name, paused) => {
                self.admin(TopicAction::PauseChannel(channel(CHANNELS[name]), paused));
            }
            Step::CreateChannel(name, start) => self.create_channel(CHANNELS[name], start),
            Step::DeleteChannel(name) => {
                self.admin(TopicAction::DeleteChannel(channel(CHANNELS[name])));
            }
            Step::Alter(retention) => {
                self.oracle.retentions.push(retention);
                self.admin(TopicAction::Alter(retention.into()));
            }
            Step::DeleteTopic => self.admin(TopicAction::Delete),
            ref other => {
                self.flush();
                self.step_apart(other);
            }
        }
        if let Some(store) = &mut self.store {
            store.work();
            self.dark |= store.has_lost_power();
        }
        // It may go again while the topic starts, and nothing more is told to one without power.
        while self.dark {
            self.restart(Restart::PowerLoss, 0, 0);
        }
        self.check();
    }

    /// What never comes between events that are told together.
    fn step_apart(&mut self, step: &Step) {
        match *step {
            Step::Advance { millis } => self.advance(Duration::from_millis(millis)),
            Step::Oversleep { millis } => {
                let (now, passed) = (&mut self.world.now, Duration::from_millis(millis));
                (now.monotonic, now.wall) = (now.monotonic.plus(passed), now.wall.plus(passed));
            }
            Step::Nudge { back_ms } => {
                let mut now = self.world.now;
                now.monotonic = Monotonic(now.monotonic.0.saturating_sub(back_ms * 1_000));
                self.wake(now);
            }
            Step::SetWall { by_ms } => self.set_wall(by_ms),
            Step::HoldCommits(hold) => {
                self.world.hold_commits = hold;
                if !hold {
                    self.commit_all();
                }
            }
            Step::Commit => self.commit(),
            Step::Fail(failure) => self.fail(failure),
            Step::HoldReads(hold) => {
                self.world.hold_loads = hold;
                if !hold {
                    self.read_all();
                }
            }
            Step::Read => self.read(),
            Step::Stop => self.stop(),
            Step::Restart { how, keeps, away_ms } => self.restart(how, keeps, away_ms),
            _ => {}
        }
    }

    pub(super) fn set_wall(&mut self, by_ms: i64) {
        let wall = &mut self.world.now.wall;
        wall.0 = wall.0.saturating_add_signed(by_ms);
        self.note("", || format!("the wall clock is set by {by_ms} ms"));
    }

    pub(super) fn check(&mut self) {
        let topic = &self.world.topic;
        topic.check();
        let stats = topic.stats();
        self.oracle.adopt_all(&stats);
        self.oracle.check(&stats);
        assert!(self.settled.is_empty(), "promise 15: settlements are answered at once");
        let limits = &self.oracle.limits;
        assert!(topic.window.bytes() <= limits.window_bytes, "promise 9");
        assert!(stats.channels.len() <= limits.channels_max, "promise 9: {stats:?}");
        let known = stats.producers_known as usize;
        assert!(known <= limits.producers_known_max, "promise 9: {stats:?}");
        if self.gathering > 0 {
            return;
        }
        self.check_names();
        if self.world.commit.is_none() && topic.wishes.is_empty() && topic.locating.is_empty() {
            assert_eq!(topic.unanswered_bytes(), 0, "promise 9: nobody waits for these");
        }
        let reads = !self.world.loads.is_empty() || topic.window.waits_to_retry();
        if !reads && !self.stopping {
            self.oracle.check_nobody_waits(&stats);
        }
        if topic.limits_work() {
            self.oracle.check_size(topic);
        }
        let (due, wakes) = (self.oracle.next_deadline(), topic.poll_timeout());
        if let Some(due) = due.filter(|_| topic.stage != Stage::Over) {
            assert!(wakes.is_some_and(|wakes| wakes <= due), "promise 16: {due:?} {wakes:?}");
        }
    }

    /// What the store has of producers is known or about to be deleted, and a name that was given
    /// up is known no longer than until it is answered.
    fn check_names(&self) {
        let topic = &self.world.topic;
        let known: Vec<_> = topic.producers.known().collect();
        for key in self.world.stored.values.keys() {
            if let Some(Key::Producer(_, name)) = keys::parse(key) {
                let known = known.contains(&&name) || topic.producers.forgotten.contains(&name);
                assert!(known, "promise 9: nothing will ever delete what is stored of {name}");
            }
        }
        let over = topic.stage == Stage::Over;
        if self.world.commit.is_none() && topic.wishes.is_empty() && !over {
            for name in &self.given_up {
                assert!(!known.contains(&name), "promise 9: {name} was to be forgotten");
            }
        }
    }

    /// What of so many messages is in the store cannot be read any more.
    fn damage(&mut self, back: u64, count: u64) {
        if self.store.is_some() || self.settings.durability == Durability::Memory {
            // What a real one does with damage is looked into elsewhere.
            return;
        }
        let first = self.oracle.end().saturating_sub(back);
        for offset in (first..self.oracle.end()).take(count as usize) {
            let covers = |b: &RecordBatch| b.first.0 <= offset && offset < b.end().0;
            if self.world.stored.batches.iter().any(covers) {
                self.note("", || format!("{offset} cannot be read any more"));
                self.world.damaged.insert(run(offset, offset + 1));
                self.oracle.damaged.insert(offset);
            }
        }
    }

    /// The topic is told of a time: to it none passes backwards but on the wall.
    fn passes_to(&mut self, now: Now) {
        self.told = Now { monotonic: self.told.monotonic.max(now.monotonic), ..now };
    }

    /// Tells of time.
    fn wake(&mut self, now: Now) {
        if self.dark {
            return;
        }
        self.passes_to(now);
        self.world.topic.handle_timeout(now);
        if self.world.topic.stage != Stage::Over {
            self.oracle.expire(self.told.monotonic);
        }
        self.run();
    }

    pub(super) fn advance(&mut self, duration: Duration) {
        let until = self.world.now.monotonic.plus(duration);
        let wall = self.world.now.wall.plus(duration);
        for wakes in 0.. {
            let Some(at) = self.world.topic.poll_timeout().filter(|&at| at <= until) else { break };
            let now = self.world.now.monotonic.max(at);
            self.world.now.monotonic = now;
            self.world.now.wall = Timestamp(wall.0 - until.since(now).as_millis() as u64);
            self.note("", || "it is time".to_owned());
            self.wake(self.world.now);
            if self.dark {
                break;
            }
            assert!(wakes < 2_000, "woken again and again");
        }
        let over = self.stopped || self.dark;
        let late = self.oracle.next_deadline().is_some_and(|due| due <= until);
        assert!(!late || over, "promise 16");
        (self.world.now.monotonic, self.world.now.wall) = (until, wall);
    }
}

pub(super) fn unreadable() -> StoreError {
    StoreError::Io { doing: "testing".to_owned(), cause: "a test said so".to_owned() }
}
