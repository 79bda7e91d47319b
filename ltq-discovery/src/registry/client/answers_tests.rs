//! What a client makes of each answer of a registry, and of none.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    lies_tests::{Liar, Victim, node, within},
    *,
};
use crate::{
    Announcement, DiscoveryError, Interest, NodeInfo,
    registry::{
        link::Link,
        protocol::{Ask, Part, PlainNode, REGISTRY_PROTOCOL, Say},
    },
};

type Handle = Box<dyn Announcement>;

/// A node that a registry has taken in, or not, as `answer` says.
async fn announced(liar: &mut Liar, registries: &Registries, answer: Say) -> (Handle, Victim) {
    let announcing = registries.announce(node("n"));
    let answering = async {
        let mut victim = liar.victim(1).await;
        victim.hear_until(|ask| *ask == Ask::Announced).await;
        victim.say(answer).await;
        victim
    };
    let (announced, victim) = tokio::join!(within(announcing), answering);
    let Announced::Known(announcement) = announced.unwrap() else { panic!() };
    (announcement, victim)
}

/// The next connection, over which it is announced once more, and answered so.
async fn again(liar: &mut Liar, answer: Say) -> Victim {
    let mut victim = liar.victim(1).await;
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    victim.say(answer).await;
    victim
}

fn not_taken(superseded: bool) -> Say {
    Say::NotTaken { superseded, detail: "for a test".to_owned() }
}

