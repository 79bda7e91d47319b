//! What a broker's tasks share: the store, the settings, and which topics there are.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    budget::{Budget, Partials},
    catalogue::{Catalogue, CatalogueWatch},
    door::{Door, DoorLimits},
    draining::Draining,
    entrance::Entrance,
    figures::{BrokerUse, Refusals},
    holds::{Hold, Holds},
    in_vain::Leavings,
    inbox::{Entry, Inbox},
    outbox::{Outbox, Outgoing},
    parting::Farewells,
    places::Places,
    settings::BrokerSettings,
    shares::Shares,
    surveys::Surveys,
    together::{Common, Together},
    topic_task,
};
use crate::{
    AdminRequest, Environment, Grant, Limit, Origin, Peer, Refusal, RefusalCode, Store, TopicName,
    TopicSettings,
    model::{Event, ModelSettings, SessionId, Topic},
    process::inherit,
    protocol::InstanceId,
};

pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) environment: Environment,
    pub(super) instance: InstanceId,
    pub(super) settings: BrokerSettings,
    /// One copy for all topics.
    pub(super) model: Arc<ModelSettings>,
    pub(super) published: Arc<Budget>,
    pub(super) delivered: Arc<Budget>,
    /// Answers that peers have not read.
    answers: Arc<Budget>,
    pub(super) partials: Partials,
    /// Subscriptions and producers of all connections.
    pub(super) handles: Arc<Places>,
    shares: Shares,
    /// What connections that are gone did in vain.
    pub(super) leavings: Leavings,
    topics: Mutex<BTreeMap<TopicName, Arc<Inbox>>>,
    sessions: AtomicU64,
    /// The sessions that want to hear when the node stops.
    open: Mutex<BTreeMap<SessionId, Arc<Outbox>>>,
    /// Turns at what all topics or channels say, for who administers and for metrics, and at listing
    /// topics, which whoever is let in may ask for: so that these do not hold up those.
    pub(super) surveys: Arc<Surveys>,
    lists: Arc<Surveys>,
    /// Topic tasks that run.
    tasks: watch::Sender<usize>,
    pub(super) entrance: Arc<Entrance>,
    pub(super) farewells: Farewells,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) counters: Counters,
    pub(super) refusals: Refusals,
    pub(super) holds: Arc<Holds>,
    pub(super) door: Door,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) draining: Draining,
}

/// How far a broker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Topics come to rest; nothing new is taken in.
    Stopping,
    /// Topics rest: sessions say goodbye.
    Closing,
}

/// Counts since the broker started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sessions_failed: AtomicU64,
    pub(super) sessions_flooding: AtomicU64,
    pub(super) sessions_revoked: AtomicU64,
    pub(super) hellos_denied: AtomicU64,
    pub(super) hellos_locked_out: AtomicU64,
    pub(super) requests_forbidden: AtomicU64,
    pub(super) topics_refused_by_address: AtomicU64,
    pub(super) connections_given_up: AtomicU64,
}

