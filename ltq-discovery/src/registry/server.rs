//! A registry that others connect to.

mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ltq_core::{Access, Connection, Entropy, Everybody, Listener, Monotonic, TransportError};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    settings::{RegistrySettings, RegistrySettingsError},
    state::Registry,
    watchers::WatcherId,
};

/// What can be set on a [`RegistryServer`].
#[derive(Clone)]
pub struct RegistryServerSettings {
    /// The rules' own.
    pub registry: RegistrySettings,
    /// Who may come in. Whoever may administer all topics may announce nodes and watch all of them;
    /// whoever may do anything with a topic may watch the nodes that have it. Default: everybody may
    /// everything.
    pub access: Arc<dyn Access>,
    /// How long a connection may take until it has said hello. Default 5 s.
    pub hello_timeout: Duration,
    /// The most connections. Default 20,000.
    pub connections_max: usize,
    /// The most watches of one connection. Default 1,024.
    pub watches_max: usize,
}

impl Default for RegistryServerSettings {
    fn default() -> Self {
        Self {
            registry: RegistrySettings::default(),
            access: Arc::new(Everybody),
            hello_timeout: Duration::from_secs(5),
            connections_max: 20_000,
            watches_max: 1_024,
        }
    }
}

/// A registry: it takes connections in on any number of listeners, and goes by [`Registry`]'s rules.
///
/// Cheap to clone; clones are the same. Registries know nothing of each other: nodes announce
/// themselves to all of them, and clients merge what they hear.
#[derive(Clone)]
pub struct RegistryServer(Arc<Shared>);

/// What all sessions have in common.
struct Shared {
    registry: Mutex<Registry>,
    settings: RegistryServerSettings,
    /// Tells this registry, in this run, from others.
    id: u64,
    started: Instant,
    /// Whom to wake for a watcher.
    wake: Mutex<BTreeMap<WatcherId, Arc<Notify>>>,
    /// The next deadline may be another.
    rescheduled: Notify,
    names: AtomicU64,
    connections: AtomicUsize,
    refused: AtomicU64,
    stopping: watch::Sender<bool>,
}

impl RegistryServer {
    /// A registry that knows nobody yet. It needs a tokio runtime with time enabled, and a task that
    /// [runs](Self::run) it.
    ///
    /// # Errors
    /// A setting that is out of its bounds.
    pub fn new(
        settings: RegistryServerSettings,
        entropy: &dyn Entropy,
    ) -> Result<Self, RegistrySettingsError> {
        let registry = Mutex::new(Registry::new(settings.registry.clone())?);
        Ok(Self(Arc::new(Shared {
            registry,
            settings,
            id: entropy.next(),
            started: Instant::now(),
            wake: Mutex::default(),
            rescheduled: Notify::new(),
            names: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
        })))
    }

    /// Lets time pass for the registry, until it is stopped: nodes that are not heard of are
    /// suspected, and forgotten.
    pub async fn run(&self) {
        let mut stopping = self.0.stopping.subscribe();
        loop {
            let next = self.0.change(|registry, now| {
                registry.tick(now);
                registry.next_timeout()
            });
            let due = async {
                match next {
                    Some(at) => sleep_until(self.0.started + Duration::from_micros(at.0)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.0.rescheduled.notified() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Takes connections in until the registry is stopped or the listener is closed.
    ///
    /// # Errors
    /// None as long as the listener says that it is closed in as many words; other failures are logged
    /// and passed over after a pause.
    pub async fn serve(&self, mut listener: Box<dyn Listener>) -> Result<(), TransportError> {
        let mut stopping = self.0.stopping.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(connection) => self.take_in(connection),
                Err(TransportError::Closed) => return Ok(()),
                Err(error) => {
                    warn!(address = %listener.local_address(), %error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Ends all sessions with a word on why, and takes nobody in any more.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    /// Looks at what the registry knows.
    pub fn look<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&self.0.registry.lock())
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    fn take_in(&self, connection: Box<dyn Connection>) {
        let shared = Arc::clone(&self.0);
        let max = shared.settings.connections_max;
        if shared.connections.fetch_add(1, Ordering::AcqRel) >= max {
            shared.connections.fetch_sub(1, Ordering::AcqRel);
            let count = shared.refused.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                let peer = &connection.peer().address;
                warn!(%peer, max, count, "refused: too many connections");
            }
            return;
        }
        let open = Open(shared);
        tokio::spawn(async move {
            let peer = connection.peer().clone();
            let patience = open.0.settings.hello_timeout;
            match timeout(patience, connection.accept_stream()).await {
                Ok(Ok(Some(stream))) => session::run(&open.0, &peer, &*connection, stream).await,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(peer = %peer.address, %error, "connection lost"),
                Err(_) => debug!(peer = %peer.address, ?patience, "no stream came"),
            }
        });
    }
}

impl std::fmt::Debug for RegistryServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryServer")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Does something with the registry, and wakes whoever has to be told of it.
    fn change<T>(&self, change: impl FnOnce(&mut Registry, Monotonic) -> T) -> T {
        let now = Monotonic(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut registry = self.registry.lock();
        let before = registry.next_timeout();
        let outcome = change(&mut registry, now);
        let is_sooner = match (before, registry.next_timeout()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        let ready: BTreeSet<_> = registry.take_ready();
        drop(registry);
        if is_sooner {
            self.rescheduled.notify_one();
        }
        if !ready.is_empty() {
            let wake = self.wake.lock();
            ready.iter().filter_map(|id| wake.get(id)).for_each(|session| session.notify_one());
        }
        outcome
    }

    /// A number that nobody had.
    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }
}

/// A connection that counts, until it is dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How long a listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
