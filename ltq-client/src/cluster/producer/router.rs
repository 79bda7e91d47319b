//! Where the next message of a cluster's producer goes, and what waits for a node. No IO, no clock of
//! its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ltq_core::Refusal;
use ltq_discovery::NodeId;
use tokio::time::Instant;

use super::errand::Errand;
use crate::{
    Choice, ClusterPublishError,
    cluster::{
        choice::Chooser,
        loads::SharedLoad,
        order::{Order, Slot, Turn},
    },
    producer::{Fault, Lent, Rest},
};

/// What all handles of a producer, its task and its producers on the nodes look at, under one lock.
#[derive(Debug)]
pub(super) struct Router {
    /// Nothing more is published.
    pub(super) ended: Option<ClusterPublishError>,
    chooser: Chooser,
    /// Among those that are open, where the one that was chosen is not: another turn than that among all.
    chooser_of_open: Chooser,
    /// In the order of their ids.
    candidates: Vec<Candidate>,
    /// The one that was chosen last, if messages may follow each other, and what it had taken by then.
    last: Option<(Arc<Lent>, usize)>,
    /// Which of them have a producer, by their places.
    open: Vec<usize>,
    pub(super) order: Option<Order>,
    /// What waits for a node, by its number.
    waiting: BTreeMap<u64, Waiting>,
    /// The numbers of those that have a slot, by it. None is empty.
    of_slot: BTreeMap<Slot, BTreeSet<u64>>,
    /// Nothing that waits has an earlier deadline.
    earliest: Option<Instant>,
    /// Nodes that were chosen, and have no producer that could take a message.
    wanted: BTreeSet<NodeId>,
    /// There are more of them since the task looked.
    is_more_wanted: bool,
    passed: BTreeMap<NodeId, PassedOver>,
}

/// A node that may be given messages.
pub(super) struct Candidate {
    pub(super) id: NodeId,
    /// How much waits there, as it says, in KiB.
    pub(super) load: SharedLoad,
    /// The producer on it, if it can take a message now.
    pub(super) lent: Option<Arc<Lent>>,
}

impl Candidate {
    /// In bytes: a node says it in KiB.
    fn to_do(&self) -> u64 {
        let held = self.lent.as_ref().map_or(0, |lent| lent.behalf().held());
        self.load.get().saturating_mul(1 << 10).saturating_add(held as u64)
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Candidate").field(&self.id).finish()
    }
}

/// A call without a node.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) errand: Errand,
    pub(super) rest: Rest,
}

/// A node that refused something.
#[derive(Clone, Debug)]
pub(super) struct PassedOver {
    pub(super) refusal: Refusal,
    /// `None` for good.
    pub(super) until: Option<Instant>,
    /// In a row.
    pub(super) failures: u32,
}

impl PassedOver {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether another node would say the same, or this one always will.
    pub(super) const fn is_final(&self) -> bool {
        self.until.is_none() || !matches!(Fault::of(self.refusal.code), Fault::Node)
    }
}

/// Where a message goes.
pub(super) enum Spot {
    At(Arc<Lent>),
    /// Nowhere yet.
    Waits,
    /// Nowhere, and its publisher is told that the order moves.
    Moved {
        from: NodeId,
        to: NodeId,
        /// Nobody was told of it before.
        is_news: bool,
    },
}

impl Router {
    pub(super) const fn new(choice: Choice, order: Option<Order>) -> Self {
        Self {
            ended: None,
            chooser: Chooser::new(choice),
            chooser_of_open: Chooser::new(choice),
            candidates: Vec::new(),
            last: None,
            open: Vec::new(),
            order,
            waiting: BTreeMap::new(),
            of_slot: BTreeMap::new(),
            earliest: None,
            wanted: BTreeSet::new(),
            is_more_wanted: false,
            passed: BTreeMap::new(),
        }
    }

