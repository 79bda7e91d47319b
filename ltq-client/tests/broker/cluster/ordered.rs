use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_client::{
    Availability, ClusterProducer, ClusterPublishError, ConnectionState, Message, NodeInfo, Outcome,
};
use ltq_discovery::NodeState;

use super::Field;
use crate::{board::node, node::within};

fn message(key: usize, n: usize) -> Message {
    Message::new(n.to_string()).with_key(format!("key-{key}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_5_an_ordered_producer_keeps_the_order_of_each_key_over_lost_connections() {
    let field = Field::with(&["a", "b", "c"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let producer = within(builder.window_messages(500).open()).await.unwrap();
    const KEYS: usize = 40;
    const EACH: usize = 100;
    let mut pending = Vec::new();
    for n in 0..EACH {
        for key in 0..KEYS {
            pending.push((key, within(producer.enqueue(message(key, n))).await.unwrap()));
        }
        if n % 20 == 10 {
            ["a", "b", "c"].iter().for_each(|name| field.net.cut(name));
        }
    }
    let mut homes = BTreeMap::<usize, BTreeSet<String>>::new();
    for (key, one) in pending {
        let receipt = within(one).await.unwrap();
        homes.entry(key).or_default().insert(receipt.node.to_string());
    }
    assert!(homes.values().all(|nodes| nodes.len() == 1), "{homes:?}");
    let used: BTreeSet<_> = homes.values().flatten().collect();
    assert_eq!(used.len(), 3, "keys are spread");
    let mut by_key = BTreeMap::<String, Vec<usize>>::new();
    for one in field.all_found().await.into_values().flatten() {
        by_key.entry(one.key.unwrap()).or_default().push(one.body.parse().unwrap());
    }
    assert_eq!(by_key.len(), KEYS);
    for (key, numbers) in by_key {
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test]
async fn a_move_of_the_order_is_told_once_for_each_slot() {
    let mut field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let producer = within(builder.open()).await.unwrap();
    const KEYS: usize = 60;
    let mut homes = Vec::new();
    for key in 0..KEYS {
        let first = within(producer.send(message(key, 0))).await.unwrap();
        let second = within(producer.send(message(key, 1))).await.unwrap();
        assert_eq!(first.node, second.node);
        homes.push(first.node);
    }
    field.start("c").await;
    field.board.put(&node("c"));
    let some_moved = async {
        // Word of the new node takes a moment: until then everything stays.
        let mut n = 2;
        loop {
            match producer.send(message(0, n)).await {
                Err(ClusterPublishError::OrderMoved { .. }) => return true,
                Ok(receipt) if receipt.node != homes[0] => panic!("it was not told"),
                Ok(_) if field.cluster.nodes().len() == 3 && n > 200 => return false,
                Ok(_) => n += 1,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let first_moved = within(some_moved).await;
    let mut moved = usize::from(first_moved);
    for (key, home) in homes.iter().enumerate().skip(1) {
        match within(producer.send(message(key, 1_000))).await {
            Ok(receipt) => assert_eq!(receipt.node, *home, "only to the new node it moves"),
            Err(error) => {
                let ClusterPublishError::OrderMoved { from, to, .. } = &error else {
                    panic!("{error}")
                };
                assert_eq!((from, to.as_str()), (home, "c"));
                assert_eq!(error.outcome(), Outcome::Nothing);
                moved += 1;
                let receipt = within(producer.send(message(key, 1_001))).await.unwrap();
                assert_eq!(receipt.node.as_str(), "c", "it was told, and goes there");
            }
        }
    }
    assert!((8..=35).contains(&moved), "{moved} of {KEYS} for one node of three");
    assert_eq!(producer.figures().order_moves as usize, moved);
}

#[tokio::test]
async fn a_suspected_node_keeps_its_keys() {
    let mut field = Field::with(&["a", "b", "c"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Move);
    let producer = within(builder.open()).await.unwrap();
    const KEYS: usize = 60;
    let mut homes = Vec::new();
    for key in 0..KEYS {
        homes.push(within(producer.send(message(key, 0))).await.unwrap().node);
    }
    let of_b = homes.iter().filter(|home| home.as_str() == "b").count();
    assert!(of_b > 5, "{homes:?}");
    field.start("d").await;
    field.board.put(&node("b").with_suspicion(true));
    field.board.put(&node("d"));
    // Once a key has moved to the new node the suspicion is known, too.
    let told = async {
        loop {
            for (key, home) in homes.iter().enumerate() {
                match producer.send(message(key, 1)).await {
                    Ok(receipt) => assert_eq!(receipt.node, *home),
                    Err(ClusterPublishError::OrderMoved { .. }) => return key,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let first = within(told).await;
    let mut stayed = 0;
    for (key, home) in homes.iter().enumerate().filter(|(key, _)| *key != first) {
        match within(producer.send(message(key, 2))).await {
            Ok(receipt) => {
                assert_eq!(receipt.node, *home);
                stayed += usize::from(home.as_str() == "b");
            }
            Err(ClusterPublishError::OrderMoved { to, .. }) => assert_eq!(to.as_str(), "d"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stayed > 0, "all of {of_b} have left it");
}

#[tokio::test]
async fn a_node_that_drains_hands_its_keys_on() {
    let field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let producer = within(builder.open()).await.unwrap();
    let mut key = 0;
    // One of b's.
    while within(producer.send(message(key, 0))).await.unwrap().node.as_str() != "b" {
        key += 1;
    }
    field.board.put(&node("b").with_state(NodeState::Draining));
    // Word of it takes a moment: until then everything stays.
    let moved = async {
        loop {
            match producer.send(message(key, 1)).await {
                Ok(receipt) => assert_eq!(receipt.node.as_str(), "b", "it was not told"),
                Err(ClusterPublishError::OrderMoved { from, to, .. }) => return (from, to),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (from, to) = within(moved).await;
    assert_eq!((from.as_str(), to.as_str()), ("b", "a"));
    assert_eq!(within(producer.send(message(key, 2))).await.unwrap().node.as_str(), "a");
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_fails_its_keys_or_hands_them_on() {
    // The last one may, and not so soon.
    let (soon, late) = (Duration::from_millis(500), Duration::from_secs(3_600));
    for (availability, failover_after) in
        [(Availability::Fail, soon), (Availability::Move, soon), (Availability::Move, late)]
    {
        let field = Field::with(&["a", "b"]).await;
        let builder = field.cluster.producer_builder("orders").ordered(availability);
        let builder = builder.timeout(Duration::from_millis(1_500)).failover_after(failover_after);
        let producer = within(builder.open()).await.unwrap();
        let mut key = 0;
        // One of b's.
        while within(producer.send(message(key, 0))).await.unwrap().node.as_str() != "b" {
            key += 1;
        }
        field.net.take_away("b");
        let error = within(producer.send(message(key, 1))).await.unwrap_err();
        match availability {
            Availability::Move if failover_after == soon => {
                // Whether it was sent before the link was seen to be cut is chance.
                let error = match error.outcome() {
                    Outcome::Unknown => within(producer.send(message(key, 2))).await.unwrap_err(),
                    Outcome::Nothing => error,
                };
                let moved = matches!(error, ClusterPublishError::OrderMoved { .. });
                assert!(moved, "{error}");
                let receipt = within(producer.send(message(key, 3))).await.unwrap();
                assert_eq!(receipt.node.as_str(), "a");
            }
            _ => {
                let again = within(producer.send(message(key, 2))).await.unwrap_err();
                assert!(matches!(again, ClusterPublishError::NoNode { .. }), "{again}");
                assert_eq!(again.outcome(), Outcome::Nothing);
                assert!(again.to_string().contains("b (not connected)"), "{again}");
            }
        }
    }
}

/// A producer, and a key whose node is b.
async fn publishing_to_b(field: &Field, availability: Availability) -> (ClusterProducer, usize) {
    let builder = field.cluster.producer_builder("orders").ordered(availability);
    let builder = builder.timeout(Duration::from_millis(1_000));
    let producer = within(builder.open()).await.unwrap();
    for key in 0.. {
        if within(producer.send(message(key, 0))).await.unwrap().node.as_str() == "b" {
            return (producer, key);
        }
    }
    unreachable!("some key is b's")
}

/// Waits until the cluster has heard what the board says of b.
async fn b_is(field: &Field, so: impl Fn(Option<&NodeInfo>) -> bool) {
    let id = "b".parse().unwrap();
    within(async {
        while !so(field.cluster.nodes().get(&id)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// b crashes, is suspected, and is forgotten.
async fn forget_b(field: &Field) {
    suspect_b(field, &node("b")).await;
    field.board.gone("b", false);
    b_is(field, |b| b.is_none()).await;
}

/// b, which is as told, crashes and is suspected.
async fn suspect_b(field: &Field, b: &NodeInfo) {
    field.net.take_away("b");
    field.board.put(&b.clone().with_suspicion(true));
    b_is(field, |b| b.is_some_and(NodeInfo::is_suspected)).await;
}

#[tokio::test]
async fn a_node_that_crashed_keeps_its_keys_when_it_is_forgotten() {
    let mut field = Field::with(&["a", "b"]).await;
    let (producer, key) = publishing_to_b(&field, Availability::Fail).await;
    assert!(field.cluster.lost().is_empty());
    forget_b(&field).await;
    assert_eq!(field.cluster.lost(), ["b".parse().unwrap()]);
    // One may have been on its way.
    let _ = within(producer.send(message(key, 1))).await.unwrap_err();
    let error = within(producer.send(message(key, 2))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::NoNode { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert!(error.to_string().contains("b (lost; the order of its keys waits for it)"), "{error}");
    // A program's next producer knows it as well.
    let next = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let next = within(next.timeout(Duration::from_millis(500)).open()).await.unwrap();
    let error = within(next.send(message(key, 2))).await.unwrap_err();
    assert!(matches!(error, ClusterPublishError::NoNode { .. }), "{error}");
    // Another in its place, under its id.
    field.start("b2").await;
    let address = "in-process://b2".parse().unwrap();
    field.board.put(&NodeInfo::new("b".parse().unwrap(), [address]).unwrap());
    b_is(&field, |b| b.is_some()).await;
    let receipt = within(producer.send(message(key, 3))).await.unwrap();
    assert_eq!(receipt.node.as_str(), "b", "it did not move");
    assert!(field.cluster.lost().is_empty());
}

/// The client may have been out of sight while it was suspected.
#[tokio::test]
async fn a_node_that_was_never_seen_suspected_and_is_forgotten_keeps_its_keys() {
    let field = Field::with(&["a", "b"]).await;
    let (producer, key) = publishing_to_b(&field, Availability::Fail).await;
    field.net.take_away("b");
    field.board.gone("b", false);
    b_is(&field, |b| b.is_none()).await;
    let _ = within(producer.send(message(key, 1))).await.unwrap_err();
    let error = within(producer.send(message(key, 2))).await.unwrap_err();
    assert!(error.to_string().contains("b (lost; the order of its keys waits for it)"), "{error}");
}

#[tokio::test]
async fn a_node_that_dies_while_it_drains_does_not_get_its_keys_back() {
    let field = Field::with(&["a", "b"]).await;
    let (producer, key) = publishing_to_b(&field, Availability::Fail).await;
    let draining = node("b").with_state(NodeState::Draining);
    field.board.put(&draining);
    moves_to_a(&producer, key).await;
    suspect_b(&field, &draining).await;
    field.board.gone("b", false);
    b_is(&field, |b| b.is_none()).await;
    assert!(field.cluster.lost().is_empty());
    // Who is opened now has heard of all that.
    let next = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let next = within(next.timeout(Duration::from_millis(1_000)).open()).await.unwrap();
    for producer in [&next, &producer] {
        let receipt = within(producer.send(message(key, 3))).await.unwrap();
        assert_eq!(receipt.node.as_str(), "a");
    }
}

#[tokio::test]
async fn keys_of_a_crashed_node_move_when_it_is_given_up_or_may_be_left() {
    for availability in [Availability::Fail, Availability::Move] {
        let field = Field::with(&["a", "b"]).await;
        let (producer, key) = publishing_to_b(&field, availability).await;
        let id = "b".parse().unwrap();
        assert!(!field.cluster.give_up(&id), "it is there");
        forget_b(&field).await;
        if availability == Availability::Fail {
            assert!(field.cluster.give_up(&id));
            assert!(!field.cluster.give_up(&id), "nobody waits for it any more");
        }
        moves_to_a(&producer, key).await;
    }
}

/// The key's order moves, and that is told.
async fn moves_to_a(producer: &ClusterProducer, key: usize) {
    let told = async {
        loop {
            match producer.send(message(key, 1)).await {
                Err(ClusterPublishError::OrderMoved { from, to, .. }) => return (from, to),
                Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
                // Word of b takes a moment.
                Ok(receipt) => assert_eq!(receipt.node.as_str(), "b", "it was not told"),
            }
        }
    };
    let (from, to) = within(told).await;
    assert_eq!((from.as_str(), to.as_str()), ("b", "a"));
    assert_eq!(within(producer.send(message(key, 2))).await.unwrap().node.as_str(), "a");
}

#[tokio::test]
async fn keys_of_a_node_that_is_withdrawn_move_though_it_was_suspected() {
    for is_suspected in [false, true] {
        let field = Field::with(&["a", "b"]).await;
        let (producer, key) = publishing_to_b(&field, Availability::Fail).await;
        match is_suspected {
            true => suspect_b(&field, &node("b")).await,
            false => field.net.take_away("b"),
        }
        field.board.withdraw("b");
        b_is(&field, |b| b.is_none()).await;
        assert!(field.cluster.lost().is_empty());
        moves_to_a(&producer, key).await;
    }
}

#[tokio::test]
async fn a_move_waits_for_what_the_old_node_has_left() {
    let field = Field::with(&["a", "b"]).await;
    let (producer, key) = publishing_to_b(&field, Availability::Fail).await;
    let old = field.brokers["b"].client().await;
    let mut consumer = within(old.consumer("orders", "billing")).await.unwrap();
    field.board.put(&node("b").with_state(NodeState::Draining));
    moves_to_a(&producer, key).await;
    let admin = field.cluster.admin(&"b".parse().unwrap()).unwrap();
    let mut waiting = std::pin::pin!(admin.until_consumed("orders"));
    let delivery = within(consumer.next()).await.unwrap().unwrap();
    tokio::select! {
        done = &mut waiting => panic!("{done:?}, and one is in flight"),
        shown = async { within(old.admin().show_topic("orders")).await } => drop(shown.unwrap()),
    }
    delivery.ack().unwrap();
    let others = async {
        loop {
            consumer.next().await.unwrap().unwrap().ack().unwrap();
        }
    };
    tokio::select! {
        done = within(waiting) => done.unwrap(),
        () = others => {}
    }
    within(admin.until_consumed("no-such-topic")).await.unwrap();
}

#[tokio::test]
async fn what_comes_after_a_move_is_waited_for_by_nobody() {
    let field = Field::with(&["b"]).await;
    let old = field.brokers["b"].client().await;
    let producer = within(old.producer("orders")).await.unwrap();
    let mut consumer = within(old.consumer("orders", "billing")).await.unwrap();
    within(producer.send_batch((0..5).map(|n| message(7, n)).collect::<Vec<_>>())).await.unwrap();
    let admin = old.admin();
    let mut waiting = std::pin::pin!(admin.until_consumed("orders"));
    // For each message that is consumed there is another one.
    let mut number = 5;
    loop {
        number += 1;
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        within(producer.send(message(7, number))).await.unwrap();
        delivery.ack_confirmed().await.unwrap();
        let soon = tokio::time::timeout(Duration::from_millis(1), &mut waiting).await;
        match soon {
            Ok(done) => break done.unwrap(),
            Err(_) => assert!(number < 500, "it waits for what came later"),
        }
    }
    let left = within(admin.show_topic("orders")).await.unwrap();
    assert!(left.channels[0].backlog() > 0, "something is left that came later");
}

#[tokio::test]
async fn nothing_goes_behind_a_move_before_all_who_waited_have_heard_of_it() {
    let field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let producer = within(builder.open()).await.unwrap();
    let mut key = 0;
    // One of b's.
    while within(producer.send(message(key, 0))).await.unwrap().node.as_str() != "b" {
        key += 1;
    }
    field.net.take_away("b");
    let is_up = |state: &ConnectionState| matches!(state, ConnectionState::Connected { .. });
    within(async {
        let b_is_up = || {
            let all = field.cluster.state();
            all.iter().any(|one| {
                one.node.id().as_str() == "b" && one.connection.as_ref().is_some_and(is_up)
            })
        };
        while b_is_up() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut waiting = Vec::new();
    for n in 1..6 {
        waiting.push(within(producer.enqueue(message(key, n))).await.unwrap());
    }
    field.board.put(&node("b").with_state(NodeState::Draining));
    within(async {
        while producer.figures().order_moves == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let is_move = |error: ClusterPublishError| {
        let ClusterPublishError::OrderMoved { from, to, .. } = &error else { panic!("{error}") };
        assert_eq!((from.as_str(), to.as_str()), ("b", "a"));
    };
    // One is not interested in it, the last one is not asked for its answer.
    let last = waiting.pop().unwrap();
    drop(waiting.pop());
    for one in waiting {
        is_move(within(producer.enqueue(message(key, 6))).await.unwrap_err());
        is_move(within(one).await.unwrap_err());
    }
    is_move(within(producer.enqueue(message(key, 6))).await.unwrap_err());
    is_move(within(last).await.unwrap_err());
    for n in 1..7 {
        let receipt = within(producer.send(message(key, n))).await.unwrap();
        assert_eq!(receipt.node.as_str(), "a");
    }
    assert_eq!(producer.figures().order_moves, 1, "it is one move");
}

#[tokio::test]
async fn a_batch_of_an_ordered_producer_has_one_key() {
    let field = Field::with(&["a", "b"]).await;
    let builder = field.cluster.producer_builder("orders").ordered(Availability::Fail);
    let producer = within(builder.open()).await.unwrap();
    let same: Vec<_> = (0..10).map(|n| message(7, n)).collect();
    assert_eq!(within(producer.send_batch(&same)).await.unwrap().len(), 10);
    let mixed: Vec<_> = (0..10).map(|n| message(n, n)).collect();
    let error = within(producer.send_batch(&mixed)).await.unwrap_err();
    assert!(matches!(error.error, ClusterPublishError::MixedBatch { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Nothing);
}
