//! What is different about a node.

use std::collections::BTreeSet;

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

impl NodeChange {
    /// What makes one description of a node another; `None` where a change cannot say it, and the node
    /// has to be announced anew. A load is none.
    #[must_use]
    pub fn between(old: &NodeInfo, new: &NodeInfo) -> Option<Self> {
        let same = old.id() == new.id()
            && old.epoch() == new.epoch()
            && old.addresses() == new.addresses()
            && old.version() == new.version();
        let (before, after) = match (old.topics(), new.topics()) {
            _ if !same => return None,
            (None, None) => (None, None),
            (Some(before), Some(after)) => (Some(before), Some(after)),
            _ => return None,
        };
        let (before, after) = (before.into_iter().flatten(), after.into_iter().flatten());
        let (mut has, mut lacks) = (Vec::new(), Vec::new());
        let (mut before, mut after) = (before.peekable(), after.peekable());
        loop {
            match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some((gone, _)), later) if later.is_none_or(|(name, _)| *gone < *name) => {
                    lacks.push((*gone).clone());
                    before.next();
                }
                (Some((known, old)), Some((name, new))) if known == name => {
                    if old != new {
                        has.push(((*name).clone(), (*new).clone()));
                    }
                    before.next();
                    after.next();
                }
                (_, Some((name, new))) => {
                    has.push(((*name).clone(), (*new).clone()));
                    after.next();
                }
                (Some(_), None) => break,
            }
        }
        let state = (old.state() != new.state()).then_some(new.state());
        Some(Self { state, has, lacks })
    }
}
