//! What shows in one order of things alone.

use super::*;
use crate::registry::pace::{Paces, Whom};

fn told_to(registry: &mut Registry, who: WatcherId) -> Vec<Told> {
    let _ = registry.take_ready();
    registry.tell_watcher(who, 100)
}

fn watched(interest: Interest) -> Registry {
    let mut registry = registry();
    registry.watch(ALICE, interest).unwrap();
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    Keeper::default().drain(&mut registry, ALICE);
    registry
}

fn only(registry: &Registry) -> &NodeInfo {
    let mut nodes = registry.nodes();
    let first = nodes.next().unwrap();
    assert!(nodes.next().is_none());
    first
}

#[test]
fn who_announces_himself_is_not_suspected_whatever_he_says() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n", 1).with_suspicion(true)).unwrap();
    assert!(!only(&registry).is_suspected());
}

#[test]
fn who_is_heard_again_is_told_of_with_the_load_that_it_has_by_then() {
    let mut registry = watched(Interest::Nodes);
    registry.tick(at(2_500));
    let suspected = told_to(&mut registry, ALICE);
    assert!(matches!(&suspected[..], [Told::Node(node)] if node.is_suspected()), "{suspected:?}");
    registry.heartbeat(at(3_000), SessionId(1), Load(7_000)).unwrap();
    let told = told_to(&mut registry, ALICE);
    let [Told::Node(node)] = &told[..] else { panic!("{told:?}") };
    assert!(!node.is_suspected() && node.load() == Load(7_000), "{node:?}");
}

#[test]
fn a_node_that_tells_itself_anew_in_many_parts_is_heard_meanwhile() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    for now in [2_000, 4_000, 6_000] {
        registry.hear(at(now), SessionId(1));
        registry.tick(at(now + 2_000));
        assert!(!only(&registry).is_suspected(), "{now}");
    }
    registry.tick(at(8_500));
    assert!(only(&registry).is_suspected());
}

#[test]
fn whose_connection_ends_after_nobody_listened_has_its_whole_time() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    // It stood still for a minute, and the node's connection is gone by that.
    assert!(registry.catch_up(at(60_000)).is_some());
    registry.session_ended(at(60_000), SessionId(1));
    registry.tick(at(60_000 + 29_000));
    assert!(only(&registry).is_suspected(), "and not forgotten");
}

#[test]
fn a_load_that_waits_for_its_round_is_told_by_time_alone() {
    let mut registry = watched(Interest::Nodes);
    registry.heartbeat(at(1_000), SessionId(1), Load(1_000)).unwrap();
    assert_eq!(told_to(&mut registry, ALICE).len(), 1);
    registry.heartbeat(at(2_000), SessionId(1), Load(9_000)).unwrap();
    assert!(told_to(&mut registry, ALICE).is_empty());
    let due = registry.next_timeout().unwrap();
    assert_eq!(due, at(4_000), "before it could be suspected");
    registry.tick(due);
    assert_eq!(told_to(&mut registry, ALICE).len(), 1);
}

#[test]
fn a_load_that_is_as_it_was_told_again_holds_up_no_other() {
    let mut registry = watched(Interest::Nodes);
    registry.announce(at(0), SessionId(2), &node("other", 1)).unwrap();
    registry.heartbeat(at(500), SessionId(2), Load(1_000)).unwrap();
    let _ = told_to(&mut registry, ALICE);
    for (session, load) in [(1, 9_000), (2, 9_000), (1, 0)] {
        registry.heartbeat(at(2_000), SessionId(session), Load(load)).unwrap();
    }
    registry.tick(at(3_500));
    let told = told_to(&mut registry, ALICE);
    let [Told::Node(node)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((node.id().as_str(), node.load()), ("other", Load(9_000)));
}

#[test]
fn who_watches_something_else_under_his_number_is_not_told_of_what_he_watched_before() {
    let mut registry = watched(Interest::Topic(topic("before")));
    registry.watch(ALICE, Interest::Topic(topic("now"))).unwrap();
    Keeper::default().drain(&mut registry, ALICE);
    let _ = registry.take_ready();
    let has = |name| NodeChange { has: vec![(topic(name), [].into())], ..NodeChange::default() };
    registry.update(at(1), SessionId(1), has("before")).unwrap();
    assert!(registry.take_ready().is_empty());
    registry.update(at(1), SessionId(1), has("now")).unwrap();
    assert_eq!(registry.take_ready(), BTreeSet::from([ALICE]));
    // Nor is one who is gone.
    registry.unwatch(ALICE);
    registry.watch(BOB, Interest::Nodes).unwrap();
    registry.unwatch(BOB);
    assert!(registry.take_ready().is_empty());
}

#[test]
fn who_begins_to_watch_is_not_told_all_before_the_last_node() {
    let mut registry = registry();
    for session in 0..40 {
        registry.announce(at(0), SessionId(session), &node(&format!("n{session}"), 1)).unwrap();
    }
    registry.watch(ALICE, Interest::Nodes).unwrap();
    let mut keeper = Keeper::default();
    for round in 0..4 {
        let (told, is_all) = registry.tell_some(ALICE, 16);
        keeper.take(told);
        assert_eq!(is_all, keeper.is_complete, "in round {round}");
        if is_all {
            break;
        }
    }
    assert!(keeper.is_complete && keeper.nodes.len() == 40);
}

#[test]
fn another_run_and_other_addresses_are_no_change_of_a_node() {
    let before = node("n", 1);
    assert_eq!(NodeChange::between(&before, &before), Some(NodeChange::default()));
    assert_eq!(NodeChange::between(&before, &node("n", 2)), None);
    let addresses = ["tcp://b:1".parse().unwrap()];
    let moved = NodeInfo::new("n".parse().unwrap(), addresses).unwrap();
    let moved = moved.with_epoch(before.epoch()).with_topics(Topics::new());
    assert_eq!(NodeChange::between(&before, &moved), None);
}

#[test]
fn a_topic_that_goes_and_comes_in_one_change_is_there() {
    let mut registry = registry();
    let with = node("n", 1).with_topics(topics(&["orders", "other"]));
    registry.announce(at(0), SessionId(1), &with).unwrap();
    let has = vec![(topic("orders"), BTreeSet::new())];
    let change = NodeChange { has, lacks: vec![topic("orders")], ..NodeChange::default() };
    registry.update(at(1), SessionId(1), change).unwrap();
    assert_eq!(only(&registry).topics(), Some(&topics(&["orders", "other"])));
    registry.assert_consistent();
}

#[test]
fn who_was_told_of_long_ago_is_not_told_of_more_often_for_that() {
    let mut paces = Paces::default();
    let ids = ["a", "b", "c"].map(|id| id.parse::<NodeId>().unwrap());
    for id in &ids {
        paces.told(at(0), id, 30_000);
    }
    // One that was not forgotten yet.
    let (now, [.., c]) = (at(3_600_000), &ids);
    paces.told(now, c, 30_000);
    assert_eq!(paces.now_or_later(now, c, Whom::all()), None);
}
