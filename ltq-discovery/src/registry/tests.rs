mod edges;
mod loads;
mod pace;
mod withdrawals;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_core::{Monotonic, TopicName};
use proptest::prelude::*;

use super::*;
use crate::{Epoch, Interest, Load, NodeId, NodeInfo, NodeState, Topics};

const BEAT: Duration = Duration::from_secs(1);

fn registry() -> Registry {
    Registry::new(RegistrySettings::default()).unwrap()
}

fn at(millis: u64) -> Monotonic {
    Monotonic(millis * 1_000)
}

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn topics(names: &[&str]) -> Topics {
    names.iter().map(|name| (topic(name), BTreeSet::new())).collect()
}

fn node(id: &str, epoch: u64) -> NodeInfo {
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_epoch(Epoch { started: epoch, instance: 0 }).with_topics(Topics::new())
}

fn gone(id: &str, withdrawn: Option<u64>) -> Told {
    let withdrawn = withdrawn.map(|started| Epoch { started, instance: 0 });
    Told::Gone { id: id.parse().unwrap(), withdrawn }
}

/// One who watches and keeps what he is told.
#[derive(Default)]
struct Keeper {
    nodes: BTreeMap<NodeId, NodeInfo>,
    is_complete: bool,
}

impl Keeper {
    fn take(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Anew => *self = Self::default(),
                Told::Node(node) => drop(self.nodes.insert(node.id().clone(), *node)),
                Told::Gone { id, .. } => drop(self.nodes.remove(&id)),
                Told::Complete => self.is_complete = true,
            }
        }
    }

    /// Takes all that there is.
    fn drain(&mut self, registry: &mut Registry, who: WatcherId) {
        loop {
            let told = registry.tell_watcher(who, 2);
            if told.is_empty() {
                break;
            }
            self.take(told);
        }
    }
}

const ALICE: WatcherId = WatcherId(1);
const BOB: WatcherId = WatcherId(2);

#[test]
fn who_asks_for_the_nodes_alone_is_not_told_that_topics_changed() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    registry.watch(ALICE, Interest::Nodes).unwrap();
    let mut alice = Keeper::default();
    alice.drain(&mut registry, ALICE);
    let plain = alice.nodes.get(&"n1".parse().unwrap()).unwrap();
    assert!(alice.is_complete && plain.topics().is_none());
    let _ = registry.take_ready();
    let has = vec![(topic("orders"), BTreeSet::new())];
    let more = NodeChange { has, ..NodeChange::default() };
    registry.update(at(0), SessionId(1), more).unwrap();
    assert!(registry.take_ready().is_empty() && registry.tell_watcher(ALICE, 9).is_empty());
    let drains = NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() };
    registry.update(at(0), SessionId(1), drains).unwrap();
    assert_eq!(registry.take_ready(), BTreeSet::from([ALICE]));
    alice.drain(&mut registry, ALICE);
    let plain = alice.nodes.get(&"n1".parse().unwrap()).unwrap();
    assert!(plain.state() == NodeState::Draining && plain.topics().is_none());
}

