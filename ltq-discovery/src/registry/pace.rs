//! How soon watchers hear of a node that changes again and again.
//!
//! Whoever watches is told of a change at once. But a node may change at each word that it says, and with ten thousand
//! watchers each change is ten thousand words. So a node that was told of is quiet for a while, the longer the more
//! were told; what it does meanwhile is told together, and as it is by then. A few changes in a row come before that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_core::{Monotonic, TopicName};

use crate::NodeId;

/// Who is to be told of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whom {
    /// Those who watch all nodes, and with them those who watch everything.
    pub(super) all_nodes: bool,
    /// Those who watch everything.
    pub(super) everything: bool,
    /// Those who watch any topic.
    pub(super) any_topic: bool,
    /// Those who watch a topic that the node has by then.
    pub(super) its_topics: bool,
    /// Those who watch one of these: topics that somebody watched when they were put here.
    pub(super) topics: BTreeSet<TopicName>,
}

impl Whom {
    /// All who know of the node.
    pub(super) fn all() -> Self {
        Self { all_nodes: true, its_topics: true, ..Self::default() }
    }

    fn add(&mut self, mut more: Self) {
        self.all_nodes |= more.all_nodes;
        self.everything |= more.everything;
        self.any_topic |= more.any_topic;
        self.its_topics |= more.its_topics;
        self.topics.append(&mut more.topics);
    }
}

/// Nodes that were told of lately.
#[derive(Debug)]
pub(super) struct Paces {
    /// How long a node is quiet for each who was told of it, and how much of that may be ahead.
    for_each: Duration,
    ahead: Duration,
    of: BTreeMap<NodeId, Pace>,
    /// All of them, by when they are forgotten.
    ends: BTreeSet<(Monotonic, NodeId)>,
    /// Those of which there is something to be told, by when it is.
    due: BTreeSet<(Monotonic, NodeId)>,
}

#[derive(Debug)]
struct Pace {
    /// Until when what was told counts.
    until: Monotonic,
    /// What is told later, and when.
    later: Option<(Monotonic, Whom)>,
}

impl Default for Paces {
    fn default() -> Self {
        let (of, ends, due) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { for_each: QUIET_FOR_EACH, ahead: AHEAD, of, ends, due }
    }
}

impl Paces {
    /// There is something to be told of a node. Returns it where that may be done now, together with what waited;
    /// else it waits.
    pub(super) fn now_or_later(&mut self, now: Monotonic, id: &NodeId, whom: Whom) -> Option<Whom> {
        let Some(pace) = self.of.get_mut(id) else { return Some(whom) };
        match &mut pace.later {
            Some((_, later)) => {
                later.add(whom);
                None
            }
            None if pace.until <= now.plus(self.ahead) => Some(whom),
            None => {
                let due = Monotonic(pace.until.0.saturating_sub(micros(self.ahead)));
                pace.later = Some((due, whom));
                self.due.insert((due, id.clone()));
                None
            }
        }
    }

    /// So many were told of it.
    pub(super) fn told(&mut self, now: Monotonic, id: &NodeId, count: usize) {
        self.forget(now);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let quiet = self.for_each.saturating_mul(count).min(QUIET_MAX);
        let before = self.of.get(id).map(|pace| pace.until);
        if let Some(before) = before {
            self.ends.remove(&(before, id.clone()));
        }
        let until = before.unwrap_or(now).max(now).plus(quiet);
        let pace = self.of.entry(id.clone()).or_insert(Pace { until, later: None });
        pace.until = until;
        self.ends.insert((until, id.clone()));
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is due, and what is to be told of it.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Option<(NodeId, Whom)> {
        if self.next_due()? > now {
            return None;
        }
        let (_, id) = self.due.pop_first()?;
        let (_, whom) = self.of.get_mut(&id)?.later.take()?;
        Some((id, whom))
    }

    /// Forgets some of those that count no more: more than come, so that there are not many.
    fn forget(&mut self, now: Monotonic) {
        for _ in 0..2 {
            let Some((until, id)) = self.ends.first() else { return };
            if *until > now || self.of.get(id).is_some_and(|pace| pace.later.is_some()) {
                return;
            }
            self.of.remove(id);
            self.ends.pop_first();
        }
    }

    /// All that is told twice waits, however few are told.
    #[cfg(test)]
    pub(super) fn be_slow(&mut self) {
        (self.for_each, self.ahead) = (QUIET_MAX, Duration::ZERO);
    }

    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        let ends = self.of.iter().map(|(id, pace)| (pace.until, id.clone()));
        assert_eq!(self.ends, ends.collect());
        let due =
            self.of.iter().filter_map(|(id, pace)| Some((pace.later.as_ref()?.0, id.clone())));
        assert_eq!(self.due, due.collect());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How long a node is quiet for each who was told of it: ten thousand are told once a second.
const QUIET_FOR_EACH: Duration = Duration::from_micros(100);
/// How long for all of them, and so how late a change is told at most.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(3);
/// So much of that may be ahead: ten thousand are told of three changes in a row.
const AHEAD: Duration = Duration::from_secs(2);
