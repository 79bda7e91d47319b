//! What a producer on one node tells the cluster's producer that it works for.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ltq_core::{Refusal, RefusalCode, protocol::InstanceId};
use ltq_discovery::NodeId;
use tokio::sync::Notify;

use super::{errand::Errand, shared::Shared};
use crate::{
    ClusterPublishError, PublishError, UnknownCause,
    producer::{Elsewhere, Failure, Fault, Rest, Room, Stored},
};

/// For whom a producer on a node works, and what it does there.
pub(crate) struct Behalf {
    pub(super) node: NodeId,
    pub(super) shared: Weak<Shared>,
    pub(super) signal: Arc<Signal>,
    pub(super) elsewhere: Elsewhere,
    pub(super) counts: Arc<NodeCounts>,
    silent_after: Duration,
    /// Bytes that are with it and not answered.
    held: AtomicUsize,
    /// Bytes that it ever took, and had taken when its last frame went out; both begin anew at their end.
    taken: AtomicUsize,
    sent: AtomicUsize,
    /// The cluster's task wants to know of every answer from there.
    is_attended: AtomicBool,
}

/// Wakes the task of a cluster's producer.
#[derive(Debug, Default)]
pub(super) struct Signal {
    notify: Notify,
}

impl Signal {
    pub(super) fn look_here(&self) {
        self.notify.notify_one();
    }

    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// What was done on one node.
#[derive(Debug, Default)]
pub(super) struct NodeCounts {
    pub(super) stored: AtomicU64,
    pub(super) moved_away: AtomicU64,
    pub(super) maybe_repeated: AtomicU64,
    /// It is passed over, or was before it stored anything.
    pub(super) is_doubted: AtomicBool,
}

impl Behalf {
    pub(super) fn new(
        node: NodeId,
        shared: &Arc<Shared>,
        elsewhere: Elsewhere,
        counts: Arc<NodeCounts>,
    ) -> Self {
        Self {
            node,
            shared: Arc::downgrade(shared),
            signal: shared.signal.clone(),
            elsewhere,
            counts,
            silent_after: shared.silent_after,
            held: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            is_attended: AtomicBool::new(false),
        }
    }

    /// Which node.
    pub(crate) const fn node(&self) -> &NodeId {
        &self.node
    }

    /// What of that which fails there goes elsewhere.
    pub(crate) const fn elsewhere(&self) -> Elsewhere {
        self.elsewhere
    }

    /// So many bytes more are with it.
    pub(crate) fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A frame went out.
    pub(crate) fn sent(&self) {
        self.sent.store(self.taken(), Ordering::Relaxed);
    }

    /// Bytes that it ever took, which begin anew at their end.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether it has anything that waits for the next frame.
    pub(super) fn is_gathering(&self) -> bool {
        self.taken() != self.sent.load(Ordering::Relaxed)
    }

    /// So many are not any more.
    pub(crate) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that are with it and not answered.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Calls were answered, and this room is free again.
    pub(crate) fn answered(&self, freed: Room) {
        self.release(freed.bytes);
        if self.is_attended.load(Ordering::SeqCst) {
            self.look_here();
        }
    }

    /// From now on the cluster's task is told of every answer from there, or not any more. Answers of other
    /// nodes are none of its business: it looks at all nodes each time that it wakes.
    pub(super) fn set_attended(&self, is_attended: bool) {
        self.is_attended.store(is_attended, Ordering::SeqCst);
    }

    /// For how long it may answer nothing of what it has before it counts as silent.
    pub(crate) const fn silent_after(&self) -> Duration {
        self.silent_after
    }

    /// There is something new with it.
    pub(crate) fn look_here(&self) {
        self.signal.look_here();
    }

    /// The broker there, which is this one, is asked to open it.
    pub(crate) fn opened(&self, broker: InstanceId) {
        if let Some(shared) = self.shared.upgrade() {
            shared.twins.lock().opened(&self.node, broker);
        }
    }

    /// A newer producer has the name there. Returns whether that is this cluster producer's own, under
    /// another node's id.
    pub(crate) fn is_fenced_by_twin(&self) -> bool {
        let shared = self.shared.upgrade();
        let is_twin = shared.is_some_and(|shared| shared.twins.lock().fenced(&self.node));
        if is_twin {
            self.look_here();
        }
        is_twin
    }

    /// Another program's newer producer has the name there: this one is over, on every node.
    pub(crate) fn fenced(&self, error: PublishError) {
        if let Some(shared) = self.shared.upgrade() {
            shared.end(&ClusterPublishError::Node { node: self.node.clone(), error });
        }
    }

    /// The node refuses the producer, or what it was sent.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        if let Some(shared) = self.shared.upgrade() {
            self.counts.is_doubted.store(true, Ordering::Relaxed);
            shared.pass_over(&self.node, refusal);
        }
    }

    /// All of an errand is stored.
    pub(crate) fn stored(&self, errand: Errand, stored: Stored) {
        let count = stored.ranges.first.iter().chain(&stored.ranges.more).map(|range| range.count);
        self.counts.stored.fetch_add(count.sum(), Ordering::Relaxed);
        if self.counts.is_doubted.load(Ordering::Relaxed)
            && let Some(shared) = self.shared.upgrade()
        {
            self.counts.is_doubted.store(!shared.trust(&self.node), Ordering::Relaxed);
        }
        self.let_others(&errand);
        errand.succeed(&self.node, stored);
    }

    /// Some of an errand is not stored, or nobody knows.
    pub(crate) fn failed(
        &self,
        mut errand: Errand,
        stored: Stored,
        rest: Option<Rest>,
        failure: &Failure,
        error: PublishError,
    ) {
        let count = stored.ranges.first.iter().chain(&stored.ranges.more).map(|range| range.count);
        self.counts.stored.fetch_add(count.sum(), Ordering::Relaxed);
        let node = self.node.clone();
        if rest.is_none() {
            self.let_others(&errand);
        }
        match failure {
            Failure::Refused(refusal) | Failure::Unknown(UnknownCause::Broker(refusal)) => {
                if Fault::of(refusal.code).is_nodes() {
                    self.refused(refusal);
                } else if refusal.code == RefusalCode::Fenced {
                    self.fenced(error.clone());
                }
            }
            _ => {}
        }
        let is_unknown = matches!(failure, Failure::Unknown(_));
        errand.leave(&node, stored, rest.is_some() && is_unknown);
        match (rest, self.shared.upgrade()) {
            (Some(rest), Some(shared)) => {
                let messages = rest.records.iter().map(|part| part.count() as u64).sum();
                self.counts.moved_away.fetch_add(messages, Ordering::Relaxed);
                if is_unknown {
                    self.counts.maybe_repeated.fetch_add(messages, Ordering::Relaxed);
                }
                shared.take_back(errand, rest);
            }
            (rest, shared) => {
                let error = ClusterPublishError::Node { node, error };
                match shared {
                    Some(shared) => {
                        shared.fail(errand, rest.map(|rest| rest.room), error);
                    }
                    None => drop(errand.fail(error)),
                }
            }
        }
    }

    /// Those that wait for an answer to this one may go on.
    fn let_others(&self, errand: &Errand) {
        if let Some(slot) = errand.slot
            && let Some(shared) = self.shared.upgrade()
        {
            shared.slot_answered(slot);
        }
    }
}
