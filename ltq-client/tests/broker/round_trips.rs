use std::{
    collections::BTreeSet,
    future::IntoFuture,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt};
use ltq_client::{
    Durability, Keep, Message, Offset, Outcome, Received, RefusalCode, RetentionChange,
    SettleError, StartAt, TopicOptions,
};

use super::namespace;
use crate::node::{Node, within};

#[tokio::test]
async fn a_message_goes_out_and_comes_back_over_every_transport() {
    for node in [Node::over(namespace()).await, Node::tcp().await] {
        let client = node.client().await;
        let producer = within(client.producer("orders")).await.unwrap();
        let mut consumer = within(client.consumer("orders", "billing")).await.unwrap();
        let message = Message::new("hello").with_key("k").with_header("h", "v");
        let receipt = within(producer.send(message.clone())).await.unwrap();
        assert_eq!((receipt.offset, receipt.sequence), (Some(Offset(0)), 1));
        assert_eq!(receipt.durability, Durability::Memory, "a memory store can do no more");
        let delivery = within(consumer.next()).await.unwrap().unwrap();
        assert_eq!((&delivery.message, delivery.offset()), (&message, Offset(0)));
        within(delivery.ack_confirmed()).await.unwrap();
        let shown = within(client.admin().show_topic("orders")).await.unwrap();
        assert_eq!(shown.channels[0].acked, 1);
        within(client.close()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_a_hundred_thousand_messages_arrive_once_and_in_order() {
    let node = Node::tcp().await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let mut consumer = within(client.consumer("orders", "billing")).await.unwrap();
    const COUNT: u64 = 100_000;
    let publishing = tokio::spawn(async move {
        let mut batches = FuturesUnordered::new();
        for batch in 0..COUNT / 100 {
            let messages: Vec<_> =
                (0..100).map(|n| Message::new((batch * 100 + n).to_string())).collect();
            batches.push(producer.enqueue_batch(&messages).await.unwrap());
        }
        let mut stored = 0;
        while let Some(receipt) = batches.next().await {
            stored += receipt.unwrap().len() as u64;
        }
        stored
    });
    let mut seen = 0;
    while seen < COUNT {
        let batch = within(consumer.next_batch(500)).await.unwrap().unwrap();
        for received in batch.iter() {
            let received = received.unwrap();
            assert_eq!(received.offset, Offset(seen));
            assert_eq!(received.message.body, seen.to_string());
            seen += 1;
        }
        batch.ack_all().unwrap();
    }
    assert_eq!(within(publishing).await.unwrap(), COUNT);
    within(consumer.close()).await.unwrap();
    let shown = within(client.admin().show_topic("orders")).await.unwrap();
    let channel = &shown.channels[0];
    assert_eq!((channel.acked, channel.redelivered, channel.stale), (COUNT, 0, 0));
    assert_eq!(channel.in_flight, 0);
}

#[tokio::test]
async fn messages_sent_one_by_one_by_many_tasks_are_all_stored_once() {
    let node = Node::tcp().await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                for n in 0..50 {
                    let message = Message::new(format!("{task}.{n}"));
                    offsets.push(producer.send(message).await.unwrap().offset.unwrap());
                }
                assert!(offsets.is_sorted(), "a task's messages keep their order");
                offsets
            })
        })
        .collect();
    let mut all = BTreeSet::new();
    for task in tasks {
        all.extend(within(task).await.unwrap());
    }
    assert_eq!(all.len(), 64 * 50);
    assert_eq!(all.last(), Some(&Offset(64 * 50 - 1)));
}

#[tokio::test]
async fn promise_2_every_channel_gets_every_message_and_its_consumers_share_them() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let mut consumers = Vec::new();
    for channel in ["a", "b", "b"] {
        let builder = client.consumer_builder("orders", channel).credit(10, 1 << 20);
        consumers.push(within(builder.open()).await.unwrap());
    }
    let messages: Vec<_> = (0..100).map(|n| Message::new(n.to_string())).collect();
    within(producer.send_batch(&messages)).await.unwrap();
    let seen = Arc::new(Mutex::new(vec![Vec::new(), Vec::new(), Vec::new()]));
    let tasks: Vec<_> = (0..)
        .zip(consumers)
        .map(|(index, mut consumer)| {
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(delivery) = consumer.next().await {
                    let delivery = delivery.unwrap();
                    seen.lock().unwrap()[index].push(delivery.offset().0);
                    delivery.ack().unwrap();
                }
            })
        })
        .collect();
    within(async {
        loop {
            let stats = client.admin().show_topic("orders").await.unwrap();
            if stats.channels.iter().all(|channel| channel.acked == 100) {
                break;
            }
        }
    })
    .await;
    within(client.close()).await.unwrap();
    for task in tasks {
        within(task).await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen[0], (0..100).collect::<Vec<_>>());
    let mut shared: Vec<_> = seen[1].iter().chain(&seen[2]).copied().collect();
    shared.sort_unstable();
    assert_eq!(shared, (0..100).collect::<Vec<_>>());
    assert!(!seen[1].is_empty() && !seen[2].is_empty());
}

