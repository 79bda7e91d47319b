//! A registry that others connect to.

mod frames;
mod places;
mod session;
mod telling;
#[cfg(test)]
mod tests;
mod wake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{
    Access, Connection, ConnectionLimits, Entrance, EntranceFigures, EntranceSettings, Entropy,
    Everybody, Farewells, Full, Listener, Monotonic, Peer, TransportError, process::inherit,
    protocol::WriteQueue,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use places::{Open, Places};
use wake::Wake;

use super::{
    protocol::{GoodbyeCode, Say},
    settings::{RegistrySettings, RegistrySettingsError},
    state::Registry,
    wire,
};

/// What can be set on a [`RegistryServer`].
#[derive(Clone)]
pub struct RegistryServerSettings {
    /// The rules' own.
    pub registry: RegistrySettings,
    /// Who may come in. Whoever may administer all topics may announce nodes and watch
    /// [everything](crate::Interest::Everything); whoever may do anything with a topic may watch the nodes that
    /// have it, and whoever may do anything at all which nodes there are. Default: everybody may everything.
    pub access: Arc<dyn Access>,
    /// How long a connection may take until it has said hello. Default 5 s.
    pub hello_timeout: Duration,
    /// The most connections. Default 20,000.
    pub connections_max: usize,
    /// The most from one address, or over a Unix socket of one user; others of this machine are not counted. Default
    /// 5,000.
    pub connections_per_address_max: usize,
    /// How they come in: who has said no hello yet, and how fast.
    pub entrance: EntranceSettings,
    /// Of how many addresses it is remembered how many connections came from there. Default 4,096.
    pub addresses_known_max: usize,
    /// The most watches of one connection. Default 1,024.
    pub watches_max: usize,
    /// The most frames that one connection may send within a second; one that sends more ends, with the word
    /// that it floods. Those that bring a good part of a node's topics are not counted: what they bring has
    /// bounds of its own. One that opens a watch counts as one more for every 16 nodes that there are (for every 16
    /// nodes, topics and channels where everything is watched), and as a quarter of all at most; one that announces
    /// another node than before as that quarter. A watch under a higher number than all before waits for the next second
    /// instead, and what comes behind it. At least 1; default 2,000.
    pub frames_max: u32,
}

impl Default for RegistryServerSettings {
    fn default() -> Self {
        Self {
            registry: RegistrySettings::default(),
            access: Arc::new(Everybody),
            hello_timeout: Duration::from_secs(5),
            connections_max: 20_000,
            connections_per_address_max: 5_000,
            entrance: EntranceSettings::default(),
            addresses_known_max: 4_096,
            watches_max: 1_024,
            frames_max: 2_000,
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
    wake: Wake,
    /// The next deadline may be another.
    rescheduled: Notify,
    names: AtomicU64,
    entrance: Arc<Entrance>,
    farewells: Farewells,
    places: Mutex<Places>,
    counts: Counts,
    /// When it was logged last that somebody was denied.
    denied_logged: Mutex<Option<Instant>>,
    stopping: watch::Sender<bool>,
}

/// What a registry has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryFigures {
    /// Connections: those that were taken in, and those that were not.
    pub entrance: EntranceFigures,
    /// Peers that were turned away for their token or identity.
    pub denied: u64,
    /// Connections that ended because they sent too many frames, or what takes as much work.
    pub flooding: u64,
    /// Announcements of whole nodes that were taken in.
    pub announced: u64,
    /// Announcements and changes that were not.
    pub not_taken: u64,
    /// Changes of nodes that were taken in.
    pub changes: u64,
    /// Beats of nodes.
    pub heartbeats: u64,
    /// Nodes that were forgotten, as nothing was heard of them for too long.
    pub forgotten: u64,
    /// Nodes that watchers were told of, each time counted.
    pub told: u64,
    /// Nodes that watchers were not told of, as they fit no frame, each time counted. What is announced is
    /// bounded so that there is none.
    pub untold: u64,
}

#[derive(Debug, Default)]
struct Counts {
    denied: AtomicU64,
    flooding: AtomicU64,
    announced: AtomicU64,
    not_taken: AtomicU64,
    changes: AtomicU64,
    heartbeats: AtomicU64,
    forgotten: AtomicU64,
    told: AtomicU64,
    untold: AtomicU64,
}

fn count(one: &AtomicU64) -> u64 {
    one.fetch_add(1, Ordering::Relaxed) + 1
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
        let zero = [
            (settings.frames_max == 0, "frames_max"),
            (settings.connections_max == 0, "connections_max"),
            (settings.connections_per_address_max == 0, "connections_per_address_max"),
            (settings.addresses_known_max == 0, "addresses_known_max"),
        ];
        let zero = zero.into_iter().find_map(|(is_zero, name)| is_zero.then_some(name));
        if let Some(setting) = zero.or_else(|| settings.entrance.zero()) {
            let (value, allowed) = ("0".to_owned(), "at least 1".to_owned());
            return Err(RegistrySettingsError { setting, value, allowed });
        }
        let limits = ConnectionLimits {
            connections_max: settings.connections_max,
            connections_per_address_max: settings.connections_per_address_max,
            addresses_known_max: settings.addresses_known_max,
        };
        let entrance = Entrance::new("registry", limits, &settings.entrance);
        Ok(Self(Arc::new(Shared {
            registry,
            settings,
            id: entropy.next(),
            started: Instant::now(),
            wake: Wake::default(),
            rescheduled: Notify::new(),
            names: AtomicU64::new(0),
            entrance: Arc::new(entrance),
            farewells: Farewells::default(),
            places: Mutex::default(),
            counts: Counts::default(),
            denied_logged: Mutex::default(),
            stopping: watch::Sender::new(false),
        })))
    }

