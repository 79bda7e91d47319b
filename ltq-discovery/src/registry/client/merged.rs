//! What several registries tell, as one.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::nodes::Nodes;
use crate::{NodeId, NodeInfo, NodeSet};

/// What each registry told last.
#[derive(Debug)]
pub(super) struct Merged {
    views: Vec<View>,
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
    /// What an earlier run told of, and this one knows nothing of yet, and until when that counts.
    earlier: Nodes,
    earlier_until: Option<Instant>,
}

impl Merged {
    pub(super) fn new(registries: usize) -> Self {
        Self { views: (0..registries).map(|_| View::default()).collect(), told: 0 }
    }

    /// A registry has told all that there is, in this run of it.
    ///
    /// One that was started anew has forgotten nodes that are well, and that need some time to come back to
    /// it: they count until then.
    pub(super) fn told(&mut self, registry: usize, run: u64, mut nodes: Nodes, now: Instant) {
        let Some(view) = self.views.get_mut(registry) else { return };
        self.told += 1;
        nodes.stamp(&view.nodes, self.told);
        let before = std::mem::replace(&mut view.nodes, nodes);
        if view.run.is_some_and(|known| known != run) {
            view.earlier.take_over(before);
            view.earlier_until = Some(now + RETURN);
        }
        view.earlier.retain(|id| !view.nodes.has(id));
        (view.run, view.lost) = (Some(run), None);
    }

    /// One of its nodes is as told now. False if that is more than a registry may tell.
    pub(super) fn changed(&mut self, registry: usize, node: NodeInfo) -> bool {
        let Some(view) = self.views.get_mut(registry) else { return true };
        self.told += 1;
        view.earlier.remove(node.id());
        view.nodes.insert(node, self.told)
    }

    /// One of its nodes is gone.
    pub(super) fn gone(&mut self, registry: usize, id: &NodeId) {
        if let Some(view) = self.views.get_mut(registry) {
            view.nodes.remove(id);
            view.earlier.remove(id);
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
    /// told last.
    pub(super) fn nodes(&self, now: Instant) -> NodeSet {
        let is_heard = self.is_heard();
        let mut all: BTreeMap<&NodeId, (NodeInfo, u64)> = BTreeMap::new();
        for view in self.views.iter().filter(|view| view.is_complete()) {
            let is_old = match view.lost {
                Some(until) if is_heard && until <= now => continue,
                lost => is_heard && lost.is_some(),
            };
            let is_earlier_over = view.earlier_until.is_none_or(|until| until <= now);
            let earlier = (!is_heard || !is_earlier_over).then_some(&view.earlier);
            let nodes = view.nodes.iter().map(|told| (told, is_old));
            let earlier = earlier.into_iter().flat_map(Nodes::iter).map(|told| (told, true));
            for ((node, told), is_old) in nodes.chain(earlier) {
                let id = node.id();
                let node = node.clone().with_suspicion(node.is_suspected() || is_old);
                let rank = |node: &NodeInfo, told| (!node.is_suspected(), node.epoch(), told);
                if all.get(id).is_none_or(|(known, at)| rank(&node, told) > rank(known, *at)) {
                    all.insert(id, (node, told));
                }
            }
        }
        all.into_values().map(|(node, _)| node).collect()
    }
}

impl View {
    /// It told all that there is, once at least.
    const fn is_complete(&self) -> bool {
        self.run.is_some()
    }
}

/// How long a node may take to come back to a registry that was started anew: longer than the longest wait
/// between two attempts, and the attempt.
const RETURN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{super::ToldLimits, *};
    use crate::{Epoch, NodeState};

    fn node(id: &str) -> NodeInfo {
        let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
        node.with_epoch(Epoch { started: 1, instance: 1 })
    }

    fn nodes<const N: usize>(of: [NodeInfo; N]) -> Nodes {
        let mut nodes = Nodes::new(ToldLimits::default());
        assert!(of.into_iter().all(|node| nodes.insert(node, 0)));
        nodes
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
        merged.told(0, 1, nodes([node("a"), node("b"), node("c")]), start);
        merged.lost(0, start, start + RETURN * 3);
        merged.told(0, 2, nodes([]), start);
        assert_eq!(standing(&merged, start), named(&[("a", true), ("b", true), ("c", true)]));
        assert!(merged.changed(0, node("a")));
        merged.gone(0, node("c").id());
        assert_eq!(standing(&merged, start), named(&[("a", false), ("b", true)]));
        assert_eq!(merged.next_timeout(start), Some(start + RETURN));
        assert_eq!(standing(&merged, start + RETURN), named(&[("a", false)]));
        // What is over does not come back when the registry is lost.
        merged.lost(0, start + RETURN, start + RETURN * 4);
        assert_eq!(standing(&merged, start + RETURN), named(&[("a", false)]));
    }

    #[test]
    fn what_the_same_run_tells_counts_at_once() {
        let (mut merged, start) = (Merged::new(1), Instant::now());
        merged.told(0, 1, nodes([node("a"), node("b")]), start);
        merged.lost(0, start, start + RETURN);
        merged.told(0, 1, nodes([node("b")]), start);
        assert_eq!(standing(&merged, start), named(&[("b", false)]));
    }

    #[test]
    fn a_registry_that_is_started_again_and_again_takes_nobody_away() {
        let (mut merged, start) = (Merged::new(1), Instant::now());
        merged.told(0, 1, nodes([node("a"), node("b")]), start);
        merged.told(0, 2, nodes([node("b")]), start + RETURN / 2);
        merged.told(0, 3, nodes([]), start + RETURN);
        let now = start + RETURN * 2 - Duration::from_millis(1);
        assert_eq!(standing(&merged, now), named(&[("a", true), ("b", true)]));
    }

    #[test]
    fn of_what_several_tell_of_one_run_the_last_counts() {
        let (mut merged, now) = (Merged::new(2), Instant::now());
        merged.told(0, 1, nodes([node("a")]), now);
        merged.told(1, 1, nodes([node("a")]), now);
        assert!(merged.changed(1, node("a").with_state(NodeState::Draining)));
        let state = |merged: &Merged| merged.nodes(now).iter().next().map(NodeInfo::state);
        assert_eq!(state(&merged), Some(NodeState::Draining));
        // A registry that says again what it said has learned nothing.
        merged.told(0, 1, nodes([node("a")]), now);
        assert_eq!(state(&merged), Some(NodeState::Draining));
        assert!(merged.changed(1, node("a")));
        assert!(merged.changed(0, node("a").with_state(NodeState::Draining)));
        assert_eq!(state(&merged), Some(NodeState::Draining));
    }
}
