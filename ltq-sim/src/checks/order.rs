//! Promise 4: a consumer gets what comes to it for the first time in the order of the log.

use std::collections::BTreeMap;

use super::{Deleted, Event, Life, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let (mut last, mut life, mut deleted) = (BTreeMap::new(), Life::default(), Deleted::default());
    let mut broken = Vec::new();
    for event in events {
        life.begins(event);
        deleted.takes(event);
        let What::Delivered(place, _) = event.what else { continue };
        if place.attempt > 1 || deleted.has(place.topic) || !life.is_of(place) {
            continue;
        }
        if let Some(before) = last.insert(place.consumer, place.offset)
            && before >= place.offset
        {
            broken.push(breaks(&[4], format!("{place} came behind offset {before}")));
        }
    }
    broken
}
