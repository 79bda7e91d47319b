//! Peers that are discovered.

use std::sync::Arc;

use async_trait::async_trait;
use ltq_core::{SystemEntropy, Transport as _};
use ltq_discovery::{
    Announced, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, StaticList, Watch,
    registry::{Registries, RegistryServer, RegistryServerSettings},
};
use ltq_mesh::{DownCause, Mesh, MeshSettings, MeshStates, PeerState, SendError};
use ltq_transport::{InProcess, Transports};
use tokio::sync::watch;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_list_names_all_programs_to_each_of_them() {
    let links = InProcess::new();
    let names = ["one", "two", "three"];
    let nodes = names.map(|name| {
        NodeInfo::new(name.parse().unwrap(), [format!("in-process://{name}").parse().unwrap()])
            .unwrap()
    });
    let list = Arc::new(StaticList::of_nodes(nodes).unwrap());
    let mut meshes = Vec::new();
    for name in names {
        let mesh = linked(name, &links).discovery(list.clone()).start(store()).await.unwrap();
        meshes.push(mesh);
    }
    for from in &meshes {
        for to in &meshes {
            if from.name() != to.name() {
                within("they connect", from.connected(to.name().as_str())).await.unwrap();
                from.send(to.name().as_str(), from.name().to_string()).await.unwrap();
            }
        }
    }
    for mesh in &meshes {
        let mut inbox = mesh.inbox().await.unwrap();
        let mut from = [next(&mut inbox).await.0, next(&mut inbox).await.0];
        from.sort_unstable();
        let others: Vec<_> =
            ["one", "three", "two"].into_iter().filter(|name| mesh.name() != *name).collect();
        assert_eq!(from.to_vec(), others);
    }
}

#[tokio::test(start_paused = true)]
async fn programs_find_each_other_by_a_registry_and_forget_who_left() {
    let links = InProcess::new();
    let transports = || Transports::new().with(links.clone());
    let server = RegistryServer::new(RegistryServerSettings::default(), &SystemEntropy).unwrap();
    let listener = links.listen(&"in-process://registry".parse().unwrap()).await.unwrap();
    tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener).await }
    });
    tokio::spawn(async move { server.run().await });
    let registries = || {
        let builder = Registries::builder(transports()).registry("in-process://registry");
        Arc::new(builder.build().unwrap())
    };
    let part = |name: &str, mesh: &str| {
        Mesh::builder(name)
            .mesh(mesh)
            .transports(transports())
            .listen(format!("in-process://{name}-of-{mesh}"))
            .settings(quick())
            .discovery(registries())
            .start(store())
    };
    let (one, two) = (part("one", "m").await.unwrap(), part("two", "m").await.unwrap());
    // Of another mesh in the same registry, one of the same name among them, and a broker of that name.
    let other = part("other", "n").await.unwrap();
    let namesake = part("one", "n").await.unwrap();
    let address = "in-process://broker".parse().unwrap();
    let broker = NodeInfo::new("one".parse().unwrap(), [address]).unwrap();
    let _broker = registries().announce(broker).await.unwrap();
    both(&other, &namesake).await;
    both(&one, &two).await;
    one.send("two", "x").await.unwrap();
    let three = part("three", "m").await.unwrap();
    both(&three, &one).await;
    both(&three, &two).await;
    assert_eq!(other.states().peers().len(), 1);
    let mut brokers = registries().watch(&Interest::Nodes).await.unwrap();
    let brokers = brokers.changed().await.unwrap();
    assert_eq!(brokers.iter().map(|node| node.id().as_str()).collect::<Vec<_>>(), ["one"]);
    assert!(matches!(one.send("other", "x").await, Err(SendError::NoSuchPeer { .. })));
    three.close().await.unwrap();
    let forgotten = |states: &MeshStates| states.peer("three").is_none();
    within("it is forgotten", one.watch().until(forgotten)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_configured_and_who_is_discovered_are_found_beside_each_other() {
    let links = InProcess::new();
    let node = NodeInfo::new("two".parse().unwrap(), ["in-process://two".parse().unwrap()]);
    let list = Arc::new(StaticList::of_nodes([node.unwrap()]).unwrap());
    let two = linked("two", &links).start(store()).await.unwrap();
    let three = linked("three", &links).start(store()).await.unwrap();
    let one = linked("one", &links).peer("three", ["in-process://three"]).discovery(list);
    let one = one.start(store()).await.unwrap();
    for other in [two, three] {
        both(&one, &other).await;
        one.send(other.name().as_str(), "x").await.unwrap();
        assert_eq!(texts(&mut other.inbox().await.unwrap(), 1).await, ["x"]);
    }
}

/// Tells of nodes what a test says.
pub(crate) struct Told(pub(crate) watch::Receiver<NodeSet>);

#[async_trait]
impl Discovery for Told {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("a test"))
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let mut told = self.0.clone();
        told.mark_changed();
        Ok(Box::new(Self(told)))
    }
}

