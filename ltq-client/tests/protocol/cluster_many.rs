//! What a cluster's producer does where there are many nodes: which connections it has, and what it costs.

use std::{sync::Arc, time::Duration};

use ltq_client::{
    Admin, Backoff, Choice, Client, Cluster, ClusterError, ClusterProducer, ClusterPublishError,
    ConnectionState, Message, Outcome, RefusalCode,
};
use ltq_core::{Durability, Refusal, protocol::Frame};
use ltq_discovery::{Load, NodeId};
use ltq_transport::{InProcess, Transports};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    board::{Board, node},
    cluster::Least,
    fake::{Fake, Peer, within},
};

const SECOND: Duration = Duration::from_secs(1);

/// What all nodes do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mood {
    /// They end every connection.
    Away,
    /// They open producers and store what comes.
    Stores,
    /// They open no producer.
    Refuses(Refusal),
}

/// Nodes that all do the same.
struct Crowd {
    board: Board,
    cluster: Cluster,
    mood: Arc<watch::Sender<Mood>>,
}

impl Crowd {
    async fn of(count: usize) -> Self {
        let namespace = InProcess::new();
        let names: Vec<_> = (0..count).map(|n| format!("n-{n:04}")).collect();
        let board = Board::new(names.iter().map(|name| node(name)));
        let client = Client::builder()
            .transports(Transports::new().with(namespace.clone()))
            .backoff(Backoff::new(SECOND / 50, SECOND));
        let builder = Cluster::builder().discovery(board.clone()).client(client);
        let cluster = within(builder.connect()).await.unwrap();
        let mood = Arc::new(watch::Sender::new(Mood::Stores));
        for name in names {
            let mut fake = Fake::at(&namespace, &name).await;
            let mood = mood.clone();
            tokio::spawn(async move {
                loop {
                    let peer = fake.next_welcome().await;
                    tokio::spawn(serve(peer, mood.subscribe()));
                }
            });
        }
        Self { board, cluster, mood }
    }

    /// How many nodes are connected to.
    fn connected(&self) -> usize {
        let is_up = |state: &ConnectionState| matches!(state, ConnectionState::Connected { .. });
        let state = self.cluster.state();
        state.iter().filter(|one| one.connection.as_ref().is_some_and(is_up)).count()
    }

    /// How many nodes have a client.
    fn used(&self) -> usize {
        self.cluster.state().iter().filter(|one| one.connection.is_some()).count()
    }
}

/// Does as all do until the client ends the stream.
async fn serve(mut peer: Peer, mut mood: watch::Receiver<Mood>) {
    let mut epoch = 0;
    loop {
        let frame = tokio::select! {
            biased;
            away = mood.wait_for(|mood| *mood == Mood::Away) => {
                away.unwrap();
                return;
            }
            frame = peer.recv_any() => frame,
        };
        match frame {
            Some(Frame::Ping { nonce }) => peer.send(&Frame::Pong { nonce }).await,
            Some(Frame::OpenProducer { handle, .. }) => {
                let refusal = match &*mood.borrow() {
                    Mood::Refuses(refusal) => Some(refusal.clone()),
                    _ => None,
                };
                if refusal.is_some() {
                    // Somewhere far away.
                    sleep(SECOND / 10).await;
                }
                epoch += 1;
                let (last_sequence, durability) = (0, Durability::Disk);
                peer.send(&match refusal {
                    Some(refusal) => Frame::ProducerRefused { handle, refusal },
                    None => Frame::ProducerOpened { handle, epoch, last_sequence, durability },
                })
                .await;
            }
            Some(Frame::Publish { handle, sequence, records, .. }) => {
                peer.confirm(handle, sequence, records.count() as u64, sequence).await;
            }
            Some(_) => {}
            None => return,
        }
    }
}

