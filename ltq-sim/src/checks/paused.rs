//! A paused channel delivers nothing of what is published while it is. (What was delivered before, and ran
//! out of time on its way, may still be read by a consumer that was busy.)

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Rule, Violation, What};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut paused: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut broken = Vec::new();
    for event in events {
        match event.what {
            What::Paused { topic, channel } => {
                paused.insert((topic, channel), BTreeSet::new());
            }
            What::Resumed { topic, channel } => {
                paused.remove(&(topic, channel));
            }
            What::Published { topic, body, .. } => {
                let here = paused.iter_mut().filter(|(place, _)| place.0 == topic);
                here.for_each(|(_, published)| published.extend([body]));
            }
            What::Delivered(place, body) => {
                let published = paused.get(&(place.topic, place.channel));
                if published.is_some_and(|published| published.contains(&body)) {
                    broken.push(Violation::of(
                        Rule::Pause,
                        format!("{place} came from a paused channel"),
                    ));
                }
            }
            _ => {}
        }
    }
    broken
}
