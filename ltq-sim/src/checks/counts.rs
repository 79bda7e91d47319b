//! Promise 13: each message of a channel is in one state, and the figures that operators see say so.

use super::{Event, What};

pub(super) fn check(events: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    for event in events {
        let What::Counted { stats, .. } = &event.what else { continue };
        for channel in &stats.channels {
            let all = stats.end.since(channel.start);
            let open = channel.waiting + channel.delayed + channel.in_flight;
            let done = channel.acked + channel.damaged + channel.dropped;
            if all != open + done {
                broken.push(format!(
                    "promise 13: at {:?}, of {all} messages {open} are open and {done} are done: \
                     {}, {channel:?}",
                    event.at, stats.topic
                ));
            }
            if channel.floor < channel.start || channel.floor > stats.end {
                broken.push(format!("promise 13: at {:?}, {}, {channel:?}", event.at, stats.topic));
            }
        }
    }
    broken
}