#[test]
fn first_topics_and_a_new_state_in_one_change_are_told_to_all() {
    let mut registry = registry();
    let unknown = NodeInfo::new("n".parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    registry.announce(at(0), SessionId(1), &unknown).unwrap();
    registry.watch(ALICE, Interest::Nodes).unwrap();
    Keeper::default().drain(&mut registry, ALICE);
    let _ = registry.take_ready();
    let has = vec![(topic("orders"), BTreeSet::new())];
    let change = NodeChange { state: Some(NodeState::Draining), has, ..NodeChange::default() };
    registry.update(at(0), SessionId(1), change).unwrap();
    assert_eq!(registry.take_ready(), BTreeSet::from([ALICE]));
    let told = registry.tell_watcher(ALICE, 9);
    let drains = |told: &Told| matches!(told, Told::Node(n) if n.state() == NodeState::Draining);
    assert!(told.len() == 1 && told.iter().all(drains), "{told:?}");
}

#[test]
fn time_in_which_nobody_listened_is_no_nodes_silence() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    registry.announce(at(0), SessionId(2), &node("n2", 1)).unwrap();
    registry.session_ended(at(0), SessionId(2));
    // A little late is as usual.
    assert_eq!(registry.catch_up(at(3_500)), None);
    let late = Duration::from_millis(37_500 + 2_500);
    assert_eq!(registry.catch_up(at(40_000)), Some(late));
    assert_eq!(registry.catch_up(at(40_000)), None);
    registry.tick(at(40_000));
    registry.tick(at(42_499));
    let counts = registry.counts();
    assert_eq!((counts.nodes, counts.suspected), (2, 1));
    registry.heartbeat(at(42_499), SessionId(1), Load(0)).unwrap();
    registry.tick(at(44_000));
    assert_eq!(registry.counts().suspected, 1);
    // Whoever does not beat from then on is suspected and forgotten as ever.
    registry.tick(at(44_999));
    assert_eq!(registry.counts().suspected, 2);
    registry.tick(at(42_499 + 30_500));
    assert_eq!(registry.counts().nodes, 0);
    registry.assert_consistent();
}

#[test]
fn a_watcher_is_told_what_there_is_and_then_what_changes() {
    let mut registry = registry();
    let n1 = node("n1", 1).with_topics(topics(&["orders", "mail"]));
    registry.announce(at(0), SessionId(1), &n1).unwrap();
    registry.announce(at(0), SessionId(2), &node("n2", 1)).unwrap();
    registry.watch(ALICE, Interest::Topic(topic("orders"))).unwrap();
    assert_eq!(registry.take_ready(), [ALICE].into());
    let only = n1.with_topics(topics(&["orders"]));
    let first = registry.tell_watcher(ALICE, 10);
    assert_eq!(first, [Told::Anew, Told::Node(Box::new(only)), Told::Complete]);
    assert!(registry.tell_watcher(ALICE, 10).is_empty() && registry.take_ready().is_empty());

    // Another topic is none of Alice's concern.
    let mail = NodeChange {
        has: vec![(topic("mail"), ["c".parse().unwrap()].into())],
        ..Default::default()
    };
    registry.update(at(0), SessionId(1), mail).unwrap();
    assert!(registry.take_ready().is_empty());
    let orders = NodeChange { has: vec![(topic("orders"), BTreeSet::new())], ..Default::default() };
    registry.update(at(0), SessionId(2), orders.clone()).unwrap();
    registry.update(at(0), SessionId(2), orders).unwrap();
    assert_eq!(registry.take_ready(), [ALICE].into());
    let told = registry.tell_watcher(ALICE, 10);
    let n2 = node("n2", 1).with_topics(topics(&["orders"]));
    assert_eq!(told, [Told::Node(Box::new(n2))]);
    let lacks = NodeChange { lacks: vec![topic("orders")], ..Default::default() };
    registry.update(at(0), SessionId(2), lacks).unwrap();
    assert_eq!(registry.tell_watcher(ALICE, 10), [gone("n2", None)]);
    registry.withdraw(at(0), SessionId(1)).unwrap();
    assert_eq!(registry.tell_watcher(ALICE, 10), [gone("n1", Some(1))]);
    assert_eq!(registry.withdraw(at(0), SessionId(1)), Err(NotAnnounced));
}

#[test]
fn one_that_is_slow_is_told_how_it_is_and_not_how_it_came_to_it() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Everything).unwrap();
    let mut keeper = Keeper::default();
    for round in 0..1_000 {
        registry.announce(at(round), SessionId(1), &node("n1", 1)).unwrap();
        let state = [NodeState::Draining, NodeState::Ready][round as usize % 2];
        let change = NodeChange { state: Some(state), ..Default::default() };
        registry.update(at(0), SessionId(1), change).unwrap();
    }
    let told = registry.tell_watcher(ALICE, 10);
    assert_eq!(told.len(), 3, "{told:?}");
    keeper.take(told);
    assert_eq!(keeper.nodes[&"n1".parse().unwrap()].state(), NodeState::Ready);
}

