//! Answers that a stream's peer has not read.

use std::{collections::VecDeque, mem, sync::Arc, task::Context};

use super::{answers::Place, holds::Hold, together::Together};

/// What a session has to say besides deliveries, as its connection, its address and the node count it:
/// told once for each turn.
#[derive(Debug)]
pub(super) struct Unread {
    together: Arc<Together>,
    counted: usize,
    /// Bytes of those that are not encoded.
    waiting: usize,
    /// Bytes that the stream took since it began, deliveries among them.
    sent: u64,
    /// Answers that are encoded and not sent: of those that follow on each other, at which byte of the
    /// stream they end, and how many bytes they have. What is between is deliveries.
    rows: VecDeque<(u64, usize)>,
    /// Bytes of all of them.
    encoded: usize,
    place: Place,
}

impl Unread {
    pub(super) fn new(together: Arc<Together>) -> Self {
        Self {
            place: Place::new(together.clone()),
            together,
            counted: 0,
            waiting: 0,
            sent: 0,
            rows: VecDeque::new(),
            encoded: 0,
        }
    }

    /// One more is to be said, which holds so much until then.
    pub(super) const fn waits(&mut self, held: usize) {
        self.waiting += held;
    }

    /// One that [waited](Self::waits) is encoded, with which so many bytes are unsent.
    pub(super) fn says(&mut self, held: usize, bytes: usize, unsent: usize) {
        self.waiting = self.waiting.saturating_sub(held);
        self.said(bytes, unsent);
    }

    /// One is encoded at once, with which so many bytes are unsent.
    pub(super) fn said(&mut self, bytes: usize, unsent: usize) {
        let end = self.sent + unsent as u64;
        self.encoded += bytes;
        match self.rows.back_mut() {
            Some((last, row)) if *last + bytes as u64 == end => {
                *last = end;
                *row += bytes;
            }
            _ => self.rows.push_back((end, bytes)),
        }
    }

    /// The stream took so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        while let Some((end, row)) = self.rows.front_mut() {
            // What is left of it is what has not been sent.
            let left = usize::try_from(end.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            let before = mem::replace(row, left.min(*row));
            self.encoded -= before - *row;
            if *row > 0 {
                return;
            }
            self.rows.pop_front();
        }
        if self.rows.capacity() > ROWS_KEPT {
            self.rows = VecDeque::new();
        }
    }

    /// Counts what there is now.
    pub(super) fn count(&mut self) {
        let bytes = self.encoded + self.waiting;
        let before = mem::replace(&mut self.counted, bytes);
        if bytes > before {
            self.together.says(bytes - before);
        } else {
            self.together.said(before - bytes);
        }
    }

    /// Whether enough was read for more to be asked. If not, this task is woken when it was.
    pub(super) fn poll_room(&mut self, context: &Context<'_>) -> Result<(), Hold> {
        self.place.poll_room(self.counted == 0, context)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.together.said(mem::take(&mut self.counted));
    }
}

/// Room for this many is kept.
const ROWS_KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::broker::{
        budget::Budget,
        testing::{self, far},
    };

    #[test]
    fn promise_9_answers_count_from_when_they_are_due_until_they_are_sent() {
        let together = Together::of(Arc::new(Budget::new(0)));
        let mut unread = Unread::new(together.clone());
        let used = || together.answers.used();
        (0..10).for_each(|_| unread.waits(70));
        unread.count();
        assert_eq!(used(), 700);
        // 4,000 bytes of deliveries are before them.
        (1..=10).for_each(|n| unread.says(70, 100, 4_000 + 100 * n));
        unread.count();
        assert_eq!(used(), 1_000, "the rest are deliveries");
        unread.sent(4_700);
        unread.count();
        assert_eq!((used(), unread.rows.len()), (300, 1));
        unread.said(50, 350);
        unread.count();
        assert_eq!((used(), unread.rows.len()), (350, 1));
        drop(unread);
        assert_eq!(used(), 0);
    }

    #[test]
    fn promise_10_deliveries_of_a_stream_that_is_never_empty_are_no_answers() {
        let together = Together::of(Arc::new(Budget::new(0)));
        let mut unread = Unread::new(together.clone());
        let mut unsent = 0;
        for _ in 0..100 {
            // A delivery and an answer go into a queue of which a little is always left.
            unread.waits(70);
            unsent += 10_000 + 20;
            unread.says(70, 20, unsent);
            unread.sent(unsent - 100);
            unsent = 100;
            unread.count();
            assert_eq!(together.answers.used(), 20);
        }
        unread.sent(79);
        unread.said(5, 26);
        unread.count();
        assert_eq!(together.answers.used(), 25);
        unread.sent(2);
        unread.count();
        assert_eq!(together.answers.used(), 24, "of one that is sent in part the rest counts");
        unread.sent(24);
        unread.count();
        assert_eq!((together.answers.used(), unread.rows.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_who_reads_its_answers_goes_on_beside_others_that_do_not() {
        let (shared, _gate) = testing::shared(true);
        let context = Context::from_waker(Waker::noop());
        let settings = &shared.settings;
        let mut lazy = Vec::new();
        // Each has all that a connection, then an address, then the node may have.
        for (bytes, mine, origin, hold) in [
            (settings.answer_bytes_per_connection(), true, 1, Hold::AnswerBytesPerConnection),
            (settings.answer_bytes_per_address(), false, 1, Hold::AnswerBytesPerAddress),
            (settings.answer_bytes_total_max, false, 2, Hold::AnswerBytesTotal),
        ] {
            let own = shared.together(far(1));
            let (mut diligent, mut behind) = (Unread::new(own.clone()), Unread::new(own.clone()));
            behind.said(1, 1);
            behind.count();
            for room in [true, false] {
                let together = if mine { own.clone() } else { shared.together(far(origin)) };
                let mut other = Unread::new(together);
                other.said(bytes, bytes);
                other.count();
                lazy.push(other);
                assert_eq!(behind.poll_room(&context), Err(hold));
                assert_eq!(diligent.poll_room(&context), if room { Ok(()) } else { Err(hold) });
            }
            lazy.clear();
            assert_eq!(diligent.poll_room(&context), Ok(()));
            assert_eq!(behind.poll_room(&context), Ok(()));
        }
        assert_eq!(shared.in_use().answer_bytes, 0);
    }
}
