//! Giving up, in the middle of the log, what no channel wants: one message that is left unacked for
//! ever does not keep all that came after it.

use super::{
    Topic,
    channels::Index,
    run_set::{Run, intersect, subtract},
};
use crate::{Keep, Monotonic, Offset};

/// When a topic looks for what no channel wants.
#[derive(Debug, Default)]
pub(super) struct Discarding {
    /// Not before this.
    look_at: Monotonic,
    /// What is wanted may have changed since it last did.
    pub(super) missed: bool,
}

impl Topic {
    /// Whether the states that are about to be stored are those of all channels, so that what is
    /// discarded with them is what the store knows to be acked.
    pub(super) fn looks_for_discards(&mut self) -> bool {
        let span = Run::new(self.bounds.first, self.bounds.end);
        let looks = self.settings.retention.keep == Keep::Unacked
            && self.now.monotonic >= self.discarding.look_at
            // Without news from a channel there is nothing new to be found.
            && (self.states_listed() || self.discarding.missed)
            && self.commit.creating.is_empty()
            && self.marks.bytes_of(span) > self.limits.discard_bytes;
        if looks {
            for index in self.channels.indexes() {
                self.list_state(index);
            }
        }
        looks
    }

    /// When to look again, though no news may come any more.
    pub(super) fn discards_due(&self) -> Option<Monotonic> {
        let span = Run::new(self.bounds.first, self.bounds.end);
        let looks = self.discarding.missed
            && self.limits_work()
            && self.settings.retention.keep == Keep::Unacked
            && self.marks.bytes_of(span) > self.limits.discard_bytes;
        looks.then(|| self.states_pause().unwrap_or(self.discarding.look_at))
    }

    /// Discards what every channel has acked, as far as the store knows with this commit, if it is
    /// a good part of what is kept.
    pub(super) fn add_discards(&mut self) {
        self.discarding.missed = false;
        self.discarding.look_at = self.now.monotonic.plus(self.limits.discard_interval);
        let first = self.commit.truncate.unwrap_or(self.bounds.first);
        let span = Run::new(first, self.bounds.end);
        let fresh = subtract(&self.unwanted(span), self.window.discarded());
        let bytes: u64 = fresh.iter().map(|&run| self.marks.bytes_of(run)).sum();
        let kept = self.marks.bytes_of(span);
        if bytes <= self.limits.discard_bytes || bytes < kept / WORTH_PART {
            return;
        }
        self.discarding.missed = fresh.len() > DISCARDS_MAX;
        for run in fresh.into_iter().take(DISCARDS_MAX) {
            self.commit.batch.discard(self.log.clone(), run.first, run.end);
            self.commit.discards.push(run);
        }
    }

    /// What of `span` no channel wants.
    fn unwanted(&self, span: Run) -> Vec<Run> {
        let mut unwanted = if self.channels.is_empty() { Vec::new() } else { vec![span] };
        let mut visits = 0;
        for index in self.channels.indexes() {
            let Some(channel) = self.channels.get(index) else { continue };
            visits += channel.done.runs();
            if unwanted.is_empty() || visits > VISITS_MAX {
                return Vec::new();
            }
            let below = Run::new(Offset::ZERO, channel.floor_kept());
            // One whose state did not fit into this commit wants all that the store does not know.
            let known = channel.done.iter().filter(|_| self.is_stored(index));
            unwanted = intersect(&unwanted, std::iter::once(below).chain(known));
        }
        unwanted
    }

    /// Whether the store knows a channel as it is, once the commit has succeeded.
    fn is_stored(&self, index: Index) -> bool {
        let of = |index| self.channels.get(index);
        of(index).is_some_and(|channel| {
            channel.name.is_ephemeral() || !channel.put.listed && !channel.put.changed
        })
    }
}

/// The most stretches that one commit discards: about as many bytes in the store's journal as one
/// publish. The rest goes with later ones.
const DISCARDS_MAX: usize = 1_000;
/// Discarding is worth its while from this part of what is kept on, so that a log never takes much
/// more than what is wanted of it. The file store takes up to 16/9 of what it was not told to give
/// up, and 33/32 of that is less than twice what is wanted.
const WORTH_PART: u64 = 32;
/// Runs that one look visits at most, which takes some ten milliseconds. Channels that hold more
/// between them are far beyond what they are meant to, and keep their log as it is.
const VISITS_MAX: usize = 1_000_000;
