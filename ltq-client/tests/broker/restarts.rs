use std::time::Duration;

use ltq_client::{Message, Outcome, PublishError};

use super::namespace;
use crate::node::{Node, within};

#[tokio::test]
async fn promise_11_publishing_goes_on_over_a_clean_restart_without_an_error() {
    let namespace = namespace();
    let address = "in-process://node";
    let start = || Node::at(namespace.clone(), address);
    let node = start().await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let publishing = tokio::spawn({
        let producer = producer.clone();
        async move {
            let mut failed = Vec::new();
            let mut stored = 0;
            while stored < 2_000 {
                match producer.send(Message::new("x")).await {
                    Ok(_) => stored += 1,
                    Err(error) => failed.push(error),
                }
            }
            failed
        }
    });
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    for _ in 0..3 {
        within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    }
    within(node.broker.stop(Duration::from_secs(10))).await.unwrap();
    drop(node);
    let _node = start().await;
    let failed = within(publishing).await.unwrap();
    // The store went with the broker, so that what was on its way may be unknown, but what the
    // broker gave back was sent again.
    for error in &failed {
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    }
    assert!(failed.len() <= 1, "{failed:?}");
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
}

#[tokio::test]
async fn promise_15_a_broker_that_comes_back_empty_leaves_nothing_hanging() {
    let namespace = namespace();
    let address = "in-process://node";
    let start = || Node::at(namespace.clone(), address);
    let node = start().await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    within(producer.send(Message::new("a"))).await.unwrap();
    within(node.broker.stop(Duration::from_secs(10))).await.unwrap();
    drop(node);
    let waiting = producer.enqueue(Message::new("b")).await.unwrap();
    let _node = start().await;
    let receipt = within(waiting).await.unwrap();
    assert_eq!(receipt.sequence, 1, "it is a new instance of its name");
}

#[tokio::test(start_paused = true)]
async fn promise_15_without_a_broker_everything_ends_in_time() {
    let node = Node::over(namespace()).await;
    let client =
        within(node.builder().request_timeout(Duration::from_millis(200)).connect()).await.unwrap();
    let builder = client.producer_builder("orders").timeout(Duration::from_millis(200));
    let producer = within(builder.open()).await.unwrap();
    within(node.broker.stop(Duration::from_secs(10))).await.unwrap();
    let error = within(producer.send(Message::new("a"))).await.unwrap_err();
    assert!(matches!(error, PublishError::TimedOut { .. }), "{error}");
    assert!(within(client.admin().stats()).await.is_err());
    within(client.close()).await.unwrap();
}
