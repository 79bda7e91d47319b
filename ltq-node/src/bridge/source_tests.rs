//! Which nodes and topics are taken up and let go.

#[path = "source_tests/moving.rs"]
mod moving;

use async_trait::async_trait;
use ltq_client::Message;
use ltq_core::{
    Broker, BrokerSettings, ChannelStats, Credit, Durability, Environment, Offset, StartAt,
    TopicSettings, Transport as _,
};
use ltq_discovery::{Announced, StaticList, Watch};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Transports};

use super::*;
use crate::{
    bridge::{Refused, Site, Target, http::Looked, sight::Reach},
    http::page::Shown as _,
};

/// Brokers `a`, which listens as `a2`, too, and `b`, and what goes from the one to the other.
struct Field {
    a: Client,
    b: Client,
    plan: Arc<Plan>,
    /// Which nodes the source has.
    nodes: watch::Sender<NodeSet>,
    stop: watch::Sender<bool>,
    following: tokio::task::JoinHandle<()>,
}

impl Field {
    async fn new(topics: &str, prefix: &str, topics_max: usize) -> Self {
        let namespace = InProcess::new();
        let field = Self::from(&namespace, topics, prefix, topics_max).await;
        field.start_b(&namespace).await;
        field
    }

    async fn start_b(&self, namespace: &InProcess) {
        Self::start(namespace, &["b"]).await;
    }

    /// A broker that listens by these names.
    async fn start(namespace: &InProcess, names: &[&str]) -> Broker<MemoryStore> {
        let topic = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
        let settings = BrokerSettings { topic, ..BrokerSettings::default() };
        let store = MemoryStore::new(64 << 20);
        let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
        for name in names {
            let listener = namespace.listen(&Address::new("in-process", *name)).await.unwrap();
            let broker = broker.clone();
            tokio::spawn(async move { broker.serve(listener).await });
        }
        broker
    }

    /// There is no `b` yet.
    async fn from(namespace: &InProcess, topics: &str, prefix: &str, topics_max: usize) -> Self {
        Self::of(namespace, &[(topics, prefix)], topics_max, "b").await
    }

    /// With a route for each of these topics and prefixes, to brokers at `to`.
    async fn of(
        namespace: &InProcess,
        routes: &[(&str, &str)],
        topics_max: usize,
        to: &str,
    ) -> Self {
        Self::changed(namespace, routes, topics_max, to, |_| ()).await
    }

