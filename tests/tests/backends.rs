//! What a node promises of each store and durability that it can be configured with, shown by
//! killing and stopping real ones. Those that keep what they confirm are in `kill.rs`; here are the
//! ones that may lose it: what they lose, and that they lose nothing else.

use std::{collections::BTreeMap, path::Path, time::Duration};

use ltq_client::{Client, Consumer, Durability, Message, PublishError, RefusalCode, TopicOptions};
use ltq_core::{ChannelStats, Offset, TopicStats};
use ltq_tests::{NodeProcess, kill::Body, within};

/// A node whose store is small, so that what it keeps does not stay in memory.
async fn start(folder: &Path, store: &str, durability: &str) -> (NodeProcess, Client) {
    let config = folder.join("small.toml");
    let settings = "file_store.tail_bytes = \"256KiB\"\nfile_store.segment_bytes = \"64KiB\"\n\
                    file_store.journal_bytes_max = \"2MiB\"\nrocksdb_store.tail_bytes = \"4MiB\"\n\
                    limits.frame_bytes_max = \"256KiB\"\nlimits.message_bytes_max = \"64KiB\"\n";
    std::fs::write(&config, settings).expect("written");
    let config = config.to_str().expect("a path");
    let flags = ["--config", config, "--store", store, "--durability", durability];
    let node = NodeProcess::start(&folder.join("data"), 0, &flags).await.expect("the node starts");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    (node, client)
}

/// What the topic `t` is said to be; its one channel's figures add up.
async fn shown(client: &Client) -> (TopicStats, ChannelStats) {
    let topic = client.admin().show_topic("t").await.expect("the topic");
    let [channel] = &topic.channels[..] else { panic!("{topic:?}") };
    let states = channel.waiting
        + channel.delayed
        + channel.in_flight
        + channel.acked
        + channel.damaged
        + channel.dropped;
    assert_eq!(states, topic.end.since(channel.start), "promise 13: {topic:?}");
    (topic.clone(), channel.clone())
}

/// Publishes so many messages of a life of the node, and tells where each is.
async fn publish(
    client: &Client,
    life: usize,
    count: u64,
    kept: Durability,
) -> BTreeMap<Offset, Body> {
    let producer = client.producer("t").await.expect("a producer");
    let mut pending = Vec::new();
    for number in 0..count {
        let body = Body { producer: life, number };
        pending.push((body, producer.enqueue(Message::new(body.bytes())).await.expect("taken")));
    }
    let mut places = BTreeMap::new();
    for (body, receipt) in pending {
        let receipt = within("the confirm", receipt).await.expect("stored");
        assert_eq!(receipt.durability, kept, "promise 1: a receipt says what was done");
        let offset = receipt.offset.expect("it has a place");
        assert_eq!(places.insert(offset, body), None, "two messages at offset {offset}");
    }
    places
}

