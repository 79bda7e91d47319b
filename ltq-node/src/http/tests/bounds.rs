//! Bounds that metrics keep, and tell of.

use super::*;

/// Metrics tell of connections that were closed to make room.
pub(super) async fn some_gave_way(node: &Node) {
    let text = ask(node, "GET /metrics", "").await.body;
    let count =
        text.lines().find_map(|line| line.strip_prefix("ltq_http_connections_gave_way_total "));
    // Sixty came, and four may stay.
    assert!(count.is_some_and(|count| count.parse::<u64>().unwrap() >= 56), "{text}");
}

#[tokio::test]
async fn promise_10_metrics_are_given_up_after_the_time_of_a_request() {
    let node = node(|config| {
        config.limits.surveys_max = 1;
        config.limits.http_request_timeout = Period(Duration::from_millis(100));
    })
    .await;
    ask(&node, "POST /pub?topic=t", "x").await;
    // One that has its turn and does not go on.
    let broker = node.broker().clone();
    let mut stuck = Box::pin(async move { broker.stats().await });
    assert!(futures::poll!(&mut stuck).is_pending());
    let answer = ask(&node, "GET /metrics", "").await;
    assert_eq!(answer.refusal(), (504, "too_slow".to_owned()));
    drop(stuck);
    let answer = ask(&node, "GET /metrics", "").await;
    assert_eq!(answer.status, 200);
    let waited = "ltq_held_back_total{limit=\"surveys_max\"} 1";
    assert!(answer.body.lines().any(|line| line == waited), "{}", answer.body);
    node.stop().await.unwrap();
}
