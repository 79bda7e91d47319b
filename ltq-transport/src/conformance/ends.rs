//! The halves of a stream, watched: every call is held against the contract.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{RecvStream, SendStream};
use tokio::time::timeout;

use super::{
    pattern::Pattern,
    trial::{CaseResult, Trial, ensure, fail, worked},
};

/// One end of a stream.
pub(super) struct End {
    pub(super) send: Sender,
    pub(super) recv: Receiver,
}

/// Sends a pattern.
pub(super) struct Sender {
    trial: Trial,
    half: Box<dyn SendStream>,
    pattern: Pattern,
    /// Bytes that were taken.
    pub(super) sent: u64,
}

impl Sender {
    pub(super) fn new(trial: Trial, half: Box<dyn SendStream>, pattern: Pattern) -> Self {
        Self { trial, half, pattern, sent: 0 }
    }

    /// Offers slices, and checks what it says to have taken.
    pub(super) fn poll_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<CaseResult<io::Result<usize>>> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = match ready!(self.half.poll_send(context, slices)) {
            Err(error) => return Poll::Ready(Ok(Err(error))),
            Ok(taken) => taken,
        };
        if taken > offered {
            return Poll::Ready(fail(format!("poll_send took {taken} of {offered} bytes")));
        }
        if taken == 0 && offered > 0 {
            return Poll::Ready(fail(format!("poll_send took none of {offered} bytes")));
        }
        self.sent += taken as u64;
        Poll::Ready(Ok(Ok(taken)))
    }

    /// Offers the next bytes of the pattern once.
    pub(super) fn poll_some(
        &mut self,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<CaseResult<io::Result<usize>>> {
        let next = self.pattern.bytes(self.sent, bytes);
        self.poll_slices(context, &[IoSlice::new(&next)])
    }

    /// Offers slices until all of them are taken.
    pub(super) async fn send_slices(&mut self, slices: &[&[u8]]) -> CaseResult {
        let mut slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut left = &mut *slices;
        let trial = self.trial.clone();
        while left.iter().any(|slice| !slice.is_empty()) {
            let sending = poll_fn(|context| self.poll_slices(context, left));
            let taken = worked("poll_send", trial.within("poll_send", sending).await??)?;
            IoSlice::advance_slices(&mut left, taken);
        }
        Ok(())
    }

    /// Sends the next bytes of the pattern, offered together.
    pub(super) async fn send(&mut self, bytes: usize) -> CaseResult {
        let next = self.pattern.bytes(self.sent, bytes);
        self.send_slices(&[&next]).await
    }

    /// Sends the next bytes of the pattern, in slices of these lengths.
    pub(super) async fn send_in_slices(&mut self, lengths: &[usize]) -> CaseResult {
        let bytes = self.pattern.bytes(self.sent, lengths.iter().sum());
        let mut rest = &*bytes;
        let mut slices = Vec::new();
        for length in lengths {
            let (slice, behind) = rest.split_at_checked(*length).unwrap_or((rest, &[]));
            slices.push(slice);
            rest = behind;
        }
        self.send_slices(&slices).await
    }

    /// Sends until no more is taken for a while. What it had to wait for is not lost.
    pub(super) async fn fill(&mut self) -> CaseResult {
        let start = self.sent;
        let max = self.trial.harness.buffered_bytes_max;
        let quiet = self.trial.harness.patience.min(QUIET);
        while let Ok(taken) = timeout(quiet, poll_fn(|cx| self.poll_some(cx, PIECE_BYTES))).await {
            worked("poll_send", taken?)?;
            let unread = self.sent - start;
            ensure(unread <= max, || {
                format!("{unread} bytes were taken though nobody reads; the bound is {max}")
            })?;
        }
        Ok(())
    }

    /// Sends until that fails, which it must.
    pub(super) async fn send_until_cut(&mut self) -> CaseResult {
        let (start, max) = (self.sent, self.trial.harness.buffered_bytes_max);
        let trial = self.trial.clone();
        while self.sent - start <= max {
            let sending = poll_fn(|context| self.poll_some(context, PIECE_BYTES));
            if trial.within("poll_send to fail", sending).await??.is_err() {
                return Ok(());
            }
        }
        fail(format!("more than {max} bytes were taken for a peer that is gone"))
    }

    pub(super) async fn try_finish(&mut self) -> CaseResult<io::Result<()>> {
        let half = &mut self.half;
        self.trial.within("poll_finish", poll_fn(|context| half.poll_finish(context))).await
    }

    pub(super) async fn finish(&mut self) -> CaseResult {
        let finished = self.try_finish().await?;
        worked("poll_finish", finished)
    }
}

