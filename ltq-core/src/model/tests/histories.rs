//! Long histories of everything that can happen, watched by the [`Oracle`].

use std::time::Duration;

use proptest::{prelude::*, test_runner::Config};

use super::oracle::{Oracle, Saved};
use crate::{
    Credit, Durability, Keep, Monotonic, ProducerName, Retention, Settlement, StartAt, Timestamp,
    TopicSettings, Verdict,
    model::{
        Command, ConsumerId, Event, ModelSettings, ProducerId, Reply, SessionId, TopicAction,
        keys::{self, Key},
        testing::{World, channel, credit, failed, full, records, tags},
    },
};

#[derive(Clone, Debug)]
enum Step {
    Open { producer: usize, resume: bool },
    Close { producer: usize, forget: bool },
    Publish { producer: usize, back: u64, count: u64, durability: Option<Durability> },
    Gap { producer: usize },
    Subscribe { consumer: usize, channel: usize, credit: u64, latest: bool },
    Unsubscribe { consumer: usize },
    SessionEnded { session: usize },
    Grant { consumer: usize, more: u64 },
    Hold { consumer: usize, held: bool },
    Settle { consumer: usize, first: u64, count: u64, verdict: Verdict },
    Advance { millis: u64 },
    HoldCommits(bool),
    Commit,
    Fail,
    Break,
    HoldLoads(bool),
    Load,
    Unreadable(bool),
    PauseTopic(bool),
    PauseChannel(usize, bool),
    DeleteChannel(usize),
    Alter(Retention),
    Restart(Restart),
}

#[derive(Clone, Copy, Debug)]
enum Restart {
    /// Stopped first.
    Clean,
    /// The process was killed, and the commit under way was lost.
    Kill,
    /// The process was killed, and the commit under way was not lost.
    KillAfter,
    /// The machine lost power.
    PowerLoss,
}

const CHANNELS: [&str; 3] = ["a", "b", "e#ephemeral"];
const PRODUCERS: usize = 3;
const CONSUMERS: usize = 4;

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        5 => Just(Verdict::Ack),
        2 => Just(Verdict::Requeue { delay_ms: 0 }),
        2 => (1u64..3_000).prop_map(|delay_ms| Verdict::Requeue { delay_ms }),
        1 => Just(Verdict::Requeue { delay_ms: u64::MAX }),
        2 => Just(Verdict::Touch),
    ]
}

fn durability() -> impl Strategy<Value = Option<Durability>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Durability::Disk)),
        1 => Just(Some(Durability::Os)),
        1 => Just(Some(Durability::Memory)),
    ]
}

