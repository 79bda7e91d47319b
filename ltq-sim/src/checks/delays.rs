//! Promise 14: a message that was given back for some time does not come before that is over.

use std::collections::BTreeMap;

use super::{Event, Life, What, comes_and_goes};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let (mut due, mut life) = (BTreeMap::new(), Life::default());
    let mut broken = Vec::new();
    for event in events {
        if life.begins(event) {
            due.clear();
        }
        match &event.what {
            What::Requeued { place, asked, after, result: Ok(()) }
                if !comes_and_goes(place.topic) =>
            {
                let key = (place.topic, place.channel, place.offset, place.attempt + 1);
                due.insert(key, *asked + *after);
            }
            What::Delivered(place, _) if life.is_of(*place) => {
                let key = (place.topic, place.channel, place.offset, place.attempt);
                if let Some(&due) = due.get(&key)
                    && event.at < due
                {
                    let at = event.at;
                    broken
                        .push(format!("promise 14: {place} came at {at:?}, and is due at {due:?}"));
                }
            }
            _ => {}
        }
    }
    broken
}
