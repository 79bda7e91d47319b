//! Promises 9 and 10: answers to operators' requests that are not read, and requests of many at once.

use std::time::Duration;

use ltq_core::{
    AdminRequest, AdminResponse, BrokerSettings, RefusalCode, TopicName, protocol::Frame,
};
use ltq_tests::{Local, RawPeer, Served};
use tokio::time::timeout;

const KIB: usize = 1 << 10;
const TOPICS: usize = 1_000;
/// What a list of them is made of, at least: names of 64 bytes.
const LIST_BYTES: usize = TOPICS * 64;

fn name(nth: usize) -> TopicName {
    TopicName::new(&format!("{nth:0>64}")).expect("a name")
}

async fn with_topics(settings: BrokerSettings) -> Local {
    let local = Local::start(settings).await;
    for nth in 0..TOPICS {
        let create = AdminRequest::CreateTopic { topic: name(nth), options: Default::default() };
        local.broker.admin(create).await.expect("a topic");
    }
    local
}

/// Asks for so many lists.
async fn ask(peer: &mut RawPeer, lists: u32) {
    for request in 0..lists {
        peer.send(Frame::Admin { request, action: AdminRequest::ListTopics }).await;
    }
}

fn held_back(local: &Local, limit: &str) -> u64 {
    let counts = local.broker.held_back();
    counts.into_iter().find(|(name, _)| *name == limit).expect("a limit").1
}

/// Time for everything that happens without a peer that reads.
async fn settle() {
    // The clock is paused: this passes when nothing else is to be done.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_lists_of_topics_that_are_not_read_count_what_they_hold_and_are_few() {
    let settings = BrokerSettings {
        answer_bytes_max: 32 * KIB,
        answer_bytes_per_connection_max: Some(128 * KIB),
        ..Served::settings()
    };
    let per_connection = 128 * KIB;
    let local = with_topics(settings).await;
    let mut lazy = Vec::new();
    for nth in 1..=8 {
        let mut peer = local.peer().await;
        ask(&mut peer, 16).await;
        settle().await;
        lazy.push(peer);
        let held = local.broker.in_use().answer_bytes as usize;
        // The limit is passed by one list; a list counts twice while it is being encoded.
        let most = nth * (per_connection + 3 * LIST_BYTES);
        assert!((nth * per_connection..=most).contains(&held), "{nth}: {held} bytes");
    }
    assert!(held_back(&local, "answer_bytes_per_connection_max") >= 8);
    // Those who do not read keep neither metrics nor others from their turns.
    let stats = timeout(Duration::from_secs(1), local.broker.stats()).await.expect("at once");
    assert_eq!(stats.topics.len(), TOPICS);
    let mut diligent = local.peer().await;
    ask(&mut diligent, 2).await;
    for _ in 0..2 {
        let answer = timeout(Duration::from_secs(1), diligent.next()).await.expect("at once");
        let Some(Frame::AdminAnswered { result: Ok(AdminResponse::Topics(names)), .. }) = answer
        else {
            panic!("{answer:?}")
        };
        assert_eq!(names.len(), TOPICS);
    }
    // Who reads after all gets all that it asked for.
    for peer in &mut lazy {
        for _ in 0..16 {
            let answer = peer.next().await;
            assert!(matches!(answer, Some(Frame::AdminAnswered { result: Ok(_), .. })));
        }
    }
    settle().await;
    assert_eq!(local.broker.in_use().answer_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_request_keeps_its_place_until_its_answer_is_encoded() {
    let settings =
        BrokerSettings { answer_bytes_max: 4 * KIB, requests_max: 4, ..Served::settings() };
    let local = with_topics(settings).await;
    let mut peer = local.peer().await;
    // One after the other, as what is asked while four are still to be made is refused in any case.
    for _ in 0..12 {
        ask(&mut peer, 1).await;
        settle().await;
    }
    // The link takes four, one is encoded, and four wait for that.
    let mut answers = (0, 0);
    for _ in 0..12 {
        match peer.next().await {
            Some(Frame::AdminAnswered { result: Ok(_), .. }) => answers.0 += 1,
            Some(Frame::AdminAnswered { result: Err(refusal), .. }) => {
                assert_eq!(refusal.code, RefusalCode::LimitReached);
                answers.1 += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, (9, 3));
    // All are read: there is room again, and who goes leaves nothing behind.
    ask(&mut peer, 12).await;
    settle().await;
    drop(peer);
    settle().await;
    let held = local.broker.in_use();
    assert_eq!(held.answer_bytes, 0, "who is gone holds nothing");
}
