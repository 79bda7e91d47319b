//! Which messages came, and which came twice: one bit each.

use std::collections::BTreeMap;

/// What came in one channel, to whichever of its consumers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// The producers in the order in which they were met, and what came from each.
    seen: Vec<(u32, Seen)>,
    /// Where in `seen` the last message went: mostly the next goes there too.
    last: usize,
    /// Messages that came more than once, and must not.
    repeated: u64,
    /// Messages that came more than once, as they may.
    stored_again: u64,
    /// Messages that came before one with a lower sequence of their producer.
    misplaced: u64,
    /// Messages that were delivered again by the broker, as it does when it was not told that they are
    /// done with.
    redelivered: u64,
    /// Of those, which came before what another consumer had of them.
    ahead: u64,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    /// The next sequence, if all came in order.
    next: u64,
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub(super) producer: u32,
    pub(super) sequence: u64,
    /// Its so-manieth delivery.
    pub(super) attempt: u32,
    /// Whether it may be stored more than once: where it was published to whichever nodes of a cluster are well.
    pub(super) may_repeat: bool,
}

/// What a message is beside those that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It counts.
    New,
    /// It is stored more than once, as it may be.
    StoredAgain,
    /// It is delivered again, and had come before.
    Redelivered,
}

impl Ledger {
    /// A message came.
    pub(super) fn mark(&mut self, came: Came) -> Mark {
        let Came { producer, sequence, attempt, may_repeat } = came;
        if self.seen.get(self.last).is_none_or(|(id, _)| *id != producer) {
            self.last = match self.seen.iter().position(|(id, _)| *id == producer) {
                Some(at) => at,
                None => {
                    self.seen.push((producer, Seen::default()));
                    self.seen.len() - 1
                }
            };
        }
        let Some((_, seen)) = self.seen.get_mut(self.last) else { return Mark::New };
        let again = attempt > 1;
        self.redelivered += u64::from(again);
        // One that was given back has its place behind others.
        self.misplaced += u64::from(!again && sequence < seen.next);
        seen.next = seen.next.max(sequence.saturating_add(1));
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if word >= seen.bits.len() {
            // A sequence out of all proportion cannot be one of the run's; it is not worth memory.
            if word > WORDS_MAX {
                self.repeated += 1;
                return Mark::New;
            }
            seen.bits.resize((word + 1).next_power_of_two(), 0);
        }
        let Some(bits) = seen.bits.get_mut(word) else { return Mark::New };
        let has_come = *bits & bit != 0;
        *bits |= bit;
        match (has_come, again) {
            (false, _) => {
                self.ahead += u64::from(again);
                Mark::New
            }
            (true, true) => Mark::Redelivered,
            // One that its consumer did not finish with comes to another, which may be the quicker one.
            (true, false) if self.ahead > 0 => {
                self.ahead -= 1;
                Mark::Redelivered
            }
            (true, false) if may_repeat => {
                self.stored_again += 1;
                Mark::StoredAgain
            }
            (true, false) => {
                self.repeated += 1;
                Mark::New
            }
        }
    }

    /// Messages that were delivered again.
    pub(super) const fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Messages that came more than once, as they may.
    pub(super) const fn stored_again(&self) -> u64 {
        self.stored_again
    }

