//! Promise 4: where nothing goes wrong, each message comes once to each channel, and all that was
//! published is confirmed (that it comes to all channels then is promises 1 and 2).

use std::collections::BTreeSet;

use super::{Event, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    if !events.iter().any(|event| event.what == What::Fair) {
        return broken;
    }
    let (mut came, mut open) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        match &event.what {
            What::Delivered(place, body) if !came.insert((place.topic, place.channel, *body)) => {
                broken.push(breaks(&[4], format!("{body:?} came again, from {place}")));
            }
            What::Published { body, .. } => {
                open.insert(*body);
            }
            What::Confirmed { body, .. } => {
                open.remove(body);
            }
            What::AtRest { .. } => broken.extend(open.iter().map(|body| {
                breaks(&[4], format!("{body:?} was not confirmed, where nothing fails"))
            })),
            What::Refused { body, why } | What::Unknown { body, why } => {
                broken.push(breaks(&[4], format!("{body:?} failed where nothing fails: {why}")));
            }
            What::Acked(place, Err(why)) => {
                broken.push(breaks(&[4], format!("{place} could not be acked: {why}")));
            }
            _ => {}
        }
    }
    broken
}
