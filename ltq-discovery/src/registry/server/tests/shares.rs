//! What one peer can take from the others: watches, work, and room for announcements.

use super::*;
use crate::registry::{protocol::Topic, state::SessionId};

/// One that is let in, as though it came from this address.
async fn from(served: &Served, last: u8) -> Held {
    served.welcomed_from(&format!("tcp://192.0.2.{last}:1")).await
}

/// Asks for a watch; how it was refused, if it was.
async fn watch(link: &mut Link, watch: u32) -> Option<String> {
    say(link, &Ask::Watch { watch, interest: Interest::Nodes }).await;
    loop {
        match hear(link).await.unwrap() {
            Say::NotWatched { code: GoodbyeCode::Full, detail, .. } => return Some(detail),
            Say::Told { watch: told, part: Part::Complete } if told == watch => return None,
            Say::Told { .. } => {}
            other => panic!("it said {other:?}"),
        }
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.expect(what);
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_address_has_three_quarters_of_all_watches_at_most() {
    let registry = RegistrySettings { watchers_max: 8, ..Default::default() };
    let served = serve(RegistryServerSettings { registry, ..Default::default() }).await;
    let (mut one, mut same) = (from(&served, 1).await, from(&served, 1).await);
    for number in 0..3 {
        assert_eq!(watch(&mut one, number).await, None);
        assert_eq!(watch(&mut same, number).await, None);
    }
    let refused = "this address has 6 watches already; 6 is the most, by watchers_max";
    assert_eq!(watch(&mut one, 3).await.as_deref(), Some(refused));
    assert_eq!(watch(&mut same, 3).await.as_deref(), Some(refused));
    let mut other = from(&served, 2).await;
    for number in 0..2 {
        assert_eq!(watch(&mut other, number).await, None, "there is room for others");
    }
    let refused = "all have 8 watches already; 8 is the most, by watchers_max";
    assert_eq!(watch(&mut other, 2).await.as_deref(), Some(refused));
    // What is asked anew takes no other place, what is given up makes room, and so does whoever goes.
    assert_eq!(watch(&mut one, 0).await, None);
    for number in [0, 3, 7] {
        say(&mut one, &Ask::Unwatch { watch: number }).await;
    }
    assert_eq!(watch(&mut other, 2).await, None);
    assert_eq!(served.server.look(Registry::watchers), 8);
    drop((one, same));
    until("they are gone", || served.server.connections() == 1).await;
    for number in 3..6 {
        assert_eq!(watch(&mut other, number).await, None);
    }
    drop(other);
    until("nothing is left", || served.server.0.places.lock().is_empty()).await;
    assert_eq!(served.server.look(Registry::watchers), 0);
}

/// Sends all of it, whatever is answered, and says how it was ended, if it was.
async fn flood(link: &mut Link, asks: impl IntoIterator<Item = Ask>) -> Option<String> {
    for ask in asks {
        link.mouth.say(&ask).unwrap();
    }
    // What comes after the others is answered last.
    link.mouth.say(&Ask::Withdraw).unwrap();
    loop {
        tokio::select! {
            biased;
            said = link.ear.hear() => match said.unwrap() {
                Say::Goodbye { code: GoodbyeCode::Flooding, detail } => return Some(detail),
                Say::NotAnnounced => return None,
                Say::Beat | Say::Told { .. } => {}
                other => panic!("it said {other:?}"),
            },
            sent = link.mouth.send_some() => sent.unwrap(),
            () = sleep(Duration::from_secs(20)) => panic!("no answer"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_opens_and_closes_watches_in_a_loop_floods_by_what_there_is_to_be_told() {
    let served = serve(RegistryServerSettings::default()).await;
    let names: Vec<_> = (0..20_000).map(|n| format!("topic-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut nodes = vec![node("wide", &names)];
    nodes.extend((0..1_599).map(|n| node(&format!("n{n}"), &[])));
    for (session, node) in nodes.iter().enumerate() {
        let from = SessionId(10_000 + session as u64);
        served.server.0.change(|registry, now| registry.announce(now, from, node)).unwrap();
    }
    let none = Interest::Topic("none".parse().unwrap());
    let watches = |interest: &Interest, count: usize| {
        let watch = Ask::Watch { watch: 0, interest: interest.clone() };
        [watch, Ask::Unwatch { watch: 0 }].into_iter().cycle().take(2 * count)
    };
    // A hundred frames for 1,600 nodes; and for all of 21,600 a quarter of those that there may be.
    for (interest, few, many) in [(&none, 18, 21), (&Interest::Everything, 3, 5)] {
        let mut well = served.welcomed("any").await;
        assert_eq!(flood(&mut well, watches(interest, few)).await, None, "{interest}");
        let mut link = served.welcomed("any").await;
        let ended = flood(&mut link, watches(interest, many)).await.expect("it is a flood");
        assert!(ended.contains("what takes as much work"), "{ended}");
        // A second later it may again.
        sleep(Duration::from_millis(1_100)).await;
        assert_eq!(flood(&mut well, watches(interest, few)).await, None, "{interest}");
    }
    assert_eq!(served.server.figures().flooding, 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_one_name_after_another_floods() {
    let settings = RegistryServerSettings { frames_max: 100, ..Default::default() };
    let served = serve(settings).await;
    let announce = |id: &str| {
        let node = PlainNode::of(&node(id, &[]));
        [Ask::Announce { node, topics_known: false }, Ask::Announced]
    };
    for (ids, is_flood) in [(1, false), (10, true)] {
        let mut link = served.welcomed("any").await;
        for n in 0..10 {
            for ask in announce(&format!("n{}", n % ids)) {
                link.mouth.say(&ask).unwrap();
            }
        }
        let mut taken = 0;
        let ended = loop {
            tokio::select! {
                said = link.link.ear.hear() => match said.unwrap() {
                    Say::Taken => taken += 1,
                    Say::Goodbye { code: GoodbyeCode::Flooding, .. } => break true,
                    Say::Beat => {}
                    other => panic!("it said {other:?}"),
                },
                sent = link.link.mouth.send_some() => sent.unwrap(),
            }
            if taken == 10 {
                break false;
            }
        };
        assert_eq!(ended, is_flood, "{taken} of {ids} names were taken in");
    }
}

/// The beginning of an announcement of so many topics.
async fn begin(link: &mut Link, id: &str, topics: usize) {
    let plain = PlainNode::of(&node(id, &[]));
    say(link, &Ask::Announce { node: plain, topics_known: true }).await;
    more(link, 0, topics).await;
}

async fn more(link: &mut Link, from: usize, topics: usize) {
    let topic = |n: usize| Topic {
        name: format!("t{n}").parse().unwrap(),
        channels: Vec::new(),
        adds: false,
    };
    say(link, &Ask::Topics((from..from + topics).map(topic).collect())).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_halves_of_announcements_are_bounded_in_all_and_by_address() {
    let registry =
        RegistrySettings { topics_max: 30, channels_max: 30, ..RegistrySettings::default() };
    let served = serve(RegistryServerSettings { registry, ..Default::default() }).await;
    let (mut one, mut same) = (from(&served, 1).await, from(&served, 1).await);
    begin(&mut one, "one", 40).await;
    begin(&mut same, "same", 20).await;
    more(&mut same, 20, 1).await;
    let full = |whose: &str, has: usize, max: usize| {
        format!(
            "{whose} {has} topics and channels of announcements under way already; {max} is the most, by topics_max and channels_max"
        )
    };
    assert_eq!(goodbye(&mut same).await, full("this address has", 60, 60));
    // An honest node of another address is taken in all the same.
    let mut well = from(&served, 2).await;
    begin(&mut well, "well", 20).await;
    say(&mut well, &Ask::Announced).await;
    assert_eq!(hear(&mut well).await.unwrap(), Say::Taken);
    // And what is there in all has a bound.
    let mut same = from(&served, 1).await;
    begin(&mut same, "same", 20).await;
    let mut third = from(&served, 3).await;
    begin(&mut third, "third", 21).await;
    assert_eq!(goodbye(&mut third).await, full("all have", 60, 80));
    // Whoever begins anew, or goes, gives back what it had.
    begin(&mut one, "one", 40).await;
    drop((one, same));
    until("they are gone", || served.server.connections() == 1).await;
    let mut third = from(&served, 3).await;
    begin(&mut third, "third", 60).await;
    drop((well, third));
    until("nothing is left", || served.server.0.places.lock().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_announcement_of_which_nothing_more_comes_is_ended_and_one_that_is_long_is_not() {
    let served = serve(RegistryServerSettings::default()).await;
    let (mut stuck, mut long) = (served.welcomed("any").await, served.welcomed("any").await);
    begin(&mut stuck, "stuck", 40).await;
    begin(&mut long, "long", 64).await;
    let mut ended = None;
    for second in 1..30 {
        sleep(Duration::from_secs(1)).await;
        if ended.is_none() {
            match timeout(Duration::from_millis(10), hear(&mut stuck)).await {
                Ok(said) => ended = Some((second, said.unwrap())),
                // A few topics are not much more than none.
                Err(_) => more(&mut stuck, 40 + second, 1).await,
            }
        }
        let part = if second % 3 == 0 { 64 } else { 0 };
        more(&mut long, 64 * second, part).await;
    }
    let Some((second, Say::Goodbye { code: GoodbyeCode::Silent, detail })) = ended else {
        panic!("{ended:?}")
    };
    assert!((4..=6).contains(&second), "{second}");
    assert!(detail.contains("node stuck") && detail.contains("for 4 beats"), "{detail}");
    say(&mut long, &Ask::Announced).await;
    assert_eq!(hear(&mut long).await.unwrap(), Say::Taken);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_tells_itself_anew_for_long_is_not_suspected_meanwhile() {
    let served = serve(RegistryServerSettings::default()).await;
    let mut link = served.welcomed("any").await;
    begin(&mut link, "n", 64).await;
    say(&mut link, &Ask::Announced).await;
    assert_eq!(hear(&mut link).await.unwrap(), Say::Taken);
    begin(&mut link, "n", 64).await;
    for part in 1..10 {
        sleep(Duration::from_secs(2)).await;
        more(&mut link, 64 * part, 64).await;
        sleep(Duration::from_millis(100)).await;
        let counts = served.server.look(|registry| registry.counts());
        assert_eq!((counts.nodes, counts.suspected), (1, 0), "after part {part}");
    }
}
