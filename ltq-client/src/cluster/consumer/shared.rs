//! What a cluster's consumer and its task share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ltq_core::{Credit, Entropy, Refusal, RefusalCode};
use ltq_discovery::{Epoch, NodeId, NodeInfo, NodeSet};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    ClusterConsumeError, ClusterConsumerFigures, SubscriptionState,
    merge::{Merge, Source},
};
use crate::{
    Backoff, Consumer, CreditUse, NodeNotUsed,
    connection::deadline,
    consumer::{Changes, Settings},
    producer::passes,
};

pub(in crate::cluster) struct Shared {
    /// Without the credit: that is shared.
    pub(super) settings: Settings,
    pub(super) changes: Arc<Changes>,
    credit: Mutex<Credit>,
    merge: Mutex<Merge>,
    troubles: Mutex<BTreeMap<NodeId, Trouble>>,
    backoff: Backoff,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// Which nodes have the topic.
#[derive(Clone, Debug)]
pub(super) enum Sight {
    /// Nobody has said so yet.
    Unknown,
    /// Nobody ever says so: any may.
    AllNodes,
    /// Who would say so cannot be asked: each node is asked whether it has it.
    Unasked,
    Nodes(NodeSet),
}

/// Why there is no subscription at a node.
#[derive(Clone, Debug)]
struct Trouble {
    why: Why,
    /// Which run of the node that was.
    epoch: Epoch,
    /// When it is tried again; `None` while it is, or where only news of the node is a reason to.
    until: Option<Instant>,
    /// In a row.
    failures: u32,
    /// Whether it was said to have the topic.
    had_topic: bool,
}

#[derive(Clone, Debug)]
enum Why {
    NoAddress,
    SameAs(NodeId),
    Refused { refusal: Refusal, is_final: bool },
}

impl Shared {
    pub(super) fn new(settings: Settings, backoff: Backoff, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            changes: Arc::default(),
            credit: Mutex::new(settings.credit),
            merge: Mutex::new(Merge::new()),
            troubles: Mutex::default(),
            settings,
            backoff,
            entropy,
        }
    }

