use std::time::Duration;

use ltq_client::{
    Durability, Keep, Outcome, RefusalCode, RequestError, RetentionChange, StartAt, TopicOptions,
    UnknownCause,
};
use ltq_core::{AdminRequest, AdminResponse, NodeStats, Refusal, protocol::Frame};

use crate::fake::{Fake, Peer, within};

async fn admin(peer: &mut Peer) -> (u32, AdminRequest) {
    match peer.recv().await {
        Frame::Admin { request, action } => (request, action),
        other => panic!("{other:?} is no operator's request"),
    }
}

async fn answer(peer: &mut Peer, request: u32, answer: AdminResponse) {
    peer.send(&Frame::AdminAnswered { request, result: Ok(answer) }).await;
}

#[tokio::test]
async fn operators_requests_say_what_they_mean() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let ops = client.admin();
    let options = TopicOptions { durability: Some(Durability::Os), ..TopicOptions::default() };
    let change = RetentionChange { keep: Some(Keep::All), ..RetentionChange::default() };
    let asking = tokio::spawn(async move {
        ops.create_topic("t", options).await?;
        ops.alter_topic("t", change).await?;
        ops.pause_topic("t").await?;
        ops.resume_topic("t").await?;
        ops.create_channel("t", "c", StartAt::Latest).await?;
        ops.pause_channel("t", "c").await?;
        ops.resume_channel("t", "c").await?;
        ops.delete_channel("t", "c").await?;
        ops.delete_topic("t").await?;
        ops.stats().await
    });
    let (topic, channel) = ("t".try_into().unwrap(), "c".try_into().unwrap());
    let (topic, channel): (ltq_client::TopicName, ltq_client::ChannelName) = (topic, channel);
    let expected = [
        AdminRequest::CreateTopic { topic: topic.clone(), options },
        AdminRequest::AlterTopic { topic: topic.clone(), change },
        AdminRequest::PauseTopic { topic: topic.clone(), paused: true },
        AdminRequest::PauseTopic { topic: topic.clone(), paused: false },
        AdminRequest::CreateChannel {
            topic: topic.clone(),
            channel: channel.clone(),
            start: StartAt::Latest,
        },
        AdminRequest::PauseChannel { topic: topic.clone(), channel: channel.clone(), paused: true },
        AdminRequest::PauseChannel {
            topic: topic.clone(),
            channel: channel.clone(),
            paused: false,
        },
        AdminRequest::DeleteChannel { topic: topic.clone(), channel },
        AdminRequest::DeleteTopic { topic },
    ];
    for wanted in expected {
        let (request, action) = admin(&mut peer).await;
        assert_eq!(action, wanted);
        answer(&mut peer, request, AdminResponse::Done).await;
    }
    let (request, action) = admin(&mut peer).await;
    assert_eq!(action, AdminRequest::Stats);
    let stats = NodeStats { version: "9".to_owned(), ..NodeStats::default() };
    answer(&mut peer, request, AdminResponse::Stats(Box::new(stats.clone()))).await;
    assert_eq!(within(asking).await.unwrap().unwrap(), stats);
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let ops = client.admin();
    let (result, ()) = tokio::join!(ops.show_topic("t"), async {
        let (request, _) = admin(&mut peer).await;
        let refusal = Refusal::new(RefusalCode::NoSuchTopic, "t");
        peer.send(&Frame::AdminAnswered { request, result: Err(refusal) }).await;
    });
    let error = result.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::NoSuchTopic);
    assert_eq!(error.outcome(), Outcome::Nothing);

    let (result, ()) = tokio::join!(client.producer("t"), async {
        let Frame::OpenProducer { handle, .. } = peer.recv().await else { panic!() };
        let refusal = Refusal::new(RefusalCode::NoSuchTopic, "t");
        peer.send(&Frame::ProducerRefused { handle, refusal }).await;
    });
    assert_eq!(result.unwrap_err().refusal().unwrap().code, RefusalCode::NoSuchTopic);

    let (result, ()) = tokio::join!(client.consumer("t", "c"), async {
        let Frame::Subscribe { handle, .. } = peer.recv().await else { panic!() };
        let refusal = Refusal::new(RefusalCode::NoSuchChannel, "c");
        peer.send(&Frame::SubscribeRefused { handle, refusal }).await;
    });
    assert_eq!(result.unwrap_err().refusal().unwrap().code, RefusalCode::NoSuchChannel);
}

#[tokio::test]
async fn an_answer_of_another_kind_is_no_answer() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let ops = client.admin();
    let (result, ()) = tokio::join!(ops.list_topics(), async {
        let (request, _) = admin(&mut peer).await;
        answer(&mut peer, request, AdminResponse::Done).await;
    });
    assert!(matches!(result, Err(RequestError::WrongAnswer { .. })));
}

#[tokio::test]
async fn names_that_are_none_are_refused_here() {
    let mut fake = Fake::start().await;
    let (client, _peer) = fake.connected().await;
    assert!(matches!(client.producer("a b").await, Err(RequestError::Name(_))));
    assert!(matches!(client.consumer("ok", "").await, Err(RequestError::Name(_))));
    let named = client.producer_builder("ok").name("no#ephemeral").open().await;
    assert!(matches!(named, Err(RequestError::Name(_))));
    assert!(matches!(client.admin().delete_topic("").await, Err(RequestError::Name(_))));
    let timeout = client.consumer_builder("ok", "ok").timeout(Duration::ZERO).open().await;
    assert!(matches!(timeout, Err(RequestError::Option { .. })));
}

#[tokio::test]
async fn promise_15_a_cut_leaves_a_change_unknown_and_repeats_a_question() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (changes, questions) = (client.admin(), client.admin());
    let change = tokio::spawn(async move { changes.delete_topic("t").await });
    admin(&mut peer).await;
    let question = tokio::spawn(async move { questions.list_topics().await });
    admin(&mut peer).await;
    drop(peer);
    let mut peer = fake.welcome().await;
    let (request, action) = admin(&mut peer).await;
    assert_eq!(action, AdminRequest::ListTopics);
    answer(&mut peer, request, AdminResponse::Topics(Vec::new())).await;
    assert!(within(question).await.unwrap().unwrap().is_empty());
    let error = within(change).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, RequestError::Unknown { cause: UnknownCause::ConnectionLost, .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn promise_15_requests_without_an_answer_end_by_their_deadline() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().request_timeout(Duration::from_secs(2));
    let (client, mut peer) = fake.connect(builder).await;
    let start = tokio::time::Instant::now();
    let ops = client.admin();
    let (producer, consumer, change, ()) = tokio::join!(
        client.producer("orders"),
        client.consumer("orders", "billing"),
        ops.delete_topic("t"),
        async {
            for _ in 0..3 {
                peer.recv().await;
            }
        }
    );
    assert_eq!(start.elapsed().as_secs(), 2);
    for error in [producer.unwrap_err(), consumer.unwrap_err(), change.unwrap_err()] {
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    }
    // What was given up is closed.
    let mut closed = 0;
    while closed < 2 {
        match peer.recv().await {
            Frame::CloseProducer { .. } | Frame::Unsubscribe { .. } => closed += 1,
            other => panic!("{other:?}"),
        }
    }
}
