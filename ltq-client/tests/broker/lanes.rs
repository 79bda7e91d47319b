//! What goes over which stream of a connection that carries many.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesOrdered};
use ltq_client::{Client, ConnectError, ConnectionState, Message};
use ltq_core::BrokerSettings;
use ltq_transport::InProcess;
use tokio::time::timeout;

use crate::{
    node::{Node, settings, within},
    watched::Watched,
};

const ADDRESS: &str = "in-process://node";
/// As many streams as a client uses at most.
const STREAMS_MAX: usize = 128;

async fn start() -> (Watched, Node, Client) {
    let network = Watched::new();
    let node = Node::at(network.clone(), ADDRESS).await;
    let client = node.client().await;
    (network, node, client)
}

/// Waits until nothing else can happen for the time being: the clock is paused.
async fn at_rest() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn each_subscription_and_each_topic_that_is_published_to_has_a_stream_of_its_own() {
    let (network, _node, client) = start().await;
    let streams = network.connection(0);
    assert_eq!(streams.opened(), 1);
    let a = within(client.producer("a")).await.unwrap();
    assert_eq!(streams.opened(), 2);
    let again = within(client.producer("a")).await.unwrap();
    assert_eq!(streams.opened(), 2, "producers of a topic share a stream");
    let b = within(client.producer("b")).await.unwrap();
    assert_eq!(streams.opened(), 3);
    let first = within(client.consumer("a", "c")).await.unwrap();
    let second = within(client.consumer("a", "c")).await.unwrap();
    assert_eq!(streams.opened(), 5);
    within(client.admin().stats()).await.unwrap();
    for producer in [&a, &again, &b] {
        within(producer.send(Message::new("x"))).await.unwrap();
    }
    assert_eq!((streams.opened(), *streams.live().borrow()), (5, 5));

    within(first.close()).await.unwrap();
    drop(b);
    within(streams.live().wait_for(|live| *live == 3)).await.unwrap();
    drop(a);
    within(again.send(Message::new("x"))).await.unwrap();
    assert_eq!(*streams.live().borrow(), 3, "a topic keeps its stream while it has a producer");
    drop((again, second));
    within(streams.live().wait_for(|live| *live == 1)).await.unwrap();
    within(client.producer("a")).await.unwrap();
    assert_eq!((network.connections(), streams.opened()), (1, 6));
    within(client.close()).await.unwrap();
    within(streams.live().wait_for(|live| *live == 0)).await.unwrap();
}

#[tokio::test]
async fn a_stream_at_rest_costs_nothing_while_others_are_busy() {
    let (network, _node, client) = start().await;
    let producer = within(client.producer("busy")).await.unwrap();
    let mut consumers = Vec::new();
    for n in 0..50 {
        consumers.push(within(client.consumer("quiet", format!("c{n}").as_str())).await.unwrap());
    }
    let before = network.connection(0).polls();
    for _ in 0..300 {
        within(producer.send(Message::new("x"))).await.unwrap();
    }
    let after = network.connection(0).polls();
    let looks: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(looks[1] >= 600, "{looks:?}");
    // Heartbeats are seconds apart.
    assert!(looks[2..].iter().all(|looks| *looks <= 4), "{looks:?}");
}

#[tokio::test]
async fn promise_10_a_stream_that_is_held_up_holds_up_no_other() {
    let (network, _node, client) = start().await;
    let stuck = within(client.producer("a")).await.unwrap();
    let free = within(client.producer("b")).await.unwrap();
    let mut stuck_consumer = within(client.consumer("b", "stuck")).await.unwrap();
    let mut consumer = within(client.consumer("b", "free")).await.unwrap();
    network.connection(0).stall(&[1, 3], true);

    // More than its stream takes without being read.
    let body = vec![7; 100 << 10];
    let mut waiting = FuturesOrdered::new();
    for _ in 0..40 {
        waiting.push_back(within(stuck.enqueue(Message::new(body.clone()))).await.unwrap());
    }
    for n in 0..500 {
        within(free.send(Message::new(n.to_string()))).await.unwrap();
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert_eq!(delivery.message.body, n.to_string());
        within(delivery.ack_confirmed()).await.unwrap();
    }
    within(client.admin().stats()).await.unwrap();
    assert!(timeout(Duration::ZERO, waiting.next()).await.is_err());
    assert!(timeout(Duration::ZERO, stuck_consumer.next()).await.is_err());

    network.connection(0).stall(&[1, 3], false);
    while let Some(receipt) = within(waiting.next()).await {
        receipt.unwrap();
    }
    for n in 0..500 {
        let delivery = within(stuck_consumer.next()).await.unwrap().unwrap();
        assert_eq!(delivery.message.body, n.to_string());
        delivery.ack().unwrap();
    }
    assert_eq!(network.connections(), 1);
}

