mod doors;
mod floods;
mod shares;

use std::{
    collections::BTreeSet,
    ops::{Deref, DerefMut},
};

use async_trait::async_trait;
use ltq_core::{
    Address, Denied, Grant, Limit, Peer, Permissions, Stream, SystemEntropy, TopicPattern,
    Transport as _,
};
use ltq_transport::InProcess;
use tokio::time::timeout;

use super::*;
use crate::{
    Announced, Discovery as _, DiscoveryError, Epoch, Interest, NodeInfo,
    registry::{
        Registries, SessionId,
        link::{Link, LinkError},
        protocol::{Ask, GoodbyeCode, MAGIC, Part, PlainNode, REGISTRY_PROTOCOL, Say},
    },
};

/// Lets in by the token: "all" may everything, "orders" may publish to orders, "nothing" is known and may
/// nothing.
struct ByToken;

#[async_trait]
impl Access for ByToken {
    fn admit(&self, _: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
        let token = token.ok_or(Denied::NoToken)?;
        let permissions = match token {
            "all" => Permissions::all(),
            "orders" => Permissions {
                publish: vec![TopicPattern::new("orders").unwrap()],
                ..Permissions::default()
            },
            "nothing" => Permissions::default(),
            _ => return Err(Denied::WrongToken),
        };
        Ok(Grant::new(token, permissions))
    }
}

struct Served {
    network: InProcess,
    server: RegistryServer,
}

async fn serve(settings: RegistryServerSettings) -> Served {
    let network = InProcess::new();
    let server = RegistryServer::new(settings, &SystemEntropy).unwrap();
    let listener = network.listen(&Address::new("in-process", "r")).await.unwrap();
    let (runs, serves) = (server.clone(), server.clone());
    tokio::spawn(async move { runs.run().await });
    tokio::spawn(async move { serves.serve(listener).await });
    Served { network, server }
}

/// A connection and its stream.
struct Held {
    link: Link,
    _connection: Box<dyn Connection>,
}

