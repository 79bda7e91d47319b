//! What a client makes of nodes that go out of its sight, or out of that of a registry.

use std::{sync::Arc, time::Duration};

use ltq_core::{SystemEntropy, Transport as _};
use ltq_transport::{InProcess, Route, SimulatedNetwork};
use tokio::time::{Instant, sleep, timeout};

use super::{tests::*, *};
use crate::{
    Interest, NodeSet,
    registry::{RegistryServer, RegistryServerSettings},
};

/// Serves a registry on a host of that name.
async fn serve(network: &SimulatedNetwork, name: &str) -> RegistryServer {
    let server = RegistryServer::new(RegistryServerSettings::default(), &SystemEntropy).unwrap();
    let address = format!("sim://{name}").parse().unwrap();
    let listener = network.host(name).listen(&address).await.unwrap();
    let (runs, serves) = (server.clone(), server.clone());
    tokio::spawn(async move { runs.run().await });
    tokio::spawn(async move { serves.serve(listener).await.unwrap() });
    server
}

/// Registries as they are seen from a host.
fn seen_from(network: &SimulatedNetwork, host: &str, names: &[&str]) -> Registries {
    let builder = Registries::builder(network.host(host));
    let named = |builder: RegistriesBuilder, name: &&str| builder.registry(format!("sim://{name}"));
    names.iter().fold(builder, named).build().unwrap()
}

fn apart(network: &SimulatedNetwork, pairs: &[[&str; 2]]) {
    let cut = Route { is_cut: true, ..Route::default() };
    let ways = pairs.iter().flat_map(|[one, other]| [(one, other), (other, one)]);
    network.set_routes(ways.map(|(from, to)| ((*from).to_owned(), (*to).to_owned(), cut)));
}

fn network() -> SimulatedNetwork {
    SimulatedNetwork::new(Arc::new(SystemEntropy))
}

/// Longer than it takes to be forgotten.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_in_order_while_a_registry_is_away_is_gone_at_once_and_not_lost() {
    let network = InProcess::new();
    let (_first, second) = (Served::start(&network, "a").await, Served::start(&network, "b").await);
    let registries = registries(&network, &["a", "b"]);
    let n1 = announced(&registries, node("n1", &[])).await;
    let _n2 = announced(&registries, node("n2", &[])).await;
    let mut watch = registries.watch(&Interest::Nodes).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1", "n2"]).await;
    second.stop().await;
    let began = Instant::now();
    n1.withdraw().await.unwrap_err();
    let n1 = node("n1", &[]);
    let nodes = until(&mut watch, |nodes| ids(nodes) == ["n2"]).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(!nodes.has_lost(&n1));
    // Nor when the other registry is back, and has forgotten everybody, or when its memory ends.
    let _second = Served::start(&network, "b").await;
    let later = async {
        loop {
            let Ok(nodes) = watch.changed().await else { continue };
            assert!(nodes.get(n1.id()).is_none() && !nodes.has_lost(&n1), "{nodes:?}");
        }
    };
    assert!(timeout(LONG, later).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_forgotten_out_of_sight_is_suspected_first_and_lost_then() {
    let network = network();
    let registry = serve(&network, "r").await;
    let dies = announced(&seen_from(&network, "h1", &["r"]), node("n1", &[])).await;
    let _lives = announced(&seen_from(&network, "h2", &["r"]), node("n2", &[])).await;
    let client = seen_from(&network, "client", &["r"]);
    let mut watch = client.watch(&Interest::Nodes).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1", "n2"]).await;
    // One dies, and one is as far from the registry as the client is.
    drop(dies);
    apart(&network, &[["client", "r"], ["h2", "r"]]);
    while registry.look(|registry| registry.nodes().count()) > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    apart(&network, &[]);
    let mut back = None;
    let nodes = until(&mut watch, |nodes| {
        assert!(nodes.get(node("n2", &[]).id()).is_some(), "{nodes:?}");
        let n1 = nodes.get(node("n1", &[]).id());
        if n1.is_some_and(NodeInfo::is_suspected) {
            back.get_or_insert_with(Instant::now);
        }
        n1.is_none()
    })
    .await;
    let grace = back.expect("it was suspected first").elapsed();
    assert!(grace >= Duration::from_secs(9), "{grace:?}");
    assert!(nodes.has_lost(&node("n1", &[])));
    assert!(!nodes.iter().any(NodeInfo::is_suspected), "{nodes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_withdrawn_out_of_sight_is_gone_and_not_lost() {
    let network = network();
    let _registry = serve(&network, "r").await;
    let stops = announced(&seen_from(&network, "h1", &["r"]), node("n1", &[])).await;
    let _stays = announced(&seen_from(&network, "h2", &["r"]), node("n2", &[])).await;
    let client = seen_from(&network, "client", &["r"]);
    let mut watch = client.watch(&Interest::Nodes).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1", "n2"]).await;
    apart(&network, &[["client", "r"]]);
    stops.withdraw().await.unwrap();
    sleep(LONG).await;
    apart(&network, &[]);
    let is_suspected = |nodes: &NodeSet| nodes.iter().any(NodeInfo::is_suspected);
    let nodes = until(&mut watch, |nodes| nodes.len() < 2 || is_suspected(nodes)).await;
    assert_eq!(ids(&nodes), ["n2"]);
    assert!(!is_suspected(&nodes) && !nodes.has_lost(&node("n1", &[])));
    // Another client hears of it as well, and of nobody else.
    let mut watch = client.watch(&Interest::Nodes).await.unwrap();
    let nodes = until(&mut watch, |_| true).await;
    assert!(!nodes.has_lost(&node("n1", &[])) && nodes.has_lost(&node("n3", &[])));
}
