//! Promise 14: a message that was given back for some time does not come before that is over, whether or
//! not the node is started again meanwhile; but for a crash soon after.

use std::collections::BTreeMap;

use super::{
    Deleted, Event, KEPT_WITHIN, LASTING, Life, Violation, What, breaks, crashes, ends,
    is_troubled, lasting, undamaged,
};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let events = undamaged(events);
    let (ends, lasting) = (ends(events), lasting(events));
    let crashes = crashes(&ends);
    let jumps = events.iter().filter(|event| matches!(event.what, What::ClockJumps { .. }));
    let jumps: Vec<_> = jumps.map(|event| event.at).collect();
    let (mut came, mut due) = (BTreeMap::new(), BTreeMap::new());
    let (mut life, mut deleted) = (Life::default(), Deleted::default());
    for event in events {
        life.begins(event);
        deleted.takes(event);
        match &event.what {
            What::Requeued { place, asked, after, result: Ok(()) } if !deleted.has(place.topic) => {
                let Some(&body) = came.get(place) else { continue };
                let key = (place.topic, place.channel, place.offset, place.attempt + 1);
                due.insert(key, (*asked, *after, event.at, body));
            }
            What::Delivered(place, body) if !deleted.has(place.topic) => {
                came.insert(*place, *body);
                let key = (place.topic, place.channel, place.offset, place.attempt);
                let Some(&(asked, after, told, of)) = due.get(&key) else { continue };
                if event.at >= asked + after || !life.is_of(*place) {
                    continue;
                }
                let among = |at: &std::time::Duration| asked <= *at && *at <= event.at;
                let restarted = ends.iter().any(|end| among(&end.0));
                let kept = place.topic == LASTING
                    && of == *body
                    && lasting.contains(body)
                    && !crashes.iter().any(|at| among(at) && *at <= told + KEPT_WITHIN)
                    // What is stored is wall time.
                    && !jumps.iter().any(among)
                    && !is_troubled(events, asked, event.at);
                if !restarted || kept {
                    broken.push(breaks(
                        &[14],
                        format!(
                            "{place} came at {:?}, and is due {after:?} after {asked:?}",
                            event.at
                        ),
                    ));
                }
            }
            _ => {}
        }
    }
    broken
}