    /// Where a message goes that nobody waits before.
    pub(super) fn spot(
        &mut self,
        slot: Option<Slot>,
        now: impl FnOnce() -> Instant,
        mut random: impl FnMut() -> u64,
    ) -> Spot {
        let (Some(slot), Some(order)) = (slot, &mut self.order) else {
            return self.chosen(&mut random);
        };
        match order.turn(slot, now) {
            Turn::Wait => Spot::Waits,
            Turn::Moved { from, to } => Spot::Moved { from, to, is_news: true },
            Turn::Told { from, to } => Spot::Moved { from, to, is_news: false },
            Turn::Go(to) => {
                let found = self.candidates.binary_search_by(|one| one.id.cmp(&to));
                let lent = found.ok().and_then(|index| self.candidates.get(index)?.lent.clone());
                let Some(lent) = lent else {
                    self.is_more_wanted |= self.wanted.insert(to);
                    return Spot::Waits;
                };
                order.sent(slot, &to);
                Spot::At(lent)
            }
        }
    }

    /// Where a message goes that may go to any node.
    fn chosen(&mut self, mut random: impl FnMut() -> u64) -> Spot {
        if let Some((last, before)) = &self.last {
            let behalf = last.behalf();
            if behalf.is_gathering() && behalf.taken().wrapping_sub(*before) < FOLLOW_BYTES {
                return Spot::At(last.clone());
            }
        }
        let candidates = &self.candidates;
        let load = |index: usize| candidates.get(index).map_or(0, Candidate::to_do);
        let chosen = self.chooser.choose(candidates.len(), load, &mut random);
        let Some(chosen) = chosen.and_then(|index| candidates.get(index)) else {
            return Spot::Waits;
        };
        let mut lent = chosen.lent.clone();
        if lent.is_none() {
            if !self.wanted.contains(&chosen.id) {
                self.wanted.insert(chosen.id.clone());
                self.is_more_wanted = true;
            }
            // It is opened beside; this message goes to one that is open.
            let open = |index: usize| self.open.get(index).and_then(|at| candidates.get(*at));
            let load = |index: usize| open(index).map_or(0, Candidate::to_do);
            let chosen = self.chooser_of_open.choose(self.open.len(), load, random);
            lent = chosen.and_then(|index| open(index)?.lent.clone());
        }
        let follows = lent.clone().filter(|_| self.chooser.lets_follow());
        self.last = follows.map(|lent| (lent.clone(), lent.behalf().taken()));
        lent.map_or(Spot::Waits, Spot::At)
    }

    /// Whether something waits that a new message of this slot must not overtake.
    pub(super) fn waits_before(&self, slot: Option<Slot>) -> bool {
        match (&self.order, slot) {
            (Some(order), Some(slot)) => order.is_waiting(slot),
            _ => false,
        }
    }

    /// What was sent to a node is with it no more. Returns whether somebody may have waited for that.
    pub(super) fn answered(&mut self, slot: Option<Slot>) -> bool {
        match (&mut self.order, slot) {
            (Some(order), Some(slot)) => order.answered(slot),
            _ => false,
        }
    }

    /// A producer takes nothing any more.
    pub(super) fn lost(&mut self, lent: &Arc<Lent>) {
        self.last = None;
        for candidate in &mut self.candidates {
            if candidate.lent.as_ref().is_some_and(|one| Arc::ptr_eq(one, lent)) {
                candidate.lent = None;
            }
        }
        self.note_open();
    }

    /// Lets a call wait. Returns whether the task has to be told: nothing waits in front of it that it is
    /// to look after already.
    pub(super) fn wait(&mut self, waiting: Waiting) -> bool {
        let deadline = waiting.rest.deadline;
        let is_earliest = self.earliest.is_none_or(|earliest| deadline < earliest);
        if is_earliest {
            self.earliest = Some(deadline);
        }
        let number = waiting.errand.number;
        let is_first = match waiting.errand.slot {
            Some(slot) => {
                let numbers = self.of_slot.entry(slot).or_default();
                numbers.insert(number);
                if let Some(order) = &mut self.order {
                    order.wait(slot);
                }
                numbers.first() == Some(&number)
            }
            None => self.waiting.is_empty(),
        };
        self.waiting.insert(number, waiting);
        is_first || is_earliest || self.is_more_wanted
    }

