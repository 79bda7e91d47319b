//! What is delivered and not settled: runs, their deadlines and their tags, together.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{run_set::Run, stale_tags::StaleTags};
use crate::{Monotonic, Offset, Tag, TagRange};

/// A consumer's place in its channel's table.
pub(super) type Slot = u32;

/// A run that a consumer had and has no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Returned {
    pub(super) run: Run,
    /// Which delivery that was.
    pub(super) attempt: u32,
}

/// The runs in flight of one channel.
///
/// A run is found by its consumer and its *last* tag, so that settling from the front, which is
/// what nearly all consumers do, changes an entry in place and leaves its deadline where it is.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    runs: BTreeMap<(Slot, Tag), Held>,
    deadlines: BTreeSet<(Monotonic, Slot, Tag)>,
    messages: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    first_tag: Tag,
    first: Offset,
    attempt: u32,
    delivered: Monotonic,
    deadline: Monotonic,
}

impl InFlight {
    /// How many messages are in flight.
    pub(super) const fn messages(&self) -> u64 {
        self.messages
    }

    /// How many of them the consumer at `slot` has. Takes a step for each of its runs.
    pub(super) fn messages_of(&self, slot: Slot) -> u64 {
        let runs = self.runs.range((slot, Tag(0))..=(slot, TAG_MAX));
        runs.map(|(&(_, last), held)| last.0 + 1 - held.first_tag.0).sum()
    }

