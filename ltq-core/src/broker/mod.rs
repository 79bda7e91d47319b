//! The shell: a [`Broker`] and its tasks, which feed the [model](crate::model) and carry out what
//! it says. It decides nothing about delivery.
//!
//! One task owns one topic, and one task serves one stream of one peer. They talk through
//! inboxes (session to topic) and outboxes (topic to session), each entered once per batch.

mod admin;
mod answers;
mod budget;
mod by_address;
mod catalogue;
mod direct;
mod door;
mod draining;
mod entrance;
mod figures;
mod gathering;
mod greeting;
mod handles;
mod holds;
mod in_vain;
mod inbox;
mod outbox;
mod outstanding;
mod pace;
mod parting;
mod patience;
mod places;
mod producers;
mod rates;
mod refuse;
mod removals;
mod replies;
mod room;
mod serve;
mod session;
mod settings;
mod shared;
mod shares;
mod standing;
mod strangers;
mod surveys;
mod together;
mod topic_task;
mod turns;
mod unconfirmed;
mod unread;
mod waiters;
mod watch;

#[cfg(test)]
mod testing;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

pub use catalogue::{CatalogueChanges, CatalogueWatch};
pub use direct::{
    DirectError, Publisher, PublisherOptions, Receipt, Received, SubscribeOptions, Subscription,
};
pub use draining::DrainWishes;
pub use entrance::{ConnectionLimits, Entrance, EntranceFigures, EntranceSettings, Entry, Full};
pub use figures::BrokerUse;
pub use parting::{Farewells, part};
pub use rates::Arrivals;
pub use settings::{BrokerSettings, SettingsError};

use crate::{
    Action, AdminRequest, AdminResponse, ChannelName, Environment, Grant, HeldUp, Limit, Listener,
    NodeStats, Peer, Refusal, RefusalCode, Store, StoreError, TopicName, TransportError,
    model::{
        RestoreError, Topic,
        keys::{self, Key},
    },
    process::inherit,
    protocol::InstanceId,
};
use shared::Shared;
use surveys::Asking;

/// Why a broker did not start, or did not stop as it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// A setting cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// What the store keeps of a topic is not what this version writes.
    #[error("topic {topic} cannot be restored: {error}")]
    Restore {
        /// The topic.
        topic: TopicName,
        /// What is wrong.
        error: RestoreError,
    },
    /// Topics or connections had not come to rest when the time was up.
    #[error("not everything had come to rest after {0:?}")]
    StopTimeout(Duration),
}

/// Counts of a broker since it started, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerCounters {
    /// Connections taken in.
    pub connections_accepted: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    /// Connections refused because their address had too many.
    pub connections_refused_by_address: u64,
    /// Connections refused because too many, of all or of their address, had said no hello.
    pub connections_refused_greeting: u64,
    /// Connections refused because too many came from their address in a short time.
    pub connections_refused_by_rate: u64,
    /// Connections that gave way to others before they had said hello.
    pub connections_crowded_out: u64,
    /// Streams that ended by a refusal or a cut.
    pub streams_failed: u64,
    /// Of those, streams that sent too many frames that bring nothing.
    pub streams_flooding: u64,
    /// Of those, streams whose grant was taken back.
    pub streams_revoked: u64,
    /// Hellos, and HTTP requests, that were not let in.
    pub hellos_denied: u64,
    /// Of those, the ones whose address had brought too many wrong tokens.
    pub hellos_locked_out: u64,
    /// Requests of peers that lacked the permission.
    pub requests_forbidden: u64,
    /// Topics not made by use because their address had made too many.
    pub topics_refused_by_address: u64,
    /// Addresses of which was forgotten what they had done, for want of room.
    pub addresses_forgotten: u64,
    /// Connections ended because too many of their streams failed before any hello was accepted.
    pub connections_given_up: u64,
}

