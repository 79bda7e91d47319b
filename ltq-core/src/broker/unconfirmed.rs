//! What a producer has published and was not told about.

use std::collections::VecDeque;

/// The publishes of one producer, in the order in which they were sent. Answers come in that
/// order too, several publishes to an answer or several answers to a publish.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    publishes: VecDeque<Publish>,
}

#[derive(Debug)]
struct Publish {
    /// The first sequence that is not answered.
    next: u64,
    end: u64,
    bytes: usize,
}

impl Unconfirmed {
    /// Adds a publish of at least one message that counts as so many bytes.
    pub(super) fn push(&mut self, sequence: u64, count: u64, bytes: usize) {
        let end = sequence.saturating_add(count);
        self.publishes.push_back(Publish { next: sequence, end, bytes });
    }

    /// Notes an answer, and returns the bytes of the publishes that it was the last one for.
    ///
    /// Sequences are the peer's and may be anything: only those that are due next count.
    pub(super) fn answered(&mut self, sequence: u64, count: u64) -> usize {
        let end = sequence.saturating_add(count);
        let mut at = sequence;
        let mut bytes = 0;
        while at < end
            && let Some(publish) = self.publishes.front_mut()
            && publish.next == at
        {
            if publish.end > end {
                publish.next = end;
                return bytes;
            }
            at = publish.end;
            bytes += publish.bytes;
            self.publishes.pop_front();
        }
        debug_assert!(at == end, "an answer for {at}..{end}, which was not due: {self:?}");
        bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publishes.is_empty()
    }

    /// The bytes of everything that is not answered.
    pub(super) fn bytes(&self) -> usize {
        self.publishes.iter().map(|publish| publish.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes as (sequence, count), each of 10 bytes, and answers as (sequence, count, bytes).
    fn check(publishes: &[(u64, u64)], answers: &[(u64, u64, usize)]) {
        let mut unconfirmed = Unconfirmed::default();
        for (sequence, count) in publishes {
            unconfirmed.push(*sequence, *count, 10);
        }
        assert_eq!(unconfirmed.bytes(), 10 * publishes.len());
        for (sequence, count, bytes) in answers {
            let given = unconfirmed.answered(*sequence, *count);
            assert_eq!(given, *bytes, "{sequence}+{count} of {publishes:?}");
        }
        assert!(unconfirmed.is_empty(), "{unconfirmed:?}");
        assert_eq!(unconfirmed.bytes(), 0);
    }

    #[test]
    fn promise_9_each_publish_is_given_back_once_with_its_last_answer() {
        check(&[(1, 1)], &[(1, 1, 10)]);
        check(&[(1, 2), (3, 1), (4, 5)], &[(1, 3, 20), (4, 5, 10)]);
        check(&[(1, 10)], &[(1, 4, 0), (5, 5, 0), (10, 1, 10)]);
        check(&[(1, 3), (4, 3)], &[(1, 4, 10), (5, 2, 10)]);
        // Repeats, and sequences that follow on nothing.
        check(&[(5, 1), (5, 1), (5, 1)], &[(5, 1, 10), (5, 1, 10), (5, 1, 10)]);
        check(&[(100, 1), (1, 1), (100, 1)], &[(100, 1, 10), (1, 1, 10), (100, 1, 10)]);
        check(&[(u64::MAX - 1, 1), (1, 1)], &[(u64::MAX - 1, 1, 10), (1, 1, 10)]);
    }
}
