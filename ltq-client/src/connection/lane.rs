//! One stream of a connection to a broker, and what is on its way on it.

mod opening;
mod timing;

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{
    RecvStream, Refusal, SendStream,
    protocol::{DecodeError, Decoder, Frame, PeerLimits, WriteQueue, encode},
};
use thiserror::Error;
use tokio::time::Instant;

use super::{place::LaneNumber, waking::LaneWaker};
use crate::producer::{FrameLimits, Violation, publish_bytes};
pub(super) use opening::First;
use opening::Opening;
use timing::FRAME_WAIT;

/// One stream: its two halves, what came and is no whole frame yet, what is to be sent, and who on
/// it has something to send. To the broker it is a session with a hello of its own.
pub(super) struct Lane {
    pub(super) number: LaneNumber,
    path: Path,
    /// What wakes this lane and no other; without one, whatever wakes the task.
    waker: Option<LaneWaker>,
    /// It waits for its turn.
    pub(super) is_due: bool,
    input: BytesMut,
    decoder: Decoder,
    output: WriteQueue,
    limits: PeerLimits,
    heartbeat: Duration,
    /// By when the welcome has to be there that is not there yet.
    welcome_by: Option<Instant>,
    last_received: Instant,
    last_sent: Instant,
    /// Since when the frame at the front of `input` is not there whole.
    partial_since: Option<Instant>,
    nonce: u64,
    /// Bytes of publishes that were sent and not answered.
    publish_bytes: u64,
    /// Messages that were sent since the last time that none was unanswered.
    gathered: u64,
    /// Producers and subscriptions that use it.
    pub(super) handles: usize,
    pub(super) ready_producers: VecDeque<u32>,
    pub(super) ready_consumers: VecDeque<u32>,
    finishing: Option<Finishing>,
}

/// Where the bytes go.
enum Path {
    /// The stream is being opened.
    Opening(Opening),
    Open {
        send: Box<dyn SendStream>,
        recv: Box<dyn RecvStream>,
    },
}

/// Nothing more will be sent.
struct Finishing {
    /// When it is given up.
    by: Instant,
    /// The broker was told.
    is_sent: bool,
}

/// Why a stream is of no use any more, and with it the connection.
#[derive(Debug, Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no further stream could be opened: {0}")]
    Stream(ltq_core::TransportError),
    #[error("no welcome on a further stream within {0:?}")]
    Unanswered(Duration),
    #[error("the broker closed it")]
    Closed,
    #[error("the broker ended it: {0}")]
    Goodbye(Refusal),
    #[error("not a byte for {0:?}")]
    Silent(Duration),
    #[error("a frame was not there whole within {FRAME_WAIT:?}")]
    Stalled,
    #[error("the broker broke the protocol: {0}")]
    Decode(#[from] DecodeError),
    #[error("the broker broke the protocol: {0}")]
    Violation(&'static str),
}

impl From<Violation> for Lost {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation.0)
    }
}

impl Lane {
    pub(super) const fn limits(&self) -> &PeerLimits {
        &self.limits
    }

    /// What a frame with records may hold.
    pub(super) fn frame_limits(&self) -> FrameLimits {
        FrameLimits {
            bytes: (self.limits.frame_bytes_max as usize).saturating_sub(HEADER_BYTES_MAX),
            message_bytes: self.limits.message_bytes_max as usize,
        }
    }

    /// The most settlements that one frame holds.
    pub(super) fn settlements_max(&self) -> usize {
        let bytes = (self.limits.frame_bytes_max as usize).saturating_sub(HEADER_BYTES_MAX);
        (bytes / SETTLEMENT_BYTES_MAX).clamp(1, SETTLEMENTS_MAX)
    }

    pub(super) fn write(&mut self, frame: &Frame) {
        encode(frame, &mut self.output);
    }

    /// Writes a publish, and counts it as unanswered.
    pub(super) fn write_publish(&mut self, frame: &Frame) {
        if let Frame::Publish { records, .. } = frame {
            if self.publish_bytes == 0 {
                self.gathered = 0;
            }
            self.gathered += records.count() as u64;
            self.publish_bytes += publish_bytes(records);
        }
        self.write(frame);
    }

    /// So many bytes of publishes are answered, or will not be.
    pub(super) const fn handle_answered(&mut self, bytes: u64) {
        self.publish_bytes = self.publish_bytes.saturating_sub(bytes);
    }

    /// Whether the broker takes no more publishes before it has answered some.
    pub(super) const fn is_full(&self) -> bool {
        self.publish_bytes > 0 && self.publish_bytes >= self.limits.publish_bytes_max
    }

