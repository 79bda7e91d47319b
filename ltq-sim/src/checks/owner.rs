//! Promise 3: a message is one consumer's until that has answered, has left, or its time is over.

use std::collections::{BTreeMap, BTreeSet};

use ltq_transport::Weather;

use super::{Body, Deleted, Duration, Event, Life, SILENT_MAX, Violation, What, breaks};

/// A delivery that its consumer has not answered.
struct Held {
    consumer: u64,
    attempt: u32,
    body: Body,
    /// It was not delivered before this.
    since: Duration,
    /// It is its consumer's until then at least.
    until: Duration,
}

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let (mut published, mut subscribed) = (BTreeMap::new(), BTreeMap::new());
    let (mut held, mut life) = (BTreeMap::<_, Held>::new(), Life::default());
    let mut deleted = Deleted::default();
    // A connection that was lost gives back what its consumer has, and one may be lost unnoticed.
    let mut rough_until = Duration::ZERO;
    // The deliveries that their consumer wanted to be rid of, so far. (What it asked for may be done long
    // before it is told.)
    let mut answered = BTreeSet::new();
    let mut broken = Vec::new();
    for event in events {
        deleted.takes(event);
        if life.begins(event) {
            held.clear();
        }
        match &event.what {
            What::Published { body, .. } => {
                published.insert(*body, event.at);
            }
            What::Subscribed { consumer, timeout } => {
                subscribed.insert(*consumer, (event.at, *timeout));
            }
            What::Weather(weather) => {
                let is_calm = *weather == Weather::default();
                rough_until = if is_calm { event.at + SILENT_MAX } else { Duration::MAX };
            }
            What::Acks { place, .. } | What::Requeues(place) => {
                answered.insert((place.topic, place.channel, place.offset, place.attempt));
            }
            What::GaveBack(place) => {
                held.remove(&(place.topic, place.channel, place.offset));
            }
            What::Left(consumer) => held.retain(|_, held| held.consumer != *consumer),
            What::Touched { place, asked, result: Ok(()) } => {
                let of = held.get_mut(&(place.topic, place.channel, place.offset));
                let of = of.filter(|held| held.attempt == place.attempt);
                if let (Some(held), Some((_, timeout))) = (of, subscribed.get(&place.consumer)) {
                    held.until = held.until.max(*asked + *timeout);
                }
            }
            What::Delivered(place, body) if !deleted.has(place.topic) => {
                let before = held.remove(&(place.topic, place.channel, place.offset));
                let mut since = published.get(body).copied().unwrap_or_default();
                if let Some(before) = before.filter(|it| it.attempt < place.attempt) {
                    let Held { consumer, attempt, until, .. } = before;
                    if before.body == *body
                        && event.at < until
                        && rough_until <= before.since
                        && !answered.contains(&(place.topic, place.channel, place.offset, attempt))
                    {
                        broken.push(breaks(
                            &[3],
                            format!(
                                "{place} came at {:?}, and was consumer {consumer}'s until \
                             {until:?} at least",
                                event.at
                            ),
                        ));
                    }
                    since = since.max(before.since);
                }
                let Some(&(came, timeout)) = subscribed.get(&place.consumer) else { continue };
                if life.is_of(*place) {
                    since = since.max(came);
                    let (consumer, attempt, until) =
                        (place.consumer, place.attempt, since + timeout);
                    let of = Held { consumer, attempt, body: *body, since, until };
                    held.insert((place.topic, place.channel, place.offset), of);
                }
            }
            _ => {}
        }
    }
    broken
}
