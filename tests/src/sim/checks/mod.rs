//! What must hold of a history, one file for each promise.

mod acks;
mod attempts;
mod confirmed;
mod delays;
mod offsets;
mod order;
mod published;

use std::time::Duration;

use ltq_core::Durability;

use super::history::{Event, What};

/// All that breaks a promise.
pub(super) fn all(events: &[Event]) -> Vec<String> {
    let checks = [
        acks::check,
        attempts::check,
        confirmed::check,
        delays::check,
        offsets::check,
        order::check,
        published::check,
    ];
    checks.iter().flat_map(|check| check(events)).collect()
}

/// Whether the node was never started again.
fn one_life(events: &[Event]) -> bool {
    events.iter().filter(|event| event.what == What::Started).count() == 1
}

/// When a node went that kept only what was this durable, or more.
fn ends(events: &[Event]) -> Vec<(Duration, Durability)> {
    let mut ends = Vec::new();
    // A disk that does not write takes what was not synced with it, though that can be read for a while.
    let mut fails = false;
    for event in events {
        let kept = match event.what {
            What::SyncFails(_) => {
                fails = true;
                continue;
            }
            What::Started => {
                fails = false;
                continue;
            }
            What::Killed { power: true } => Durability::Disk,
            // One that could not come to rest is cut off, as by a kill.
            What::Killed { power: false } | What::Stopped(Err(_)) => Durability::Os,
            What::Stopped(Ok(())) => Durability::Memory,
            _ => continue,
        };
        ends.push((event.at, if fails { Durability::Disk } else { kept }));
    }
    ends
}
