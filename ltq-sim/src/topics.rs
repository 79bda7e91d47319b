//! The topics of a simulation.

use ltq_core::Durability;

/// A topic and its channels, `c0` and up.
pub(crate) struct TopicPlan {
    /// How durable its messages are, unless a producer wants it otherwise.
    pub(crate) durability: Durability,
    pub(crate) channels: usize,
    /// Whether an operator deletes it and makes it anew. Its offsets begin anew then.
    pub(crate) comes_and_goes: bool,
}

/// All of them: `t0` and up.
pub(crate) const TOPICS: [TopicPlan; 4] = [
    TopicPlan { durability: Durability::Disk, channels: 2, comes_and_goes: false },
    TopicPlan { durability: Durability::Os, channels: 2, comes_and_goes: false },
    TopicPlan { durability: Durability::Memory, channels: 2, comes_and_goes: false },
    TopicPlan { durability: Durability::Disk, channels: 1, comes_and_goes: true },
];

/// The topic whose messages keep their offsets whatever happens.
pub(crate) const LASTING: usize = 0;

pub(crate) fn topic_name(topic: usize) -> String {
    format!("t{topic}")
}

pub(crate) fn channel_name(channel: usize) -> String {
    format!("c{channel}")
}

/// Whether offsets of this topic may begin anew.
pub(crate) fn comes_and_goes(topic: usize) -> bool {
    TOPICS.get(topic).is_some_and(|topic| topic.comes_and_goes)
}
