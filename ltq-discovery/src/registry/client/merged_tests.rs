//! What is made of what several registries tell.

use super::{super::ToldLimits, *};
use crate::NodeState;

fn node(id: &str) -> NodeInfo {
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_epoch(Epoch { started: 1, instance: 1 })
}

fn first<const N: usize>(of: [NodeInfo; N]) -> First {
    let mut nodes = Nodes::new(ToldLimits::default());
    assert!(of.into_iter().all(|node| nodes.insert(node, 0)));
    First { nodes, withdrawn: Vec::new() }
}

/// The same, where these were withdrawn.
fn first_without<const N: usize>(of: [NodeInfo; N], withdrawn: &[NodeInfo]) -> First {
    let withdrawn = withdrawn.iter().map(|node| (node.id().clone(), node.epoch())).collect();
    First { withdrawn, ..first(of) }
}

fn withdraw(merged: &mut Merged, registry: usize, node: &NodeInfo) {
    merged.gone(registry, node.id(), Some(node.epoch()));
}

fn is_lost(merged: &Merged, node: &NodeInfo, now: Instant) -> bool {
    merged.nodes(now).has_lost(node)
}

fn standing(merged: &Merged, now: Instant) -> Vec<(String, bool)> {
    let nodes = merged.nodes(now);
    nodes.iter().map(|node| (node.id().to_string(), node.is_suspected())).collect()
}

fn named(names: &[(&str, bool)]) -> Vec<(String, bool)> {
    names.iter().map(|(name, is_suspected)| ((*name).to_owned(), *is_suspected)).collect()
}

#[test]
fn what_an_earlier_run_told_stays_suspected_until_it_is_told_anew_or_time_is_up() {
    let (mut merged, start) = (Merged::new(1), Instant::now());
    merged.told(0, 1, first([node("a"), node("b"), node("c")]), start);
    merged.lost(0, start, start + RETURN * 3);
    merged.told(0, 2, first([]), start);
    assert_eq!(standing(&merged, start), named(&[("a", true), ("b", true), ("c", true)]));
    assert!(merged.changed(0, node("a")));
    merged.gone(0, node("c").id(), None);
    assert_eq!(standing(&merged, start), named(&[("a", false), ("b", true)]));
    assert_eq!(merged.next_timeout(start), Some(start + RETURN));
    assert_eq!(standing(&merged, start + RETURN), named(&[("a", false)]));
    // What is over does not come back when the registry is lost.
    merged.lost(0, start + RETURN, start + RETURN * 4);
    assert_eq!(standing(&merged, start + RETURN), named(&[("a", false)]));
}

#[test]
fn what_a_registry_forgot_out_of_sight_stays_suspected_for_a_while_and_is_lost_then() {
    let (mut merged, start) = (Merged::new(1), Instant::now());
    merged.told(0, 1, first([node("a"), node("b"), node("c"), node("d")]), start);
    merged.lost(0, start, start + RETURN);
    // One withdrew itself meanwhile, one is well, and two were forgotten, of which one comes back.
    let later = start + RETURN * 9;
    merged.told(0, 1, first_without([node("b")], &[node("c")]), later);
    assert_eq!(standing(&merged, later), named(&[("a", true), ("b", false), ("d", true)]));
    assert!(!is_lost(&merged, &node("c"), later));
    assert!(merged.changed(0, node("d")));
    assert_eq!(merged.next_timeout(later), Some(later + RETURN));
    assert_eq!(standing(&merged, later + RETURN), named(&[("b", false), ("d", false)]));
    let lost = ["a", "c"].map(|id| is_lost(&merged, &node(id), later + RETURN));
    assert_eq!(lost, [true, false]);
}

#[test]
fn who_was_there_before_all_was_told_and_who_was_forgotten_in_sight_is_kept_by_nothing() {
    let (mut merged, start) = (Merged::new(1), Instant::now());
    merged.told(0, 1, first([node("a"), node("b")]), start);
    merged.gone(0, node("a").id(), None);
    assert_eq!(standing(&merged, start), named(&[("b", false)]));
    assert!(is_lost(&merged, &node("a"), start));
    merged.lost(0, start, start + RETURN);
    merged.told(0, 1, first([node("b")]), start);
    assert_eq!(standing(&merged, start), named(&[("b", false)]));
    assert_eq!(merged.next_timeout(start), None);
}

#[test]
fn one_registry_that_hears_a_withdrawal_is_enough_while_another_is_away() {
    let (mut merged, start) = (Merged::new(2), Instant::now());
    for registry in [0, 1] {
        merged.told(registry, 1, first([node("a"), node("b")]), start);
    }
    merged.lost(1, start, start + RETURN * 3);
    assert_eq!(standing(&merged, start), named(&[("a", false), ("b", false)]));
    withdraw(&mut merged, 0, &node("a"));
    assert_eq!(standing(&merged, start), named(&[("b", false)]));
    assert!(!is_lost(&merged, &node("a"), start));
    // Nor does it come back with the other's next run, with its memory, or where nobody is heard.
    merged.told(1, 2, first([]), start);
    assert_eq!(standing(&merged, start), named(&[("b", false)]));
    for (registry, is_suspected) in [(0, true), (1, false)] {
        merged.lost(registry, start, start + RETURN * 3);
        assert_eq!(standing(&merged, start), named(&[("b", is_suspected)]));
    }
    assert!(!is_lost(&merged, &node("a"), start + RETURN * 4));
}

