//! What all tasks of a mesh have in common.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ltq_core::{
    Access, Address, Broker, DirectError, Environment, ProducerName, Publisher, PublisherOptions,
    Store,
};
use ltq_discovery::Discovery;
use ltq_transport::Transports;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::{
    InboxHandler, MeshName, MeshSettings, finding,
    keeper::Keeper,
    lines::{Lines, say},
    listening::{self, Caller, Callers},
    peer::{Listed, Peer},
    room::Room,
    states::States,
    wire::Farewell,
};

pub(crate) struct Shared {
    pub(crate) name: MeshName,
    pub(crate) mesh: String,
    /// Tells this process from others of the same name.
    pub(crate) instance: u64,
    /// When it began, in milliseconds since 1970 by its clock then: with that number it names this run.
    pub(crate) started: u64,
    /// Tells this inbox, as long as its store keeps it, from others of the same name.
    pub(crate) inbox: u64,
    pub(crate) settings: MeshSettings,
    pub(crate) environment: Environment,
    pub(crate) transports: Transports,
    pub(crate) token: Option<String>,
    pub(crate) access: Box<dyn Access>,
    pub(crate) handler: Option<Box<dyn InboxHandler>>,
    pub(crate) broker: Broker<Arc<dyn Store>>,
    pub(crate) states: States,
    pub(crate) callers: Callers,
    pub(crate) lines: Lines,
    /// Room for what has come from all peers.
    pub(crate) arriving: Arc<Room>,
    /// Room for what is on its way to all peers.
    leaving: Arc<Room>,
    peers: Mutex<BTreeMap<MeshName, Known>>,
    /// Nothing more is taken to be sent.
    is_closed: AtomicBool,
    stopping: watch::Sender<bool>,
    /// Each task has one; when all are gone so are the tasks.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

struct Known {
    peer: Arc<Peer>,
    /// It was named when the mesh was made, and stays.
    is_configured: bool,
}

/// What a [`Shared`] is made of.
pub(crate) struct Parts {
    pub(crate) name: MeshName,
    pub(crate) mesh: String,
    pub(crate) inbox: u64,
    pub(crate) settings: MeshSettings,
    pub(crate) environment: Environment,
    pub(crate) transports: Transports,
    pub(crate) token: Option<String>,
    pub(crate) access: Box<dyn Access>,
    pub(crate) handler: Option<Box<dyn InboxHandler>>,
    pub(crate) broker: Broker<Arc<dyn Store>>,
    pub(crate) listen: Vec<Address>,
}

impl Shared {
    /// Also gives what ends when all tasks have.
    pub(crate) fn new(parts: Parts) -> (Arc<Self>, mpsc::Receiver<()>) {
        let Parts { name, mesh, inbox, settings, environment, .. } = parts;
        let (alive, gone) = mpsc::channel(1);
        let shared = Self {
            name,
            mesh,
            instance: environment.random(),
            started: environment.now().wall.0,
            inbox,
            callers: Callers::new(settings.callers_max),
            lines: Lines::default(),
            arriving: Room::new(settings.unacknowledged_bytes_total_max),
            leaving: Room::shared(
                settings.unacknowledged_bytes_total_max,
                settings.peers_max,
                settings.message_bytes_max,
            ),
            settings,
            environment,
            transports: parts.transports,
            token: parts.token,
            access: parts.access,
            handler: parts.handler,
            broker: parts.broker,
            states: States::new(&parts.listen),
            peers: Mutex::default(),
            is_closed: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
        };
        (Arc::new(shared), gone)
    }

    /// Starts to listen, to find and to be found.
    pub(crate) fn start(
        self: &Arc<Self>,
        listen: Vec<Address>,
        peers: BTreeMap<MeshName, Vec<Address>>,
        discovery: Option<Arc<dyn Discovery>>,
        advertised: Vec<Address>,
    ) {
        let is_listening = !listen.is_empty();
        for (at, address) in listen.into_iter().enumerate() {
            self.spawn(listening::listen(self.clone(), at, address));
        }
        for (name, addresses) in peers {
            self.list(&mut self.peers.lock(), &name, Some(addresses), true);
        }
        let Some(discovery) = discovery else { return };
        if is_listening || !advertised.is_empty() {
            self.spawn(finding::announce(self.clone(), discovery.clone(), advertised));
        }
        self.spawn(finding::watch(self.clone(), discovery));
    }

