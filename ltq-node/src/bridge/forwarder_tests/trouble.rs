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
    // It is tried again, alone, after the longest wait at last: 20 ms, of which chance leaves half.
    let (began, tries) = (std::time::Instant::now(), || figures.route().counts().refusals);
    let before = tries();
    until("more tries", || tries() >= before + 20).await;
    let (took, tries) = (began.elapsed(), tries() - before);
    assert!(took >= Duration::from_millis(20) * 4, "{tries} tries in {took:?}");
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

#[tokio::test]
async fn who_is_stopped_waits_for_the_answers_to_what_was_sent_and_acks_it() {
    let mut field = Field::new().await;
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
    line.mute_at("b");
    field.publish("a", "orders", 50..60).await;
    let figures = forwarding.figures.clone();
    until("what is on its way", || figures.unconfirmed() == 10).await;
    let stopping = tokio::spawn(forwarding.stop());
    // One that does not wait has ended by the time that this is answered.
    assert_eq!(field.channel("a", "orders").await.acked, 50);
    line.clear();
    assert_eq!(within("its end", stopping).await.unwrap(), Ended::Stopped);
    assert_eq!(figures.route().counts().forwarded, 60);
    let channel = field.channel("a", "orders").await;
    assert_eq!((channel.acked, channel.waiting, channel.in_flight), (60, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_is_less_where_others_come_and_more_when_they_are_gone() {
    let mut field = Field::without_b().await;
    // Two MiB for one forwarder, one for each of two.
    field.budget = Budget::new(6 << 20, Credit { messages: 10_000, bytes: 16 << 20 });
    let producer = field.client("a").producer("orders").await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = field.budget.share();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let messages = (0..300).map(|_| Message::new(vec![7; 10 << 10]));
    producer.send_batch(messages).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let taken = forwarding.figures.unconfirmed();
    assert!((95..=103).contains(&taken), "{taken} of 10 KiB are a MiB");
    drop(other);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let taken = forwarding.figures.unconfirmed();
    assert!((195..=206).contains(&taken), "{taken} of 10 KiB are two MiB");
    forwarding.task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_and_is_void_since_is_known_when_it_comes_again() {
    let mut field = Field::without_b().await;
    let line = field.lay_line("a");
    let b = async || field.start("b", settings()).await;
    b().await;
    field.publish("a", "orders", 0..1).await;
    let forwarding = field.forward("line", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 1).await;
    // It is sent, and nobody is there to answer.
    field.stop("b").await;
    field.publish("a", "orders", 1..11).await;
    let figures = forwarding.figures.clone();
    until("what is on its way", || figures.unconfirmed() == 10).await;
    // For longer than until the next touch, which comes after a third of 60 s, the source cannot be reached.
    line.lose();
    line.mute();
    tokio::time::sleep(Duration::from_secs(25)).await;
    line.clear();
    let again = async {
        while field.channel("a", "orders").await.redelivered < 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("all of it again", again).await;
    b().await;
    field.until_acked("a", "orders", 11).await;
    let counts = forwarding.end().await;
    assert_eq!(counts.forwarded, 11);
    // What it had before is gone with the one that was stopped.
    assert_eq!(field.topic("b", "orders").await.end, Offset(10), "once each");
}
