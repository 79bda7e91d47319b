//! Which node keeps the order of what, and when that changes. No IO, no clock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use ltq_core::TopicName;
use ltq_discovery::NodeId;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// What an ordered producer does while the node of an order cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// It waits for that node, and fails when the publish timeout is up. That does not end when the node is
    /// forgotten: one that served and went without a word crashed or is cut off, and what it stored lies there. Its
    /// keys wait for it, or for a node that is started in its place under its id, as long as the
    /// [`Cluster`](crate::Cluster) lives, or until it is [given up](crate::Cluster::give_up). A node that withdraws
    /// itself, drains, or is taken out of a list or a name's addresses is a member no more, and its keys move. Of a
    /// withdrawal that nobody is left to tell of nothing is known, and the node counts as lost. A program that is
    /// started when the node is forgotten already knows nothing of it.
    Fail,
    /// It goes on at the next node when the node has been of no use for
    /// [`failover_after`](crate::ClusterProducerBuilder::failover_after): the order moves there, and back when
    /// the node is there again.
    Move,
}

/// What shares one order: the messages of a topic without a key, or those whose keys fall on the same
/// of 4,096 slots. Slots bound what a producer remembers; all keys of one move together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u16);

impl Slot {
    /// That of a message: by its key, or by its topic where it has none. A key has the same slot in
    /// every topic.
    pub(crate) fn of(topic: &TopicName, key: Option<&[u8]>) -> Self {
        let hash = hash(&[key.unwrap_or_else(|| topic.as_str().as_bytes())]);
        Self((hash % u64::from(SLOTS)) as u16)
    }
}

/// How many slots there are.
pub(crate) const SLOTS: u16 = 4_096;

/// The first 64 bits of SHA-256: the same in every program, version and language.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// How much a node wants a slot.
fn weight(slot: Slot, node: &NodeId) -> u64 {
    #[cfg(test)]
    tests::WEIGHED.with(|count| count.set(count.get() + 1));
    hash(&[&slot.0.to_be_bytes(), node.as_str().as_bytes()])
}

/// The node of a slot: the one of the greatest weight. A node that joins takes its share of slots from
/// all the others, and one that leaves gives its own to all of them; no other slot moves.
///
/// Rendezvous hashing: D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates",
/// IEEE/ACM Transactions on Networking 6(1), 1998.
pub(crate) fn rendezvous(slot: Slot, nodes: &[NodeId]) -> Option<&NodeId> {
    nodes.iter().max_by_key(|node| (weight(slot, node), *node))
}

/// Which of these nodes an [ordered](crate::ClusterProducerBuilder::ordered) producer gives messages of a topic
/// to that have this key, or none; `None` without nodes.
///
/// For programs that put messages where such a producer would, as a node does that hands over what it has. The
/// producer counts the nodes that it knows and that do not drain. Every program, version and language comes to
/// the same: of the first 64 bits of SHA-256 of the key, or of the topic's name where there is none, the last 12
/// are the slot. The node is the one with the greatest first 64 bits of SHA-256 of the slot, as two bytes
/// with the high one first, and the node's id behind it.
#[must_use]
pub fn ordered_home<'a>(
    topic: &TopicName,
    key: Option<&[u8]>,
    nodes: &'a [NodeId],
) -> Option<&'a NodeId> {
    rendezvous(Slot::of(topic, key), nodes)
}

/// Where each slot's order is kept, and what of it is under way.
#[derive(Debug)]
pub(crate) struct Order {
    /// In the order of their ids.
    nodes: Vec<NodeId>,
    slots: BTreeMap<Slot, SlotState>,
    moves_silently: bool,
}

#[derive(Debug, Default)]
struct SlotState {
    /// Its node and how much that wants it, once somebody has asked.
    home: Option<(u64, NodeId)>,
    /// Where the last message went.
    last: Option<NodeId>,
    /// At that node.
    unanswered: usize,
    /// For their turn.
    waiting: usize,
    /// Of its last move some were told who may not have heard it.
    told: Option<Told>,
}

/// A move that those were told of who waited.
#[derive(Debug)]
struct Told {
    from: NodeId,
    to: NodeId,
    unheard: Weak<()>,
    /// When the time of all of them is up, whether they have heard it or not.
    until: Instant,
}

