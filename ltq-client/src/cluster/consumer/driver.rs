//! The task of a cluster's consumer: it subscribes at the nodes that have the topic, leaves those that are
//! gone, and moves the credit.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ltq_core::{Credit, Refusal, process::inherit};
use ltq_discovery::{NodeId, NodeInfo, NodeSet};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    ClusterConsumeError,
    shared::{Shared, Sight},
    shared_credit::SharedCredit,
};
use crate::{
    Client, Consumer, ConsumerSeat, CreditUse,
    cluster::Members,
    connection::deadline,
    consumer::{ConsumerShared, End, Settings, Standing, Watcher},
};

/// Owns what is known of the subscriptions. At rest it does nothing: it is woken by what discovery says,
/// and by the subscriptions, when one comes or goes, has used up its credit, is idle, or has given back
/// what it was asked for.
pub(super) struct Driver {
    shared: Arc<Shared>,
    members: Arc<Members>,
    nodes: watch::Receiver<Option<NodeSet>>,
    /// The nodes that have the topic, where that is watched.
    sight: Option<watch::Receiver<Sight>>,
    /// What watches for them.
    _watching: JoinSet<()>,
    credit: SharedCredit,
    slots: BTreeMap<u64, Slot>,
    /// The subscription of each node that is to have one.
    current: BTreeMap<NodeId, u64>,
    /// Nodes that turned out to be another one under a second id, and which: subscribed at two times, a broker
    /// would share its messages out between the two, out of order.
    twins: BTreeMap<NodeId, NodeId>,
    /// The seat that it has there, and that those before it had, unless they were left in peace.
    seats: BTreeMap<NodeId, ConsumerSeat>,
    made: u64,
    /// Lent to the changes.
    changed: Vec<u64>,
    /// Whoever waits for the first subscription.
    first: Option<oneshot::Sender<Result<(), ClusterConsumeError>>>,
}

