//! Promises 3 and 12: each delivery of a message in a channel has a number of its own, and only a crash
//! soon after it may give that number again.

use std::collections::BTreeMap;

use super::{
    Asked, Deleted, Event, Life, SILENT_MAX, Violation, What, breaks, crashes, ends, is_troubled,
    kept_by, undamaged,
};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let events = undamaged(events);
    let (ends, messages) = (ends(events), Asked::of(events));
    let crashes = crashes(&ends);
    let (mut seen, mut life, mut deleted) = (BTreeMap::new(), Life::default(), Deleted::default());
    for event in events {
        life.begins(event);
        deleted.takes(event);
        let What::Delivered(place, body) = event.what else { continue };
        if deleted.has(place.topic) || !life.is_of(place) {
            continue;
        }
        let key = (place.topic, place.channel, place.offset, place.attempt);
        let Some((since, other, of)) = seen.insert(key, (event.at, place.consumer, body)) else {
            continue;
        };
        // What came from a node that is gone may have been read only now, or then.
        let since = since.saturating_sub(SILENT_MAX);
        let within = |end, until| since <= end && end <= event.at.min(until);
        if !ends.iter().any(|end| within(end.0, event.at)) {
            broken.push(breaks(&[3], format!("{place} came to consumer {other} too")));
        } else if of == body
            && messages.keeps(of, &ends, event.at)
            && !is_troubled(events, since, event.at)
            && !crashes.iter().any(|&end| within(end, kept_by(events, since + SILENT_MAX)))
        {
            broken
                .push(breaks(&[12], format!("{place} came to consumer {other} before a restart")));
        }
    }
    broken
}
