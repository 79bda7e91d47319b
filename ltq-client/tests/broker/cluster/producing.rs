use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_client::{Choice, ClusterPublishError, Failover, Message, Outcome};
use ltq_core::{Durability, Transport};
use ltq_discovery::{NodeInfo, NodeState};

use super::{Field, Found, WARM};
use crate::{board::node, node::within};

const COUNT: usize = 10_000;

/// Publishes many messages, and does something once a part of them is confirmed.
async fn publish_around(
    field: &Field,
    failover: Failover,
    amid: impl AsyncFnOnce(&Field),
) -> Vec<Result<ltq_client::ClusterReceipt, ClusterPublishError>> {
    let builder = field.cluster.producer_builder("orders").failover(failover);
    let producer = within(builder.window_messages(1_000).open()).await.unwrap();
    // Each node is in use before anything happens to one.
    let mut warm = 0;
    let all_used = async {
        let mut used = BTreeSet::new();
        while used.len() < field.brokers.len() {
            used.insert(producer.send(Message::new(WARM)).await.unwrap().node);
            warm += 1;
        }
    };
    within(all_used).await;
    let mut pending = Vec::new();
    let mut results = Vec::new();
    let mut amid = Some(amid);
    for n in 0..COUNT {
        pending.push(within(producer.enqueue(Message::new(n.to_string()))).await.unwrap());
        if n == COUNT / 3 {
            // The last thousand of these are on their way.
            amid.take().unwrap()(field).await;
        }
    }
    // Nobody has polled for any of them until now.
    for one in pending {
        results.push(within(one).await);
    }
    let figures = producer.figures();
    let stored: u64 = figures.nodes.values().map(|node| node.stored).sum();
    assert_eq!(stored as usize, warm + results.iter().filter(|result| result.is_ok()).count());
    results
}

