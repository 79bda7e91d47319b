//! What there is to be told of an announced node.

use std::collections::VecDeque;

use crate::{NodeInfo, registry::change::NodeChange};

/// A node as it is, and what changed of it of late.
pub(super) struct News {
    node: NodeInfo,
    /// Of the newest change.
    number: u64,
    /// The newest changes, by number; who missed more is told all anew.
    changes: VecDeque<(u64, NodeChange)>,
    /// How many names there are in them.
    names: usize,
}

impl News {
    pub(super) const fn new(node: NodeInfo) -> Self {
        Self { node, number: 0, changes: VecDeque::new(), names: 0 }
    }

    pub(super) const fn node(&self) -> &NodeInfo {
        &self.node
    }

    /// The number of the newest change.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The node is so now. Says whether that is to be told before the next beat, which tells of its load. Costs
    /// nothing in the number of topics where they are the very same.
    pub(super) fn take(&mut self, node: NodeInfo) -> bool {
        let change = NodeChange::between(&self.node, &node);
        self.node = node;
        match change {
            Some(change) if change == NodeChange::default() => return false,
            Some(change) => {
                self.number += 1;
                self.names += change.names();
                self.changes.push_back((self.number, change));
                while self.changes.len() > CHANGES_KEPT || self.names > NAMES_KEPT {
                    let Some((_, oldest)) = self.changes.pop_front() else { break };
                    self.names -= oldest.names();
                }
            }
            None => {
                self.number += 1;
                (self.changes, self.names) = (VecDeque::new(), 0);
            }
        }
        true
    }

    /// What changed since that number, as one change; `None` where all of the node has to be told.
    pub(super) fn since(&self, told: u64) -> Option<NodeChange> {
        let missed = self.number.checked_sub(told)?;
        let known = || self.changes.iter().filter(|(number, _)| *number > told);
        let is_all = known().count() as u64 == missed;
        is_all.then(|| NodeChange::all(known().map(|(_, change)| change)))
    }
}

/// Changes that a registry may miss and be told as one.
const CHANGES_KEPT: usize = 1_024;
/// Names in all of them. To tell the node anew is no more than a few times as long then.
const NAMES_KEPT: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Load, NodeState};

    fn node(topics: &[&str]) -> NodeInfo {
        let topics = topics.iter().map(|name| (name.parse().unwrap(), [].into())).collect();
        let node = NodeInfo::new("n".parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
        node.with_topics(topics)
    }

    #[test]
    fn what_was_missed_is_one_change_and_of_each_topic_the_newest() {
        let mut news = News::new(node(&["a", "b"]));
        assert!(news.take(node(&["b", "c"])));
        assert!(news.take(node(&["b", "c"]).with_state(NodeState::Draining)));
        assert!(news.take(node(&["a", "b"]).with_state(NodeState::Draining)));
        assert_eq!(news.number(), 3);
        let change = news.since(0).unwrap();
        assert_eq!(change.state, Some(NodeState::Draining));
        assert_eq!(change.has, [("a".parse().unwrap(), [].into())]);
        assert_eq!(change.lacks, ["c".parse().unwrap()]);
        assert_eq!(news.since(3), Some(NodeChange::default()));
        // What no change can say is told as a whole.
        assert!(news.take(node(&["a"]).with_version("2").unwrap()));
        assert_eq!(news.since(3), None);
        assert_eq!(news.since(4), Some(NodeChange::default()));
    }

    #[test]
    fn what_is_kept_of_changes_is_bounded_by_their_names_and_their_number() {
        let mut news = News::new(node(&[]));
        for turn in 0..3_000_usize {
            news.take(node(&[["a", "b"][turn % 2]]));
        }
        assert_eq!(news.changes.len(), CHANGES_KEPT);
        let wide =
            (0..NAMES_KEPT + 1).map(|n| (format!("t{n}").parse().unwrap(), [].into())).collect();
        assert!(news.take(node(&[]).with_topics(wide)));
        assert!(news.changes.is_empty() && news.names == 0 && news.since(2_999).is_none());
    }

    #[test]
    fn a_load_is_told_by_the_beat_and_copies_no_topic() {
        let mut news = News::new(node(&["a", "b"]));
        let topics = news.node().topics().unwrap().clone();
        for load in 1..100 {
            let busy = news.node().clone().with_load(Load(load));
            assert!(!news.take(busy));
        }
        assert_eq!(news.node().load(), Load(99));
        assert!(news.node().topics().unwrap().is_shared_with(&topics));
    }
}