    /// Compares with what each producer published: sequences from 0 on. Says what is wrong.
    pub(super) fn check(
        &self,
        published: &BTreeMap<u32, u64>,
        in_order: bool,
    ) -> Result<(), String> {
        let mut wrong = Vec::new();
        if self.repeated > 0 {
            wrong.push(format!("{} messages came again", self.repeated));
        }
        if in_order && self.misplaced > 0 {
            wrong.push(format!("{} messages came out of order", self.misplaced));
        }
        let (mut missing, mut unknown) = (0, 0);
        for (producer, count) in published {
            let seen = self.seen.iter().find(|(id, _)| id == producer);
            let came = seen.map_or(0, |(_, seen)| seen.below(*count));
            missing += count - came;
            unknown += seen.map_or(0, |(_, seen)| seen.below(u64::MAX) - came);
        }
        for (producer, seen) in &self.seen {
            if !published.contains_key(producer) {
                unknown += seen.below(u64::MAX);
            }
        }
        if missing > 0 {
            wrong.push(format!("{missing} messages are missing"));
        }
        if unknown > 0 {
            wrong.push(format!("{unknown} messages came that nobody published"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    }

    /// The same of one node's part of what was published to several: what is not there is elsewhere.
    pub(super) fn check_part(&self) -> Result<(), String> {
        match self.repeated {
            0 => Ok(()),
            repeated => Err(format!("{repeated} messages came again")),
        }
    }

    /// How many came of each producer, if nothing is missing before the last of each.
    pub(super) fn published(&self) -> BTreeMap<u32, u64> {
        self.seen.iter().map(|(producer, seen)| (*producer, seen.end())).collect()
    }
}

impl Seen {
    /// How many sequences below `end` came.
    fn below(&self, end: u64) -> u64 {
        let (words, bits) = (usize::try_from(end / 64).unwrap_or(usize::MAX), end % 64);
        let whole: u64 =
            self.bits.iter().take(words).map(|word| u64::from(word.count_ones())).sum();
        let part = self.bits.get(words).map_or(0, |word| word & ((1 << bits) - 1));
        whole + u64::from(part.count_ones())
    }

    /// The sequence behind the last that came.
    fn end(&self) -> u64 {
        let last = self.bits.iter().rposition(|word| *word != 0);
        let Some((at, word)) = last.and_then(|at| Some((at, self.bits.get(at)?))) else { return 0 };
        at as u64 * 64 + u64::from(64 - word.leading_zeros())
    }
}

/// Bits for some billions of messages of each producer: 512 MiB.
const WORDS_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn came(producer: u32, sequence: u64, attempt: u32) -> Came {
        Came { producer, sequence, attempt, may_repeat: false }
    }

    fn ledger(messages: &[(u32, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (producer, sequence) in messages {
            ledger.mark(came(*producer, *sequence, 1));
        }
        ledger
    }

    #[test]
    fn all_that_was_published_and_nothing_else() {
        let all: Vec<_> = (0..200).flat_map(|sequence| [(1, sequence), (2, sequence)]).collect();
        let published = BTreeMap::from([(1, 200), (2, 200)]);
        assert_eq!(ledger(&all).check(&published, true), Ok(()));
        assert_eq!(ledger(&all).published(), published);

        let missing = ledger(&all[..399]).check(&published, true).unwrap_err();
        assert_eq!(missing, "1 messages are missing");
        let mut twice = all.clone();
        twice.push((1, 64));
        let error = ledger(&twice).check(&published, false).unwrap_err();
        assert_eq!(error, "1 messages came again");
        assert_eq!(ledger(&twice).check_part().unwrap_err(), "1 messages came again");
        assert_eq!(ledger(&[(1, 0), (1, 7), (2, 64)]).check_part(), Ok(()));
        let more = BTreeMap::from([(1, 200), (2, 199)]);
        let error = ledger(&all).check(&more, true).unwrap_err();
        assert_eq!(error, "1 messages came that nobody published");
        let error = ledger(&[(7, 0), (7, u64::MAX)]).check(&BTreeMap::new(), true).unwrap_err();
        assert_eq!(error, "1 messages came again, 1 messages came that nobody published");
    }

    #[test]
    fn order_counts_for_a_lone_consumer_only() {
        let published = BTreeMap::from([(1, 3)]);
        let swapped = ledger(&[(1, 0), (1, 2), (1, 1)]);
        assert_eq!(swapped.check(&published, false), Ok(()));
        let error = swapped.check(&published, true).unwrap_err();
        assert_eq!(error, "1 messages came out of order");
    }

    #[test]
    fn what_the_broker_delivers_again_is_no_fault_and_counts_once() {
        let published = BTreeMap::from([(1, 4)]);
        let mut cut = ledger(&[(1, 0), (1, 3)]);
        // Those between were on their way to a connection that was lost, and the first was not acked.
        let marks = [1, 2, 0].map(|sequence| cut.mark(came(1, sequence, 2)));
        assert_eq!(marks, [Mark::New, Mark::New, Mark::Redelivered]);
        assert_eq!(cut.check(&published, true), Ok(()));
        assert_eq!(cut.redelivered(), 3);
        // The consumer that had them first may be the slower one; each is excused once.
        let marks = [1, 2, 1].map(|sequence| cut.mark(came(1, sequence, 1)));
        assert_eq!(marks, [Mark::Redelivered, Mark::Redelivered, Mark::New]);
        assert_eq!(cut.check(&published, false).unwrap_err(), "1 messages came again");
    }

    #[test]
    fn what_may_be_stored_twice_is_counted_and_no_fault_and_a_loss_is_one_all_the_same() {
        let published = BTreeMap::from([(1, 3)]);
        let mut ledger = ledger(&[(1, 0), (1, 1)]);
        let again = Came { may_repeat: true, ..came(1, 0, 1) };
        assert_eq!(ledger.mark(again), Mark::StoredAgain);
        assert_eq!(ledger.check(&published, false).unwrap_err(), "1 messages are missing");
        assert_eq!(ledger.mark(Came { sequence: 2, ..again }), Mark::New);
        assert_eq!(ledger.check(&published, false), Ok(()));
        assert_eq!(ledger.mark(again), Mark::StoredAgain);
        assert_eq!(ledger.stored_again(), 2);
        // One that must not be is a fault beside those that may.
        ledger.mark(came(1, 1, 1));
        assert_eq!(ledger.check(&published, false).unwrap_err(), "1 messages came again");
    }
}