fn has_it(registries: &Registries) -> bool {
    registries.announced().all(|(_, has)| has)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_falls_silent_is_taken_for_gone_and_told_anew() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let (_announcement, mut victim) = announced(&mut liar, &registries, Say::Taken).await;
    until("it has the node", || has_it(&registries)).await;
    let silent = Instant::now();
    // It reads all that it is told.
    let reads = async { while victim.link.ear.hear::<Ask>().await.is_ok() {} };
    within(reads).await;
    assert!(silent.elapsed() <= Duration::from_secs(10), "{:?}", silent.elapsed());
    until("that is known", || !has_it(&registries)).await;
    drop(again(&mut liar, Say::Taken).await);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_waits_for_no_registry_that_never_answered() {
    let liar = Liar::start().await;
    let patient = Duration::from_secs(1_000);
    let builder = liar.builder().connect_timeout(patient).patience(Duration::from_secs(1));
    let announced = within(builder.build().unwrap().announce(node("n"))).await.unwrap();
    let Announced::Known(announcement) = announced else { panic!() };
    let began = Instant::now();
    announcement.withdraw().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_may_have_the_node_is_named_when_it_does_not_hear_of_the_withdrawal() {
    let taken_first = |answer: Option<Say>| async move {
        let mut liar = Liar::start().await;
        let registries = liar.builder().build().unwrap();
        let (announcement, victim) = announced(&mut liar, &registries, Say::Taken).await;
        drop(victim);
        if let Some(answer) = answer {
            let mut victim = again(&mut liar, answer).await;
            while victim.link.ear.hear::<Ask>().await.is_ok() {}
        }
        within(announcement.withdraw()).await
    };
    // It has the node as it was before.
    let error = taken_first(Some(not_taken(false))).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NotWithdrawn { .. }), "{error}");
    let error = taken_first(None).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NotWithdrawn { .. }), "{error}");
    // It has another one.
    taken_first(Some(not_taken(true))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_was_lost_before_it_answered_may_have_the_node() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().patience(Duration::from_secs(1)).build().unwrap();
    let announcing = registries.announce(node("n"));
    let losing = async { liar.victim(1).await.hear_until(|ask| *ask == Ask::Announced).await };
    let (announced, ()) = tokio::join!(within(announcing), losing);
    let Announced::Known(announcement) = announced.unwrap() else { panic!() };
    let error = within(announcement.withdraw()).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NotWithdrawn { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_only_registry_refuses_is_not_announced_and_its_operator_told_why() {
    for superseded in [false, true] {
        let mut liar = Liar::start().await;
        let registries = liar.builder().patience(Duration::from_secs(1_000)).build().unwrap();
        let announcing = registries.announce(node("n"));
        let (announced, _victim) =
            tokio::join!(within(announcing), again(&mut liar, not_taken(superseded)));
        let error = announced.unwrap_err();
        assert!(matches!(&error, DiscoveryError::Refused { why, .. } if why == "for a test"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_newer_one_took_the_place_of_is_told_again_seldom() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let (mut announcement, mut victim) = announced(&mut liar, &registries, Say::Taken).await;
    until("it has the node", || has_it(&registries)).await;
    let other = node("n").with_version("2").unwrap();
    announcement.update(other).await.unwrap();
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    victim.say(not_taken(true)).await;
    let refused = Instant::now();
    until("it has another one", || !has_it(&registries)).await;
    drop(again(&mut liar, Say::Taken).await);
    assert!(refused.elapsed() >= Duration::from_secs(5), "{:?}", refused.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_connection_that_lasted_the_next_one_is_tried_soon() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let (_announcement, victim) = announced(&mut liar, &registries, Say::Taken).await;
    drop(victim);
    for _ in 0..10 {
        drop(again(&mut liar, Say::Taken).await);
    }
    let mut victim = again(&mut liar, Say::Taken).await;
    for _ in 0..6 {
        victim.say(Say::Beat).await;
        victim.hear_until(|ask| matches!(ask, Ask::Heartbeat { .. })).await;
    }
    drop(victim);
    let lost = Instant::now();
    drop(again(&mut liar, Say::Taken).await);
    assert!(lost.elapsed() <= Duration::from_millis(500), "{:?}", lost.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_drops_an_announcement_knows_that_no_registry_has_the_node() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let (announcement, _victim) = announced(&mut liar, &registries, Say::Taken).await;
    until("it has the node", || has_it(&registries)).await;
    drop(announcement);
    assert!(!has_it(&registries));
}

#[tokio::test(start_paused = true)]
async fn a_topic_with_more_channels_than_a_frame_takes_is_told_with_all_of_the_node() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let with = |channels: usize| -> NodeInfo {
        let name = |n| format!("a-channel-with-a-name-that-is-rather-long-{n}").parse().unwrap();
        let channels = (0..channels).map(name).collect();
        node("n").with_topics([("orders".parse().unwrap(), channels)].into())
    };
    let announcing = registries.announce(with(1));
    let (announced, mut victim) = tokio::join!(within(announcing), again(&mut liar, Say::Taken));
    let Announced::Known(mut announcement) = announced.unwrap() else { panic!() };
    announcement.update(with(3_000)).await.unwrap();
    let told = async {
        loop {
            match victim.hear().await {
                Ask::Heartbeat { .. } => {}
                told => break told,
            }
        }
    };
    let told = within(told).await;
    assert!(matches!(told, Ask::Announce { .. }), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_before_all_was_told_is_not_there() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let watching = registries.watch(&Interest::Nodes);
    let told = |id: &str| {
        let node = PlainNode::of(&node(id));
        Part::Node { node, topics: None, is_suspected: false, more: false }
    };
    let telling = async {
        let mut victim = liar.victim(1).await;
        let watch = loop {
            if let Ask::Watch { watch, .. } = victim.hear().await {
                break watch;
            }
        };
        let parts = [
            Part::Anew,
            told("a"),
            told("b"),
            Part::Gone { id: "a".to_owned(), withdrawn: None },
            Part::Complete,
        ];
        for part in parts {
            victim.say(Say::Told { watch, part }).await;
        }
        victim
    };
    let (watch, _victim) = tokio::join!(within(watching), telling);
    let nodes = within(watch.unwrap().changed()).await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.id().as_str()).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_another_version_or_with_a_heartbeat_that_is_none_is_named() {
    let version = REGISTRY_PROTOCOL;
    for (version, heartbeat_ms, why) in [
        (version + 1, 1_000, "another version"),
        (version, 0, "a heartbeat that is none"),
        (version, 99, "a heartbeat that is none"),
        (version, 3_600_001, "a heartbeat that is none"),
    ] {
        let mut liar = Liar::start().await;
        let patience = Duration::from_millis(10);
        let registries = liar.builder().patience(patience).build().unwrap();
        let welcoming = async {
            let connection = liar.listener.accept().await.unwrap();
            let mut link = Link::new(connection.accept_stream().await.unwrap().unwrap());
            link.ear.hear::<Ask>().await.unwrap();
            link.mouth.say(&Say::Welcome { version, registry: 1, heartbeat_ms }).unwrap();
            link.mouth.send_some().await.unwrap();
            (link, connection)
        };
        let (watch, _held) = tokio::join!(registries.watch(&Interest::Nodes), welcoming);
        let error = watch.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