/// A subscription at a node.
struct Slot {
    node: NodeId,
    client: Client,
    consumer: Arc<ConsumerShared>,
    seat: ConsumerSeat,
    /// The connection by which it takes part in the credit.
    connection: Option<u64>,
    is_leaving: bool,
    /// Since when it may owe credit that it was asked to give back, and what had come until then.
    owes: Option<(Instant, Credit)>,
    /// What had come by the connection when it was looked at last.
    received: Credit,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        members: Arc<Members>,
        (sight, watching): (Option<watch::Receiver<Sight>>, JoinSet<()>),
        first: oneshot::Sender<Result<(), ClusterConsumeError>>,
    ) -> Self {
        Self {
            nodes: members.watch(),
            credit: SharedCredit::new(shared.credit()),
            shared,
            members,
            sight,
            _watching: watching,
            slots: BTreeMap::new(),
            current: BTreeMap::new(),
            twins: BTreeMap::new(),
            seats: BTreeMap::new(),
            made: 0,
            changed: Vec::new(),
            first: Some(first),
        }
    }

    /// Works until the consumer is closed, or every node refuses it.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut is_news = true;
        while !shared.is_ended() {
            let now = Instant::now();
            is_news |= self.take_changes(now);
            let tried = self.shared.next_trial();
            if is_news || tried.is_some_and(|at| at <= now) {
                self.look_at_nodes(now);
                if let Some(error) = self.hopeless() {
                    self.fail(error);
                    return;
                }
            }
            is_news = false;
            self.move_credit(now);
            let is_waiting = self.credit.is_short(now) || self.slots.values().any(|s| s.is_leaving);
            if shared.changes.set_attentive(is_waiting) {
                is_news = self.look_at_all(now);
                if is_news {
                    continue;
                }
                self.move_credit(now);
            }
            let next = [self.shared.next_trial(), self.credit.next_timeout(now), self.next_owed()];
            let sleep = async {
                match next.into_iter().flatten().min() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shared.changes.wait() => {}
                _ = self.nodes.changed() => is_news = true,
                () = changed(&mut self.sight) => is_news = true,
                // Who needs less than he did may not have said so.
                () = sleep => is_news = self.look_at_all(Instant::now()),
            }
        }
    }

    /// Looks at the subscriptions that changed. Returns whether the nodes have to be looked at.
    fn take_changes(&mut self, now: Instant) -> bool {
        let mut numbers = std::mem::take(&mut self.changed);
        self.shared.changes.take(&mut numbers);
        // Those that owe an answer make themselves heard by what they deliver.
        let owed = |slot: &Slot| slot.owes.is_some_and(|owes| deadline(owes.0, ANSWER_MAX) <= now);
        numbers.extend(self.slots.iter().filter(|(_, slot)| owed(slot)).map(|(number, _)| *number));
        let mut is_any_over = false;
        for number in numbers.drain(..) {
            is_any_over |= self.look_at(number, now);
        }
        self.changed = numbers;
        is_any_over
    }

    /// Looks at every subscription. Returns whether the nodes have to be looked at.
    fn look_at_all(&mut self, now: Instant) -> bool {
        let numbers: Vec<_> = self.slots.keys().copied().collect();
        numbers.into_iter().filter(|number| self.look_at(*number, now)).count() > 0
    }

    /// Looks at a subscription. Returns whether the nodes have to be looked at: whether it is no more, or
    /// another may take its place.
    fn look_at(&mut self, number: u64, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(&number) else { return false };
        let Standing { subscribed, allowed, credit, marks, received, end } =
            slot.consumer.standing();
        if let Some(end) = end {
            let node = slot.node.clone();
            // What a node says of a subscription that is left already is no word on the one that it has.
            let is_current = self.current.get(&node) == Some(&number);
            self.drop_slot(number);
            if let End::Refused(refusal) = end
                && is_current
            {
                debug!(%node, %refusal, "no subscription there");
                self.refused(&node, &refusal, now);
            }
            return true;
        }
        let mut is_news = false;
        if slot.connection != subscribed {
            slot.owes = None;
            slot.connection = subscribed;
            self.credit.leave(number);
            // What was known of it holds for the connection that it had.
            let known = self.twins.len();
            self.twins.retain(|_, twin| *twin != slot.node);
            is_news = self.twins.len() < known;
            if subscribed.is_some()
                && let Some(twin) = self.twin(number)
            {
                self.leave_to(number, twin);
                return true;
            }
            let Some(slot) = self.slots.get(&number) else { return true };
            if subscribed.is_some() {
                debug!(node = %slot.node, "subscribed");
                // One that is leaving is lent nothing by that: it has nothing to settle, and ends below.
                self.credit.join(number, allowed, now);
                self.shared.trust(&slot.node);
                if let Some(first) = self.first.take() {
                    drop(first.send(Ok(())));
                }
            }
        }
        self.credit.see(number, credit, marks, now);
        let Some(slot) = self.slots.get_mut(&number) else { return true };
        slot.received = received;
        slot.owes = match slot.owes {
            Some((_, before)) if before != received => Some((now, received)),
            owes => owes,
        };
        slot.owes = slot.owes.filter(|_| is_owing(&credit));
        let is_done = credit.is_idle() && credit.open.messages == 0;
        if slot.is_leaving && (subscribed.is_none() || is_done) {
            if let Some(consumer) = self.take_slot(number) {
                // It takes its connection with it once its last answers have been heard.
                tokio::spawn(inherit(consumer.close()));
            }
            return true;
        }
        let is_late = slot.owes.is_some_and(|owes| deadline(owes.0, ANSWER_MAX) <= now);
        if is_late && self.credit.is_short(now) {
            // Others need what it holds; what it has not settled it gives out again when it is back.
            warn!(node = %slot.node, "credit was not given back in time; subscribing anew");
            self.drop_slot(number);
            return true;
        }
        if is_late {
            slot.owes = Some((now, received));
        }
        is_news
    }

    /// The node, other than its own, at whose broker there is a subscription already, if this one came to the
    /// same broker.
    fn twin(&self, number: u64) -> Option<NodeId> {
        let slot = self.slots.get(&number).filter(|slot| !slot.is_leaving)?;
        let broker = slot.client.instance()?;
        let is_there = |other: &&Slot| {
            other.node != slot.node
                && !other.is_leaving
                && other.connection.is_some()
                && other.client.instance() == Some(broker)
        };
        self.slots.values().find(is_there).map(|other| other.node.clone())
    }

    /// Ends a subscription that has been given nothing yet: what its broker has comes by way of another node.
    fn leave_to(&mut self, number: u64, twin: NodeId) {
        if let Some(slot) = self.slots.get(&number) {
            info!(node = %slot.node, same_as = %twin, topic = %self.shared.settings.topic, "one broker under two ids");
            if let Some(node) = self.members.nodes().get(&slot.node) {
                self.shared.is_same_as(node, &twin);
            }
            self.twins.insert(slot.node.clone(), twin);
        }
        self.drop_slot(number);
    }

    /// Whether there is a subscription at this node's broker by way of another.
    fn has_twin(&self, node: &NodeId) -> bool {
        let twin = self.twins.get(node).and_then(|twin| self.current.get(twin));
        let slot = twin.and_then(|number| self.slots.get(number));
        slot.is_some_and(|slot| slot.connection.is_some())
    }

    fn next_owed(&self) -> Option<Instant> {
        let owed = self.slots.values().filter_map(|slot| slot.owes);
        owed.map(|owes| deadline(owes.0, ANSWER_MAX)).min()
    }

    fn refused(&self, id: &NodeId, refusal: &Refusal, now: Instant) {
        let candidates = self.candidates().unwrap_or_default();
        if let Some(node) = candidates.iter().find(|node| node.id() == id) {
            self.shared.refused(node, refusal, self.is_unasked(), now);
        }
    }

    /// Ends a subscription.
    fn drop_slot(&mut self, number: u64) {
        drop(self.take_slot(number));
    }

    fn take_slot(&mut self, number: u64) -> Option<Consumer> {
        self.credit.leave(number);
        if let Some(slot) = self.slots.remove(&number)
            && self.current.get(&slot.node) == Some(&number)
        {
            self.current.remove(&slot.node);
        }
        self.shared.remove(number)
    }

    /// The nodes to subscribe at: those that have the topic, or all that there are where that is not
    /// known. `None` as long as it may be known soon.
    fn candidates(&self) -> Option<Vec<NodeInfo>> {
        let all = self.members.nodes();
        let having = match &self.sight {
            None => None,
            Some(sight) => match &*sight.borrow() {
                Sight::Unknown => return None,
                Sight::AllNodes | Sight::Unasked => None,
                Sight::Nodes(nodes) => Some(nodes.clone()),
            },
        };
        Some(match having {
            None => all.iter().cloned().collect(),
            Some(nodes) => nodes.iter().filter(|n| all.get(n.id()).is_some()).cloned().collect(),
        })
    }

    /// Leaves nodes that are gone, and subscribes at those that are there.
    fn look_at_nodes(&mut self, now: Instant) {
        self.nodes.mark_unchanged();
        if let Some(sight) = &mut self.sight {
            sight.mark_unchanged();
        }
        let Some(candidates) = self.candidates() else { return };
        let candidates: BTreeMap<_, _> =
            candidates.into_iter().map(|node| (node.id().clone(), node)).collect();
        self.shared.retain_nodes(&candidates);
        let known = self.members.nodes();
        self.seats.retain(|id, _| known.get(id).is_some());
        let current: Vec<_> =
            self.current.iter().map(|(id, number)| (id.clone(), *number)).collect();
        for (id, number) in current {
            if !candidates.contains_key(&id) || !self.is_current(&id, number) {
                self.begin_to_leave(&id, number, now);
            }
        }
        self.twins
            .retain(|id, twin| candidates.contains_key(id) && self.current.contains_key(twin));
        for (id, node) in &candidates {
            let is_served = self.current.contains_key(id) || self.has_twin(id);
            if is_served || !self.shared.may_try(node, now) {
                continue;
            }
            let client = self.members.client(id).filter(|_| self.members.is_reachable(node));
            match client {
                Some(client) => self.subscribe(id, client),
                None => self.shared.has_no_address(node),
            }
        }
        // Those that were asked themselves say whether they have it.
        let is_nowhere =
            candidates.is_empty() || self.is_unasked() && self.shared.lacked_by_all(&candidates);
        if is_nowhere && let Some(first) = self.first.take() {
            // It waits for a node that has the topic.
            drop(first.send(Ok(())));
        }
    }

    /// Whether nobody can say just now which nodes have the topic.
    fn is_unasked(&self) -> bool {
        self.sight.as_ref().is_some_and(|sight| matches!(*sight.borrow(), Sight::Unasked))
    }

    /// Whether its node is still talked to by the client that it goes by.
    fn is_current(&self, id: &NodeId, number: u64) -> bool {
        self.slots.get(&number).is_some_and(|slot| {
            let client = self.members.used_client(id);
            client.is_some_and(|client| Arc::ptr_eq(client.lease(), slot.client.lease()))
        })
    }

    /// Nothing more is to come from a node; what came can still be settled.
    fn begin_to_leave(&mut self, id: &NodeId, number: u64, now: Instant) {
        info!(node = %id, topic = %self.shared.settings.topic, "leaving a node");
        self.current.remove(id);
        self.credit.set_leaving(number, true);
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.is_leaving = true;
            self.shared.set_leaving(number, true);
            if slot.connection.is_some() {
                // Whoever comes after it must not end it before its last answers.
                self.seats.remove(id);
            }
        }
        // One that is not up has nothing to settle.
        self.look_at(number, now);
    }

    fn subscribe(&mut self, id: &NodeId, client: Client) {
        let is_same = |slot: &Slot| {
            slot.is_leaving && slot.node == *id && Arc::ptr_eq(slot.client.lease(), client.lease())
        };
        if let Some((number, slot)) = self.slots.iter_mut().find(|(_, slot)| is_same(slot)) {
            // It is back before it was left.
            slot.is_leaving = false;
            self.credit.set_leaving(*number, false);
            self.shared.set_leaving(*number, false);
            self.current.insert(id.clone(), *number);
            self.seats.insert(id.clone(), slot.seat.clone());
            return;
        }
        self.made += 1;
        let number = self.made;
        let watcher = Watcher::new(number, self.shared.changes.clone());
        let entropy = &*self.shared.entropy;
        let seat = self.seats.entry(id.clone()).or_insert_with(|| ConsumerSeat::drawn(entropy));
        let seat = seat.clone();
        let make_topic = !self.is_unasked();
        let settings = Settings { make_topic, ..self.shared.settings.clone() };
        let settings = (settings, seat.clone());
        let consumer = Consumer::lent(&client, settings, watcher);
        let own = consumer.shared().clone();
        if !self.shared.add(number, id, consumer) {
            return;
        }
        let slot = Slot {
            node: id.clone(),
            client,
            consumer: own,
            seat,
            connection: None,
            is_leaving: false,
            owes: None,
            received: Credit::default(),
        };
        self.slots.insert(number, slot);
        self.current.insert(id.clone(), number);
    }

    fn move_credit(&mut self, now: Instant) {
        self.credit.set_total(self.shared.credit());
        for _ in 0..MOVES_MAX {
            let moves = self.credit.rebalance(now);
            if moves.is_empty() {
                return;
            }
            for (number, credit) in moves {
                if let Some(slot) = self.slots.get_mut(&number)
                    && let Some(connection) = slot.connection
                    && let Some(usage) = slot.consumer.lend(connection, credit)
                {
                    // What was never granted is there for others at once.
                    self.credit.lent(number, usage);
                    if is_owing(&usage) {
                        slot.owes.get_or_insert((now, slot.received));
                    }
                }
            }
        }
    }

    /// Why there is nothing to hope for: every node refuses for a reason that stays.
    fn hopeless(&self) -> Option<ClusterConsumeError> {
        let candidates = self.candidates()?;
        if !self.current.is_empty() {
            return None;
        }
        let (node, refusal) = self.shared.refused_by_all(&candidates)?;
        let settings = &self.shared.settings;
        let (topic, channel) = (settings.topic.clone(), settings.channel.clone());
        Some(ClusterConsumeError::Refused { topic, channel, node, refusal })
    }

    fn fail(&mut self, error: ClusterConsumeError) {
        warn!(%error, "a consumer of a cluster is over");
        if let Some(first) = self.first.take() {
            drop(first.send(Err(error.clone())));
        }
        self.shared.fail(error);
    }
}

/// Waits until other nodes have the topic. Cancel safe.
async fn changed(sight: &mut Option<watch::Receiver<Sight>>) {
    if let Some(sight) = sight
        && sight.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Whether there is more open than there is place for.
const fn is_owing(credit: &CreditUse) -> bool {
    !credit.open.is_within(credit.size.minus(credit.unsettled))
}

/// What was taken back and never granted may be lent to others, and what becomes free so once more.
const MOVES_MAX: usize = 4;
/// A node that is asked for credit back, and neither answers nor delivers for so long, is subscribed at
/// anew where others need the credit.
const ANSWER_MAX: Duration = Duration::from_secs(3);
