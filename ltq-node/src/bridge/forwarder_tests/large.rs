//! Messages that fit at the source, and do not with what the bridge writes on them.

use ltq_core::BrokerSettings;

use super::{
    field::{bodies, settings, until},
    *,
};

/// Encoded, a message without headers has a byte more than its body.
const LARGEST: usize = (4 << 10) - 1;

/// Brokers that take messages of 4 KiB and no more.
async fn narrow() -> Field {
    let field = Field::empty();
    for name in ["a", "b"] {
        field.start(name, BrokerSettings { message_bytes_max: 4 << 10, ..settings() }).await;
    }
    field
}

/// One that fits alone, between others that fit everywhere.
async fn publish(field: &Field) -> Message {
    let largest = Message::new(vec![7; LARGEST]);
    let producer = field.client("a").producer("orders").await.unwrap();
    let mut messages: Vec<_> =
        (0..40).map(|number: u32| Message::new(number.to_string())).collect();
    messages.insert(20, largest.clone());
    producer.send_batch(&messages).await.unwrap();
    largest
}

fn numbers() -> Vec<String> {
    (0..40).map(|number: u32| number.to_string()).collect()
}

#[tokio::test]
async fn it_is_set_aside_as_it_came() {
    let field = narrow().await;
    let largest = publish(&field).await;
    let park = |change: &mut field::Change| {
        change.rules.refused = Refused::Park("aside".parse().unwrap());
    };
    let forwarding = field.forward("a", "b", "orders", park).await;
    field.until_acked("a", "orders", 41).await;
    assert_eq!(field.consume("a", "aside", 1).await, [largest], "not even the reason fits");
    assert_eq!(bodies(&field.consume("b", "orders", 40).await), numbers(), "the others in order");
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.parked, counts.skipped_refused), (40, 1, 0));
}

#[tokio::test]
async fn it_is_held_for_all_to_see_where_nobody_said_what_else() {
    let field = narrow().await;
    publish(&field).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let figures = forwarding.figures.clone();
    let is_said = |why: &str| {
        why.contains("offset 20")
            && why.contains("large")
            && why.contains("without the bridge's headers")
    };
    let held = || matches!(figures.status().0, Status::Held(why) if is_said(&why));
    until("the word of it", held).await;
    until("more tries", || figures.route().counts().refusals >= 3).await;
    assert_eq!(forwarding.stop().await, Ended::Stopped);
    let channel = field.channel("a", "orders").await;
    assert_eq!(channel.acked + channel.waiting, 41, "it is still at the source");
    assert!(channel.waiting >= 1);
    // Whoever is told to go on without it does, from there.
    let skip = |change: &mut field::Change| change.rules.refused = Refused::Skip;
    let forwarding = field.forward("a", "b", "orders", skip).await;
    field.until_acked("a", "orders", 41).await;
    assert_eq!(bodies(&field.consume("b", "orders", 40).await), numbers());
    assert_eq!(forwarding.end().await.skipped_refused, 1);
}

#[tokio::test]
async fn it_is_skipped_and_counted_only_where_somebody_said_so() {
    let field = narrow().await;
    publish(&field).await;
    let skip = |change: &mut field::Change| change.rules.refused = Refused::Skip;
    let forwarding = field.forward("a", "b", "orders", skip).await;
    field.until_acked("a", "orders", 41).await;
    assert_eq!(bodies(&field.consume("b", "orders", 40).await), numbers(), "order is kept");
    assert_eq!(forwarding.figures.status().0, Status::Forwarding);
    let counts = forwarding.end().await;
    let skipped = (counts.skipped_refused, counts.refusals, counts.parked);
    assert_eq!((counts.forwarded, skipped), (40, (1, 1, 0)));
}

/// A producer of one node knows how much that takes, and refuses what is more before it is sent.
#[tokio::test]
async fn one_that_is_refused_before_it_is_sent_is_skipped_too_and_what_is_behind_it_goes_on() {
    let field = narrow().await;
    publish(&field).await;
    let client = field.client("b").clone();
    let skip = |change: &mut field::Change| {
        let topic = "orders".parse().unwrap();
        change.destination = Destination::Node { client, topic, durability: None };
        change.rules.refused = Refused::Skip;
    };
    let forwarding = field.forward("a", "b", "orders", skip).await;
    field.until_acked("a", "orders", 41).await;
    assert_eq!(bodies(&field.consume("b", "orders", 40).await), numbers(), "order is kept");
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_refused, counts.refusals), (40, 1, 1));
}

#[tokio::test]
async fn it_comes_behind_what_was_under_way_with_it_and_before_everything_else() {
    let field = narrow().await;
    publish(&field).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let figures = forwarding.figures.clone();
    until("the word of it", || matches!(figures.status().0, Status::Held(_))).await;
    // What was under way with it, in order around it.
    assert_eq!(bodies(&field.consume("b", "orders", 40).await), numbers());
    // What comes now waits, whatever its key is.
    let producer = field.client("a").producer("orders").await.unwrap();
    let later = |number: u32| Message::new(number.to_string()).with_key(format!("k{number}"));
    producer.send_batch((40..60).map(later)).await.unwrap();
    until("they are taken", || figures.unconfirmed() == 21).await;
    assert_eq!(field.topic("b", "orders").await.end, Offset(40), "none of them is sent");
    // The destination takes it, after all.
    field.stop("b").await;
    field.start("b", settings()).await;
    let got = field.consume("b", "orders", 21).await;
    assert_eq!(got[0].body.len(), LARGEST);
    assert_eq!(
        bodies(&got[1..]),
        (40..60).map(|number: u32| number.to_string()).collect::<Vec<_>>()
    );
    forwarding.stop().await;
}

#[tokio::test]
async fn one_that_is_larger_than_the_credit_goes_alone() {
    let mut field = Field::new().await;
    field.budget =
        crate::bridge::Budget::new(1 << 20, ltq_core::Credit { messages: 10, bytes: 64 << 10 });
    let producer = field.client("a").producer("orders").await.unwrap();
    let large = |first: u8| Message::new([vec![first], vec![7; 1_000_000]].concat());
    producer.send_batch((0..5).map(large)).await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let got = field.consume("b", "orders", 5).await;
    assert_eq!(got.iter().map(|it| it.body[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    field.until_acked("a", "orders", 5).await;
    assert_eq!(forwarding.end().await.forwarded, 5);
}
