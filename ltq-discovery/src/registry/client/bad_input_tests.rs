//! Each bad input that registries and their clients meet, by its name: a clock that is off, an old epoch after a
//! restart, two nodes of one id, a wrong token, addresses that do not answer, and garbage.

use std::{io::IoSlice, time::Duration};

use ltq_core::{Address, Connection, Listener, SharedToken, Transport};
use ltq_transport::InProcess;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    tests::{Served, announced, ids, node, registries, until},
    *,
};
use crate::{Epoch, Interest, NodeSet, registry::RegistryServerSettings};

const HOUR_MS: u64 = 3_600_000;
const NOW_MS: u64 = 1_763_870_000_000;

fn run(started: u64) -> NodeInfo {
    node("n1", &["orders"]).with_epoch(Epoch { started, instance: 7 })
}

fn is(started: u64) -> impl Fn(&NodeSet) -> bool {
    move |nodes| nodes.iter().any(|node| node.epoch().started == started && !node.is_suspected())
}

/// Listens, and does with each connection what the test wants.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    network: &InProcess,
    name: &str,
    what: impl Fn(Box<dyn Connection>) -> F + Send + 'static,
) -> JoinHandle<()> {
    let mut listener: Box<dyn Listener> =
        network.listen(&Address::new("in-process", name)).await.unwrap();
    tokio::spawn(async move {
        while let Ok(connection) = listener.accept().await {
            tokio::spawn(what(connection));
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_an_hour_off_is_found_kept_and_gone_as_any_other() {
    let network = InProcess::new();
    let _registry = Served::start(&network, "r").await;
    let watching = registries(&network, &["r"]);
    let mut watch = watching.watch(&Interest::Everything).await.unwrap();
    for started in [NOW_MS - HOUR_MS, NOW_MS + HOUR_MS, 0, u64::MAX] {
        let nodes = registries(&network, &["r"]);
        let announcement = announced(&nodes, run(started)).await;
        until(&mut watch, is(started)).await;
        // What counts is that it is heard, by the registry's own clock.
        let lost = async { until(&mut watch, |nodes| !is(started)(nodes)).await };
        let lost = timeout(Duration::from_secs(100), lost).await;
        assert!(lost.is_err(), "{lost:?}");
        announcement.withdraw().await.unwrap();
        until(&mut watch, NodeSet::is_empty).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_after_a_restart_is_told_so_and_taken_in_once_nothing_is_heard_of_the_other() {
    let network = InProcess::new();
    let _registry = Served::start(&network, "r").await;
    let [before, after] = [registries(&network, &["r"]), registries(&network, &["r"])];
    let earlier = announced(&before, run(NOW_MS)).await;
    let mut watch = after.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, is(NOW_MS)).await;
    // It was killed, and its clock went back by an hour meanwhile. Nobody knows yet that it is gone.
    let error = after.announce(run(NOW_MS - HOUR_MS)).await.unwrap_err().to_string();
    assert!(error.contains("was started after it and is there"), "{error}");
    drop(earlier);
    let killed = Instant::now();
    let _back = announced(&after, run(NOW_MS - HOUR_MS)).await;
    until(&mut watch, is(NOW_MS - HOUR_MS)).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_with_one_id_the_later_one_is_there_and_the_other_comes_back_when_it_is_gone()
{
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let [first, second] = [registries(&network, &["r"]), registries(&network, &["r"])];
    let _early = announced(&first, run(NOW_MS)).await;
    let late = announced(&second, run(NOW_MS + 1)).await;
    let mut watch = first.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, is(NOW_MS + 1)).await;
    // The other is refused again and again, and changes nothing.
    let lost = async { until(&mut watch, |nodes| !is(NOW_MS + 1)(nodes)).await };
    let lost = timeout(Duration::from_secs(60), lost).await;
    assert!(lost.is_err(), "{lost:?}");
    assert!(registry.server.figures().not_taken > 0);
    assert!(first.announced().all(|(_, has)| !has) && second.announced().all(|(_, has)| has));
    late.withdraw().await.unwrap();
    until(&mut watch, is(NOW_MS)).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_at_one_of_two_registries_leaves_the_other() {
    let network = InProcess::new();
    let access = Arc::new(SharedToken::new("secret").unwrap());
    let settings = RegistryServerSettings { access, ..RegistryServerSettings::default() };
    let strict = Served::start_with(&network, "strict", settings).await;
    let _open = Served::start(&network, "open").await;
    let builder = Registries::builder(network.clone()).token("wrong");
    let builder = builder.registry("in-process://strict").registry("in-process://open");
    let both = builder.build().unwrap();
    let announcement = announced(&both, node("n1", &[])).await;
    let mut watch = both.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1"]).await;
    assert_eq!(strict.server.look(|registry| registry.nodes().count()), 0);
    assert!(strict.server.figures().denied > 0);
    // The strict one never had it: there is nothing that it would have to hear.
    announcement.withdraw().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn registries_at_addresses_that_do_not_answer_hold_nobody_up() {
    let network = InProcess::new();
    // One takes connections and says nothing, at another nobody is.
    let _mute = listen(&network, "mute", |connection| async move {
        let _stream = connection.accept_stream().await;
        std::future::pending::<()>().await;
    })
    .await;
    let none = registries(&network, &["mute", "nobody"]);
    let began = Instant::now();
    let late = announced(&none, node("late", &[])).await;
    let error = none.watch(&Interest::Everything).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, DiscoveryError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    // Nobody has the node, so that there is nobody to be told.
    late.withdraw().await.unwrap();
    let _registry = Served::start(&network, "r").await;
    let all = registries(&network, &["mute", "nobody", "r"]);
    let began = Instant::now();
    let announcement = announced(&all, node("n1", &[])).await;
    let mut watch = all.watch(&Interest::Everything).await.unwrap();
    until(&mut watch, |nodes| ids(nodes) == ["n1"]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    announcement.withdraw().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_at_addresses_that_do_not_answer_is_told_of_all_the_same() {
    // Whether a node can be reached is for who connects to find out, and not for the registry.
    let network = InProcess::new();
    let _registry = Served::start(&network, "r").await;
    let registries = registries(&network, &["r"]);
    let addresses = ["tcp://192.0.2.1:1", "quic://[2001:db8::1]:1", "unix:///nowhere"];
    let addresses = addresses.map(|text| text.parse().unwrap());
    let lost = NodeInfo::new("lost".parse().unwrap(), addresses.clone()).unwrap();
    let _lost = announced(&registries, lost).await;
    let mut watch = registries.watch(&Interest::Nodes).await.unwrap();
    let nodes = until(&mut watch, |nodes| !nodes.is_empty()).await;
    assert_eq!(nodes.iter().next().unwrap().addresses(), addresses);
}

#[tokio::test(start_paused = true)]
async fn garbage_from_a_registry_and_to_one_ends_that_connection_and_no_other() {
    let garbage: [&'static [u8]; 5] = [
        &[7; 100],
        &[0xff; 64],
        &[0, 0, 0, 0],
        &[1, 0, 0, 0, 0xff],
        b"GET / HTTP/1.1\r\nhost: r\r\n\r\n",
    ];
    for bytes in garbage {
        let network = InProcess::new();
        let registry = Served::start(&network, "r").await;
        let _liar = listen(&network, "liar", move |connection| async move {
            if let Ok(Some(mut stream)) = connection.accept_stream().await {
                let said = std::future::poll_fn(|context| {
                    stream.send.poll_send(context, &[IoSlice::new(bytes)])
                });
                let _said = said.await;
                std::future::pending::<()>().await;
            }
        })
        .await;
        let both = registries(&network, &["liar", "r"]);
        let _n1 = announced(&both, node("n1", &[])).await;
        let mut watch = both.watch(&Interest::Everything).await.unwrap();
        until(&mut watch, |nodes| ids(nodes) == ["n1"]).await;
        // And to a registry.
        let address = Address::new("in-process", "r");
        let connection = network.connect(&address).await.unwrap();
        let mut stream = connection.open_stream().await.unwrap();
        let said =
            std::future::poll_fn(|context| stream.send.poll_send(context, &[IoSlice::new(bytes)]));
        said.await.unwrap();
        let mut answer = bytes::BytesMut::new();
        let ended = async {
            loop {
                let got = std::future::poll_fn(|context| {
                    stream.recv.poll_recv(context, &mut answer, 1 << 16)
                });
                if got.await.unwrap_or_default() == 0 {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(60), ended).await.expect("an end");
        let kept = timeout(Duration::from_secs(30), watch.changed()).await;
        assert!(kept.is_err(), "{kept:?}");
        assert_eq!(registry.server.look(|registry| registry.nodes().count()), 1);
    }
}
