//! Promise 4: a consumer gets what comes to it for the first time in the order of the log.

use std::collections::BTreeMap;

use super::{Event, What, comes_and_goes, one_life};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut last = BTreeMap::new();
    let mut broken = Vec::new();
    // What a crash takes back of attempts and acks may come a first time again.
    if !one_life(events) {
        return broken;
    }
    for event in events {
        let What::Delivered(place, _) = event.what else { continue };
        if place.attempt > 1 || comes_and_goes(place.topic) {
            continue;
        }
        if let Some(before) = last.insert(place.consumer, place.offset)
            && before >= place.offset
        {
            broken.push(format!("promise 4: {place} came behind offset {before}"));
        }
    }
    broken
}