fn bodies(found: &BTreeMap<String, Vec<Found>>) -> BTreeMap<&str, Vec<(&str, &Found)>> {
    let mut bodies = BTreeMap::<_, Vec<_>>::new();
    for (name, all) in found {
        for one in all {
            bodies.entry(one.body.as_str()).or_default().push((name.as_str(), one));
        }
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_2_nothing_is_lost_when_a_node_is_cut_off_and_repeats_can_be_told() {
    let field = Field::with(&["a", "b", "c"]).await;
    let cut = async |field: &Field| field.net.take_away("b");
    let results = publish_around(&field, Failover::AtLeastOnce, cut).await;
    let found = field.all_found().await;
    let bodies = bodies(&found);
    for (n, result) in results.iter().enumerate() {
        let receipt = result.as_ref().unwrap();
        let places = &bodies[n.to_string().as_str()];
        assert!(places.iter().any(|(name, _)| *name == receipt.node.as_str()), "{n}: {receipt:?}");
        assert!(places.iter().all(|(_, one)| one.id == places[0].1.id && one.id.is_some()));
    }
    assert_eq!(bodies.len(), COUNT);
    let ids: BTreeSet<_> = bodies.values().map(|places| &places[0].1.id).collect();
    assert_eq!(ids.len(), COUNT, "each message has an id of its own");
    assert!(found.values().all(|all| !all.is_empty()), "every node was used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_a_node_that_stops_costs_nothing_and_nobody_notices() {
    let field = Field::with(&["a", "b", "c"]).await;
    let stop = async |field: &Field| {
        let broker = field.brokers["b"].broker.clone();
        tokio::spawn(async move { broker.stop(Duration::from_secs(10)).await });
    };
    let results = publish_around(&field, Failover::AtLeastOnce, stop).await;
    let mut nodes = BTreeMap::<_, usize>::new();
    for (n, result) in results.into_iter().enumerate() {
        let receipt = result.unwrap_or_else(|error| panic!("{n}: {error}"));
        *nodes.entry(receipt.node.to_string()).or_default() += 1;
    }
    // What the stopped one took is in its store; the rest is found on the others, each once.
    let mut found = BTreeSet::new();
    for name in ["a", "c"] {
        let all = field.found(name).await;
        assert_eq!(all.len(), nodes[name], "{name}");
        assert!(all.into_iter().all(|one| found.insert(one.body)));
    }
    assert_eq!(found.len() + nodes["b"], COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_6_on_the_same_node_everything_is_stored_once_over_cuts() {
    let field = Field::with(&["a", "b", "c"]).await;
    let cut = async |field: &Field| ["a", "b", "c"].iter().for_each(|name| field.net.cut(name));
    let results = publish_around(&field, Failover::SameNode, cut).await;
    let found = field.all_found().await;
    let bodies = bodies(&found);
    for (n, result) in results.iter().enumerate() {
        let receipt = result.as_ref().unwrap();
        let places = &bodies[n.to_string().as_str()];
        assert_eq!(places.len(), 1, "{n} is there more than once");
        assert_eq!(places[0].0, receipt.node.as_str());
    }
    assert_eq!(bodies.len(), COUNT);
}

#[tokio::test]
async fn a_node_that_joins_gets_its_share() {
    for choice in [Choice::LeastLoaded, Choice::RoundRobin, Choice::Random] {
        let mut field = Field::with(&["a", "b"]).await;
        let builder = field.cluster.producer_builder("orders").choice(choice);
        let producer = within(builder.open()).await.unwrap();
        for _ in 0..100 {
            within(producer.send(Message::new("before"))).await.unwrap();
        }
        field.start("c").await;
        field.board.put(&node("c"));
        // Opening it takes a moment, in which others are used.
        let first =
            async { while producer.send(Message::new("x")).await.unwrap().node.as_str() != "c" {} };
        within(first).await;
        let mut counts = BTreeMap::<_, usize>::new();
        for _ in 0..1_200 {
            let receipt = within(producer.send(Message::new("after"))).await.unwrap();
            *counts.entry(receipt.node.to_string()).or_default() += 1;
        }
        assert!(counts.values().all(|count| *count >= 300), "{choice:?}: {counts:?}");
        assert_eq!(counts.len(), 3);
    }
}

#[tokio::test]
async fn what_is_published_faster_than_frames_go_out_shares_them() {
    // How often a message of so many bytes goes to another node than the one before, of a hundred.
    async fn changes(choice: Choice, bytes: usize) -> usize {
        let field = Field::with(&["a", "b"]).await;
        let builder = field.cluster.producer_builder("orders").choice(choice);
        let producer = within(builder.open()).await.unwrap();
        let both = async {
            let mut used = BTreeSet::new();
            while used.len() < 2 {
                used.insert(producer.send(Message::new("x")).await.unwrap().node);
            }
        };
        within(both).await;
        let mut pending = Vec::new();
        for _ in 0..100 {
            pending.push(within(producer.enqueue(Message::new(vec![0; bytes]))).await.unwrap());
        }
        let mut nodes = Vec::new();
        for one in pending {
            nodes.push(within(one).await.unwrap().node);
        }
        nodes.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
    // All of them are far less than what may follow one, and nothing else has its turn for long.
    for choice in [Choice::LeastLoaded, Choice::Random] {
        let small = changes(choice, 10).await;
        assert!(small <= 10, "{choice:?}: {small}");
        let large = changes(choice, 16 << 10).await;
        assert!(large >= 20, "{choice:?}, each is enough: {large}");
    }
    assert_eq!(changes(Choice::RoundRobin, 10).await, 99);
}

#[tokio::test]
async fn a_node_that_drains_gets_nothing_more() {
    let field = Field::with(&["a", "b"]).await;
    let producer = within(field.cluster.producer("orders")).await.unwrap();
    let builder = field.cluster.producer_builder("orders").timeout(Duration::from_millis(300));
    let impatient = within(builder.open()).await.unwrap();
    let both = async {
        let mut used = BTreeSet::new();
        while used.len() < 2 {
            used.insert(producer.send(Message::new("x")).await.unwrap().node);
        }
    };
    within(both).await;
    field.board.put(&node("b").with_state(NodeState::Draining));
    // Word of it takes a moment.
    let mut in_a_row = 0;
    let only_a = async {
        while in_a_row < 100 {
            let receipt = producer.send(Message::new("x")).await.unwrap();
            in_a_row = if receipt.node.as_str() == "a" { in_a_row + 1 } else { 0 };
        }
    };
    within(only_a).await;
    let before = field.count("b").await;
    for _ in 0..500 {
        let receipt = within(producer.send(Message::new("y"))).await.unwrap();
        assert_eq!(receipt.node.as_str(), "a");
    }
    assert_eq!(field.count("b").await, before);
    // Nor where there is no other.
    field.board.withdraw("a");
    let error = async {
        loop {
            match impatient.send(Message::new("z")).await {
                Ok(receipt) => assert_eq!(receipt.node.as_str(), "a"),
                Err(error) => return error,
            }
        }
    };
    let error = within(error).await;
    assert!(error.to_string().contains("b (draining)"), "{error}");
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert_eq!(field.count("b").await, before);
}

#[tokio::test]
async fn batches_go_to_one_node_as_a_whole() {
    let field = Field::with(&["a", "b", "c"]).await;
    let producer = within(field.cluster.producer("orders")).await.unwrap();
    for size in [0, 1, 700] {
        let messages: Vec<_> = (0..size).map(|n: usize| Message::new(n.to_string())).collect();
        let receipt = within(producer.send_batch(&messages)).await.unwrap();
        assert_eq!(receipt.len(), size);
        assert_eq!(receipt.parts().len(), size.min(1));
        assert_eq!(receipt.durability(), (size > 0).then_some(Durability::Memory));
        let offsets: Vec<_> = receipt.iter().map(|one| one.receipt.offset.unwrap().0).collect();
        assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
}

#[tokio::test]
async fn promise_15_closing_answers_everything_and_takes_nothing_more() {
    let field = Field::with(&["a", "b"]).await;
    let producer = within(field.cluster.producer("orders")).await.unwrap();
    let mut pending = Vec::new();
    for n in 0..1_000 {
        pending.push(producer.enqueue(Message::new(n.to_string())).await.unwrap());
    }
    within(field.cluster.clone().close()).await.unwrap();
    for one in pending {
        within(one).await.unwrap();
    }
    let error = within(producer.send(Message::new("late"))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::Closed { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert!(within(field.cluster.producer("orders")).await.is_err());
    assert!(field.cluster.admin(&"a".parse().unwrap()).is_err());
}

#[tokio::test]
async fn a_producer_that_is_dropped_still_publishes_what_it_took() {
    let field = Field::with(&["a", "b"]).await;
    let producer = within(field.cluster.producer("orders")).await.unwrap();
    let mut pending = Vec::new();
    for n in 0..100 {
        pending.push(producer.enqueue(Message::new(n.to_string())).await.unwrap());
    }
    drop(producer);
    for one in pending {
        within(one).await.unwrap();
    }
}

#[tokio::test]
async fn flush_tells_the_first_failure_and_waits_for_all() {
    let field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").ids(false);
    let producer = within(builder.open()).await.unwrap();
    for n in 0..500 {
        drop(producer.enqueue(Message::new(n.to_string())).await.unwrap());
    }
    drop(producer.enqueue(Message::new(vec![0; 3 << 20])).await.unwrap());
    let error = within(producer.flush()).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, ltq_client::RefusalCode::MessageTooLarge);
    within(producer.flush()).await.unwrap();
    let found = field.all_found().await;
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), 500);
    assert!(found.values().flatten().all(|one| one.id.is_none()), "ids were turned off");
}

#[tokio::test]
async fn a_broker_that_is_listed_twice_is_used_once() {
    for address in ["in-process://a", "in-process://also-a"] {
        let field = Field::with(&["a", "b"]).await;
        // The second time it is known by its own word only.
        let also = "in-process://also-a".parse().unwrap();
        let listener = field.net.steady().listen(&also).await.unwrap();
        let broker = field.brokers["a"].broker.clone();
        tokio::spawn(async move { broker.serve(listener).await });
        let builder = field.cluster.producer_builder("orders").choice(Choice::RoundRobin);
        let producer = within(builder.open()).await.unwrap();
        for _ in 0..20 {
            within(producer.send(Message::new("before"))).await.unwrap();
        }
        let twin = NodeInfo::new("twin".parse().unwrap(), [address.parse().unwrap()]).unwrap();
        field.board.put(&twin);
        for _ in 0..2_000 {
            within(producer.send(Message::new("after"))).await.unwrap();
        }
        let count = field.count("a").await + field.count("b").await;
        assert_eq!(count, 2_020, "each once");
    }
}

#[tokio::test]
async fn a_node_of_the_same_name_is_no_twin_and_a_fence_is_told() {
    // Both call themselves what every broker does that has no name of its own.
    let field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").name("p").choice(Choice::RoundRobin);
    let producer = within(builder.open()).await.unwrap();
    let mut used = Vec::new();
    let both = async {
        while used.len() < 2 {
            let node = producer.send(Message::new("before")).await.unwrap().node;
            if !used.contains(&node) {
                used.push(node);
            }
        }
    };
    within(both).await;
    // Another program takes the name at the node that was opened first.
    let client = field.brokers[used[0].as_str()].client().await;
    let other = within(client.producer_builder("orders").name("p").open()).await.unwrap();
    let fenced = async {
        loop {
            if let Err(error) = producer.send(Message::new("after")).await {
                return error;
            }
        }
    };
    let error = within(fenced).await;
    assert_eq!(error.refusal().unwrap().code, ltq_client::RefusalCode::Fenced, "{error}");
    assert_eq!(error.node(), Some(&used[0]));
    drop(other);
}

#[tokio::test]
async fn a_broker_says_which_it_is_at_each_of_its_addresses() {
    let field = Field::with(&["a", "b"]).await;
    let also = "in-process://also-a".parse().unwrap();
    let listener = field.net.steady().listen(&also).await.unwrap();
    let broker = field.brokers["a"].broker.clone();
    let instance = broker.instance();
    tokio::spawn(async move { broker.serve(listener).await });
    let connected = async |address: &str| {
        let builder = ltq_client::Client::builder()
            .transports(ltq_transport::Transports::new().with(field.net.steady()));
        within(builder.server(address).connect()).await.unwrap().instance()
    };
    assert_eq!(connected("in-process://a").await, Some(instance));
    assert_eq!(connected("in-process://also-a").await, Some(instance));
    let other = connected("in-process://b").await;
    assert_eq!(other, Some(field.brokers["b"].broker.instance()));
    assert_ne!(other, Some(instance));
}

#[tokio::test]
async fn a_producer_keeps_to_some_of_many_nodes_and_replaces_one_that_goes() {
    let names: Vec<_> = (0..12).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let field = Field::with(&names).await;
    let builder = field.cluster.producer_builder("orders").nodes_max(3);
    let producer = within(builder.choice(Choice::Random).open()).await.unwrap();
    let used = async |count: usize| {
        let mut used = BTreeSet::new();
        for _ in 0..count {
            used.insert(producer.send(Message::new("m")).await.unwrap().node);
        }
        used
    };
    let all_open = async { while used(100).await.len() < 3 {} };
    within(all_open).await;
    let before = within(used(300)).await;
    assert_eq!(before.len(), 3);
    let connected = || field.cluster.state().iter().filter(|one| one.connection.is_some()).count();
    assert_eq!(connected(), 3, "it is connected to no other");
    // Another producer of the same program uses the same ones.
    let second = field.cluster.producer_builder("orders").nodes_max(3);
    let second = within(second.open()).await.unwrap();
    for _ in 0..300 {
        let node = within(second.send(Message::new("m"))).await.unwrap().node;
        assert!(before.contains(&node), "{node}");
    }
    let gone = before.first().unwrap().clone();
    field.net.take_away(gone.as_str());
    field.board.withdraw(gone.as_str());
    let replaced = async {
        loop {
            let now = used(100).await;
            if now.len() == 3 && !now.contains(&gone) {
                return now;
            }
        }
    };
    let after = within(replaced).await;
    assert_eq!(before.intersection(&after).count(), 2, "no other node changed");
    assert_eq!(connected(), 3);
}

#[tokio::test]
async fn an_ordered_producer_publishes_each_key_to_its_node_however_many_there_are() {
    let field = Field::with(&["a", "b", "c", "d"]).await;
    let builder = field.cluster.producer_builder("orders").nodes_max(1);
    let builder = builder.ordered(ltq_client::Availability::Fail);
    let producer = within(builder.open()).await.unwrap();
    let mut used = BTreeSet::new();
    for key in 0..60 {
        let message = Message::new("m").with_key(format!("key-{key}"));
        used.insert(within(producer.send(message)).await.unwrap().node);
    }
    assert_eq!(used.len(), 4);
}