/// Word of a move that is on its way to who waits for it: until it is taken, or nobody is there to take it, nothing
/// of the slot is sent. What is published behind one that was told would be stored before its publisher could
/// publish that one again.
#[derive(Clone, Debug)]
pub(crate) struct Unheard(#[expect(dead_code, reason = "what counts is that it is there")] Arc<()>);

/// What the next message of a slot is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Go to this node.
    Go(NodeId),
    /// Wait: there is no node, or what went to another one is not answered.
    Wait,
    /// Be told that the order moves. The next one may go.
    Moved { from: NodeId, to: NodeId },
    /// Be told of that move, too: not all who were told before have heard it.
    Told { from: NodeId, to: NodeId },
}

impl Order {
    pub(crate) const fn new(moves_silently: bool) -> Self {
        Self { nodes: Vec::new(), slots: BTreeMap::new(), moves_silently }
    }

    /// These are the nodes that may have slots, in the order of their ids.
    ///
    /// A slot that is in use is asked again of those that are new, and of all only where its own node is gone:
    /// each change costs as much as there are slots, however many nodes there are.
    pub(crate) fn set_nodes(&mut self, nodes: Vec<NodeId>) {
        if self.nodes == nodes {
            return;
        }
        let is_new = |id: &&NodeId| self.nodes.binary_search(id).is_err();
        let new: Vec<_> = nodes.iter().filter(is_new).collect();
        for (slot, state) in &mut self.slots {
            let Some((weight_now, home)) = &mut state.home else { continue };
            if nodes.binary_search(home).is_err() {
                state.home = None;
                continue;
            }
            for id in &new {
                let rank = (weight(*slot, id), *id);
                if rank > (*weight_now, &*home) {
                    (*weight_now, *home) = (rank.0, rank.1.clone());
                }
            }
        }
        self.nodes = nodes;
    }

    /// What a message of this slot is to do that nobody waits before.
    pub(crate) fn turn(&mut self, slot: Slot, now: impl FnOnce() -> Instant) -> Turn {
        let nodes = &self.nodes;
        let state = self.slots.entry(slot).or_default();
        if let Some(told) = &state.told {
            if told.unheard.strong_count() > 0 && now() < told.until {
                return Turn::Told { from: told.from.clone(), to: told.to.clone() };
            }
            state.told = None;
        }
        if state.home.is_none() {
            state.home = rendezvous(slot, nodes).map(|home| (weight(slot, home), home.clone()));
        }
        let home = state.home.as_ref().map(|(_, home)| home.clone());
        let Some(to) = home else { return Turn::Wait };
        match &state.last {
            Some(from) if *from != to => {
                if state.unanswered > 0 {
                    return Turn::Wait;
                }
                let from = from.clone();
                state.last = Some(to.clone());
                if self.moves_silently { Turn::Go(to) } else { Turn::Moved { from, to } }
            }
            _ => Turn::Go(to),
        }
    }

    /// Those who waited are told of a move of the slot that was [theirs](Turn::Moved), all of whose time is up by
    /// then. It is over when what this returns is gone.
    pub(crate) fn tell(
        &mut self,
        slot: Slot,
        (from, to): (NodeId, NodeId),
        until: Instant,
    ) -> Unheard {
        let unheard = Arc::new(());
        let told = Told { from, to, unheard: Arc::downgrade(&unheard), until };
        self.slots.entry(slot).or_default().told = Some(told);
        Unheard(unheard)
    }

    /// A message of the slot is on its way to a node.
    pub(crate) fn sent(&mut self, slot: Slot, to: &NodeId) {
        let state = self.slots.entry(slot).or_default();
        state.last = Some(to.clone());
        state.unanswered += 1;
    }

    /// It is no more. Returns whether somebody may have waited for that.
    pub(crate) fn answered(&mut self, slot: Slot) -> bool {
        let Some(state) = self.slots.get_mut(&slot) else { return false };
        state.unanswered = state.unanswered.saturating_sub(1);
        state.unanswered == 0 && state.waiting > 0
    }

