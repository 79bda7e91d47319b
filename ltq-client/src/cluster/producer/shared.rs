//! What the handles of a cluster's producer, its task and its producers on the nodes share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ltq_core::{Entropy, Records, Refusal};
use ltq_discovery::NodeId;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Failover,
    behalf::Signal,
    errand::Errand,
    figures::Counts,
    router::{Router, Spot, Waiting},
    twins::Twins,
};
use crate::{
    Availability, Backoff, ClusterPublishError,
    cluster::order::Slot,
    connection::deadline,
    producer::{Elsewhere, Fault, Lent, Load, NoRoom, Rest, Room, Rooms, Settings, Then},
};

pub(crate) struct Shared {
    /// As each producer on a node has them.
    pub(super) settings: Settings,
    pub(super) failover: Failover,
    pub(super) failover_after: Duration,
    pub(super) silent_after: Duration,
    /// How many nodes it keeps to, unless it is ordered.
    pub(super) nodes_max: usize,
    pub(super) ordered: Option<Availability>,
    pub(super) ids: bool,
    pub(super) rooms: Arc<Rooms>,
    pub(super) router: Mutex<Router>,
    pub(super) signal: Arc<Signal>,
    pub(super) twins: Mutex<Twins>,
    pub(super) counts: Mutex<Counts>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) numbers: AtomicU64,
    /// The handles are gone, or the cluster is being closed: it ends when all is answered.
    pub(super) closing: AtomicBool,
    /// It ends at once.
    pub(super) given_up: AtomicBool,
    /// The task is at its end.
    pub(super) done: watch::Sender<bool>,
    failure: Mutex<Option<ClusterPublishError>>,
}

