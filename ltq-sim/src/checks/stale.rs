//! Promise 3: only the newest delivery of a message in a channel can settle it.

use std::collections::BTreeMap;

use super::{Deleted, Event, Life, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let (mut newest, mut life, mut deleted) =
        (BTreeMap::new(), Life::default(), Deleted::default());
    let mut broken = Vec::new();
    for event in events {
        deleted.takes(event);
        if life.begins(event) {
            newest.clear();
        }
        match &event.what {
            What::Delivered(place, _) if life.is_of(*place) && !deleted.has(place.topic) => {
                let key = (place.topic, place.channel, place.offset);
                let newest = newest.entry(key).or_insert((place.attempt, event.at));
                if place.attempt > newest.0 {
                    *newest = (place.attempt, event.at);
                }
            }
            What::Acked(place, Ok(())) if life.is_of(*place) && !deleted.has(place.topic) => {
                // Had it been acked before the newer one was delivered there would be none.
                let newest = newest.get(&(place.topic, place.channel, place.offset));
                if let Some((newest, _)) = newest.filter(|newest| newest.0 > place.attempt) {
                    let at = event.at;
                    broken.push(breaks(
                        &[3],
                        format!("{place} could be acked at {at:?}, behind attempt {newest}"),
                    ));
                }
            }
            What::Requeued { place, asked, result: Ok(()), .. }
            | What::Touched { place, asked, result: Ok(()) }
                if life.is_of(*place) && !deleted.has(place.topic) =>
            {
                // What it asked for may have been done, and over, before it was told.
                let newest = newest.get(&(place.topic, place.channel, place.offset));
                let newest = newest.filter(|it| it.0 > place.attempt && it.1 < *asked);
                if let Some((newest, came)) = newest {
                    broken.push(breaks(
                        &[3],
                        format!(
                            "{place} could be given back or touched at {asked:?}, behind \
                         attempt {newest} of {came:?}"
                        ),
                    ));
                }
            }
            _ => {}
        }
    }
    broken
}