    /// The same with something else about the routes.
    async fn changed(
        namespace: &InProcess,
        routes: &[(&str, &str)],
        topics_max: usize,
        to: &str,
        change: impl Fn(&mut Route),
    ) -> Self {
        Self::start(namespace, &["a", "a2"]).await;
        let client = || Client::builder().transports(Transports::new().with(namespace.clone()));
        let of = |name: &str| {
            client().server(&format!("in-process://{name}")).connect_in_background().unwrap()
        };
        let to: Vec<_> = to.split(',').map(|name| format!("in-process://{name}")).collect();
        let list: StaticList = to.join(",").parse().unwrap();
        let destination = Cluster::builder().discovery(list).client(client()).connect().await;
        let route = |(topics, prefix): &(&str, &str)| {
            let mut route = Route {
                name: "r".to_owned(),
                topics: vec![topics.parse().unwrap()],
                exclude: Vec::new(),
                headers: Vec::new(),
                target: Target::Prefixed((*prefix).to_owned()),
                channel: ChannelName::new("bridge.r").unwrap(),
                start: StartAt::Earliest,
                durability: None,
                ordered: true,
                refused: Refused::Hold,
            };
            change(&mut route);
            route
        };
        let site = |name: &str| Site::new(name).unwrap();
        let plan = Arc::new(Plan {
            routes: routes.iter().map(|it| (route(it), Arc::default())).collect(),
            sites: Sites { from: site("a"), to: site("b"), hops_max: 8 },
            destination: destination.unwrap(),
            order: Order::Waiting,
            failover_after: Duration::from_secs(10),
            client: client(),
            refresh: Duration::from_millis(20),
            stop_timeout: Duration::from_secs(5),
            budget: Budget::new(64 << 20, Credit { messages: 100, bytes: 1 << 20 }),
            places: Arc::new(Semaphore::new(topics_max)),
            board: Board::default(),
            sight: Sight::default(),
            names: Names::default(),
            brokers: Brokers::default(),
            memories: Memories::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let (nodes, told) = watch::channel(node_at(&["a"]));
        let following = tokio::spawn(follow(plan.clone(), Arc::new(Told(told)), stopped));
        Self { a: of("a"), b: of("b"), plan, nodes, stop, following }
    }

    /// The bridge's channel of a topic.
    async fn channel(&self, topic: &str) -> Option<ltq_core::ChannelStats> {
        let stats = self.a.admin().show_topic(topic).await.ok()?;
        stats.channels.into_iter().find(|channel| channel.channel.as_str() == "bridge.r")
    }

    async fn until_acked(&self, topic: &str, count: u64) {
        let acked = async |field: &Self| {
            field.channel(topic).await.is_some_and(|channel| channel.acked == count)
        };
        self.until("the acks", acked).await;
    }

    async fn end(&self, topic: &str) -> u64 {
        self.b.admin().show_topic(topic).await.unwrap().end.0
    }

    fn counts(&self) -> crate::bridge::RouteCounts {
        self.plan.routes[0].1.counts()
    }

    async fn publish(&self, topic: &str) {
        self.a.producer(topic).await.unwrap().send(Message::new("x")).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let seen = async {
            while !is_so(self).await {
                sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), seen).await.is_ok(), "{what} did not come");
    }

    async fn has(&self, topic: &str) -> bool {
        let topics = self.b.admin().list_topics().await.unwrap();
        topics.iter().any(|it| it.as_str() == topic)
    }

    fn shown(&self) -> Vec<String> {
        self.plan.board.all().into_iter().map(|((_, topic), ..)| topic.to_string()).collect()
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        timeout(Duration::from_secs(20), self.following).await.unwrap().unwrap();
        assert!(self.plan.board.is_empty(), "nothing is left");
    }
}

#[test]
fn addresses_without_a_transport_are_not_tried_unless_there_are_no_others() {
    let addresses =
        |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect::<Vec<Address>>();
    let of = |all: &[&str]| {
        let all = addresses(all);
        usable(&ClientBuilder::default(), &all).map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of(&["near://a:1", "tcp://a:2", "far://a"]), ["tcp://a:2"]);
    assert_eq!(of(&["far://a", "further://a"]), ["far://a", "further://a"]);
}

/// The node `n`, at these places; none, and it is gone.
fn node_at(places: &[&str]) -> NodeSet {
    let addresses = places.iter().map(|place| Address::new("in-process", *place));
    // Without any it is none.
    NodeInfo::new("n".parse().unwrap(), addresses).into_iter().collect()
}

/// The node `n` at a, and `m`, which is the same broker, at a2.
fn twins() -> [NodeInfo; 2] {
    let at = |id: &str, place| {
        NodeInfo::new(id.parse().unwrap(), [Address::new("in-process", place)]).unwrap()
    };
    [at("m", "a2"), at("n", "a")]
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_found_under_two_ids_is_forwarded_once_and_in_order() {
    const COUNT: u64 = 200;
    let field = Field::new("*", "to-", 10).await;
    let producer = field.a.producer("orders").await.unwrap();
    for n in 0..COUNT {
        producer.send(Message::new(n.to_string())).await.unwrap();
    }
    field.nodes.send_replace(twins().into_iter().collect());
    let known = async |field: &Field| {
        let nodes = field.plan.sight.nodes().unwrap_or_default();
        nodes.values().flatten().any(|why| why.contains("the same broker as"))
    };
    field.until("what is the matter with one", known).await;
    field.until_acked("orders", COUNT).await;
    assert_eq!(field.channel("orders").await.unwrap().consumers, 1);
    let mut consumer = field.b.consumer("to-orders", "check").await.unwrap();
    for n in 0..COUNT {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!(delivery.message.body, n.to_string(), "in its order");
        delivery.ack().unwrap();
    }
    // Whichever of them it is: when it is gone it is done by way of the other.
    for left in twins() {
        field.nodes.send_replace([left].into_iter().collect());
        let before = field.channel("orders").await.unwrap().acked;
        field.publish("orders").await;
        field.until_acked("orders", before + 1).await;
    }
    field.stop().await;
}

/// Tells of nodes what a test says.
struct Told(watch::Receiver<NodeSet>);

struct TellingOf(watch::Receiver<NodeSet>);

#[async_trait]
impl Discovery for Told {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("a test"))
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let mut told = self.0.clone();
        told.mark_changed();
        Ok(Box::new(TellingOf(told)))
    }
}