    /// Waits until the mesh is closed.
    pub(crate) async fn stopping(&self) {
        // The sender is here.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// New calls are refused at once.
    pub(crate) fn refuse(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Nothing more is taken to be sent. Says to whom something may be on its way.
    pub(crate) fn close(&self) -> Vec<Arc<Peer>> {
        self.refuse();
        let peers: Vec<_> = self.peers.lock().values().map(|known| known.peer.clone()).collect();
        peers.iter().for_each(|peer| peer.close());
        self.leaving.close();
        peers
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Has all tasks end.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
        self.states.close();
        self.alive.lock().take();
    }

    /// Opens a way into the inbox, under a name if what is stored by it is to be counted.
    pub(crate) async fn publisher(
        &self,
        name: Option<ProducerName>,
    ) -> Result<Publisher, DirectError> {
        let options = PublisherOptions { name, ..PublisherOptions::default() };
        self.broker.publisher(INBOX, options).await
    }

    pub(crate) fn peer(&self, name: &str) -> Option<Arc<Peer>> {
        self.peers.lock().get(name).map(|known| known.peer.clone())
    }

    /// What the discovery scheme tells of others. Who was configured keeps the addresses from there. Says
    /// for whom there was no room.
    pub(crate) fn found(
        self: &Arc<Self>,
        members: &BTreeMap<MeshName, Vec<Address>>,
    ) -> BTreeSet<MeshName> {
        let mut peers = self.peers.lock();
        for (name, known) in &*peers {
            if !known.is_configured && !members.contains_key(name) {
                set(&known.peer.listed, None);
            }
        }
        let mut left_out = BTreeSet::new();
        for (name, addresses) in members {
            if !peers.get(name).is_some_and(|known| known.is_configured) {
                let listed = self.list(&mut peers, name, Some(addresses.clone()), false);
                if listed.is_none() {
                    left_out.insert(name.clone());
                }
            }
        }
        left_out
    }

    /// Somebody calls.
    pub(crate) fn called(self: &Arc<Self>, from: &MeshName, caller: Caller) {
        let mut peers = self.peers.lock();
        let peer = match peers.get(from) {
            Some(known) => Some(known.peer.clone()),
            None => {
                let peer = self.list(&mut peers, from, None, false);
                if peer.is_none() {
                    let max = self.settings.peers_max;
                    say!(self.lines.left_out, warn, peer = %from, max, "too many peers; a call of this one is refused");
                }
                peer
            }
        };
        // Under the lock: a peer that has a caller is not forgotten.
        let refused = match peer {
            Some(peer) => peer.callers.try_send(caller).err().map(|error| match error {
                mpsc::error::TrySendError::Full(caller)
                | mpsc::error::TrySendError::Closed(caller) => caller,
            }),
            None => Some(caller),
        };
        drop(peers);
        if let Some(caller) = refused {
            caller.refuse(Farewell::Full, "too many peers, or calls of this one".to_owned());
        }
    }

    /// Lists a peer, which is made if it is not known and there is room.
    fn list(
        self: &Arc<Self>,
        peers: &mut BTreeMap<MeshName, Known>,
        name: &MeshName,
        listed: Listed,
        is_configured: bool,
    ) -> Option<Arc<Peer>> {
        if let Some(known) = peers.get(name) {
            set(&known.peer.listed, listed);
            return Some(known.peer.clone());
        }
        if peers.len() >= self.settings.peers_max {
            return None;
        }
        let (sender, callers) = mpsc::channel(CALLS_MAX);
        let peer =
            Arc::new(Peer::new(name.clone(), listed, &self.settings, self.leaving.part(), sender));
        peers.insert(name.clone(), Known { peer: peer.clone(), is_configured });
        self.spawn(Keeper::new(self.clone(), peer.clone(), callers).run());
        Some(peer)
    }

    /// Forgets a peer that nobody has listed, called or anything to send to, if that is so still: who lists
    /// or calls it does so under the same lock.
    pub(crate) fn forget(&self, peer: &Arc<Peer>, is_called: impl FnOnce() -> bool) -> bool {
        let mut peers = self.peers.lock();
        if peer.listed.borrow().is_some() || !peer.is_idle() || is_called() {
            return false;
        }
        peer.forget();
        peers.remove(peer.name());
        self.states.forget(peer.name());
        true
    }

    /// The mesh is closed, and with it a peer's task.
    pub(crate) fn end(&self, peer: &Arc<Peer>) {
        peer.end();
        self.peers.lock().remove(peer.name());
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // None: the mesh is closed already.
        let Some(alive) = self.alive.lock().clone() else { return };
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }
}

/// Says so only if it is another.
fn set(listed: &watch::Sender<Listed>, to: Listed) {
    listed.send_if_modified(|before| {
        let is_other = *before != to;
        *before = to;
        is_other
    });
}

/// The topic that is the inbox.
pub(crate) const INBOX: &str = "mesh.inbox";
/// The channel of those who read it.
pub(crate) const READERS: &str = "mesh.readers";
/// Calls of one peer that wait to be answered, which takes no time.
const CALLS_MAX: usize = 4;
