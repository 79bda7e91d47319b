//! Promises 6 and 8: what is delivered was published, and not refused.

use std::collections::BTreeSet;

use super::{Event, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let (mut published, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut broken = Vec::new();
    for event in events {
        match &event.what {
            What::Published { topic, body, .. } => {
                published.insert((*topic, *body));
            }
            What::Refused { body, .. } => {
                refused.insert(*body);
            }
            What::Delivered(place, body) if !published.contains(&(place.topic, *body)) => {
                broken.push(breaks(&[8], format!("{body:?} came from {place}, unpublished")));
            }
            What::Unreadable(words) => broken.push(breaks(&[8], words.clone())),
            _ => {}
        }
    }
    // It may come before its producer is told that it was refused.
    for event in events {
        if let What::Delivered(place, body) = &event.what
            && refused.contains(body)
        {
            broken.push(breaks(
                &[15],
                format!("{body:?} was said not to be stored, and came from {place}"),
            ));
        }
    }
    broken
}