/// A message broker over a store: topics and channels, the sessions of its peers, and a direct
/// way in for the program that embeds it. Cheap to clone; all clones are one broker.
///
/// ```no_run
/// # async fn example(store: impl ltq_core::Store, listener: Box<dyn ltq_core::Listener>)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use ltq_core::{Broker, BrokerSettings, Environment, Message};
///
/// let broker = Broker::start(store, BrokerSettings::default(), Environment::system()).await?;
/// tokio::spawn({ let broker = broker.clone(); async move { broker.serve(listener).await } });
///
/// let mut publisher = broker.publisher("orders", Default::default()).await?;
/// let receipt = publisher.publish(&Message::new("one coffee")).await?;
/// println!("stored at {:?} ({})", receipt.offset, receipt.durability);
/// # Ok(()) }
/// ```
pub struct Broker<S: Store> {
    shared: Arc<Shared>,
    store: Arc<S>,
}

impl<S: Store> Clone for Broker<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), store: self.store.clone() }
    }
}

impl<S: Store> fmt::Debug for Broker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<S: Store> Broker<S> {
    /// Starts a broker on what the store holds. Must be called within a tokio runtime, which runs
    /// its tasks.
    ///
    /// # Errors
    /// [`BrokerError::Settings`], [`BrokerError::Store`] or [`BrokerError::Restore`]; then
    /// nothing was started and nothing written.
    #[allow(clippy::unused_async, reason = "restoring may become asynchronous; callers are")]
    pub async fn start(
        store: S,
        settings: BrokerSettings,
        environment: Environment,
    ) -> Result<Self, BrokerError> {
        settings.check()?;
        let store = Arc::new(store);
        let shared = Arc::new(Shared::new(store.clone(), environment, settings));
        let topics = restore(&shared)?;
        info!(topics = topics.len(), "broker started");
        for topic in topics {
            shared.restore(topic);
        }
        Ok(Self { shared, store })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Which broker this is, for as long as it runs: what clients are told in the
    /// [`Welcome`](crate::protocol::Welcome).
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.shared.instance
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &BrokerSettings {
        &self.shared.settings
    }

    /// Serves all connections that `listener` accepts, until the broker [stops](Self::stop) or
    /// the listener is closed. Dropping the future closes the listener; connections live on.
    ///
    /// # Errors
    /// None today: failures to accept are logged and tried again.
    pub async fn serve(&self, listener: Box<dyn Listener>) -> Result<(), TransportError> {
        serve::serve(self.shared.clone(), listener).await
    }

    /// Lets somebody in, or not, who comes by another way than [`serve`](Self::serve), such as
    /// HTTP: by the same [`Access`](crate::Access), and with the same limits of wrong tokens.
    ///
    /// # Errors
    /// [`RefusalCode::Unauthorized`](crate::RefusalCode::Unauthorized), in the same words whatever
    /// the cause.
    pub fn admit(&self, peer: &Peer, token: Option<&str>) -> Result<Grant, Refusal> {
        self.shared.admit(peer, token, None)
    }

    /// Checks that a grant stands and permits something, on a topic or on the node (`None`), and
    /// counts it if not.
    ///
    /// # Errors
    /// [`RefusalCode::Forbidden`](crate::RefusalCode::Forbidden), which names what is missing;
    /// [`RefusalCode::Unauthorized`](crate::RefusalCode::Unauthorized) when the grant was revoked.
    pub fn permit(
        &self,
        grant: &Grant,
        action: Action,
        topic: Option<&TopicName>,
    ) -> Result<(), Refusal> {
        let Shared { door, counters, .. } = &*self.shared;
        door.permit(counters, None, grant, action, topic)
    }

    /// Does what an operator asks, with all permissions. Not cancel safe: a request given up may
    /// still be carried out.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Refusal> {
        let surveys = self.shared.surveys_for(&request);
        let _turn = match surveys {
            Some(surveys) => Some(surveys.turn(Asking::PROGRAM).await),
            None => None,
        };
        admin::perform(&self.shared, request).await
    }

    /// All figures, those of each topic read at one moment.
    pub async fn stats(&self) -> NodeStats {
        let _turn = self.shared.surveys.turn(Asking::PROGRAM).await;
        admin::stats(&self.shared).await
    }

    /// How often peers were told each kind of refusal since the start, be it of a request or of a
    /// stream. What the program itself was told by direct calls is not among them.
    #[must_use]
    pub fn refusals(&self) -> Vec<(RefusalCode, u64)> {
        self.shared.refusals.all()
    }