    pub(super) fn merge(&self) -> MutexGuard<'_, Merge> {
        self.merge.lock()
    }

    /// How much may be open and unsettled on all nodes together.
    pub(super) fn credit(&self) -> Credit {
        *self.credit.lock()
    }

    pub(super) fn set_credit(&self, credit: Credit) {
        *self.credit.lock() = credit.at_least(Credit { messages: 1, bytes: 1 });
        self.changes.look_here();
    }

    pub(super) fn credit_use(&self) -> CreditUse {
        let mut all = CreditUse { size: self.credit(), ..CreditUse::default() };
        for source in self.merge().sources() {
            let CreditUse { open, unsettled, .. } = source.consumer.credit_use();
            all.open = all.open.plus(open);
            all.unsettled = all.unsettled.plus(unsettled);
        }
        all
    }

    /// Takes nothing more, and ends the subscriptions.
    pub(in crate::cluster) fn close(&self) {
        drop(self.take_all());
    }

    /// Takes nothing more. Returns the subscriptions, to be ended.
    pub(super) fn take_all(&self) -> Vec<(NodeId, Consumer)> {
        let sources = self.merge().close();
        self.changes.look_here();
        sources
    }

    pub(super) fn is_ended(&self) -> bool {
        self.merge().is_ended()
    }

    pub(super) fn fail(&self, error: ClusterConsumeError) {
        self.merge().fail(error);
    }

    /// Takes from this consumer too. Returns whether anything is still taken.
    pub(super) fn add(&self, number: u64, node: &NodeId, consumer: Consumer) -> bool {
        // What is not wanted is dropped without the lock.
        let unwanted = self.merge().add(number, node.clone(), consumer);
        unwanted.is_none()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Consumer> {
        self.merge().remove(number)
    }

    pub(super) fn set_leaving(&self, number: u64, is_leaving: bool) {
        self.merge().set_leaving(number, is_leaving);
    }

    /// Forgets what is known of other nodes.
    pub(super) fn retain_nodes(&self, nodes: &BTreeMap<NodeId, NodeInfo>) {
        self.troubles.lock().retain(|node, _| nodes.contains_key(node));
        self.merge().retain_past(|node| nodes.contains_key(node));
    }

    /// Whether a node may be tried now.
    pub(super) fn may_try(&self, node: &NodeInfo, now: Instant) -> bool {
        let mut troubles = self.troubles.lock();
        let Some(trouble) = troubles.get_mut(node.id()) else { return true };
        if trouble.epoch != node.epoch() {
            troubles.remove(node.id());
            return true;
        }
        let Why::Refused { refusal, .. } = &trouble.why else { return true };
        if refusal.code == RefusalCode::NoSuchTopic && !trouble.had_topic && self.says_topic(node) {
            // It has come.
            troubles.remove(node.id());
            return true;
        }
        // Without a time it was being tried, and what came of that is not known.
        if trouble.until.is_some_and(|until| now < until) {
            return false;
        }
        // What an operator deleted is not to be made anew.
        let is_there = match refusal.code {
            RefusalCode::TopicDeleted => self.says_topic(node),
            RefusalCode::ChannelDeleted => self.says_channel(node),
            _ => true,
        };
        trouble.until = (!is_there).then(|| deadline(now, self.long_wait()));
        is_there
    }

    /// Whether the node says that it has the topic.
    fn says_topic(&self, node: &NodeInfo) -> bool {
        node.topics().is_some_and(|topics| topics.contains_key(&self.settings.topic))
    }

    fn says_channel(&self, node: &NodeInfo) -> bool {
        let channels = node.topics().and_then(|topics| topics.get(&self.settings.topic));
        channels.is_some_and(|channels| channels.contains(&self.settings.channel))
    }

    /// A node refused the subscription; `is_unasked` says that nobody can say just now which topics it has.
    pub(super) fn refused(
        &self,
        node: &NodeInfo,
        refusal: &Refusal,
        is_unasked: bool,
        now: Instant,
    ) {
        let mut troubles = self.troubles.lock();
        let before = troubles.get(node.id()).filter(|before| before.epoch == node.epoch());
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let wait = match may_pass(refusal.code) {
            true => self.backoff.wait(failures, self.entropy.next()),
            false => self.long_wait(),
        };
        // Where nodes tell of their topics, one whose topic was deleted does not have it, and that is all.
        let are_told = node.topics().is_some() || is_unasked;
        let is_gone = refusal.code == RefusalCode::TopicDeleted && are_told;
        let is_final = !may_pass(refusal.code) && !is_gone;
        let why = Why::Refused { refusal: refusal.clone(), is_final };
        let until = Some(deadline(now, wait));
        let (epoch, had_topic) = (node.epoch(), self.says_topic(node));
        let trouble = Trouble { why, epoch, until, failures, had_topic };
        troubles.insert(node.id().clone(), trouble);
    }

    pub(super) fn has_no_address(&self, node: &NodeInfo) {
        self.is_unused(node, Why::NoAddress);
    }

    /// A node is another one under a second id, which is subscribed at.
    pub(super) fn is_same_as(&self, node: &NodeInfo, other: &NodeId) {
        self.is_unused(node, Why::SameAs(other.clone()));
    }

    fn is_unused(&self, node: &NodeInfo, why: Why) {
        let epoch = node.epoch();
        let trouble = Trouble { why, epoch, until: None, failures: 0, had_topic: false };
        self.troubles.lock().insert(node.id().clone(), trouble);
    }

    fn long_wait(&self) -> Duration {
        Backoff::new(REFUSED_WAIT, REFUSED_WAIT).wait(1, self.entropy.next())
    }

    /// There is a subscription at this node.
    pub(super) fn trust(&self, node: &NodeId) {
        self.troubles.lock().remove(node);
    }

    /// When the next node is to be tried again.
    pub(super) fn next_trial(&self) -> Option<Instant> {
        self.troubles.lock().values().filter_map(|trouble| trouble.until).min()
    }

    /// One of these nodes and its refusal, if all of them refuse for a reason that stays.
    pub(super) fn refused_by_all(&self, nodes: &[NodeInfo]) -> Option<(NodeId, Refusal)> {
        let troubles = self.troubles.lock();
        let refusal = |node: &NodeInfo| match &troubles.get(node.id())?.why {
            Why::Refused { refusal, is_final: true } => Some((node.id().clone(), refusal.clone())),
            _ => None,
        };
        let all: Option<Vec<_>> = nodes.iter().map(refusal).collect();
        all?.into_iter().next()
    }

    /// Whether each of these nodes has said that it does not have the topic.
    pub(super) fn lacked_by_all(&self, nodes: &BTreeMap<NodeId, NodeInfo>) -> bool {
        let troubles = self.troubles.lock();
        nodes.keys().all(|id| match troubles.get(id).map(|trouble| &trouble.why) {
            Some(Why::Refused { refusal, .. }) => refusal.code == RefusalCode::NoSuchTopic,
            _ => false,
        })
    }

    pub(super) fn figures(&self) -> ClusterConsumerFigures {
        let mut figures = ClusterConsumerFigures::default();
        for (node, trouble) in &*self.troubles.lock() {
            figures.nodes.entry(node.clone()).or_default().state = match &trouble.why {
                Why::NoAddress => SubscriptionState::NoAddress,
                Why::SameAs(other) => SubscriptionState::SameAs(other.clone()),
                Why::Refused { refusal, .. } => SubscriptionState::Refused(refusal.clone()),
            };
        }
        let mut merge = self.merge();
        for (node, past) in merge.past() {
            let figures = figures.nodes.entry(node.clone()).or_default();
            figures.taken += past.taken;
            figures.stale += past.stale;
        }
        for Source { node, consumer, taken, is_leaving, .. } in merge.sources() {
            let figures = figures.nodes.entry(node.clone()).or_default();
            figures.taken += *taken;
            figures.stale += consumer.stale();
            let CreditUse { size, open, unsettled } = consumer.credit_use();
            let credit = &mut figures.credit;
            credit.size = credit.size.plus(size);
            credit.open = credit.open.plus(open);
            credit.unsettled = credit.unsettled.plus(unsettled);
            if consumer.shared().is_subscribed() {
                figures.state = match (*is_leaving, &figures.state) {
                    (true, SubscriptionState::Waiting) => SubscriptionState::Leaving,
                    (true, _) => continue,
                    (false, _) => SubscriptionState::Subscribed,
                };
            }
        }
        figures
    }

    /// Why there is no subscription at any of the nodes that could have one.
    pub(super) fn why_not(&self, nodes: &NodeSet) -> Vec<(NodeId, NodeNotUsed)> {
        let figures = self.figures();
        let why = |node: &NodeInfo| match figures.nodes.get(node.id()).map(|node| &node.state) {
            Some(SubscriptionState::Refused(refusal)) => NodeNotUsed::PassedOver(refusal.clone()),
            Some(SubscriptionState::NoAddress) => NodeNotUsed::NoAddress,
            Some(SubscriptionState::SameAs(other)) => NodeNotUsed::SameAs(other.clone()),
            Some(_) => NodeNotUsed::NoAnswer,
            None => NodeNotUsed::TopicNotKnown,
        };
        nodes.iter().map(|node| (node.id().clone(), why(node))).collect()
    }
}

