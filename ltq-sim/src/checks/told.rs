//! What was seen to break a promise when it happened, by the one who was told.

use super::{Event, What};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let told = events.iter().filter_map(|event| match &event.what {
        What::Broken(words) => Some(format!("promise {words}")),
        _ => None,
    });
    told.collect()
}