    /// Takes one out that is to be given to a node. Nothing of its slot overtakes it before
    /// [`handed_out`](Self::handed_out).
    pub(super) fn hand_out(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        if let Some(slot) = waiting.errand.slot
            && let Some(numbers) = self.of_slot.get_mut(&slot)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_slot.remove(&slot);
            }
        }
        if self.waiting.is_empty() {
            self.earliest = None;
        }
        Some(waiting)
    }

    /// One of the slot that was taken out is where it goes.
    pub(super) fn handed_out(&mut self, slot: Option<Slot>) {
        if let (Some(order), Some(slot)) = (&mut self.order, slot) {
            order.waited(slot);
        }
    }

    fn take_waiting(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.hand_out(number)?;
        self.handed_out(waiting.errand.slot);
        Some(waiting)
    }

    /// All that waits.
    pub(super) fn take_all_waiting(&mut self) -> Vec<Waiting> {
        let numbers: Vec<_> = self.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.take_waiting(number)).collect()
    }

    /// All of a slot that waits. It costs nothing what else does.
    pub(super) fn take_slot(&mut self, slot: Option<Slot>) -> Vec<Waiting> {
        let numbers = slot.and_then(|slot| self.of_slot.get(&slot)).cloned().unwrap_or_default();
        numbers.into_iter().filter_map(|number| self.take_waiting(number)).collect()
    }

    /// The same for those who are to be told that its order moves; nothing of it is sent until they have heard it.
    pub(super) fn tell_slot(
        &mut self,
        slot: Option<Slot>,
        from: &NodeId,
        to: &NodeId,
    ) -> Vec<Waiting> {
        let mut told = self.take_slot(slot);
        let until = told.iter().map(|one| one.rest.deadline).max();
        if let (Some(order), Some(slot), Some(until)) = (&mut self.order, slot, until) {
            let unheard = order.tell(slot, (from.clone(), to.clone()), until);
            told.iter_mut().for_each(|one| one.errand.tell(unheard.clone()));
        }
        told
    }

    /// The slots of which something waits, whatever has waited longest first; `None` for what has none.
    pub(super) fn slots_waiting(&self) -> Vec<Option<Slot>> {
        if self.order.is_none() {
            return self.waiting.first_key_value().map(|_| None).into_iter().collect();
        }
        let first = |(slot, numbers): (&Slot, &BTreeSet<u64>)| (numbers.first().copied(), *slot);
        let mut slots: Vec<_> = self.of_slot.iter().map(first).collect();
        slots.sort_unstable();
        slots.into_iter().map(|(_, slot)| Some(slot)).collect()
    }

    /// The number of the first of a slot that waits, or of all without one.
    pub(super) fn first_waiting(&self, slot: Option<Slot>) -> Option<u64> {
        match slot {
            Some(slot) => self.of_slot.get(&slot)?.first().copied(),
            None => self.waiting.first_key_value().map(|(number, _)| *number),
        }
    }

    /// Those whose time is up.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Waiting> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let all = self.waiting.iter();
        let late = all.filter(|(_, one)| one.rest.deadline <= now).map(|(number, _)| *number);
        let late: Vec<_> = late.collect();
        let late = late.into_iter().filter_map(|number| self.take_waiting(number)).collect();
        self.earliest = self.waiting.values().map(|one| one.rest.deadline).min();
        late
    }

    pub(super) const fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    pub(super) fn is_anything_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// These may be given messages from now on; in the order of their ids.
    pub(super) fn set_candidates(&mut self, candidates: Vec<Candidate>) {
        self.candidates = candidates;
        self.last = None;
        self.note_open();
        let candidates = &self.candidates;
        self.wanted.retain(|id| {
            let found = candidates.binary_search_by(|one| one.id.cmp(id));
            found.ok().and_then(|index| candidates.get(index)).is_some_and(|one| one.lent.is_none())
        });
    }

    fn note_open(&mut self) {
        let all = self.candidates.iter().enumerate();
        self.open.clear();
        self.open.extend(all.filter(|(_, one)| one.lent.is_some()).map(|(at, _)| at));
    }

    pub(super) fn wanted(&mut self) -> BTreeSet<NodeId> {
        self.is_more_wanted = false;
        self.wanted.clone()
    }

    /// Whether the task has to be told of those that are wanted.
    pub(super) const fn is_more_wanted(&self) -> bool {
        self.is_more_wanted
    }

    pub(super) fn passed(&self, node: &NodeId) -> Option<&PassedOver> {
        self.passed.get(node)
    }

    /// A node refused something. `wait` tells for how long it is passed over after so many refusals in
    /// a row; those of one moment count as one.
    pub(super) fn pass_over(
        &mut self,
        node: &NodeId,
        refusal: &Refusal,
        now: Instant,
        wait: impl FnOnce(u32) -> Instant,
    ) {
        let before = self.passed.get(node);
        if before.is_some_and(|before| !before.is_over(now)) {
            return;
        }
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let until = match Fault::of(refusal.code) {
            Fault::NodeForGood => None,
            Fault::Node | Fault::Publisher => Some(wait(failures)),
        };
        let passed = PassedOver { refusal: refusal.clone(), until, failures };
        self.passed.insert(node.clone(), passed);
    }

    /// A node stored something. Returns whether nothing is held against it any more.
    pub(super) fn trust(&mut self, node: &NodeId, now: Instant) -> bool {
        if self.passed.get(node).is_some_and(|passed| passed.is_over(now)) {
            self.passed.remove(node);
        }
        !self.passed.contains_key(node)
    }

    /// Forgets what is known of nodes that are gone.
    pub(super) fn retain_passed(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.passed.retain(|node, _| keep(node));
    }

    /// When the next node is to be tried again.
    pub(super) fn next_trial(&self, now: Instant) -> Option<Instant> {
        self.passed.values().filter_map(|passed| passed.until).filter(|until| *until > now).min()
    }
}

