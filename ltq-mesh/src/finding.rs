//! Finding peers by a discovery scheme, and being found.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ltq_core::Address;
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Epoch, Interest, NodeId, NodeInfo, NodeSet,
};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::{MeshName, keeper::jittered, shared::Shared};

/// Follows what the scheme tells of the mesh for as long as it is open.
pub(crate) async fn watch(shared: Arc<Shared>, discovery: Arc<dyn Discovery>) {
    let following = async {
        loop {
            match discovery.watch(&Interest::Nodes).await {
                Ok(mut watch) => loop {
                    match watch.changed().await {
                        Ok(nodes) => shared.found(&members(&shared, &nodes)),
                        Err(error) => {
                            debug!(%error, "sight of the discovery scheme is lost");
                            rest(&shared).await;
                        }
                    }
                },
                Err(error) => warn!(%error, "peers cannot be discovered; it is tried again"),
            }
            rest(&shared).await;
        }
    };
    tokio::select! {
        () = shared.stopping() => {}
        () = following => {}
    }
}

/// Announces this program once it listens, until the mesh is closed.
pub(crate) async fn announce(
    shared: Arc<Shared>,
    discovery: Arc<dyn Discovery>,
    advertised: Vec<Address>,
) {
    let announcing = async {
        let addresses = match advertised.is_empty() {
            false => advertised,
            true => {
                let mut states = shared.states.watch();
                let is_listening = states.until(|states| states.local_addresses().next().is_some());
                is_listening.await?.local_addresses().cloned().collect()
            }
        };
        loop {
            match announce_once(&shared, &*discovery, &addresses).await {
                Ok(Announced::Known(announcement)) => return Some(announcement),
                Ok(Announced::NotTaken(why)) => {
                    debug!(why, "not announced");
                    return None;
                }
                Err(error) => warn!(%error, "not announced; it is tried again"),
            }
            rest(&shared).await;
        }
    };
    let announcement: Option<Box<dyn Announcement>> = tokio::select! {
        () = shared.stopping() => return,
        announcement = announcing => announcement,
    };
    let Some(announcement) = announcement else { return };
    shared.stopping().await;
    match timeout(WITHDRAW, announcement.withdraw()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "not withdrawn"),
        Err(_) => debug!("not withdrawn in time"),
    }
}

async fn announce_once(
    shared: &Shared,
    discovery: &dyn Discovery,
    addresses: &[Address],
) -> Result<Announced, DiscoveryError> {
    match node(shared, addresses) {
        Ok(node) => discovery.announce(node).await,
        Err(why) => Err(DiscoveryError::Refused { backend: "this program".to_owned(), why }),
    }
}

/// This program as a node.
fn node(shared: &Shared, addresses: &[Address]) -> Result<NodeInfo, String> {
    let id = NodeId::new(shared.name.as_str()).map_err(|error| error.to_string())?;
    let epoch = Epoch { started: shared.environment.now().wall.0, instance: shared.instance };
    NodeInfo::new(id, addresses.iter().cloned())
        .and_then(|node| node.with_epoch(epoch).with_version(&version(&shared.mesh)))
        .map_err(|error| error.to_string())
}

/// By which members of a mesh are told from nodes and members of others in the same registry.
fn version(mesh: &str) -> String {
    format!("{VERSION}{mesh}")
}

/// Who of the nodes is of the mesh, as far as can be told: a list says nothing of versions.
fn members(shared: &Shared, nodes: &NodeSet) -> BTreeMap<MeshName, Vec<Address>> {
    let ours = version(&shared.mesh);
    let is_of_mesh = |node: &&NodeInfo| node.version().is_none_or(|version| version == ours);
    let named = nodes.iter().filter(is_of_mesh).filter_map(|node| {
        let name = MeshName::new(node.id().as_str()).ok()?;
        (name != shared.name).then(|| (name, node.addresses().to_vec()))
    });
    named.collect()
}

async fn rest(shared: &Shared) {
    sleep(jittered(shared.settings.reconnect_interval, shared.environment.random())).await;
}

const VERSION: &str = "ltq-mesh/1/";
/// How long a withdrawal may take; without one, heartbeats that stay away tell the same.
const WITHDRAW: Duration = Duration::from_secs(1);
