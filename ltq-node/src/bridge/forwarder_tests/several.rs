//! A destination of several nodes, and several ways to one.

use std::collections::{BTreeMap, BTreeSet};

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
