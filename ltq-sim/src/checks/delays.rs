//! Promise 14: a message that was given back for some time does not come before that is over, whether or
//! not the node is started again meanwhile; but for a crash soon after.

use std::collections::BTreeMap;

use ltq_core::Offset;

use super::{
    Asked, Body, Deleted, Duration, Event, Life, Violation, What, breaks, crashes, ends,
    is_troubled, kept_by, undamaged,
};

/// A message that was given back for some time.
struct Delayed {
    body: Body,
    asked: Duration,
    after: Duration,
    told: Duration,
}

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let events = undamaged(events);
    let (ends, messages, delayed) = (ends(events), Asked::of(events), delayed(events));
    let crashes = crashes(&ends);
    let jumps = events.iter().filter_map(|event| match event.what {
        What::ClockJumps { millis } => Some((event.at, u64::try_from(millis).unwrap_or(0))),
        _ => None,
    });
    let jumps: Vec<_> = jumps.collect();
    let (mut life, mut deleted) = (Life::default(), Deleted::default());
    for event in events {
        life.begins(event);
        deleted.takes(event);
        let What::Delivered(place, body) = event.what else { continue };
        if deleted.has(place.topic) || !life.is_of(place) {
            continue;
        }
        let key = (place.topic, place.channel, place.offset, place.attempt);
        let early = |it: &&Delayed| it.asked <= event.at && event.at < it.asked + it.after;
        for &Delayed { body: of, asked, after, told } in
            delayed.get(&key).into_iter().flatten().filter(early)
        {
            let among = |at: Duration| asked <= at && at <= event.at;
            let restarted = ends.iter().any(|end| among(end.0));
            // What is stored is wall time: a clock that jumps ahead ends it early by so much.
            let ahead = jumps.iter().filter(|jump| among(jump.0)).map(|jump| jump.1).sum();
            let kept = of == body
                && messages.keeps(of, &ends, event.at)
                && !crashes.iter().any(|&at| among(at) && at <= kept_by(events, told))
                && event.at + Duration::from_millis(ahead) < asked + after
                && !is_troubled(events, asked, event.at);
            if !restarted || kept {
                broken.push(breaks(
                    &[14],
                    format!("{place} came at {:?}, and is due {after:?} after {asked:?}", event.at),
                ));
            }
        }
    }
    broken
}

/// By the delivery that may come when its time is over. It may come before it is told that the message
/// was given back.
fn delayed(events: &[Event]) -> BTreeMap<(usize, usize, Offset, u32), Vec<Delayed>> {
    let (mut came, mut delayed) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    for event in events {
        match &event.what {
            What::Delivered(place, body) => {
                came.insert(*place, *body);
            }
            What::Requeued { place, asked, after, result: Ok(()) } => {
                let Some(&body) = came.get(place) else { continue };
                let key = (place.topic, place.channel, place.offset, place.attempt + 1);
                let (asked, after, told) = (*asked, *after, event.at);
                delayed.entry(key).or_default().push(Delayed { body, asked, after, told });
            }
            _ => {}
        }
    }
    delayed
}
