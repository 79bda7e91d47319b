//! Describing a mesh and starting it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use ltq_core::{
    Access, Address, Broker, Durability, Environment, Everybody, SharedToken, Store, StoreError,
    TopicName, WriteBatch,
};
use ltq_discovery::Discovery;
use ltq_transport::Transports;
use tracing::debug;

use crate::{
    InboxHandler, Mesh, MeshName, MeshSettings, SettingsError, StartError,
    shared::{Parts, Shared},
};

/// Describes a program's part in a mesh. What is wrong with it, [`start`](Self::start) says.
pub struct MeshBuilder {
    name: String,
    mesh: String,
    transports: Transports,
    listen: Vec<String>,
    advertise: Vec<String>,
    peers: Vec<(String, Vec<String>)>,
    discovery: Option<Arc<dyn Discovery>>,
    token: Option<String>,
    handler: Option<Box<dyn InboxHandler>>,
    settings: MeshSettings,
    environment: Environment,
}

impl MeshBuilder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mesh: "mesh".to_owned(),
            transports: Transports::new(),
            listen: Vec::new(),
            advertise: Vec::new(),
            peers: Vec::new(),
            discovery: None,
            token: None,
            handler: None,
            settings: MeshSettings::default(),
            environment: Environment::system(),
        }
    }

    /// Which mesh it is of, where programs of several share a network or a registry: 1 to
    /// 48 of `[A-Za-z0-9._-]`. Default: `mesh`.
    #[must_use]
    pub fn mesh(mut self, name: &str) -> Self {
        name.clone_into(&mut self.mesh);
        self
    }

    /// What carries the bytes. Default: nothing, so that no address can be used.
    #[must_use]
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// An address to listen on; may be said several times. Default: none, so that peers cannot call.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// An address under which others reach this program, to be announced by the discovery scheme; may be said
    /// several times. Default: the addresses that it listens on, once it does.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise.push(address.into());
        self
    }

    /// A peer and its addresses, the preferred ones first. One without an address has to call. May be said
    /// several times; the last word on a name counts.
    #[must_use]
    pub fn peer<A: Into<String>>(
        mut self,
        name: impl Into<String>,
        addresses: impl IntoIterator<Item = A>,
    ) -> Self {
        self.peers.push((name.into(), addresses.into_iter().map(Into::into).collect()));
        self
    }

    /// By which peers are found and this program is announced. A node's id is a peer's name. Peers that are
    /// named by [`peer`](Self::peer) keep the addresses from there. Default: none.
    #[must_use]
    pub fn discovery(mut self, discovery: Arc<dyn Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// The secret that all programs of the mesh share: 1 to 1,024 bytes. It crosses the network as it is,
    /// so that it is worth as much as the transport. Default: none, and everybody may come in.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Who is asked before a message of another program is stored. Default: nobody, and all are.
    #[must_use]
    pub fn handler(mut self, handler: impl InboxHandler) -> Self {
        self.handler = Some(Box::new(handler));
        self
    }

    /// Times and limits. Default: [`MeshSettings::default`].
    #[must_use]
    pub fn settings(mut self, settings: MeshSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Where wall time and chance come from. Default: the operating system.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Starts the embedded broker on a store, and begins to listen and to connect in the background. Needs a
    /// tokio runtime with time enabled. Whoever wants to send to a peer at once waits for it
    /// ([`Mesh::connected`]).
    ///
    /// The store is this program's own. One that is durable keeps the inbox, and what is known of who sent
    /// what into it, over restarts.
    ///
    /// # Errors
    /// [`StartError`]; then nothing runs. That an address cannot be listened on, or a peer not be connected
    /// to, is none: it is tried again, and [`Mesh::watch`] tells.
    pub async fn start(self, store: impl Store) -> Result<Mesh, StartError> {
        let name = MeshName::new(&self.name)?;
        check_mesh(&self.mesh)?;
        self.settings.check()?;
        let mut peers = BTreeMap::new();
        for (peer, addresses) in &self.peers {
            let peer = MeshName::new(peer)?;
            if peer == name {
                return Err(StartError::OwnName(peer));
            }
            peers.insert(peer, parsed(addresses)?);
        }
        if peers.len() > self.settings.peers_max {
            return Err(StartError::Settings(SettingsError {
                setting: "peers_max",
                value: self.settings.peers_max.to_string(),
                allowed: format!("at least the {} peers that are configured", peers.len()),
            }));
        }
        let (listen, advertise) = (parsed(&self.listen)?, parsed(&self.advertise)?);
        let access: Box<dyn Access> = match &self.token {
            Some(token) => Box::new(SharedToken::new(token.clone())?),
            None => Box::new(Everybody),
        };
        let store: Arc<dyn Store> = Arc::new(store);
        let settings = self.settings.broker(name.as_str(), store.durability_max());
        let broker = Broker::start(store.clone(), settings, self.environment.clone()).await?;
        let inbox = match identity(&*store, self.environment.random()).await {
            Ok(inbox) => inbox,
            Err(error) => return Err(not_started(&broker, error.into()).await),
        };
        let (shared, gone) = Shared::new(Parts {
            name,
            mesh: self.mesh,
            inbox,
            settings: self.settings,
            environment: self.environment,
            transports: self.transports,
            token: self.token,
            access,
            handler: self.handler,
            broker: broker.clone(),
            listen: listen.clone(),
        });
        let own = match shared.publisher(None).await {
            Ok(own) => own,
            Err(error) => return Err(not_started(&broker, error.into()).await),
        };
        shared.start(listen, peers, self.discovery, advertise);
        Ok(Mesh::new(shared, own, gone))
    }
}

/// Without the token.
impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("name", &self.name)
            .field("mesh", &self.mesh)
            .field("listen", &self.listen)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Stops the broker that was started already.
async fn not_started(broker: &Broker<Arc<dyn Store>>, error: StartError) -> StartError {
    if let Err(error) = broker.stop(STOP).await {
        debug!(%error, "the broker of a mesh that did not start has not stopped as it should");
    }
    error
}

fn parsed(addresses: &[String]) -> Result<Vec<Address>, StartError> {
    Ok(addresses.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?)
}

/// The rule for names in general, and that it fits what is announced.
fn check_mesh(mesh: &str) -> Result<(), StartError> {
    let too_long = || ltq_core::NameError::TooLong { what: "mesh", bytes: mesh.len() };
    if mesh.len() > MESH_BYTES_MAX {
        return Err(StartError::Mesh(too_long()));
    }
    let name = TopicName::new(mesh).map_err(StartError::Mesh)?;
    match name.is_ephemeral() {
        true => Err(StartError::Mesh(ltq_core::NameError::Character {
            what: "mesh",
            name: mesh.to_owned(),
            found: '#',
        })),
        false => Ok(()),
    }
}

/// What tells an inbox from others, as long as its store keeps it: who has sent to another one does not
/// take what that knew for what this knows.
async fn identity(store: &dyn Store, random: u64) -> Result<u64, StoreError> {
    if let Some(bytes) = store.value(IDENTITY)?
        && let Ok(bytes) = <[u8; 8]>::try_from(&*bytes)
    {
        return Ok(u64::from_le_bytes(bytes));
    }
    let mut batch = WriteBatch::new();
    batch.put(IDENTITY, Bytes::copy_from_slice(&random.to_le_bytes()));
    store.commit(batch, Durability::Disk.min(store.durability_max())).await?;
    Ok(random)
}

/// How long a broker may take to stop that nobody has used.
const STOP: Duration = Duration::from_secs(5);
/// A name and what stands before it fit the version of a node.
const MESH_BYTES_MAX: usize = 48;
/// None of the broker's keys begins so.
const IDENTITY: &[u8] = b"mesh/inbox";
