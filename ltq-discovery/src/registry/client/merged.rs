//! What several registries tell, as one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{hearing::First, nodes::Nodes};
use crate::{
    Epoch, NodeId, NodeInfo, NodeSet,
    withdrawals::{WITHDRAWALS_HEARD_MAX, Withdrawals},
};

/// What each registry told last.
#[derive(Debug)]
pub(super) struct Merged {
    views: Vec<View>,
    /// Runs of nodes that withdrew themselves, as any registry said: all know that by and by, but for those that are
    /// away.
    withdrawn: Arc<Withdrawals>,
    /// Counts what was told.
    told: u64,
}

#[derive(Debug, Default)]
struct View {
    nodes: Nodes,
    /// By which run of the registry they were told; `None` until all that there is was told once.
    run: Option<u64>,
    /// Since when it cannot be heard, and until when what it told counts beside others.
    lost: Option<Instant>,
    /// What was told of before it was lost, and that it knows nothing of now, and until when that counts: a run that
    /// is new has yet to hear of it, and of one that was long out of sight so may nodes have been.
    earlier: Nodes,
    earlier_until: Option<Instant>,
}

impl Merged {
    pub(super) fn new(registries: usize) -> Self {
        Self {
            views: (0..registries).map(|_| View::default()).collect(),
            withdrawn: Arc::new(Withdrawals::new(WITHDRAWALS_HEARD_MAX)),
            told: 0,
        }
    }

    /// A registry has told all that there is, in this run of it.
    ///
    /// One that was started anew has forgotten nodes that are well, and one that was out of sight may have been out
    /// of theirs, too. They need some time to come back to it, and count until then, but for those that were
    /// withdrawn.
    pub(super) fn told(&mut self, registry: usize, run: u64, first: First, now: Instant) {
        let First { mut nodes, withdrawn } = first;
        nodes.iter().for_each(|(node, _)| self.comes(registry, node));
        for (id, epoch) in withdrawn {
            self.is_withdrawn_by(registry, id, epoch);
        }
        let Some(view) = self.views.get_mut(registry) else { return };
        self.told += 1;
        nodes.stamp(&view.nodes, self.told);
        let mut before = std::mem::replace(&mut view.nodes, nodes);
        before.retain(|node| {
            !view.nodes.has(node.id()) && !self.withdrawn.has(node.id(), node.epoch())
        });
        if !before.is_empty() || view.run.is_some_and(|known| known != run) {
            view.earlier.take_over(before);
            view.earlier_until = Some(now + RETURN);
        }
        view.earlier.retain(|node| !view.nodes.has(node.id()));
        (view.run, view.lost) = (Some(run), None);
    }

    /// One of its nodes is as told now. False if that is more than a registry may tell.
    pub(super) fn changed(&mut self, registry: usize, node: NodeInfo) -> bool {
        self.comes(registry, &node);
        let Some(view) = self.views.get_mut(registry) else { return true };
        self.told += 1;
        view.earlier.remove(node.id());
        view.nodes.insert(node, self.told)
    }

    /// One of its nodes is gone: one that withdrew itself in this run of it, or one that was forgotten.
    pub(super) fn gone(&mut self, registry: usize, id: &NodeId, withdrawn: Option<Epoch>) {
        if let Some(view) = self.views.get_mut(registry) {
            view.nodes.remove(id);
            view.earlier.remove(id);
        }
        if let Some(epoch) = withdrawn {
            self.is_withdrawn_by(registry, id.clone(), epoch);
        }
    }

    fn is_withdrawn_by(&mut self, registry: usize, id: NodeId, epoch: Epoch) {
        Arc::make_mut(&mut self.withdrawn).insert(id, epoch, registry);
    }

    /// A registry has the node. Where it hears of a run that was not withdrawn, or said so itself before, the node is
    /// back. Another one may not have heard of the withdrawal yet, or never hear of it.
    fn comes(&mut self, registry: usize, node: &NodeInfo) {
        let is_back = |(epoch, by)| epoch != node.epoch() || by == registry;
        if !node.is_suspected() && self.withdrawn.said(node.id()).is_some_and(is_back) {
            Arc::make_mut(&mut self.withdrawn).remove(node.id());
        }
    }

    /// It cannot be heard any more; until then its nodes count beside what others tell.
    pub(super) fn lost(&mut self, registry: usize, now: Instant, until: Instant) {
        if let Some(view) = self.views.get_mut(registry)
            && view.lost.is_none()
        {
            view.lost = Some(until);
            if view.earlier_until.is_some_and(|until| until <= now) {
                view.earlier.clear();
            }
        }
    }

    /// Whether any registry has told all that it knows.
    pub(super) fn is_known(&self) -> bool {
        self.views.iter().any(View::is_complete)
    }

    /// Whether any registry is heard.
    fn is_heard(&self) -> bool {
        self.views.iter().any(|view| view.is_complete() && view.lost.is_none())
    }

    /// When what counts is another by time alone.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.is_heard() {
            return None;
        }
        let times = self.views.iter().flat_map(|view| [view.lost, view.earlier_until]);
        times.flatten().filter(|until| *until > now).min()
    }

    /// All that counts: a node as the newest run of it is told of, and suspected when all who are heard
    /// suspect it. What a registry told that is not heard any more is suspected beside what others
    /// tell, and counts as it is while none is heard. What was told of a run by several counts as it was
    /// told last. One that was withdrawn is there only where a registry hears of it still.
    pub(super) fn nodes(&self, now: Instant) -> NodeSet {
        let is_heard = self.is_heard();
        let mut all: BTreeMap<&NodeId, (NodeInfo, u64)> = BTreeMap::new();
        for view in self.views.iter().filter(|view| view.is_complete()) {
            let is_old = match view.lost {
                Some(until) if is_heard && until <= now => continue,
                lost => is_heard && lost.is_some(),
            };
            let is_unheard = view.lost.is_some();
            let is_earlier_over = view.earlier_until.is_none_or(|until| until <= now);
            let earlier = (!is_heard || !is_earlier_over).then_some(&view.earlier);
            let nodes = view.nodes.iter().map(|told| (told, is_old, is_unheard));
            let earlier = earlier.into_iter().flat_map(Nodes::iter).map(|told| (told, true, true));
            for ((node, told), is_old, is_unheard) in nodes.chain(earlier) {
                let id = node.id();
                if (is_unheard || node.is_suspected()) && self.withdrawn.has(id, node.epoch()) {
                    continue;
                }
                let node = node.clone().with_suspicion(node.is_suspected() || is_old);
                let rank = |node: &NodeInfo, told| (!node.is_suspected(), node.epoch(), told);
                if all.get(id).is_none_or(|(known, at)| rank(&node, told) > rank(known, *at)) {
                    all.insert(id, (node, told));
                }
            }
        }
        let nodes: NodeSet = all.into_values().map(|(node, _)| node).collect();
        nodes.with_withdrawals(Arc::clone(&self.withdrawn))
    }
}

impl View {
    /// It told all that there is, once at least.
    const fn is_complete(&self) -> bool {
        self.run.is_some()
    }
}

/// How long a node may take to come back to a registry that does not know it any more: longer than the longest wait
/// between two attempts, and the attempt.
const RETURN: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
