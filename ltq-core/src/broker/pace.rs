//! How fast a stream's peer reads.

use std::time::Duration;

use tokio::time::Instant;

/// What a stream takes of what is encoded for it. A peer that takes a few bytes now and then is not one that reads
/// nothing, and still keeps what waits for it: so of what waits it has to take the next stretch within a time. How long
/// messages are makes no difference to that.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes that the stream took since it began.
    sent: u64,
    /// Up to which byte it is to take them, and since when.
    mark: Option<(u64, Instant)>,
}

impl Pace {
    /// The stream took so many bytes.
    pub(super) const fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// For how long a stretch of what waits, of `most` bytes or the `unsent` that there are, has not been taken
    /// to its end, about: looked at once in a while.
    pub(super) fn behind(&mut self, unsent: usize, most: usize) -> Duration {
        match self.mark {
            Some((at, since)) if self.sent < at => since.elapsed(),
            _ => {
                let stretch = unsent.min(most) as u64;
                self.mark = (stretch > 0).then(|| (self.sent + stretch, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn promise_10_who_reads_by_drops_is_behind_however_often_a_few_bytes_are_taken() {
        let (mut pace, mut unsent) = (Pace::default(), 1_000);
        assert_eq!(pace.behind(unsent, 1_000), Duration::ZERO);
        for seconds in 1..100 {
            tokio::time::advance(Duration::from_secs(1)).await;
            pace.sent(9);
            // What is added later is not what has waited.
            unsent += 500 - 9;
            assert_eq!(pace.behind(unsent, 1_000), Duration::from_secs(seconds));
        }
        pace.sent(1_000 - 9 * 99);
        assert_eq!(pace.behind(5_000, 1_000), Duration::ZERO, "what was there first is read");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.behind(5_000, 1_000), Duration::from_secs(1));
        pace.sent(5_000);
        assert_eq!(pace.behind(0, 1_000), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.behind(0, 1_000), Duration::ZERO, "there is nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_long_message_stretch_by_stretch_is_never_far_behind() {
        let (mut pace, mut unsent) = (Pace::default(), 100_000);
        while unsent > 0 {
            assert!(pace.behind(unsent, 1_000) <= Duration::from_secs(10));
            tokio::time::advance(Duration::from_secs(1)).await;
            pace.sent(100);
            unsent -= 100;
        }
    }
}