/// What a cluster's producer is made of.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) failover: Failover,
    pub(super) failover_after: Duration,
    pub(super) silent_after: Duration,
    pub(super) nodes_max: usize,
    pub(super) ordered: Option<Availability>,
    pub(super) ids: bool,
    pub(super) window: Room,
    pub(super) router: Router,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            settings: parts.settings,
            failover: parts.failover,
            failover_after: parts.failover_after,
            silent_after: parts.silent_after,
            nodes_max: parts.nodes_max,
            ordered: parts.ordered,
            ids: parts.ids,
            rooms: Arc::new(Rooms::new(parts.window)),
            router: Mutex::new(parts.router),
            signal: Arc::default(),
            twins: Mutex::default(),
            counts: Mutex::default(),
            entropy: parts.entropy,
            numbers: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            done: watch::Sender::new(false),
            failure: Mutex::new(None),
        }
    }

    /// What of that which fails on one node goes to another.
    pub(super) const fn elsewhere(&self) -> Elsewhere {
        match (self.ordered, self.failover) {
            // What is behind it may be on its way to the same node already.
            (Some(_), _) => Elsewhere::Unsent,
            (None, Failover::SameNode) => Elsewhere::NotStored,
            (None, Failover::AtLeastOnce) => Elsewhere::All,
        }
    }

    /// Gives a call to a node, or lets it wait for one.
    ///
    /// # Errors
    /// Why neither can be; nothing happened.
    pub(super) fn place(
        &self,
        mut load: Load,
        mut errand: Errand,
        room: (Room, Instant),
        linger_until: Option<Instant>,
        then: Then,
    ) -> Result<(), ClusterPublishError> {
        loop {
            let mut router = self.router.lock();
            if let Some(error) = &router.ended {
                let error = error.clone();
                drop(router);
                self.rooms.give_back(room.0);
                return Err(error);
            }
            let spot = match router.waits_before(errand.slot) {
                true => Spot::Waits,
                false => router.spot(errand.slot, Instant::now, || self.entropy.next()),
            };
            match spot {
                Spot::At(lent) => {
                    let is_more_wanted = router.is_more_wanted();
                    drop(router);
                    if is_more_wanted {
                        self.signal.look_here();
                    }
                    let slot = errand.slot;
                    match lent.take(load, room, linger_until, errand, then) {
                        Ok(()) => return Ok(()),
                        Err(back) => (load, errand) = back,
                    }
                    let mut router = self.router.lock();
                    router.lost(&lent);
                    router.answered(slot);
                    drop(router);
                    self.signal.look_here();
                }
                Spot::Waits => {
                    let (records, (room, deadline)) = (encoded(load), room);
                    let waiting = Waiting { errand, rest: Rest { records, room, deadline } };
                    let is_news = router.wait(waiting);
                    drop(router);
                    if is_news {
                        self.signal.look_here();
                    }
                    return Ok(());
                }
                Spot::Moved { from, to, is_news } => {
                    drop(router);
                    self.rooms.give_back(room.0);
                    return Err(self.order_moved(from, to, is_news));
                }
            }
        }
    }

    /// Gives what waits to nodes, as far as there are any for it. Returns whether there may be more to
    /// give: it is not done for too long at once.
    pub(super) fn place_waiting(&self) -> bool {
        let mut left = PLACED_AT_ONCE;
        let slots = self.router.lock().slots_waiting();
        for slot in slots {
            self.place_slot(slot, &mut left);
        }
        left == 0
    }

    /// Gives what waits of one slot to its node, and not more than `left`.
    fn place_slot(&self, slot: Option<Slot>, left: &mut usize) {
        while *left > 0 {
            let mut router = self.router.lock();
            let Some(number) = router.first_waiting(slot) else { return };
            match router.spot(slot, Instant::now, || self.entropy.next()) {
                Spot::Waits => return,
                Spot::At(lent) => {
                    let Some(waiting) = router.hand_out(number) else { return };
                    drop(router);
                    *left -= 1;
                    self.hand_to(&lent, waiting);
                }
                Spot::Moved { from, to, is_news } => {
                    // Those behind it were published without word of the move, too.
                    let told = router.tell_slot(slot, &from, &to);
                    drop(router);
                    *left = left.saturating_sub(told.len());
                    let error = self.order_moved(from, to, is_news);
                    told.into_iter().for_each(|one| self.fail_waiting(one, error.clone()));
                }
            }
        }
    }

    /// Gives one that waited to a node, or lets it wait again.
    fn hand_to(&self, lent: &Arc<Lent>, waiting: Waiting) {
        let Waiting { errand, rest: Rest { records, room, deadline } } = waiting;
        let slot = errand.slot;
        let load = Load::Records(records);
        let taken = lent.take(load, (room, deadline), None, errand, Then::More);
        let mut router = self.router.lock();
        let mut ended = None;
        if let Err((load, errand)) = taken {
            router.lost(lent);
            router.answered(slot);
            let waiting = Waiting { errand, rest: Rest { records: encoded(load), room, deadline } };
            match router.ended.clone() {
                None => drop(router.wait(waiting)),
                Some(error) => ended = Some((waiting, error)),
            }
        }
        // Only now: until here nothing of the slot could get in front of it.
        router.handed_out(slot);
        drop(router);
        if let Some((waiting, error)) = ended {
            self.fail_waiting(waiting, error);
        }
    }

    fn order_moved(&self, from: NodeId, to: NodeId, is_news: bool) -> ClusterPublishError {
        self.counts.lock().order_moves += u64::from(is_news);
        ClusterPublishError::OrderMoved { topic: self.settings.topic.clone(), from, to }
    }

    /// A producer on a node gives a call back.
    pub(super) fn take_back(&self, errand: Errand, rest: Rest) {
        let mut router = self.router.lock();
        let is_turn = router.answered(errand.slot);
        match router.ended.clone() {
            None => {
                let is_news = router.wait(Waiting { errand, rest });
                drop(router);
                if is_news || is_turn {
                    self.signal.look_here();
                }
            }
            Some(error) => {
                drop(router);
                self.fail(errand, Some(rest.room), error);
                self.signal.look_here();
            }
        }
    }

    /// The last call of a slot to a node is answered.
    pub(super) fn slot_answered(&self, slot: Slot) {
        if self.router.lock().answered(Some(slot)) {
            self.signal.look_here();
        }
    }

    /// Ends a call for good.
    pub(super) fn fail(&self, errand: Errand, room: Option<Room>, error: ClusterPublishError) {
        let error = errand.fail(error);
        self.failure.lock().get_or_insert(error);
        if let Some(room) = room {
            self.rooms.give_back(room);
        }
    }

    pub(super) fn fail_waiting(&self, waiting: Waiting, error: ClusterPublishError) {
        self.fail(waiting.errand, Some(waiting.rest.room), error);
    }

    /// The first failure since the last time.
    pub(super) fn take_failure(&self) -> Option<ClusterPublishError> {
        self.failure.lock().take()
    }

    /// A node refused the producer or a message.
    pub(super) fn pass_over(&self, node: &NodeId, refusal: &Refusal) {
        let now = Instant::now();
        let wait = |failures| {
            // What its publisher would have to change is asked about again seldom.
            let failures = match Fault::of(refusal.code) {
                Fault::Publisher => u32::MAX,
                _ => failures,
            };
            let backoff = Backoff::new(PASS_OVER_MIN, PASS_OVER_MAX);
            deadline(now, backoff.wait(failures, self.entropy.next()))
        };
        self.router.lock().pass_over(node, refusal, now, wait);
        self.signal.look_here();
    }

    /// A node that refused something stored something. Returns whether that is forgotten now.
    pub(super) fn trust(&self, node: &NodeId) -> bool {
        self.router.lock().trust(node, Instant::now())
    }

    /// Nothing more is taken; what waits for a node fails.
    pub(super) fn end(&self, error: &ClusterPublishError) {
        let mut router = self.router.lock();
        router.ended.get_or_insert_with(|| error.clone());
        let waiting = router.take_all_waiting();
        drop(router);
        waiting.into_iter().for_each(|one| self.fail_waiting(one, error.clone()));
        self.rooms.close();
        self.signal.look_here();
    }

    /// Takes nothing more; what was taken is still published.
    pub(in crate::cluster) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.rooms.close();
        self.signal.look_here();
    }

    /// Waits until everything is answered, or ends what is not by the deadline. Returns how many
    /// messages that were.
    pub(in crate::cluster) async fn closed_by(&self, deadline: Instant) -> usize {
        let mut done = self.done.subscribe();
        if timeout_at(deadline, done.wait_for(|done| *done)).await.is_ok() {
            return 0;
        }
        let unanswered = self.rooms.used();
        self.given_up.store(true, Ordering::SeqCst);
        self.end(&self.closed());
        let _gone = done.wait_for(|done| *done).await;
        unanswered
    }

    pub(super) fn closed(&self) -> ClusterPublishError {
        let topic = self.settings.topic.clone();
        let ended = self.router.lock().ended.clone();
        ended.unwrap_or(ClusterPublishError::Closed { topic })
    }

    pub(super) fn no_room(&self, no: NoRoom) -> ClusterPublishError {
        match no {
            NoRoom::Closed => self.closed(),
            NoRoom::Late => ClusterPublishError::NoRoom {
                topic: self.settings.topic.clone(),
                after: self.settings.timeout,
            },
        }
    }
}

fn encoded(load: Load) -> Vec<Records> {
    match load {
        Load::One(message) => vec![Records::encode([&message])],
        Load::Records(records) => records,
    }
}

/// How long a node is passed over after a refusal, and the longest that this grows to.
const PASS_OVER_MIN: Duration = Duration::from_millis(100);
const PASS_OVER_MAX: Duration = Duration::from_secs(5);
/// How much that waits is given to nodes before others have their turn.
const PLACED_AT_ONCE: usize = 1_024;