/// A new one.
fn instance(environment: &Environment) -> InstanceId {
    let [high, low] = [environment.random(), environment.random()];
    InstanceId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

impl Shared {
    pub(super) fn new(
        store: Arc<dyn Store>,
        environment: Environment,
        settings: BrokerSettings,
    ) -> Self {
        let (holds, door) = (Arc::<Holds>::default(), Door::new(DoorLimits::of(&settings)));
        let surveys = |most, hold| Surveys::new(most, hold, holds.clone());
        Self {
            published: Arc::new(Budget::new(settings.publish_bytes_total_max)),
            delivered: Arc::new(Budget::new(settings.delivery_bytes_total_max)),
            answers: Arc::new(Budget::new(settings.answer_bytes_total_max)),
            partials: Partials::new(settings.partial_bytes_total_max),
            handles: Arc::new(Places::new(settings.handles_total_max)),
            shares: Shares::new(&settings),
            leavings: Leavings::new(&settings),
            entrance: Arc::new(Entrance::of_broker(&settings)),
            farewells: Farewells::default(),
            store,
            instance: instance(&environment),
            environment,
            model: Arc::new(settings.model.clone()),
            topics: Mutex::default(),
            sessions: AtomicU64::new(0),
            open: Mutex::default(),
            surveys: surveys(settings.surveys_max, Hold::Surveys),
            lists: surveys(settings.topic_lists_max, Hold::TopicLists),
            settings,
            tasks: watch::channel(0).0,
            phase: watch::channel(Phase::Running).0,
            counters: Counters::default(),
            refusals: Refusals::default(),
            holds,
            door,
            catalogue: Arc::default(),
            draining: Draining::default(),
        }
    }

    pub(super) fn in_use(&self) -> BrokerUse {
        BrokerUse {
            streams: self.open.lock().len() as u64,
            greeting: self.entrance.greeting() as u64,
            publish_bytes: self.published.used() as u64,
            partial_bytes: self.partials.used() as u64,
            answer_bytes: self.answers.used() as u64,
            delivery_bytes: self.delivered.used() as u64,
            handles: self.handles.taken() as u64,
        }
    }

    /// What the streams of a new connection from there share.
    pub(super) fn together(&self, origin: Option<Origin>) -> Arc<Together> {
        let common = Common {
            delivered: self.delivered.clone(),
            answers: self.answers.clone(),
            holds: self.holds.clone(),
            handles: self.handles.clone(),
            origin,
            address: self.shares.of(origin),
        };
        Together::new(common, &self.settings)
    }

    /// A connection is over, or one of its streams for a flood: who comes from there next goes on
    /// where it was.
    pub(super) fn left(&self, together: &Together) {
        self.leavings.add(together.origin, together.in_vain.leave());
    }

    /// How many addresses were forgotten for want of room.
    pub(super) fn addresses_forgotten(&self) -> u64 {
        self.door.addresses_forgotten() + self.leavings.forgotten()
    }

    /// The way to somebody who is alone with it, of this program.
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(self.together(None))
    }

    pub(super) fn new_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Where a peer comes from, as far as limits by address count it.
    pub(super) fn origin(&self, peer: &Peer) -> Option<Origin> {
        self.settings.entrance.exempt_addresses.origin_of_peer(peer)
    }

    /// Lets a peer in, or not. `known` is what its connection was granted before.
    pub(super) fn admit(
        &self,
        peer: &Peer,
        token: Option<&str>,
        known: Option<&Grant>,
    ) -> Result<Grant, Refusal> {
        let origin = self.origin(peer);
        self.door.admit(&self.settings.access, &self.counters, (peer, origin), token, known)
    }

    /// Lets a session hear, by its outbox, when it is to say goodbye.
    pub(super) fn enter(&self, session: SessionId, outbox: &Arc<Outbox>) {
        self.open.lock().insert(session, outbox.clone());
        // Whoever comes too late for `close_sessions` comes after this was set.
        if *self.phase.borrow() == Phase::Closing {
            outbox.push(Outgoing::Closing);
        }
    }

    /// A session has ended.
    pub(super) fn leave(&self, session: SessionId) {
        self.open.lock().remove(&session);
    }

    /// Lets all sessions say goodbye.
    pub(super) fn close_sessions(&self) {
        self.phase.send_replace(Phase::Closing);
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        for outbox in open {
            outbox.push(Outgoing::Closing);
            outbox.wake();
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }

    /// Resolves when sessions are to say goodbye.
    pub(super) fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.phase.subscribe();
        async move {
            // An error means that the broker is gone, which is the end as well.
            let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
        }
    }

    /// The way to a topic. Makes it with `settings` where `create` allows it.
    pub(super) fn topic(
        self: &Arc<Self>,
        name: &TopicName,
        create: bool,
        settings: TopicSettings,
    ) -> Result<Arc<Inbox>, Refusal> {
        self.topic_if(name, create, settings, || Ok(()))
    }

    /// The way to a topic for somebody who uses it. Makes it where the settings allow it, and
    /// where not too many were made from the same address.
    pub(super) fn topic_by_use(
        self: &Arc<Self>,
        name: &TopicName,
        from: Option<Origin>,
    ) -> Result<Arc<Inbox>, Refusal> {
        let BrokerSettings { auto_create_topics, topic, topics_per_minute_max, .. } = self.settings;
        self.topic_if(name, auto_create_topics, topic, || {
            self.door.make_topic(&self.counters, from, name, topics_per_minute_max)
        })
    }

    fn topic_if(
        self: &Arc<Self>,
        name: &TopicName,
        create: bool,
        settings: TopicSettings,
        may_make: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Arc<Inbox>, Refusal> {
        let mut topics = self.topics.lock();
        if let Some(inbox) = topics.get(name) {
            return Ok(inbox.clone());
        }
        if self.is_stopping() {
            return Err(Refusal::new(RefusalCode::Stopping, "the node is stopping"));
        }
        if !create {
            let detail = format!("there is no topic {name}");
            return Err(Refusal::new(RefusalCode::NoSuchTopic, detail));
        }
        self.draining.check()?;
        if topics.len() >= self.settings.topics_max {
            let detail = format!(
                "topic {name} would be one more than the limit of {}",
                self.settings.topics_max
            );
            return Err(Refusal::limit(Limit::Topics, detail));
        }
        let most = self.store.durability_max();
        if settings.durability > most {
            let detail = format!(
                "topic {name} asks for durability {}, and the store reaches {most}",
                settings.durability
            );
            return Err(Refusal::new(RefusalCode::DurabilityUnavailable, detail));
        }
        may_make()?;
        let now = self.environment.now();
        let topic = Topic::create(name.clone(), settings, self.model.clone(), now);
        Ok(self.start(&mut topics, topic))
    }

    /// Starts a topic that was there when the broker opened its store.
    pub(super) fn restore(self: &Arc<Self>, topic: Topic) {
        let mut topics = self.topics.lock();
        self.start(&mut topics, topic);
    }

    fn start(
        self: &Arc<Self>,
        topics: &mut BTreeMap<TopicName, Arc<Inbox>>,
        topic: Topic,
    ) -> Arc<Inbox> {
        let max = self.settings.inbox_entries_max;
        let inbox = Inbox::new(topic.name().clone(), self.published.clone(), max);
        topics.insert(topic.name().clone(), inbox.clone());
        if self.catalogue.is_kept() {
            self.catalogue.put(topic.name(), topic.channel_names());
        }
        self.tasks.send_modify(|tasks| *tasks += 1);
        tokio::spawn(inherit(topic_task::run(self.clone(), inbox.clone(), topic)));
        inbox
    }

    /// A topic that was deleted: the next use of its name makes a new one.
    pub(super) fn forget(&self, inbox: &Arc<Inbox>) {
        let mut topics = self.topics.lock();
        if topics.get(inbox.topic()).is_some_and(|known| Arc::ptr_eq(known, inbox)) {
            topics.remove(inbox.topic());
            self.catalogue.remove(inbox.topic());
        }
    }

    /// A topic's task has ended.
    pub(super) fn ended(&self, inbox: &Arc<Inbox>) {
        self.forget(inbox);
        self.tasks.send_modify(|tasks| *tasks -= 1);
    }

    /// Where a request waits for its turn whose answer is as long as there are topics or channels.
    pub(super) const fn surveys_for(&self, request: &AdminRequest) -> Option<&Arc<Surveys>> {
        match request {
            AdminRequest::ListTopics => Some(&self.lists),
            AdminRequest::Stats | AdminRequest::ShowTopic { .. } => Some(&self.surveys),
            _ => None,
        }
    }

    /// All topics' names, in order.
    pub(super) fn topic_names(&self) -> Vec<TopicName> {
        let mut names: Vec<_> = self.topics.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The ways to all topics, in no order.
    pub(super) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.topics.lock().values().cloned().collect()
    }

    /// Watches which topics and channels there are.
    pub(super) fn watch_catalogue(&self) -> CatalogueWatch {
        let (watch, asked) = self.catalogue.watch(|| self.topic_names());
        for name in asked {
            let topics = self.topics.lock();
            let told = topics.get(&name).is_some_and(|inbox| inbox.push(Entry::Tell).is_ok());
            if !told {
                self.catalogue.remove(&name);
            }
        }
        watch
    }

    /// Lets all topics come to rest, and waits until they do.
    pub(super) async fn stop_topics(&self) {
        // A topic is made under the lock that `inboxes` takes, after a look at the phase.
        self.phase.send_modify(|phase| *phase = (*phase).max(Phase::Stopping));
        for inbox in self.inboxes() {
            // One that is closed already has come to rest by itself.
            let _ = inbox.push(Entry::Event(Event::Stop));
        }
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await;
    }
}

impl Shared {
    /// Resolves when there is no connection any more.
    pub(super) async fn all_gone(&self) {
        self.entrance.deserted().await;
    }

    /// The time to come to rest is over: what topics still wait for will not be known to them.
    pub(super) fn cut_topics(&self) {
        for inbox in self.inboxes() {
            let _ = inbox.push(Entry::Cut);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}
