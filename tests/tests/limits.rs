//! Promises 9 and 10: limits beyond which a peer waits and nothing is refused. Each is reached here, does
//! what its setting says, and counts it.

use std::time::Duration;

use ltq_core::{
    AdminRequest, Broker, BrokerSettings, Credit, Limit, Message, Records, RefusalCode, Settlement,
    Store, Tag, TagRange, TopicName, Verdict, model::ModelSettings, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, Local, RawPeer, Served, bytes_of};
use tokio::time::{sleep, timeout};

const CREDIT: Credit = Credit { messages: 2500, bytes: 16 << 20 };
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

fn publish(sequence: u64, bytes: usize) -> Frame {
    let records = Records::encode([&Message::new(vec![7; bytes])]);
    Frame::Publish { handle: 1, sequence, durability: None, records }
}

/// How often peers were made to wait at a limit.
fn held_back<S: Store>(broker: &Broker<S>, limit: &str) -> u64 {
    let counts = broker.held_back();
    let count = counts.iter().find(|(name, _)| *name == limit).map(|(_, count)| *count);
    count.unwrap_or_else(|| panic!("there is no {limit}"))
}

/// Settings whose frames hold a message of 64 KiB, which is a run of its own.
fn small() -> BrokerSettings {
    BrokerSettings {
        message_bytes_max: 64 << 10,
        frame_bytes_max: 68 << 10,
        model: ModelSettings { run_bytes_max: 64 << 10, ..ModelSettings::default() },
        ..Served::settings()
    }
}

#[tokio::test(start_paused = true)]
async fn requests_max_bounds_what_operators_have_unanswered() {
    let (store, gate) = Gated::new(MemoryStore::new(64 << 20), false);
    let settings = BrokerSettings { requests_max: 2, ..Served::settings() };
    let local = Local::on(store, settings).await;
    let mut peer = local.peer().await;
    for request in 0..3 {
        let topic = name(&format!("t{request}"));
        let action = AdminRequest::CreateTopic { topic, options: Default::default() };
        peer.send(Frame::Admin { request, action }).await;
    }
    let answer = peer.next().await;
    let Some(Frame::AdminAnswered { request: 2, result: Err(refusal) }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains('2'), "{refusal}");
    gate.send_replace(true);
    for _ in 0..2 {
        let answer = peer.next().await;
        assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })), "{answer:?}");
    }
    let reached: Vec<_> =
        local.broker.limits_reached().into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(reached, [(Limit::Requests, 1)]);
}

/// How many times 64 KiB of pings a broker takes in from a peer that reads no answer, of 100, and how
/// often it was held back.
async fn pings_taken(answer_bytes_max: usize) -> (u64, u64) {
    let settings =
        BrokerSettings { answer_bytes_max, futile_frames_max: u32::MAX, ..Served::settings() };
    let local = Local::start(settings).await;
    let mut peer = local.peer().await;
    let ping = bytes_of(&Frame::Ping { nonce: u64::MAX });
    let pings = ping.repeat(64 * KIB / ping.len());
    for taken in 0..100 {
        if timeout(Duration::from_secs(1), peer.send_bytes(&pings)).await.is_err() {
            return (taken, held_back(&local.broker, "answer_bytes_max"));
        }
    }
    (100, held_back(&local.broker, "answer_bytes_max"))
}

#[tokio::test(start_paused = true)]
async fn promise_9_answer_bytes_max_bounds_what_is_answered_to_who_does_not_read() {
    let (taken, held) = pings_taken(4 * KIB).await;
    assert!(taken < 30 && held > 0, "{taken} rounds, held back {held} times");
    let (taken, held) = pings_taken(64 * MIB).await;
    assert_eq!((taken, held), (100, 0));
}

