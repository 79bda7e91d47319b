//! A destination that is away, slow, or refuses.

use ltq_core::{BrokerSettings, Credit};

use super::{
    field::{bodies, settings, until},
    *,
};
use crate::bridge::Budget;

/// A destination that takes no message of more than 4 KiB.
async fn small() -> Field {
    let field = Field::without_b().await;
    field.start("b", BrokerSettings { message_bytes_max: 4 << 10, ..settings() }).await;
    field
}

#[tokio::test(start_paused = true)]
async fn while_the_destination_is_away_no_more_than_the_credit_is_taken_and_nothing_twice() {
    let field = Field::without_b().await;
    field.publish("a", "orders", 0..1_000).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    // Ten times the time after which a delivery is given to somebody else.
    let until = Instant::now() + Duration::from_secs(600);
    let mut most = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let unconfirmed = forwarding.figures.unconfirmed();
        most = most.max(unconfirmed);
        assert!(unconfirmed <= 200, "{unconfirmed} are held");
    }
    assert_eq!(most, 200, "what was taken is kept");
    let channel = field.channel("a", "orders").await;
    assert_eq!((channel.in_flight, channel.acked), (200, 0));
    assert_eq!((channel.redelivered, channel.timed_out), (0, 0), "it is touched");
    assert!(matches!(forwarding.figures.status().0, Status::Waiting(_)));
    field.start("b", settings()).await;
    let got = field.consume("b", "orders", 1_000).await;
    assert_eq!(bodies(&got), (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
    field.until_acked("a", "orders", 1_000).await;
    assert_eq!(forwarding.figures.status().0, Status::Forwarding);
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.late_acks), (1_000, 0));
    assert_eq!(field.topic("b", "orders").await.end, Offset(1_000), "once each");
}

/// What was sent and is not answered is in memory, whoever waits for it.
#[tokio::test]
async fn what_one_that_is_cut_off_had_sent_counts_until_it_is_answered() {
    let mut field = Field::new().await;
    // Two MiB for one forwarder, one for each of two.
    field.budget = Budget::new(6 << 20, Credit { messages: 200, bytes: 16 << 20 });
    let line = field.lay_line("b");
    field.publish("a", "orders", 0..50).await;
    let client = field.client("line").clone();
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            let topic = "orders".parse().unwrap();
            change.destination = Destination::Node { client, topic, durability: None };
        })
        .await;
    field.until_acked("a", "orders", 50).await;
    line.mute();
    field.publish("a", "orders", 50..60).await;
    let figures = forwarding.figures.clone();
    until("what is on its way", || figures.unconfirmed() == 10).await;
    forwarding.task.abort();
    assert!(within("its end", forwarding.task).await.is_err());
    let next = field.budget.share();
    assert_eq!((field.budget.ending(), next.credit().bytes), (1, 1 << 20));
    line.lose();
    let budget = field.budget.clone();
    until("its answers", || budget.ending() == 0).await;
    until("its room", || next.credit().bytes == 2 << 20).await;
    assert_eq!(field.topic("b", "orders").await.end, Offset(60));
}

#[tokio::test]
async fn a_message_that_is_refused_for_good_is_held_and_what_comes_behind_it_waits() {
    let field = small().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    producer.send(Message::new("before")).await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 1).await;
    producer.send(Message::new(vec![7; 8 << 10])).await.unwrap();
    let figures = forwarding.figures.clone();
    let held = || matches!(figures.status().0, Status::Held(why) if why.contains("large"));
    until("the word of it", held).await;
    producer.send(Message::new("behind")).await.unwrap();
    // It is tried again, alone.
    until("more tries", || figures.route().counts().refusals >= 4).await;
    assert_eq!(field.topic("b", "orders").await.end, Offset(1), "nothing goes past it");
    let channel = field.channel("a", "orders").await;
    assert_eq!((channel.acked, channel.in_flight), (1, 2), "it is not lost");
    assert_eq!(forwarding.stop().await, Ended::Stopped);
    let channel = field.channel("a", "orders").await;
    assert_eq!((channel.acked, channel.waiting), (1, 2));
}

#[tokio::test]
async fn a_message_that_is_refused_for_good_can_be_set_aside_with_the_reason() {
    let field = small().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    let large = || Message::new(vec![7; 8 << 10]);
    let messages = [Message::new("1"), large(), Message::new("2"), large(), Message::new("3")];
    producer.send_batch(messages).await.unwrap();
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.rules.refused = Refused::Park("aside".parse().unwrap());
        })
        .await;
    field.until_acked("a", "orders", 5).await;
    assert_eq!(bodies(&field.consume("b", "orders", 3).await), ["1", "2", "3"]);
    for message in field.consume("a", "aside", 2).await {
        assert_eq!(message.body.len(), 8 << 10);
        // As it came, and the reason.
        let headers: Vec<_> = message.headers.iter().collect();
        let [(name, why)] = headers[..] else { panic!("{headers:?}") };
        assert_eq!(name, REFUSED_HEADER);
        assert!(why.starts_with(b"message_too_large"), "{why:?}");
    }
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.parked, counts.refusals), (3, 2, 2));
}
