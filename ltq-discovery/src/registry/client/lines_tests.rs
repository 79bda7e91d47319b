//! Many watches over few connections.

use std::time::Duration;

use ltq_core::{Address, Transport};
use ltq_transport::InProcess;
use tokio::time::{Instant, sleep, timeout};

use super::{
    tests::{Served, announced, ids, node, registries, until},
    *,
};
use crate::{
    Interest, NodeSet,
    registry::{
        RegistryServerSettings,
        link::Link,
        protocol::{Ask, GoodbyeCode, Part, PlainNode, REGISTRY_PROTOCOL, Say},
    },
};

fn topic(name: &str) -> Interest {
    Interest::Topic(name.parse().unwrap())
}

async fn watch(registries: &Registries, interest: &Interest) -> Box<dyn Watch> {
    registries.watch(interest).await.unwrap()
}

/// Waits until so many connections carry so many watches at the server.
async fn settles(served: &Served, connections: usize, watches: usize) {
    let there = || {
        let watchers = served.server.look(|registry| registry.watchers());
        (served.server.connections(), watchers)
    };
    let settled = async {
        while there() != (connections, watches) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(Duration::from_secs(60), settled).await.is_err() {
        panic!("there are {:?}, and not {:?}", there(), (connections, watches));
    }
}

#[tokio::test(start_paused = true)]
async fn all_watches_go_over_one_connection_to_each_registry_which_ends_with_the_last() {
    let network = InProcess::new();
    let (a, b) = (Served::start(&network, "a").await, Served::start(&network, "b").await);
    let all = registries(&network, &["a", "b"]);
    let nodes = registries(&network, &["a", "b"]);
    let mut announcement = announced(&nodes, node("n1", &["t0", "t7"])).await;
    let mut watches = Vec::new();
    for n in 0..50 {
        // Clones are the same.
        watches.push(watch(&all.clone(), &topic(&format!("t{n}"))).await);
    }
    // One of them belongs to the node.
    settles(&a, 2, 50).await;
    settles(&b, 2, 50).await;
    assert_eq!(
        (a.server.figures().entrance.accepted, b.server.figures().entrance.accepted),
        (2, 2)
    );
    for (n, watch) in watches.iter_mut().enumerate() {
        let told = until(watch, |_| true).await;
        assert_eq!(told.len(), usize::from([0, 7].contains(&n)), "t{n}");
    }
    // Each is told of its own, and of nothing else.
    announcement.update(node("n1", &["t0", "t8"])).await.unwrap();
    until(&mut watches[8], |nodes| ids(nodes) == ["n1"]).await;
    until(&mut watches[7], NodeSet::is_empty).await;
    let other = timeout(Duration::from_secs(5), watches[0].changed()).await;
    assert!(other.is_err(), "{other:?}");
    // One that ends is unwatched, and the others go on.
    watches.truncate(9);
    settles(&a, 2, 9).await;
    settles(&b, 2, 9).await;
    announcement.update(node("n1", &["t7"])).await.unwrap();
    until(&mut watches[7], |nodes| ids(nodes) == ["n1"]).await;
    // The connection outlasts the last by a moment, in which another goes on with it.
    watches.clear();
    settles(&a, 2, 0).await;
    watches.push(watch(&all, &Interest::Nodes).await);
    settles(&a, 2, 1).await;
    assert_eq!(a.server.figures().entrance.accepted, 2);
    watches.clear();
    settles(&a, 1, 0).await;
    settles(&b, 1, 0).await;
    // And then there is a new one.
    let mut again = watch(&all, &Interest::Nodes).await;
    until(&mut again, |nodes| ids(nodes) == ["n1"]).await;
    assert_eq!(a.server.figures().entrance.accepted, 3);
}

#[tokio::test(start_paused = true)]
async fn all_watches_are_told_anew_after_a_cut_over_one_connection() {
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let all = registries(&network, &["r"]);
    let mut watches = Vec::new();
    for n in 0..20 {
        watches.push(watch(&all, &topic(&format!("t{n}"))).await);
    }
    registry.stop().await;
    for watch in &mut watches {
        assert!(watch.changed().await.unwrap().is_empty());
        let lost = timeout(Duration::from_secs(10), watch.changed()).await.unwrap().unwrap_err();
        assert!(matches!(lost, DiscoveryError::Unreachable { .. }), "{lost}");
    }
    let registry = Served::start(&network, "r").await;
    let names: Vec<_> = (0..20).map(|n| format!("t{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let _n1 = announced(&registries(&network, &["r"]), node("n1", &names)).await;
    for watch in &mut watches {
        until(watch, |nodes| ids(nodes) == ["n1"]).await;
    }
    settles(&registry, 2, 20).await;
    assert_eq!(registry.server.figures().entrance.accepted, 2);
}

#[tokio::test(start_paused = true)]
async fn more_watches_than_a_connection_may_have_go_over_another_one() {
    let network = InProcess::new();
    let registry = Served::start(&network, "r").await;
    let all = registries(&network, &["r"]);
    let mut watches = Vec::new();
    for n in 0..1_025 {
        watches.push(watch(&all, &topic(&format!("t{n}"))).await);
        assert_eq!(registry.server.connections(), 1 + n / 1_024);
    }
    settles(&registry, 2, 1_025).await;
    // Where it may have fewer, that is found out.
    let settings = RegistryServerSettings { watches_max: 2, ..Default::default() };
    let narrow = Served::start_with(&network, "narrow", settings).await;
    let all = registries(&network, &["narrow"]);
    let mut watches = Vec::new();
    for n in 0..5 {
        watches.push(watch(&all, &topic(&format!("t{n}"))).await);
    }
    settles(&narrow, 3, 5).await;
    let _n1 = announced(&registries(&network, &["narrow"]), node("n1", &["t4"])).await;
    until(&mut watches[4], |nodes| ids(nodes) == ["n1"]).await;
}

/// A registry that the test plays.
struct Played {
    link: Link,
    _connection: Box<dyn ltq_core::Connection>,
}

impl Played {
    async fn accept(listener: &mut Box<dyn ltq_core::Listener>) -> Self {
        let connection = listener.accept().await.unwrap();
        let stream = connection.accept_stream().await.unwrap().unwrap();
        let mut played = Self { link: Link::new(stream), _connection: connection };
        assert!(matches!(played.hear().await, Ask::Hello { .. }));
        let version = REGISTRY_PROTOCOL;
        played.say(Say::Welcome { version, registry: 1, heartbeat_ms: 1_000 }).await;
        played
    }

    async fn say(&mut self, say: Say) {
        self.link.mouth.say(&say).unwrap();
        while self.link.mouth.unsent() > 0 {
            self.link.mouth.send_some().await.unwrap();
        }
    }

    async fn told(&mut self, watch: u32, parts: impl IntoIterator<Item = Part>) {
        for part in parts {
            self.say(Say::Told { watch, part }).await;
        }
    }

    /// What it is asked next, beside beats, which it gives back.
    async fn hear(&mut self) -> Ask {
        loop {
            let heard = timeout(Duration::from_secs(60), self.link.ear.hear()).await;
            match heard.expect("it is asked something").unwrap() {
                Ask::Beat => self.say(Say::Beat).await,
                other => return other,
            }
        }
    }
}

fn part(id: &str) -> Part {
    let node = PlainNode::of(&node(id, &[]));
    Part::Node { node, topics: Some(Vec::new()), is_suspected: false, more: false }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_or_told_too_much_harms_no_other() {
    let network = InProcess::new();
    let mut listener = network.listen(&Address::new("in-process", "r")).await.unwrap();
    let limits = ToldLimits { nodes_max: 2, ..ToldLimits::default() };
    let all = Registries::builder(network.clone()).registry("in-process://r");
    let all = all.told_limits(limits).build().unwrap();
    let asks = |name: &'static str| {
        let all = all.clone();
        tokio::spawn(async move { all.watch(&topic(name)).await })
    };
    let well = asks("well");
    let mut played = Played::accept(&mut listener).await;
    assert_eq!(played.hear().await, Ask::Watch { watch: 0, interest: topic("well") });
    played.told(0, [Part::Anew, part("n1"), Part::Complete]).await;
    let mut well = well.await.unwrap().unwrap();
    assert_eq!(ids(&well.changed().await.unwrap()), ["n1"]);
    // One that may not be watched: its caller is told at once.
    let (began, forbidden) = (Instant::now(), asks("forbidden"));
    assert_eq!(played.hear().await, Ask::Watch { watch: 1, interest: topic("forbidden") });
    let (code, detail) = (GoodbyeCode::Forbidden, "you may not".to_owned());
    played.say(Say::NotWatched { watch: 1, code, detail }).await;
    let refused = forbidden.await.unwrap().map(|_| ()).unwrap_err();
    assert!(matches!(&refused, DiscoveryError::Refused { why, .. } if why.contains("you may not")));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // One that is told too much is given up, and asked for again later under another number.
    let greedy = asks("greedy");
    assert_eq!(played.hear().await, Ask::Watch { watch: 2, interest: topic("greedy") });
    played.told(2, [Part::Anew, part("a"), part("b"), part("c"), Part::Complete]).await;
    assert_eq!(played.hear().await, Ask::Unwatch { watch: 2 });
    assert_eq!(played.hear().await, Ask::Watch { watch: 3, interest: topic("greedy") });
    played.told(3, [Part::Anew, part("a"), Part::Complete]).await;
    let mut greedy = greedy.await.unwrap().unwrap();
    assert_eq!(ids(&greedy.changed().await.unwrap()), ["a"]);
    // Nobody else noticed, and the connection is the same.
    played.told(0, [part("n2")]).await;
    assert_eq!(ids(&well.changed().await.unwrap()), ["n1", "n2"]);
    // One that nobody looks at holds no other up.
    for n in 0..10_000 {
        let load = crate::Load(n);
        let node = PlainNode::of(&node("n1", &[]).with_load(load));
        let part = Part::Node { node, topics: None, is_suspected: false, more: false };
        played.told(0, [part]).await;
    }
    played.told(3, [Part::Gone { id: "a".to_owned(), withdrawn: None }]).await;
    assert!(greedy.changed().await.unwrap().is_empty());
    let last = well.changed().await.unwrap();
    assert_eq!(last.iter().next().unwrap().load(), crate::Load(9_999));
}

#[tokio::test(start_paused = true)]
async fn many_watches_of_many_nodes_are_no_flood() {
    let network = InProcess::new();
    let settings = RegistryServerSettings { frames_max: 100, ..Default::default() };
    let served = Served::start_with(&network, "r", settings).await;
    let mut nodes = Vec::new();
    for n in 0..32 {
        let registries = registries(&network, &["r"]);
        nodes.push(announced(&registries, node(&format!("n{n}"), &["a"])).await);
    }
    let all = registries(&network, &["r"]);
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..100 {
        let all = all.clone();
        asking.spawn(async move { all.watch(&topic(&format!("t{n}"))).await });
    }
    // They count as three frames each, of which there may be a hundred in a second: they wait for their turn.
    let began = Instant::now();
    settles(&served, 33, 100).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    let figures = served.server.figures();
    assert_eq!((figures.flooding, figures.entrance.accepted), (0, 33));
    while let Some(watch) = asking.join_next().await {
        assert!(watch.unwrap().unwrap().changed().await.unwrap().is_empty());
    }
}

#[test]
fn watches_outlive_the_runtime_that_the_first_of_them_was_made_on() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (servers, first, second) = (runtime(), runtime(), runtime());
    let network = InProcess::new();
    let _served = servers.block_on(Served::start(&network, "r"));
    let all = registries(&network, &["r"]);
    let one = first.block_on(watch(&all, &Interest::Nodes));
    let mut other = second.block_on(watch(&all, &Interest::Nodes));
    drop(one);
    first.shutdown_timeout(Duration::from_secs(20));
    let nodes = registries(&network, &["r"]);
    second.block_on(async {
        let _n1 = announced(&nodes, node("n1", &[])).await;
        until(&mut other, |nodes| ids(nodes) == ["n1"]).await;
    });
}