    /// How many runs they form.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// When the next delivery runs out of time.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|&(deadline, ..)| deadline)
    }

    /// Notes a delivery to the consumer at `slot`.
    pub(super) fn deliver(
        &mut self,
        slot: Slot,
        first_tag: Tag,
        returned: Returned,
        now: Monotonic,
        timeout: Duration,
    ) {
        let Returned { run, attempt } = returned;
        let deadline = now.plus(timeout);
        let last = Tag(first_tag.0 + run.len() - 1);
        let held = Held { first_tag, first: run.first, attempt, delivered: now, deadline };
        self.runs.insert((slot, last), held);
        self.deadlines.insert((deadline, slot, last));
        self.messages += run.len();
    }

    /// Takes out what is in flight of `tags` for `slot`. What is not goes to `stale`. Takes one
    /// step for each run in flight there, however large the range.
    pub(super) fn take(
        &mut self,
        slot: Slot,
        tags: TagRange,
        taken: &mut Vec<Returned>,
        stale: &mut StaleTags,
    ) {
        let Some(tags) = self.begin(slot, tags, stale) else { return };
        let mut at = tags.first;
        while let Some((last, held)) = self.next_from(slot, at, tags.last) {
            let cut = TagRange { first: at.max(held.first_tag), last: last.min(tags.last) };
            stale.add_between(at, cut.first);
            taken.push(Returned { run: held.run_of(cut), attempt: held.attempt });
            self.cut(slot, last, held, cut);
            let Some(next) = after(cut.last) else { return };
            at = next;
        }
        stale.add(TagRange { first: at, last: tags.last });
    }

    /// Starts the time of `tags` anew: `timeout` from now, but no later than `longest` after the
    /// delivery. Visits at most `visits` runs and counts down; what is beyond is left unchanged
    /// and reported as stale.
    pub(super) fn touch(
        &mut self,
        slot: Slot,
        tags: TagRange,
        now: Monotonic,
        (timeout, longest): (Duration, Duration),
        visits: &mut usize,
        stale: &mut StaleTags,
    ) {
        let Some(tags) = self.begin(slot, tags, stale) else { return };
        let mut at = tags.first;
        while *visits > 0
            && let Some((last, held)) = self.next_from(slot, at, tags.last)
        {
            *visits -= 1;
            let cut = TagRange { first: at.max(held.first_tag), last: last.min(tags.last) };
            stale.add_between(at, cut.first);
            let deadline = now.plus(timeout).min(held.delivered.plus(longest));
            if deadline != held.deadline {
                self.cut(slot, last, held, cut);
                let first = held.run_of(cut).first;
                self.put(slot, cut.last, Held { first_tag: cut.first, first, deadline, ..held });
            }
            // A run that is left whole goes on behind what was asked for.
            let Some(next) = after(cut.last).filter(|&next| next <= tags.last) else { return };
            at = next;
        }
        stale.add(TagRange { first: at, last: tags.last });
    }

    /// Takes out one run whose time has run out.
    pub(super) fn pop_expired(&mut self, now: Monotonic) -> Option<Returned> {
        let &(deadline, slot, last) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        let held = self.runs.remove(&(slot, last))?;
        Some(self.returned(last, held))
    }

    /// Takes out one run of the consumer at `slot`, which leaves.
    pub(super) fn pop_of(&mut self, slot: Slot) -> Option<Returned> {
        let (&(_, last), &held) = self.runs.range((slot, Tag(0))..=(slot, TAG_MAX)).next()?;
        self.runs.remove(&(slot, last));
        self.deadlines.remove(&(held.deadline, slot, last));
        Some(self.returned(last, held))
    }

    /// Takes out every message before `offset`. Visits all runs.
    pub(super) fn drop_before(&mut self, offset: Offset) {
        let below: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, held)| held.first < offset)
            .map(|(&(slot, last), &held)| (slot, last, held))
            .collect();
        for (slot, last, held) in below {
            let count = offset.since(held.first);
            let cut_last = Tag(held.first_tag.0.saturating_add(count - 1)).min(last);
            self.cut(slot, last, held, TagRange { first: held.first_tag, last: cut_last });
        }
    }

    /// Gives back memory that was needed in busier times.
    pub(super) fn relax(&mut self) {
        if self.runs.is_empty() {
            *self = Self::default();
        }
    }

    /// Everything in flight, in no useful order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Returned> + '_ {
        self.runs.iter().map(|(&(_, last), held)| Returned {
            run: held.run_of(TagRange { first: held.first_tag, last }),
            attempt: held.attempt,
        })
    }

    /// Resolves a range from tag 0, and refuses one that goes backwards or holds nothing.
    fn begin(&self, slot: Slot, tags: TagRange, stale: &mut StaleTags) -> Option<TagRange> {
        if tags.last < tags.first || tags.last == Tag(0) {
            return None;
        }
        if tags.first != Tag(0) {
            return Some(tags);
        }
        match self.next_from(slot, Tag(1), tags.last) {
            Some((_, held)) => Some(TagRange { first: held.first_tag, ..tags }),
            None => {
                stale.add(TagRange { first: tags.last, last: tags.last });
                None
            }
        }
    }

    /// The first run that holds a tag from `at` to `until`, and its last tag.
    fn next_from(&self, slot: Slot, at: Tag, until: Tag) -> Option<(Tag, Held)> {
        let (&(_, last), &held) = self.runs.range((slot, at)..=(slot, TAG_MAX)).next()?;
        (held.first_tag <= until).then_some((last, held))
    }

    /// Removes `cut` from a run and leaves what is before and behind it.
    fn cut(&mut self, slot: Slot, last: Tag, held: Held, cut: TagRange) {
        self.messages -= cut.last.0 - cut.first.0 + 1;
        if cut.last < last {
            // What is behind keeps the last tag, and with it its place here and its deadline.
            if let Some(rest) = self.runs.get_mut(&(slot, last)) {
                rest.first_tag = Tag(cut.last.0 + 1);
                rest.first = held.first.plus(cut.last.0 + 1 - held.first_tag.0);
            }
        } else {
            self.runs.remove(&(slot, last));
            self.deadlines.remove(&(held.deadline, slot, last));
        }
        if held.first_tag < cut.first {
            let end = Tag(cut.first.0 - 1);
            self.runs.insert((slot, end), held);
            self.deadlines.insert((held.deadline, slot, end));
        }
    }

    fn put(&mut self, slot: Slot, last: Tag, held: Held) {
        self.messages += last.0 - held.first_tag.0 + 1;
        self.deadlines.insert((held.deadline, slot, last));
        self.runs.insert((slot, last), held);
    }

    fn returned(&mut self, last: Tag, held: Held) -> Returned {
        let run = held.run_of(TagRange { first: held.first_tag, last });
        self.messages -= run.len();
        Returned { run, attempt: held.attempt }
    }
}

impl Held {
    /// The offsets of some of this run's tags.
    const fn run_of(&self, tags: TagRange) -> Run {
        let first = self.first.plus(tags.first.0 - self.first_tag.0);
        Run::new(first, first.plus(tags.last.0 - tags.first.0 + 1))
    }
}

const TAG_MAX: Tag = Tag(u64::MAX);

fn after(tag: Tag) -> Option<Tag> {
    tag.0.checked_add(1).map(Tag)
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
