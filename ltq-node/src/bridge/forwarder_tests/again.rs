//! Forwarders that come after others, and topics and channels that are made again.

use super::{
    field::{bodies, until},
    *,
};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// `orders` at `a`, of which everything is kept for a channel of the test.
async fn kept() -> Field {
    let field = Field::new().await;
    let admin = field.client("a").admin();
    admin.create_channel("orders", "check", StartAt::Earliest).await.unwrap();
    field
}

#[tokio::test]
async fn the_next_one_knows_what_was_forwarded_before_it() {
    let field = kept().await;
    field.publish("a", "orders", 0..100).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 100).await;
    forwarding.stop().await;
    // As though no ack had come there: everything is given again.
    field.client("a").admin().delete_channel("orders", "bridge.test").await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 100).await;
    field.publish("a", "orders", 100..101).await;
    field.until_acked("a", "orders", 101).await;
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_repeat), (1, 100));
    assert_eq!(bodies(&field.consume("b", "orders", 101).await), numbers(0..101));
}

/// What the broker has given to a connection that is dead, and takes for well.
async fn dead_line(field: &mut Field) -> (crate::line::Line, field::Forwarding) {
    let line = field.lay_line("a");
    field.publish("a", "orders", 0..50).await;
    let forwarding = field.forward("line", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 50).await;
    line.mute();
    // The credit is 200: of these about as many are on their way, and the others wait.
    field.publish("a", "orders", 50..400).await;
    within("what is on its way", async {
        while field.channel("a", "orders").await.in_flight < 100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    (line, forwarding)
}

#[tokio::test]
async fn what_was_on_its_way_over_a_line_that_is_lost_comes_before_everything_new() {
    let mut field = kept().await;
    let (line, forwarding) = dead_line(&mut field).await;
    line.lose();
    assert_eq!(bodies(&field.consume("b", "orders", 400).await), numbers(0..400));
    field.until_acked("a", "orders", 400).await;
    assert_eq!(field.channel("a", "orders").await.consumers, 1, "the first one is over");
    assert_eq!(forwarding.end().await.forwarded, 400);
}

#[tokio::test]
async fn one_that_comes_after_another_goes_on_in_its_place_though_its_line_is_dead() {
    let mut field = kept().await;
    let (line, forwarding) = dead_line(&mut field).await;
    // The node has moved, say: the next one has another client, and the same memory.
    forwarding.task.abort();
    assert!(within("its end", forwarding.task).await.is_err());
    let moved = field.client("a").clone();
    field.replace("line", moved);
    let forwarding = field.forward("line", "b", "orders", |_| {}).await;
    assert_eq!(bodies(&field.consume("b", "orders", 400).await), numbers(0..400));
    field.until_acked("a", "orders", 400).await;
    forwarding.stop().await;
    drop(line);
}

#[tokio::test]
async fn who_deletes_the_channel_under_it_has_everything_forwarded_once_more() {
    let field = kept().await;
    field.publish("a", "orders", 0..3).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 3).await;
    field.client("a").admin().delete_channel("orders", "bridge.test").await.unwrap();
    until("all of it again", || forwarding.figures.route().counts().forwarded == 6).await;
    let again: Vec<_> = [numbers(0..3), numbers(0..3)].concat();
    assert_eq!(bodies(&field.consume("b", "orders", 6).await), again);
    assert_eq!(forwarding.end().await.skipped_repeat, 0);
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_again_is_another_one() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..10).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 10).await;
    field.client("a").admin().delete_topic("orders").await.unwrap();
    assert!(matches!(within("its end", forwarding.task).await.unwrap(), Ended::Gone(_)));
    // Their offsets are the same.
    field.publish("a", "orders", 10..20).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 10).await;
    assert_eq!(bodies(&field.consume("b", "orders", 20).await), numbers(0..20));
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_repeat), (10, 0));
}

#[tokio::test]
async fn one_that_is_cut_off_leaves_what_it_knows_to_the_next() {
    let field = kept().await;
    field.publish("a", "orders", 0..100).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 100).await;
    forwarding.task.abort();
    assert!(within("its end", forwarding.task).await.is_err());
    field.client("a").admin().delete_channel("orders", "bridge.test").await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 100).await;
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_repeat), (0, 100));
}
