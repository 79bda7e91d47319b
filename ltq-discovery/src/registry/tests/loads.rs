//! When watchers hear how busy nodes are.

use super::*;
use crate::registry::loads::LOADS_TOLD_MAX;

#[test]
fn watchers_hear_of_a_load_that_doubles_and_not_of_each() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Everything).unwrap();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    Keeper::default().drain(&mut registry, ALICE);
    let _ = registry.take_ready();
    // Each round of loads, and what is told in it.
    let mut now = 0;
    let mut beat = |registry: &mut Registry, load: u32| {
        now += 3_000;
        registry.heartbeat(at(now), SessionId(1), Load(load)).unwrap();
        registry.take_ready().len()
    };
    let told = (0..=1_000).map(|load| beat(&mut registry, load)).sum::<usize>();
    assert!((3..=5).contains(&told), "{told}");
    Keeper::default().drain(&mut registry, ALICE);
    // Around a boundary nothing is told, and little is as good as none.
    let told = [511, 513, 511, 513].map(|load| beat(&mut registry, load));
    assert!(told.iter().sum::<usize>() <= 1, "{told:?}");
    beat(&mut registry, 0);
    assert_eq!([1, 9, 0, 63, 3].map(|load| beat(&mut registry, load)), [0; 5]);
    beat(&mut registry, u32::MAX);
    beat(&mut registry, 0);
    assert_eq!(registry.nodes().next().unwrap().load(), Load(0));
}

#[test]
fn loads_that_change_at_each_beat_are_told_every_few_seconds_and_are_the_newest() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Nodes).unwrap();
    for session in 0..20 {
        registry.announce(at(0), SessionId(session), &node(&format!("n{session}"), 1)).unwrap();
    }
    let (mut keeper, mut told) = (Keeper::default(), 0);
    keeper.drain(&mut registry, ALICE);
    for millis in (0..60_000).step_by(100) {
        registry.tick(at(millis));
        for session in 0..20 {
            // Another one in each round too.
            let load = Load(100 << ((millis / 100 + session) % 7));
            registry.heartbeat(at(millis), SessionId(session), load).unwrap();
        }
        let before = registry.tell_watcher(ALICE, 100);
        told += before.len();
        keeper.take(before);
        registry.assert_consistent();
    }
    // 600 beats of each; a minute has 20 rounds.
    assert!((15 * 20..=21 * 20).contains(&told), "{told} loads were told");
    // One that stays where it is gets there within two rounds, and the rest of the time nothing is told.
    let mut beat = |millis: u64, load: u32| {
        registry.tick(at(millis));
        for session in 0..20 {
            registry.heartbeat(at(millis), SessionId(session), Load(load)).unwrap();
        }
        let told = registry.tell_watcher(ALICE, 100);
        keeper.take(told.clone());
        told.len()
    };
    for second in 61..=66 {
        beat(second * 1_000, 77_000);
    }
    assert_eq!((67..90).map(|second| beat(second * 1_000, 78_000)).sum::<usize>(), 0);
    assert!(keeper.nodes.values().all(|node| node.load() == Load(77_000)));
}

#[test]
fn with_many_watchers_loads_take_turns() {
    let mut registry = registry();
    let watchers = LOADS_TOLD_MAX as u64 / 4;
    for who in 0..watchers {
        registry.watch(WatcherId(who), Interest::Nodes).unwrap();
    }
    let nodes = 20;
    for session in 0..nodes {
        registry.announce(at(0), SessionId(session), &node(&format!("n{session}"), 1)).unwrap();
    }
    let mut keeper = Keeper::default();
    keeper.drain(&mut registry, WatcherId(0));
    let mut turns = BTreeMap::new();
    for round in 1..=15_u64 {
        for session in 0..nodes {
            let load = Load(64 << round);
            registry.heartbeat(at(round * 3_000), SessionId(session), load).unwrap();
        }
        registry.tick(at(round * 3_000));
        let told = registry.tell_watcher(WatcherId(0), 100);
        assert!(told.len() <= 5, "{} in round {round}", told.len());
        for told in told {
            let Told::Node(node) = told else { panic!("{told:?}") };
            *turns.entry(node.id().clone()).or_insert(0) += 1;
        }
    }
    assert_eq!(turns.len(), 20, "{turns:?}");
    let (least, most) = (turns.values().min().unwrap(), turns.values().max().unwrap());
    assert!(most - least <= 1, "{turns:?}");
}
