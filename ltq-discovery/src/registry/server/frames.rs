//! How quickly a connection may say something.

use std::time::Duration;

use tokio::time::Instant;

use crate::registry::protocol::Ask;

/// Frames of a connection within a second.
pub(super) struct Frames {
    max: u32,
    since: Instant,
    count: u32,
}

impl Frames {
    pub(super) fn new(max: u32, now: Instant) -> Self {
        Self { max, since: now, count: 0 }
    }

    /// One more came; false if that is too many.
    pub(super) fn take(&mut self, asked: &Ask, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.count) = (now, 0);
        }
        let names = |topics: &[crate::registry::protocol::Topic]| {
            topics.iter().map(|topic| 1 + topic.channels.len()).sum::<usize>()
        };
        match asked {
            Ask::Topics(topics) if names(topics) >= PART_LEAST => {}
            _ => self.count = self.count.saturating_add(1),
        }
        self.count <= self.max
    }
}

const WINDOW: Duration = Duration::from_secs(1);
/// Of a part of a node's topics that is no waste. One that is full has at least three times as many names.
const PART_LEAST: usize = 64;
