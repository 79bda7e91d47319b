//! A registry that knows three real nodes, those, and a cluster that knows the registry alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ltq_client::{Client, Cluster, ConsumerBuilder, ID_HEADER};
use serde_json::Value;
use tempfile::TempDir;

use crate::{NodeProcess, RegistryProcess, Stalls, folder_in_memory, within};

/// All of it.
pub struct Field {
    folder: TempDir,
    config: PathBuf,
    at: String,
    /// While it is there.
    pub registry: Option<RegistryProcess>,
    /// Those that are there.
    pub nodes: BTreeMap<&'static str, NodeProcess>,
    /// It knows the registry's address, and nothing else.
    pub cluster: Cluster,
    /// Of this program, the registry and the nodes.
    pub stalls: Arc<Stalls>,
}

/// What a node has of a topic, in its order: the bodies, and the ids.
pub type Stored = BTreeMap<&'static str, Vec<(String, String)>>;

impl Field {
    /// Those that are there at first.
    pub const NAMES: [&'static str; 3] = ["n1", "n2", "n3"];
    /// That of the registry: who does not beat for three of these is suspected.
    pub const HEARTBEAT: Duration = Duration::from_millis(200);

    /// Starts all of it, each node with this in its configuration file.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn new(config: &str) -> Self {
        // What a device takes for a sync is not judged here.
        let folder = folder_in_memory().expect("a folder");
        let file = folder.path().join("ltq.toml");
        std::fs::write(&file, config).expect("written");
        let beats = ["--heartbeat", &format!("{}ms", Self::HEARTBEAT.as_millis())];
        let registry = RegistryProcess::start(0, &beats).await.expect("a registry");
        let at = registry.address().to_string();
        let stalls = Arc::new(Stalls::watch());
        stalls.watch_process(Some(std::process::id()));
        stalls.watch_process(registry.pid());
        let cluster = Cluster::builder().registry(&at).connect().await.expect("a cluster");
        let (registry, nodes) = (Some(registry), BTreeMap::new());
        let mut field = Self { folder, config: file, at, registry, nodes, cluster, stalls };
        for name in Self::NAMES {
            field.start(name, 0).await;
        }
        let all = |nodes: &[Value]| nodes.len() == Self::NAMES.len();
        field.registry().until("all are there", all).await;
        field
    }

    /// Starts a node. What keeps it from running is known from then on.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self, name: &'static str, port: u16) {
        let config = self.config.to_str().expect("a path");
        let more = ["--node", name, "--registry", &self.at, "--config", config];
        let node = NodeProcess::start(&self.folder.path().join(name), port, &more).await;
        let node = node.expect("a node");
        self.stalls.watch_process(node.pid());
        self.nodes.insert(name, node);
    }

    /// The registry.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn registry(&self) -> &RegistryProcess {
        self.registry.as_ref().expect("a registry")
    }

    /// Tells a node to end, and waits for that.
    ///
    /// # Panics
    /// When it is not there, or does not end well. Returns where it listened.
    pub async fn end(&mut self, name: &str) -> u16 {
        let node = self.nodes.remove(name).expect("it");
        let port = node.port();
        assert!(node.terminate().await.expect("it ends").success(), "{name} did not end well");
        port
    }

    /// Starts a node that ended before, and waits until the registry has all three.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn start_again(&mut self, name: &'static str, port: u16) {
        self.start(name, port).await;
        let is_well = |node: &Value| node["state"] == "ready" && node["suspected"] == false;
        let all = |nodes: &[Value]| nodes.len() == Self::NAMES.len() && nodes.iter().all(is_well);
        self.registry().until("it is back", all).await;
    }

    /// What each node has of a topic.
    ///
    /// # Panics
    /// When one does not tell.
    pub async fn stored(&self, topic: &str) -> Stored {
        let mut stored = Stored::new();
        for (name, node) in &self.nodes {
            let client = Client::connect(&node.address().to_string()).await.expect("connected");
            let names = client.admin().list_topics().await.expect("topics");
            if !names.iter().any(|name| name.as_str() == topic) {
                continue;
            }
            let count = client.admin().show_topic(topic).await.expect("the topic").end.0;
            let consumer = client.consumer_builder(topic, "check");
            let mut consumer = ConsumerBuilder::open(consumer).await.expect("a consumer");
            let mut found = Vec::new();
            while (found.len() as u64) < count {
                let delivery = within("a message", consumer.next()).await.expect("one");
                let delivery = delivery.expect("whole");
                let message = &delivery.message;
                let id = message.headers.get(ID_HEADER);
                let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
                let body = String::from_utf8_lossy(&message.body).into_owned();
                found.push((body, id.unwrap_or_default()));
                delivery.ack().expect("in time");
            }
            stored.insert(*name, found);
        }
        stored
    }
}

/// Everything that was confirmed, by body and node, is where its receipt says; what is there twice is so on two nodes
/// and has the same id.
///
/// # Panics
/// When it is not so.
pub fn check_stored(confirmed: &BTreeMap<String, String>, stored: &Stored) {
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut there: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, messages) in stored {
        let seen = there.entry(name).or_default();
        for (body, id) in messages {
            assert!(seen.insert(body), "{body} is twice on {name}");
            ids.entry(body).or_default().insert(id);
        }
    }
    for (body, node) in confirmed {
        let is_there = there.get(node.as_str()).is_some_and(|seen| seen.contains(body.as_str()));
        assert!(is_there, "{body} is not on {node}");
    }
    for (body, ids) in ids {
        assert_eq!(ids.len(), 1, "{body} has several ids");
    }
}