/// Bytes that wait for a peer which reads nothing, and how often more was held back from it.
async fn waiting_for_a_lazy_one(delivery_bytes_max: usize) -> (usize, u64) {
    const COUNT: u64 = 60;
    let settings = BrokerSettings { delivery_bytes_max, ..small() };
    let local = Local::start(settings).await;
    let mut producer = local.peer().await;
    producer.open_producer(1, "t").await;
    for sequence in 1..=COUNT {
        producer.send(publish(sequence, 60 * KIB)).await;
        assert!(matches!(producer.next().await, Some(Frame::Confirmed { .. })));
    }
    let mut lazy = local.peer().await;
    lazy.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    // The clock goes on once nobody has anything to do.
    sleep(Duration::from_secs(1)).await;
    let waiting = local.broker.in_use().delivery_bytes as usize;
    let held = held_back(&local.broker, "delivery_bytes_max");
    // Whoever reads gets everything all the same.
    let mut got = 0;
    while got < COUNT {
        if let Some(Frame::Deliver { batch, .. }) = lazy.next().await {
            got += batch.records.count() as u64;
        }
    }
    (waiting, held)
}

#[tokio::test(start_paused = true)]
async fn promise_9_delivery_bytes_max_bounds_what_waits_for_one_stream() {
    let (waiting, held) = waiting_for_a_lazy_one(128 * KIB).await;
    assert!(waiting <= (128 + 2 * 64) * KIB && held > 0, "{waiting} bytes, held back {held} times");
    let (waiting, held) = waiting_for_a_lazy_one(16 * MIB).await;
    assert!(waiting > 2 * MIB && held == 0, "{waiting} bytes, held back {held} times");
}

#[tokio::test(start_paused = true)]
async fn promise_9_half_read_frames_beyond_partial_bytes_free_are_counted() {
    for (partial_bytes_free, is_counted) in [(16 * KIB, true), (256 * KIB, false)] {
        let local = Local::start(BrokerSettings { partial_bytes_free, ..Served::settings() }).await;
        let mut peer = local.peer().await;
        let whole = bytes_of(&publish(1, 60 * KIB));
        peer.send_bytes(&whole[..6 * KIB]).await.expect("sent");
        sleep(Duration::from_secs(1)).await;
        let counted = local.broker.in_use().partial_bytes;
        assert_eq!(counted > 0, is_counted, "{partial_bytes_free}: {counted}");
    }
}