    /// One more of the slot waits for its turn.
    pub(crate) fn wait(&mut self, slot: Slot) {
        self.slots.entry(slot).or_default().waiting += 1;
    }

    /// One of them waits no more.
    pub(crate) fn waited(&mut self, slot: Slot) {
        if let Some(state) = self.slots.get_mut(&slot) {
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// Whether messages of the slot wait.
    pub(crate) fn is_waiting(&self, slot: Slot) -> bool {
        self.slots.get(&slot).is_some_and(|state| state.waiting > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        pub(super) static WEIGHED: Cell<usize> = const { Cell::new(0) };
    }

    /// Nobody was told of anything: no clock is needed.
    fn turn(order: &mut Order, slot: Slot) -> Turn {
        order.turn(slot, || panic!("no clock"))
    }

    fn weighed() -> usize {
        WEIGHED.with(|count| count.replace(0))
    }

    fn nodes(count: usize) -> Vec<NodeId> {
        (0..count).map(|n| format!("node-{n}").parse().unwrap()).collect()
    }

    fn topic() -> TopicName {
        "orders".parse().unwrap()
    }

    /// Other programs may count on these.
    #[test]
    fn slots_and_homes_are_the_same_for_ever() {
        // The first eight bytes of SHA-256 of "abc", from FIPS 180-4's example.
        assert_eq!(hash(&[b"a", b"bc"]), 0xba78_16bf_8f01_cfea);
        assert_eq!(Slot::of(&topic(), Some(b"abc")), Slot(0xfea));
        assert_eq!(Slot::of(&topic(), None), Slot::of(&topic(), Some(b"orders")));
        let nodes = nodes(5);
        let homes = [0, 1, 2, 4_095].map(|slot| rendezvous(Slot(slot), &nodes).unwrap().as_str());
        assert_eq!(homes, PINNED);
    }

    const PINNED: [&str; 4] = ["node-3", "node-4", "node-1", "node-4"];

    #[test]
    fn each_node_has_about_its_share() {
        let nodes = nodes(8);
        let mut counts = BTreeMap::<&NodeId, usize>::new();
        for slot in 0..SLOTS {
            *counts.entry(rendezvous(Slot(slot), &nodes).unwrap()).or_default() += 1;
        }
        assert_eq!(counts.len(), 8);
        assert!(counts.values().all(|count| (400..=624).contains(count)), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn a_node_that_joins_moves_its_share_and_nothing_else(count in 1..20_usize, seed: u32) {
            let before: Vec<NodeId> =
                (0..count).map(|n| format!("n-{seed}-{n}").parse().unwrap()).collect();
            let new: NodeId = format!("n-{seed}-new").parse().unwrap();
            let after: Vec<_> = before.iter().cloned().chain([new.clone()]).collect();
            let mut moved = 0_u32;
            for slot in (0..SLOTS).map(Slot) {
                let (old, now) = (rendezvous(slot, &before), rendezvous(slot, &after));
                if old != now {
                    prop_assert_eq!(now, Some(&new));
                    moved += 1;
                }
            }
            let share = u32::from(SLOTS) / (count as u32 + 1);
            prop_assert!(moved.abs_diff(share) <= share / 4 + 60, "{} of {}", moved, share);
        }
    }

    /// Of each slot at each step.
    fn homes_are_as_among_all(steps: &[Vec<usize>]) {
        let all = nodes(40);
        let mut order = Order::new(true);
        for step in steps {
            let now: BTreeSet<_> = step.iter().map(|n| all[*n].clone()).collect();
            let now: Vec<_> = now.into_iter().collect();
            order.set_nodes(now.clone());
            for slot in (0..SLOTS).step_by(512).map(Slot) {
                let home = rendezvous(slot, &now).cloned();
                assert_eq!(turn(&mut order, slot), home.map_or(Turn::Wait, Turn::Go));
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_each_slot_is_where_it_is_among_all(
            steps in proptest::collection::vec(proptest::collection::vec(0..40_usize, 0..20), 1..8),
        ) {
            homes_are_as_among_all(&steps);
        }
    }

    #[test]
    fn a_node_that_comes_or_goes_costs_what_there_are_slots_however_many_nodes_there_are() {
        const NODES: usize = 500;
        let mut sorted = nodes(NODES);
        sorted.sort();
        let slots: Vec<_> = (0..SLOTS).step_by(8).map(Slot).collect();
        let mut order = Order::new(true);
        let mut look = |nodes: &[NodeId]| {
            weighed();
            order.set_nodes(nodes.to_vec());
            slots.iter().for_each(|slot| drop(turn(&mut order, *slot)));
            weighed()
        };
        look(&sorted[..NODES - 1]);
        let joins = look(&sorted);
        assert_eq!(joins, slots.len(), "each slot is asked of the new one");
        let leaves = look(&sorted[..NODES - 1]);
        // About one of these slots was its own, to be asked of all others.
        assert!(leaves <= NODES * 6, "{leaves}");
        assert_eq!(look(&sorted[..NODES - 1]), 0, "nothing is new");
    }

    #[test]
    fn a_move_is_told_once_for_each_slot_when_the_old_node_has_answered() {
        let all = nodes(2);
        let mut order = Order::new(false);
        let slot = Slot(1);
        assert_eq!(turn(&mut order, slot), Turn::Wait, "there is no node");
        order.set_nodes(vec![all[0].clone()]);
        assert_eq!(turn(&mut order, slot), Turn::Go(all[0].clone()));
        order.sent(slot, &all[0]);
        order.wait(slot);
        order.set_nodes(vec![all[1].clone()]);
        assert_eq!(turn(&mut order, slot), Turn::Wait, "one is unanswered at the old node");
        assert!(order.answered(slot));
        let moved = Turn::Moved { from: all[0].clone(), to: all[1].clone() };
        assert_eq!(turn(&mut order, slot), moved);
        order.waited(slot);
        assert!(!order.is_waiting(slot));
        for _ in 0..3 {
            assert_eq!(turn(&mut order, slot), Turn::Go(all[1].clone()), "it was told");
        }
        assert_eq!(
            turn(&mut order, Slot(2)),
            Turn::Go(all[1].clone()),
            "nothing of it went before"
        );
        order.set_nodes(vec![all[0].clone()]);
        let back = Turn::Moved { from: all[1].clone(), to: all[0].clone() };
        assert_eq!(turn(&mut order, slot), back);
    }

    #[test]
    fn who_wants_not_to_be_told_is_not() {
        let all = nodes(2);
        let mut order = Order::new(true);
        order.set_nodes(vec![all[0].clone()]);
        order.sent(Slot(9), &all[0]);
        order.answered(Slot(9));
        order.set_nodes(vec![all[1].clone()]);
        assert_eq!(turn(&mut order, Slot(9)), Turn::Go(all[1].clone()));
    }

    #[test]
    fn nothing_of_a_slot_is_sent_until_all_who_were_told_of_its_move_have_heard_it() {
        let all = nodes(2);
        let mut order = Order::new(false);
        let (slot, start) = (Slot(1), Instant::now());
        let second = std::time::Duration::from_secs(1);
        order.set_nodes(vec![all[0].clone()]);
        order.sent(slot, &all[0]);
        order.answered(slot);
        order.set_nodes(vec![all[1].clone()]);
        let (from, to) = (all[0].clone(), all[1].clone());
        let told = Turn::Told { from: from.clone(), to: to.clone() };
        let go = Turn::Go(to.clone());
        assert_eq!(turn(&mut order, slot), Turn::Moved { from: from.clone(), to: to.clone() });
        let first = order.tell(slot, (from.clone(), to.clone()), start + second);
        let second_one = first.clone();
        assert_eq!(order.turn(slot, || start), told);
        drop(first);
        assert_eq!(order.turn(slot, || start), told, "the other one has not heard it");
        assert_eq!(turn(&mut order, Slot(2)), go, "it is another slot's");
        drop(second_one);
        assert_eq!(turn(&mut order, slot), go);
        let _never = order.tell(slot, (from, to), start + second);
        assert_eq!(order.turn(slot, || start), told);
        assert_eq!(order.turn(slot, || start + second), go, "its time is up");
        assert_eq!(turn(&mut order, slot), go);
    }
}
