//! What is different about a node.

use std::collections::{BTreeMap, BTreeSet};

use ltq_core::{ChannelName, TopicName};

use crate::{NodeInfo, NodeState};

/// What is different about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// What it does now; `None` if that is as it was.
    pub state: Option<NodeState>,
    /// Topics that came, or whose channels changed, each with all its channels.
    pub has: Vec<(TopicName, BTreeSet<ChannelName>)>,
    /// Topics that went.
    pub lacks: Vec<TopicName>,
}

/// What becomes of the topics of a node. One whose channels change goes and comes.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// With the number of their channels.
    pub(super) went: BTreeMap<TopicName, usize>,
    pub(super) came: BTreeMap<TopicName, BTreeSet<ChannelName>>,
}

impl NodeChange {
    /// What makes one description of a node another; `None` where a change cannot say it, and the node
    /// has to be announced anew. A load is none.
    #[must_use]
    pub fn between(old: &NodeInfo, new: &NodeInfo) -> Option<Self> {
        let same = old.id() == new.id()
            && old.epoch() == new.epoch()
            && old.addresses() == new.addresses()
            && old.version() == new.version();
        let differences = match (old.topics(), new.topics()) {
            _ if !same => return None,
            (None, None) => None,
            (Some(before), Some(after)) => Some(after.since(before)),
            _ => return None,
        };
        let (mut has, mut lacks) = (Vec::new(), Vec::new());
        for (topic, channels) in differences.into_iter().flatten() {
            match channels {
                Some(channels) => has.push((topic.clone(), channels.clone())),
                None => lacks.push(topic.clone()),
            }
        }
        let state = (old.state() != new.state()).then_some(new.state());
        Some(Self { state, has, lacks })
    }

    /// What it changes of the topics of a node: what it says and is so already is left out.
    pub(super) fn against(self, node: &NodeInfo) -> Difference {
        let Self { state: _, has, lacks } = self;
        let Difference { mut went, mut came } = Difference::default();
        let known = |topic: &TopicName| node.topics().and_then(|topics| topics.get(topic));
        for topic in lacks {
            if let Some(channels) = known(&topic) {
                went.insert(topic, channels.len());
            }
        }
        for (topic, new) in has {
            let old = known(&topic);
            went.remove(&topic);
            if old == Some(&new) {
                continue;
            }
            if let Some(old) = old {
                went.insert(topic.clone(), old.len());
            }
            came.insert(topic, new);
        }
        Difference { went, came }
    }

    /// Names of topics and channels in it, and one for the state.
    pub(super) fn names(&self) -> usize {
        let has = self.has.iter().map(|(_, channels)| 1 + channels.len()).sum::<usize>();
        has + self.lacks.len() + usize::from(self.state.is_some())
    }

    /// Several changes, one after the other, as one: of each topic the newest counts.
    pub(super) fn all<'a>(changes: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut state, mut topics) = (None, BTreeMap::new());
        for change in changes {
            state = change.state.or(state);
            // What has the one is not named by the other.
            topics.extend(change.lacks.iter().map(|topic| (topic, None)));
            topics.extend(change.has.iter().map(|(topic, channels)| (topic, Some(channels))));
        }
        let mut all = Self { state, ..Self::default() };
        for (topic, channels) in topics {
            match channels {
                Some(channels) => all.has.push((topic.clone(), channels.clone())),
                None => all.lacks.push(topic.clone()),
            }
        }
        all
    }
}
