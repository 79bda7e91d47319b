//! Promise 9: memory is bounded, and when everything is delivered and everybody has left, so is the rest.

use super::{Event, Violation, What, breaks};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for event in events {
        let bounds = match event.what {
            What::AtWork { memory_bytes, most } => vec![("bytes in memory", memory_bytes, most)],
            What::AtRest {
                connections,
                memory_bytes,
                memory_bytes_max,
                disk_bytes,
                disk_bytes_max,
            } => vec![
                // That of the client of the one who looks.
                ("connections", connections, 1),
                ("bytes in memory", memory_bytes, memory_bytes_max),
                ("bytes in files", disk_bytes, disk_bytes_max),
            ],
            _ => continue,
        };
        for (what, found, most) in bounds.into_iter().filter(|it| it.1 > it.2) {
            let at = event.at;
            broken.push(breaks(&[9], format!("at {at:?} there are {found} {what}, not {most}")));
        }
    }
    broken
}
