//! What one watch is told by one registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ltq_core::{ChannelName, TopicName};
use tokio::time::Instant;

use super::{ToldLimits, merged::Merged, nodes::Nodes, talk::TalkError, watching::Shared};
use crate::{
    Epoch, NodeId, NodeInfo,
    registry::protocol::{self, Part},
};

/// A watch, as the line knows it over which it goes.
pub(super) struct Hearing {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// How often it was refused or left in a row.
    pub(super) failures: u32,
    /// What a watch begins with, until it is complete.
    first: Option<First>,
    begun: Option<Begun>,
}

/// How it stands with a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is to be asked for then.
    Due(Instant),
    /// It was asked for, under this number, then.
    Asked(u32, Instant),
    /// All that there is was told once.
    Heard(u32, Instant),
}

/// What a watch begins with.
pub(super) struct First {
    pub(super) nodes: Nodes,
    /// Runs of nodes that were withdrawn.
    pub(super) withdrawn: Vec<(NodeId, Epoch)>,
}

/// What was told of a node whose topics come in parts.
struct Begun {
    node: NodeInfo,
    topics: BTreeMap<TopicName, BTreeSet<ChannelName>>,
    /// Of its topics and channels, as they came.
    count: usize,
}

impl Hearing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let state = State::Due(Instant::now());
        Self { shared, state, failures: 0, first: None, begun: None }
    }

    /// Under which number it is watched.
    pub(super) const fn number(&self) -> Option<u32> {
        match self.state {
            State::Due(_) => None,
            State::Asked(number, _) | State::Heard(number, _) => Some(number),
        }
    }

    /// It is not watched any more, and to be asked for again then.
    pub(super) fn is_due(&mut self, at: Instant) {
        (self.state, self.first, self.begun) = (State::Due(at), None, None);
    }

    /// Takes in what a run of a registry told. True if all was told by that.
    pub(super) fn hear(
        &mut self,
        registry: usize,
        run: u64,
        part: Part,
        now: Instant,
    ) -> Result<bool, TalkError> {
        let limits = self.shared.config.told_limits;
        match part {
            Part::Anew => {
                let first = First { nodes: Nodes::new(limits), withdrawn: Vec::new() };
                (self.first, self.begun) = (Some(first), None);
            }
            Part::Complete => {
                let Some(first) = self.first.take() else {
                    return Err(TalkError::Protocol("the end of nothing that was begun"));
                };
                self.shared.heard(registry);
                self.shared.tell(registry, |merged| merged.told(registry, run, first, now));
                return Ok(true);
            }
            Part::Gone { id, withdrawn } => {
                let id = NodeId::new(&id).map_err(|_| TalkError::Protocol("a node without id"))?;
                let withdrawn = withdrawn.map(|(started, instance)| Epoch { started, instance });
                let Some(first) = &mut self.first else {
                    self.shared.tell(registry, |merged| merged.gone(registry, &id, withdrawn));
                    return Ok(false);
                };
                first.nodes.remove(&id);
                if let Some(epoch) = withdrawn {
                    if first.withdrawn.len() >= limits.nodes_max {
                        return Err(TalkError::TooMuch(limits));
                    }
                    first.withdrawn.push((id, epoch));
                }
            }
            Part::Node { node, topics, is_suspected, more } => {
                let node = node.node().map_err(|_| TalkError::Protocol("a node that is none"))?;
                let node = node.with_suspicion(is_suspected);
                let Some(part) = topics else { return self.add(registry, node) };
                let mut begun = Begun { node, topics: BTreeMap::new(), count: 0 };
                begun.join(part, &limits)?;
                match more {
                    true => self.begun = Some(begun),
                    false => return self.add(registry, begun.whole()),
                }
            }
            Part::Topics { topics, more } => {
                let Some(begun) = &mut self.begun else {
                    return Err(TalkError::Protocol("topics of no node"));
                };
                begun.join(topics, &limits)?;
                if !more && let Some(begun) = self.begun.take() {
                    return self.add(registry, begun.whole());
                }
            }
        }
        Ok(false)
    }

    /// A node as it is now: part of what a watch begins with, or a change of it.
    fn add(&mut self, registry: usize, node: NodeInfo) -> Result<bool, TalkError> {
        let mut is_taken = true;
        match &mut self.first {
            // When it was told is said of all at once.
            Some(first) => is_taken = first.nodes.insert(node, 0),
            None => {
                let tell = |merged: &mut Merged| is_taken = merged.changed(registry, node);
                self.shared.tell(registry, tell);
            }
        }
        match is_taken {
            true => Ok(false),
            false => Err(TalkError::TooMuch(self.shared.config.told_limits)),
        }
    }
}

impl Begun {
    fn join(&mut self, part: Vec<protocol::Topic>, limits: &ToldLimits) -> Result<(), TalkError> {
        self.count += part.iter().map(|topic| 1 + topic.channels.len()).sum::<usize>();
        if self.count > limits.topics_max.saturating_add(limits.channels_max) {
            return Err(TalkError::TooMuch(*limits));
        }
        protocol::join(&mut self.topics, part);
        Ok(())
    }

    fn whole(self) -> NodeInfo {
        self.node.with_topics(self.topics.into())
    }
}
