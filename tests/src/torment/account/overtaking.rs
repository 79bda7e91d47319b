//! Order over a bridge: what lies behind another message on its node comes behind it, but for what
//! `docs/bridge.md` excepts.

use std::collections::BTreeMap;

use super::{Account, Arrival, Unsound, numbered};
use crate::torment::worker;

/// A time of which a bridge does not promise that order holds over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::torment) struct Excuse {
    /// Whose messages; `None` is everybody's.
    pub(in crate::torment) node: Option<String>,
    /// Of all messages, or only of those that need not outlast their node, or its machine.
    pub(in crate::torment) of: Excused,
    /// From when to when, while they were on their way.
    pub(in crate::torment) from: u64,
    pub(in crate::torment) to: u64,
}

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torment) enum Excused {
    All,
    Fleeting,
    Unsynced,
}

/// A message that came over the bridge behind one that lies behind it on its node, and has the same key, or none as it
/// has.
pub(super) struct Overtaken<'a> {
    pub(super) topic: &'a str,
    node: &'a str,
    offset: u64,
    /// The one that came before it, and when that was published.
    by: u64,
    by_published: u64,
    /// When it was published, and at the earliest at the destination.
    published: u64,
    arrived: u64,
}

impl Excuse {
    fn covers(&self, one: &Overtaken<'_>) -> bool {
        self.node.as_deref().is_none_or(|node| node == one.node)
            && match self.of {
                Excused::All => true,
                Excused::Fleeting => one.topic == worker::FLEETING,
                Excused::Unsynced => worker::is_unsynced(one.topic),
            }
            && one.arrived + HINDSIGHT >= self.from
            && (one.published <= self.to || self.straddles(one))
    }

    /// Whether the one that came first was lost with what was not synced, after it had gone over the bridge, so that
    /// places before its own are those of messages that were published later.
    fn straddles(&self, one: &Overtaken<'_>) -> bool {
        self.of == Excused::Unsynced && one.by_published <= self.to
    }
}

impl Account {
    /// All of them. Where a message comes twice, its first coming counts.
    pub(super) fn overtaken(&self) -> Vec<Overtaken<'_>> {
        let mut came: BTreeMap<_, BTreeMap<u64, (Arrival, u64)>> = BTreeMap::new();
        for ((topic, body), it) in &self.messages {
            let key = numbered(body).filter(|_| worker::is_ordered(topic)).map(|(key, _)| key);
            for ((node, offset), arrival) in &it.arrived_from {
                let of = came.entry((topic, key, node)).or_default();
                of.insert(*offset, (*arrival, it.published));
            }
        }
        let mut found = Vec::new();
        for ((topic, _, node), came) in came {
            // The one nearest before all that lie behind it.
            let mut first: Option<(u64, u64, u64)> = None;
            for (offset, (arrival, published)) in came.into_iter().rev() {
                match first {
                    Some((line, by, by_published)) if line < arrival.line => {
                        let arrived = arrival.earliest;
                        found.push(Overtaken {
                            topic,
                            node,
                            offset,
                            by,
                            by_published,
                            published,
                            arrived,
                        });
                    }
                    _ => first = Some((arrival.line, offset, published)),
                }
            }
        }
        found
    }

    /// None is, but where there is an excuse for it.
    pub(super) fn in_order_over_the_bridge(&self) -> Result<(), Unsound> {
        let is_excused = |one: &Overtaken<'_>| self.excuses.iter().any(|excuse| excuse.covers(one));
        let overtaken = self.overtaken();
        let mut bad = overtaken.iter().filter(|one| !is_excused(one));
        let Some(first) = bad.next() else { return Ok(()) };
        let Overtaken { topic, node, offset, by, published, arrived, .. } = first;
        let example = format!(
            "the first is offset {offset} of {topic} on {node}, behind {by}: published at {published} ms, there at \
             {arrived} ms or later; excuses are {:?}",
            self.excuses
        );
        Err(Unsound {
            count: 1 + bad.count(),
            what: "came over the bridge behind later ones",
            example,
        })
    }
}

/// How much later a message may be there than the last one before it was published, in milliseconds: nothing tells
/// when it came there.
const HINDSIGHT: u64 = 3_000;