/// Limits as small as the histories are.
fn retention() -> impl Strategy<Value = Retention> {
    let keep = prop_oneof![2 => Just(Keep::Unacked), 1 => Just(Keep::All)];
    let age = prop_oneof![3 => Just(None), 2 => (200u64..6_000).prop_map(Some)];
    let bytes = prop_oneof![3 => Just(None), 2 => (100u64..1_500).prop_map(Some)];
    (keep, age, bytes).prop_map(|(keep, age, bytes_max)| Retention {
        keep,
        age_max: age.map(Duration::from_millis),
        bytes_max,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let (p, c, ch) = (0..PRODUCERS, 0..CONSUMERS, 0..CHANNELS.len());
    let restart = prop_oneof![
        2 => Just(Restart::Clean),
        1 => Just(Restart::Kill),
        1 => Just(Restart::KillAfter),
        1 => Just(Restart::PowerLoss),
    ];
    let size = prop_oneof![8 => 0u64..5, 1 => Just(u64::MAX)];
    prop_oneof![
        3 => (p.clone(), any::<bool>()).prop_map(|(producer, resume)| Step::Open { producer, resume }),
        2 => (p.clone(), any::<bool>())
            .prop_map(|(producer, forget)| Step::Close { producer, forget }),
        14 => (p.clone(), prop_oneof![4 => Just(0u64), 1 => 1u64..6], 1u64..7, durability()).prop_map(
            |(producer, back, count, durability)| Step::Publish { producer, back, count, durability }
        ),
        1 => p.prop_map(|producer| Step::Gap { producer }),
        5 => (c.clone(), ch.clone(), 0u64..12, any::<bool>()).prop_map(
            |(consumer, channel, credit, latest)| Step::Subscribe { consumer, channel, credit, latest }
        ),
        2 => c.clone().prop_map(|consumer| Step::Unsubscribe { consumer }),
        1 => (0..CONSUMERS).prop_map(|session| Step::SessionEnded { session }),
        6 => (c.clone(), 1u64..12).prop_map(|(consumer, more)| Step::Grant { consumer, more }),
        2 => (c.clone(), any::<bool>()).prop_map(|(consumer, held)| Step::Hold { consumer, held }),
        14 => (c, 0u64..12, size, verdict()).prop_map(
            |(consumer, first, count, verdict)| Step::Settle { consumer, first, count, verdict }
        ),
        6 => prop_oneof![3 => 0u64..50, 2 => 0u64..2_000].prop_map(|millis| Step::Advance { millis }),
        2 => any::<bool>().prop_map(Step::HoldCommits),
        4 => Just(Step::Commit),
        2 => Just(Step::Fail),
        1 => Just(Step::Break),
        1 => any::<bool>().prop_map(Step::HoldLoads),
        3 => Just(Step::Load),
        1 => any::<bool>().prop_map(Step::Unreadable),
        1 => prop_oneof![1 => Just(true), 2 => Just(false)].prop_map(Step::PauseTopic),
        1 => (ch.clone(), prop_oneof![1 => Just(true), 2 => Just(false)])
            .prop_map(|(channel, paused)| Step::PauseChannel(channel, paused)),
        1 => ch.prop_map(Step::DeleteChannel),
        1 => retention().prop_map(Step::Alter),
        2 => restart.prop_map(Step::Restart),
    ]
}

/// Small enough that every limit is met.
fn limits() -> ModelSettings {
    ModelSettings {
        delivery_timeout: Duration::from_millis(1_000),
        delivery_timeout_max: Duration::from_millis(2_500),
        requeue_delay_max: Duration::from_millis(5_000),
        credit_max: Credit { messages: 20, bytes: 1 << 20 },
        run_messages_max: 4,
        run_bytes_max: 60,
        load_bytes: 256,
        window_bytes: 400,
        commit_publishes_max: 4,
        mark_bytes: 40,
        discard_bytes: 80,
        discard_interval: Duration::from_millis(30),
        ..ModelSettings::default()
    }
}

/// A producer as the history knows it.
#[derive(Clone, Debug, Default)]
struct Publisher {
    /// Whether it was told that it is open.
    open: bool,
    /// Whether it has asked to be.
    asked: bool,
    epoch: u64,
    next: u64,
    prefix: String,
    session: u64,
    /// How many of its names were given up.
    names: u64,
}

struct History {
    world: World,
    oracle: Oracle,
    publishers: Vec<Publisher>,
    lives: u64,
    heard: usize,
    /// Names that were to be forgotten, since the last restart.
    given_up: Vec<ProducerName>,
}

impl Publisher {
    fn name(&self, index: usize) -> ProducerName {
        ProducerName::new(&format!("n{index}.{}", self.names)).unwrap()
    }
}

fn producer(index: usize, session: u64) -> ProducerId {
    ProducerId { session: SessionId(1_000 + session), handle: index as u32 }
}

fn consumer(index: usize) -> ConsumerId {
    ConsumerId { session: SessionId(index as u64), handle: 7 }
}

impl History {
    fn new(settings: TopicSettings) -> Self {
        let mut world = World::with(settings, limits());
        world.trace = true;
        let mut publishers = vec![Publisher::default(); PRODUCERS];
        for publisher in &mut publishers {
            publisher.next = 1;
        }
        let mut oracle = Oracle::new(limits());
        oracle.retentions.push(settings.retention);
        Self { world, oracle, publishers, lives: 0, heard: 0, given_up: Vec::new() }
    }

    /// Carries out what is to be done and checks every word.
    fn run(&mut self) {
        self.world.run();
        self.listen();
    }

    fn listen(&mut self) {
        let now = self.world.now;
        for command in std::mem::take(&mut self.world.said) {
            self.heard += 1;
            self.oracle.hears(&command, &self.world.topic, now);
            match &command {
                Command::Commit { durability, .. } if !self.world.hold_commits => {
                    self.oracle.committed(*durability);
                }
                Command::Reply { session, reply } => self.hears(session.0, reply),
                Command::Deleted => panic!("the topic is gone"),
                _ => {}
            }
        }
    }

    fn hears(&mut self, session: u64, reply: &Reply) {
        match *reply {
            Reply::ProducerOpened { handle, epoch, last_sequence, .. } => {
                let publisher = &mut self.publishers[handle as usize];
                if publisher.session + 1_000 == session {
                    let last = self.oracle.last_sequence(&publisher.prefix);
                    assert_eq!(last_sequence, last, "of {publisher:?}");
                    (publisher.open, publisher.epoch) = (true, epoch);
                    publisher.next = last + 1;
                }
            }
            Reply::ProducerRefused { handle, .. } => {
                let publisher = &mut self.publishers[handle as usize];
                if publisher.session + 1_000 == session {
                    (publisher.open, publisher.asked) = (false, false);
                }
            }
            Reply::SubscribeRefused { handle, .. } | Reply::SubscriptionClosed { handle, .. } => {
                let id = ConsumerId { session: SessionId(session), handle };
                self.oracle.consumers.remove(&id);
            }
            _ => {}
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open { producer, resume } => self.open(producer, resume),
            Step::Close { producer: index, forget } => {
                let publisher = &mut self.publishers[index];
                if std::mem::take(&mut publisher.open) {
                    publisher.asked = false;
                    let producer = producer(index, publisher.session);
                    if forget && index + 1 < PRODUCERS {
                        self.given_up.push(publisher.name(index));
                        (publisher.names, publisher.epoch) = (publisher.names + 1, 0);
                    }
                    self.tell(Event::CloseProducer { producer, forget });
                }
            }
            Step::Publish { producer, back, count, durability } => {
                let sequence = self.publishers[producer].next.saturating_sub(back).max(1);
                self.publish(producer, sequence, count, durability);
            }
            Step::Gap { producer } => {
                let sequence = self.publishers[producer].next + 3;
                let next = self.publishers[producer].next;
                self.publish(producer, sequence, 2, None);
                self.publishers[producer].next = next;
            }
            Step::Subscribe { consumer: index, channel: name, credit: messages, latest } => {
                let consumer = consumer(index);
                if !self.oracle.consumers.contains_key(&consumer) {
                    self.oracle.subscribed(consumer, CHANNELS[name], messages);
                    self.tell(Event::Subscribe {
                        consumer,
                        channel: channel(CHANNELS[name]),
                        start: if latest { StartAt::Latest } else { StartAt::Earliest },
                        create: true,
                        timeout: None,
                        credit: credit(messages),
                    });
                }
            }
            Step::Unsubscribe { consumer: index } => {
                let consumer = consumer(index);
                self.oracle.leave(consumer);
                self.tell(Event::Unsubscribe { consumer });
            }
            Step::SessionEnded { session } => {
                self.oracle.leave(consumer(session));
                self.tell(Event::SessionEnded { session: SessionId(session as u64) });
            }
            Step::Grant { consumer: index, more } => {
                let consumer = consumer(index);
                if let Some(known) = self.oracle.consumers.get(&consumer) {
                    let total = known.granted + more;
                    self.oracle.grant(consumer, total);
                    self.tell(Event::Credit { consumer, total: credit(total) });
                }
            }
            Step::Hold { consumer: index, held } => {
                let consumer = consumer(index);
                if let Some(known) = self.oracle.consumers.get_mut(&consumer) {
                    known.held = held;
                    self.tell(Event::Hold { consumer, held });
                }
            }
            Step::Settle { consumer, first, count, verdict } => {
                self.settle(consumer, first, count, verdict);
            }
            Step::Advance { millis } => self.advance(Duration::from_millis(millis)),
            Step::HoldCommits(hold) => {
                if !hold {
                    self.commit_all();
                }
                self.world.hold_commits = hold;
            }
            Step::Commit => self.commit(),
            Step::Fail => {
                // A topic that cannot be made is gone, and an empty batch finds room anywhere.
                let commit = self.world.commit.as_ref().filter(|(batch, _)| !batch.is_empty());
                if commit.is_some() && self.world.stored.log.is_some() {
                    self.oracle.not_committed();
                    self.world.fail(full());
                    for publisher in &mut self.publishers {
                        publisher.next = self.oracle.last_sequence(&publisher.prefix) + 1;
                    }
                    self.listen();
                }
            }
            Step::Break => {
                if self.world.commit.is_some() && self.world.stored.log.is_some() {
                    self.oracle.not_committed();
                    self.world.fail(failed());
                    self.listen();
                }
            }
            Step::Unreadable(unreadable) => self.world.unreadable = unreadable,
            Step::HoldLoads(hold) => {
                self.world.hold_loads = hold;
                self.load_all();
            }
            Step::Load => {
                if !self.world.loads.is_empty() {
                    self.world.load();
                    self.listen();
                }
            }
            Step::PauseTopic(paused) => self.admin(TopicAction::Pause(paused)),
            Step::PauseChannel(name, paused) => {
                self.admin(TopicAction::PauseChannel(channel(CHANNELS[name]), paused));
            }
            Step::DeleteChannel(name) => {
                // An ephemeral one goes without a commit that would tell.
                if !self.world.hold_commits && !CHANNELS[name].ends_with("#ephemeral") {
                    self.admin(TopicAction::DeleteChannel(channel(CHANNELS[name])));
                }
            }
            Step::Alter(retention) => {
                self.oracle.retentions.push(retention);
                self.admin(TopicAction::Alter(retention.into()));
            }
            Step::Restart(how) => self.restart(how),
        }
        self.check();
    }

    fn check(&mut self) {
        self.oracle.adopt(&self.world.topic);
        self.oracle.check(&self.world.topic);
        self.check_names();
        if self.world.loads.is_empty() && !self.world.topic.window.waits_to_retry() {
            self.oracle.check_nobody_waits(&self.world.topic);
        }
        assert!(self.world.topic.window.bytes() <= limits().window_bytes, "promise 9");
        let (due, wakes) = (self.oracle.next_deadline(), self.world.topic.poll_timeout());
        if let Some(due) = due {
            assert!(wakes.is_some_and(|wakes| wakes <= due), "{due:?} {wakes:?}");
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
        if self.world.commit.is_none() && topic.wishes.is_empty() {
            for name in &self.given_up {
                assert!(!known.contains(&name), "promise 9: {name} was to be forgotten");
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.world.tell(event);
        self.run();
    }

    fn admin(&mut self, action: TopicAction) {
        self.world.admin(1, action);
        self.listen();
    }

    fn open(&mut self, index: usize, resume: bool) {
        self.lives += 1;
        let publisher = &mut self.publishers[index];
        // The last one has no name, and is another one each time.
        let name = match index + 1 < PRODUCERS {
            true => Some(publisher.name(index)),
            false if publisher.asked => return,
            false => None,
        };
        publisher.prefix = match &name {
            Some(name) => format!("{name}-"),
            None => format!("life{}-", self.lives),
        };
        let epoch = (resume && name.is_some() && publisher.epoch > 0).then_some(publisher.epoch);
        publisher.session = self.lives;
        (publisher.open, publisher.asked, publisher.next) = (false, true, 1);
        let producer = producer(index, self.lives);
        self.tell(Event::OpenProducer { producer, name, epoch });
    }

    fn publish(&mut self, index: usize, sequence: u64, count: u64, durability: Option<Durability>) {
        let publisher = &mut self.publishers[index];
        if !publisher.open {
            return;
        }
        publisher.next = publisher.next.max(sequence + count);
        let producer = producer(index, publisher.session);
        let prefix = publisher.prefix.clone();
        self.oracle.published(producer, &prefix, sequence, count);
        let records = records(&prefix, sequence, count);
        self.tell(Event::Publish { producer, sequence, durability, records });
        if !self.world.hold_commits {
            let last = self.oracle.last_sequence(&prefix);
            self.publishers[index].next = last + 1;
        }
    }

    fn settle(&mut self, index: usize, back: u64, count: u64, verdict: Verdict) {
        let id = consumer(index);
        let last_tag = self.oracle.consumers.get(&id).map_or(3, |known| known.last_tag);
        let first = last_tag.saturating_sub(back);
        let range = tags(first, first.saturating_add(count));
        let stale = self.oracle.settle(id, range, verdict, self.world.now.monotonic);
        let settlements = vec![Settlement { tags: range, verdict }];
        self.world.tell(Event::Settle { consumer: id, request: 5, settlements });
        self.world.run();
        let told = self.world.said.iter().find_map(|command| match command {
            Command::Reply { reply: Reply::Settled { stale, .. }, .. } => Some(stale.clone()),
            _ => None,
        });
        assert_eq!(told.expect("an answer"), stale, "promise 3: {range:?}");
        self.listen();
    }

    fn advance(&mut self, duration: Duration) {
        let until = self.world.now.monotonic.plus(duration);
        let wall = self.world.now.wall.plus(duration);
        for wakes in 0.. {
            let Some(at) = self.world.topic.poll_timeout().filter(|&at| at <= until) else { break };
            let now = self.world.now.monotonic.max(at);
            self.world.now.monotonic = now;
            self.world.now.wall = Timestamp(wall.0 - until.since(now).as_millis() as u64);
            self.oracle.expire(now);
            self.world.topic.handle_timeout(self.world.now);
            self.run();
            assert!(wakes < 2_000, "woken again and again");
        }
        assert!(self.oracle.next_deadline().is_none_or(|due| due > until), "promise 16");
        (self.world.now.monotonic, self.world.now.wall) = (until, wall);
    }

    fn commit(&mut self) {
        if let Some((_, asked)) = self.world.commit {
            self.oracle.committed(asked);
            self.world.commit();
            self.listen();
        }
    }

    fn commit_all(&mut self) {
        while self.world.commit.is_some() {
            self.commit();
        }
    }

    fn load_all(&mut self) {
        while !self.world.hold_loads && !self.world.loads.is_empty() {
            self.world.load();
            self.listen();
        }
    }

    fn restart(&mut self, how: Restart) {
        if self.world.stored.log.is_none() {
            return;
        }
        match how {
            Restart::Clean => {
                for id in self.oracle.consumers.keys().copied().collect::<Vec<_>>() {
                    self.oracle.leave(id);
                }
                self.world.topic.handle(Event::Stop, self.world.now);
                self.run();
                self.commit_all();
                assert!(self.oracle.all_answered(), "promise 11: everyone is answered");
                let before = self.oracle.channels.clone();
                let stored = self.world.topic.store.failed.is_none();
                for name in self.given_up.iter().filter(|_| stored) {
                    let key = keys::producer_key(&self.world.topic.name, name);
                    assert!(!self.world.stored.values.contains_key(&key), "{name} is still stored");
                }
                self.revive(self.oracle.now_saved.clone());
                for (name, before) in before.iter().filter(|_| stored) {
                    let after = self.oracle.channels.get(name).expect("the channel");
                    assert!(after.is_as_kept(before), "promise 12: {before:?} {after:?}");
                }
                return;
            }
            Restart::Kill => {}
            Restart::KillAfter => {
                if let Some((_, asked)) = self.world.commit {
                    self.oracle.committed(asked);
                    let (batch, _) = self.world.commit.take().expect("a commit");
                    self.world.stored.apply(&batch);
                }
            }
            Restart::PowerLoss => {
                let durable = self.oracle.durable.clone();
                return self.revive(durable);
            }
        }
        self.revive(self.oracle.now_saved.clone());
    }

    fn revive(&mut self, saved: Saved) {
        self.world.stored = saved.contents.clone();
        if self.world.stored.log.is_none() {
            // It was never made durable.
            let settings = self.world.topic.settings();
            *self = Self { lives: self.lives, ..Self::new(settings) };
            return;
        }
        self.world.restart();
        self.given_up.clear();
        self.oracle.restarted(saved, &self.world.topic, self.world.now);
        for publisher in &mut self.publishers {
            (publisher.open, publisher.asked) = (false, false);
        }
        self.listen();
        assert_eq!(self.world.now.monotonic, Monotonic(7));
    }

    /// When the faults stop, everything is delivered and done.
    fn drain(&mut self) {
        (self.world.hold_commits, self.world.hold_loads) = (false, false);
        self.world.unreadable = false;
        if self.world.topic.store.failed.is_some() {
            self.restart(Restart::Clean);
        }
        self.commit_held();
        self.load_all();
        if self.world.stored.log.is_none() {
            return;
        }
        self.oracle.adopt(&self.world.topic);
        self.admin(TopicAction::Pause(false));
        for name in self.oracle.channels.keys().cloned().collect::<Vec<_>>() {
            self.admin(TopicAction::PauseChannel(channel(&name), false));
        }
        for index in 0..CONSUMERS {
            self.step(&Step::Hold { consumer: index, held: false });
        }
        for (index, name) in (10..).zip(["a", "b"]) {
            if self.oracle.channels.contains_key(name) {
                self.oracle.subscribed(consumer(index), name, 20);
                self.tell(Event::Subscribe {
                    consumer: consumer(index),
                    channel: channel(name),
                    start: StartAt::Earliest,
                    create: false,
                    timeout: None,
                    credit: credit(20),
                });
            }
        }
        for _ in 0..60 {
            for id in self.oracle.consumers.keys().copied().collect::<Vec<_>>() {
                let total = self.oracle.consumers.get(&id).map_or(0, |c| c.granted + 20);
                self.oracle.grant(id, total);
                self.tell(Event::Credit { consumer: id, total: credit(total) });
                let range = tags(0, u64::MAX);
                self.oracle.settle(id, range, Verdict::Ack, self.world.now.monotonic);
                let settlements = vec![Settlement { tags: range, verdict: Verdict::Ack }];
                self.tell(Event::Settle { consumer: id, request: 0, settlements });
            }
            self.advance(Duration::from_millis(100));
            self.check();
        }
        for stats in self.world.topic.stats().channels {
            if stats.consumers > 0 {
                let left = stats.waiting + stats.delayed + stats.in_flight;
                assert_eq!(left, 0, "promise 16: {stats:?}");
            }
        }
        assert!(self.oracle.all_answered(), "promise 15: every publish is answered");
    }

    fn commit_held(&mut self) {
        if let Some((_, asked)) = self.world.commit {
            self.oracle.committed(asked);
            self.world.commit();
            self.listen();
        }
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 1_500,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn promises_1_2_3_4_6_7_9_12_13_14_16_hold_through_any_history(
        durability in prop_oneof![3 => Just(Durability::Disk), 1 => Just(Durability::Os)],
        retention in prop_oneof![2 => Just(Retention::default()), 3 => retention()],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut history = History::new(TopicSettings { durability, retention });
        for step in &steps {
            history.step(step);
        }
        history.drain();
    }
}
