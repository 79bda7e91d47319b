//! Promises 1 and 2: what was confirmed, and survives what its receipt names, reaches every channel.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, TOPICS, Violation, What, breaks, ends, is_damaged};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    // What is not on the disk any more cannot be delivered.
    if is_damaged(events) {
        return broken;
    }
    let (mut delivered, mut published) = (BTreeSet::new(), BTreeMap::new());
    let (mut started, mut deleted, mut consumed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for event in events {
        match event.what {
            What::Delivered(place, body) => {
                consumed.insert((place.topic, place.channel));
                delivered.insert((place.topic, place.channel, body));
            }
            What::Published { body, .. } => {
                published.insert(body, event.at);
            }
            What::Started => started.push(event.at),
            What::Deleting { topic } => {
                deleted.insert(topic);
            }
            _ => {}
        }
    }
    let ends = ends(events);
    for event in events {
        let What::Confirmed { topic, body, durability, .. } = event.what else { continue };
        // What was deleted since, or may have been, is nobody's.
        if deleted.contains(&topic) {
            continue;
        }
        // Words of a node that is gone may still be under way, until there is another one.
        let since = started.iter().rfind(|&&at| at <= event.at).into_iter();
        let since = since.chain(published.get(&body)).max().copied().unwrap_or(event.at);
        let survives = ends.iter().filter(|end| end.0 >= since).all(|end| durability >= end.1);
        let channels = TOPICS.get(topic).map_or(0, |topic| topic.channels);
        for channel in (0..channels).filter(|_| survives) {
            // A channel from which nobody took anything, ever, is one that nobody consumes.
            if consumed.contains(&(topic, channel)) && !delivered.contains(&(topic, channel, body))
            {
                broken.push(breaks(
                    &[1, 2],
                    format!(
                        "{body:?}, confirmed as {durability} after {:?}, never came \
                     to t{topic}/c{channel}",
                        event.at
                    ),
                ));
            }
        }
    }
    broken
}
