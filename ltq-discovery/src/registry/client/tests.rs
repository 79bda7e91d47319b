use std::{collections::BTreeSet, time::Duration};

use ltq_core::{Address, SharedToken, SystemEntropy, TopicName, Transport};
use ltq_transport::InProcess;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    Announcement, Epoch, Interest, NodeId, NodeSet, NodeState,
    registry::{RegistryServer, RegistryServerSettings, RegistrySettings},
};

/// A registry that can be stopped and started again.
pub(super) struct Served {
    pub(super) server: RegistryServer,
    tasks: Vec<JoinHandle<()>>,
}

impl Served {
    pub(super) async fn start(network: &InProcess, name: &str) -> Self {
        Self::start_with(network, name, RegistryServerSettings::default()).await
    }

    pub(super) async fn start_with(
        network: &InProcess,
        name: &str,
        settings: RegistryServerSettings,
    ) -> Self {
        let server = RegistryServer::new(settings, &SystemEntropy).unwrap();
        let listener = network.listen(&Address::new("in-process", name)).await.unwrap();
        let (running, serving) = (server.clone(), server.clone());
        let run = tokio::spawn(async move { running.run().await });
        let serve = tokio::spawn(async move { serving.serve(listener).await.unwrap() });
        Self { server, tasks: vec![run, serve] }
    }

    pub(super) async fn stop(self) {
        self.server.stop();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

pub(super) fn registries(network: &InProcess, names: &[&str]) -> Registries {
    let builder = Registries::builder(network.clone());
    let named =
        |builder: RegistriesBuilder, name: &&str| builder.registry(format!("in-process://{name}"));
    names.iter().fold(builder, named).build().unwrap()
}

pub(super) fn node(id: &str, topics: &[&str]) -> NodeInfo {
    let topics = topics.iter().map(|name| (name.parse().unwrap(), BTreeSet::new())).collect();
    NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()])
        .unwrap()
        .with_epoch(Epoch { started: 1, instance: 1 })
        .with_topics(topics)
}

pub(super) async fn announced(registries: &Registries, node: NodeInfo) -> Box<dyn Announcement> {
    match registries.announce(node).await.unwrap() {
        Announced::Known(announcement) => announcement,
        other @ Announced::NotTaken(_) => panic!("{other:?}"),
    }
}

/// Waits until a watch gives a set that is as wanted; a loss of sight is no end.
pub(super) async fn until(
    watch: &mut Box<dyn Watch>,
    mut wanted: impl FnMut(&NodeSet) -> bool,
) -> NodeSet {
    let waiting = async {
        loop {
            if let Ok(nodes) = watch.changed().await
                && wanted(&nodes)
            {
                return nodes;
            }
        }
    };
    timeout(Duration::from_secs(120), waiting).await.expect("it comes")
}

