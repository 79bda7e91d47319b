//! Promises 6 and 7: in a topic whose messages are to last, an offset is one message's for ever, and
//! a message has one offset.

use std::collections::BTreeMap;

use super::{Event, LASTING, What, is_damaged, lasting};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let (mut at, mut of) = (BTreeMap::new(), BTreeMap::new());
    let mut broken = Vec::new();
    // A lost end of the journal takes offsets with it.
    if is_damaged(events) {
        return broken;
    }
    let lasting = lasting(events);
    for event in events {
        let (topic, offset, body) = match event.what {
            What::Delivered(place, body) => (place.topic, place.offset, body),
            What::Confirmed { topic, body, offset: Some(offset), .. } => (topic, offset, body),
            _ => continue,
        };
        if topic != LASTING || !lasting.contains(&body) {
            continue;
        }
        let other = *at.entry((topic, offset)).or_insert(body);
        if other != body {
            broken.push(format!("promise 7: at t{topic}@{offset} is {body:?}, and was {other:?}"));
        }
        let other = *of.entry((topic, body)).or_insert(offset);
        if other != offset {
            broken.push(format!("promise 6: {body:?} is at t{topic}@{offset} and at {other}"));
        }
    }
    broken
}