    /// Of those, how many were for want of room under each limit.
    #[must_use]
    pub fn limits_reached(&self) -> Vec<(Limit, u64)> {
        self.shared.refusals.by_limit()
    }

    /// How often peers were made to wait at limits beyond which nothing is refused, by the name of
    /// the setting: they were not read from, given nothing, or not taken in, until there was room. Of the
    /// limits of streams, how often a connection had as many as it may have.
    #[must_use]
    pub fn held_back(&self) -> Vec<(&'static str, u64)> {
        self.shared.holds.all()
    }

    /// What peers hold of the limits now.
    #[must_use]
    pub fn in_use(&self) -> BrokerUse {
        self.shared.in_use()
    }

    /// Watches which topics and channels there are, for whoever tells others of them.
    #[must_use]
    pub fn catalogue(&self) -> CatalogueWatch {
        self.shared.watch_catalogue()
    }

    /// What operators want of draining ([`AdminRequest::Drain`]) from now on. Only while somebody holds
    /// one of these are such requests taken: whoever does has to see to what follows, the announcement,
    /// [`set_draining`](Self::set_draining), and the end.
    #[must_use]
    pub fn drain_wishes(&self) -> DrainWishes {
        DrainWishes::new(&self.shared)
    }

    /// Takes in nothing more, or takes in again: publishes, new topics and requests to make channels are
    /// refused as [`RefusalCode::Draining`] meanwhile, and nothing of them has happened. Consumers go on; one
    /// of a channel that is not there is refused, as nobody makes it now. What was
    /// on its way to a topic before is stored.
    pub fn set_draining(&self, draining: bool) {
        self.shared.draining.set(draining);
    }

    /// What of its messages the program around it cannot hand over: operators are shown it in
    /// [`NodeStats::held_up`].
    pub fn set_held_up(&self, held_up: Vec<HeldUp>) {
        self.shared.draining.set_held_up(held_up);
    }

    /// Whether it takes in nothing more: [`set_draining`](Self::set_draining).
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_on()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> BrokerCounters {
        let (counters, entrance) = (&self.shared.counters, self.shared.entrance.figures());
        BrokerCounters {
            connections_accepted: entrance.accepted,
            connections_refused: entrance.refused,
            connections_refused_by_address: entrance.refused_by_address,
            connections_refused_greeting: entrance.refused_greeting,
            connections_refused_by_rate: entrance.refused_by_rate,
            connections_crowded_out: entrance.crowded_out,
            streams_failed: counters.sessions_failed.load(Ordering::Relaxed),
            streams_flooding: counters.sessions_flooding.load(Ordering::Relaxed),
            streams_revoked: counters.sessions_revoked.load(Ordering::Relaxed),
            hellos_denied: counters.hellos_denied.load(Ordering::Relaxed),
            hellos_locked_out: counters.hellos_locked_out.load(Ordering::Relaxed),
            requests_forbidden: counters.requests_forbidden.load(Ordering::Relaxed),
            topics_refused_by_address: counters.topics_refused_by_address.load(Ordering::Relaxed),
            addresses_forgotten: self.shared.addresses_forgotten(),
            connections_given_up: counters.connections_given_up.load(Ordering::Relaxed),
        }
    }

    /// Opens a way to publish to a topic without a socket or a frame. The topic is made where
    /// the settings allow it.
    ///
    /// # Errors
    /// [`DirectError::Refused`], also for a name that breaks the rule.
    pub async fn publisher(
        &self,
        topic: &str,
        options: PublisherOptions,
    ) -> Result<Publisher, DirectError> {
        let topic = TopicName::new(topic).map_err(direct::bad_name)?;
        Publisher::open(&self.shared, &topic, options, None).await
    }

