//! The engine between two brokers of this process.

mod again;
mod field;
mod large;
mod several;
mod trouble;

use ltq_client::Client;
use ltq_core::{Durability, Message, Offset, StartAt, TopicName};

use super::*;
use crate::bridge::{Garbled, ORIGIN_HEADER, ORIGIN_ID_HEADER, Sites};
use field::{Field, bodies, within};

#[tokio::test]
async fn every_message_arrives_in_order_and_only_then_is_acked() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..500).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let got = field.consume("b", "orders", 500).await;
    assert_eq!(bodies(&got), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
    let first = &got[0].headers;
    let header = |name: &str| first.get(name).unwrap();
    assert_eq!(header(ORIGIN_HEADER), b"site-a");
    assert!(header(ORIGIN_ID_HEADER).starts_with(b"site-a/in-process://a/orders/0/"));
    field.until_acked("a", "orders", 500).await;
    let counts = forwarding.figures.route().counts();
    assert_eq!((counts.forwarded, counts.failures, counts.late_acks), (500, 0, 0));
    assert_eq!(forwarding.stop().await, Ended::Stopped);
}

#[tokio::test]
async fn the_id_that_a_producer_gave_stays_as_it_is() {
    let field = Field::new().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    let ids = ["my-own/1", "my-own/2"];
    for id in ids {
        producer.send(Message::new("x").with_header(ltq_client::ID_HEADER, id)).await.unwrap();
    }
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let got = field.consume("b", "orders", 2).await;
    for (message, id) in got.iter().zip(ids) {
        let has = message.headers.iter().filter(|(name, _)| *name == ltq_client::ID_HEADER);
        assert_eq!(has.map(|(_, value)| value).collect::<Vec<_>>(), [id.as_bytes()]);
    }
    forwarding.stop().await;
}

#[tokio::test]
async fn a_stopped_one_gives_back_what_it_has_and_the_next_goes_on_there() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..100).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 100).await;
    assert_eq!(forwarding.stop().await, Ended::Stopped);
    assert_eq!(field.channel("a", "orders").await.consumers, 0);
    field.publish("a", "orders", 100..200).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    let got = field.consume("b", "orders", 200).await;
    assert_eq!(bodies(&got), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    forwarding.stop().await;
    let channel = field.channel("a", "orders").await;
    assert_eq!((channel.in_flight, channel.waiting, channel.acked), (0, 0, 200));
}

#[tokio::test]
async fn two_in_opposite_directions_end_and_each_side_has_everything_once() {
    let field = Field::new().await;
    for node in ["a", "b"] {
        // What the bridge has acked is kept for this.
        let admin = field.client(node).admin();
        admin.create_channel("orders", "check", StartAt::Earliest).await.unwrap();
    }
    field.publish("a", "orders", 0..50).await;
    field.publish("b", "orders", 50..80).await;
    let there = field.forward("a", "b", "orders", |_| {}).await;
    let back = field.forward("b", "a", "orders", |_| {}).await;
    for node in ["a", "b"] {
        field.until_acked(node, "orders", 80).await;
        let mut got = bodies(&field.consume(node, "orders", 80).await);
        got.sort_by_key(|body| body.parse::<u32>().unwrap());
        assert_eq!(got, (0..80).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(field.topic(node, "orders").await.end, Offset(80), "nothing more comes");
    }
    let (there, back) = (there.end().await, back.end().await);
    assert_eq!((there.forwarded, there.skipped_loop), (50, 30));
    assert_eq!((back.forwarded, back.skipped_loop), (30, 50));
}

#[tokio::test]
async fn in_a_ring_of_three_each_site_gets_everything_once() {
    let field = Field::new().await;
    field.start("c", field::settings()).await;
    let ring = ["a", "b", "c"];
    for (number, node) in (0..).zip(ring) {
        let admin = field.client(node).admin();
        admin.create_channel("orders", "check", StartAt::Earliest).await.unwrap();
        field.publish(node, "orders", number * 30..number * 30 + 30).await;
    }
    let mut forwardings = Vec::new();
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        forwardings.push(field.forward(from, to, "orders", |_| {}).await);
    }
    for node in ring {
        field.until_acked(node, "orders", 90).await;
        let mut got = bodies(&field.consume(node, "orders", 90).await);
        got.sort_by_key(|body| body.parse::<u32>().unwrap());
        assert_eq!(got, (0..90).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(field.topic(node, "orders").await.end, Offset(90), "nothing more comes");
    }
    for forwarding in forwardings {
        let counts = forwarding.end().await;
        assert_eq!((counts.forwarded, counts.skipped_loop), (60, 30));
    }
}

#[tokio::test]
async fn where_no_message_has_the_headers_all_are_acked_and_nothing_is_made() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..50).await;
    let none = |change: &mut field::Change| {
        change.rules.headers = vec!["region=nowhere".parse().unwrap()];
    };
    let forwarding = field.forward("a", "b", "orders", none).await;
    field.until_acked("a", "orders", 50).await;
    assert_eq!(forwarding.figures.status().0, Status::Forwarding);
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_filter), (0, 50));
    assert!(field.client("b").admin().list_topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_what_has_the_headers_is_forwarded_and_the_rest_is_acked() {
    let field = Field::new().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    for (body, region) in [("1", "eu"), ("2", "us"), ("3", "eu")] {
        producer.send(Message::new(body).with_header("region", region)).await.unwrap();
    }
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.rules.headers = vec!["region=eu".parse().unwrap()];
        })
        .await;
    assert_eq!(bodies(&field.consume("b", "orders", 2).await), ["1", "3"]);
    field.until_acked("a", "orders", 3).await;
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_filter), (2, 1));
}

