//! What the connections and listeners of a mesh are doing, for whoever wants to watch.

use std::{collections::BTreeMap, time::Duration};

use ltq_core::Address;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{DownCause, MeshName};

/// What the connection to a peer is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// None of its addresses is known: it has to call.
    Waiting,
    /// It is being connected to.
    Connecting {
        /// One more than the attempts that failed in a row.
        attempt: u32,
    },
    /// It is connected, and messages go both ways.
    Connected {
        /// Where it is, as far as the transport knows.
        address: Address,
        /// Whether we dialed.
        is_ours: bool,
    },
    /// It is not connected; another attempt follows.
    Disconnected {
        /// Attempts that failed in a row; 0 when a connection was lost.
        failures: u32,
        /// Why.
        cause: DownCause,
        /// How long until the next attempt, unless the peer calls before.
        retry_in: Duration,
    },
}

impl PeerState {
    /// Whether messages go both ways.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// What a listener is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenerState {
    /// It has only just begun.
    Opening,
    /// It takes calls in, at this address; a port that was asked for as 0 is filled in.
    Listening(Address),
    /// It cannot, or can no longer; it is tried again.
    Failed {
        /// Why.
        why: String,
        /// How long until then.
        retry_in: Duration,
    },
}

/// What all connections and listeners of a mesh are doing at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshStates {
    peers: BTreeMap<MeshName, PeerState>,
    listeners: Vec<(Address, ListenerState)>,
}

impl MeshStates {
    /// All peers that are known, in the order of their names.
    #[must_use]
    pub const fn peers(&self) -> &BTreeMap<MeshName, PeerState> {
        &self.peers
    }

    /// One peer, if it is known.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&PeerState> {
        self.peers.get(name)
    }

    /// Whether messages go to and from this peer.
    #[must_use]
    pub fn is_connected(&self, name: &str) -> bool {
        self.peer(name).is_some_and(PeerState::is_connected)
    }

    /// The addresses that are to be listened on, and what became of that.
    #[must_use]
    pub fn listeners(&self) -> &[(Address, ListenerState)] {
        &self.listeners
    }

    /// Where calls are taken in.
    pub fn local_addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().filter_map(|(_, state)| match state {
            ListenerState::Listening(address) => Some(address),
            _ => None,
        })
    }
}

/// Watches the states of a mesh.
#[derive(Clone, Debug)]
pub struct StateWatch(watch::Receiver<MeshStates>);

impl StateWatch {
    /// The states as they are.
    #[must_use]
    pub fn now(&self) -> MeshStates {
        self.0.borrow().clone()
    }

    /// Waits until the states differ from what was given last; the first call gives them as they are. What
    /// came and went between two calls is not told. `None` once the mesh is closed. Cancel safe.
    pub async fn changed(&mut self) -> Option<MeshStates> {
        self.0.changed().await.ok()?;
        Some(self.now_seen())
    }

    fn now_seen(&mut self) -> MeshStates {
        self.0.borrow_and_update().clone()
    }

    /// Waits until the states are such. `None` when the mesh is closed before. Cancel safe.
    pub async fn until(&mut self, mut are: impl FnMut(&MeshStates) -> bool) -> Option<MeshStates> {
        loop {
            // A copy, so that whoever is asked may look at the mesh as well.
            let states = self.now_seen();
            if are(&states) {
                return Some(states);
            }
            self.0.changed().await.ok()?;
        }
    }
}

/// Where the states are told.
#[derive(Debug)]
pub(crate) struct States(Mutex<Option<watch::Sender<MeshStates>>>);

impl States {
    pub(crate) fn new(listen: &[Address]) -> Self {
        let listeners = listen.iter().map(|address| (address.clone(), ListenerState::Opening));
        let states = MeshStates { peers: BTreeMap::new(), listeners: listeners.collect() };
        Self(Mutex::new(Some(watch::Sender::new(states))))
    }

    /// The mesh is closed: whoever watches is told.
    pub(crate) fn close(&self) {
        self.0.lock().take();
    }

    fn change(&self, change: impl FnOnce(&mut MeshStates) -> bool) {
        if let Some(sender) = &*self.0.lock() {
            sender.send_if_modified(change);
        }
    }

    pub(crate) fn watch(&self) -> StateWatch {
        let mut watch = match &*self.0.lock() {
            Some(sender) => sender.subscribe(),
            None => watch::channel(MeshStates::default()).1,
        };
        watch.mark_changed();
        StateWatch(watch)
    }

    pub(crate) fn peer(&self, name: &MeshName, state: PeerState) {
        self.change(|states| match states.peers.get_mut(name) {
            Some(before) if *before == state => false,
            Some(before) => {
                *before = state;
                true
            }
            None => {
                states.peers.insert(name.clone(), state);
                true
            }
        });
    }

    pub(crate) fn forget(&self, name: &MeshName) {
        self.change(|states| states.peers.remove(name).is_some());
    }

    pub(crate) fn listener(&self, at: usize, state: ListenerState) {
        self.change(|states| {
            let Some((_, before)) = states.listeners.get_mut(at) else { return false };
            let is_other = *before != state;
            *before = state;
            is_other
        });
    }
}