#[async_trait]
impl Watch for TellingOf {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(self.0.borrow_and_update().clone())
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_again_is_forwarded_from_its_beginning() {
    let field = Field::new("*", "", 10).await;
    for round in 1..=3 {
        for _ in 0..5 {
            field.publish("orders").await;
        }
        field.until("its messages", async |field| field.counts().forwarded == round * 5).await;
        field.a.admin().delete_topic("orders").await.unwrap();
        field.until("its end", async |field| field.shown().is_empty()).await;
    }
    assert_eq!(field.end("orders").await, 15);
    assert_eq!(field.counts().skipped_repeat, 0);
    field.stop().await;
}

#[tokio::test]
async fn a_destination_is_seen_before_there_is_anything_to_bring_there() {
    let namespace = InProcess::new();
    let field = Field::from(&namespace, "nothing*", "", 10).await;
    field.publish("other").await;
    let trouble = |field: &Field| Reach::of(&field.plan.destination).trouble();
    let said =
        async |field: &Field| trouble(field).is_some_and(|why| why.contains("in-process://b"));
    field.until("the word of it", said).await;
    assert_eq!(Reach::of(&field.plan.destination).connected(), 0);
    field.start_b(&namespace).await;
    field.until("the connection", async |field| trouble(field).is_none()).await;
    assert_eq!(Reach::of(&field.plan.destination).connected(), 1);
    assert!(field.shown().is_empty() && field.b.admin().list_topics().await.unwrap().is_empty());
    field.stop().await;
}

#[tokio::test]
async fn topics_that_come_are_taken_up_and_those_that_go_are_let_go() {
    let field = Field::new("orders*", "east.", 10).await;
    field.publish("orders.1").await;
    field.publish("other").await;
    field.until("the first topic", async |field| field.has("east.orders.1").await).await;
    field.publish("orders.2").await;
    field.until("the second topic", async |field| field.has("east.orders.2").await).await;
    assert_eq!(field.shown(), ["orders.1", "orders.2"]);
    field.a.admin().delete_topic("orders.1").await.unwrap();
    field.until("the end of the first", async |field| field.shown() == ["orders.2"]).await;
    assert_eq!(field.plan.places.available_permits(), 9);
    let topics = field.a.admin().list_topics().await.unwrap();
    assert!(!topics.iter().any(|it| it.as_str() == "orders.1"), "it is not made again");
    let waits = async |field: &Field| {
        field.plan.board.all().iter().all(|(.., figures)| figures.backlog() == Some(0))
    };
    field.until("how much waits", waits).await;
    assert!(!field.has("east.other").await);
    field.stop().await;
}

#[tokio::test]
async fn a_topic_without_a_name_at_the_destination_is_shown_as_held() {
    let field = Field::new("*", &"p".repeat(40), 10).await;
    let long = "x".repeat(40);
    field.publish(&long).await;
    let held = async |field: &Field| {
        let all = field.plan.board.all();
        all.iter().any(|(.., figures)| matches!(figures.status().0, Status::Held(_)))
    };
    field.until("the word of it", held).await;
    assert_eq!(field.plan.places.available_permits(), 10, "it takes no place");
    field.stop().await;
}

#[tokio::test]
async fn no_more_topics_are_taken_up_than_may_be() {
    let field = Field::new("*", "", 1).await;
    field.publish("one").await;
    field.until("the first topic", async |field| field.has("one").await).await;
    field.publish("two").await;
    let left_out = async |field: &Field| {
        field.plan.sight.left_out() == LeftOut { count: 1, one: "two".parse().ok() }
    };
    field.until("the word of it", left_out).await;
    assert!(field.plan.sight.times_left_out() > 0);
    assert_eq!(field.shown(), ["one"]);
    // Its place is taken by the next.
    field.a.admin().delete_topic("one").await.unwrap();
    field.until("the second topic", async |field| field.has("two").await).await;
    let none = async |field: &Field| field.plan.sight.left_out() == LeftOut::default();
    field.until("the end of it", none).await;
    field.stop().await;
}

/// Tells which nodes there are, and of their topics nobody.
struct Discreet;

#[async_trait]
impl Discovery for Discreet {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("a test"))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let list: StaticList = "tcp://a:1".parse().unwrap();
        match interest {
            Interest::Everything => {
                let (backend, why) = ("registry".to_owned(), "not permitted".to_owned());
                Err(DiscoveryError::Refused { backend, why })
            }
            other => list.watch(other).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_see_all_topics_still_sees_the_nodes() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = watch_nodes(&Discreet, move |nodes| {
        let _gone = tell.send(nodes.len());
    });
    let first = tokio::select! {
        () = watching => None,
        first = told.recv() => first,
    };
    assert_eq!(first, Some(1));
}

#[tokio::test]
async fn a_topic_goes_by_the_first_route_that_takes_it_and_by_no_other() {
    let namespace = InProcess::new();
    let routes = [("orders*", "one."), ("*", "two."), ("mail*", "three.")];
    let field = Field::of(&namespace, &routes, 10, "b").await;
    field.start_b(&namespace).await;
    for topic in ["orders.new", "mail"] {
        field.publish(topic).await;
        field.until_acked(topic, 1).await;
    }
    let mut topics = field.b.admin().list_topics().await.unwrap();
    topics.sort();
    assert_eq!(
        topics.iter().map(TopicName::as_str).collect::<Vec<_>>(),
        ["one.orders.new", "two.mail"]
    );
    let forwarded = field.plan.routes.iter().map(|(_, it)| it.counts().forwarded);
    assert_eq!(forwarded.collect::<Vec<_>>(), [1, 1, 0]);
    field.stop().await;
}

#[tokio::test]
async fn a_route_says_how_durable_and_whether_in_order_messages_are_at_the_destination() {
    let namespace = InProcess::new();
    // A store in memory has no such durability to give.
    let durable = |route: &mut Route| route.durability = Some(Durability::Disk);
    let field = Field::changed(&namespace, &[("*", "")], 10, "b", durable).await;
    field.start_b(&namespace).await;
    field.publish("orders").await;
    let refused = async |field: &Field| {
        let all = field.plan.board.all();
        all.iter().any(|(.., figures)| {
            matches!(figures.status().0, Status::Waiting(why) if why.contains("durability"))
        })
    };
    field.until("the word of it", refused).await;
    field.stop().await;
    // Messages without a key have one order, and so one node.
    for (ordered, nodes) in [(true, 1), (false, 2)] {
        let namespace = InProcess::new();
        let change = |route: &mut Route| route.ordered = ordered;
        let field = Field::changed(&namespace, &[("*", "")], 10, "b,c", change).await;
        field.start_b(&namespace).await;
        Field::start(&namespace, &["c"]).await;
        for count in 1..=50 {
            field.publish("orders").await;
            field.until_acked("orders", count).await;
        }
        let mut used = 0;
        for node in field.plan.destination.nodes().iter() {
            let admin = field.plan.destination.admin(node.id()).unwrap();
            let has_any = admin.show_topic("orders").await.is_ok_and(|topic| topic.end.0 > 0);
            used += usize::from(has_any);
        }
        assert_eq!(used, nodes);
        field.stop().await;
    }
}

/// What `/readyz` says of a bridge: the code, or that it is ready.
fn said(field: &Field) -> Result<(), String> {
    let looked =
        Looked { name: "n".to_owned(), plan: field.plan.clone(), listening: Arc::default() };
    looked.ready().map_err(|error| error.code().to_owned())
}

#[tokio::test]
async fn of_what_is_not_ready_that_which_takes_somebody_is_said_first() {
    let namespace = InProcess::new();
    let field = Field::from(&namespace, "*", &"p".repeat(40), 1).await;
    // Nobody is there to take it; then there is no place for a second one, and no name for a third.
    field.publish("one").await;
    let says = async |code: &str| {
        field.until(code, async |field| said(field) == Err(code.to_owned())).await;
    };
    says("waiting").await;
    field.publish("two").await;
    says("left_out").await;
    let long = "x".repeat(40);
    field.publish(&long).await;
    says("held").await;
    field.a.admin().delete_topic(&long).await.unwrap();
    says("left_out").await;
    field.a.admin().delete_topic("two").await.unwrap();
    says("waiting").await;
    field.start_b(&namespace).await;
    field.until("that it is ready", async |field| said(field).is_ok()).await;
    field.stop().await;
}

#[tokio::test]
async fn of_several_nodes_of_the_destination_it_is_enough_that_one_is_connected() {
    let namespace = InProcess::new();
    let field = Field::of(&namespace, &[("*", "")], 10, "nobody,b").await;
    field.until("that nobody is there", async |field| said(field).is_err()).await;
    field.start_b(&namespace).await;
    field.until("that it is ready", async |field| said(field).is_ok()).await;
    let reach = Reach::of(&field.plan.destination);
    assert_eq!((reach.nodes.len(), reach.connected()), (2, 1));
    field.stop().await;
}

/// As many topics as a node may have: a look at each for each would take minutes.
#[test]
fn how_much_waits_is_looked_up_once_for_each_topic() {
    const TOPICS: u64 = 100_000;
    let name = |number: u64| format!("t{number:06}").parse::<TopicName>().unwrap();
    let channel: ChannelName = "bridge.r".parse().unwrap();
    let started = std::time::Instant::now();
    let route = Arc::<RouteFigures>::default();
    let forwarded: Vec<_> = (0..TOPICS)
        .map(|number| {
            let figures = Arc::new(TopicFigures::new(route.clone(), name(number)));
            (name(number), 0, figures)
        })
        .collect();
    let stats: Vec<TopicStats> =
        (0..TOPICS).rev().map(|number| told(name(number), number)).collect();
    set_backlogs(&forwarded, &stats, |_| Some(&channel));
    for (number, (_, _, figures)) in (0..).zip(&forwarded) {
        assert_eq!(figures.backlog(), Some(number + 3));
    }
    // A topic of which nothing is told, and one whose channel is not there.
    set_backlogs(&forwarded[..1], &[], |_| Some(&channel));
    set_backlogs(&forwarded[1..2], &stats, |_| None);
    assert_eq!((forwarded[0].2.backlog(), forwarded[1].2.backlog()), (None, None));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// Statistics of a topic in whose bridge's channel so many messages wait, and three more are delayed or in flight.
fn told(topic: TopicName, waiting: u64) -> TopicStats {
    let channel = |name: &str, waiting| ChannelStats {
        channel: name.parse().unwrap(),
        paused: false,
        start: Offset(0),
        floor: Offset(0),
        waiting,
        delayed: 1,
        in_flight: 2,
        acked: 0,
        damaged: 0,
        dropped: 0,
        delivered: 0,
        redelivered: 0,
        requeued: 0,
        timed_out: 0,
        stale: 0,
        consumers: 0,
    };
    TopicStats {
        topic,
        settings: TopicSettings::default(),
        paused: false,
        first: Offset(0),
        end: Offset(0),
        bytes: 0,
        published: 0,
        published_bytes: 0,
        duplicates: 0,
        refused: 0,
        producers: 0,
        producers_known: 0,
        channels: vec![channel("other", 9), channel("bridge.r", waiting)],
    }
}
