//! Promises 9 and 10: what a peer makes the broker keep is counted once and given back once, and
//! a peer that uses up its share, or everybody's, holds up nobody for longer than it lasts.

use std::time::Duration;

use ltq_core::{
    AdminRequest, BrokerSettings, Credit, Message, Records, RefusalCode, Settlement, Tag, TagRange,
    TopicName, Verdict,
    model::ModelSettings,
    protocol::{Frame, Hello},
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, Local, RawPeer, Served, bytes_of, within};
use tokio::time::{Instant, timeout};

const CREDIT: Credit = Credit { messages: 2500, bytes: 16 << 20 };
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

fn publish(handle: u32, sequence: u64, bytes: usize) -> Frame {
    let records = Records::encode([&Message::new(vec![7; bytes])]);
    Frame::Publish { handle, sequence, durability: None, records }
}

fn open(handle: u32, topic: &str) -> Frame {
    Frame::OpenProducer { handle, topic: name(topic), name: None, epoch: None, seat: None }
}

/// Settings whose limits are a little above one frame of 64 KiB.
fn small() -> BrokerSettings {
    BrokerSettings {
        message_bytes_max: 64 << 10,
        frame_bytes_max: 68 << 10,
        publish_bytes_max: 68 << 10,
        publish_bytes_total_max: 256 << 20,
        ..Served::settings()
    }
}

/// Sends until the broker takes no more, for a hundred rounds at most, and says how many it took.
async fn rounds_taken(peer: &mut RawPeer, mut round: impl FnMut(u64) -> Vec<u8>) -> u64 {
    for n in 0..100 {
        let bytes = round(n);
        if timeout(Duration::from_secs(1), peer.send_bytes(&bytes)).await.is_err() {
            return n;
        }
    }
    100
}