#[test]
fn who_misses_beats_is_suspected_then_forgotten_and_welcome_again() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Everything).unwrap();
    let mut keeper = Keeper::default();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    for beat in 1..=10 {
        registry.tick(at(beat * 1_000));
        registry.heartbeat(at(beat * 1_000), SessionId(1), Load(0)).unwrap();
    }
    keeper.drain(&mut registry, ALICE);
    let _ = registry.take_ready();
    assert_eq!(registry.next_timeout(), Some(at(12_500)));
    registry.tick(at(12_499));
    assert!(registry.take_ready().is_empty());
    assert!(registry.tick(at(12_500)).is_empty(), "it is only suspected");
    assert_eq!(registry.take_ready(), [ALICE].into());
    keeper.drain(&mut registry, ALICE);
    assert!(keeper.nodes.values().all(NodeInfo::is_suspected));
    registry.heartbeat(at(13_000), SessionId(1), Load(0)).unwrap();
    keeper.drain(&mut registry, ALICE);
    assert!(!keeper.nodes.values().any(NodeInfo::is_suspected));
    registry.tick(at(15_500));
    assert_eq!(registry.next_timeout(), Some(at(13_000).plus(30 * BEAT + BEAT / 2)));
    assert_eq!(registry.tick(at(43_500)), ["n1".parse().unwrap()]);
    keeper.drain(&mut registry, ALICE);
    assert!(keeper.nodes.is_empty() && registry.nodes().next().is_none());
    assert_eq!(registry.heartbeat(at(43_501), SessionId(1), Load(0)), Err(NotAnnounced));
    assert_eq!(registry.next_timeout(), None);
    registry.announce(at(43_502), SessionId(1), &node("n1", 1)).unwrap();
    keeper.drain(&mut registry, ALICE);
    assert_eq!(keeper.nodes.len(), 1);
}

#[test]
fn a_node_whose_connection_is_gone_is_suspected_at_once_and_back_with_another() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    registry.session_ended(at(100), SessionId(1));
    assert!(registry.nodes().all(NodeInfo::is_suspected));
    registry.announce(at(200), SessionId(2), &node("n1", 1)).unwrap();
    assert!(!registry.nodes().any(NodeInfo::is_suspected));
    // The old connection's end is no news of the node any more.
    registry.session_ended(at(300), SessionId(1));
    assert!(!registry.nodes().any(NodeInfo::is_suspected));
}

#[test]
fn of_two_runs_the_later_one_stays_and_of_one_that_is_gone_nobody_waits() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n1", 5)).unwrap();
    registry.announce(at(1), SessionId(2), &node("n1", 7)).unwrap();
    assert_eq!(registry.heartbeat(at(2), SessionId(1), Load(0)), Err(NotAnnounced));
    let refused = registry.announce(at(3), SessionId(1), &node("n1", 5)).unwrap_err();
    let words =
        "node n1 of epoch 5-0 is not taken in: one of epoch 7-0 was started after it and is there";
    assert_eq!(refused.to_string(), words);
    registry.heartbeat(at(4), SessionId(2), Load(0)).unwrap();
    // Started again on a machine whose clock went back.
    registry.session_ended(at(5), SessionId(2));
    registry.announce(at(6), SessionId(3), &node("n1", 6)).unwrap();
    assert_eq!(registry.nodes().next().unwrap().epoch().started, 6);
    assert_eq!(registry.nodes().count(), 1);
}

#[test]
fn a_connection_has_one_node() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Everything).unwrap();
    registry.announce(at(0), SessionId(1), &node("n1", 1)).unwrap();
    registry.announce(at(0), SessionId(1), &node("n2", 1)).unwrap();
    let mut keeper = Keeper::default();
    keeper.drain(&mut registry, ALICE);
    assert_eq!(keeper.nodes.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["n2"]);
}

