//! What the logs say of messages that a limit removed before they were acked: at once when it
//! begins, and then the sum now and then. A small limit on a busy topic would fill the logs.

use std::time::Duration;

use tracing::warn;

use crate::{
    ChannelName, Monotonic, Offset, TopicName,
    model::{Limit, Removed},
};

/// What of a topic's losses the logs have not told yet.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Since something was told: until when nothing more is.
    quiet_until: Option<Monotonic>,
    /// What came since.
    untold: Option<Box<Losses>>,
}

/// Losses of a while.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Losses {
    first: Offset,
    until: Offset,
    messages: u64,
    bytes: u64,
    /// The limit that removed something last.
    limit: Limit,
    /// How often one did.
    removals: u64,
    /// The most channels that lost something at a time.
    channels: usize,
    /// What all channels lost together.
    lost: u64,
    /// What some of them lost.
    by_channel: Vec<(ChannelName, u64)>,
}

impl Removals {
    /// Takes in a removal, and returns what is to be told now.
    pub(super) fn note(&mut self, removed: Removed, now: Monotonic) -> Option<Losses> {
        match &mut self.untold {
            Some(untold) => untold.add(removed),
            None => self.untold = Some(Box::new(Losses::new(removed))),
        }
        self.tell(now)
    }

    /// When something is to be told, if nothing more comes.
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.untold.as_ref().and(self.quiet_until)
    }

    /// What is to be told now.
    pub(super) fn tell(&mut self, now: Monotonic) -> Option<Losses> {
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        let told = self.untold.take()?;
        self.quiet_until = Some(now.plus(QUIET));
        Some(*told)
    }

    /// What was not told, now that nothing more comes.
    pub(super) fn last(&mut self) -> Option<Losses> {
        self.untold.take().map(|untold| *untold)
    }
}

impl Losses {
    fn new(removed: Removed) -> Self {
        let mut losses = Self {
            first: removed.first,
            until: removed.until,
            messages: 0,
            bytes: 0,
            limit: removed.limit,
            removals: 0,
            channels: 0,
            lost: 0,
            by_channel: Vec::new(),
        };
        losses.add(removed);
        losses
    }

    fn add(&mut self, removed: Removed) {
        self.messages += removed.until.since(removed.first);
        self.until = removed.until;
        self.bytes = self.bytes.saturating_add(removed.bytes);
        self.limit = removed.limit;
        self.removals += 1;
        self.channels = self.channels.max(removed.dropped.len());
        for (channel, lost) in removed.dropped {
            self.lost += lost;
            let few = self.by_channel.len() < CHANNELS_LOGGED;
            match self.by_channel.iter_mut().find(|(known, _)| *known == channel) {
                Some((_, sum)) => *sum += lost,
                None if few => self.by_channel.push((channel, lost)),
                None => (),
            }
        }
    }

    /// Writes it to the logs.
    pub(super) fn log(&self, topic: &TopicName) {
        for (channel, lost) in &self.by_channel {
            warn!(%topic, %channel, lost, "messages removed by a limit before they were acked");
        }
        let Self { first, until, messages, bytes, limit, removals, channels, lost, .. } = self;
        warn!(
            %topic, %first, %until, messages, bytes, ?limit, removals, channels, lost,
            "messages removed by a limit, and some channels had not acked them"
        );
    }
}

/// For so long nothing is told after something was.
const QUIET: Duration = Duration::from_secs(10);
/// Channels of which the logs say one by one what they lost; of the others they give the sum.
const CHANNELS_LOGGED: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(first: u64, until: u64, dropped: &[(&str, u64)]) -> Removed {
        let name = |&(name, lost): &(&str, u64)| (name.parse().unwrap(), lost);
        Removed {
            first: Offset(first),
            until: Offset(until),
            bytes: 100,
            limit: Limit::Bytes,
            dropped: dropped.iter().map(name).collect(),
        }
    }

    #[test]
    fn the_first_loss_is_told_at_once_and_the_next_ones_in_a_sum() {
        let mut removals = Removals::default();
        let begin = Monotonic::default();
        let first = removals.note(removed(0, 10, &[("a", 10)]), begin).unwrap();
        assert_eq!((first.messages, first.lost, first.removals), (10, 10, 1));
        assert_eq!(removals.due(), None);
        for at in 1..1000 {
            let now = begin.plus(Duration::from_millis(at));
            let removed = removed(at * 10, at * 10 + 10, &[("a", 10), ("b", 4)]);
            assert_eq!(removals.note(removed, now), None);
        }
        let due = removals.due().unwrap();
        assert_eq!(due, begin.plus(QUIET));
        assert_eq!(removals.tell(begin.plus(QUIET / 2)), None);
        let sum = removals.tell(due).unwrap();
        assert_eq!((sum.first, sum.until, sum.messages), (Offset(10), Offset(10_000), 9_990));
        assert_eq!((sum.bytes, sum.removals, sum.channels), (99_900, 999, 2));
        assert_eq!(sum.lost, 999 * 14);
        let by_channel: Vec<_> = sum.by_channel.iter().map(|(_, lost)| *lost).collect();
        assert_eq!(by_channel, [9_990, 999 * 4]);
        assert_eq!((removals.due(), removals.tell(due.plus(QUIET))), (None, None));
        // After a while without losses the next one is told at once again.
        assert!(removals.note(removed(0, 1, &[("a", 1)]), due.plus(QUIET)).is_some());
    }

    #[test]
    fn what_many_channels_lose_is_told_within_bounds_and_in_full_at_the_end() {
        let names: Vec<_> = (0..1000).map(|at| format!("c{at}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let mut removals = Removals::default();
        let told = removals.note(removed(0, 2, &all), Monotonic::default()).unwrap();
        assert_eq!((told.channels, told.lost, told.by_channel.len()), (1000, 2000, 10));
        assert_eq!(removals.note(removed(2, 4, &all), Monotonic::default()), None);
        assert_eq!(removals.last().unwrap().lost, 2000);
        assert_eq!(removals.last(), None);
    }
}
