//! One credit over several brokers.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use ltq_client::{ClusterConsumer, ClusterDelivery, Credit, Message};

use super::{
    Field,
    consuming::{NAMES, body, take, until},
};
use crate::node::within;

/// Takes and holds until so many are held; the limit holds all the while.
pub(super) async fn hold(
    field: &Field,
    consumer: &mut ClusterConsumer,
    count: usize,
    most: u64,
) -> Held {
    let mut held = Vec::new();
    let mut looked = 0;
    while held.len() < count {
        held.push(within(consumer.next()).await.unwrap().unwrap());
        let used = consumer.credit_use();
        let both = used.open.messages + used.unsettled.messages;
        assert!(both <= most, "{both} are open or held of {most}");
        if held.len() >= looked + 50 {
            looked = held.len();
            let in_flight = field.in_flight().await;
            assert!(in_flight <= most, "{in_flight} are in flight, with credit for {most}");
        }
    }
    held
}

pub(super) type Held = Vec<ClusterDelivery>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_9_the_busy_node_has_nearly_all_the_credit_and_all_nodes_together_no_more() {
    let field = Field::with(&NAMES).await;
    let mut consumer = field.consumer(600).await;
    // All are subscribed, and have their share.
    until(async || consumer.credit_use().open.messages == 600).await;
    for busy in ["a", "c", "b"] {
        field.publish(busy, 0..2_000).await;
        let held = hold(&field, &mut consumer, 570, 600).await;
        assert!(held.iter().all(|delivery| delivery.node().as_str() == busy));
        for delivery in held {
            delivery.ack().unwrap();
        }
        take(&mut consumer, 2_000 - 570).await;
    }
    within(consumer.close()).await.unwrap();
    for name in NAMES {
        assert_eq!(field.channel(name).await, (2_000, 0, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_9_bytes_are_bound_over_all_nodes_too() {
    const LARGE: usize = 10_000;
    let field = Field::with(&NAMES).await;
    for name in NAMES {
        let client = field.brokers[name].client().await;
        let producer = within(client.producer("orders")).await.unwrap();
        let messages = vec![Message::new(vec![7; LARGE]); 200];
        within(producer.send_batch(&messages)).await.unwrap();
    }
    let builder = field.cluster.consumer_builder("orders", "billing").credit(1_000, 500_000);
    let mut consumer = within(builder.open()).await.unwrap();
    let mut held = VecDeque::new();
    for taken in 0..600 {
        // As much as there may be is held, and no more is there.
        while held.len() >= 40 {
            let delivery: ClusterDelivery = held.pop_front().unwrap();
            within(delivery.ack_confirmed()).await.unwrap();
        }
        held.push_back(within(consumer.next()).await.unwrap().unwrap());
        let used = consumer.credit_use();
        let both = used.open.bytes + used.unsettled.bytes;
        let most = 500_000 + 3 * (LARGE as u64 + 100);
        assert!(both <= most, "{both} bytes are open or held at the {taken}th");
    }
}

#[tokio::test]
async fn credit_moves_without_any_time_passing_where_nobody_used_it() {
    let field = Field::with(&NAMES).await;
    let mut consumer = field.consumer(2_400).await;
    until(async || consumer.credit_use().open.messages == 2_400).await;
    // What they had for joining is over.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(50)).await;
    tokio::time::resume();
    field.publish("b", 0..3_000).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut held = Vec::new();
    while held.len() < 2_380 {
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing waited for a timer");
}

#[tokio::test]
async fn a_consumer_that_holds_all_its_credit_still_hears_from_every_node() {
    let field = Field::with(&NAMES).await;
    let mut consumer = field.consumer(100).await;
    until(async || consumer.credit_use().open.messages == 100).await;
    field.publish("a", 0..1_000).await;
    let held = hold(&field, &mut consumer, 90, 100).await;
    // The busy one may not have what the others keep to say that they have something.
    field.publish("b", 0..1).await;
    field.publish("c", 0..1).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        if delivery.node().as_str() != "a" {
            seen.insert(delivery.node().clone());
        }
        delivery.ack().unwrap();
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_more_nodes_than_credit_all_are_consumed_in_turns() {
    let names = ["a", "b", "c", "d", "e"];
    let field = Field::with(&names).await;
    for name in names {
        field.publish(name, 0..40).await;
    }
    let mut consumer = field.consumer(2).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 200 {
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        let used = consumer.credit_use();
        assert!(used.open.messages + used.unsettled.messages <= 2, "{used:?}");
        assert!(seen.insert(body(&delivery)));
        delivery.ack().unwrap();
    }
    // One that was idle for long has its turn too.
    field.publish("d", 40..41).await;
    take(&mut consumer, 1).await;
}

#[tokio::test]
async fn the_credit_can_be_changed_while_it_runs() {
    let field = Field::with(&NAMES).await;
    let mut consumer = field.consumer(10).await;
    for name in NAMES {
        field.publish(name, 0..500).await;
    }
    let held = hold(&field, &mut consumer, 10, 10).await;
    consumer.set_credit(Credit { messages: 300, bytes: 16 << 20 });
    let more = hold(&field, &mut consumer, 285, 300).await;
    assert_eq!(consumer.credit_use().size.messages, 300);
    consumer.set_credit(Credit { messages: 30, bytes: 16 << 20 });
    for delivery in held.into_iter().chain(more) {
        delivery.ack().unwrap();
    }
    until(async || {
        let used = consumer.credit_use();
        used.open.messages + used.unsettled.messages <= 30
    })
    .await;
    let rest = hold(&field, &mut consumer, 25, 30).await;
    drop(rest);
}
