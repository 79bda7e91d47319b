//! Promise 3: while a node lives, each delivery of a message in a channel has a number of its own.

use std::collections::BTreeMap;

use super::{Event, Life, What, comes_and_goes};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let (mut seen, mut life) = (BTreeMap::new(), Life::default());
    let mut broken = Vec::new();
    for event in events {
        if life.begins(event) {
            // A crash takes attempts back.
            seen.clear();
        }
        let What::Delivered(place, _) = event.what else { continue };
        if comes_and_goes(place.topic) || !life.is_of(place) {
            continue;
        }
        let key = (place.topic, place.channel, place.offset, place.attempt);
        if let Some(other) = seen.insert(key, place.consumer) {
            broken.push(format!("promise 3: {place} came to consumer {other} too"));
        }
    }
    broken
}
