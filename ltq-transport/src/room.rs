//! Room for the next read: how much, and where, without holding any while nothing comes.

use std::{io, task::Poll};

use bytes::{BufMut, BytesMut, buf::Limit};

/// How many bytes the next read is offered. It follows what arrives: a quiet stream costs little,
/// a busy one few system calls.
#[derive(Debug)]
pub(crate) struct Room {
    next: usize,
}

impl Room {
    pub(crate) const fn new() -> Self {
        Self { next: BYTES_MIN }
    }

    /// Reads up to `max` bytes into `buffer` by `read`, which fills some of the room it is given.
    /// Where `buffer` has little room the read goes into new memory, which `buffer` gets only if
    /// bytes came.
    ///
    /// # Errors
    /// What `read` says; `InvalidInput` for a `max` of 0.
    pub(crate) fn poll_fill(
        &mut self,
        buffer: &mut BytesMut,
        max: usize,
        read: impl FnOnce(&mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if max == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a receive of at most 0 bytes; it must be at least 1",
            )));
        }
        let want = self.next.min(max);
        let spare = buffer.capacity() - buffer.len();
        // A quarter of what is wanted is worth a read: else a nearly full buffer of a busy stream
        // would be given up after each one.
        if spare >= want.div_ceil(4) || buffer.try_reclaim(want) {
            let offered = (buffer.capacity() - buffer.len()).min(max);
            let outcome = read(&mut buffer.limit(max));
            return self.learn(offered, outcome);
        }
        // Doubling, as far as `max` allows, keeps the cost of copying a large piece linear.
        let offered = want.max(buffer.len()).min(max);
        let mut grown = BytesMut::with_capacity(buffer.len() + offered);
        grown.extend_from_slice(buffer);
        let outcome = read(&mut (&mut grown).limit(offered));
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            *buffer = grown;
        }
        self.learn(offered, outcome)
    }

    fn learn(
        &mut self,
        offered: usize,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(got)) = outcome {
            if got >= self.next && got == offered {
                self.next = (self.next * 4).min(BYTES_MAX);
            } else if got < self.next / 4 {
                self.next = (self.next / 2).max(BYTES_MIN);
            }
        }
        outcome
    }
}

/// One page: a request or a batch of acks, without waste on a connection that says little.
const BYTES_MIN: usize = 4 * 1024;
/// Beyond this a read saves nothing more: copying the bytes costs far more than the call.
const BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(
        room: &mut Room,
        buffer: &mut BytesMut,
        max: usize,
        got: usize,
    ) -> (usize, Poll<io::Result<usize>>) {
        let mut offered = 0;
        let outcome = room.poll_fill(buffer, max, |target| {
            offered = target.remaining_mut().min(target.chunk_mut().len());
            target.put_bytes(7, got.min(offered));
            Poll::Ready(Ok(got.min(offered)))
        });
        (offered, outcome)
    }

    #[test]
    fn a_busy_stream_is_offered_more_and_a_quiet_one_less() {
        let mut room = Room::new();
        let mut offers = Vec::new();
        for _ in 0..5 {
            let (offered, _) = fill(&mut room, &mut BytesMut::new(), usize::MAX, usize::MAX);
            offers.push(offered);
        }
        assert_eq!(offers, [4 << 10, 16 << 10, 64 << 10, 256 << 10, 256 << 10]);
        for _ in 0..8 {
            let _ = fill(&mut room, &mut BytesMut::new(), usize::MAX, 1);
        }
        assert_eq!(fill(&mut room, &mut BytesMut::new(), usize::MAX, 1).0, 4 << 10);
    }

    #[test]
    fn a_read_without_bytes_leaves_the_buffer_as_it_was() {
        for outcome in [Poll::Pending, Poll::Ready(0)] {
            for before in [&b""[..], b"begun"] {
                let mut buffer = BytesMut::from(before);
                let capacity = buffer.capacity();
                let _ = Room::new().poll_fill(&mut buffer, 1000, |_| outcome.map(Ok));
                assert_eq!((&buffer[..], buffer.capacity()), (before, capacity));
            }
        }
    }

    #[test]
    fn the_buffer_grows_by_max_at_most_and_keeps_what_it_held() {
        let mut buffer = BytesMut::from(&b"abc"[..]);
        buffer.truncate(3);
        assert_eq!(fill(&mut Room::new(), &mut buffer, 10, 100).0, 10);
        assert_eq!(&buffer[..], b"abc\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07");
        let mut buffer = BytesMut::zeroed(100 << 10);
        assert_eq!(fill(&mut Room::new(), &mut buffer, 1 << 20, usize::MAX).0, 100 << 10);
    }

    #[test]
    fn room_that_is_there_is_used_and_never_beyond_max() {
        let mut buffer = BytesMut::with_capacity(8 << 10);
        let address = buffer.as_ptr();
        assert_eq!(fill(&mut Room::new(), &mut buffer, 16, 100).0, 16);
        assert_eq!((buffer.len(), buffer.as_ptr()), (16, address));
    }

    #[test]
    fn a_receive_of_nothing_is_refused() {
        let (_, outcome) = fill(&mut Room::new(), &mut BytesMut::new(), 0, 1);
        assert!(matches!(outcome, Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::InvalidInput));
    }
}
