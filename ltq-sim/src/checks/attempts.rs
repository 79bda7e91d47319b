//! Promise 3: while a node lives, each delivery of a message in a channel has a number of its own.

use std::collections::BTreeMap;

use super::{Event, What, comes_and_goes, one_life};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut broken = Vec::new();
    // A crash takes attempts back, and what came before it may be read after it.
    if !one_life(events) {
        return broken;
    }
    for event in events {
        let What::Delivered(place, _) = event.what else { continue };
        if comes_and_goes(place.topic) {
            continue;
        }
        let key = (place.topic, place.channel, place.offset, place.attempt);
        if let Some(other) = seen.insert(key, place.consumer) {
            broken.push(format!("promise 3: {place} came to consumer {other} too"));
        }
    }
    broken
}