#[tokio::test(start_paused = true)]
async fn publishers_that_wait_for_confirms_are_counted_by_the_limit() {
    let one = 68 * KIB;
    for (limit, of_stream, in_all) in
        [("publish_bytes_max", one, 64 * MIB), ("publish_bytes_total_max", 64 * MIB, one)]
    {
        let (store, gate) = Gated::new(MemoryStore::new(64 << 20), true);
        let settings = BrokerSettings {
            publish_bytes_max: of_stream as u64,
            publish_bytes_total_max: in_all,
            ..small()
        };
        let local = Local::on(store, settings).await;
        let mut peer = local.peer().await;
        peer.open_producer(1, "t").await;
        assert_eq!(held_back(&local.broker, limit), 0);
        gate.send_replace(false);
        for sequence in 1..=3 {
            peer.send(publish(sequence, 60 * KIB)).await;
        }
        sleep(Duration::from_secs(1)).await;
        // It is the next publish that waits.
        peer.send(publish(4, 60 * KIB)).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(held_back(&local.broker, limit), 1, "{limit}");
        gate.send_replace(true);
        let mut confirmed = 0;
        while confirmed < 4 {
            match peer.next().await {
                Some(Frame::Confirmed { ranges, .. }) => {
                    confirmed += ranges.iter().map(|range| range.count).sum::<u64>();
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promise_9_inbox_entries_max_holds_sessions_back_until_the_topic_has_heard_them() {
    for (inbox_entries_max, is_held) in [(1, true), (8192, false)] {
        let local = Local::start(BrokerSettings { inbox_entries_max, ..Served::settings() }).await;
        let mut peer = local.peer().await;
        peer.open_producer(1, "t").await;
        for sequence in 1..=20 {
            peer.send(publish(sequence, 10)).await;
            assert!(matches!(peer.next().await, Some(Frame::Confirmed { .. })));
        }
        let held = held_back(&local.broker, "inbox_entries_max");
        assert_eq!(held > 0, is_held, "{inbox_entries_max}: {held}");
    }
}

/// Of a broker with 60 messages of 60 KiB for a consumer that reads so many bytes each ten seconds, an hour long: after
/// how many of these it was cut off.
async fn cut_off_after(local: &Local, bytes: usize) -> Option<u64> {
    let mut producer = local.peer().await;
    producer.open_producer(1, "t").await;
    for sequence in 1..=60 {
        producer.send(publish(sequence, 60 * KIB)).await;
        assert!(matches!(producer.next().await, Some(Frame::Confirmed { .. })));
    }
    drop(producer);
    let mut slow = local.peer().await;
    slow.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    for round in 1..=360 {
        sleep(Duration::from_secs(10)).await;
        if local.broker.in_use().streams == 0 {
            return Some(round);
        }
        slow.read(bytes).await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_reads_messages_by_drops_is_cut_off_and_they_are_given_back() {
    for (slow_read_stalls, rounds) in [(10, 30..=35), (2, 6..=11)] {
        let settings = BrokerSettings { slow_read_stalls, ..small() };
        let local = Local::start(settings).await;
        let cut = cut_off_after(&local, 1_000).await;
        assert!(cut.is_some_and(|cut| rounds.contains(&cut)), "{cut:?}");
        let told = local.broker.refusals().into_iter().find(|(_, count)| *count > 0);
        assert_eq!(told, Some((RefusalCode::PeerTimeout, 1)));
        assert_eq!(local.broker.in_use().delivery_bytes, 0);
        // What it had is others' at once.
        let mut next = local.peer().await;
        next.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
        let mut got = 0;
        while got < 60 {
            let answer = timeout(Duration::from_secs(1), next.next()).await.expect("at once");
            if let Some(Frame::Deliver { batch, .. }) = answer {
                got += batch.records.count();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_messages_over_a_slow_line_is_not_cut_off() {
    // 256 KiB in less than five minutes, which runs of 1 MiB would take four times as long for.
    let model = ModelSettings { run_bytes_max: MIB, ..ModelSettings::default() };
    let settings = BrokerSettings { model, frame_bytes_max: 2 << 20, ..small() };
    let local = Local::start(settings).await;
    assert_eq!(cut_off_after(&local, 10 * KIB).await, None);
}

#[tokio::test(start_paused = true)]
async fn promise_9_channel_runs_max_is_counted_when_it_is_reached() {
    let model = ModelSettings { channel_runs_max: 8, ..ModelSettings::default() };
    let local = Local::start(BrokerSettings { model, ..Served::settings() }).await;
    let mut peer = local.peer().await;
    peer.open_producer(1, "t").await;
    let bodies = [[7_u8].as_slice(); 40];
    peer.publish(1, 1, &bodies).await;
    peer.send(RawPeer::subscribe(1, "t", "c", CREDIT)).await;
    while !matches!(peer.next().await, Some(Frame::Deliver { .. })) {}
    let reached = || held_back(&local.broker, "channel_runs_max");
    for round in 1..=3 {
        assert_eq!(reached(), round - 1);
        // Every second one of so many is settled: what is new waits until the rest is.
        let first = 1 + 40 * (round - 1);
        let odd = |tag| Settlement {
            tags: TagRange { first: Tag(tag), last: Tag(tag) },
            verdict: Verdict::Ack,
        };
        let settlements = (first..first + 40).step_by(2).map(odd).collect();
        peer.send(Frame::Settle { handle: 1, request: 1, settlements }).await;
        while !matches!(peer.next().await, Some(Frame::Settled { .. })) {}
        let _confirmed = peer.publish(1, 40 * round + 1, &bodies).await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(reached(), round, "and it is counted once");
        let rest = TagRange { first: Tag(first), last: Tag(first + 39) };
        let settlements = vec![Settlement { tags: rest, verdict: Verdict::Ack }];
        peer.send(Frame::Settle { handle: 1, request: 2, settlements }).await;
        while !matches!(peer.next().await, Some(Frame::Deliver { .. })) {}
    }
}
