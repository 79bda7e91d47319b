//! Promises 1 and 2: what was confirmed, and survives what its receipt names, reaches every channel.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, What, ends};
use crate::sim::CHANNELS;

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let (mut delivered, mut published) = (BTreeSet::new(), BTreeMap::new());
    let mut started = Vec::new();
    for event in events {
        match event.what {
            What::Delivered(place, body) => {
                delivered.insert((place.topic, place.channel, body));
            }
            What::Published { body, .. } => {
                published.insert(body, event.at);
            }
            What::Started => started.push(event.at),
            _ => {}
        }
    }
    let ends = ends(events);
    let mut broken = Vec::new();
    for event in events {
        let What::Confirmed { topic, body, durability, .. } = event.what else { continue };
        // Words of a node that is gone may still be under way, until there is another one.
        let since = started.iter().rfind(|&&at| at <= event.at).into_iter();
        let since = since.chain(published.get(&body)).max().copied().unwrap_or(event.at);
        let survives = ends.iter().filter(|end| end.0 >= since).all(|end| durability >= end.1);
        for channel in (0..CHANNELS).filter(|_| survives) {
            if !delivered.contains(&(topic, channel, body)) {
                broken.push(format!(
                    "promises 1 and 2: {body:?}, confirmed as {durability} after {:?}, never came \
                     to t{topic}/c{channel}",
                    event.at
                ));
            }
        }
    }
    broken
}
