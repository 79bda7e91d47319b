//! What a node tells registries of itself: what its broker says of topics and channels, and what it is doing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ltq_core::{
    Broker, CatalogueWatch, ChannelName, Store, TopicName, Transport, process::Process,
};
use ltq_discovery::{
    Announced, Announcement, Discovery as _, Load, NodeInfo, NodeState, registry::Registries,
};
use ltq_transport::Transports;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use crate::{
    chance::Seeded,
    history::{History, What},
};

/// What a node is doing, or `None` once it goes.
type State = Option<NodeState>;

/// To whom a node is announced, and by what.
pub(super) struct Registrars<'a> {
    pub(super) addresses: &'a [String],
    pub(super) token: Option<&'a str>,
    pub(super) transport: &'a Arc<dyn Transport>,
    /// Whose tasks tell them.
    pub(super) process: &'a Process,
}

/// A node that is announced, to each registry by itself: which of several tasks hears first of a
/// change that all wait for is chance that no seed gives.
pub(super) struct Announcing {
    states: Vec<watch::Sender<State>>,
    tasks: JoinSet<()>,
}

impl Announcing {
    /// Begins to announce a node to registries that are reached so. Does not wait for them.
    pub(super) fn start<S: Store>(
        broker: &Broker<S>,
        node: &NodeInfo,
        to: &Registrars<'_>,
        chance: &Seeded,
        history: &History,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let mut states = Vec::new();
        for address in to.addresses {
            let transports = Transports::new().with_arc(Arc::clone(to.transport));
            let mut registry = Registries::builder(transports)
                .registry(address.clone())
                .entropy(Arc::new(chance.fork()));
            if let Some(token) = to.token {
                registry = registry.token(token);
            }
            let Ok(registry) = registry.build() else { continue };
            let (state, doing) = watch::channel(Some(NodeState::Ready));
            states.push(state);
            let (node, catalogue) = (node.clone(), broker.catalogue());
            let one =
                One { node, topics: BTreeMap::new(), catalogue, broker: broker.clone(), doing };
            let history = history.clone();
            tasks.spawn(to.process.run(async move {
                let name = one.node.id().clone();
                if let Err(why) = one.run(&registry).await {
                    history.note(name.as_str(), format!("is not announced: {why}"));
                }
            }));
        }
        Self { states, tasks }
    }

    /// Tells registries what the node is doing, without waiting until they know it.
    pub(super) fn say(&self, state: NodeState) {
        for to in &self.states {
            to.send_replace(Some(state));
        }
    }

    /// Withdraws the node, and waits a second at most until that is known.
    pub(super) async fn withdraw(mut self, name: &str, history: &History) {
        for to in &self.states {
            to.send_replace(None);
        }
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        let is_known = timeout(Duration::from_secs(1), gone).await.is_ok();
        history.add(name, What::Noted(format!("is withdrawn; told everywhere: {is_known}")));
    }
}

/// What tells one registry.
struct One<S: Store> {
    /// Without its topics.
    node: NodeInfo,
    topics: BTreeMap<TopicName, BTreeSet<ChannelName>>,
    catalogue: CatalogueWatch,
    broker: Broker<S>,
    doing: watch::Receiver<State>,
}

impl<S: Store> One<S> {
    async fn run(mut self, registry: &Registries) -> Result<(), String> {
        self.catch_up().await;
        let mut announced: Box<dyn Announcement> = loop {
            match registry.announce(self.now()).await {
                Ok(Announced::Known(announced)) => break announced,
                Ok(Announced::NotTaken(why)) => return Err(why.to_owned()),
                Err(_) => sleep(REFUSED_PAUSE).await,
            }
            if self.doing.borrow().is_none() {
                return Ok(());
            }
        };
        let mut looks = interval(LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut not_before, mut is_new) = (Instant::now(), false);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(not_before), if is_new => {
                    is_new = false;
                    not_before = Instant::now() + UPDATE_PAUSE;
                    announced.update(self.now()).await.map_err(|error| error.to_string())?;
                }
                changed = self.doing.changed() => {
                    if changed.is_err() || self.doing.borrow_and_update().is_none() {
                        break;
                    }
                    is_new = true;
                }
                changes = self.catalogue.changed() => {
                    self.take(changes);
                    is_new = true;
                }
                // Its load goes with the next beat.
                _ = looks.tick() => {
                    announced.update(self.now()).await.map_err(|error| error.to_string())?;
                }
            }
        }
        announced.withdraw().await.map_err(|error| error.to_string())
    }

    async fn catch_up(&mut self) {
        let changes = self.catalogue.changed().await;
        self.take(changes);
    }

    fn take(&mut self, changes: ltq_core::CatalogueChanges) {
        for (topic, channels) in changes {
            match channels {
                Some(channels) => {
                    self.topics.insert(topic, Arc::unwrap_or_clone(channels));
                }
                None => drop(self.topics.remove(&topic)),
            }
        }
    }

    /// The node as it is.
    fn now(&self) -> NodeInfo {
        let state = self.doing.borrow().unwrap_or(NodeState::Draining);
        let waiting = self.broker.in_use().publish_bytes >> 10;
        let load = Load(u32::try_from(waiting).unwrap_or(u32::MAX));
        self.node.clone().with_state(state).with_load(load).with_topics(self.topics.clone().into())
    }
}

const LOOK_PAUSE: Duration = Duration::from_millis(500);
const UPDATE_PAUSE: Duration = Duration::from_millis(50);
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
