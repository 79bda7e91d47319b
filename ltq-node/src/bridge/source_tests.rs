//! Which nodes and topics are taken up and let go.

use async_trait::async_trait;
use ltq_client::Message;
use ltq_core::{
    Broker, BrokerSettings, ChannelName, Credit, Durability, Environment, StartAt, TopicSettings,
    Transport as _,
};
use ltq_discovery::{Announced, StaticList, Watch};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Transports};

use super::*;
use crate::bridge::{Refused, Site, Target};

/// Brokers `a` and `b`, and what goes from the one to the other.
struct Field {
    a: Client,
    b: Client,
    plan: Arc<Plan>,
    stop: watch::Sender<bool>,
    following: tokio::task::JoinHandle<()>,
}

impl Field {
    async fn new(topics: &str, prefix: &str, topics_max: usize) -> Self {
        let namespace = InProcess::new();
        for name in ["a", "b"] {
            let topic =
                TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
            let settings = BrokerSettings { topic, ..BrokerSettings::default() };
            let store = MemoryStore::new(64 << 20);
            let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
            let listener = namespace.listen(&Address::new("in-process", name)).await.unwrap();
            tokio::spawn(async move { broker.serve(listener).await });
        }
        let client = || Client::builder().transports(Transports::new().with(namespace.clone()));
        let of = |name: &str| {
            client().server(&format!("in-process://{name}")).connect_in_background().unwrap()
        };
        let list = |name: &str| format!("in-process://{name}").parse::<StaticList>().unwrap();
        let destination = Cluster::builder().discovery(list("b")).client(client()).connect().await;
        let route = Route {
            name: "r".to_owned(),
            topics: vec![topics.parse().unwrap()],
            exclude: Vec::new(),
            headers: Vec::new(),
            target: Target::Prefixed(prefix.to_owned()),
            channel: ChannelName::new("bridge.r").unwrap(),
            start: StartAt::Earliest,
            durability: None,
            ordered: true,
            refused: Refused::Hold,
        };
        let site = |name: &str| Site::new(name).unwrap();
        let plan = Arc::new(Plan {
            routes: vec![(route, Arc::default())],
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
        });
        let (stop, stopped) = watch::channel(false);
        let following = tokio::spawn(follow(plan.clone(), Arc::new(list("a")), stopped));
        Self { a: of("a"), b: of("b"), plan, stop, following }
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
    let refused = async |field: &Field| field.plan.sight.without_place.load(Ordering::Relaxed) > 0;
    field.until("the word of it", refused).await;
    assert_eq!(field.shown(), ["one"]);
    // Its place is taken by the next.
    field.a.admin().delete_topic("one").await.unwrap();
    field.until("the second topic", async |field| field.has("two").await).await;
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