#[test]
fn topics_are_shared_with_who_is_told_and_what_went_is_handed_over() {
    let mut registry = registry();
    let has = node("n1", 1).with_topics(topics(&["a", "b"]));
    let shared = has.topics().unwrap().clone();
    registry.put(at(0), SessionId(1), &has, (2, 0)).unwrap();
    registry.watch(ALICE, Interest::Everything).unwrap();
    let told = registry.tell_watcher(ALICE, 9);
    let [Told::Anew, Told::Node(told), Told::Complete] = &told[..] else { panic!("{told:?}") };
    assert!(told.topics().unwrap().is_shared_with(&shared));
    assert!(registry.take_gone().is_empty());
    registry.put(at(1), SessionId(1), &node("n1", 1), (0, 0)).unwrap();
    assert_eq!(registry.take_gone(), std::slice::from_ref(&has));
    registry.withdraw(at(0), SessionId(1)).unwrap();
    assert_eq!(registry.take_gone().len(), 1);
}

/// Topics that somebody is being told are copied for the first change, and not for each.
#[test]
fn what_is_being_told_is_copied_once_for_all_changes_that_come_meanwhile() {
    let mut registry = registry();
    registry.announce(at(0), SessionId(1), &node("n1", 1).with_topics(topics(&["a"]))).unwrap();
    registry.watch(ALICE, Interest::Everything).unwrap();
    let told = registry.tell_watcher(ALICE, 9);
    let shared = |registry: &Registry| {
        registry.nodes().next().unwrap().topics().unwrap().parts().next().unwrap()
    };
    let held = shared(&registry);
    let mut copies = BTreeSet::new();
    for number in 0..100 {
        let has = vec![(named(number % 7), BTreeSet::new())];
        registry.update(at(0), SessionId(1), NodeChange { has, ..NodeChange::default() }).unwrap();
        copies.insert(shared(&registry));
    }
    assert!(copies.len() == 1 && !copies.contains(&held), "{} copies", copies.len());
    drop(told);
    let before = shared(&registry);
    let lacks = vec![topic("a")];
    registry.update(at(0), SessionId(1), NodeChange { lacks, ..NodeChange::default() }).unwrap();
    assert_eq!(shared(&registry), before, "nobody holds it");
}

#[test]
fn a_node_that_comes_back_with_more_than_there_is_room_for_is_refused_as_a_whole() {
    let settings = RegistrySettings { topics_max: 3, ..RegistrySettings::default() };
    let mut registry = Registry::new(settings).unwrap();
    let had = node("n1", 1).with_topics(topics(&["a", "b"]));
    registry.announce(at(0), SessionId(1), &had).unwrap();
    registry.session_ended(at(100), SessionId(1));
    let more = node("n1", 1).with_topics(topics(&["b", "c", "d", "e"]));
    let error = registry.announce(at(200), SessionId(2), &more).unwrap_err().to_string();
    assert!(error.contains("of topics at nodes there are 4, and 3 is the most"), "{error}");
    // Nothing of it is taken in: it is known as it was, suspected, and forgotten in its time.
    assert_eq!(registry.nodes().cloned().collect::<Vec<_>>(), [had.with_suspicion(true)]);
    assert_eq!(registry.heartbeat(at(300), SessionId(2), Load(0)), Err(NotAnnounced));
    registry.tick(at(30_500));
    assert_eq!(registry.counts(), RegistryCounts::default());
    let fits = node("n1", 1).with_topics(topics(&["b", "c", "d"]));
    registry.announce(at(30_600), SessionId(2), &fits).unwrap();
    registry.assert_consistent();
}

#[test]
fn topics_whose_names_differ_in_case_alone_are_two() {
    let mut registry = registry();
    registry.watch(ALICE, Interest::Topic(topic("Orders"))).unwrap();
    registry.watch(BOB, Interest::Topic(topic("orders"))).unwrap();
    let mut keepers = [Keeper::default(), Keeper::default()];
    let mut seen = |registry: &mut Registry| {
        let [alice, bob] = &mut keepers;
        alice.drain(registry, ALICE);
        bob.drain(registry, BOB);
        [alice.nodes.len(), bob.nodes.len()]
    };
    let upper = node("n1", 1).with_topics(topics(&["Orders"]));
    registry.announce(at(0), SessionId(1), &upper).unwrap();
    assert_eq!(seen(&mut registry), [1, 0]);
    let _ = registry.take_ready();
    let lower = NodeChange { has: vec![(topic("orders"), BTreeSet::new())], ..Default::default() };
    registry.update(at(0), SessionId(1), lower).unwrap();
    assert_eq!(registry.take_ready(), BTreeSet::from([BOB]));
    assert_eq!((seen(&mut registry), registry.counts().topics), ([1, 1], 2));
    let gone = NodeChange { lacks: vec![topic("Orders")], ..Default::default() };
    registry.update(at(0), SessionId(1), gone).unwrap();
    assert_eq!(seen(&mut registry), [0, 1]);
}

