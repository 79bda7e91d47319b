//! A node that takes a backlog.

use std::time::Duration;

use ltq_client::{Client, ClientBuilder, ConnectionState, NodeId, NodeIdError};
use ltq_core::BrokerSettings;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::ways::HandOverError;

/// A node that takes messages.
pub(super) struct Peer {
    pub(super) address: String,
    template: ClientBuilder,
    client: Mutex<Option<(Client, NodeId)>>,
    given_up: Mutex<Option<Instant>>,
}

impl Peer {
    pub(super) fn new(address: &str, template: &ClientBuilder) -> Self {
        Self {
            address: address.to_owned(),
            template: template.clone().connect_timeout(CONNECT_TIMEOUT),
            client: Mutex::default(),
            given_up: Mutex::default(),
        }
    }

    /// A client of it, connected at least once, and the id by which registries know it.
    pub(super) async fn client(&self) -> Result<(Client, NodeId), HandOverError> {
        if let Some(known) = &*self.client.lock() {
            return Ok(known.clone());
        }
        let connected = self.template.clone().server(&self.address).connect().await;
        let client = connected.map_err(|source| {
            let address = self.address.clone();
            HandOverError::Connect { address, source }
        })?;
        let id = self.id(&client).map_err(|source| {
            let address = self.address.clone();
            HandOverError::Name { address, source }
        })?;
        Ok(self.client.lock().get_or_insert((client, id)).clone())
    }

    /// What it is called, or, where it has no name of its own, its address, as such a node is announced.
    fn id(&self, client: &Client) -> Result<NodeId, NodeIdError> {
        match &*client.state().borrow() {
            ConnectionState::Connected { node, address, .. }
            | ConnectionState::Leaving { node, address, .. } => {
                match *node == BrokerSettings::default().node {
                    true => NodeId::new(&address.to_string()),
                    false => NodeId::new(node),
                }
            }
            _ => NodeId::new(&self.address),
        }
    }

    /// Notes that its connection is down.
    pub(super) fn give_up(&self) {
        *self.given_up.lock() = Some(Instant::now());
    }

    /// Whether it was given up a short while ago, and is not back: others are asked first.
    pub(super) fn is_down(&self) -> bool {
        let is_up = |(client, _): &(Client, NodeId)| client.state().borrow().is_connected();
        self.given_up.lock().is_some_and(|at| at.elapsed() < ASKED_AGAIN_AFTER)
            && !self.client.lock().as_ref().is_some_and(is_up)
    }
}

/// Resolves when the connection has been down for a while.
pub(super) async fn gone(client: &Client) {
    let mut state = client.state();
    loop {
        if state.wait_for(|state| !state.is_connected()).await.is_err() {
            return;
        }
        match timeout(GONE_AFTER, state.wait_for(ConnectionState::is_connected)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// How long a node may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection is down before its node is given up.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// How long a node that was given up is asked last.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(30);