pub(super) fn ids(nodes: &NodeSet) -> Vec<&str> {
    nodes.iter().map(|node| node.id().as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn watchers_are_told_of_nodes_and_of_their_changes_at_once() {
    let network = InProcess::new();
    let _registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let mut watch = registries.watch(&Interest::Topic("orders".parse().unwrap())).await.unwrap();
    assert!(until(&mut watch, |_| true).await.is_empty());
    let mut announcement = announced(&registries, node("n1", &["mail"])).await;
    let began = tokio::time::Instant::now();
    announcement.update(node("n1", &["mail", "orders"])).await.unwrap();
    let nodes = until(&mut watch, |nodes| !nodes.is_empty()).await;
    assert_eq!(nodes, [node("n1", &["orders"])].into_iter().collect());
    let drains = node("n1", &["mail", "orders"]).with_state(NodeState::Draining);
    announcement.update(drains).await.unwrap();
    let draining = |nodes: &NodeSet| nodes.iter().all(|node| node.state() == NodeState::Draining);
    until(&mut watch, draining).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    announcement.withdraw().await.unwrap();
    until(&mut watch, NodeSet::is_empty).await;
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_of_many_topics_is_told_whole() {
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let names: Vec<_> = (0..20_000).map(|n| format!("topic-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut many = node("n1", &names);
    let channels = (0..10_000).map(|n| format!("channel-{n}").parse().unwrap()).collect();
    many.add_topics([("wide".parse().unwrap(), channels)]);
    let mut announcement = announced(&registries, many.clone()).await;
    let mut watch = registries.watch(&Interest::Everything).await.unwrap();
    let nodes = until(&mut watch, |nodes| !nodes.is_empty()).await;
    assert!(nodes.get(many.id()) == Some(&many));
    // All but one of them go, and the wide one changes.
    let mut few = node("n1", &["topic-7"]);
    let channels: BTreeSet<_> =
        (1..10_000).map(|n| format!("channel-{n}").parse().unwrap()).collect();
    few.add_topics([("wide".parse().unwrap(), channels)]);
    announcement.update(few.clone()).await.unwrap();
    until(&mut watch, |nodes| nodes.get(few.id()) == Some(&few)).await;
    registry.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_registry_is_enough_and_each_is_told_again_when_it_is_back() {
    let network = InProcess::new();
    let (first, second) = (Served::start(&network, "a").await, Served::start(&network, "b").await);
    let registries = registries(&network, &["a", "b"]);
    let _n1 = announced(&registries, node("n1", &["orders"])).await;
    let mut watch = registries.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1"]).await;
    first.stop().await;
    let _n2 = announced(&registries, node("n2", &["orders"])).await;
    until(&mut watch, |nodes| ids(nodes) == ["n1", "n2"]).await;
    // It begins with nothing, and is told of both.
    let first = Served::start(&network, "a").await;
    let told = async {
        while first.server.look(|registry| registry.nodes().count()) < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), told).await.unwrap();
    second.stop().await;
    let _n3 = announced(&registries, node("n3", &["orders"])).await;
    let nodes = until(&mut watch, |nodes| ids(nodes) == ["n1", "n2", "n3"]).await;
    assert!(!nodes.iter().any(NodeInfo::is_suspected), "{nodes:?}");
}

#[tokio::test(start_paused = true)]
async fn without_any_registry_what_was_told_stays_and_the_loss_is_told_once() {
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let _n1 = announced(&registries, node("n1", &["orders"])).await;
    let mut watch = registries.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| !nodes.is_empty()).await;
    registry.stop().await;
    let lost = timeout(Duration::from_secs(10), watch.changed()).await.unwrap().unwrap_err();
    assert!(matches!(lost, DiscoveryError::Unreachable { .. }), "{lost}");
    let later = timeout(Duration::from_secs(3_600), watch.changed()).await;
    assert!(later.is_err(), "{later:?}");
    let late = registries.watch(&Interest::Everything).await.map(|_| ()).unwrap_err();
    assert!(matches!(late, DiscoveryError::Unreachable { .. }), "{late}");
    // It is back, and knows the node again soon: nothing is different.
    let registry = Served::start(&network, "r").await;
    knows_soon(&registry, 1).await;
}

/// Waits until a registry that has just been started knows so many nodes.
async fn knows_soon(registry: &Served, nodes: usize) {
    let told = async {
        while registry.server.look(|registry| registry.nodes().count()) < nodes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, told).await.expect("it knows them soon");
}

/// The longest that a node waits before it tries a registry again, and what the trial takes.
const SOON: Duration = Duration::from_millis(5_050);

#[tokio::test(start_paused = true)]
async fn a_registry_that_was_away_for_however_long_knows_all_nodes_within_five_seconds() {
    let network = InProcess::new();
    let mut registry = Served::start(&network, "r").await;
    let mut nodes = Vec::new();
    for number in 0..30 {
        let registries = registries(&network, &["r"]);
        nodes.push(announced(&registries, node(&format!("n{number}"), &["orders"])).await);
    }
    for away in [1, 3, 10, 60, 600, 7_200] {
        registry.stop().await;
        tokio::time::sleep(Duration::from_secs(away)).await;
        registry = Served::start(&network, "r").await;
        knows_soon(&registry, 30).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_comes_back_empty_takes_no_node_away() {
    for _ in 0..10 {
        let network = InProcess::new();
        let registry = Served::start(&network, "r").await;
        let nodes = registries(&network, &["r"]);
        let watching = Registries::builder(network.clone()).registry("in-process://r");
        // The watcher is back at once, and the nodes in their own time.
        let at_once = Duration::from_millis(1);
        let watching = watching.retry(at_once, at_once).build().unwrap();
        let n1 = announced(&nodes, node("n1", &["orders"])).await;
        let _n2 = announced(&registries(&network, &["r"]), node("n2", &["orders"])).await;
        let mut watch = watching.watch(&Interest::Everything).await.unwrap();
        until(&mut watch, |nodes| nodes.len() == 2).await;
        registry.stop().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let registry = Served::start(&network, "r").await;
        let back = tokio::time::Instant::now();
        let mut was_suspected = false;
        let well = |nodes: &NodeSet| nodes.len() == 2 && !nodes.iter().any(NodeInfo::is_suspected);
        until(&mut watch, |nodes| {
            assert_eq!(ids(nodes), ["n1", "n2"], "after {:?}", back.elapsed());
            was_suspected |= nodes.iter().any(NodeInfo::is_suspected);
            was_suspected && well(nodes)
        })
        .await;
        assert!(back.elapsed() <= SOON, "{:?}", back.elapsed());
        // One that does not come back is gone in the end.
        drop(n1);
        registry.stop().await;
        let _registry = Served::start(&network, "r").await;
        until(&mut watch, |nodes| ids(nodes) == ["n2"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_registry_forgets_no_node_for_what_it_cannot_take_in() {
    let network = InProcess::new();
    let registry = RegistrySettings { topics_max: 3, ..Default::default() };
    let settings = RegistryServerSettings { registry, ..Default::default() };
    let served = Served::start_with(&network, "r", settings).await;
    let (healthy, greedy) = (registries(&network, &["r"]), registries(&network, &["r"]));
    let mut n1 = announced(&healthy, node("n1", &["a", "b"])).await;
    let greedy = announced(&greedy, node("n2", &["c"])).await;
    let mut watch = healthy.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| nodes.len() == 2).await;
    let more = node("n1", &["a", "b", "d"]).with_state(NodeState::Draining);
    n1.update(more.clone()).await.unwrap();
    // Longer than it takes to forget a node.
    let lost = async {
        until(&mut watch, |nodes| nodes.len() < 2 || nodes.iter().any(NodeInfo::is_suspected)).await
    };
    let lost = timeout(Duration::from_secs(60), lost).await;
    assert!(lost.is_err(), "{lost:?}");
    assert!(healthy.announced().all(|(_, is_announced)| is_announced));
    let there = served.server.look(|registry| registry.nodes().next().cloned()).unwrap();
    assert_eq!(there, node("n1", &["a", "b"]).with_state(NodeState::Draining));
    // Once there is room it is told again.
    greedy.withdraw().await.unwrap();
    let began = tokio::time::Instant::now();
    until(&mut watch, |nodes| nodes.iter().eq([&more])).await;
    assert!(began.elapsed() <= SOON, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_killed_is_suspected_within_three_beats_and_forgotten_later() {
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let n1 = announced(&registries, node("n1", &["orders"])).await;
    let mut watch = registries.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| !nodes.is_empty()).await;
    let killed = tokio::time::Instant::now();
    drop(n1);
    until(&mut watch, |nodes| nodes.iter().all(NodeInfo::is_suspected)).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    assert_eq!(registry.server.figures().forgotten, 0);
    until(&mut watch, NodeSet::is_empty).await;
    assert!(killed.elapsed() > Duration::from_secs(25), "{:?}", killed.elapsed());
    assert_eq!(registry.server.figures().forgotten, 1);
}

#[tokio::test(start_paused = true)]
async fn the_older_of_two_runs_is_told_so() {
    let network = InProcess::new();
    let _registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let newer = node("n1", &[]).with_epoch(Epoch { started: 9, instance: 1 });
    let _newer = announced(&registries, newer).await;
    let error = registries.announce(node("n1", &[])).await.unwrap_err();
    assert!(error.to_string().contains("one of epoch 9-1 was started after it"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_and_what_is_no_registry_are_named() {
    let network = InProcess::new();
    let access = Arc::new(SharedToken::new("secret").unwrap());
    let settings = RegistryServerSettings { access, ..RegistryServerSettings::default() };
    let _registry = Served::start_with(&network, "r", settings).await;
    let wrong = Registries::builder(network.clone()).registry("in-process://r").token("wrong");
    let wrong = wrong.build().unwrap();
    let error = wrong.announce(node("n1", &[])).await.unwrap_err();
    assert!(
        matches!(&error, DiscoveryError::Refused { why, .. } if why.contains("token")),
        "{error}"
    );
    let error = wrong.watch(&Interest::Everything).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, DiscoveryError::Refused { .. }), "{error}");
    let right = Registries::builder(network.clone()).registry("in-process://r").token("secret");
    let right = right.build().unwrap();
    let _n1 = announced(&right, node("n1", &[])).await;

    // One that answers garbage: the right one beside it is enough.
    let mut listener = network.listen(&Address::new("in-process", "liar")).await.unwrap();
    tokio::spawn(async move {
        while let Ok(connection) = listener.accept().await {
            let Ok(Some(mut stream)) = connection.accept_stream().await else { continue };
            tokio::spawn(async move {
                let garbage = [7_u8; 100];
                let sent = std::future::poll_fn(|context| {
                    stream.send.poll_send(context, &[std::io::IoSlice::new(&garbage)])
                });
                drop((sent.await, connection));
            });
        }
    });
    let both = Registries::builder(network.clone()).token("secret");
    let both = both.registry("in-process://liar").registry("in-process://r").build().unwrap();
    let mut watch = both.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1"]).await;
    let _n2 = announced(&both, node("n2", &[])).await;
    until(&mut watch, |nodes| ids(nodes) == ["n1", "n2"]).await;
}

#[test]
fn registries_that_are_none_are_told() {
    let build = |names: &[&str]| {
        let builder = Registries::builder(InProcess::new());
        names.iter().fold(builder, |builder, name| builder.registry(*name)).build().map(|_| ())
    };
    assert_eq!(build(&[]), Err(RegistriesError::None));
    assert_eq!(build(&["://"]), Err(RegistriesError::Address("://".to_owned())));
    let twice = build(&["tcp://a:1", "a:1"]).unwrap_err();
    assert_eq!(twice.to_string(), "registry tcp://a:1 is named twice");
}

#[test]
fn what_makes_a_node_another_is_said_and_nothing_else() {
    use crate::registry::NodeChange;
    let old = node("n", &["a", "b", "d"]);
    let new = node("n", &["b", "c", "e"]).with_state(NodeState::Draining);
    let change = NodeChange::between(&old, &new).unwrap();
    let names =
        |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<TopicName>>();
    assert_eq!(change.lacks, names(&["a", "d"]));
    assert_eq!(change.has.into_iter().map(|it| it.0).collect::<Vec<_>>(), names(&["c", "e"]));
    assert_eq!(change.state, Some(NodeState::Draining));
    assert_eq!(NodeChange::between(&old, &old), Some(NodeChange::default()));
    let elsewhere =
        NodeInfo::new(NodeId::new("n").unwrap(), ["tcp://b:1".parse().unwrap()]).unwrap();
    assert_eq!(NodeChange::between(&old, &elsewhere), None);
}
