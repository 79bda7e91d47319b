//! Promise 7: what is to be as durable as can be, and was seen by a consumer, is not taken back by a
//! crash: every other channel sees it too, whatever its producer was told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, LASTING, Violation, What, breaks, is_damaged, lasting};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    if is_damaged(events) {
        return Vec::new();
    }
    let lasting = lasting(events);
    let (mut seen, mut channels) = (BTreeMap::new(), BTreeSet::new());
    for event in events {
        let What::Delivered(place, body) = event.what else { continue };
        if place.topic == LASTING {
            channels.insert(place.channel);
            if lasting.contains(&body) {
                seen.entry(body).or_insert_with(BTreeSet::new).insert(place.channel);
            }
        }
    }
    let missing = seen.into_iter().filter(|(_, by)| *by != channels);
    let broken = missing.map(|(body, by)| {
        breaks(
            &[7],
            format!("{body:?} was seen in channels {by:?} of t{LASTING}, not in {channels:?}"),
        )
    });
    broken.collect()
}
