//! What must hold of a history, one file for each promise.

mod acks;
mod attempts;
mod bounds;
mod confirmed;
mod counts;
mod deadlines;
mod delays;
mod failed;
mod offsets;
mod once;
mod order;
mod owner;
mod paused;
mod published;
mod settled;
mod stale;
mod stops;
mod told;
mod visible;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_core::Durability;
use ltq_store::simulation::DiskFailure;

use crate::{
    body::Body,
    clients::REQUEST_TIMEOUT,
    history::{Event, Spot, What},
    topics::{LASTING, TOPICS},
    violation::{Rule, Violation, breaks},
};

/// All that breaks a promise.
pub(crate) fn all(events: &[Event]) -> Vec<Violation> {
    let checks = [
        acks::check,
        attempts::check,
        bounds::check,
        confirmed::check,
        counts::check,
        deadlines::check,
        delays::check,
        failed::check,
        offsets::check,
        once::check,
        order::check,
        owner::check,
        paused::check,
        published::check,
        settled::check,
        stale::check,
        stops::check,
        told::check,
        visible::check,
    ];
    checks.iter().flat_map(|check| check(events)).collect()
}

/// Tells the deliveries of the node that is there from those that an earlier one sent, which may have
/// been under way, or kept by their consumer, for long.
#[derive(Default)]
struct Life {
    next: u64,
    first: u64,
    since: Duration,
}

impl Life {
    /// Takes an event in. Says whether another node is there now.
    const fn begins(&mut self, event: &Event) -> bool {
        match event.what {
            What::Subscribed { consumer, .. } => self.next = consumer + 1,
            What::Started => (self.first, self.since) = (self.next, event.at),
            What::AllAnew => self.first = 0,
            _ => {}
        }
        matches!(event.what, What::Started)
    }

    /// Whether the consumer has only ever known the node that is there.
    const fn is_of(&self, spot: Spot) -> bool {
        spot.consumer >= self.first
    }

    /// Whether the node that is there started behind this, and sent the delivery.
    fn sent_after(&self, at: Duration, spot: Spot) -> bool {
        at < self.since && self.is_of(spot)
    }
}

/// The messages that are as durable as can be before anybody sees them.
fn lasting(events: &[Event]) -> BTreeSet<Body> {
    let lasting = events.iter().filter_map(|event| match event.what {
        What::Published { body, durability: Durability::Disk, .. } => Some(body),
        _ => None,
    });
    lasting.collect()
}

/// How durable each message is to be before anybody sees it, and since when it may be there.
struct Asked(BTreeMap<Body, (Duration, Durability)>);

impl Asked {
    fn of(events: &[Event]) -> Self {
        let asked = events.iter().filter_map(|event| match event.what {
            What::Published { body, durability, .. } => Some((body, (event.at, durability))),
            _ => None,
        });
        Self(asked.collect())
    }

    /// Whether no end of a node can have taken the message back until then.
    fn keeps(&self, body: Body, ends: &[(Duration, Durability)], until: Duration) -> bool {
        self.0.get(&body).is_some_and(|&(since, durability)| {
            ends.iter()
                .filter(|end| since <= end.0 && end.0 <= until)
                .all(|end| end.1 <= durability)
        })
    }
}

/// Whether what lay on the disk was damaged.
fn is_damaged(events: &[Event]) -> bool {
    undamaged(events).len() < events.len()
}

/// What happened until something was done to what lay on the disk, if ever: acks, numbers and delays are
/// lost with it as well as messages.
fn undamaged(events: &[Event]) -> &[Event] {
    let damaged = events.iter().position(|event| matches!(event.what, What::Damaged(_)));
    damaged.and_then(|at| events.get(..at)).unwrap_or(events)
}

/// The topics that may have been deleted so far: their offsets may have begun anew.
#[derive(Default)]
struct Deleted(BTreeSet<usize>);

impl Deleted {
    fn takes(&mut self, event: &Event) {
        if let What::Deleting { topic } = event.what {
            self.0.insert(topic);
        }
    }

    fn has(&self, topic: usize) -> bool {
        self.0.contains(&topic)
    }
}

/// When a node went without coming to rest, or on a disk that did not write.
fn crashes(ends: &[(Duration, Durability)]) -> Vec<Duration> {
    ends.iter().filter(|end| end.1 > Durability::Memory).map(|end| end.0).collect()
}

/// Whether a disk may not have taken what a broker has to remember, before `until` and for as long
/// that it matters at `since`. That it had a limit says nothing: there is room set aside for that. That it
/// could not be read neither.
fn is_troubled(events: &[Event], since: Duration, until: Duration) -> bool {
    events.iter().any(|event| match event.what {
        What::DiskFailed { failure, .. } => {
            let matters = event.at <= until && event.at + TROUBLE_LASTS >= since;
            failure != DiskFailure::Read && matters
        }
        _ => false,
    })
}

/// When a node went that kept only what was this durable, or more.
fn ends(events: &[Event]) -> Vec<(Duration, Durability)> {
    let mut ends = Vec::new();
    // A disk that failed a sync takes what was not synced with it, though that can be read for a while. One
    // that may fail, and did not, takes nothing.
    let (mut lost, mut is_there) = (false, false);
    for event in events {
        let kept = match event.what {
            // What an earlier node wrote is lost while the next one starts.
            What::DiskFailed { lost: true, .. } if !is_there => Durability::Disk,
            What::DiskFailed { lost: true, .. } => {
                lost = true;
                continue;
            }
            What::Started => {
                (lost, is_there) = (false, true);
                continue;
            }
            What::Killed { power: true } => Durability::Disk,
            // One that could not come to rest is cut off, as by a kill.
            What::Killed { power: false } | What::Stopped(Err(_)) => Durability::Os,
            What::Stopped(Ok(())) => Durability::Memory,
            _ => continue,
        };
        is_there = false;
        ends.push((event.at, if lost { Durability::Disk } else { kept }));
    }
    ends
}

/// Until when what a broker was told then and has to remember of its channels is on a disk at the latest.
fn kept_by(events: &[Event], told: Duration) -> Duration {
    let (mut slow, until) = (false, told + KEPT_WITHIN);
    for event in events.iter().take_while(|event| event.at <= until) {
        if let What::DiskTakes(latency) = event.what {
            // What it was at as it became fast again takes its time still.
            slow = latency > FAST || (slow && event.at + SLOW_MAX > told);
        }
    }
    if slow { told + KEPT_WITHIN_SLOW } else { until }
}

/// Within so long a client notices that a node does not speak any more.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(10);
/// As long as a disk may refuse to take acks, and a broker may wait until it tries again.
const TROUBLE_LASTS: Duration = Duration::from_secs(20);
/// Within so long what a broker has to remember of its channels is on a disk: the interval of acks,
/// that of syncs, and a disk that is slow.
const KEPT_WITHIN: Duration = Duration::from_secs(3);
/// The same for a disk that is so slow that it waits several times as long as it should.
const KEPT_WITHIN_SLOW: Duration = Duration::from_secs(15);
/// A disk that takes no longer than this is none of those.
const FAST: Duration = Duration::from_millis(20);
/// Nothing takes a disk longer.
const SLOW_MAX: Duration = Duration::from_secs(2);
