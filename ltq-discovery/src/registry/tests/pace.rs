//! A node that changes again and again.

use super::*;
use crate::registry::pace::QUIET_MAX;

const WATCHERS: u64 = 10_000;

/// A registry with so many who watch nodes, or a topic, and were told what there is.
fn watched(watchers: u64, interest: &Interest) -> Registry {
    let mut registry = registry();
    for who in 0..watchers {
        registry.watch(WatcherId(who), interest.clone()).unwrap();
    }
    settle(&mut registry);
    registry
}

/// Tells all who are to be told, and says how many that were.
fn settle(registry: &mut Registry) -> usize {
    let ready = registry.take_ready();
    for who in &ready {
        let (told, is_all) = registry.tell_some(*who, 100);
        assert!(is_all && !told.is_empty());
    }
    ready.len()
}

fn flips(number: u64) -> NodeChange {
    let state = [NodeState::Draining, NodeState::Ready][usize::from(number.is_multiple_of(2))];
    NodeChange { state: Some(state), ..NodeChange::default() }
}

#[test]
fn a_node_that_flips_in_a_loop_is_told_of_once_a_second_and_as_it_is_by_then() {
    let mut registry = watched(WATCHERS, &Interest::Nodes);
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    let mut told = settle(&mut registry);
    // As often as the guard against floods lets it.
    for number in 0..20_000 {
        let now = Monotonic(number * 500);
        registry.tick(now);
        registry.update(now, SessionId(1), flips(number)).unwrap();
        if number.is_multiple_of(2_000) {
            registry.heartbeat(now, SessionId(1), Load(0)).unwrap();
            registry.assert_consistent();
        }
        told += settle(&mut registry);
    }
    // Three at once, and one in each of ten seconds.
    let rounds = told / usize::try_from(WATCHERS).unwrap();
    assert!((10..=14).contains(&rounds), "all were told {rounds} times");
    // The last word is told, and soon.
    registry.update(at(10_000), SessionId(1), flips(2)).unwrap();
    let due = registry.next_timeout().unwrap();
    assert!(due <= at(10_000).plus(Duration::from_secs(1)), "{due:?}");
    registry.tick(due);
    let ready = registry.take_ready();
    assert_eq!(ready.len(), usize::try_from(WATCHERS).unwrap());
    for who in ready {
        let told = registry.tell_watcher(who, 10);
        let [Told::Node(node)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(node.state(), NodeState::Ready);
    }
    // It is well again: what it says later is told at once, and nothing is kept of it.
    registry.heartbeat(at(11_500), SessionId(1), Load(0)).unwrap();
    registry.update(at(13_500), SessionId(1), flips(1)).unwrap();
    assert_eq!(settle(&mut registry), usize::try_from(WATCHERS).unwrap());
    registry.announce(at(60_000), SessionId(2), &self::node("other", 1)).unwrap();
    registry.announce(at(70_000), SessionId(3), &self::node("another", 1)).unwrap();
    let kept = registry.paces().len();
    assert!(kept <= 2, "{kept}");
}

#[test]
fn topics_that_come_and_go_in_a_loop_are_told_as_they_are_in_the_end() {
    let interest = Interest::Topic(topic("orders"));
    let mut registry = watched(WATCHERS, &interest);
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    let mut told = settle(&mut registry);
    for number in 0..2_000 {
        let now = Monotonic(number * 500);
        let name = topic("orders");
        let change = match number.is_multiple_of(2) {
            true => NodeChange { has: vec![(name, BTreeSet::new())], ..NodeChange::default() },
            false => NodeChange { lacks: vec![name], ..NodeChange::default() },
        };
        registry.tick(now);
        registry.update(now, SessionId(1), change).unwrap();
        told += settle(&mut registry);
    }
    assert!(told <= 4 * usize::try_from(WATCHERS).unwrap(), "{told}");
    registry.tick(at(1_000).plus(QUIET_MAX));
    let told = registry.tell_watcher(ALICE, 10);
    assert_eq!(told, [gone("n", None)]);
}

/// By withdrawing, announcing itself anew and losing its connection it is no quicker.
#[test]
fn a_node_that_comes_and_goes_in_a_loop_is_paced_as_one_that_changes() {
    let mut registry = watched(WATCHERS, &Interest::Nodes);
    let mut told = 0;
    for number in 0..1_000 {
        let (now, from) = (Monotonic(number * 1_000), SessionId(number));
        registry.tick(now);
        registry.announce(now, from, &node("n", 1)).unwrap();
        told += settle(&mut registry);
        match number % 2 {
            0 => registry.withdraw(now, from).unwrap(),
            _ => registry.session_ended(now, from),
        }
        told += settle(&mut registry);
    }
    assert!(told <= 5 * usize::try_from(WATCHERS).unwrap(), "{told}");
    registry.assert_consistent();
    registry.tick(at(1_000).plus(QUIET_MAX));
    assert_eq!(settle(&mut registry), usize::try_from(WATCHERS).unwrap());
    let counts = registry.counts();
    assert_eq!((counts.nodes, counts.suspected), (1, 1));
}

#[test]
fn however_many_watch_a_change_is_told_within_three_seconds() {
    let mut registry = watched(60_000, &Interest::Nodes);
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    let mut changed = None;
    for millis in 0..20_000 {
        let now = at(millis);
        registry.tick(now);
        let told = registry.take_ready().len();
        if told > 0 {
            let since: Option<u64> = changed.take();
            assert!(since.is_none_or(|since| millis - since <= 3_000), "{since:?} to {millis}");
            for who in 0..60_000 {
                let _ = registry.tell_some(WatcherId(who), 1);
            }
        }
        if millis.is_multiple_of(10) {
            registry.update(now, SessionId(1), flips(millis / 10)).unwrap();
            changed = changed.or(Some(millis));
            registry.heartbeat(now, SessionId(1), Load(0)).unwrap();
        }
    }
}

#[test]
fn where_few_watch_changes_are_told_at_once() {
    let mut registry = watched(100, &Interest::Nodes);
    registry.announce(at(0), SessionId(1), &node("n", 1)).unwrap();
    assert_eq!(settle(&mut registry), 100);
    for number in 0..500 {
        // As often as a node tells its changes.
        registry.update(at(50 * number), SessionId(1), flips(number + 1)).unwrap();
        registry.heartbeat(at(50 * number), SessionId(1), Load(0)).unwrap();
        assert_eq!(settle(&mut registry), 100, "{number}");
    }
}
