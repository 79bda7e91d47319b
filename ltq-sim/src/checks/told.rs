//! What was seen to break a promise when it happened, by the one who was told.

use super::{Event, Violation, What};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let told = events.iter().filter_map(|event| match &event.what {
        What::Broken(violation) => Some(violation.clone()),
        _ => None,
    });
    told.collect()
}