/// Receives a pattern and checks it.
pub(super) struct Receiver {
    trial: Trial,
    half: Box<dyn RecvStream>,
    pattern: Pattern,
    /// Bytes that came.
    pub(super) received: u64,
    /// What came last, behind a few bytes that must stay.
    buffer: BytesMut,
}

impl Receiver {
    pub(super) fn new(trial: Trial, half: Box<dyn RecvStream>, pattern: Pattern) -> Self {
        Self { trial, half, pattern, received: 0, buffer: BytesMut::new() }
    }

    /// Receives into an empty buffer.
    pub(super) fn poll_some(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
    ) -> Poll<CaseResult<io::Result<usize>>> {
        self.poll_behind(context, BytesMut::new(), max)
    }

    /// Receives behind what `buffer` holds.
    pub(super) fn poll_behind(
        &mut self,
        context: &mut Context<'_>,
        buffer: BytesMut,
        max: usize,
    ) -> Poll<CaseResult<io::Result<usize>>> {
        self.buffer = buffer;
        let before = self.buffer.to_vec();
        let capacity = self.buffer.capacity();
        let outcome = self.half.poll_recv(context, &mut self.buffer, max);
        Poll::Ready(match outcome {
            Poll::Ready(Ok(received)) if received > 0 => {
                self.check(&before, received, max).map(|()| Ok(received))
            }
            nothing if self.buffer.capacity() > capacity || self.buffer != before => {
                let state = if nothing.is_pending() { "pending" } else { "without bytes" };
                fail(format!("poll_recv changed the buffer or its capacity though {state}"))
            }
            Poll::Ready(nothing) => Ok(nothing),
            Poll::Pending => return Poll::Pending,
        })
    }

    fn check(&mut self, before: &[u8], received: usize, max: usize) -> CaseResult {
        ensure(received <= max, || {
            format!("poll_recv received {received} of at most {max} bytes")
        })?;
        let (kept, new) = self.buffer.split_at_checked(before.len()).unwrap_or_default();
        ensure(kept == before, || "poll_recv changed what the buffer held".to_owned())?;
        ensure(new.len() == received, || {
            format!("poll_recv said {received} bytes and appended {}", new.len())
        })?;
        let place = self.received;
        self.received += received as u64;
        match self.pattern.first_wrong(place, new) {
            None => Ok(()),
            Some(place) => fail(format!("the byte at {place} is not the one that was sent there")),
        }
    }

    /// Receives once, whatever comes.
    pub(super) async fn try_receive(&mut self, max: usize) -> CaseResult<io::Result<usize>> {
        let trial = self.trial.clone();
        let receiving = poll_fn(|context| self.poll_some(context, max));
        trial.within("poll_recv", receiving).await?
    }

    /// Receives once; 0 is the end.
    pub(super) async fn receive(&mut self, max: usize) -> CaseResult<usize> {
        worked("poll_recv", self.try_receive(max).await?)
    }

    /// Receives so many bytes and no end before them.
    pub(super) async fn receive_exactly(&mut self, bytes: usize) -> CaseResult {
        self.receive_up_to(self.received + bytes as u64).await
    }

    /// Receives until `total` bytes have come in all.
    pub(super) async fn receive_up_to(&mut self, total: u64) -> CaseResult {
        while self.received < total {
            let left = usize::try_from(total - self.received).unwrap_or(usize::MAX);
            if self.receive(left.min(PIECE_BYTES)).await? == 0 {
                return fail(format!("the end came after {} of {total} bytes", self.received));
            }
        }
        Ok(())
    }

    /// Receives what is left of `total` bytes, and the end, and the end again.
    pub(super) async fn receive_to_the_end(&mut self, total: u64) -> CaseResult {
        self.receive_up_to(total).await?;
        for _ in 0..3 {
            let more = self.receive(PIECE_BYTES).await?;
            ensure(more == 0, || format!("{more} bytes came where the end should be"))?;
        }
        Ok(())
    }
}

/// Nothing for so long counts as back-pressure. If it is too short, the sender has sent less than
/// it might have: no test fails of it.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// How much is offered or asked for at once where that does not matter.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
