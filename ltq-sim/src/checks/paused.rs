//! A paused channel delivers nothing.

use std::collections::BTreeSet;

use super::{Event, What};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut paused = BTreeSet::new();
    let mut broken = Vec::new();
    for event in events {
        match event.what {
            What::Paused { topic, channel } => {
                paused.insert((topic, channel));
            }
            What::Resumed { topic, channel } => {
                paused.remove(&(topic, channel));
            }
            What::Delivered(place, _) if paused.contains(&(place.topic, place.channel)) => {
                broken.push(format!("pause: {place} came from a paused channel"));
            }
            _ => {}
        }
    }
    broken
}
