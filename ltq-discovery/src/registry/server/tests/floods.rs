//! Who says more than it may.

use super::*;
use crate::registry::protocol::Parts;

#[tokio::test(start_paused = true)]
async fn who_floods_is_told_so_counted_and_gone_and_others_go_on() {
    let settings = RegistryServerSettings { frames_max: 50, ..Default::default() };
    let served = serve(settings).await;
    let well = served.registries("any").watch(&Interest::Nodes).await.unwrap();
    let plain = PlainNode::of(&node("n", &[]));
    let announce = [
        Ask::Announce { node: plain, topics_known: true },
        Ask::Topics(Vec::new()),
        Ask::Announced,
    ];
    let change = Ask::Change { state: None, has: Vec::new(), lacks: Vec::new() };
    let watch = [Ask::Watch { watch: 0, interest: Interest::Nodes }, Ask::Unwatch { watch: 0 }];
    let floods = [
        vec![Ask::Beat],
        vec![Ask::Heartbeat { load: 1 }],
        vec![change],
        vec![Ask::Withdraw],
        announce.to_vec(),
        watch.to_vec(),
    ];
    for (number, flood) in floods.iter().enumerate() {
        let mut link = served.welcomed("any").await;
        for ask in flood.iter().cycle().take(60) {
            link.mouth.say(ask).unwrap();
        }
        let sent =
            async { while link.mouth.unsent() > 0 && link.mouth.send_some().await.is_ok() {} };
        timeout(Duration::from_secs(20), sent).await.expect("it is taken, or the end");
        let (code, detail) = loop {
            match hear(&mut link).await.unwrap() {
                Say::Goodbye { code, detail } => break (code, detail),
                Say::Taken | Say::NotAnnounced | Say::Told { .. } => {}
                other => panic!("it said {other:?}"),
            }
        };
        assert_eq!(code, GoodbyeCode::Flooding, "{detail}");
        assert!(
            detail
                .contains("more than 50 frames, or what takes as much work, came within a second"),
            "{detail}"
        );
        assert_eq!(served.server.figures().flooding, number as u64 + 1);
    }
    // Who keeps within it may go on for ever, and who watched was in nobody's way.
    let mut link = served.welcomed("any").await;
    for _ in 0..5 {
        for _ in 0..40 {
            say(&mut link, &Ask::Beat).await;
        }
        sleep(Duration::from_millis(1_100)).await;
    }
    say(&mut link, &Ask::Withdraw).await;
    assert_eq!(hear(&mut link).await.unwrap(), Say::NotAnnounced);
    assert_eq!((served.server.figures().flooding, served.server.connections()), (6, 2));
    drop(well);
}

#[tokio::test(start_paused = true)]
async fn a_node_of_many_topics_is_no_flood_and_its_topics_one_by_one_are() {
    let settings = RegistryServerSettings { frames_max: 20, ..Default::default() };
    let served = serve(settings).await;
    let names: Vec<_> = (0..50_000).map(|n| format!("a-topic-with-a-long-name-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let many = node("many", &names);
    let announced = served.registries("any").announce(many.clone()).await.unwrap();
    assert_eq!(served.server.look(|registry| registry.counts().topics), 50_000);
    let mut link = served.welcomed("any").await;
    let topics = many.topics().unwrap();
    let mut parts = Parts::of(topics);
    let first = parts.next_part();
    link.mouth.say(&Ask::Announce { node: PlainNode::of(&many), topics_known: true }).unwrap();
    for topic in first.chunks(3).take(30) {
        link.mouth.say(&Ask::Topics(topic.to_vec())).unwrap();
    }
    let sent = async { while link.mouth.unsent() > 0 && link.mouth.send_some().await.is_ok() {} };
    timeout(Duration::from_secs(20), sent).await.expect("it is taken, or the end");
    assert!(goodbye(&mut link).await.contains("more than 20 frames"));
    drop(announced);
}
