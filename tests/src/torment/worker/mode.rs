//! The modes in which clients publish, each to a topic of its own.

use std::time::Duration;

use ltq_client::{Availability, Choice, Cluster, ClusterProducerBuilder, Durability, Failover};

/// How messages are published to one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// The topic, or what it begins with where each client has its own.
    pub(super) name: &'static str,
    failover: Failover,
    choice: Choice,
    durability: Durability,
    /// Messages have keys, and are in order by them.
    pub(super) ordered: Option<Availability>,
}

/// All of them.
pub(super) const MODES: [Mode; 7] = [
    Mode {
        name: "plain",
        failover: Failover::AtLeastOnce,
        choice: Choice::LeastLoaded,
        durability: Durability::Disk,
        ordered: None,
    },
    Mode {
        name: "same",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Disk,
        ordered: None,
    },
    Mode {
        name: "robin",
        failover: Failover::AtLeastOnce,
        choice: Choice::RoundRobin,
        durability: Durability::Os,
        ordered: None,
    },
    Mode {
        name: "random",
        failover: Failover::SameNode,
        choice: Choice::Random,
        durability: Durability::Os,
        ordered: None,
    },
    Mode {
        name: super::FLEETING,
        failover: Failover::AtLeastOnce,
        choice: Choice::Random,
        durability: Durability::Memory,
        ordered: None,
    },
    Mode {
        name: "ordered",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Disk,
        ordered: Some(Availability::Move),
    },
    Mode {
        name: "keyed",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Os,
        ordered: Some(Availability::Fail),
    },
];

impl Mode {
    /// The topic to which a client publishes. Order by key is for those who consume alone.
    pub(super) fn topic(&self, client: &str) -> String {
        match self.ordered {
            Some(_) => format!("{}-{client}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// A producer of this mode. Those that store once have a name, under which the one after them goes on when
    /// they are killed.
    pub(super) fn producer(&self, cluster: &Cluster, client: &str) -> ClusterProducerBuilder {
        let builder = cluster
            .producer_builder(self.topic(client))
            .timeout(super::TIMEOUT)
            .failover(self.failover)
            .choice(self.choice)
            .durability(self.durability);
        let builder = match self.failover {
            Failover::SameNode => builder.name(&format!("{client}-{}", self.name)),
            _ => builder,
        };
        match self.ordered {
            Some(availability) => builder.ordered(availability),
            None => builder,
        }
    }
}

/// All topics of these clients.
pub(in crate::torment) fn topics<'a>(
    clients: impl Iterator<Item = &'a str> + Clone,
) -> std::collections::BTreeSet<String> {
    MODES.iter().flat_map(|mode| clients.clone().map(|client| mode.topic(client))).collect()
}

/// Whether a message of this topic may be stored on two nodes.
pub(in crate::torment) fn may_repeat(topic: &str) -> bool {
    MODES.iter().any(|mode| mode.name == topic && mode.failover == Failover::AtLeastOnce)
}

/// Whether messages of this topic are in order by key.
pub(in crate::torment) fn is_ordered(topic: &str) -> bool {
    let of = |mode: &Mode| topic.strip_prefix(mode.name).is_some_and(|rest| rest.starts_with('-'));
    MODES.iter().any(|mode| mode.ordered.is_some() && of(mode))
}

/// How long one message of a key waits for the next, so that all keys of a mode come to its rate.
pub(super) fn pause_of_a_key(rate: u32) -> Duration {
    Duration::from_secs(u64::from(KEYS)) / rate.max(1)
}

/// Keys of an ordered topic.
pub(super) const KEYS: u32 = 8;
