//! What was given back: due now, or after a delay.

use std::collections::BTreeMap;

use super::{in_flight::Returned, run_set::Run};
use crate::{Monotonic, Offset};

/// The runs of one channel that were delivered and came back.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// By where the run ends, so that taking from its front changes it in place.
    due: BTreeMap<Offset, Front>,
    due_messages: u64,
    /// By when it is due and where it ends.
    delayed: BTreeMap<(Monotonic, Offset), Front>,
    delayed_messages: u64,
}

/// Where a run begins, and how often it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Front {
    first: Offset,
    attempts: u32,
}

impl Redelivery {
    /// Messages that may be delivered again now.
    pub(super) const fn due_messages(&self) -> u64 {
        self.due_messages
    }

    /// Messages whose time has not come.
    pub(super) const fn delayed_messages(&self) -> u64 {
        self.delayed_messages
    }

    /// How many runs there are of both.
    pub(super) fn runs(&self) -> usize {
        self.due.len() + self.delayed.len()
    }

    /// When the next delay ends.
    pub(super) fn next_ripe(&self) -> Option<Monotonic> {
        self.delayed.first_key_value().map(|(&(due, _), _)| due)
    }

    /// Takes a run back that is due at once.
    pub(super) fn give_back(&mut self, returned: Returned) {
        let Returned { run, attempt: attempts } = returned;
        self.due_messages += run.len();
        let (mut first, mut end) = (run.first, run.end);
        if let Some(&before) = self.due.get(&first)
            && before.attempts == attempts
        {
            self.due.remove(&first);
            first = before.first;
        }
        if let Some((&behind, front)) = self.due.range(end..).next()
            && front.first == end
            && front.attempts == attempts
        {
            end = behind;
        }
        self.due.insert(end, Front { first, attempts });
    }

    /// Takes a run back that is due later.
    pub(super) fn delay(&mut self, returned: Returned, due: Monotonic) {
        let Returned { run, attempt: attempts } = returned;
        self.delayed_messages += run.len();
        let mut first = run.first;
        if let Some(&before) = self.delayed.get(&(due, first))
            && before.attempts == attempts
        {
            self.delayed.remove(&(due, first));
            first = before.first;
        }
        self.delayed.insert((due, run.end), Front { first, attempts });
    }

    /// Makes everything due whose delay has ended; says whether there was any.
    pub(super) fn ripen(&mut self, now: Monotonic) -> bool {
        let mut any = false;
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ((_, end), Front { first, attempts }) = entry.remove_entry();
            let run = Run::new(first, end);
            self.delayed_messages -= run.len();
            self.give_back(Returned { run, attempt: attempts });
            any = true;
        }
        any
    }

    /// The lowest run that is due, with the number of its deliveries so far.
    pub(super) fn first(&self) -> Option<Returned> {
        let (&end, &Front { first, attempts }) = self.due.first_key_value()?;
        Some(Returned { run: Run::new(first, end), attempt: attempts })
    }

    /// Takes `count` messages off the front of the lowest run; it has at least as many.
    pub(super) fn take_first(&mut self, count: u64) {
        let Some(mut entry) = self.due.first_entry() else { return };
        let left = entry.key().since(entry.get().first);
        self.due_messages -= count.min(left);
        if count >= left {
            entry.remove();
        } else {
            let front = entry.get_mut();
            front.first = front.first.plus(count);
        }
    }

    /// Takes out every message before `offset`. Visits all runs that are delayed, and those due
    /// that it takes out.
    pub(super) fn drop_before(&mut self, offset: Offset) {
        while let Some(Returned { run, .. }) = self.first().filter(|due| due.run.first < offset) {
            self.take_first(run.len().min(offset.since(run.first)));
        }
        let dropped = &mut self.delayed_messages;
        self.delayed.retain(|&(_, end), front| {
            if front.first < offset {
                let first = offset.min(end);
                *dropped -= first.since(front.first);
                front.first = first;
            }
            front.first < end
        });
    }

    /// Gives back memory that was needed in busier times.
    pub(super) fn relax(&mut self) {
        if self.due.is_empty() {
            self.due = BTreeMap::new();
        }
        if self.delayed.is_empty() {
            self.delayed = BTreeMap::new();
        }
    }

    /// All runs that are due.
    pub(super) fn due(&self) -> impl Iterator<Item = Returned> + '_ {
        self.due.iter().map(|(&end, front)| Returned {
            run: Run::new(front.first, end),
            attempt: front.attempts,
        })
    }

    /// All runs that are delayed, and until when.
    pub(super) fn delayed(&self) -> impl Iterator<Item = (Returned, Monotonic)> + '_ {
        self.delayed.iter().map(|(&(due, end), front)| {
            (Returned { run: Run::new(front.first, end), attempt: front.attempts }, due)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(first: u64, end: u64, attempt: u32) -> Returned {
        Returned { run: Run::new(Offset(first), Offset(end)), attempt }
    }

    #[test]
    fn due_runs_come_in_offset_order_and_neighbours_join() {
        let mut redelivery = Redelivery::default();
        for run in [returned(8, 9, 1), returned(4, 6, 1), returned(6, 8, 1), returned(9, 12, 2)] {
            redelivery.give_back(run);
        }
        assert_eq!(redelivery.first(), Some(returned(4, 9, 1)));
        redelivery.take_first(2);
        assert_eq!(redelivery.first(), Some(returned(6, 9, 1)));
        redelivery.take_first(3);
        assert_eq!(redelivery.first(), Some(returned(9, 12, 2)));
        redelivery.take_first(3);
        assert_eq!((redelivery.first(), redelivery.due_messages()), (None, 0));
    }

    #[test]
    fn promise_14_nothing_ripens_early() {
        let mut redelivery = Redelivery::default();
        redelivery.delay(returned(0, 1, 1), Monotonic(50));
        redelivery.delay(returned(1, 2, 1), Monotonic(50));
        redelivery.delay(returned(5, 6, 1), Monotonic(40));
        assert_eq!((redelivery.runs(), redelivery.next_ripe()), (2, Some(Monotonic(40))));
        assert!(!redelivery.ripen(Monotonic(39)));
        assert!(redelivery.ripen(Monotonic(40)));
        assert_eq!((redelivery.due_messages(), redelivery.delayed_messages()), (1, 2));
        assert!(redelivery.ripen(Monotonic(60)));
        assert_eq!(redelivery.first(), Some(returned(0, 2, 1)));
        assert_eq!((redelivery.runs(), redelivery.next_ripe()), (2, None));
    }
}
