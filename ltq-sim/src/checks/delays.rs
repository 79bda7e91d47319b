//! A message that was given back for some time does not come before that is over.

use std::collections::BTreeMap;

use super::{Event, What, comes_and_goes};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut due = BTreeMap::new();
    let mut broken = Vec::new();
    for event in events {
        match &event.what {
            What::Started => due.clear(),
            What::Requeued { place, asked, after, result: Ok(()) }
                if !comes_and_goes(place.topic) =>
            {
                let key = (place.topic, place.channel, place.offset, place.attempt + 1);
                due.insert(key, *asked + *after);
            }
            What::Delivered(place, _) => {
                let key = (place.topic, place.channel, place.offset, place.attempt);
                if let Some(&due) = due.get(&key)
                    && event.at < due
                {
                    broken.push(format!("{place} came at {:?}, and is due at {due:?}", event.at));
                }
            }
            _ => {}
        }
    }
    broken
}