#[async_trait]
impl Watch for Told {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        match self.0.changed().await {
            Ok(()) => Ok(self.0.borrow_and_update().clone()),
            Err(_) => std::future::pending().await,
        }
    }
}

/// One node, there.
pub(crate) fn node_at(name: &str, address: &str) -> NodeSet {
    let node = NodeInfo::new(name.parse().unwrap(), [address.parse().unwrap()]).unwrap();
    [node].into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn who_is_found_elsewhere_or_was_only_known_by_its_calls_is_called_there_at_once() {
    let (links, (tell, told)) = (InProcess::new(), watch::channel(NodeSet::default()));
    let hour = MeshSettings { reconnect_interval: millis(3_600_000), ..quick() };
    let one = linked("one", &links).discovery(Arc::new(Told(told))).settings(hour);
    let one = one.start(store()).await.unwrap();
    tell.send_replace(node_at("two", "in-process://nowhere"));
    let is_down = |states: &MeshStates| {
        matches!(
            states.peer("two"),
            Some(PeerState::Disconnected { cause: DownCause::Unreachable(_), .. })
        )
    };
    within("it is down", one.watch().until(is_down)).await.unwrap();
    let two = linked("two", &links).start(store()).await.unwrap();
    tell.send_replace(node_at("two", "in-process://two"));
    both(&one, &two).await;
    // One that calls, goes, and is found then.
    let caller = || linked("caller", &links);
    let first = caller().peer("one", ["in-process://one"]).start(store()).await.unwrap();
    both(&one, &first).await;
    first.close().await.unwrap();
    let waits = |states: &MeshStates| states.peer("caller") == Some(&PeerState::Waiting);
    within("it is gone", one.watch().until(waits)).await.unwrap();
    drop(first);
    let second = caller().start(store()).await.unwrap();
    tell.send_replace(node_at("caller", "in-process://caller"));
    both(&one, &second).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_configured_keeps_its_addresses_whatever_is_discovered() {
    let links = InProcess::new();
    let nodes =
        ["two", "three"].map(|name| node_at(name, &format!("in-process://{name}.elsewhere")));
    let nodes = nodes.into_iter().flat_map(|nodes| nodes.iter().cloned().collect::<Vec<_>>());
    let (_tell, told) = watch::channel(nodes.collect());
    let one = linked("one", &links).discovery(Arc::new(Told(told)));
    // The list has another address for this one, and none for that.
    let one = one.peer("two", ["in-process://two"]).peer("four", ["in-process://four"]);
    let one = one.start(store()).await.unwrap();
    let is_told = |states: &MeshStates| match states.peer("three") {
        Some(PeerState::Disconnected { failures, .. }) => *failures >= 2,
        _ => false,
    };
    within("the list is known", one.watch().until(is_told)).await.unwrap();
    for name in ["two", "four"] {
        let other = linked(name, &links).start(store()).await.unwrap();
        both(&one, &other).await;
        one.send(name, "x").await.unwrap();
    }
}
