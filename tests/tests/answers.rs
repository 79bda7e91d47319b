//! Promises 9 and 10: answers to operators' requests that are not read, and requests of many at once.

use std::time::Duration;

use ltq_core::{
    Address, AdminRequest, AdminResponse, BrokerSettings, Connection, RefusalCode, TopicName,
    Transport, protocol::Frame,
};
use ltq_tests::{Local, RawPeer, Served};
use ltq_transport::InProcess;
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

/// A stream whose hello is accepted.
async fn stream(connection: &dyn Connection) -> RawPeer {
    let mut peer = RawPeer::over(connection.open_stream().await.expect("a stream"));
    peer.greet(RawPeer::hello()).await;
    peer
}

/// How many of so many answers are lists, and how many say that there were too many requests.
async fn answered(peer: &mut RawPeer, count: u32) -> (u32, u32) {
    let mut answers = (0, 0);
    for _ in 0..count {
        match peer.next().await {
            Some(Frame::AdminAnswered { result: Ok(_), .. }) => answers.0 += 1,
            Some(Frame::AdminAnswered { result: Err(refusal), .. }) => {
                assert_eq!(refusal.code, RefusalCode::LimitReached);
                answers.1 += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_request_keeps_its_place_until_its_answer_is_encoded() {
    let settings =
        BrokerSettings { answer_bytes_max: 4 * KIB, requests_max: 8, ..Served::settings() };
    let local =
        with_topics(BrokerSettings { answer_bytes_per_connection_max: Some(64 << 20), ..settings })
            .await;
    let (transport, address) = (InProcess::multiplexed(), Address::new("in-process", "many"));
    let (listener, serving) = (transport.listen(&address).await.expect("it"), local.broker.clone());
    tokio::spawn(async move { serving.serve(listener).await });
    let connection = transport.connect(&address).await.expect("a connection");
    // The link takes some lists, one is encoded, and the others wait for that.
    let mut lazy = stream(&*connection).await;
    ask(&mut lazy, 8).await;
    settle().await;
    let mut other = stream(&*connection).await;
    ask(&mut other, 8).await;
    let (lists, refused) = answered(&mut other, 8).await;
    assert!(lists >= 1 && refused >= 2, "{lists} lists, {refused} refusals");
    // When these are read, all places are free.
    assert_eq!(answered(&mut lazy, 8).await, (8, 0));
    ask(&mut other, 8).await;
    assert_eq!(answered(&mut other, 8).await, (8, 0));
    // Who goes leaves nothing behind.
    ask(&mut lazy, 8).await;
    settle().await;
    drop((lazy, other, connection));
    settle().await;
    assert_eq!(local.broker.in_use().answer_bytes, 0);
    let mut last = local.peer().await;
    ask(&mut last, 8).await;
    assert_eq!(answered(&mut last, 8).await, (8, 0));
}