#[tokio::test]
async fn promise_6_when_one_stream_is_cut_everything_goes_on_and_is_stored_once() {
    // The first stream, the topic's, another topic's, the subscription's.
    for stream in 0..4 {
        let (network, _node, client) = start().await;
        let producer = within(client.producer("orders")).await.unwrap();
        let _other = within(client.producer("other")).await.unwrap();
        let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
        const COUNT: u64 = 1_000;
        let mut pending = FuturesOrdered::new();
        for n in 0..COUNT {
            pending.push_back(within(producer.enqueue(Message::new(n.to_string()))).await.unwrap());
            if n == COUNT / 2 {
                network.connection(0).cut(stream);
            }
            if n % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut n = 0;
        while let Some(receipt) = within(pending.next()).await {
            n += 1;
            assert_eq!(receipt.unwrap().sequence, n, "stream {stream}");
        }
        let mut acked = 0;
        let mut last = None;
        while acked < COUNT {
            let delivery = within(consumer.next()).await.unwrap().unwrap();
            last = last.max(Some(delivery.offset().0));
            if within(delivery.ack_confirmed()).await.is_ok() {
                acked += 1;
            }
        }
        assert_eq!(last, Some(COUNT - 1), "stream {stream}");
        let shown = within(client.admin().show_topic("orders")).await.unwrap();
        assert_eq!((shown.end.0, shown.channels[0].acked), (COUNT, COUNT), "stream {stream}");
        assert_eq!(network.connections(), 2, "stream {stream}");
        assert_eq!(*network.connection(0).live().borrow(), 0, "all of it was given up");
    }
}

#[tokio::test]
async fn promise_9_subscribing_and_leaving_again_and_again_leaves_no_streams() {
    let (network, _node, client) = start().await;
    const TIMES: usize = 10_000;
    let streams = network.connection(0);
    for _ in 0..TIMES {
        let consumer = within(client.consumer("orders", "c")).await.unwrap();
        within(consumer.close()).await.unwrap();
        assert!(*streams.live().borrow() <= STREAMS_MAX);
    }
    within(streams.live().wait_for(|live| *live == 1)).await.unwrap();
    assert!(streams.opened() > TIMES / 2, "they had streams of their own: {}", streams.opened());
    assert_eq!(network.connections(), 1);
}

#[tokio::test]
async fn promise_9_those_who_come_when_there_are_many_streams_share_them() {
    let (network, _node, client) = start().await;
    const COUNT: usize = 200;
    let streams = network.connection(0);
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    for n in 0..COUNT {
        let topic = format!("topic-{n}");
        producers.push(within(client.producer(topic.as_str())).await.unwrap());
        consumers.push(within(client.consumer(topic.as_str(), "c")).await.unwrap());
    }
    assert_eq!(streams.opened(), STREAMS_MAX);
    for (n, (producer, consumer)) in producers.iter().zip(&mut consumers).enumerate() {
        within(producer.send(Message::new(n.to_string()))).await.unwrap();
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert_eq!(delivery.message.body, n.to_string());
        within(delivery.ack_confirmed()).await.unwrap();
    }
    // A stream lasts as long as one of those who share it.
    producers.truncate(COUNT / 2);
    consumers.drain(..COUNT / 2);
    for (producer, n) in producers.iter().zip(0..) {
        let receipt = within(producer.send(Message::new("again"))).await.unwrap();
        assert_eq!(receipt.sequence, 2, "{n}");
    }
    drop((producers, consumers));
    within(streams.live().wait_for(|live| *live == 1)).await.unwrap();
    assert_eq!(network.connections(), 1);
}

/// Opens a producer, and says why the connection was lost meanwhile.
async fn lost_while_opening(client: &Client) -> String {
    let mut state = client.state();
    let producer = tokio::spawn({
        let client = client.clone();
        async move { client.producer("orders").await }
    });
    let is_down = |state: &ConnectionState| matches!(state, ConnectionState::Disconnected { .. });
    let cause = match &*within(state.wait_for(is_down)).await.unwrap() {
        ConnectionState::Disconnected { error: ConnectError::Lost { cause, .. }, .. } => {
            cause.clone()
        }
        other => panic!("{other:?}"),
    };
    let producer = within(producer).await.unwrap().unwrap();
    within(producer.send(Message::new("x"))).await.unwrap();
    cause
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_stream_that_never_opens_is_given_up_and_everything_goes_over_the_first() {
    let network = Watched::new();
    let node = Node::at(network.clone(), ADDRESS).await;
    let network = network.with_streams_max(1);
    let transports = ltq_transport::Transports::new().with(network.clone());
    let builder = node.builder().transports(transports).connect_timeout(Duration::from_millis(700));
    let client = within(builder.connect()).await.unwrap();
    let cause = lost_while_opening(&client).await;
    assert_eq!(cause, "no welcome on a further stream within 700ms");
    assert_eq!((network.connections(), network.connection(1).opened()), (2, 1));
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    assert_eq!(network.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn promise_15_what_took_few_streams_once_is_asked_for_all_again_after_a_time() {
    let network = Watched::new();
    let node = Node::at(network.clone(), ADDRESS).await;
    let network = network.with_streams_max(1);
    let transports = ltq_transport::Transports::new().with(network.clone());
    let client = within(node.builder().transports(transports).connect()).await.unwrap();
    lost_while_opening(&client).await;
    network.set_streams_max(STREAMS_MAX);
    let producer = within(client.producer("orders")).await.unwrap();
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    // It may not have got better soon after; it may have after ten minutes.
    for (connection, streams) in [(2, 1), (3, 3)] {
        network.connection(connection - 1).cut(0);
        within(producer.send(Message::new("x"))).await.unwrap();
        within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
        assert_eq!(network.connections(), connection + 1);
        assert_eq!(network.connection(connection).opened(), streams);
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_broker_that_takes_few_streams_is_asked_for_no_more() {
    let network = Watched::new();
    let limited = BrokerSettings { streams_max: 3, ..settings() };
    let node = Node::with(network.clone(), ADDRESS, limited).await;
    let client = node.client().await;
    let mut consumers = Vec::new();
    for n in 0..5 {
        consumers.push(within(client.consumer("orders", format!("c{n}").as_str())).await.unwrap());
    }
    assert_eq!((network.connections(), network.connection(1).opened()), (2, 3));
    let producer = within(client.producer("orders")).await.unwrap();
    within(producer.send(Message::new("x"))).await.unwrap();
    for consumer in &mut consumers {
        within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    }
    assert_eq!((network.connections(), *network.connection(1).live().borrow()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_gets_through_says_nothing_of_how_many_streams_it_takes() {
    let (network, _node, client) = start().await;
    at_rest().await;
    network.connection(0).stall(&[0], true);
    // The new stream is stalled as soon as it is there.
    let stalling = tokio::spawn({
        let streams = network.connection(0);
        async move {
            streams.live().wait_for(|live| *live == 2).await.unwrap();
            streams.stall(&[1], true);
        }
    });
    let cause = lost_while_opening(&client).await;
    within(stalling).await.unwrap();
    assert!(cause.starts_with("no welcome on a further stream"), "{cause}");
    assert_eq!((network.connections(), network.connection(1).opened()), (2, 2));
}

#[tokio::test]
async fn where_a_connection_carries_one_stream_everything_goes_over_it() {
    // Another stream of such a connection is refused, which would be a loss.
    let node = Node::at(InProcess::new(), ADDRESS).await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    let state = client.state();
    for _ in 0..100 {
        within(producer.send(Message::new("x"))).await.unwrap();
        within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    }
    assert!(!state.has_changed().unwrap());
}
