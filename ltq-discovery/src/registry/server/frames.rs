//! How quickly a connection may say something.

use std::time::Duration;

use tokio::time::Instant;

use crate::registry::protocol::{Ask, Topic};

/// Frames of a connection within a second, and what takes as much work as so many.
pub(super) struct Frames {
    max: u32,
    since: Instant,
    count: u32,
}

/// Whether a frame is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Now,
    /// It is one that may wait until then.
    Later(Instant),
    /// There are too many.
    Never,
}

/// What a frame has the registry do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// No more than to read it, and what its names come to.
    Frame,
    /// To find, and to tell, what there is: of so many nodes, topics and channels. One that may wait is under a number
    /// that the connection had for none before.
    Watch { looks: usize, may_wait: bool },
    /// To take in another node than the one that this connection announced before, which is gone by that. Who has
    /// one at a time of many has everybody told of all of them.
    AnotherNode,
}

impl Frames {
    pub(super) fn new(max: u32, now: Instant) -> Self {
        Self { max, since: now, count: 0 }
    }

    /// One more came.
    ///
    /// A program that comes back asks for all of its watches at once: they wait for their turn, and nothing more is
    /// heard of the connection until then. Who opens and closes one again and again is none of those.
    pub(super) fn take(&mut self, asked: &Ask, work: Work, now: Instant) -> Taken {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.count) = (now, 0);
        }
        // Whatever there is, so many are no flood.
        let most = (self.max / DEAREST_PART).max(1);
        let cost = match (asked, work) {
            (Ask::Topics(topics), _) if is_good_part(topics) => 0,
            (_, Work::Frame) => 1,
            (_, Work::Watch { looks, .. }) => {
                let looks = u32::try_from(looks / LOOKS_FOR_A_FRAME).unwrap_or(u32::MAX);
                looks.saturating_add(1).min(most)
            }
            (_, Work::AnotherNode) => most,
        };
        let count = self.count.saturating_add(cost);
        let may_wait = matches!(work, Work::Watch { may_wait: true, .. });
        if count > self.max && may_wait {
            return Taken::Later(self.since + WINDOW);
        }
        self.count = count;
        if count > self.max { Taken::Never } else { Taken::Now }
    }
}

/// How many names of topics and channels these are.
pub(super) fn names(topics: &[Topic]) -> usize {
    topics.iter().map(|topic| 1 + topic.channels.len()).sum()
}

/// Whether this part of a node's topics is no waste. One that is full has at least three times as many names.
pub(super) fn is_good_part(topics: &[Topic]) -> bool {
    names(topics) >= PART_LEAST
}

const WINDOW: Duration = Duration::from_secs(1);
const PART_LEAST: usize = 64;
/// To look at so many nodes, topics and channels, and to write them down, counts as much as a frame.
const LOOKS_FOR_A_FRAME: usize = 16;
/// Whatever a frame has the registry do, it counts as this part of those that may come within a second at most.
const DEAREST_PART: u32 = 4;