/// Takes so many messages and acks them, and tells where each is.
async fn take(consumer: &mut Consumer, count: usize) -> BTreeMap<Offset, Body> {
    let (mut taken, mut last) = (BTreeMap::new(), None);
    for _ in 0..count {
        let delivery = within("a delivery", consumer.next()).await.expect("one").expect("one");
        let body = Body::parse(&delivery.message.body);
        let body = body.unwrap_or_else(|| panic!("promise 8: wrong bytes in {delivery:?}"));
        let offset = delivery.offset();
        assert!(last < Some(offset), "promise 4: {offset} behind {last:?}");
        last = Some(offset);
        taken.insert(offset, body);
        delivery.ack_confirmed().await.expect("acked");
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_a_node_in_memory_says_so_comes_back_empty_after_a_kill_and_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = async || {
        let data = folder.path().join("data");
        let node = NodeProcess::start(&data, 0, &["--store", "memory"]).await.expect("a node");
        let client = Client::connect(&node.address().to_string()).await.expect("connected");
        (node, client)
    };
    for life in 0..3 {
        let (node, client) = start().await;
        assert_eq!(client.admin().list_topics().await.expect("a list"), [], "life {life}");
        let mut consumer = client.consumer("t", "c").await.expect("a consumer");
        let published = publish(&client, life, 300, Durability::Memory).await;
        assert_eq!(published.keys().next(), Some(&Offset(0)), "it begins anew");
        // More than it can keep is refused, and not promised.
        let strict = client.producer_builder("t").durability(Durability::Disk).open().await;
        let refused = match strict {
            Ok(strict) => strict.send(Message::new("x")).await.expect_err("it cannot"),
            Err(error) => panic!("{error}"),
        };
        let code = refused.refusal().map(|refusal| refusal.code);
        assert_eq!(code, Some(RefusalCode::DurabilityUnavailable), "{refused}");
        // Only what this life published is there: half is acked, half is lost with it.
        let taken = take(&mut consumer, 150).await;
        assert!(taken.iter().all(|(at, body)| published.get(at) == Some(body)), "{taken:?}");
        let (_, channel) = shown(&client).await;
        assert_eq!(channel.acked, 150, "{channel:?}");
        drop(consumer);
        client.close().await.expect("closed");
        if life == 1 {
            assert!(node.terminate().await.expect("it stops").success());
        } else {
            node.kill().await.expect("killed");
        }
    }
    assert!(!folder.path().join("data").exists(), "a node in memory made files");
}

/// Kills a node whose messages need not survive, again and again. What comes back is a part of what
/// was published, whole and in its place; and what a node confirms while it lives it delivers.
async fn kills_of_what_need_not_last(store: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut published, mut acked) = (BTreeMap::new(), BTreeMap::new());
    let mut survived = 0;
    for life in 0..6 {
        let (node, client) = start(folder.path(), store, "memory").await;
        let mut consumer = client.consumer("t", "c").await.expect("a consumer");
        let came_back = shown(&client).await.0.end;
        survived += published.range(..came_back).filter(|(at, _)| !acked.contains_key(*at)).count();
        // Offsets that are not there any more are given out again.
        published.split_off(&came_back);
        acked.split_off(&came_back);
        let fresh = publish(&client, life, 3_000, Durability::Memory).await;
        assert_eq!(fresh.keys().next(), Some(&came_back), "life {life} goes on where it ended");
        published.extend(fresh);
        // The store moves on from its journal, so that what is in segments is known to be there.
        let settings = TopicOptions { durability: Some(Durability::Os), ..Default::default() };
        if life == 0 {
            client.admin().create_topic("other", settings).await.expect("made");
        }
        let other = client.producer("other").await.expect("a producer");
        for _ in 0..60 {
            other.send(Message::new(vec![7; 32 << 10])).await.expect("stored");
        }

        let (topic, channel) = shown(&client).await;
        assert_eq!(channel.damaged + channel.dropped, 0, "{topic:?}");
        // All but a thousand, so that the next life finds some that are not acked.
        let waiting = usize::try_from(channel.waiting + channel.in_flight).expect("few");
        let taken = take(&mut consumer, waiting - 1_000).await;
        for (at, body) in &taken {
            assert_eq!(published.get(at), Some(body), "life {life}: something else is at {at}");
            assert!(!acked.contains_key(at), "promise 12: {body:?} at {at} comes again");
        }
        // Beyond that nothing is missing among those that are not acked.
        let last = taken.keys().last().expect("some");
        let expected = published.range(..=last).filter(|(at, _)| !acked.contains_key(*at)).count();
        assert_eq!(taken.len(), expected, "promise 2: some were passed over");
        // Only an ack that was known to the node's memory alone may be lost.
        tokio::time::sleep(ACK_COMMIT_MAX).await;
        acked.extend(taken);
        node.kill().await.expect("killed");
        drop((consumer, other, client));
    }
    // Else the test shows less than it says.
    println!("{survived} messages came back");
    assert!(survived > 0, "nothing ever came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_1_2_4_12_hold_over_kills_of_a_file_store_whose_messages_need_not_last() {
    kills_of_what_need_not_last("file").await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_1_2_4_12_hold_over_kills_of_rocksdb_whose_messages_need_not_last() {
    kills_of_what_need_not_last("rocksdb").await;
}

/// Stops a node whose messages need not survive, as an operator does: all of them are there again.
async fn a_stop_of_what_need_not_last(store: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut published, mut acked) = (BTreeMap::new(), BTreeMap::new());
    for life in 0..3 {
        let (node, client) = start(folder.path(), store, "memory").await;
        let mut consumer = client.consumer("t", "c").await.expect("a consumer");
        // Many times the memory that there is for them.
        published.extend(publish(&client, life, 8_000, Durability::Memory).await);
        let (topic, channel) = shown(&client).await;
        assert_eq!(topic.end, Offset(published.len() as u64), "promise 11: all are there");
        assert_eq!(channel.acked, acked.len() as u64, "promise 12: {channel:?}");
        let taken = take(&mut consumer, 5_000).await;
        let expected = published.iter().filter(|(at, _)| !acked.contains_key(*at)).take(5_000);
        assert!(taken.iter().eq(expected), "promises 2, 4 and 12: something else came");
        acked.extend(taken);
        drop(consumer);
        client.close().await.expect("closed");
        let ended = node.terminate().await.expect("it stops");
        assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");
    }
    let (node, client) = start(folder.path(), store, "memory").await;
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let taken = take(&mut consumer, published.len() - acked.len()).await;
    let expected = published.iter().filter(|(at, _)| !acked.contains_key(*at));
    assert!(taken.iter().eq(expected), "promises 11 and 12: something is missing, or came again");
    assert_eq!(shown(&client).await.1.waiting, 0);
    drop(consumer);
    client.close().await.expect("closed");
    assert!(node.terminate().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_a_clean_stop_of_a_file_store_keeps_messages_that_need_not_last() {
    a_stop_of_what_need_not_last("file").await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_a_clean_stop_of_rocksdb_keeps_messages_that_need_not_last() {
    a_stop_of_what_need_not_last("rocksdb").await;
}

/// A durable publish and one that need not last, side by side in one node: the kill takes the
/// second kind only.
async fn both_kinds(store: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut kept = 0;
    for life in 0..4 {
        let (node, client) = start(folder.path(), store, "disk").await;
        let options = TopicOptions { durability: Some(Durability::Memory), ..Default::default() };
        if life == 0 {
            client.admin().create_topic("loose", options).await.expect("made");
            client.admin().create_channel("t", "c", Default::default()).await.expect("made");
        }
        let end = shown(&client).await.0.end;
        assert_eq!(end, Offset(kept), "promise 1: what was confirmed as durable is there");
        let loose = client.producer("loose").await.expect("a producer");
        let strict = client.producer("t").await.expect("a producer");
        for number in 0..200 {
            let body = Body { producer: life, number };
            let receipt = loose.send(Message::new(body.bytes())).await.expect("stored");
            assert_eq!(receipt.durability, Durability::Memory, "promise 1");
            let receipt = strict.send(Message::new(body.bytes())).await.expect("stored");
            assert_eq!(receipt.durability, Durability::Disk, "promise 1");
            kept += 1;
        }
        let strict = client.producer_builder("loose").durability(Durability::Disk).open().await;
        let sent: Result<_, PublishError> =
            strict.expect("a producer").send(Message::new("x")).await;
        let error = sent.expect_err("a topic that need not last cannot");
        let code = error.refusal().map(|refusal| refusal.code);
        assert_eq!(code, Some(RefusalCode::DurabilityUnavailable), "{error}");
        node.kill().await.expect("killed");
        drop((loose, client));
    }
    let (node, client) = start(folder.path(), store, "disk").await;
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let taken = take(&mut consumer, 800).await;
    let expected = (0..800).map(|at| (Offset(at), (at / 200) as usize, at % 200));
    let taken = taken.into_iter().map(|(at, body)| (at, body.producer, body.number));
    assert!(taken.eq(expected), "promise 2");
    drop(consumer);
    client.close().await.expect("closed");
    assert!(node.terminate().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_a_kill_of_a_file_store_takes_only_what_need_not_last() {
    both_kinds("file").await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_a_kill_of_rocksdb_takes_only_what_need_not_last() {
    both_kinds("rocksdb").await;
}

/// The broker stores acks within 20 ms; the rest is for a machine that is busy with other things.
const ACK_COMMIT_MAX: Duration = Duration::from_millis(700);