#[test]
fn a_registry_that_never_heard_of_a_withdrawal_forgets_nobody_who_is_lost() {
    let (mut merged, now) = (Merged::new(2), Instant::now());
    for registry in [0, 1] {
        merged.told(registry, 1, first([node("a")]), now);
    }
    withdraw(&mut merged, 0, &node("a"));
    // For all that is known that one hears of it.
    assert_eq!(standing(&merged, now), named(&[("a", false)]));
    assert!(merged.changed(1, node("a").with_load(crate::Load(900))));
    assert!(merged.changed(1, node("a").with_suspicion(true)));
    assert!(standing(&merged, now).is_empty(), "it was withdrawn");
    merged.gone(1, node("a").id(), None);
    assert!(!is_lost(&merged, &node("a"), now));
}

#[test]
fn a_withdrawal_says_nothing_of_a_run_that_came_after_it() {
    let (mut merged, now) = (Merged::new(2), Instant::now());
    let run = |started: u64| node("a").with_epoch(Epoch { started, instance: 0 });
    for registry in [0, 1] {
        merged.told(registry, 1, first([run(5)]), now);
    }
    withdraw(&mut merged, 0, &run(5));
    merged.gone(1, node("a").id(), None);
    // Of a clock that goes wrong, too; it is announced to the other one alone.
    for started in [6, 4] {
        assert!(merged.changed(1, run(started)));
        assert!(merged.changed(1, run(started).with_suspicion(true)));
        assert_eq!(standing(&merged, now), named(&[("a", true)]));
        merged.gone(1, node("a").id(), None);
        assert!(is_lost(&merged, &run(started), now));
        withdraw(&mut merged, 1, &run(started));
    }
    // The very same is back only if it is taken in by who said that it is gone.
    for (registry, is_back) in [(0, false), (1, true)] {
        assert!(merged.changed(registry, run(4)));
        merged.gone(registry, node("a").id(), None);
        assert_eq!(is_lost(&merged, &run(4), now), is_back);
    }
}

#[test]
fn a_registry_that_is_started_again_and_again_takes_nobody_away() {
    let (mut merged, start) = (Merged::new(1), Instant::now());
    merged.told(0, 1, first([node("a"), node("b")]), start);
    merged.told(0, 2, first([node("b")]), start + RETURN / 2);
    merged.told(0, 3, first([]), start + RETURN);
    let now = start + RETURN * 2 - Duration::from_millis(1);
    assert_eq!(standing(&merged, now), named(&[("a", true), ("b", true)]));
}

#[test]
fn of_what_several_tell_of_one_run_the_last_counts() {
    let (mut merged, now) = (Merged::new(2), Instant::now());
    merged.told(0, 1, first([node("a")]), now);
    merged.told(1, 1, first([node("a")]), now);
    assert!(merged.changed(1, node("a").with_state(NodeState::Draining)));
    let state = |merged: &Merged| merged.nodes(now).iter().next().map(NodeInfo::state);
    assert_eq!(state(&merged), Some(NodeState::Draining));
    // A registry that says again what it said has learned nothing.
    merged.told(0, 1, first([node("a")]), now);
    assert_eq!(state(&merged), Some(NodeState::Draining));
    assert!(merged.changed(1, node("a")));
    assert!(merged.changed(0, node("a").with_state(NodeState::Draining)));
    assert_eq!(state(&merged), Some(NodeState::Draining));
}

#[test]
fn while_none_is_heard_what_an_earlier_run_told_counts_for_as_long_as_it_takes() {
    let (mut merged, start) = (Merged::new(1), Instant::now());
    merged.told(0, 1, first([node("a")]), start);
    merged.told(0, 2, first([]), start);
    merged.lost(0, start + RETURN / 2, start + RETURN);
    assert_eq!(standing(&merged, start + RETURN * 9), named(&[("a", true)]));
}

#[test]
fn of_what_several_tell_the_newest_run_counts_whoever_tells_last() {
    let (mut merged, now) = (Merged::new(2), Instant::now());
    let newer = node("a").with_epoch(Epoch { started: 2, instance: 1 });
    merged.told(0, 1, first([newer.clone()]), now);
    merged.told(1, 1, first([node("a")]), now);
    let epoch = |merged: &Merged| merged.nodes(now).iter().next().map(NodeInfo::epoch);
    assert_eq!(epoch(&merged), Some(newer.epoch()));
    // But one that is not suspected is rather there.
    assert!(merged.changed(0, newer.with_suspicion(true)));
    assert_eq!(epoch(&merged), Some(node("a").epoch()));
}

#[test]
fn what_all_is_told_anew_by_counts_as_told_then_where_it_is_news() {
    let (mut merged, now) = (Merged::new(2), Instant::now());
    let state = |merged: &Merged| merged.nodes(now).iter().next().map(NodeInfo::state);
    let drains = || node("a").with_state(NodeState::Draining);
    merged.told(0, 1, first([node("a")]), now);
    merged.told(1, 1, first([drains()]), now);
    assert_eq!(state(&merged), Some(NodeState::Draining));
    merged.told(1, 1, first([node("a")]), now);
    merged.told(0, 1, first([drains()]), now);
    assert_eq!(state(&merged), Some(NodeState::Draining));
}
