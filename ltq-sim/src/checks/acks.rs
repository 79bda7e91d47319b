//! Promises 3 and 12: what was acked, and the ack confirmed, does not come again; but for a crash
//! soon after. A stop takes nothing back, and neither does a crash long after.

use std::collections::BTreeMap;

use ltq_core::Offset;

use super::{
    Asked, Deleted, Duration, Event, Life, SILENT_MAX, Spot, Violation, What, breaks, crashes,
    ends, is_troubled, kept_by, undamaged,
};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let events = undamaged(events);
    let (ends, messages) = (ends(events), Asked::of(events));
    let crashes = crashes(&ends);
    let (mut delivered, mut acked) = (BTreeMap::new(), BTreeMap::new());
    let (mut broken, mut life, mut deleted) = (Vec::new(), Life::default(), Deleted::default());
    for event in events {
        life.begins(event);
        deleted.takes(event);
        match &event.what {
            What::Acked(place, Ok(())) if !deleted.has(place.topic) => {
                // The answer may have been under way for long, but it was given after the delivery.
                let Some(&(since, body)) = delivered.get(place) else { continue };
                acked.insert(key(*place), (since, event.at, *place, body));
            }
            What::Delivered(place, body) if !deleted.has(place.topic) => {
                delivered.insert(*place, (event.at, *body));
                let Some(&(since, told, ack, of)) = acked.get(&key(*place)) else { continue };
                // Deliveries from before the ack may have been under way for long, but for those of a
                // node that was not there then.
                if place.attempt <= ack.attempt && !life.sent_after(told, *place) {
                    continue;
                }
                // So may those of a node that is gone, whose attempts the next one does not know of.
                let old = |end: &Duration| *end <= event.at && event.at < *end + SILENT_MAX;
                if !life.is_of(*place) && crashes.iter().any(old) {
                    continue;
                }
                let within = |end: Duration, until: Duration| end >= since && end <= until;
                let gone = ends.iter().any(|end| within(end.0, event.at));
                let until = event.at.min(kept_by(events, told));
                if !gone {
                    broken.push(breaks(
                        &[3],
                        format!("{place} came after {ack} was acked at {told:?}"),
                    ));
                } else if of == *body
                    && messages.keeps(of, &ends, event.at)
                    && !is_troubled(events, since, event.at)
                    && !crashes.iter().any(|&end| within(end, until))
                {
                    broken.push(breaks(
                        &[12],
                        format!("{place} came after {ack} was acked at {told:?}"),
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