/// Whether a refusal to subscribe may be taken back without anybody's doing.
const fn may_pass(code: RefusalCode) -> bool {
    use RefusalCode::{NoSuchChannel, NoSuchTopic, Unauthorized};
    passes(code) || matches!(code, NoSuchTopic | NoSuchChannel | Unauthorized)
}

/// How long to wait before asking a node again that refused for a reason that stays.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ltq_core::{StartAt, SystemEntropy};

    use super::*;

    fn shared() -> Shared {
        let settings = Settings {
            topic: "orders".parse().unwrap(),
            channel: "billing".parse().unwrap(),
            start: StartAt::Earliest,
            timeout: None,
            credit: Credit { messages: 1, bytes: 1 },
            make_topic: true,
        };
        Shared::new(settings, Backoff::default(), Arc::new(SystemEntropy))
    }

    fn node() -> NodeInfo {
        let address = "tcp://n:1".parse().unwrap();
        NodeInfo::new("n".parse().unwrap(), [address]).unwrap()
    }

    /// A node that says that it has the topic with these channels.
    fn with_channels(channels: &[&str]) -> NodeInfo {
        let channels: BTreeSet<_> = channels.iter().map(|name| name.parse().unwrap()).collect();
        node().with_topics([("orders".parse().unwrap(), channels)].into())
    }

    fn refused(node: &NodeInfo, code: RefusalCode) -> (Shared, Instant) {
        let (shared, now) = (shared(), Instant::now());
        shared.refused(node, &Refusal::new(code, "for a test"), false, now);
        (shared, now)
    }

    #[test]
    fn what_passes_is_tried_again_soon_and_what_stays_seldom() {
        for (code, soon) in [(RefusalCode::LimitReached, true), (RefusalCode::Forbidden, false)] {
            let (shared, now) = refused(&node(), code);
            assert!(!shared.may_try(&node(), now));
            assert_eq!(shared.may_try(&node(), now + Duration::from_secs(1)), soon);
            assert!(shared.may_try(&node(), now + Duration::from_secs(31)));
            assert_eq!(shared.refused_by_all(&[node()]).is_none(), soon);
        }
    }

    #[test]
    fn what_was_deleted_is_tried_again_where_the_node_says_that_it_is_there() {
        let late = Duration::from_secs(31);
        let (shared, now) = refused(&node(), RefusalCode::ChannelDeleted);
        assert!(!shared.may_try(&node(), now + late), "nobody knows");
        assert!(shared.refused_by_all(&[node()]).is_some());
        let (shared, now) = refused(&with_channels(&[]), RefusalCode::ChannelDeleted);
        assert!(!shared.may_try(&with_channels(&[]), now + late));
        let next = shared.next_trial().unwrap();
        assert!(next > now + late, "it is looked at again, and not all the time");
        assert!(shared.may_try(&with_channels(&["billing"]), next));
    }

    #[test]
    fn a_topic_that_is_deleted_ends_nothing_where_nodes_tell_of_their_topics() {
        let (shared, _) = refused(&with_channels(&["billing"]), RefusalCode::TopicDeleted);
        assert!(shared.refused_by_all(&[with_channels(&[])]).is_none());
        let (shared, _) = refused(&node(), RefusalCode::TopicDeleted);
        assert!(shared.refused_by_all(&[node()]).is_some());
        assert!(shared.refused_by_all(&[]).is_none(), "of no node nothing is known");
        // While who tells of them cannot be asked.
        let refusal = Refusal::new(RefusalCode::TopicDeleted, "for a test");
        shared.refused(&node(), &refusal, true, Instant::now());
        assert!(shared.refused_by_all(&[node()]).is_none());
    }

    #[test]
    fn a_node_that_did_not_have_the_topic_is_tried_at_once_when_it_is_said_to_have_it() {
        let (shared, now) = refused(&node(), RefusalCode::NoSuchTopic);
        assert!(shared.lacked_by_all(&[(node().id().clone(), node())].into()));
        assert!(!shared.may_try(&node(), now));
        assert!(shared.may_try(&with_channels(&[]), now));
        assert!(!shared.lacked_by_all(&[(node().id().clone(), node())].into()), "it is asked");
        // One that is said to have it and refuses all the same is not tried again and again.
        let (shared, now) = refused(&with_channels(&[]), RefusalCode::NoSuchTopic);
        assert!(!shared.may_try(&with_channels(&[]), now));
    }

    #[test]
    fn a_node_that_was_started_again_or_whose_trial_came_to_nothing_is_tried_at_once() {
        let (shared, now) = refused(&node(), RefusalCode::Forbidden);
        let again = node().with_epoch(Epoch { started: 1, instance: 1 });
        assert!(shared.may_try(&again, now));
        let (shared, now) = refused(&node(), RefusalCode::Forbidden);
        let later = now + Duration::from_secs(31);
        assert!(shared.may_try(&node(), later), "it is tried");
        assert_eq!(shared.next_trial(), None);
        assert!(shared.may_try(&node(), later), "and left before it answered");
    }
}