impl Deref for Held {
    type Target = Link;
    fn deref(&self) -> &Link {
        &self.link
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// A connection that seems to come from somewhere else.
struct Far(Box<dyn Connection>, Peer);

#[async_trait]
impl Connection for Far {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }
    fn peer(&self) -> &Peer {
        &self.1
    }
    fn welcomed(&self) {
        self.0.welcomed();
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.0.open_stream().await
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

/// Of this address.
fn peer(address: &str) -> Peer {
    Peer { address: address.parse().unwrap(), identity: None }
}

impl Served {
    /// One that comes as though from this address.
    async fn link_from(&self, address: &str) -> Held {
        let name = Address::new("in-process", format!("from-{}", self.server.0.name()));
        let mut listener = self.network.listen(&name).await.unwrap();
        let (near, far) = tokio::join!(self.network.connect(&name), listener.accept());
        let (near, far) = (near.unwrap(), far.unwrap());
        self.server.take_in(Box::new(Far(far, peer(address))));
        let stream = near.open_stream().await.unwrap();
        Held { link: Link::new(stream), _connection: near }
    }

    /// One of there that has been let in.
    async fn welcomed_from(&self, address: &str) -> Held {
        let mut link = self.link_from(address).await;
        say(&mut link, &hello(Some("any"))).await;
        let said = hear(&mut link).await.unwrap();
        assert!(matches!(said, Say::Welcome { .. }), "{said:?}");
        link
    }

    fn registries(&self, token: &str) -> Registries {
        let patience = Duration::from_secs(20);
        let builder = Registries::builder(self.network.clone()).registry("in-process://r");
        builder.token(token).patience(patience).build().unwrap()
    }

    async fn link(&self) -> Held {
        let address = Address::new("in-process", "r");
        let connection = self.network.connect(&address).await.unwrap();
        let stream = connection.open_stream().await.unwrap();
        Held { link: Link::new(stream), _connection: connection }
    }

    /// One that has been let in.
    async fn welcomed(&self, token: &str) -> Held {
        let mut link = self.link().await;
        say(&mut link, &hello(Some(token))).await;
        let said = hear(&mut link).await.unwrap();
        assert!(matches!(said, Say::Welcome { .. }), "{said:?}");
        link
    }
}

fn hello(token: Option<&str>) -> Ask {
    let token = token.map(str::to_owned);
    Ask::Hello { magic: MAGIC, version: REGISTRY_PROTOCOL, token }
}

async fn say(link: &mut Link, ask: &Ask) {
    link.mouth.say(ask).unwrap();
    while link.mouth.unsent() > 0 {
        link.mouth.send_some().await.unwrap();
    }
}

async fn hear(link: &mut Link) -> Result<Say, LinkError> {
    loop {
        let said = timeout(Duration::from_secs(20), link.ear.hear()).await.expect("an answer");
        if !matches!(said, Ok(Say::Beat)) {
            return said;
        }
    }
}

async fn goodbye(link: &mut Link) -> String {
    match hear(link).await {
        Ok(Say::Goodbye { detail, .. }) => detail,
        other => panic!("it said {other:?}"),
    }
}

fn node(id: &str, topics: &[&str]) -> NodeInfo {
    let topics = topics.iter().map(|name| (name.parse().unwrap(), BTreeSet::new())).collect();
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_epoch(Epoch { started: 1, instance: 1 }).with_topics(topics)
}

#[tokio::test(start_paused = true)]
async fn everybody_sees_what_it_may_and_nothing_else() {
    let access = Arc::new(ByToken);
    let served = serve(RegistryServerSettings { access, ..Default::default() }).await;
    let all = served.registries("all");
    let Announced::Known(_node) = all.announce(node("n1", &["orders", "mail"])).await.unwrap()
    else {
        panic!("not taken")
    };
    let topic = |name: &str| Interest::Topic(name.parse().unwrap());
    for (token, interest, may) in [
        ("all", Interest::Everything, true),
        ("all", Interest::Nodes, true),
        ("all", topic("mail"), true),
        ("orders", Interest::Everything, false),
        ("orders", Interest::Nodes, true),
        ("orders", topic("orders"), true),
        ("orders", topic("mail"), false),
        ("nothing", Interest::Nodes, false),
        ("nothing", topic("orders"), false),
        ("guess", Interest::Nodes, false),
    ] {
        let watched = served.registries(token).watch(&interest).await;
        match watched {
            Ok(mut watch) if may => assert_eq!(watch.changed().await.unwrap().len(), 1),
            Err(DiscoveryError::Refused { .. }) if !may => {}
            other => panic!("{token} for {interest}: {:?}", other.map(|_| ())),
        }
    }
    // What is not there and what may not be known look the same to nobody who may ask.
    let mut none = served.registries("orders").watch(&topic("orders")).await.unwrap();
    let nodes = none.changed().await.unwrap();
    assert_eq!(nodes.iter().next().unwrap().topics().unwrap().len(), 1);
    let refused = served.registries("orders").announce(node("n2", &[])).await;
    assert!(matches!(refused, Err(DiscoveryError::Refused { .. })), "{refused:?}");
    assert_eq!(served.server.look(|registry| registry.nodes().count()), 1);
    assert!(served.server.figures().denied >= 1);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_protocol_is_told_so_and_is_gone() {
    let served = serve(RegistryServerSettings::default()).await;
    for (ask, why) in [
        (Ask::Beat, "must be a hello"),
        (Ask::Hello { magic: *b"LTQ1", version: 1, token: None }, "a registry of LTQ"),
        (Ask::Hello { magic: MAGIC, version: 77, token: None }, "version"),
        (hello(Some(&"x".repeat(5_000))), "the limit is 4096"),
    ] {
        let mut link = served.link().await;
        say(&mut link, &ask).await;
        let said = goodbye(&mut link).await;
        assert!(said.contains(why), "{said} is not {why}");
    }
    let bad = NodeInfo::new("n".parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    for (asks, why) in [
        (vec![hello(None)], "said before"),
        (vec![Ask::Topics(Vec::new())], "no announced node"),
        (vec![Ask::Announced], "end of no announcement"),
        (
            vec![
                Ask::Announce { node: PlainNode::of(&bad), topics_known: false },
                Ask::Topics(Vec::new()),
            ],
            "no announced node",
        ),
    ] {
        let mut link = served.welcomed("any").await;
        for ask in &asks {
            say(&mut link, ask).await;
        }
        let said = goodbye(&mut link).await;
        assert!(said.contains(why), "{said} is not {why}");
    }
    // What is about no node is answered, and ends nothing.
    let mut link = served.welcomed("any").await;
    for ask in [Ask::Heartbeat { load: 1 }, Ask::Withdraw] {
        say(&mut link, &ask).await;
        assert_eq!(hear(&mut link).await.unwrap(), Say::NotAnnounced);
    }
    drop(link);
    timeout(Duration::from_secs(20), async {
        while served.server.connections() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("nobody is left");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_gone_and_its_node_is_suspected() {
    let served = serve(RegistryServerSettings::default()).await;
    let mut silent = served.link().await;
    assert!(goodbye(&mut silent).await.contains("no hello came in time"));
    let mut link = served.welcomed("any").await;
    let plain = PlainNode::of(&node("n", &[]));
    say(&mut link, &Ask::Announce { node: plain, topics_known: true }).await;
    say(&mut link, &Ask::Announced).await;
    assert_eq!(hear(&mut link).await.unwrap(), Say::Taken);
    assert!(goodbye(&mut link).await.contains("nothing came for 4s"));
    let suspected = |registry: &Registry| registry.counts().suspected;
    assert_eq!(served.server.look(suspected), 1);
}

#[tokio::test(start_paused = true)]
async fn watches_and_connections_have_their_limits() {
    let settings =
        RegistryServerSettings { watches_max: 2, connections_max: 3, ..Default::default() };
    let served = serve(settings).await;
    let mut link = served.welcomed("any").await;
    for watch in 0..2 {
        say(&mut link, &Ask::Watch { watch, interest: Interest::Nodes }).await;
    }
    say(&mut link, &Ask::Watch { watch: 9, interest: Interest::Nodes }).await;
    let detail = loop {
        match hear(&mut link).await.unwrap() {
            Say::NotWatched { watch: 9, code: GoodbyeCode::Full, detail } => break detail,
            Say::Told { .. } => {}
            other => panic!("it said {other:?}"),
        }
    };
    assert!(detail.contains("2 watches"), "{detail}");
    // One that is given up makes room, and one that is there may ask for something else.
    say(&mut link, &Ask::Unwatch { watch: 0 }).await;
    for watch in [1, 9] {
        say(&mut link, &Ask::Watch { watch, interest: Interest::Everything }).await;
        let told = hear(&mut link).await.unwrap();
        assert!(matches!(told, Say::Told { .. }), "{told:?}");
    }
    let _others = (served.welcomed("any").await, served.welcomed("any").await);
    let mut one_more = served.link().await;
    let said = goodbye(&mut one_more).await;
    assert!(said.contains("the registry is full: it has 3 connections"), "{said}");
    assert_eq!(served.server.figures().entrance.refused, 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_told_that_there_are_too_many_watchers_may_ask_again() {
    let registry = RegistrySettings { watchers_max: 1, ..Default::default() };
    let served = serve(RegistryServerSettings { registry, ..Default::default() }).await;
    let first = served.registries("any").watch(&Interest::Nodes).await.unwrap();
    let second = tokio::spawn({
        let registries = served.registries("any");
        async move { registries.watch(&Interest::Nodes).await.map(|_| ()) }
    });
    let refused = async {
        while served.server.figures().entrance.accepted < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(15), refused).await.expect("it asks again");
    drop(first);
    timeout(Duration::from_secs(20), second).await.expect("an answer").unwrap().unwrap();
    // What is refused for lack of room is not called forbidden.
    let _first = served.registries("any").watch(&Interest::Nodes).await.unwrap();
    let error = served.registries("any").watch(&Interest::Nodes).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, DiscoveryError::Unreachable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_those_who_watch_it_and_no_other_watch() {
    let served = serve(RegistryServerSettings::default()).await;
    let all = served.registries("any");
    let Announced::Known(mut announcement) = all.announce(node("n", &["a", "b"])).await.unwrap()
    else {
        panic!("not taken")
    };
    let mut link = served.welcomed("any").await;
    for (watch, name) in [(0, "a"), (1, "b"), (2, "c")] {
        let interest = Interest::Topic(name.parse().unwrap());
        say(&mut link, &Ask::Watch { watch, interest }).await;
    }
    let mut complete = 0;
    while complete < 3 {
        if let Say::Told { part: Part::Complete, .. } = hear(&mut link).await.unwrap() {
            complete += 1;
        }
    }
    let mut has = node("n", &["a"]);
    has.add_topics([("b".parse().unwrap(), ["channel".parse().unwrap()].into())]);
    announcement.update(has).await.unwrap();
    let told = hear(&mut link).await.unwrap();
    assert!(matches!(told, Say::Told { watch: 1, part: Part::Node { .. } }), "{told:?}");
    let more = timeout(Duration::from_millis(500), link.ear.hear::<Say>()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_was_stopped_for_a_while_cuts_and_forgets_nobody() {
    for has_beaten in [true, false] {
        let served = serve(RegistryServerSettings::default()).await;
        let mut link = served.welcomed("any").await;
        let plain = PlainNode::of(&node("n", &[]));
        say(&mut link, &Ask::Announce { node: plain, topics_known: true }).await;
        say(&mut link, &Ask::Announced).await;
        assert_eq!(hear(&mut link).await.unwrap(), Say::Taken);
        if has_beaten {
            say(&mut link, &Ask::Heartbeat { load: 1 }).await;
        }
        tokio::time::advance(Duration::from_secs(40)).await;
        for _ in 0..8 {
            sleep(Duration::from_millis(500)).await;
            say(&mut link, &Ask::Heartbeat { load: 1 }).await;
            let counts = served.server.look(Registry::counts);
            assert_eq!((counts.nodes, counts.suspected), (1, 0), "beaten: {has_beaten}");
        }
        // The connection is the one that it was.
        say(&mut link, &Ask::Withdraw).await;
        assert_eq!(hear(&mut link).await.unwrap(), Say::Taken);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_reads_slowly_is_told_all_in_the_end() {
    let served = serve(RegistryServerSettings::default()).await;
    let many = (0..40_000)
        .map(|n| {
            (format!("a-topic-with-a-name-that-is-long-{n}").parse().unwrap(), BTreeSet::new())
        })
        .collect();
    let many = node("n", &[]).with_topics(many);
    let from = super::super::state::SessionId(900);
    let announced = served.server.0.change(|registry, now| registry.announce(now, from, &many));
    announced.unwrap();
    let mut link = served.welcomed("any").await;
    say(&mut link, &Ask::Watch { watch: 0, interest: Interest::Everything }).await;
    let (start, mut parts) = (Instant::now(), 0);
    loop {
        sleep(Duration::from_secs(1)).await;
        say(&mut link, &Ask::Beat).await;
        match hear(&mut link).await.unwrap() {
            Say::Told { part: Part::Complete, .. } => break,
            Say::Told { .. } => parts += 1,
            other => panic!("it said {other:?} after {:?}", start.elapsed()),
        }
    }
    assert!(parts > 20, "{parts} parts");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_owed_much_holds_up_no_other_of_its_connection() {
    let served = serve(RegistryServerSettings::default()).await;
    let names: Vec<_> = (0..1_000).map(|n| format!("a-topic-with-a-long-name-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for n in 0..100 {
        let (from, node) = (SessionId(10_000 + n), node(&format!("n{n}"), &names));
        served.server.0.change(|registry, now| registry.announce(now, from, &node)).unwrap();
    }
    let mut link = served.welcomed("any").await;
    let none = Interest::Topic("none".parse().unwrap());
    for (watch, interest) in [(0, Interest::Everything), (1, none)] {
        link.mouth.say(&Ask::Watch { watch, interest }).unwrap();
    }
    while link.mouth.unsent() > 0 {
        link.mouth.send_some().await.unwrap();
    }
    let mut ended = Vec::new();
    while ended.len() < 2 {
        if let Say::Told { watch, part: Part::Complete } = hear(&mut link).await.unwrap() {
            ended.push(watch);
        }
    }
    assert_eq!(ended, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_told_of_hides_no_other() {
    let served = serve(RegistryServerSettings::default()).await;
    let too_long = NodeInfo::beyond_bounds("m".parse().unwrap(), 65_540);
    for (session, node) in [(901, node("a", &[])), (902, too_long), (903, node("z", &[]))] {
        let from = super::super::state::SessionId(session);
        served.server.0.change(|registry, now| registry.announce(now, from, &node)).unwrap();
    }
    let mut watch = served.registries("any").watch(&Interest::Everything).await.unwrap();
    let nodes = watch.changed().await.unwrap();
    let ids: Vec<_> = nodes.iter().map(|node| node.id().as_str()).collect();
    assert_eq!(ids, ["a", "z"]);
    assert_eq!(served.server.figures().untold, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_address_is_too_long_is_refused_by_the_registry() {
    let served = serve(RegistryServerSettings::default()).await;
    let mut link = served.welcomed("any").await;
    let node = PlainNode::of(&NodeInfo::beyond_bounds("m".parse().unwrap(), 60_000));
    say(&mut link, &Ask::Announce { node, topics_known: false }).await;
    let said = goodbye(&mut link).await;
    assert!(said.contains("the limit is 255"), "{said}");
}

/// Counts warnings.
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_are_warned_of_once_a_second() {
    let warnings = Arc::new(AtomicU64::new(0));
    let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let access = Arc::new(ByToken);
    let served = serve(RegistryServerSettings { access, ..Default::default() }).await;
    for second in 1..=2 {
        for _ in 0..10 {
            let mut link = served.link().await;
            say(&mut link, &hello(Some("guess"))).await;
            assert!(goodbye(&mut link).await.contains("valid token"));
        }
        assert_eq!(warnings.load(Ordering::Relaxed), second);
        sleep(DENIED_PAUSE).await;
    }
    assert_eq!(served.server.figures().denied, 20);
}
