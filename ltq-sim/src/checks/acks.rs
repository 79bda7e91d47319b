//! Promises 3 and 12: what was acked, and the ack confirmed, does not come again; but for a crash
//! soon after.

use std::collections::BTreeMap;

use ltq_core::Offset;

use super::{Duration, Event, LASTING, Spot, What, comes_and_goes, ends, is_damaged, lasting};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    // Acks are lost with what lies on a disk as well as messages.
    if is_damaged(events) {
        return Vec::new();
    }
    let (ends, lasting) = (ends(events), lasting(events));
    let mut trouble = Vec::new();
    let (mut delivered, mut acked) = (BTreeMap::new(), BTreeMap::new());
    let mut broken = Vec::new();
    for event in events {
        match &event.what {
            What::Room(_) | What::DiskFails(_) => trouble.push(event.at),
            What::Acked(place, Ok(())) if !comes_and_goes(place.topic) => {
                // The answer may have been under way for long, but it was given after the delivery.
                let Some(&(since, body)) = delivered.get(place) else { continue };
                acked.insert(key(*place), (since, event.at, *place, body));
            }
            What::Delivered(place, body) => {
                delivered.insert(*place, (event.at, *body));
                let Some(&(since, told, ack, of)) = acked.get(&key(*place)) else { continue };
                // Deliveries from before the ack may have been under way for long; and so may those
                // of a node that is gone, whose attempts the next one does not know of.
                let old = |end: &Duration| *end <= event.at && event.at < *end + SILENT_MAX;
                if place.attempt <= ack.attempt || ends.iter().any(|end| old(&end.0)) {
                    continue;
                }
                let gone = |until: Duration| {
                    ends.iter().any(|end| end.0 >= since && end.0 <= event.at.min(until))
                };
                if !gone(Duration::MAX) {
                    broken
                        .push(format!("promise 3: {place} came after {ack} was acked at {told:?}"));
                } else if place.topic == LASTING
                    && of == *body
                    && lasting.contains(body)
                    && trouble.iter().all(|&at| at + TROUBLE_LASTS < since || at > event.at)
                    && !gone(told + ACKS_DURABLE_WITHIN)
                {
                    broken.push(format!(
                        "promise 12: {place} came after {ack} was acked at {told:?}"
                    ));
                }
            }
            _ => {}
        }
    }
    broken
}

fn key(place: Spot) -> (usize, usize, Offset) {
    (place.topic, place.channel, place.offset)
}

/// Within so long a client notices that a node does not speak any more.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// As long as a disk may refuse to take acks, and a broker may wait until it tries again.
const TROUBLE_LASTS: Duration = Duration::from_secs(20);
/// The interval of acks, that of syncs, and a disk that is slow.
const ACKS_DURABLE_WITHIN: Duration = Duration::from_secs(3);
