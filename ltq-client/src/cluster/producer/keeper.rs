//! The task of a cluster's producer: it opens and ends the producers on the nodes, says which of them
//! may be given messages, and finds a node for what waits.

mod contacts;
mod lanes;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ltq_discovery::{NodeId, NodeSet};
use tokio::{
    sync::{oneshot, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{behalf::Signal, router::PassedOver, shared::Shared, subset::Subset};
use crate::{
    ClusterError, ClusterPublishError, PublishError, RequestError,
    cluster::{Members, order::Slot},
    connection::deadline,
};
use contacts::Contacts;
use lanes::Lane;
use view::View;

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
    /// Since when a node is of no use: down, gone, silent or refusing.
    trouble: BTreeMap<NodeId, Instant>,
    /// Nodes that were given up for being silent, and have not opened a producer since.
    silent: BTreeSet<NodeId>,
    subset: Subset,
    /// Whoever waits for the first node to take the producer.
    first: Option<oneshot::Sender<Result<(), ClusterError>>>,
}

/// What came of opening the producer of this number on a node.
type Opened = (NodeId, u64, Result<(), RequestError>);

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

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        members: Arc<Members>,
        first: oneshot::Sender<Result<(), ClusterError>>,
    ) -> Self {
        Self {
            nodes: members.watch(),
            contacts: Contacts::default(),
            subset: Subset::new(members.seed(), shared.nodes_max),
            shared,
            members,
            lanes: BTreeMap::new(),
            openings: FuturesUnordered::new(),
            made: 0,
            trouble: BTreeMap::new(),
            silent: BTreeSet::new(),
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
            self.gather(&signal, next.at).await;
        }
    }

    /// Takes all news that there are, and where there are many nodes those of a moment, before all nodes are
    /// looked at again: that costs as much as there are nodes, and when they come up all of them have news. What
    /// is due `by` then is not kept waiting.
    async fn gather(&mut self, signal: &Signal, by: Option<Instant>) {
        let nodes = u32::try_from(self.members.nodes().len()).unwrap_or(u32::MAX);
        let pause = PAUSE_PER_NODE.saturating_mul(nodes).min(PAUSE_MAX);
        if pause < PAUSE_MIN {
            while let Some(Some((node, number, result))) = self.openings.next().now_or_never() {
                self.handle_opened(&node, number, result);
            }
            while self.contacts.changed().now_or_never().is_some() {}
            return;
        }
        let until = deadline(Instant::now(), pause);
        let over = sleep_until(by.map_or(until, |by| by.min(until)));
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                Some((node, number, result)) = self.openings.next() => {
                    self.handle_opened(&node, number, result);
                }
                () = self.contacts.changed() => {}
                _ = self.nodes.changed() => {}
                () = signal.wait() => {}
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
                self.silent.remove(node);
                if let Some(first) = self.first.take() {
                    drop(first.send(Ok(())));
                }
            }
            Err(error) => {
                debug!(%node, %error, "no producer there");
                if let Some(refusal) = error.refusal() {
                    self.shared.pass_over(node, refusal);
                }
                match error {
                    RequestError::TimedOut { .. } => drop(self.silent.insert(node.clone())),
                    RequestError::Unknown { .. } => {}
                    // It said something, or cannot be asked.
                    _ => drop(self.silent.remove(node)),
                }
                self.lanes.remove(node);
            }
        }
    }

    /// Looks at everything there is, and does what is due. Returns when to look again at the latest;
    /// `None` at the end.
    fn look(&mut self, now: Instant) -> Option<Next> {
        let mut next = Next::default();
        self.shared.counts.lock().looks += 1;
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
        for lane in self.lanes.values() {
            let ends = lane.is_resting && lane.lent.pending() > 0;
            lane.lent.behalf().set_attended(closing || ends);
        }
        let is_busy = is_waiting || self.lanes.values().any(|lane| lane.lent.pending() > 0);
        let given_up = self.shared.given_up.load(Ordering::SeqCst);
        if given_up {
            self.lanes.values().for_each(|lane| lane.lent.abandon());
        }
        if given_up || (closing && !is_busy) { None } else { Some(next) }
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
}

impl Drop for Keeper {
    /// However the task ends, nobody waits for it any longer.
    fn drop(&mut self) {
        let topic = self.shared.settings.topic.clone();
        self.shared.end(&ClusterPublishError::Closed { topic });
        self.shared.done.send_replace(true);
    }
}

/// How long to wait for more news for each node that there is: a look at one takes a microsecond or two, so
/// that a core in ten at most is busy with looking.
const PAUSE_PER_NODE: Duration = Duration::from_micros(20);
/// What is not worth a timer: up to 100 nodes are looked at whenever there are news.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// What a message that finds no node is kept waiting for at most.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The slot by which an ordered producer's message goes.
pub(super) fn slot(shared: &Shared, key: Option<&[u8]>) -> Option<Slot> {
    shared.ordered.map(|_| Slot::of(&shared.settings.topic, key))
}
