//! Promise 9: when everything is delivered and everybody has left, little is left of it.

use super::{Event, What};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    for event in events {
        let What::AtRest { connections, memory_bytes, disk_bytes } = event.what else { continue };
        let bounds = [
            ("connections", connections, CONNECTIONS_MAX),
            ("bytes in memory", memory_bytes, MEMORY_BYTES_MAX),
            ("bytes in files", disk_bytes, DISK_BYTES_MAX),
        ];
        for (what, found, most) in bounds.into_iter().filter(|it| it.1 > it.2) {
            broken.push(format!("promise 9: at rest there are {found} {what}, not {most}"));
        }
    }
    broken
}

/// The client of the one who looks.
const CONNECTIONS_MAX: u64 = 1;
/// Places of producers and channels, and what a tail keeps of the newest messages.
const MEMORY_BYTES_MAX: u64 = 512 << 10;
/// A full journal and what is about to be given back.
const DISK_BYTES_MAX: u64 = 8 << 20;
