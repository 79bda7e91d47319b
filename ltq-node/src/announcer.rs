//! A node that announces itself to registries, or an etcd: what it is, which topics and channels it has, and how busy it
//! is.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    Address, CatalogueChanges, CatalogueWatch, Entropy as _, SystemClock, SystemEntropy,
    WallClock as _,
};
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Epoch, Load, NodeId, NodeInfo,
    NodeInfoError, NodeState, Topics,
    registry::{Registries, RegistriesError},
};
use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use crate::{
    NodeBroker,
    config::Config,
    lookup::{Lookup, Place, PlaceError},
    peers::{PeersError, Proof, Ways},
};

/// Why a node cannot be announced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnnouncerError {
    /// The registries are none.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// The node cannot be described.
    #[error(transparent)]
    Node(#[from] NodeInfoError),
    /// Its name is no id.
    #[error("the node cannot be announced by the name {0:?}; name it with --node")]
    Id(String),
    /// They name neither registries nor an etcd.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The etcd is none.
    #[cfg(feature = "etcd")]
    #[error(transparent)]
    Etcd(#[from] ltq_discovery::etcd::EtcdError),
    /// They cannot be reached as is set.
    #[error(transparent)]
    Peers(#[from] PeersError),
}

/// Announces a node for as long as it is there.
#[derive(Debug)]
pub(crate) struct Announcer {
    lookup: Lookup,
    ways: Ways,
    state: State,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Begins to announce the node that listens there, where the configuration names registries. Does not
    /// wait for them: a node may start before its registries.
    pub(crate) fn start(
        config: &Config,
        broker: &NodeBroker,
        listening: &[Address],
    ) -> Result<Option<Self>, AnnouncerError> {
        if config.registry.is_empty() {
            return Ok(None);
        }
        let (lookup, ways) = lookup(config)?;
        let advertised = config.advertised(listening);
        let id: NodeId =
            config.node_id(&advertised).ok_or_else(|| AnnouncerError::Id(config.node.clone()))?;
        let epoch = Epoch { started: SystemClock.now().0, instance: SystemEntropy.next() };
        let node = NodeInfo::new(id, advertised)?
            .with_epoch(epoch)
            .with_version(env!("CARGO_PKG_VERSION"))?;
        info!(node = %node.id(), %epoch, registries = config.registry.join(", "), "announcing");
        let (stop, stopped) = oneshot::channel();
        let (wanted, to_be) = watch::channel(NodeState::Ready);
        let announcing = Announcing {
            discovery: lookup.discovery(),
            node,
            topics: Topics::new(),
            catalogue: broker.catalogue(),
            broker: broker.clone(),
            load: Smoothed::default(),
            to_be,
        };
        let state = State(Arc::new(wanted));
        let task = tokio::spawn(announcing.run(stopped));
        Ok(Some(Self { lookup, ways, state, stop: Some(stop), task }))
    }

    /// Where it is announced.
    pub(crate) const fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// By which they are told what the node is doing.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// Withdraws the node, and waits until registries know it, for a second at most. Says in the log which of
    /// them do not.
    pub(crate) async fn withdraw(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ended = stop.send(());
        }
        // Longer than a withdrawal takes, which says itself what came of it.
        if timeout(WITHDRAW_MAX * 2, &mut self.task).await.is_err() {
            warn!("registries may not know that the node is gone; it is forgotten later");
            self.task.abort();
        }
        // Those who miss it learn that the connection is gone by its idle timeout.
        let _late = timeout(SETTLE_MAX, self.ways.settled()).await;
    }
}

/// What the configuration names.
fn lookup(config: &Config) -> Result<(Lookup, Ways), AnnouncerError> {
    let of = &config.discovery;
    let place = Place::of(&config.registry)?;
    let proof = Proof {
        tls_ca: of.tls_ca.as_deref(),
        tls_fingerprint: of.tls_fingerprint.as_deref(),
        certificate: of.tls_certificate.as_deref().zip(of.tls_key.as_deref()),
        is_foreign: place != Place::Registries,
    };
    let ways = proof.ways()?;
    let transports = ways.transports.clone();
    let lookup = match place {
        Place::Registries => {
            let mut registries = Registries::builder(transports);
            for address in &config.registry {
                registries = registries.registry(address);
            }
            if let Some(token) = config.registry_token() {
                registries = registries.token(&*token.0);
            }
            Lookup::Registries(registries.withdraw_timeout(WITHDRAW_MAX).build()?)
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(place) => {
            let etcd = crate::lookup::etcd_at(&place, transports, config.etcd_user()).build()?;
            Lookup::Etcd { etcd, place }
        }
        Place::Names(_) => {
            return Err(PlaceError::NotAnnounced(config.registry.join(", ")).into());
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(place) => return Err(PlaceError::NotBuilt(place.to_string()).into()),
    };
    Ok((lookup, ways))
}

/// What registries are told that the node is doing.
#[derive(Clone, Debug)]
pub(crate) struct State(Arc<watch::Sender<NodeState>>);

impl State {
    /// Tells it, without waiting until they know it.
    pub(crate) fn say(&self, state: NodeState) {
        self.0.send_replace(state);
    }
}

/// What the announcer's task goes by.
struct Announcing {
    discovery: Arc<dyn Discovery>,
    /// Without its topics.
    node: NodeInfo,
    /// Shared with whoever tells of them: what a beat or another load costs does not grow with them.
    topics: Topics,
    catalogue: CatalogueWatch,
    broker: NodeBroker,
    load: Smoothed,
    to_be: watch::Receiver<NodeState>,
}

impl Announcing {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let first = self.catalogue.changed().await;
        self.take(first);
        let mut announced: Box<dyn Announcement> = loop {
            let announcing = self.discovery.announce(self.now());
            let result = tokio::select! {
                result = announcing => result,
                _ = &mut stopped => return,
            };
            match result {
                Ok(Announced::Known(announced)) => break announced,
                Ok(Announced::NotTaken(why)) => {
                    error!(why, "the node is not announced");
                    return;
                }
                // Whatever it is, it may be mended: the other node of this name stopped, the token changed.
                Err(error) => error!(%error, "the node is not announced"),
            }
            tokio::select! {
                () = sleep(REFUSED_PAUSE) => {}
                _ = &mut stopped => return,
            }
        };
        let mut looks = interval(LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        let mut is_new = false;
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                () = sleep_until(not_before), if is_new => {
                    is_new = false;
                    not_before = Instant::now() + UPDATE_PAUSE;
                    if let Err(error) = announced.update(self.now()).await {
                        warn!(%error, "a change of the node was not announced");
                    }
                }
                Ok(()) = self.to_be.changed() => is_new = true,
                changes = self.catalogue.changed() => {
                    self.take(changes);
                    is_new = true;
                }
                _ = looks.tick() => {
                    let bytes = self.broker.in_use().publish_bytes;
                    // It goes with the next beat.
                    is_new |= self.load.look(bytes);
                }
            }
        }
        match announced.withdraw().await {
            Ok(()) => info!("withdrawn from all registries that knew the node"),
            Err(DiscoveryError::NotWithdrawn { heard, unheard }) => warn!(
                heard = heard.join(", "),
                unheard = unheard.join(", "),
                "the node is not withdrawn everywhere; where it was not heard it is forgotten later"
            ),
            Err(error) => warn!(%error, "the node is not withdrawn; it is forgotten later"),
        }
    }

    fn take(&mut self, changes: CatalogueChanges) {
        // What was told before stays as it was told.
        for (topic, channels) in changes {
            match channels {
                Some(channels) => self.topics.insert(topic, channels),
                None => _ = self.topics.remove(&topic),
            }
        }
    }

    /// The node as it is.
    fn now(&self) -> NodeInfo {
        described(&self.node, self.load.load(), *self.to_be.borrow(), &self.topics)
    }
}

/// The node with what it has and does.
fn described(node: &NodeInfo, load: Load, state: NodeState, topics: &Topics) -> NodeInfo {
    node.clone().with_load(load).with_state(state).with_topics(topics.clone())
}

/// How many KiB of publishes wait for their confirms, smoothed over a second or so: what grows when the node
/// is behind, be it for its disk or its processors, and is next to nothing while it is not.
#[derive(Debug, Default)]
struct Smoothed {
    kib: f64,
    told: u32,
}

impl Smoothed {
    /// Takes a look in, and says whether the load is worth telling again.
    fn look(&mut self, bytes: u64) -> bool {
        self.kib += (bytes as f64 / 1024.0 - self.kib) * WEIGHT;
        let now = self.load().0;
        let is_new = now.abs_diff(self.told).saturating_mul(4) > self.told.max(4);
        if is_new {
            self.told = now;
        }
        is_new
    }

    fn load(&self) -> Load {
        Load(self.kib.round() as u32)
    }
}

/// Of a new look beside all before it.
const WEIGHT: f64 = 0.3;
/// How often it is looked how busy the node is.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Changes that come quickly are told together.
const UPDATE_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait after all registries refused the node.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// What a withdrawal may take: what was not told is forgotten by itself.
const WITHDRAW_MAX: Duration = Duration::from_secs(1);
/// Some round trips around the earth.
const SETTLE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_load_copies_no_topic() {
        let topics: Topics = [("orders".parse().unwrap(), [].into())].into();
        let address = "tcp://a:1".parse().unwrap();
        let node = NodeInfo::new("n".parse().unwrap(), [address]).unwrap();
        let first = described(&node, Load(1), NodeState::Ready, &topics);
        let second = described(&node, Load(2), NodeState::Ready, &topics);
        for told in [&first, &second] {
            assert!(told.topics().unwrap().is_shared_with(&topics));
        }
        assert_ne!(first, second);
    }

    #[test]
    fn a_load_follows_what_waits_and_small_changes_are_not_told() {
        let mut load = Smoothed::default();
        assert!(!load.look(0));
        assert!(load.look(1 << 20), "much waits at once");
        for _ in 0..20 {
            load.look(1 << 20);
        }
        assert!((1_000..=1_024).contains(&load.load().0), "{load:?}");
        assert!(!load.look(1 << 20) && !load.look((1 << 20) + 9_000));
        for _ in 0..40 {
            load.look(0);
        }
        assert_eq!(load.load(), Load(0));
    }
}