    /// Lets time pass for the registry, until it is stopped: nodes that are not heard of are
    /// suspected, and forgotten.
    pub async fn run(&self) {
        let mut stopping = self.0.stopping.subscribe();
        loop {
            let (forgotten, next) =
                self.0.change(|registry, now| (registry.tick(now), registry.next_timeout()));
            for node in forgotten {
                count(&self.0.counts.forgotten);
                warn!(%node, "forgotten: nothing was heard of it for too long");
            }
            let due = async {
                match next {
                    Some(at) => sleep_until(self.0.started + Duration::from_micros(at.0)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = due => {}
                () = self.0.rescheduled.notified() => {}
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
        self.0.entrance.open()
    }

    /// What it has done since it was made.
    #[must_use]
    pub fn figures(&self) -> RegistryFigures {
        let Counts {
            denied,
            flooding,
            announced,
            not_taken,
            changes,
            heartbeats,
            forgotten,
            told,
            untold,
        } = &self.0.counts;
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RegistryFigures {
            entrance: self.0.entrance.figures(),
            denied: now(denied),
            flooding: now(flooding),
            announced: now(announced),
            not_taken: now(not_taken),
            changes: now(changes),
            heartbeats: now(heartbeats),
            forgotten: now(forgotten),
            told: now(told),
            untold: now(untold),
        }
    }

    fn take_in(&self, connection: Box<dyn Connection>) {
        let open = match Open::one_more(Arc::clone(&self.0), connection.peer()) {
            Ok(open) => open,
            Err(full) => return self.turn_away(connection, full),
        };
        tokio::spawn(inherit(async move {
            let peer = connection.peer().clone();
            let patience = open.shared.settings.hello_timeout;
            let stream = tokio::select! {
                biased;
                () = open.entry.gives_way() => return,
                stream = timeout(patience, connection.accept_stream()) => stream,
            };
            match stream {
                Ok(Ok(Some(stream))) => session::run(&open, &peer, &*connection, stream).await,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(peer = %peer.address, %error, "connection lost"),
                Err(_) => debug!(peer = %peer.address, ?patience, "no stream came"),
            }
        }));
    }

    /// Tells it why, as far as there are not too many of them.
    fn turn_away(&self, connection: Box<dyn Connection>, full: Full) {
        let mut stopping = self.0.stopping.subscribe();
        let words = |write: &mut WriteQueue| {
            let (code, detail) = (GoodbyeCode::Full, full.refusal().detail);
            let mut bytes = BytesMut::new();
            // Words that fit no frame are none.
            if wire::encode(&Say::Goodbye { code, detail }, &mut bytes).is_ok() {
                write.push(&bytes.freeze());
            }
        };
        self.0.farewells.turn_away(connection, words, async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
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
        if let Some(by) = registry.catch_up(now) {
            warn!(?by, "the registry did not get to run: nodes have more time to beat");
        }
        let before = registry.next_timeout();
        let outcome = change(&mut registry, now);
        let is_sooner = match (before, registry.next_timeout()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        let (ready, gone) = (registry.take_ready(), registry.take_gone());
        drop(registry);
        // Whatever it takes to free that, nobody waits for it.
        drop(gone);
        if is_sooner {
            self.rescheduled.notify_one();
        }
        self.wake.wake(&ready);
        outcome
    }

    /// Somebody showed no valid token: logged once a second, with how many there were in all.
    fn denied(&self, peer: &Peer) {
        let (count, now) = (count(&self.counts.denied), Instant::now());
        let mut logged = self.denied_logged.lock();
        if logged.is_none_or(|at| now.saturating_duration_since(at) >= DENIED_PAUSE) {
            *logged = Some(now);
            warn!(peer = %peer.address, count, "denied: no valid token");
        }
    }

    /// A number that nobody had.
    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }
}

/// How long a listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is logged of those who are denied after it was.
const DENIED_PAUSE: Duration = Duration::from_secs(1);