#[tokio::test]
async fn a_garbled_origin_is_written_anew_and_the_message_is_forwarded() {
    let field = Field::new().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    let huge = vec![b'x'; 100_000];
    for value in [&b"\xff\xff"[..], b",,,", &huge] {
        let value = bytes::Bytes::copy_from_slice(value);
        producer.send(Message::new("x").with_header(ORIGIN_HEADER, value)).await.unwrap();
    }
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    for message in field.consume("b", "orders", 3).await {
        let origins: Vec<_> =
            message.headers.iter().filter(|(name, _)| *name == ORIGIN_HEADER).collect();
        assert!(matches!(origins[..], [(_, b"site-a")]), "{origins:?}");
    }
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.garbled_origins), (3, 3));
    assert!(Garbled::NoSite.to_string().contains("no name of a site"));
}

#[tokio::test]
async fn a_message_that_has_passed_enough_sites_goes_no_further() {
    let field = Field::new().await;
    let producer = field.client("a").producer("orders").await.unwrap();
    producer.send(Message::new("far").with_header(ORIGIN_HEADER, "x,y,z")).await.unwrap();
    producer.send(Message::new("near").with_header(ORIGIN_HEADER, "x,y")).await.unwrap();
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            change.rules.sites.as_mut().unwrap().hops_max = 3;
        })
        .await;
    let got = field.consume("b", "orders", 1).await;
    assert_eq!(bodies(&got), ["near"]);
    field.until_acked("a", "orders", 2).await;
    let counts = forwarding.end().await;
    assert_eq!((counts.forwarded, counts.skipped_hops), (1, 1));
}

#[tokio::test]
async fn without_sites_messages_stay_as_they_are() {
    let field = Field::new().await;
    let message = Message::new("x").with_key("k").with_header(ORIGIN_HEADER, "site-b");
    field.client("a").producer("orders").await.unwrap().send(message.clone()).await.unwrap();
    let forwarding = field.forward("a", "b", "orders", |change| change.rules.sites = None).await;
    assert_eq!(field.consume("b", "orders", 1).await, [message]);
    forwarding.stop().await;
}

#[tokio::test]
async fn the_durability_that_is_asked_for_is_asked_of_the_destination() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..1).await;
    // A store in memory has none to give.
    let forwarding = field
        .forward("a", "b", "orders", |change| {
            let Destination::Cluster { durability, .. } = &mut change.destination else { panic!() };
            *durability = Some(Durability::Disk);
        })
        .await;
    let figures = forwarding.figures.clone();
    within("it is said that there is none", async {
        while !matches!(figures.status().0, Status::Waiting(why) if why.contains("durability")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(field.channel("a", "orders").await.acked, 0);
    forwarding.stop().await;
}

#[tokio::test]
async fn a_topic_that_is_deleted_ends_it() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..3).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 3).await;
    field.client("a").admin().delete_topic("orders").await.unwrap();
    let ended = within("the end", forwarding.task).await.unwrap();
    assert!(matches!(ended, Ended::Gone(_)), "{ended:?}");
}

#[tokio::test]
async fn a_topic_deleted_at_the_destination_is_made_anew_by_the_next_message() {
    let field = Field::new().await;
    field.publish("a", "orders", 0..3).await;
    let forwarding = field.forward("a", "b", "orders", |_| {}).await;
    field.until_acked("a", "orders", 3).await;
    field.client("b").admin().delete_topic("orders").await.unwrap();
    field.publish("a", "orders", 3..6).await;
    assert_eq!(bodies(&field.consume("b", "orders", 3).await), ["3", "4", "5"]);
    forwarding.stop().await;
}
