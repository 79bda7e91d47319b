//! Promise 2: a message is there until it is acked. When everything is delivered, somebody acked each
//! message that anybody got, in each of its channels.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, LASTING, Violation, What, breaks, is_damaged, lasting};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let is_over = events.iter().any(|event| matches!(event.what, What::AtRest { .. }));
    if !is_over || is_damaged(events) {
        return Vec::new();
    }
    let lasting = lasting(events);
    let (mut of, mut got, mut acked) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for event in events {
        match event.what {
            // What can be lost is not there any more for another reason.
            What::Delivered(place, body) if place.topic == LASTING && lasting.contains(&body) => {
                of.insert(place, body);
                got.insert((place.channel, body));
            }
            What::Acks { place, .. } => {
                acked.extend(of.get(&place).map(|&body| (place.channel, body)));
            }
            _ => {}
        }
    }
    let unacked = got.difference(&acked);
    let broken = unacked.map(|(channel, body)| {
        breaks(
            &[2],
            format!("{body:?} came to t{LASTING}/c{channel}, and is gone though nobody acked it"),
        )
    });
    broken.collect()
}
