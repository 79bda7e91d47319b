//! A destination of several nodes, and several ways to one.

use std::collections::{BTreeMap, BTreeSet};

use ltq_core::BrokerSettings;

use super::{
    field::{Field, bodies, settings, until, within},
    *,
};
use crate::bridge::Order;

async fn three() -> Field {
    let field = Field::new().await;
    field.start("c", settings()).await;
    field
}

/// Waits until so many messages are at `b` and `c` together, and gives those of each.
async fn got(field: &Field, count: u64) -> [Vec<Message>; 2] {
    let ends = async || {
        let mut ends = [0; 2];
        for (end, node) in ends.iter_mut().zip(["b", "c"]) {
            let topic = field.client(node).admin().show_topic("orders").await;
            *end = topic.map_or(0, |topic| topic.end.0);
        }
        ends
    };
    let ends = within("the messages", async {
        loop {
            let ends = ends().await;
            if ends.iter().sum::<u64>() >= count {
                return ends;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let [b, c] = ends.await;
    let of = async |node: &str, count: u64| match count {
        0 => Vec::new(),
        count => field.consume(node, "orders", count as usize).await,
    };
    [of("b", b).await, of("c", c).await]
}

#[tokio::test]
async fn messages_of_one_key_go_to_one_node_of_several_in_order() {
    let field = three().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    let message = |number: u32| {
        let message = Message::new(number.to_string());
        match number % 11 {
            0 => message,
            key => message.with_key(format!("k{key}")),
        }
    };
    producer.send_batch((0..550).map(message)).await.unwrap();
    let cluster = field.cluster(&field.line(), &["b", "c"]).await;
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.destination = Destination::Cluster {
                cluster,
                topic: "orders".parse().unwrap(),
                durability: None,
                order: Order::Moving(Duration::from_secs(10)),
            };
        })
        .await;
    field.until_acked("a", "orders", 550).await;
    let got = got(&field, 550).await;
    assert!(got.iter().all(|of| of.len() >= 50), "both have a part of it");
    let mut keys = BTreeSet::new();
    for of in &got {
        let mut by_key: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for message in of {
            let number = String::from_utf8_lossy(&message.body).parse().unwrap();
            by_key.entry(message.key.clone()).or_default().push(number);
        }
        for (key, numbers) in by_key {
            assert_eq!(numbers.len(), 50, "all of {key:?} are at one node");
            assert!(numbers.is_sorted(), "{key:?}: {numbers:?}");
            assert!(keys.insert(key));
        }
    }
    assert_eq!(keys.len(), 11);
    assert_eq!(forwarding.end().await.forwarded, 550);
}

#[tokio::test]
async fn without_order_messages_go_to_the_node_that_has_least_to_do() {
    let field = three().await;
    let line = field.line();
    let cluster = field.cluster(&line, &["b", "c"]).await;
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.destination = Destination::Cluster {
                cluster,
                topic: "orders".parse().unwrap(),
                durability: None,
                order: Order::Free(Duration::from_secs(3_600)),
            };
        })
        .await;
    // Both are open, and have as much to do.
    field.publish("a", "orders", 0..100).await;
    field.until_acked("a", "orders", 100).await;
    line.mute_at("b");
    let before = field.topic("c", "orders").await.end.0;
    // One after the other, so that `c` has never anything to do, and `b` what it has not answered.
    for number in 100..150 {
        field.publish("a", "orders", number..number + 1).await;
        let settled = || forwarding.figures.route().counts().forwarded;
        until("it is under way or there", || {
            settled() + forwarding.figures.unconfirmed() == u64::from(number) + 1
        })
        .await;
    }
    within("what goes to c", async {
        while field.topic("c", "orders").await.end.0 < before + 40 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    line.clear();
    field.until_acked("a", "orders", 150).await;
    assert_eq!(forwarding.end().await.forwarded, 150);
}

/// What failed comes before all that was not sent yet, and is not sent before it is known what became of the rest.
#[tokio::test(start_paused = true)]
async fn after_a_failure_nothing_is_sent_before_the_last_answer_has_come() {
    let field = Field::without_b().await;
    field.start("b", BrokerSettings { message_bytes_max: 4 << 10, ..settings() }).await;
    field.start("c", settings()).await;
    let line = field.line();
    let cluster = field.cluster(&line, &["b", "c"]).await;
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.destination = Destination::Cluster {
                cluster,
                topic: "orders".parse().unwrap(),
                durability: None,
                order: Order::Waiting,
            };
        })
        .await;
    // Which key goes where.
    let producer = field.client("a").producer("orders").await.unwrap();
    let keyed = |key: &str, body: Vec<u8>| Message::new(body).with_key(key.to_owned());
    producer.send_batch((0..20).map(|n| keyed(&format!("k{n}"), vec![7]))).await.unwrap();
    field.until_acked("a", "orders", 20).await;
    let [b, c] = got(&field, 20).await;
    let key = |of: &[Message]| {
        let key = of.first().and_then(|message| message.key.clone()).expect("both have some");
        String::from_utf8_lossy(&key).into_owned()
    };
    let (to_b, to_c) = (key(&b), key(&c));
    let ends =
        async || [field.topic("b", "orders").await.end.0, field.topic("c", "orders").await.end.0];
    let [at_b, at_c] = ends().await;
    line.mute_answers_of("c");
    // The first one is refused, and of the second one nobody knows for now.
    let messages = [keyed(&to_b, vec![7; 8 << 10]), keyed(&to_c, b"1".to_vec())];
    producer.send_batch(&messages).await.unwrap();
    let refusals = || forwarding.figures.route().counts().refusals;
    until("the refusal", || refusals() == 1).await;
    // What comes now waits, though the nodes that it would go to take it.
    producer.send_batch([keyed(&to_b, b"2".to_vec()), keyed(&to_c, b"3".to_vec())]).await.unwrap();
    until("they are taken", || forwarding.figures.unconfirmed() == 4).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((refusals(), ends().await), (1, [at_b, at_c + 1]), "nothing is sent");
    line.clear();
    until("it is tried again", || refusals() >= 3).await;
    assert_eq!(ends().await, [at_b, at_c + 1], "and nothing but that");
    assert_eq!(forwarding.stop().await, Ended::Stopped);
}

#[tokio::test]
async fn what_comes_by_several_ways_has_one_origin_id() {
    let field = three().await;
    field.publish("a", "orders", 0..20).await;
    let direct = field.forward("a", "c", "orders", |_| {}).await;
    let first = field.forward("a", "b", "orders", |change| {
        // A channel is a place in the log: the second way has its own.
        change.channel = Some("bridge.second".parse().unwrap());
    });
    let first = first.await;
    let second = field.forward("b", "c", "orders", |_| {}).await;
    let got = field.consume("c", "orders", 40).await;
    let mut ids: BTreeMap<_, u32> = BTreeMap::new();
    let mut ways: BTreeMap<_, u32> = BTreeMap::new();
    for message in &got {
        let header =
            |name: &str| String::from_utf8_lossy(message.headers.get(name).unwrap()).into_owned();
        *ids.entry((header(ORIGIN_ID_HEADER), bodies(std::slice::from_ref(message))))
            .or_default() += 1;
        *ways.entry(header(ORIGIN_HEADER)).or_default() += 1;
    }
    assert!(ids.len() == 20 && ids.values().all(|count| *count == 2), "{ids:?}");
    assert_eq!(ways, BTreeMap::from([("site-a".into(), 20), ("site-a,site-b".into(), 20)]));
    for forwarding in [direct, first, second] {
        forwarding.stop().await;
    }
}
