//! Promise 15: every call of a client ends by its deadline, however it ends.

use std::collections::BTreeMap;

use super::{Body, Duration, Event, REQUEST_TIMEOUT, Spot, Violation, What, breaks};

/// Something that a program asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Publish(Body),
    Ack(Spot),
    Requeue(Spot),
}

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut open: BTreeMap<Call, (Duration, &str)> = BTreeMap::new();
    let mut late = |at: Duration, due: Duration, what: String| {
        if at > due + GRACE {
            broken.push(breaks(&[15], format!("{what} at {at:?}, and was to end by {due:?}")));
        }
    };
    for event in events {
        let (at, who) = (event.at, event.who.as_str());
        match &event.what {
            What::Published { body, within, .. } => {
                open.insert(Call::Publish(*body), (at + *within, who));
            }
            What::Requeues(place) => {
                open.insert(Call::Requeue(*place), (at + REQUEST_TIMEOUT, who));
            }
            What::Acks { place, waits: true } => {
                open.insert(Call::Ack(*place), (at + REQUEST_TIMEOUT, who));
            }
            What::Confirmed { body, .. }
            | What::Refused { body, .. }
            | What::Unknown { body, .. } => {
                // Who crashed may be told still.
                if let Some((due, _)) = open.remove(&Call::Publish(*body)) {
                    late(at, due, format!("what became of {body:?} was told"));
                }
            }
            What::Acked(place, _) => {
                if let Some((due, _)) = open.remove(&Call::Ack(*place)) {
                    late(at, due, format!("{place} was acked or not"));
                }
            }
            What::Requeued { place, .. } => {
                if let Some((due, _)) = open.remove(&Call::Requeue(*place)) {
                    late(at, due, format!("{place} was given back or not"));
                }
            }
            What::Touched { place, asked, .. } => {
                late(at, *asked + REQUEST_TIMEOUT, format!("{place} was touched or not"));
            }
            What::Crashed => open.retain(|_, (_, of)| *of != who),
            _ => {}
        }
    }
    let end = events.last().map_or(Duration::ZERO, |event| event.at);
    for (call, (due, who)) in open {
        late(end, due, format!("{who} was not told what became of {call:?}"));
    }
    broken
}

/// So much later a program may come to it.
const GRACE: Duration = Duration::from_secs(1);
