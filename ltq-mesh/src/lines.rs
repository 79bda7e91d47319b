//! Lines of the log, no more of a kind than anybody reads.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The kinds of lines that a peer, or a place that is not there, could cause any number of.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) discovery: Kind,
    pub(crate) announcing: Kind,
    pub(crate) listening: Kind,
    pub(crate) left_out: Kind,
    pub(crate) connected: Kind,
    pub(crate) disconnected: Kind,
    pub(crate) handler: Kind,
    pub(crate) panicked: Kind,
}

/// Lines of one kind: [`AT_ONCE`] in a second, so that a start is seen whole where programs are few.
#[derive(Debug, Default)]
pub(crate) struct Kind(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// When the second began that is counted.
    since: Option<Instant>,
    said: u32,
    /// What was not said, since it was last.
    unsaid: u64,
}

impl Kind {
    /// Whether to say a line now, and for how many it stands.
    pub(crate) fn may_say(&self) -> Option<u64> {
        let (mut said, now) = (self.0.lock(), Instant::now());
        if said.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            (said.since, said.said) = (Some(now), 0);
        }
        if said.said >= AT_ONCE {
            said.unsaid += 1;
            return None;
        }
        said.said += 1;
        Some(std::mem::take(&mut said.unsaid) + 1)
    }
}

/// Says a line of a [`Kind`], with how many it stands for, unless there were enough.
macro_rules! say {
    ($kind:expr, $level:ident, $($line:tt)+) => {
        if let Some(count) = $kind.may_say() {
            tracing::$level!(count, $($line)+);
        }
    };
}
pub(crate) use say;

const SECOND: Duration = Duration::from_secs(1);
/// Lines of a kind in a second.
const AT_ONCE: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_lines_of_a_kind_are_said_in_a_second_and_the_next_stands_for_the_rest() {
        let kind = Kind::default();
        let said: Vec<_> = (0..100).filter_map(|_| kind.may_say()).collect();
        assert_eq!(said, [1; AT_ONCE as usize]);
        tokio::time::advance(SECOND).await;
        assert_eq!(kind.may_say(), Some(96));
        assert_eq!(kind.may_say(), Some(1));
    }
}
