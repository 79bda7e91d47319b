//! Hosts that announce themselves under the id of a node, with the right token or a wrong one. Nobody listens
//! there: whoever believes them finds nobody.

use std::{sync::Arc, time::Duration};

use ltq_core::{Address, Transport};
use ltq_discovery::{Announced, Discovery as _, Epoch, NodeId, NodeInfo, registry::Registries};
use ltq_transport::Transports;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{history::Scene, world::World};
use crate::{chance::Seeded, history::What, stores::Stores};

/// Somebody who says that he is a node.
pub(super) struct Stranger {
    pub(super) host: String,
    /// One for each task: which of several hears first of a change that all wait for is chance that no seed gives.
    goes: Vec<watch::Sender<bool>>,
    tasks: JoinSet<()>,
}

impl<S: Stores> World<S> {
    /// Somebody announces himself under the id of a node, as a later run of it.
    pub(super) fn stranger_comes(&mut self, chance: &Seeded, node: usize) -> Option<String> {
        let node = self.members.get(node)?;
        let host = format!("s{}", self.strangers.len());
        let is_let_in = self.token.is_none() || chance.one_in(2);
        let token = if is_let_in { self.token.clone() } else { Some(WRONG_TOKEN.to_owned()) };
        let transport: Arc<dyn Transport> = (self.wrap)(self.network.host(host.as_str()));
        let started = node.node.now().0 + chance.below(60_000);
        let address = Address::new(transport.scheme(), host.as_str());
        let id: NodeId = node.name().parse().ok()?;
        let info = NodeInfo::new(id, [address]).ok()?;
        let info = info.with_epoch(Epoch { started, instance: chance.fork().below(u64::MAX) });
        let node = node.name().to_owned();
        self.history.add(&host, What::Cluster(Scene::Poses { node, is_let_in }));
        let (mut goes, mut tasks) = (Vec::new(), JoinSet::new());
        for address in &self.addresses {
            let transports = Transports::new().with_arc(Arc::clone(&transport));
            let mut registry = Registries::builder(transports)
                .registry(address.clone())
                .entropy(Arc::new(chance.fork()));
            if let Some(token) = &token {
                registry = registry.token(token.clone());
            }
            let Ok(registry) = registry.build() else { continue };
            let (go, stay) = watch::channel(false);
            goes.push(go);
            tasks.spawn(pose(registry, info.clone(), stay));
        }
        self.strangers.push(Stranger { host: host.clone(), goes, tasks });
        Some(host)
    }

    /// He goes, with a word to those who know him or without.
    pub(super) async fn stranger_goes(&mut self, host: &str, silent: bool) {
        let Some(stranger) = self.strangers.iter_mut().find(|it| it.host == host) else { return };
        if stranger.tasks.is_empty() {
            return;
        }
        self.history.note(host, format!("goes; silent: {silent}"));
        if silent {
            self.network.cut(host, true);
        } else {
            for goes in &stranger.goes {
                goes.send_replace(true);
            }
            let gone = async { while stranger.tasks.join_next().await.is_some() {} };
            // Where a registry is gone nobody hears of it.
            let _ = timeout(PATIENCE, gone).await;
        }
        stranger.tasks = JoinSet::new();
    }
}

/// Announces, until it goes or is dropped.
async fn pose(registry: Registries, info: NodeInfo, mut stay: watch::Receiver<bool>) {
    let announced = loop {
        match registry.announce(info.clone()).await {
            Ok(Announced::Known(announced)) => break announced,
            Ok(Announced::NotTaken(_)) => return,
            Err(_) => sleep(PATIENCE).await,
        }
    };
    // The sender lives longer than this.
    let _ = stay.wait_for(|goes| *goes).await;
    let _ = announced.withdraw().await;
}

/// How long he waits for what is not to be hurried.
const PATIENCE: Duration = Duration::from_secs(1);
/// What no registry of a play ever lets in.
pub(super) const WRONG_TOKEN: &str = "guessed";
/// What registries want where they want any.
pub(super) const TOKEN: &str = "right";
