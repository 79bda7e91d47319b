//! The task of a cluster's producer: it opens and ends the producers on the nodes, says which of them
//! may be given messages, and finds a node for what waits.

mod contacts;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ltq_discovery::{NodeId, NodeInfo, NodeSet, NodeState};
use tokio::{
    sync::{oneshot, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tracing::{debug, info};

use super::{
    Failover,
    behalf::Behalf,
    router::{Candidate, PassedOver},
    shared::Shared,
    twins::Places,
};
use crate::{
    Availability, ClusterError, ClusterPublishError, PublishError, RequestError,
    cluster::{
        Members, NodeNotUsed, NodesNotUsed,
        choice::{Contact, Standing},
        order::Slot,
    },
    connection::deadline,
    producer::{Lending, Lent},
};
use contacts::Contacts;

/// Owns the producers on the nodes. At rest it does nothing: it is woken by what discovery says, by
/// connections that come and go, by the producers on the nodes, and by messages that find no node.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    members: Arc<Members>,
    nodes: watch::Receiver<Option<NodeSet>>,
    contacts: Contacts,
    lanes: BTreeMap<NodeId, Lane>,
    openings: FuturesUnordered<BoxFuture<'static, Opened>>,
    /// Numbers the lanes.
    made: u64,
    /// Since when a node is of no use: down, gone or refusing.
    trouble: BTreeMap<NodeId, Instant>,
    /// Whoever waits for the first node to take the producer.
    first: Option<oneshot::Sender<Result<(), ClusterError>>>,
}

/// What came of opening the producer of this number on a node.
type Opened = (NodeId, u64, Result<(), RequestError>);

/// A producer on a node.
struct Lane {
    number: u64,
    lent: Arc<Lent>,
    since: Instant,
    is_open: bool,
    is_resting: bool,
    /// By which client it goes. One that the node has no more is another's.
    client: u64,
}

/// The moment at which something is due next.
#[derive(Default)]
struct Next {
    at: Option<Instant>,
    /// There is more to do, and others have their turn before it.
    is_now: bool,
}

impl Next {
    fn at(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |next| next.min(at)));
    }
}

/// What is known of each node for one look at all of them.
struct View {
    nodes: NodeSet,
    standings: BTreeMap<NodeId, Standing>,
}