    /// The same on behalf of a peer that came by another way than [`serve`](Self::serve): a topic
    /// that is made counts against the limit for the peer's address. What the peer may do,
    /// [`permit`](Self::permit) says.
    ///
    /// # Errors
    /// As of [`publisher`](Self::publisher), and
    /// [`RefusalCode::LimitReached`](crate::RefusalCode::LimitReached) when too many topics were
    /// made from there.
    pub async fn publisher_for(
        &self,
        peer: &Peer,
        topic: &TopicName,
        options: PublisherOptions,
    ) -> Result<Publisher, DirectError> {
        let from = self.shared.origin(peer);
        Publisher::open(&self.shared, topic, options, from).await
    }

    /// Subscribes to a channel of a topic without a socket or a frame. Both are made where the
    /// settings allow it.
    ///
    /// # Errors
    /// [`DirectError::Refused`], also for a name that breaks the rule.
    pub async fn subscribe(
        &self,
        topic: &str,
        channel: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, DirectError> {
        let topic = TopicName::new(topic).map_err(direct::bad_name)?;
        let channel = ChannelName::new(channel).map_err(direct::bad_name)?;
        Subscription::open(&self.shared, &topic, channel, options).await
    }

    /// Stops cleanly: takes nothing new in, commits what was accepted, gives back what is in
    /// flight and keeps the channels' places, tells all peers, closes the store. Confirmed work
    /// is durable afterwards. Stopping twice is harmless; a call that is given up leaves the
    /// broker on its way out, and another one goes on with it.
    ///
    /// # Errors
    /// [`BrokerError::StopTimeout`] when that takes longer than `deadline`. What is left is cut
    /// off then: whoever waits for a commit is told that its outcome is not known, and peers that
    /// do not listen are left alone. The store is closed all the same, which may go on in the
    /// background; this call waits for at most 3 s more. [`BrokerError::Store`] when the store
    /// could not make everything durable.
    pub async fn stop(&self, deadline: Duration) -> Result<(), BrokerError> {
        let shared = &self.shared;
        let began = Instant::now();
        let rest = async {
            shared.stop_topics().await;
            shared.close_sessions();
            shared.all_gone().await;
        };
        let rested = timeout(deadline, rest).await.is_ok();
        if !rested {
            warn!(?deadline, "not everything had come to rest");
            shared.cut_topics();
            shared.close_sessions();
        }
        let store = self.store.clone();
        // A task, so that it goes on if this call does not wait for its end.
        let closing = tokio::spawn(inherit(async move { store.close().await }));
        let grace = deadline.saturating_sub(began.elapsed()).max(CUT_GRACE);
        let (closed, _) =
            tokio::join!(timeout(grace, closing), timeout(CUT_GRACE, shared.all_gone()));
        match closed {
            Ok(Ok(closed)) if rested => Ok(closed?),
            Ok(Err(panicked)) if rested => Err(StoreError::Failed(panicked.to_string()).into()),
            _ => Err(BrokerError::StopTimeout(deadline)),
        }
    }
}

/// Reads back every topic that the store knows.
fn restore(shared: &Shared) -> Result<Vec<Topic>, BrokerError> {
    let store = &shared.store;
    let mut values: BTreeMap<TopicName, Vec<(Bytes, Bytes)>> = BTreeMap::new();
    for (key, value) in store.values(b"")? {
        // Keys that are not the broker's belong to the program that it is embedded in.
        let topic = match keys::parse(&key) {
            Some(
                Key::Topic(topic)
                | Key::Channel(topic, _)
                | Key::Producer(topic, _)
                | Key::Marks(topic),
            ) => topic,
            None => continue,
        };
        values.entry(topic).or_default().push((key, value));
    }
    let now = shared.environment.now();
    let mut topics = Vec::with_capacity(values.len());
    for (name, values) in values {
        let bounds = match store.bounds(&keys::log_name(&name)) {
            Ok(bounds) => bounds,
            Err(StoreError::NoSuchLog(_)) => Default::default(),
            Err(error) => return Err(error.into()),
        };
        let topic = Topic::restore(name.clone(), shared.model.clone(), bounds, values, now)
            .map_err(|error| BrokerError::Restore { topic: name, error })?;
        topics.push(topic);
    }
    Ok(topics)
}

/// How long what was cut off has to say its last words.
const CUT_GRACE: Duration = Duration::from_secs(3);