/// Publishes once in a while for so long.
async fn publish_for(producer: &ClusterProducer, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        within(producer.send(Message::new("m"))).await.unwrap();
        sleep(SECOND / 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_to_nodes_that_are_left_out_after_an_outage_end() {
    let crowd = Crowd::of(8).await;
    let builder = crowd.cluster.producer_builder("orders").nodes_max(2).timeout(SECOND * 5);
    let producer = within(builder.choice(Choice::RoundRobin).open()).await.unwrap();
    publish_for(&producer, SECOND).await;
    assert_eq!(crowd.used(), 2);
    crowd.mood.send_replace(Mood::Away);
    // What was on its way may have been stored; the next one finds no node among all of them.
    let _first = within(producer.send(Message::new("m"))).await;
    let error = within(producer.send(Message::new("m"))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::NoNode { .. }), "{error}");
    assert_eq!(crowd.used(), 8, "all were tried");
    crowd.mood.send_replace(Mood::Stores);
    sleep(SECOND * 2).await;
    assert_eq!(crowd.connected(), 8);
    publish_for(&producer, SECOND * 90).await;
    assert_eq!((crowd.connected(), crowd.used()), (2, 2));
    assert!(producer.figures().nodes.len() <= 8);
    // Those that it keeps to stay connected to, though nothing is published.
    sleep(SECOND * 300).await;
    assert_eq!(crowd.connected(), 2);
}

/// However long that takes.
#[tokio::test(start_paused = true)]
async fn what_a_node_that_is_left_out_has_is_answered_before_its_connection_ends() {
    let namespace = InProcess::new();
    let board = Board::new([node("a")]);
    let client = Client::builder()
        .transports(Transports::new().with(namespace.clone()))
        .entropy(Arc::new(Least))
        .backoff(Backoff::new(SECOND / 50, SECOND));
    let builder = Cluster::builder().discovery(board.clone()).client(client);
    let cluster = within(builder.connect()).await.unwrap();
    let mut a = Fake::at(&namespace, "a").await;
    let builder = cluster.producer_builder("orders").nodes_max(1);
    let builder = builder.timeout(SECOND * 3_000).silent_after(SECOND * 1_000);
    let on_a = async {
        let mut peer = a.welcome().await;
        let opened = peer.open_producer(1, 0).await;
        (peer, opened)
    };
    let (producer, (mut a, on_a)) = tokio::join!(builder.open(), on_a);
    let producer = producer.unwrap();
    let pending = producer.enqueue(Message::new("m")).await.unwrap();
    a.publish().await;
    // Some of them the producer would rather keep to.
    let mood = Arc::new(watch::Sender::new(Mood::Stores));
    for n in 0..16 {
        let name = format!("other-{n}");
        let mut fake = Fake::at(&namespace, &name).await;
        let mood = mood.clone();
        tokio::spawn(async move {
            loop {
                let peer = fake.next_welcome().await;
                tokio::spawn(serve(peer, mood.subscribe()));
            }
        });
        board.put(&node(&name));
    }
    while cluster.nodes().len() < 17 {
        sleep(SECOND / 10).await;
    }
    sleep(SECOND).await;
    let beating = async {
        // Heartbeats, and nothing else: neither an end nor a producer that is closed.
        let until = Instant::now() + SECOND * 200;
        while Instant::now() < until {
            match timeout(SECOND * 10, a.recv_any()).await {
                Ok(Some(Frame::Ping { nonce })) => a.send(&Frame::Pong { nonce }).await,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
    };
    let elsewhere = async {
        while within(producer.send(Message::new("n"))).await.unwrap().node.as_str() == "a" {
            sleep(SECOND).await;
        }
    };
    tokio::join!(beating, elsewhere);
    a.confirm(on_a.handle, 1, 1, 0).await;
    assert_eq!(within(pending).await.unwrap().node.as_str(), "a");
    let closed = a.recv().await;
    assert!(matches!(closed, Frame::CloseProducer { .. }), "{closed:?}");
    let ended = async { while a.recv_any().await.is_some() {} };
    timeout(SECOND * 61, ended).await.expect("nobody uses it");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_uses_ends_and_one_in_use_stays() {
    let crowd = Crowd::of(2).await;
    let id = |n: usize| format!("n-{n:04}").parse::<NodeId>().unwrap();
    let [first, second]: [Admin; 2] = [0, 1].map(|n| crowd.cluster.admin(&id(n)).unwrap());
    sleep(SECOND).await;
    assert_eq!(crowd.connected(), 2);
    drop(first);
    sleep(SECOND * 28).await;
    assert_eq!(crowd.connected(), 2, "somebody may come soon");
    sleep(SECOND * 33).await;
    assert_eq!(crowd.connected(), 1);
    sleep(SECOND * 600).await;
    assert_eq!(crowd.connected(), 1, "it is in use");
    // Who takes it in between has it.
    drop(second);
    for _ in 0..20 {
        sleep(SECOND * 20).await;
        drop(crowd.cluster.admin(&id(1)).unwrap());
        assert_eq!(crowd.connected(), 1);
    }
    sleep(SECOND * 61).await;
    assert_eq!(crowd.used(), 0);
    let again = crowd.cluster.admin(&id(0)).unwrap();
    sleep(SECOND).await;
    assert_eq!(crowd.connected(), 1);
    drop(again);
}

/// Publishes to each of so many nodes in its turn until all are used, and says how often.
async fn rounds_until_all_are_used(producer: &ClusterProducer, nodes: usize) -> usize {
    for round in 1.. {
        for _ in 0..nodes {
            drop(producer.enqueue(Message::new("m")).await.unwrap());
        }
        producer.flush().await.unwrap();
        sleep(SECOND / 10).await;
        let figures = producer.figures().nodes;
        if figures.values().filter(|node| node.stored > 0).count() == nodes {
            return round;
        }
    }
    unreachable!()
}

/// Where those that are open stand in for the others meanwhile.
#[tokio::test(start_paused = true)]
async fn all_nodes_have_their_turn_though_some_are_open_sooner_than_others() {
    let crowd = Crowd::of(40).await;
    let builder = crowd.cluster.producer_builder("orders").nodes_max(40);
    let producer = within(builder.choice(Choice::RoundRobin).open()).await.unwrap();
    for _ in 0..5 {
        within(producer.send(Message::new("m"))).await.unwrap();
        sleep(SECOND / 10).await;
    }
    let rounds = within(rounds_until_all_are_used(&producer, 40)).await;
    assert!(rounds <= 4, "{rounds} rounds");
}

/// Each look at all nodes takes in what is new with any of them: it is not one look for each piece of news.
#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_that_come_up_are_looked_at_some_times_and_not_thousands() {
    const NODES: usize = 1_000;
    let crowd = Crowd::of(NODES).await;
    let builder = crowd.cluster.producer_builder("orders").nodes_max(NODES);
    let producer = within(builder.choice(Choice::RoundRobin).open()).await.unwrap();
    within(rounds_until_all_are_used(&producer, NODES)).await;
    let looks = producer.figures().looks;
    println!("{NODES} nodes have come up, and were looked at {looks} times");
    assert!(looks < 200, "{looks} looks, each at {NODES} nodes, which have 3 news each");
}

/// How much waits at nodes changes with one or another of them all the time, and who is at rest need not know.
#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_whose_loads_change_cost_idle_producers_nothing() {
    const NODES: usize = 1_000;
    const CHANGES: u32 = 200;
    let crowd = Crowd::of(NODES).await;
    let mut producers = Vec::new();
    for n in 0..20 {
        producers.push(within(crowd.cluster.producer(&format!("topic-{n}"))).await.unwrap());
    }
    sleep(SECOND * 5).await;
    let looks = || producers.iter().map(|one| one.figures().looks).sum::<u64>();
    let (before, worked) = (looks(), processor_time());
    for n in 0..CHANGES {
        crowd.board.put(&node("n-0500").with_load(Load(n + 1)));
        sleep(SECOND / 10).await;
    }
    let (looks, worked) = (looks() - before, processor_time().saturating_sub(worked));
    println!("{CHANGES} loads changed: {looks} looks at {NODES} nodes, {worked:?} of a processor");
    assert_eq!(looks, 0, "none of that was their business");
    crowd.board.put(&node("n-0500").with_suspicion(true));
    sleep(SECOND).await;
    assert!(producers.iter().map(|one| one.figures().looks).sum::<u64>() >= before + 20);
}

/// Of this thread.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ran = told.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(ran.unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_load_that_changed_is_chosen_by_though_nobody_is_told_of_it() {
    let crowd = Crowd::of(2).await;
    let producer = within(crowd.cluster.producer("orders")).await.unwrap();
    within(rounds_until_all_are_used(&producer, 2)).await;
    for busy in [0, 1, 0] {
        for n in 0..2 {
            let load = Load(if n == busy { 1 << 10 } else { 0 });
            crowd.board.put(&node(&format!("n-{n:04}")).with_load(load));
        }
        sleep(SECOND).await;
        for _ in 0..20 {
            let receipt = within(producer.send(Message::new("m"))).await.unwrap();
            assert_eq!(receipt.node.as_str(), format!("n-{:04}", 1 - busy));
        }
    }
}

/// Though news come all the while.
#[tokio::test(start_paused = true)]
async fn promise_15_a_call_among_a_thousand_nodes_ends_in_time() {
    let crowd = Crowd::of(1_000).await;
    let builder = crowd.cluster.producer_builder("orders").timeout(SECOND * 5);
    let producer = within(builder.open()).await.unwrap();
    crowd.mood.send_replace(Mood::Away);
    let _cut = within(producer.send(Message::new("m"))).await;
    for _ in 0..3 {
        let start = Instant::now();
        within(producer.send(Message::new("m"))).await.unwrap_err();
        let late = start.elapsed().saturating_sub(SECOND * 5);
        assert!(late < SECOND / 200, "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_each_of_many_nodes_refuses_is_told_as_that() {
    let crowd = Crowd::of(300).await;
    let refusal = Refusal::new(RefusalCode::Forbidden, "for a test");
    crowd.mood.send_replace(Mood::Refuses(refusal.clone()));
    let start = Instant::now();
    let error = within(crowd.cluster.producer("orders")).await.unwrap_err();
    match &error {
        ClusterError::Refused { refusal: said, .. } => assert_eq!(*said, refusal),
        other => panic!("{other}"),
    }
    assert!(start.elapsed() < SECOND * 9, "{:?}", start.elapsed());
}

/// What may pass is waited for, and told when the time is up.
#[tokio::test(start_paused = true)]
async fn an_error_says_what_nodes_said_however_many_there_are_of_which_nothing_is_known() {
    let crowd = Crowd::of(40).await;
    // Named before all others, and not there.
    (0..40).for_each(|n| crowd.board.put(&node(&format!("a-{n:04}"))));
    let builder = crowd.cluster.producer_builder("orders").timeout(SECOND * 20);
    let producer = within(builder.open()).await.unwrap();
    let refusal = Refusal::new(RefusalCode::StoreFull, "for a test");
    crowd.mood.send_replace(Mood::Away);
    let _cut = timeout(SECOND * 30, producer.send(Message::new("m"))).await.unwrap();
    crowd.mood.send_replace(Mood::Refuses(refusal));
    let error = timeout(SECOND * 30, producer.send(Message::new("m"))).await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Nothing);
    let ClusterPublishError::NoNode { nodes, .. } = &error else { panic!("{error}") };
    assert_eq!(nodes.0.len(), 80);
    let text = error.to_string();
    assert!(text.contains("for a test"), "{text}");
    assert!(text.contains("not connected") && text.contains("passed over"), "{text}");
    assert!(text.contains("and 72 more; of all 80: "), "{text}");
}