impl View {
    fn standing(&self, id: &NodeId) -> Option<&Standing> {
        self.standings.get(id)
    }
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        members: Arc<Members>,
        first: oneshot::Sender<Result<(), ClusterError>>,
    ) -> Self {
        Self {
            nodes: members.watch(),
            contacts: Contacts::default(),
            shared,
            members,
            lanes: BTreeMap::new(),
            openings: FuturesUnordered::new(),
            made: 0,
            trouble: BTreeMap::new(),
            first: Some(first),
        }
    }

    /// Works until the producer is closed and everything is answered.
    pub(super) async fn run(mut self) {
        let signal = self.shared.signal.clone();
        while let Some(next) = self.look(Instant::now()) {
            if next.is_now {
                yield_now().await;
                continue;
            }
            let sleep = async {
                match next.at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((node, number, result)) = self.openings.next() => {
                    self.handle_opened(&node, number, result);
                }
                () = self.contacts.changed() => {}
                _ = self.nodes.changed() => {}
                () = signal.wait() => {}
                () = sleep => {}
            }
        }
    }

    fn handle_opened(&mut self, node: &NodeId, number: u64, result: Result<(), RequestError>) {
        let Some(lane) = self.lanes.get_mut(node).filter(|lane| lane.number == number) else {
            return;
        };
        match result {
            Ok(()) => {
                debug!(%node, "opened a producer");
                lane.is_open = true;
                if let Some(first) = self.first.take() {
                    drop(first.send(Ok(())));
                }
            }
            Err(error) => {
                debug!(%node, %error, "no producer there");
                if let Some(refusal) = error.refusal() {
                    self.shared.pass_over(node, refusal);
                }
                self.lanes.remove(node);
            }
        }
    }

    /// Looks at everything there is, and does what is due. Returns when to look again at the latest;
    /// `None` at the end.
    fn look(&mut self, now: Instant) -> Option<Next> {
        let mut next = Next::default();
        let view = self.view(now);
        self.tend_lanes(&view, now, &mut next);
        self.open_lanes(&view, now, &mut next);
        self.publish_candidates(&view, now);
        next.is_now = self.shared.place_waiting();
        self.fail_hopeless(&view);
        self.expire(&view, now);
        // What was placed may have wanted a node that has no producer yet.
        self.open_lanes(&view, now, &mut next);
        let router = self.shared.router.lock();
        router.earliest().into_iter().for_each(|at| next.at(at));
        router.next_trial(now).into_iter().for_each(|at| next.at(at));
        let is_waiting = router.is_anything_waiting();
        drop(router);
        let closing = self.shared.closing.load(Ordering::SeqCst);
        let ends = self.lanes.values().any(|lane| lane.is_resting && lane.lent.pending() > 0);
        self.shared.signal.set_attentive(closing || ends);
        let is_busy = is_waiting || self.lanes.values().any(|lane| lane.lent.pending() > 0);
        let given_up = self.shared.given_up.load(Ordering::SeqCst);
        if given_up {
            self.lanes.values().for_each(|lane| lane.lent.abandon());
        }
        if given_up || (closing && !is_busy) { None } else { Some(next) }
    }

    fn view(&mut self, now: Instant) -> View {
        let nodes = self.members.nodes();
        let mut standings = BTreeMap::new();
        let lanes = &self.lanes;
        self.contacts.retain(
            &self.members,
            |id| nodes.get(id).is_some() || lanes.contains_key(id),
            |number| lanes.values().any(|lane| lane.client == number),
        );
        let places = Places::of(&nodes, lanes.keys());
        let mut twins = self.shared.twins.lock();
        twins.retain(|id| nodes.get(id).is_some(), |id| lanes.contains_key(id));
        let mut router = self.shared.router.lock();
        router.retain_passed(|id| nodes.get(id).is_some());
        for node in nodes.iter() {
            let unused = !lanes.contains_key(node.id());
            let twin = twins.of(node.id()).cloned();
            let same = || places.at_same_address(node).cloned();
            if let Some(twin) = twin.or_else(|| unused.then(same).flatten()) {
                let why = match node.state() {
                    NodeState::Ready => NodeNotUsed::SameAs(twin),
                    _ => NodeNotUsed::Draining,
                };
                standings.insert(node.id().clone(), Standing::Out(why));
                continue;
            }
            let passed = router.passed(node.id()).filter(|passed| !passed.is_over(now));
            let is_reachable = self.members.is_reachable(node);
            let contact = self.contacts.of(node.id());
            let standing =
                Standing::of(node, is_reachable, contact, passed.map(|passed| &passed.refusal));
            standings.insert(node.id().clone(), standing);
        }
        drop(router);
        drop(twins);
        self.trouble.retain(|id, _| nodes.get(id).is_some() || lanes.contains_key(id));
        self.shared.counts.lock().retain(|id| nodes.get(id).is_some());
        View { nodes, standings }
    }

    /// Lets those rest that are of no use, wakes those that are, and ends those of which nothing is to
    /// be hoped for.
    fn tend_lanes(&mut self, view: &View, now: Instant, next: &mut Next) {
        self.note_trouble(view, now);
        let opening = self.lanes.values().filter(|lane| !lane.is_open).map(|lane| lane.since);
        for since in self.trouble.values().copied().chain(opening) {
            let due = deadline(since, self.shared.failover_after);
            if due > now {
                next.at(due);
            }
        }
        for (id, lane) in &mut self.lanes {
            let is_usable = lane.is_open
                && view.standing(id).is_some_and(|standing| !standing.is_out())
                && self.contacts.of_client(id, lane.client) == Contact::Up
                && self.contacts.is_current(id, lane.client, &self.members);
            if is_usable && lane.is_resting {
                lane.lent.wake();
                lane.is_resting = false;
            } else if lane.is_open && !is_usable {
                lane.is_resting = true;
                // What comes back from here on is told.
                self.shared.signal.set_attentive(true);
                // Again each time: more may have come back.
                lane.lent.rest();
            }
        }
        let usable = self.lanes.values().filter(|lane| lane.is_open && !lane.is_resting).count();
        let mut over = Vec::new();
        for (id, lane) in &self.lanes {
            let is_there = view.nodes.get(id).is_some();
            let is_replaced = is_there && !self.contacts.is_current(id, lane.client, &self.members);
            if lane.lent.is_over() || (is_replaced && !lane.is_open) {
                over.push(id.clone());
                continue;
            }
            if !lane.is_resting {
                continue;
            }
            let is_left = matches!(
                view.standing(id),
                Some(Standing::Out(NodeNotUsed::Draining | NodeNotUsed::SameAs(_)))
            );
            if is_left && lane.lent.pending() == 0 {
                over.push(id.clone());
                continue;
            }
            let Some(since) = self.trouble.get(id) else { continue };
            let is_gone = !is_there || is_replaced;
            let is_down = self.contacts.of_client(id, lane.client) == Contact::Down;
            let is_idle = lane.lent.pending() == 0;
            let is_given_up = is_idle
                || match (self.shared.ordered, self.shared.failover) {
                    // The same node later keeps a repeat from being one.
                    (None, Failover::AtLeastOnce) => usable > 0 || is_replaced,
                    // It comes back at another address, and not to this client.
                    (None, Failover::SameNode) => is_replaced && is_down,
                    (Some(Availability::Move), _) => true,
                    (Some(Availability::Fail), _) => is_gone,
                };
            let is_now = is_gone && (is_down || is_idle);
            let due = if is_now { now } else { deadline(*since, self.shared.failover_after) };
            if is_given_up && due <= now {
                over.push(id.clone());
            }
        }
        for id in over {
            if let Some(lane) = self.lanes.remove(&id) {
                if lane.lent.pending() > 0 {
                    info!(node = %id, topic = %self.shared.settings.topic, "given up; going on elsewhere");
                    lane.lent.abandon();
                }
                if view.nodes.get(&id).is_some()
                    && !self.contacts.is_current(&id, lane.client, &self.members)
                {
                    // That was where it is no more.
                    self.trouble.remove(&id);
                }
                // One that has nothing is closed at its broker as it is dropped.
            }
        }
    }

    fn note_trouble(&mut self, view: &View, now: Instant) {
        let mut seen: Vec<_> = view.standings.keys().cloned().collect();
        seen.extend(self.lanes.keys().filter(|id| view.nodes.get(id).is_none()).cloned());
        for id in seen {
            let is_current = self
                .lanes
                .get(&id)
                .is_none_or(|lane| self.contacts.is_current(&id, lane.client, &self.members));
            let is_well = match view.standing(&id) {
                None => false,
                Some(Standing::Good | Standing::Suspected) => is_current,
                // What it was given it answers all the same.
                Some(Standing::Out(
                    NodeNotUsed::Draining | NodeNotUsed::PassedOver(_) | NodeNotUsed::SameAs(_),
                )) => is_current && self.contacts.of(&id) != Contact::Down,
                Some(Standing::Out(NodeNotUsed::NotConnected)) => {
                    is_current && self.contacts.of(&id) == Contact::Leaving
                }
                Some(Standing::Out(_)) => false,
            };
            let opens_late = self.lanes.get(&id).is_some_and(|lane| {
                !lane.is_open && deadline(lane.since, self.shared.failover_after) <= now
            });
            if !is_well {
                self.trouble.entry(id).or_insert(now);
            } else if opens_late {
                let since = self.lanes.get(&id).map_or(now, |lane| lane.since);
                self.trouble.entry(id).or_insert(since);
            } else {
                self.trouble.remove(&id);
            }
        }
    }

    /// Opens producers on the nodes that were chosen; where no node can take what waits, on more and
    /// more of them, a few at a time.
    fn open_lanes(&mut self, view: &View, now: Instant, next: &mut Next) {
        let wanted = self.shared.router.lock().wanted();
        for id in wanted {
            let standing = view.standing(&id);
            if standing.is_some_and(|standing| !standing.is_out()) {
                self.open(&id, now);
            }
        }
        let is_open = |lane: &Lane| lane.is_open && !lane.is_resting;
        if self.lanes.values().any(is_open) {
            return;
        }
        let is_waiting = self.shared.router.lock().is_anything_waiting();
        let is_stuck = self.lanes.values().any(|lane| lane.is_resting && lane.lent.pending() > 0);
        if !is_waiting && !is_stuck && self.first.is_none() {
            return;
        }
        let patience = |lane: &Lane| deadline(lane.since, STAGGER);
        let young = self.lanes.iter().filter(|(id, lane)| {
            // One that cannot be connected to has had its chance.
            let is_down = self.contacts.of_client(id, lane.client) == Contact::Down;
            !lane.is_open && !is_down && patience(lane) > now
        });
        let young: Vec<_> = young.map(|(_, lane)| patience(lane)).collect();
        let mut places = YOUNG_MAX.saturating_sub(young.len());
        let unopened = self.candidates(view).map(NodeInfo::id).cloned();
        let unopened = unopened.filter(|id| !self.lanes.contains_key(id));
        // Those that others are connected to answer at once.
        let (mut up, mut others): (Vec<_>, Vec<_>) =
            unopened.partition(|id| contacts::is_up(id, &self.members));
        while places > 0 {
            let from = if up.is_empty() { &mut others } else { &mut up };
            if from.is_empty() {
                break;
            }
            let random = self.shared.entropy.next() as usize % from.len();
            let id = from.swap_remove(random);
            self.open(&id, now);
            places -= 1;
        }
        if !up.is_empty() || !others.is_empty() {
            young.into_iter().min().into_iter().for_each(|at| next.at(at));
            next.at(deadline(now, STAGGER));
        }
    }

    fn open(&mut self, id: &NodeId, now: Instant) {
        if self.lanes.contains_key(id) || self.shared.router.lock().ended.is_some() {
            return;
        }
        let nodes = self.members.nodes();
        let places = Places::of(&nodes, self.lanes.keys());
        if nodes.get(id).and_then(|node| places.at_same_address(node)).is_some() {
            return;
        }
        let Some((client, number)) = self.contacts.client(id, &self.members) else { return };
        let counts = self.shared.counts.lock().of(id);
        let behalf = Behalf::new(id.clone(), &self.shared, self.shared.elsewhere(), counts);
        let settings = self.shared.settings.clone();
        let lending = Lending { settings, rooms: self.shared.rooms.clone(), behalf };
        let (lent, opened) = Lent::open(&client, lending);
        self.made += 1;
        let made = self.made;
        let of = id.clone();
        self.openings.push(Box::pin(async move { (of, made, opened.await) }));
        let lane = Lane {
            number: made,
            lent: Arc::new(lent),
            since: now,
            is_open: false,
            is_resting: false,
            client: number,
        };
        self.lanes.insert(id.clone(), lane);
    }

    /// The nodes that may be given messages: the good ones, or failing these the suspected ones. An
    /// ordered producer makes no difference, so that a short doubt moves nothing.
    fn candidates<'a>(&self, view: &'a View) -> impl Iterator<Item = &'a NodeInfo> {
        let any_good = view.standings.values().any(|standing| *standing == Standing::Good);
        let only_good = any_good && self.shared.ordered.is_none();
        view.nodes.iter().filter(move |node| match view.standing(node.id()) {
            Some(Standing::Good) => true,
            Some(Standing::Suspected) => !only_good,
            _ => false,
        })
    }

    fn publish_candidates(&self, view: &View, now: Instant) {
        let candidates = self.candidates(view).map(|node| {
            let lane = self.lanes.get(node.id());
            let lane = lane.filter(|lane| lane.is_open && !lane.is_resting);
            let lent = lane.map(|lane| lane.lent.clone());
            Candidate { id: node.id().clone(), load: u64::from(node.load().0), lent }
        });
        let candidates = candidates.collect();
        let mut router = self.shared.router.lock();
        router.set_candidates(candidates);
        if let Some(order) = &mut router.order {
            let may_have = view.nodes.iter().filter(|node| match view.standing(node.id()) {
                None
                | Some(Standing::Out(
                    NodeNotUsed::Draining | NodeNotUsed::NoAddress | NodeNotUsed::SameAs(_),
                )) => false,
                Some(_) => !self.is_away(node.id(), now),
            });
            order.set_nodes(may_have.map(|node| node.id().clone()).collect());
        }
    }

    /// Whether a node is left out of the order, because it is of no use for too long.
    fn is_away(&self, id: &NodeId, now: Instant) -> bool {
        self.shared.ordered == Some(Availability::Move)
            && self
                .trouble
                .get(id)
                .is_some_and(|since| deadline(*since, self.shared.failover_after) <= now)
    }

    /// Fails what waits where every node refuses it for a reason that stays.
    fn fail_hopeless(&mut self, view: &View) {
        let mut router = self.shared.router.lock();
        let mut last = None;
        for node in view.nodes.iter() {
            match router.passed(node.id()).filter(|passed| passed.is_final()) {
                Some(passed) => last = Some((node.id().clone(), passed.clone())),
                None => return,
            }
        }
        let Some((node, PassedOver { refusal, .. })) = last else { return };
        let waiting = router.take_all_waiting();
        drop(router);
        let topic = self.shared.settings.topic.clone();
        let error = PublishError::Refused { topic: topic.clone(), refusal: refusal.clone() };
        let error = ClusterPublishError::Node { node: node.clone(), error };
        waiting.into_iter().for_each(|one| self.shared.fail_waiting(one, error.clone()));
        if let Some(first) = self.first.take() {
            drop(first.send(Err(ClusterError::Refused { topic, node, refusal })));
        }
    }

    /// Fails what has waited for too long.
    fn expire(&mut self, view: &View, now: Instant) {
        if self.first.as_ref().is_some_and(oneshot::Sender::is_closed) {
            self.first = None;
        }
        let late = self.shared.router.lock().take_late(now);
        if late.is_empty() {
            return;
        }
        let nodes = self.not_used(view);
        for one in late {
            let (topic, after) = (self.shared.settings.topic.clone(), self.shared.settings.timeout);
            let error = ClusterPublishError::NoNode { topic, after, nodes: nodes.clone() };
            self.shared.fail_waiting(one, error);
        }
    }

    /// Why each node is not used.
    fn not_used(&self, view: &View) -> NodesNotUsed {
        let all = view.standings.iter().map(|(id, standing)| {
            let why = match standing {
                Standing::Out(why) => why.clone(),
                _ if self.lanes.get(id).is_some_and(|lane| lane.is_open) => NodeNotUsed::NotItsTurn,
                _ => NodeNotUsed::NoAnswer,
            };
            (id.clone(), why)
        });
        NodesNotUsed(all.collect())
    }

    /// Why no node has opened the producer.
    pub(super) fn why_not(shared: &Shared, members: &Members) -> NodesNotUsed {
        let router = shared.router.lock();
        let now = Instant::now();
        let all = members.nodes();
        let all = all.iter().map(|node| {
            let contact = members
                .used_client(node.id())
                .map_or(Contact::Untried, |client| contacts::contact(&client.state().borrow()));
            let passed = router.passed(node.id()).filter(|passed| !passed.is_over(now));
            let passed = passed.map(|passed| &passed.refusal);
            let standing = Standing::of(node, members.is_reachable(node), contact, passed);
            let why = match standing {
                Standing::Out(why) => why,
                _ => NodeNotUsed::NoAnswer,
            };
            (node.id().clone(), why)
        });
        NodesNotUsed(all.collect())
    }
}

impl Drop for Keeper {
    /// However the task ends, nobody waits for it any longer.
    fn drop(&mut self) {
        let topic = self.shared.settings.topic.clone();
        self.shared.end(&ClusterPublishError::Closed { topic });
        self.shared.done.send_replace(true);
    }
}

/// The slot by which an ordered producer's message goes.
pub(super) fn slot(shared: &Shared, key: Option<&[u8]>) -> Option<Slot> {
    shared.ordered.map(|_| Slot::of(&shared.settings.topic, key))
}

/// How long a node may take to open a producer before the next one is asked as well.
const STAGGER: Duration = Duration::from_millis(250);
/// How many are asked at once.
const YOUNG_MAX: usize = 2;