#[tokio::test]
async fn what_is_given_back_comes_again() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    within(producer.send(Message::new("x"))).await.unwrap();
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    drop(within(consumer.next()).await.unwrap().unwrap());
    let second = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(second.attempt(), 2);
    second.requeue(Duration::from_millis(20)).unwrap();
    let third = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(third.attempt(), 3);
    // The consumer goes with the delivery unsettled; the next one gets it at once.
    drop(consumer);
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    let fourth = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!(fourth.attempt(), 4);
    assert!(third.ack().is_err());
    within(fourth.ack_confirmed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_3_an_ack_after_the_timeout_is_stale() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    within(producer.send(Message::new("x"))).await.unwrap();
    let builder = client.consumer_builder("orders", "c").timeout(Duration::from_millis(30));
    let mut consumer = within(builder.open()).await.unwrap();
    assert_eq!(consumer.timeout(), Duration::from_millis(30));
    let first = within(consumer.next()).await.unwrap().unwrap();
    let second = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!((second.offset(), second.attempt()), (first.offset(), 2));
    assert_eq!(within(first.ack_confirmed()).await, Err(SettleError::Stale));
    within(second.ack_confirmed()).await.unwrap();
}

#[tokio::test]
async fn handlers_run_to_the_end_of_the_topic() {
    let node = Node::tcp().await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    let messages: Vec<_> = (0..1_000).map(|n| Message::new(n.to_string())).collect();
    within(producer.send_batch(&messages)).await.unwrap();
    let consumer = within(client.consumer("orders", "c")).await.unwrap();
    let running = consumer
        .for_each(32, |received: Received| async move {
            let fails = received.attempt == 1 && received.offset.0.is_multiple_of(100);
            if fails { Err("the first time") } else { Ok(()) }
        })
        .backoff(ltq_client::Backoff::new(Duration::from_millis(1), Duration::from_millis(2)));
    let stop = running.stop_handle();
    let running = tokio::spawn(running.into_future());
    within(async {
        while client.admin().show_topic("orders").await.unwrap().channels[0].acked < 1_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.stop();
    let summary = within(running).await.unwrap().unwrap();
    assert_eq!((summary.acked, summary.failed, summary.stale), (1_000, 10, 0));
}

#[tokio::test]
async fn operators_requests_do_what_they_say() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let admin = client.admin();
    let options = TopicOptions { durability: Some(Durability::Memory), ..TopicOptions::default() };
    within(admin.create_topic("t", options)).await.unwrap();
    let change = RetentionChange { keep: Some(Keep::All), ..RetentionChange::default() };
    within(admin.alter_topic("t", change)).await.unwrap();
    let settings = within(admin.show_topic("t")).await.unwrap().settings;
    assert_eq!((settings.durability, settings.retention.keep), (Durability::Memory, Keep::All));
    let change = RetentionChange { bytes_max: Some(Some(1)), ..RetentionChange::default() };
    let error = within(admin.alter_topic("t", change)).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::OutOfRange);
    within(admin.create_channel("t", "c", StartAt::Latest)).await.unwrap();
    assert_eq!(within(admin.list_topics()).await.unwrap(), ["t".try_into().unwrap()]);
    within(admin.pause_channel("t", "c")).await.unwrap();
    assert!(within(admin.show_topic("t")).await.unwrap().channels[0].paused);
    within(admin.resume_channel("t", "c")).await.unwrap();
    within(admin.pause_topic("t")).await.unwrap();
    assert!(within(admin.show_topic("t")).await.unwrap().paused);
    within(admin.resume_topic("t")).await.unwrap();
    assert_eq!(within(admin.stats()).await.unwrap().topics.len(), 1);
    let mut consumer = within(client.consumer("t", "c")).await.unwrap();
    within(admin.delete_channel("t", "c")).await.unwrap();
    let ended = within(consumer.next()).await.unwrap().unwrap_err();
    assert!(ended.is_end(), "{ended}");
    assert!(within(consumer.next()).await.is_none());
    within(admin.delete_topic("t")).await.unwrap();
    let error = within(admin.show_topic("t")).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::NoSuchTopic);
}

#[tokio::test]
async fn a_newer_instance_of_a_name_fences_the_older() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let open = || client.producer_builder("orders").name("loader").open();
    let old = within(open()).await.unwrap();
    within(old.send(Message::new("a"))).await.unwrap();
    let new = within(open()).await.unwrap();
    assert_eq!(new.last_sequence(), 1, "it goes on where the other was");
    let error = within(old.send(Message::new("b"))).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::Fenced);
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert_eq!(within(new.send(Message::new("c"))).await.unwrap().offset, Some(Offset(1)));
}

#[tokio::test]
async fn a_durability_that_the_store_cannot_give_is_refused_and_others_go_on() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let builder = client.producer_builder("orders").durability(Durability::Disk);
    let strict = within(builder.open()).await.unwrap();
    let error = within(strict.send(Message::new("a"))).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::DurabilityUnavailable);
    let lax = within(client.producer("orders")).await.unwrap();
    within(lax.send(Message::new("b"))).await.unwrap();
}

#[tokio::test]
async fn a_deleted_topic_ends_its_producers_and_consumers_and_new_ones_make_it_anew() {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let producer = within(client.producer("orders")).await.unwrap();
    within(producer.send(Message::new("old"))).await.unwrap();
    let mut consumer = within(client.consumer("orders", "c")).await.unwrap();
    let old = within(consumer.next()).await.unwrap().unwrap();
    within(client.admin().delete_topic("orders")).await.unwrap();

    for _ in 0..2 {
        let error = within(producer.send(Message::new("lost"))).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().code, RefusalCode::TopicDeleted);
        assert_eq!(error.outcome(), Outcome::Nothing);
    }
    let end = within(consumer.next()).await.unwrap().unwrap_err();
    assert!(end.is_end(), "{end}");
    assert!(within(consumer.next()).await.is_none());
    assert!(old.ack().is_err(), "it is void");

    let producer = within(client.producer("orders")).await.unwrap();
    let receipt = within(producer.send(Message::new("new"))).await.unwrap();
    assert_eq!(receipt.offset, Some(Offset(0)), "nobody brought the old one back");
}