#[test]
fn there_are_as_many_as_there_may_be_and_no_more() {
    let settings = RegistrySettings {
        nodes_max: 2,
        topics_max: 3,
        channels_max: 2,
        watchers_max: 1,
        ..RegistrySettings::default()
    };
    let mut registry = Registry::new(settings).unwrap();
    registry
        .announce(at(0), SessionId(1), &node("n1", 1).with_topics(topics(&["a", "b"])))
        .unwrap();
    registry.announce(at(0), SessionId(2), &node("n2", 1).with_topics(topics(&["a"]))).unwrap();
    let error = registry.announce(at(0), SessionId(3), &node("n3", 1)).unwrap_err();
    assert!(error.to_string().contains("of nodes there are 3, and 2 is the most"), "{error}");
    let more = NodeChange { has: vec![(topic("c"), BTreeSet::new())], ..Default::default() };
    let error = registry.update(at(0), SessionId(1), more.clone()).unwrap_err().to_string();
    assert!(error.contains("of topics at nodes there are 4, and 3 is the most"), "{error}");
    let channels = (0..3).map(|n| format!("c{n}").parse().unwrap()).collect();
    let wide = NodeChange { has: vec![(topic("a"), channels)], ..Default::default() };
    let error = registry.update(at(0), SessionId(1), wide).unwrap_err().to_string();
    assert!(error.contains("channels at nodes"), "{error}");
    let other = NodeChange { lacks: vec![topic("a")], ..more };
    registry.update(at(0), SessionId(1), other).unwrap();
    let of = registry.nodes().next().unwrap().topics().unwrap().clone();
    assert_eq!(of, topics(&["b", "c"]));
    registry.watch(ALICE, Interest::Everything).unwrap();
    registry.watch(ALICE, Interest::Topic(topic("a"))).unwrap();
    assert_eq!(registry.watch(BOB, Interest::Everything), Err(TooManyWatchers { max: 1 }));
    registry.unwatch(ALICE);
    registry.watch(BOB, Interest::Everything).unwrap();
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Announce { session: u64, node: usize, epoch: u64, topics: Option<BTreeSet<usize>> },
    Beat { session: u64, load: u32 },
    Update { session: u64, drains: Option<bool>, has: BTreeMap<usize, u8>, lacks: BTreeSet<usize> },
    Withdraw { session: u64 },
    Ends { session: u64 },
    Passes { millis: u64 },
    Watch { who: u64, interest: Interest },
    Unwatch { who: u64 },
    Tell { who: u64, most: usize },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let topics = || proptest::collection::btree_set(0..5_usize, 0..4);
    let has = proptest::collection::btree_map(0..5_usize, 0..3_u8, 0..3);
    prop_oneof![
        3 => (0..4_u64, 0..4_usize, 0..3_u64, proptest::option::weighted(0.8, topics()))
            .prop_map(|(session, node, epoch, topics)| Announce { session, node, epoch, topics }),
        3 => (0..4_u64, 0..50_u32).prop_map(|(session, load)| Beat { session, load }),
        4 => (0..4_u64, proptest::option::of(any::<bool>()), has, topics())
            .prop_map(|(session, drains, has, lacks)| Update { session, drains, has, lacks }),
        1 => (0..4_u64).prop_map(|session| Withdraw { session }),
        1 => (0..4_u64).prop_map(|session| Ends { session }),
        2 => (0..20_000_u64).prop_map(|millis| Passes { millis }),
        2 => (0..4_u64, interest()).prop_map(|(who, interest)| Watch { who, interest }),
        1 => (0..4_u64).prop_map(|who| Unwatch { who }),
        3 => (0..4_u64, 0..3_usize).prop_map(|(who, most)| Tell { who, most }),
    ]
}

