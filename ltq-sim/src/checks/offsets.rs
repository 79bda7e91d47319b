//! Promises 6 and 7: in a topic whose messages are to last, an offset is one message's for ever; and a
//! message that nothing can have taken back has one offset.

use std::collections::{BTreeMap, BTreeSet};

use super::{Deleted, Event, LASTING, Violation, What, breaks, ends, lasting, undamaged};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let (mut at, mut of) = (BTreeMap::new(), BTreeMap::new());
    let mut broken = Vec::new();
    // A lost end of the journal takes offsets with it.
    let events = undamaged(events);
    let lasting = lasting(events);
    let taken = ends(events).iter().map(|end| end.1).max();
    let (mut kept, mut deleted) = (BTreeSet::new(), Deleted::default());
    for event in events {
        deleted.takes(event);
        let (topic, offset, body) = match event.what {
            What::Published { body, durability, .. } => {
                // What a crash took is stored again, somewhere else.
                if Some(durability) >= taken {
                    kept.insert(body);
                }
                continue;
            }
            What::Delivered(place, body) => (place.topic, place.offset, body),
            What::Confirmed { topic, body, offset: Some(offset), .. } => (topic, offset, body),
            _ => continue,
        };
        if topic == LASTING && lasting.contains(&body) {
            let other = *at.entry(offset).or_insert(body);
            if other != body {
                let was = format!("{body:?}, and was {other:?}");
                broken.push(breaks(&[7], format!("at t{topic}@{offset} is {was}")));
            }
        }
        if deleted.has(topic) || !kept.contains(&body) {
            continue;
        }
        let other = *of.entry(body).or_insert(offset);
        if other != offset {
            broken.push(breaks(&[6], format!("{body:?} is at t{topic}@{offset} and at {other}")));
        }
    }
    broken
}
