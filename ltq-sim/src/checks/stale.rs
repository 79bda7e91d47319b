//! Promise 3: only the newest delivery of a message in a channel can settle it.

use std::collections::BTreeMap;

use super::{Event, Life, What, comes_and_goes};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let (mut newest, mut life) = (BTreeMap::new(), Life::default());
    let mut broken = Vec::new();
    for event in events {
        if life.begins(event) {
            newest.clear();
        }
        match &event.what {
            What::Delivered(place, _) if life.is_of(*place) && !comes_and_goes(place.topic) => {
                let newest = newest.entry((place.topic, place.channel, place.offset)).or_insert(0);
                *newest = place.attempt.max(*newest);
            }
            What::Acked(place, Ok(())) if life.is_of(*place) => {
                // Had it been acked before the newer one was delivered there would be none.
                let newest = newest.get(&(place.topic, place.channel, place.offset));
                if let Some(newest) = newest.filter(|&&newest| newest > place.attempt) {
                    let at = event.at;
                    broken.push(format!(
                        "promise 3: {place} could be acked at {at:?}, behind attempt {newest}"
                    ));
                }
            }
            _ => {}
        }
    }
    broken
}