fn interest() -> impl Strategy<Value = Interest> {
    prop_oneof![
        Just(Interest::Nodes),
        (0..5_usize).prop_map(|number| Interest::Topic(named(number))),
        Just(Interest::Everything),
    ]
}

fn named(number: usize) -> TopicName {
    topic(&format!("t{number}"))
}

proptest! {
    /// Whoever took all that he was told has what the registry has; and a registry that has been told
    /// nothing more knows nobody in the end.
    #[test]
    fn watchers_end_with_what_there_is(
        steps in proptest::collection::vec(step(), 0..120),
        is_slow in any::<bool>(),
    ) {
        let mut registry = registry();
        if is_slow {
            registry.paces().be_slow();
        }
        let (mut now, mut watched, mut keepers) = (0, BTreeMap::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Announce { session, node: number, epoch, topics } => {
                    let mut info = node(&format!("n{number}"), epoch);
                    if let Some(topics) = topics {
                        info = info.with_topics(topics.into_iter().map(|it| (named(it), BTreeSet::new())).collect());
                    } else {
                        info = NodeInfo::new(info.id().clone(), info.addresses().to_vec()).unwrap().with_epoch(info.epoch());
                    }
                    let _ = registry.announce(at(now), SessionId(session), &info);
                }
                Step::Beat { session, load } => drop(registry.heartbeat(at(now), SessionId(session), Load(load))),
                Step::Update { session, drains, has, lacks } => {
                    let state = drains.map(|drains| if drains { NodeState::Draining } else { NodeState::Ready });
                    let channels = |count: u8| (0..count).map(|n| format!("c{n}").parse().unwrap()).collect();
                    let has = has.into_iter().map(|(it, count)| (named(it), channels(count))).collect();
                    let lacks = lacks.into_iter().map(named).collect();
                    let _ = registry.update(at(now), SessionId(session), NodeChange { state, has, lacks });
                }
                Step::Withdraw { session } => drop(registry.withdraw(at(now), SessionId(session))),
                Step::Ends { session } => registry.session_ended(at(now), SessionId(session)),
                Step::Passes { millis } => {
                    now += millis;
                    registry.tick(at(now));
                }
                Step::Watch { who, interest } => {
                    registry.watch(WatcherId(who), interest.clone()).unwrap();
                    watched.insert(who, interest);
                    keepers.entry(who).or_insert_with(Keeper::default);
                }
                Step::Unwatch { who } => {
                    registry.unwatch(WatcherId(who));
                    watched.remove(&who);
                    prop_assert!(registry.tell_watcher(WatcherId(who), 5).is_empty());
                }
                Step::Tell { who, most } => {
                    let told = registry.tell_watcher(WatcherId(who), most);
                    if let Some(keeper) = keepers.get_mut(&who) {
                        keeper.take(told);
                    }
                }
            }
            registry.assert_consistent();
        }
        // What waits is told in its time.
        while let Some(due) = registry.paces().next_due() {
            registry.tick(due.max(at(now)));
        }
        // Who is owed something is named, or has been and was not told all since.
        for (who, interest) in &watched {
            let keeper = keepers.get_mut(who).unwrap();
            keeper.drain(&mut registry, WatcherId(*who));
            prop_assert!(keeper.is_complete);
            let expected: BTreeMap<_, _> = registry
                .nodes()
                .filter_map(|node| Some((node.id().clone(), interest.view(node)?)))
                .collect();
            prop_assert_eq!(&keeper.nodes, &expected);
        }
        registry.tick(at(now + 200_000));
        registry.tick(at(now + 400_000));
        prop_assert_eq!(registry.nodes().count(), 0);
        registry.tick(at(now + 500_000));
        registry.assert_consistent();
        for who in watched.keys() {
            let keeper = keepers.get_mut(who).unwrap();
            keeper.drain(&mut registry, WatcherId(*who));
            prop_assert!(keeper.nodes.is_empty());
        }
    }
}
