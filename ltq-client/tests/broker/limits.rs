//! Limits that a broker is at, and that fall free.

use std::time::Duration;

use ltq_client::RequestError;
use ltq_core::{BrokerSettings, Limit, RefusalCode};
use ltq_transport::InProcess;

use crate::node::{Node, settings, within};

async fn full(settings: BrokerSettings) -> Node {
    Node::with(InProcess::new(), "in-process://node", settings).await
}

/// How often limits were reached.
fn reached(node: &Node, limit: Limit) -> u64 {
    let counts = node.broker.limits_reached();
    counts.into_iter().find(|(it, _)| *it == limit).map_or(0, |(_, count)| count)
}

async fn until_reached(node: &Node, limit: Limit, count: u64) {
    within(async {
        while reached(node, limit) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn promise_16_what_is_opened_at_a_limit_is_open_once_that_falls_free() {
    let node = full(BrokerSettings { handles_total_max: 2, ..settings() }).await;
    let (holder, waiter) = (node.client().await, node.client().await);
    let held = (holder.producer("t").await.unwrap(), holder.consumer("t", "c").await.unwrap());
    let opening = tokio::spawn(async move {
        let producer = waiter.producer("t").await?;
        let consumer = waiter.consumer("t", "c").await?;
        Ok::<_, RequestError>((producer, consumer))
    });
    until_reached(&node, Limit::Handles, 2).await;
    let (producer, consumer) = held;
    drop(producer);
    // The producer is there, and the consumer waits.
    let count = reached(&node, Limit::Handles);
    until_reached(&node, Limit::Handles, count + 2).await;
    drop(consumer);
    within(opening).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_limit_that_does_not_fall_free_is_told_by_name() {
    let node = full(BrokerSettings { subscriptions_max: 1, ..settings() }).await;
    let builder = node.builder().request_timeout(Duration::from_secs(2));
    let client = within(builder.connect()).await.unwrap();
    let _first = client.consumer("t", "c").await.unwrap();
    let error = within(client.consumer("t", "c")).await.err();
    let Some(RequestError::Refused { refusal, .. }) = error else { panic!("{error:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(reached(&node, Limit::Subscriptions) > 1);
}
