//! What is told of nodes that withdrew themselves.

use super::*;
use crate::withdrawals::WITHDRAWALS_MAX;

/// What somebody who comes now is told that there is.
fn first(registry: &mut Registry, who: WatcherId, interest: Interest) -> Vec<Told> {
    registry.watch(who, interest).unwrap();
    let mut all = Vec::new();
    loop {
        let told = registry.tell_watcher(who, 1);
        if told.is_empty() {
            return all;
        }
        all.extend(told);
    }
}

#[test]
fn who_was_out_of_sight_is_told_who_was_withdrawn_and_not_who_was_forgotten() {
    let mut registry = registry();
    for (session, id) in ["n1", "n2", "n3", "mesh:floor/p"].iter().enumerate() {
        registry.announce(at(0), SessionId(session as u64), &node(id, 1)).unwrap();
    }
    for session in [0, 1, 3] {
        registry.withdraw(at(0), SessionId(session)).unwrap();
    }
    registry.tick(at(100_000));
    registry.tick(at(200_000));
    assert_eq!(registry.counts().nodes, 0, "one was forgotten");
    // One is back, and one takes the place of another by the same connection.
    registry.announce(at(200_000), SessionId(1), &node("n2", 2)).unwrap();
    registry.announce(at(200_000), SessionId(5), &node("n4", 2)).unwrap();
    registry.announce(at(200_000), SessionId(5), &node("n5", 2)).unwrap();
    let n = |id| Told::Node(Box::new(node(id, 2).without_topics()));
    let told = first(&mut registry, ALICE, Interest::Nodes);
    let gone_those = [gone("n1", Some(1)), gone("n4", Some(2))];
    let [n1, n4] = gone_those.clone();
    assert_eq!(told, [Told::Anew, n("n2"), n("n5"), n1, n4, Told::Complete]);
    let told = first(&mut registry, ALICE, Interest::Mesh("floor".to_owned()));
    assert_eq!(told, [Told::Anew, gone("mesh:floor/p", Some(1)), Told::Complete]);
    let told = first(&mut registry, ALICE, Interest::Everything);
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(gone_those.iter().all(|gone| told.contains(gone)), "{told:?}");
    let told = first(&mut registry, ALICE, Interest::Topic(topic("orders")));
    assert_eq!(told, [Told::Anew, Told::Complete]);
}

#[test]
fn so_many_withdrawals_are_remembered_and_no_more() {
    let mut registry = registry();
    for n in 0..=WITHDRAWALS_MAX {
        registry.announce(at(0), SessionId(1), &node(&format!("n{n}"), 1)).unwrap();
        registry.withdraw(at(0), SessionId(1)).unwrap();
    }
    let told = first(&mut registry, ALICE, Interest::Nodes);
    assert_eq!(told.len(), 2 + WITHDRAWALS_MAX);
    assert!(!told.contains(&gone("n0", Some(1))) && told.contains(&gone("n1", Some(1))));
}
