//! Promise 11: where nothing goes wrong any more, a node that is stopped comes to rest in time.

use super::{Event, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let (mut healed, mut failed) = (false, false);
    for event in events {
        match &event.what {
            What::Fair => healed = true,
            // A store that had failed was seen to by then.
            What::Healed => (healed, failed) = (true, false),
            // Nothing can be written down on a disk that does not take it.
            What::DiskFailed { .. } | What::StoreFailed(_) => failed = true,
            What::Started => failed = false,
            What::Damaged(_) => break,
            What::Stopped(Err(why)) if healed && !failed => {
                let words = format!("stopped at {:?}, where nothing goes wrong: {why}", event.at);
                broken.push(breaks(&[11], words));
            }
            _ => {}
        }
    }
    broken
}
