//! One stream to a broker that has said its welcome.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{
    Address, Connection, RecvStream, Refusal, SendStream,
    protocol::{DecodeError, Decoder, Frame, PeerLimits, Welcome, WriteQueue, encode},
};
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    connection::deadline,
    producer::{FrameLimits, Violation, publish_bytes},
};

/// A connection, its stream, and what is on its way on it.
pub(super) struct Link {
    /// Dropping it would cut the stream.
    _connection: Box<dyn Connection>,
    send: Box<dyn SendStream>,
    recv: Box<dyn RecvStream>,
    input: BytesMut,
    decoder: Decoder,
    output: WriteQueue,
    pub(super) address: Address,
    pub(super) node: String,
    /// Node and address: nodes that share a name share nothing else.
    pub(super) server: String,
    pub(super) limits: PeerLimits,
    heartbeat: Duration,
    last_received: Instant,
    last_sent: Instant,
    /// Since when the frame at the front of `input` is not there whole.
    partial_since: Option<Instant>,
    pub(super) up_since: Instant,
    nonce: u64,
    /// Bytes of publishes that were sent and not answered.
    pub(super) publish_bytes: u64,
    /// Messages that were sent since the last time that none was unanswered.
    gathered: u64,
    /// The broker said that it will end the stream soon, and when it said so.
    goodbye: Option<(Refusal, Instant)>,
}

/// Why a link is of no use any more.
#[derive(Debug, Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] std::io::Error),
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

/// What a link is made of once the broker has welcomed the client.
pub(super) struct Welcomed {
    pub(super) connection: Box<dyn Connection>,
    pub(super) send: Box<dyn SendStream>,
    pub(super) recv: Box<dyn RecvStream>,
    /// What came behind the welcome.
    pub(super) input: BytesMut,
    pub(super) decoder: Decoder,
    pub(super) address: Address,
    pub(super) welcome: Welcome,
}

impl Link {
    pub(super) fn new(from: Welcomed, now: Instant) -> Self {
        let heartbeat = Duration::from_millis(u64::from(from.welcome.heartbeat_ms));
        let heartbeat = match heartbeat.is_zero() {
            true => HEARTBEAT_MAX,
            false => heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
        };
        Self {
            _connection: from.connection,
            send: from.send,
            recv: from.recv,
            input: from.input,
            decoder: from.decoder,
            output: WriteQueue::new(),
            server: format!("{} at {}", from.welcome.node, from.address),
            address: from.address,
            node: from.welcome.node,
            limits: from.welcome.limits,
            heartbeat,
            last_received: now,
            last_sent: now,
            partial_since: None,
            up_since: now,
            nonce: 0,
            publish_bytes: 0,
            gathered: 0,
            goodbye: None,
        }
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

    /// Whether nothing is on its way, and the message that went last went alone: so the next one
    /// has nobody to wait for.
    pub(super) const fn is_quiet(&self) -> bool {
        self.publish_bytes == 0
            && self.gathered <= 1
            && self.output.is_empty()
            && self.goodbye.is_none()
    }

    /// Whether more may be written before some of it was sent.
    pub(super) const fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    pub(super) const fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends what was written.
    pub(super) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), Lost>> {
        let before = self.output.len();
        if before == 0 {
            return Poll::Ready(Ok(()));
        }
        let result = self.output.poll_flush(context, &mut *self.send);
        if self.output.len() < before {
            self.last_sent = now;
        }
        result.map_err(Lost::Io)
    }

    /// Says that nothing more will be sent.
    pub(super) fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.send.poll_finish(context).map_err(Lost::Io)
    }

    /// Receives some bytes.
    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), Lost>> {
        let missing = self.decoder.missing(&self.input)?;
        if missing > READ_BYTES {
            self.input.reserve(missing);
        }
        let received =
            ready!(self.recv.poll_recv(context, &mut self.input, missing.max(READ_BYTES)))?;
        if received == 0 {
            let goodbye = self.goodbye.take();
            return Poll::Ready(Err(goodbye.map_or(Lost::Closed, |said| Lost::Goodbye(said.0))));
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

    /// The broker will end the stream soon: nothing new is begun on it, and what was begun may
    /// still be answered.
    pub(super) fn handle_goodbye(&mut self, refusal: Refusal, now: Instant) {
        self.goodbye.get_or_insert((refusal, now));
    }

    pub(super) const fn is_ending(&self) -> bool {
        self.goodbye.is_some()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn next_timeout(&self) -> Instant {
        let ending = self.goodbye.as_ref().map(|said| said.1 + GOODBYE_WAIT);
        let silent = deadline(self.last_received, self.heartbeat * SILENT_HEARTBEATS);
        let ping = deadline(self.last_sent, self.heartbeat);
        let ping = self.output.is_empty().then_some(ping);
        let stalled = self.partial_since.map(|since| since + FRAME_WAIT);
        ending.into_iter().chain(ping).chain(stalled).fold(silent, Instant::min)
    }

    /// Says something when nothing was said for long, and gives up when nothing was heard.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Lost> {
        if let Some((refusal, said)) = &self.goodbye
            && now >= *said + GOODBYE_WAIT
        {
            return Err(Lost::Goodbye(refusal.clone()));
        }
        let heartbeat = self.heartbeat;
        let silent = now.saturating_duration_since(self.last_received);
        if silent >= heartbeat * SILENT_HEARTBEATS {
            return Err(Lost::Silent(silent));
        }
        if self.partial_since.is_some_and(|since| now >= since + FRAME_WAIT) {
            return Err(Lost::Stalled);
        }
        if self.output.is_empty() && now >= deadline(self.last_sent, heartbeat) {
            self.nonce += 1;
            self.output.shrink();
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            self.write(&Frame::Ping { nonce: self.nonce });
            self.last_sent = now;
        }
        Ok(())
    }
}

/// Either side is given up after so many heartbeats without a byte.
const SILENT_HEARTBEATS: u32 = 3;
/// How long a broker that said goodbye may take to answer what it has taken.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);
/// How long a frame may take from its first byte to its last: the largest one at 1 Mbit/s. A broker
/// that says a byte now and then is not silent, and no use.
const FRAME_WAIT: Duration = Duration::from_secs(60);
/// However often a broker asks for it, more is no use.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// However seldom: a broker that is gone without a word is to be found out within three of these.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
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
