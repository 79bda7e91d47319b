//! What a broker's tasks share: the store, the settings, and which topics there are.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    inbox::{Entry, Inbox},
    settings::BrokerSettings,
    topic_task,
};
use crate::{
    Environment, Refusal, RefusalCode, Store, TopicName, TopicSettings,
    model::{Event, ModelSettings, SessionId, Topic},
};

pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) environment: Environment,
    pub(super) settings: BrokerSettings,
    /// One copy for all topics.
    pub(super) model: Arc<ModelSettings>,
    pub(super) published: Budget,
    pub(super) partial: Budget,
    topics: Mutex<HashMap<TopicName, Arc<Inbox>>>,
    sessions: AtomicU64,
    /// Topic tasks that run.
    tasks: watch::Sender<usize>,
    /// Connections that are open.
    pub(super) connections: watch::Sender<usize>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) counters: Counters,
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
    pub(super) connections_accepted: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) sessions_failed: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        store: Arc<dyn Store>,
        environment: Environment,
        settings: BrokerSettings,
    ) -> Self {
        Self {
            published: Budget::new(settings.publish_bytes_total_max),
            partial: Budget::new(settings.partial_bytes_total_max),
            store,
            environment,
            model: Arc::new(settings.model.clone()),
            settings,
            topics: Mutex::default(),
            sessions: AtomicU64::new(0),
            tasks: watch::channel(0).0,
            connections: watch::channel(0).0,
            phase: watch::channel(Phase::Running).0,
            counters: Counters::default(),
        }
    }

    pub(super) fn new_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
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
        if topics.len() >= self.settings.topics_max {
            let detail = format!(
                "topic {name} would be one more than the limit of {}",
                self.settings.topics_max
            );
            return Err(Refusal::new(RefusalCode::LimitReached, detail));
        }
        let most = self.store.durability_max();
        if settings.durability > most {
            let detail = format!(
                "topic {name} asks for durability {}, and the store reaches {most}",
                settings.durability
            );
            return Err(Refusal::new(RefusalCode::DurabilityUnavailable, detail));
        }
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
        topics: &mut HashMap<TopicName, Arc<Inbox>>,
        topic: Topic,
    ) -> Arc<Inbox> {
        let inbox = Inbox::new(topic.name().clone());
        topics.insert(topic.name().clone(), inbox.clone());
        self.tasks.send_modify(|tasks| *tasks += 1);
        tokio::spawn(topic_task::run(self.clone(), inbox.clone(), topic));
        inbox
    }

    /// A topic that was deleted: the next use of its name makes a new one.
    pub(super) fn forget(&self, inbox: &Arc<Inbox>) {
        let mut topics = self.topics.lock();
        if topics.get(inbox.topic()).is_some_and(|known| Arc::ptr_eq(known, inbox)) {
            topics.remove(inbox.topic());
        }
    }

    /// A topic's task has ended.
    pub(super) fn ended(&self, inbox: &Arc<Inbox>) {
        self.forget(inbox);
        self.tasks.send_modify(|tasks| *tasks -= 1);
    }

    /// All topics' names, in order.
    pub(super) fn topic_names(&self) -> Vec<TopicName> {
        let mut names: Vec<_> = self.topics.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Lets all topics come to rest, and waits until they do.
    pub(super) async fn stop_topics(&self) {
        self.phase.send_modify(|phase| *phase = (*phase).max(Phase::Stopping));
        let inboxes: Vec<_> = self.topics.lock().values().cloned().collect();
        for inbox in inboxes {
            // One that is closed already has come to rest by itself.
            let _ = inbox.push(Entry::Event(Event::Stop));
        }
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await;
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Bytes that all sessions together have taken in and not yet handed on. Sessions count what they
/// have read and read no more while it is too much, so that the limit is passed by at most one
/// read of each.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    state: Mutex<BudgetState>,
}

#[derive(Debug, Default)]
struct BudgetState {
    used: usize,
    waiting: Vec<Waker>,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    pub(super) fn take(&self, bytes: usize) {
        if bytes > 0 {
            self.state.lock().used += bytes;
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(bytes);
        if state.used <= self.limit && !state.waiting.is_empty() {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.used <= self.limit {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