#[tokio::test(start_paused = true)]
async fn promise_9_a_refused_publish_gives_nothing_back_for_others() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let local = Local::on(store, small()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    // Each round is a good publish, and two that are refused at once and look like its successors.
    let taken = rounds_taken(&mut peer, |n| {
        let mut bytes = bytes_of(&publish(1, n + 1, 60 * KIB));
        bytes.extend(bytes_of(&publish(1, u64::MAX - 1, 65 * KIB)));
        bytes.extend(bytes_of(&publish(1, u64::MAX - 1, 1)));
        bytes
    })
    .await;
    assert!(taken < 20, "{taken} rounds were taken in while nothing was stored");
    gate.send_replace(true);
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_a_session_left_behind_still_counts() {
    let (store, gate) = Gated::new(MemoryStore::new(256 << 20), true);
    let settings = BrokerSettings { publish_bytes_total_max: 8 * MIB, ..Served::settings() };
    let local = Local::on(store, settings).await;
    local.peer().await.open_producer(1, "t").await;
    gate.send_replace(false);
    let mut taken = 0;
    for _ in 0..40 {
        let mut peer = local.peer().await;
        peer.send(open(1, "t")).await;
        let mut bytes = bytes_of(&publish(1, 1, MIB - 10));
        bytes.extend(bytes_of(&publish(1, 2, 600 * KIB)));
        if timeout(Duration::from_secs(1), peer.send_bytes(&bytes)).await.is_err() {
            break;
        }
        taken += 1;
    }
    assert!(taken < 20, "{taken} sessions left 1.6 MiB each; the limit is 8 MiB");
    gate.send_replace(true);
    within("the rest is stored, and there is room again", async {
        let mut peer = local.peer().await;
        peer.open_producer(1, "t").await;
        let answer = peer.publish(1, 1, &[b"x"]).await;
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn promise_9_tiny_publishes_count_for_what_they_cost() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let local = Local::on(store, small()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    // 68 KiB hold 7,000 of these if only their bytes count.
    let mut sequence = 0;
    let taken = rounds_taken(&mut peer, |_| {
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            sequence += 1;
            bytes.extend(bytes_of(&publish(1, sequence, 0)));
        }
        // The link itself holds 256 KiB.
        while bytes.len() < 300 * KIB {
            bytes.extend(bytes_of(&Frame::Pong { nonce: 1 }));
        }
        bytes
    })
    .await;
    assert!(taken < 4, "{taken} thousand publishes were taken in");
    gate.send_replace(true);
}

#[tokio::test(start_paused = true)]
async fn promise_9_producers_opened_and_closed_in_a_pipeline_wait_for_their_answers() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    // Those beyond `producers_max` are refused; they are not to end the stream as a flood here.
    let settings = BrokerSettings { futile_frames_max: u32::MAX, ..Served::settings() };
    let local = Local::on(store, settings).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    // A commit is under way: whatever needs one waits behind it.
    peer.send(publish(1, 1, 10)).await;
    let mut cycle = bytes_of(&open(2, "t"));
    cycle.extend(bytes_of(&Frame::CloseProducer { handle: 2, forget: false }));
    let cycles = cycle.repeat(256 * KIB / cycle.len());
    let taken = rounds_taken(&mut peer, |_| cycles.clone()).await;
    assert!(taken < 20, "{taken} times 256 KiB of openings were taken in, unanswered");
    gate.send_replace(true);
}

#[tokio::test(start_paused = true)]
async fn promise_9_operators_requests_of_a_stream_are_bounded() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), false);
    let local = Local::on(store, Served::settings()).await;
    let mut peer = local.peer().await;
    for request in 0..200 {
        let topic = name(&format!("t{request}"));
        let action = AdminRequest::CreateTopic { topic, options: Default::default() };
        peer.send(Frame::Admin { request, action }).await;
        if request >= 16 {
            match peer.next().await {
                Some(Frame::AdminAnswered { request: answered, result: Err(refusal) }) => {
                    assert_eq!(answered, request);
                    assert_eq!(refusal.code, RefusalCode::LimitReached);
                }
                other => panic!("request {request}: {other:?}"),
            }
        }
    }
    gate.send_replace(true);
    for _ in 0..16 {
        let answer = peer.next().await;
        assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_refused_duplicate_leaves_what_is_open_as_it_was() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    peer.send(open(1, "u")).await;
    let answer = peer.next().await;
    assert!(matches!(answer, Some(Frame::ProducerRefused { handle: 1, .. })), "{answer:?}");
    let answer = peer.publish(1, 1, &[b"x"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { handle: 1, .. })), "{answer:?}");

    peer.send(RawPeer::subscribe(1, "t", "c", Credit { messages: 1, bytes: 1000 })).await;
    assert!(matches!(peer.next().await, Some(Frame::Subscribed { .. })));
    assert!(matches!(peer.next().await, Some(Frame::Deliver { .. })));
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    let answer = peer.next().await;
    assert!(matches!(answer, Some(Frame::SubscribeRefused { handle: 1, .. })), "{answer:?}");
    let tags = TagRange { first: Tag(1), last: Tag(1) };
    let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
    peer.send(Frame::Settle { handle: 1, request: 1, settlements }).await;
    let settled = Frame::Settled { handle: 1, request: 1, stale: Vec::new() };
    assert_eq!(peer.next().await, Some(settled), "it is still open, and settles");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_size_waits_behind_the_confirms_that_are_due_before_it() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let local = Local::on(store, small()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    peer.send(publish(1, 1, 10)).await;
    peer.send(publish(1, 2, 65 * KIB)).await;
    peer.send(publish(1, 3, 10)).await;
    peer.send(Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }), "no publish is answered yet");
    gate.send_replace(true);
    let answer = peer.next().await;
    assert!(matches!(&answer, Some(Frame::Confirmed { ranges, .. }) if ranges[0].sequence == 1));
    for (expected, code) in [(2, RefusalCode::MessageTooLarge), (3, RefusalCode::SequenceGap)] {
        match peer.next().await {
            Some(Frame::PublishRefused { sequence, refusal, .. }) => {
                assert_eq!((sequence, refusal.code), (expected, code));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_peer_that_does_not_read_its_confirms_holds_up_no_other_publisher() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let settings = BrokerSettings {
        publish_bytes_total_max: 8 * MIB,
        heartbeat: Duration::from_secs(3600),
        stall_timeout: Duration::from_secs(3600),
        ..Served::settings()
    };
    let local = Local::on(store, settings).await;
    let mut writer = local.peer().await;
    writer.open_producer(1, "backlog").await;
    for sequence in 1..=4 {
        writer.publish(1, sequence, &[&[1; 900 * KIB]]).await;
    }
    writer.open_producer(2, "t").await;

    let mut deaf = local.peer().await;
    deaf.open_producer(1, "t").await;
    gate.send_replace(false);
    for sequence in 1..=7 {
        deaf.send(publish(1, sequence, MIB - 10)).await;
    }
    deaf.send(RawPeer::subscribe(1, "backlog", "c#ephemeral", CREDIT)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Now its messages are stored, and it has so much to read that it never hears of it.
    gate.send_replace(true);
    let mut confirmed = 0;
    for sequence in 1..=8 {
        writer.send(publish(2, sequence, 900 * KIB)).await;
    }
    while confirmed < 8 {
        match writer.next().await {
            Some(Frame::Confirmed { ranges, .. }) => {
                confirmed += ranges.iter().map(|range| range.count).sum::<u64>();
            }
            other => panic!("{other:?}"),
        }
    }
    drop(deaf);
}

#[tokio::test(start_paused = true)]
async fn promise_10_consumers_are_heard_while_publishers_wait_for_room() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let settings = BrokerSettings { publish_bytes_total_max: 8 * MIB, ..Served::settings() };
    let local = Local::on(store, settings).await;
    let mut greedy = local.peer().await;
    greedy.open_producer(1, "t").await;
    gate.send_replace(false);
    let flood = tokio::spawn(async move {
        for sequence in 1..=12 {
            greedy.send(publish(1, sequence, MIB - 10)).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!flood.is_finished(), "there is no room for everything");
    let mut consumer = local.peer().await;
    consumer.send(Frame::Ping { nonce: 5 }).await;
    assert_eq!(consumer.next().await, Some(Frame::Pong { nonce: 5 }));
    gate.send_replace(true);
    within("the flood passes", flood).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn promise_10_many_long_frames_at_once_all_get_through() {
    let settings = BrokerSettings {
        message_bytes_max: 7 << 20,
        partial_bytes_total_max: 8 * MIB,
        ..Served::settings()
    };
    let local = Local::on(MemoryStore::new(256 << 20), settings).await;
    let bytes = bytes_of(&publish(1, 1, 6 * MIB));
    let mut peers = Vec::new();
    for n in 0..6 {
        let mut peer = local.peer().await;
        peer.open_producer(1, &format!("t{n}")).await;
        peers.push(peer);
    }
    // A link holds 256 KiB, so that all of them are in the middle of their frames at once.
    let bytes = &bytes;
    let whole = peers.into_iter().map(|mut peer| async move {
        peer.send_bytes(bytes).await.expect("sent");
        peer.next().await
    });
    for answer in futures::future::join_all(whole).await {
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_slow_store_is_not_held_against_a_peer_in_the_middle_of_a_frame() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let local = Local::on(store, small()).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    gate.send_replace(false);
    let mut bytes = bytes_of(&publish(1, 1, 60 * KIB));
    bytes.extend(bytes_of(&publish(1, 2, 60 * KIB)));
    let third = bytes_of(&publish(1, 3, 60 * KIB));
    bytes.extend(&third[..1000]);
    peer.send_bytes(&bytes).await.expect("sent");
    // The store takes minutes.
    tokio::time::sleep(Duration::from_secs(300)).await;
    gate.send_replace(true);
    let mut confirmed = 0;
    while confirmed < 2 {
        match peer.next().await {
            Some(Frame::Confirmed { ranges, .. }) => {
                confirmed += ranges.iter().map(|range| range.count).sum::<u64>();
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_before_its_hello_a_peer_has_room_for_a_hello_only() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.connect().await;
    let began = Instant::now();
    peer.send_bytes(&(1u32 << 20).to_le_bytes()).await.expect("sent");
    peer.expect_goodbye(RefusalCode::FrameTooLarge).await;
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
}

#[tokio::test]
async fn confirms_of_many_ranges_fit_the_frames_that_a_client_reads() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
    let settings = BrokerSettings {
        message_bytes_max: 2048,
        model: ModelSettings { run_bytes_max: 2048, ..ModelSettings::default() },
        ..Served::settings()
    };
    let local = Local::on(store, settings).await;
    let mut peer = local.connect().await;
    peer.greet(Hello { frame_bytes_max: 8 << 10, ..RawPeer::hello() }).await;
    peer.open_producer(1, "t").await;
    peer.open_producer(2, "t").await;
    gate.send_replace(false);
    peer.send(publish(1, 1, 1)).await;
    // Turn by turn, so that no two of one producer stand beside each other.
    let mut bytes = Vec::new();
    for sequence in 1..=4000 {
        bytes.extend(bytes_of(&publish(1, sequence + 1, 1)));
        bytes.extend(bytes_of(&publish(2, sequence, 1)));
    }
    peer.send_bytes(&bytes).await.expect("sent");
    peer.send(Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }), "everything is read");
    gate.send_replace(true);
    let mut next = [1, 1];
    while next != [4002, 4001] {
        match peer.next().await {
            Some(Frame::Confirmed { handle, ranges, .. }) => {
                for range in ranges {
                    let expected = &mut next[handle as usize - 1];
                    assert_eq!(range.sequence, *expected);
                    *expected += range.count;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn promise_9_a_settlement_of_more_ranges_than_there_can_be_is_refused() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    let tags = TagRange { first: Tag(1), last: Tag(1) };
    let settlements = vec![Settlement { tags, verdict: Verdict::Ack }; 1_000_000];
    let frame = bytes_of(&Frame::Settle { handle: 1, request: 1, settlements });
    peer.send_bytes(&frame).await.expect("sent");
    let detail = peer.expect_goodbye(RefusalCode::Malformed).await;
    assert!(detail.contains("1000000"), "{detail}");
}

#[tokio::test]
async fn a_peer_that_sends_no_more_still_gets_what_it_is_owed() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    peer.send(Frame::Ping { nonce: 1 }).await;
    peer.finish().await;
    assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }));
    assert_eq!(peer.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_peers_do_not_read_is_bounded_in_all_and_who_reads_goes_on() {
    const LIMIT: usize = 2 * MIB;
    const LAZY: usize = 8;
    const COUNT: u64 = 200;
    let settings = BrokerSettings { delivery_bytes_total_max: LIMIT, ..small() };
    let run = settings.model.run_bytes_max;
    let local = Local::start(settings).await;
    let mut producer = local.peer().await;
    producer.open_producer(1, "t").await;
    for sequence in 1..=COUNT {
        producer.send(publish(1, sequence, 60 * KIB)).await;
        assert!(matches!(producer.next().await, Some(Frame::Confirmed { .. })));
    }
    let mut lazy = Vec::new();
    for n in 0..LAZY {
        let mut peer = local.peer().await;
        for handle in 0..10 {
            let channel = format!("lazy-{n}-{handle}");
            peer.send(RawPeer::subscribe(handle, "t", &channel, CREDIT)).await;
        }
        lazy.push(peer);
    }
    let waiting = || local.broker.in_use().delivery_bytes as usize;
    // The clock stands still: nobody is given up for not reading.
    while waiting() <= LIMIT {
        tokio::task::yield_now().await;
    }
    let mut diligent = local.peer().await;
    for handle in [1, 2] {
        let channel = format!("diligent-{handle}");
        diligent.send(RawPeer::subscribe(handle, "t", &channel, CREDIT)).await;
    }
    let (mut got, mut most) = ([0; 2], 0);
    while got != [COUNT; 2] {
        most = most.max(waiting());
        if let Some(Frame::Deliver { handle, batch, .. }) = diligent.next().await {
            got[handle as usize - 1] += batch.records.count() as u64;
            assert!(got[0].abs_diff(got[1]) <= 16, "they take turns: {got:?}");
        }
    }
    // Each connection has a run at most beyond the limit, and what is on its way to the link.
    let bound = LIMIT + (LAZY + 1) * (run + 64 * KIB);
    assert!(LIMIT < most && most < bound, "{most} of {bound}");
    let held = local.broker.held_back();
    assert!(held.iter().any(|(limit, count)| *limit == "delivery_bytes_total_max" && *count > 0));
    drop(lazy);
    drop(diligent);
    while waiting() > 0 {
        tokio::task::yield_now().await;
    }
}
