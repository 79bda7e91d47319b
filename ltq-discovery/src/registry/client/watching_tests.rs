//! What a watch makes of registries that fall silent, refuse, or come late.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    lies_tests::{Liar, Victim, node, within},
    tests::{Served, until},
    *,
};
use crate::{
    Interest,
    registry::{
        link::Link,
        protocol::{Ask, GoodbyeCode, Part, PlainNode, Say},
    },
};

/// The next connection of a watch, which is told of this one node.
async fn told_of(liar: &mut Liar, id: &str) -> Victim {
    let mut victim = liar.victim(1).await;
    let watch = loop {
        if let Ask::Watch { watch, .. } = victim.hear().await {
            break watch;
        }
    };
    let node = PlainNode::of(&node(id));
    let told = Part::Node { node, topics: None, is_suspected: false, more: false };
    for part in [Part::Anew, told, Part::Complete] {
        victim.say(Say::Told { watch, part }).await;
    }
    victim
}

#[tokio::test(start_paused = true)]
async fn each_time_that_a_registry_falls_silent_the_loss_is_told_once() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let watching = registries.watch(&Interest::Nodes);
    let (watch, mut victim) = tokio::join!(within(watching), told_of(&mut liar, "a"));
    let mut watch = watch.unwrap();
    assert_eq!(within(watch.changed()).await.unwrap().len(), 1);
    for time in 1..=3 {
        let silent = Instant::now();
        // It reads all that it is told.
        let reads = async { while victim.link.ear.hear::<Ask>().await.is_ok() {} };
        let (lost, ()) = tokio::join!(within(watch.changed()), within(reads));
        assert!(lost.is_err(), "the {time}. time: {lost:?}");
        assert!(silent.elapsed() <= Duration::from_secs(10), "{:?}", silent.elapsed());
        // It is back, with nothing new; who asks learns nothing by that.
        let back = async {
            victim = told_of(&mut liar, "a").await;
            victim.say(Say::Beat).await;
            sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            told = watch.changed() => panic!("{told:?}"),
            () = back => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_refuses_does_not_end_the_wait_for_another() {
    let mut liar = Liar::start().await;
    let network = liar.network.clone();
    let registries = liar.builder().registry("in-process://late").build().unwrap();
    let watching = registries.watch(&Interest::Nodes);
    let refusing = async {
        let connection = liar.listener.accept().await.unwrap();
        let mut link = Link::new(connection.accept_stream().await.unwrap().unwrap());
        link.ear.hear::<Ask>().await.unwrap();
        let (code, detail) = (GoodbyeCode::Unauthorized, "for a test".to_owned());
        link.mouth.say(&Say::Goodbye { code, detail }).unwrap();
        link.mouth.send_some().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        (Served::start(&network, "late").await, link)
    };
    let (watch, _late) = tokio::join!(within(watching), refusing);
    assert!(within(watch.unwrap().changed()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_registry_told_counts_for_thirty_beats_beside_another() {
    let mut liar = Liar::start().await;
    let _other = Served::start(&liar.network, "other").await;
    let registries = liar.builder().registry("in-process://other").build().unwrap();
    let watching = registries.watch(&Interest::Nodes);
    let (watch, victim) = tokio::join!(within(watching), told_of(&mut liar, "a"));
    let mut watch = watch.unwrap();
    until(&mut watch, |nodes| nodes.iter().any(|node| !node.is_suspected())).await;
    drop((victim, liar));
    let lost = Instant::now();
    until(&mut watch, |nodes| nodes.iter().any(|node| node.is_suspected())).await;
    assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
    until(&mut watch, |nodes| nodes.is_empty()).await;
    let beats = lost.elapsed().as_secs_f64();
    assert!((29.5..=30.5).contains(&beats), "{beats}");
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_watch_is_not_made_to_wait_for_what_failed_before() {
    let liar = Liar::start().await;
    let network = liar.network.clone();
    let long = Duration::from_secs(1_000);
    let builder = Registries::builder(network.clone()).registry("in-process://late");
    let registries = builder.retry(long, long).patience(long).build().unwrap();
    let first = registries.clone();
    let first = tokio::spawn(async move { first.watch(&Interest::Nodes).await });
    sleep(Duration::from_secs(10)).await;
    let _late = Served::start(&network, "late").await;
    let asked = Instant::now();
    within(registries.watch(&Interest::Everything)).await.unwrap();
    within(first).await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}