/// So much may follow a message to its node before the next node is chosen: some hundred small ones, of
/// which each costs little of a frame's header, its answer and a turn of its connection; and too few for
/// other nodes to lack them.
const FOLLOW_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltq_core::{Message, Records, RefusalCode};
    use tokio::sync::oneshot;

    use super::{super::errand::To, *};
    use crate::{cluster::Availability, producer::Room};

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn router(ordered: Option<Availability>) -> Router {
        Router::new(Choice::RoundRobin, ordered.map(|_| Order::new(false)))
    }

    fn spot(router: &mut Router) -> Spot {
        router.spot(None, Instant::now, || 0)
    }

    fn candidate(text: &str) -> Candidate {
        Candidate { id: id(text), load: SharedLoad::default(), lent: None }
    }

    fn waiting(number: u64, slot: Option<Slot>, deadline: Instant) -> Waiting {
        let records = vec![Records::encode([&Message::new("m")])];
        let errand = Errand::new(number, slot, To::One(oneshot::channel().0));
        let room = Room { messages: 1, bytes: 1 };
        Waiting { errand, rest: Rest { records, room, deadline } }
    }

    fn slot(key: &str) -> Option<Slot> {
        Some(Slot::of(&"t".parse().unwrap(), Some(key.as_bytes())))
    }

    #[test]
    fn a_node_without_a_producer_is_asked_for_once_and_given_nothing() {
        let mut router = router(None);
        assert!(matches!(spot(&mut router), Spot::Waits));
        router.set_candidates(vec![candidate("a"), candidate("b")]);
        assert!(matches!(spot(&mut router), Spot::Waits));
        assert!(router.is_more_wanted());
        assert_eq!(router.wanted(), [id("a")].into());
        assert!(matches!(spot(&mut router), Spot::Waits));
        assert_eq!(router.wanted(), [id("a"), id("b")].into(), "the other one in its turn");
        assert!(matches!(spot(&mut router), Spot::Waits));
        assert!(!router.is_more_wanted(), "both were asked for");
        router.set_candidates(vec![candidate("b")]);
        assert_eq!(router.wanted(), [id("b")].into(), "one that will not do is wanted no more");
    }

    #[test]
    fn what_waits_does_so_in_order_and_until_its_time_is_up() {
        let mut router = router(None);
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(router.wait(waiting(5, None, after(2))), "the first one is told of");
        assert!(router.wait(waiting(3, None, after(1))), "its time is up earlier");
        assert!(!router.wait(waiting(4, None, after(3))), "it goes with those before it");
        assert_eq!(router.first_waiting(None), Some(3), "what came back first");
        assert_eq!(router.slots_waiting(), [None]);
        assert!(router.take_late(now).is_empty());
        let late: Vec<_> = router.take_late(after(2)).iter().map(|one| one.errand.number).collect();
        assert_eq!(late, [3, 5]);
        assert_eq!(router.earliest(), Some(after(3)));
        assert_eq!(router.take_all_waiting().len(), 1);
        assert_eq!((router.earliest(), router.is_anything_waiting()), (None, false));
    }

    #[test]
    fn nobody_overtakes_what_waits_in_the_same_slot() {
        let mut router = router(Some(Availability::Fail));
        let now = Instant::now();
        router.wait(waiting(1, slot("a"), now));
        assert!(router.waits_before(slot("a")));
        assert!(!router.waits_before(slot("b")));
        router.wait(waiting(2, slot("a"), now));
        router.take_waiting(1);
        assert!(router.waits_before(slot("a")));
        assert_eq!(router.take_slot(slot("a")).len(), 1);
        assert!(!router.waits_before(slot("a")));
    }

    #[test]
    fn nobody_overtakes_what_is_on_its_way_to_its_node() {
        let mut router = router(Some(Availability::Fail));
        let now = Instant::now();
        router.wait(waiting(1, slot("a"), now));
        assert!(router.hand_out(1).is_some());
        assert!(router.waits_before(slot("a")), "its node has not taken it yet");
        router.handed_out(slot("a"));
        assert!(!router.waits_before(slot("a")));
    }

    #[test]
    fn the_task_is_told_of_the_first_of_each_slot_and_of_no_other() {
        let mut router = router(Some(Availability::Fail));
        let now = Instant::now();
        let news = [(3, "a"), (4, "a"), (5, "b"), (6, "b"), (2, "a"), (7, "a")];
        let told = news.map(|(number, key)| router.wait(waiting(number, slot(key), now)));
        assert_eq!(told, [true, false, true, false, true, false]);
        assert_eq!(router.slots_waiting(), [slot("a"), slot("b")], "the oldest first");
        assert_eq!(router.first_waiting(slot("b")), Some(5));
    }

    #[test]
    fn a_move_of_every_slot_looks_at_each_message_once() {
        let mut router = router(Some(Availability::Fail));
        let now = Instant::now();
        for number in 0..32_000 {
            router.wait(waiting(number, slot(&number.to_string()), now));
        }
        let start = std::time::Instant::now();
        let slots = router.slots_waiting();
        let taken: usize = slots.into_iter().map(|slot| router.take_slot(slot).len()).sum();
        assert_eq!((taken, router.is_anything_waiting()), (32_000, false));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[test]
    fn a_node_is_passed_over_longer_each_time_it_refuses_anew() {
        let mut router = router(None);
        let start = Instant::now();
        let full = Refusal::new(RefusalCode::StoreFull, "");
        let node = id("a");
        let second = Duration::from_secs(1);
        let refuse = |router: &mut Router, now| {
            router.pass_over(&node, &full, now, |failures| now + second * failures);
            router.passed(&node).unwrap().until.unwrap().duration_since(start).as_secs()
        };
        assert_eq!(refuse(&mut router, start), 1);
        assert_eq!(refuse(&mut router, start), 1, "it is the same refusal");
        assert_eq!(refuse(&mut router, start + second), 3, "it was tried again");
        let late = start + second * 2;
        assert!(!router.trust(&node, late), "what is stored now it took before");
        assert_eq!(router.next_trial(late), Some(start + second * 3));
        assert!(router.trust(&node, start + second * 3));
        assert!(router.passed(&node).is_none(), "it begins anew");
        let deleted = Refusal::new(RefusalCode::TopicDeleted, "");
        router.pass_over(&node, &deleted, start, |_| start);
        let passed = router.passed(&node).unwrap();
        assert!(passed.is_final() && !passed.is_over(start + second * 1_000));
    }
}