    /// Whether nothing is on its way, and the message that went last went alone: so the next one
    /// has nobody to wait for.
    pub(super) fn is_quiet(&self) -> bool {
        self.publish_bytes == 0
            && self.gathered <= 1
            && self.output.is_empty()
            && self.ready_producers.is_empty()
    }

    /// Whether more may be written before some of it was sent.
    pub(super) const fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Sends what was written.
    pub(super) fn poll_flush(
        &mut self,
        context: &Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), Lost>> {
        let before = self.output.len();
        if before == 0 {
            return Poll::Ready(Ok(()));
        }
        let Path::Open { send, .. } = &mut self.path else { return Poll::Pending };
        let mut context = own(self.waker.as_ref(), context);
        let result = self.output.poll_flush(&mut context, &mut **send);
        if self.output.len() < before {
            self.last_sent = now;
        }
        result.map_err(Lost::Io)
    }

    /// Receives some bytes.
    pub(super) fn poll_receive(
        &mut self,
        context: &Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), Lost>> {
        let Path::Open { recv, .. } = &mut self.path else { return Poll::Pending };
        let missing = self.decoder.missing(&self.input)?;
        if missing > READ_BYTES {
            self.input.reserve(missing);
        }
        let mut context = own(self.waker.as_ref(), context);
        let received =
            ready!(recv.poll_recv(&mut context, &mut self.input, missing.max(READ_BYTES)))?;
        if received == 0 {
            return Poll::Ready(Err(Lost::Closed));
        }
        self.last_received = now;
        self.partial_since.get_or_insert(now);
        Poll::Ready(Ok(()))
    }

    /// The next frame that was received whole.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Lost> {
        let frame = self.decoder.decode(&mut self.input)?;
        if frame.is_some() || self.input.is_empty() {
            self.partial_since = None;
        }
        Ok(frame)
    }

    /// Its turn begins: from here on it can be woken again.
    pub(super) fn begin_turn(&mut self) {
        self.is_due = false;
        if let Some(waker) = &self.waker {
            waker.rest();
        }
    }

    /// One who used it is gone. A further stream that nobody uses any more is ended.
    pub(super) fn leave(&mut self, now: Instant) {
        self.handles = self.handles.saturating_sub(1);
        if self.handles == 0 && self.number != LaneNumber::FIRST {
            self.finish(now);
        }
    }

    /// What was written is sent still, and nothing more is.
    pub(super) fn finish(&mut self, now: Instant) {
        self.finishing.get_or_insert(Finishing { by: now + FINISH_WAIT, is_sent: false });
    }

    pub(super) const fn is_finishing(&self) -> bool {
        self.finishing.is_some()
    }

    /// Whether the broker was told that nothing more will come.
    pub(super) fn is_finished(&self) -> bool {
        self.finishing.as_ref().is_some_and(|finishing| finishing.is_sent)
    }

    /// Says that nothing more will be sent, if that is so. The broker ends the stream in its turn:
    /// ending it here with bytes unread could take back what was sent.
    pub(super) fn poll_finish(&mut self, context: &Context<'_>) -> Result<(), Lost> {
        if let Some(finishing) = &mut self.finishing
            && !finishing.is_sent
            && self.output.is_empty()
            && let Path::Open { send, .. } = &mut self.path
        {
            let mut context = own(self.waker.as_ref(), context);
            if let Poll::Ready(result) = send.poll_finish(&mut context) {
                result?;
                finishing.is_sent = true;
            }
        }
        Ok(())
    }
}

/// A context that wakes whom this waker does, or else as before.
fn own<'a>(waker: Option<&'a LaneWaker>, context: &'a Context<'_>) -> Context<'a> {
    let waker: &Waker = waker.map_or_else(|| context.waker(), LaneWaker::as_waker);
    Context::from_waker(waker)
}

/// A publish's header takes up to 28 bytes, a settlement frame's 20.
const HEADER_BYTES_MAX: usize = 64;
/// Two tags, a verdict and a delay.
const SETTLEMENT_BYTES_MAX: usize = 32;
/// Beyond this another header costs nothing.
const SETTLEMENTS_MAX: usize = 4096;
/// How much is written ahead of the stream: enough to fill a socket's buffer while the task is
/// elsewhere, little enough that messages which come later still join those that wait.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// One read takes up to this much: few system calls at full speed.
const READ_BYTES: usize = 256 << 10;
/// How long the end of a stream that nobody uses may take.
const FINISH_WAIT: Duration = Duration::from_secs(10);
