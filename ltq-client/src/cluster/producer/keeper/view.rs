//! What is known of each node, and which of them may be given messages.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ltq_discovery::{NodeId, NodeInfo, NodeSet, NodeState};
use tokio::time::Instant;

use super::{
    super::{router::Candidate, shared::Shared, twins::Places},
    Keeper, contacts,
    lanes::Lane,
};
use crate::{
    Availability,
    cluster::{
        Members, NodeNotUsed, NodesNotUsed,
        choice::{Contact, Standing},
    },
    connection::deadline,
};

/// What is known of each node for one look at all of them.
pub(super) struct View {
    pub(super) nodes: NodeSet,
    /// Those that crashed and keep their order all the same: none where there is no order.
    pub(super) lost: BTreeSet<NodeId>,
    pub(super) standings: BTreeMap<NodeId, Standing>,
}

impl View {
    pub(super) fn standing(&self, id: &NodeId) -> Option<&Standing> {
        self.standings.get(id)
    }

    /// Whether it would do, and is beyond those that are wanted.
    pub(super) fn is_left_out(&self, id: &NodeId) -> bool {
        self.standing(id) == Some(&Standing::Out(NodeNotUsed::LeftOut))
    }
}

impl Keeper {
    pub(super) fn view(&mut self, now: Instant) -> View {
        let nodes = self.members.nodes();
        let mut lost = BTreeSet::new();
        if self.shared.ordered.is_some() {
            lost = self.members.lost();
            // It may have come back in between.
            lost.retain(|id| nodes.get(id).is_none());
        }
        let mut standings = BTreeMap::new();
        let lanes = &self.lanes;
        let used: HashSet<_> = lanes.values().map(|lane| lane.client).collect();
        self.contacts.retain(
            &self.members,
            |id| nodes.get(id).is_some() || lanes.contains_key(id),
            |number| used.contains(&number),
        );
        let contacts = &self.contacts;
        self.silent.retain(|id| nodes.get(id).is_some() && contacts.of(id) == Contact::Up);
        let places = self.places(&nodes);
        // Asked of each producer by itself, which asks for twins when it is fenced: never while those are locked.
        let silent: BTreeSet<_> =
            nodes.iter().map(NodeInfo::id).filter(|id| self.is_silent(id)).cloned().collect();
        let mut twins = self.shared.twins.lock();
        twins.retain(|id| nodes.get(id).is_some(), |id| lanes.contains_key(id));
        let mut router = self.shared.router.lock();
        router.retain_passed(|id| nodes.get(id).is_some());
        for node in nodes.iter() {
            let unused = !lanes.contains_key(node.id());
            let twin = twins.of(node.id()).cloned();
            let broker = || contacts::broker(node.id(), &self.members);
            let same = || places.same(node, broker).cloned();
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
            let mut standing =
                Standing::of(node, is_reachable, contact, passed.map(|passed| &passed.refusal));
            if !standing.is_out() && silent.contains(node.id()) {
                standing = Standing::Out(NodeNotUsed::Silent);
            }
            standings.insert(node.id().clone(), standing);
        }
        drop(router);
        drop(twins);
        self.trouble
            .retain(|id, _| nodes.get(id).is_some() || lanes.contains_key(id) || lost.contains(id));
        self.shared.counts.lock().retain(|id| nodes.get(id).is_some());
        let mut view = View { nodes, lost, standings };
        self.keep_to_some(&mut view);
        view
    }

    /// The nodes in use, by their addresses and brokers.
    pub(super) fn places<'a>(&self, nodes: &'a NodeSet) -> Places<'a> {
        Places::of(nodes, self.lanes.keys(), |id| contacts::broker(id, &self.members))
    }

    /// Whether a node answers nothing of what it was sent.
    fn is_silent(&self, id: &NodeId) -> bool {
        self.silent.contains(id) || self.lanes.get(id).is_some_and(Lane::is_silent)
    }

    /// Leaves nodes out that would do, where there are more than are wanted.
    fn keep_to_some(&mut self, view: &mut View) {
        if self.shared.ordered.is_some() {
            return;
        }
        let would_do: BTreeSet<_> = self.candidates(view).map(|node| node.id().clone()).collect();
        self.subset.retain(|id| view.nodes.get(id).is_some());
        for id in self.subset.left_out(would_do) {
            view.standings.insert(id, Standing::Out(NodeNotUsed::LeftOut));
        }
    }

    /// The nodes that may be given messages: the good ones, or failing these the suspected ones. An
    /// ordered producer makes no difference, so that a short doubt moves nothing.
    pub(super) fn candidates<'a>(&self, view: &'a View) -> impl Iterator<Item = &'a NodeInfo> {
        let any_good = view.standings.values().any(|standing| *standing == Standing::Good);
        let only_good = any_good && self.shared.ordered.is_none();
        view.nodes.iter().filter(move |node| match view.standing(node.id()) {
            Some(Standing::Good) => true,
            Some(Standing::Suspected) => !only_good,
            _ => false,
        })
    }

    pub(super) fn publish_candidates(&self, view: &View, now: Instant) {
        let loads = self.members.loads();
        let candidates = self.candidates(view).map(|node| {
            let lane = self.lanes.get(node.id());
            let lane = lane.filter(|lane| lane.is_working());
            let lent = lane.map(|lane| lane.lent.clone());
            Candidate { id: node.id().clone(), load: loads.of(node.id()), lent }
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
                Some(_) => true,
            });
            let all = may_have.map(NodeInfo::id).chain(&view.lost);
            let all: BTreeSet<_> = all.filter(|id| !self.is_away(id, now)).cloned().collect();
            order.set_nodes(all.into_iter().collect());
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

    /// Why each node is not used.
    pub(super) fn not_used(&self, view: &View) -> NodesNotUsed {
        let router = self.shared.router.lock();
        let all = view.standings.iter().map(|(id, standing)| {
            // What it said last, though it may be asked again.
            let said = router.passed(id).map(|passed| passed.refusal.clone());
            let why = match (standing, said) {
                (
                    Standing::Good | Standing::Suspected | Standing::Out(NodeNotUsed::LeftOut),
                    Some(refusal),
                ) => NodeNotUsed::PassedOver(refusal),
                (Standing::Out(why), _) => why.clone(),
                _ if self.lanes.get(id).is_some_and(|lane| lane.is_open) => NodeNotUsed::NotItsTurn,
                _ => NodeNotUsed::NoAnswer,
            };
            (id.clone(), why)
        });
        let lost = view.lost.iter().map(|id| (id.clone(), NodeNotUsed::Lost));
        NodesNotUsed(all.chain(lost).collect())
    }

    /// Why no node has opened the producer.
    pub(in crate::cluster::producer) fn why_not(
        shared: &Shared,
        members: &Members,
    ) -> NodesNotUsed {
        let router = shared.router.lock();
        let all = members.nodes();
        let all = all.iter().map(|node| {
            let contact = members
                .used_client(node.id())
                .map_or(Contact::Untried, |client| contacts::contact(&client.state().borrow()));
            let passed = router.passed(node.id()).map(|passed| &passed.refusal);
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
