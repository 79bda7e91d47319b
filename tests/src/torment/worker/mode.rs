//! The modes in which clients publish, each to a topic of its own.

use ltq_client::{Availability, Choice, Cluster, ClusterProducerBuilder, Durability, Failover};

/// How messages are published to one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// The topic, or what it begins with where each client has its own.
    pub(super) name: &'static str,
    failover: Failover,
    choice: Choice,
    durability: Durability,
    /// Messages are in order.
    pub(super) ordered: Option<Order>,
}

/// What of a mode is in order, and what becomes of that when nodes go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    availability: Availability,
    /// By the keys of messages; otherwise they have none, and all of a topic are one order.
    pub(super) has_keys: bool,
    /// Nobody is told when it moves.
    is_silent: bool,
}

impl Order {
    const fn by_key(availability: Availability) -> Option<Self> {
        Some(Self { availability, has_keys: true, is_silent: false })
    }
}

/// All of them.
pub(super) const MODES: [Mode; 9] = [
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
        ordered: Order::by_key(Availability::Move),
    },
    Mode {
        name: "keyed",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Os,
        ordered: Order::by_key(Availability::Fail),
    },
    Mode {
        name: "keyless",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Os,
        ordered: Some(Order {
            availability: Availability::Move,
            has_keys: false,
            is_silent: false,
        }),
    },
    Mode {
        name: "silent",
        failover: Failover::SameNode,
        choice: Choice::LeastLoaded,
        durability: Durability::Disk,
        ordered: Some(Order { availability: Availability::Move, has_keys: true, is_silent: true }),
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
            Some(order) => builder.ordered(order.availability).moves_silently(order.is_silent),
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

/// Whether messages of this topic need not outlast their node's machine.
pub(in crate::torment) fn is_unsynced(topic: &str) -> bool {
    let of = |mode: &&Mode| topic == mode.name || is_of(mode, topic);
    MODES.iter().find(of).is_some_and(|mode| mode.durability < Durability::Disk)
}

/// Whether messages of this topic are in order, by their keys if they have any.
pub(in crate::torment) fn is_ordered(topic: &str) -> bool {
    order(topic).is_some()
}

/// Whether nobody is told when the order of this topic moves.
pub(in crate::torment) fn moves_silently(topic: &str) -> bool {
    order(topic).is_some_and(|order| order.is_silent)
}

fn order(topic: &str) -> Option<Order> {
    MODES.iter().find(|mode| is_of(mode, topic)).and_then(|mode| mode.ordered)
}

/// Whether a client has this topic for itself in a mode.
fn is_of(mode: &Mode, topic: &str) -> bool {
    topic.strip_prefix(mode.name).is_some_and(|rest| rest.starts_with('-'))
}

/// Keys of an ordered topic.
pub(super) const KEYS: u32 = 8;
