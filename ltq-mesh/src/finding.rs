//! Finding peers by a discovery scheme, and being found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ltq_core::Address;
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Epoch, Interest, NodeId, NodeInfo, NodeSet,
};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::{MeshName, MeshStates, guard::guarded, keeper::jittered, lines::say, shared::Shared};

/// Follows what the scheme tells of the mesh for as long as it is open.
pub(crate) async fn watch(shared: Arc<Shared>, discovery: Arc<dyn Discovery>) {
    let following = async {
        let mut is_blind = false;
        let mut left_out = BTreeSet::new();
        loop {
            let lost =
                match guarded(follow(&shared, &*discovery, &mut is_blind, &mut left_out)).await {
                    Ok(error) => error.to_string(),
                    Err(panic) => format!("it panicked: {panic}"),
                };
            // Once, until it is had again.
            if !std::mem::replace(&mut is_blind, true) {
                let lines = &shared.lines.discovery;
                say!(lines, warn, error = lost, "peers cannot be discovered; it is tried again");
            }
            rest(&shared).await;
        }
    };
    tokio::select! {
        () = shared.stopping() => {}
        () = following => {}
    }
}

/// Follows one watch until there can be none.
async fn follow(
    shared: &Arc<Shared>,
    discovery: &dyn Discovery,
    is_blind: &mut bool,
    left_out: &mut BTreeSet<MeshName>,
) -> DiscoveryError {
    let mut watch = match discovery.watch(&Interest::Mesh(shared.mesh.to_string())).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    // What there was no room for; it is tried again, as others may be forgotten.
    let mut again = None;
    loop {
        let changed = tokio::select! {
            changed = watch.changed() => changed.map(|nodes| members(shared, &nodes)),
            () = rest(shared), if again.is_some() => Ok(again.take().unwrap_or_default()),
        };
        match changed {
            Ok(members) => {
                if std::mem::take(is_blind) {
                    say!(shared.lines.discovery, info, "peers are discovered again");
                }
                let without_room = shared.found(&members);
                tell_left_out(shared, left_out, &without_room);
                again = (!without_room.is_empty()).then_some(members);
                *left_out = without_room;
            }
            Err(error) => {
                debug!(%error, "sight of the discovery scheme is lost");
                rest(shared).await;
            }
        }
    }
}

/// Says for whom there is no room, when that changes and not each time that it is tried.
fn tell_left_out(shared: &Shared, before: &BTreeSet<MeshName>, now: &BTreeSet<MeshName>) {
    let (max, left_out) = (shared.settings.peers_max, now.len());
    let lines = &shared.lines.left_out;
    if let Some(one) = now.difference(before).next() {
        say!(lines, warn, peer = %one, left_out, max, "too many peers; this one is left out, and more may be");
    } else if now.is_empty() && !before.is_empty() {
        say!(lines, info, "there is room for all peers again");
    }
}

/// Announces this program as long as the mesh is open, from when it listens on: where it does, and where
/// else it does later.
pub(crate) async fn announce(
    shared: Arc<Shared>,
    discovery: Arc<dyn Discovery>,
    advertised: Vec<Address>,
) {
    let mut announced = None;
    let mut is_unheard = false;
    let announcing = async {
        loop {
            let known = (&mut announced, &mut is_unheard);
            let keeping = keep_announced(&shared, &*discovery, &advertised, known);
            let failed = match guarded(keeping).await {
                // There is nothing more to be said.
                Ok(Ok(())) => return shared.stopping().await,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("it panicked: {panic}"),
            };
            // Once, until it is announced.
            if !std::mem::replace(&mut is_unheard, true) {
                let lines = &shared.lines.announcing;
                say!(
                    lines,
                    warn,
                    error = failed,
                    "not announced as it should be; it is tried again"
                );
            }
            rest(&shared).await;
        }
    };
    tokio::select! {
        () = shared.stopping() => {}
        () = announcing => {}
    }
    let Some(announcement) = announced else { return };
    match timeout(WITHDRAW, announcement.withdraw()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "not withdrawn"),
        Err(_) => debug!("not withdrawn in time"),
    }
}

/// Announces, and again whenever this program listens elsewhere. While it listens nowhere what was said last
/// stands: others go on knowing the name.
async fn keep_announced(
    shared: &Shared,
    discovery: &dyn Discovery,
    advertised: &[Address],
    (announced, is_unheard): (&mut Option<Box<dyn Announcement>>, &mut bool),
) -> Result<(), DiscoveryError> {
    let mut states = shared.states.watch();
    let mut told: Vec<Address> = Vec::new();
    loop {
        let addresses = match advertised.is_empty() {
            false => advertised.to_vec(),
            true => {
                let is_elsewhere = |states: &MeshStates| {
                    let mut now = states.local_addresses().peekable();
                    now.peek().is_some() && !now.eq(&told)
                };
                // The mesh is closed.
                let Some(states) = states.until(is_elsewhere).await else { return Ok(()) };
                states.local_addresses().cloned().collect()
            }
        };
        let node = node(shared, &addresses)
            .map_err(|why| DiscoveryError::Refused { backend: "this program".to_owned(), why })?;
        match announced {
            Some(announced) => announced.update(node).await?,
            None => match discovery.announce(node).await? {
                Announced::Known(announcement) => *announced = Some(announcement),
                Announced::NotTaken(why) => {
                    debug!(why, "not announced");
                    return Ok(());
                }
            },
        }
        if std::mem::take(is_unheard) {
            say!(shared.lines.announcing, info, "announced");
        }
        if !advertised.is_empty() {
            return Ok(());
        }
        told = addresses;
    }
}

/// This program as a node.
fn node(shared: &Shared, addresses: &[Address]) -> Result<NodeInfo, String> {
    let id = NodeId::of_program(&shared.mesh, shared.name.as_str());
    let id = id.map_err(|error| error.to_string())?;
    let epoch = Epoch { started: shared.started, instance: shared.instance };
    NodeInfo::new(id, addresses.iter().cloned())
        .and_then(|node| node.with_epoch(epoch).with_version(VERSION))
        .map_err(|error| error.to_string())
}

/// Who of the nodes is of the mesh: those that a list names plainly are, too.
fn members(shared: &Shared, nodes: &NodeSet) -> BTreeMap<MeshName, Vec<Address>> {
    let named = nodes.iter().filter_map(|node| {
        let name = match node.id().program() {
            Some((mesh, name)) => (mesh == &*shared.mesh).then_some(name)?,
            None => node.id().as_str(),
        };
        let name = MeshName::new(name).ok()?;
        (name != shared.name).then(|| (name, node.addresses().to_vec()))
    });
    named.collect()
}

async fn rest(shared: &Shared) {
    sleep(jittered(shared.settings.reconnect_interval, shared.environment.random())).await;
}

/// What operators see of the program.
const VERSION: &str = concat!("ltq-mesh ", env!("CARGO_PKG_VERSION"));
/// How long a withdrawal may take; without one, heartbeats that stay away tell the same.
const WITHDRAW: Duration = Duration::from_secs(1);
