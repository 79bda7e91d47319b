//! One stream of one peer: bytes in, frames to topics; replies and deliveries out.
//!
//! A session is one task that sleeps until its stream, its outbox or its clock has something. At
//! rest it holds no buffer.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    handles::Handles,
    outbox::{Outbox, Outgoing},
    shared::Shared,
};
use crate::{
    Peer, RecvStream, Refusal, RefusalCode, SendStream, Stream,
    model::{Delivery, Reply, SessionId},
    protocol::{
        DecodeError, Decoder, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerLimits,
        Welcome, WriteQueue, encode,
    },
};

/// Why a session ended other than by its peer's wish.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the stream was cut: {0}")]
    Cut(#[from] io::Error),
}

/// Serves one stream until either side ends it.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: &Peer,
    stream: Stream,
) -> Result<(), SessionError> {
    let mut session = Session::new(shared, peer, stream);
    let result = poll_fn(|context| session.poll(context)).await;
    // Whatever happened, topics learn at once that the session is gone, before the goodbye.
    session.handles.end();
    let Err(SessionError::Refused(refusal)) = &result else { return result };
    encode(&Frame::Goodbye { refusal: refusal.clone() }, &mut session.write);
    session.part().await;
    result
}

enum State {
    /// Nothing is served yet.
    Greeting,
    Open {
        /// What the peer reads at most.
        frame_bytes_max: u32,
    },
}

struct Session {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    handles: Handles,
    send: Box<dyn SendStream>,
    recv: Box<dyn RecvStream>,
    decoder: Decoder,
    read: BytesMut,
    /// How much the next read may take.
    read_bytes: usize,
    /// What of `read` is counted as half-read.
    partial: usize,
    write: WriteQueue,
    outgoing: VecDeque<Outgoing>,
    state: State,
    /// Resolves when topics rest and sessions are to say goodbye.
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    tick: Pin<Box<Sleep>>,
    heartbeat: Duration,
    watch: Watch,
}

/// What happened since the last tick, and since when it did not.
struct Watch {
    received: bool,
    sent: bool,
    /// Whether the last look at the stream was one that would have read.
    reading: bool,
    heard: Instant,
    spoke: Instant,
    frame_began: Option<Instant>,
    write_stuck: Option<Instant>,
    pings: u64,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            received: false,
            sent: false,
            reading: true,
            heard: now,
            spoke: now,
            frame_began: None,
            write_stuck: None,
            pings: 0,
        }
    }
}

impl Session {
    fn new(shared: Arc<Shared>, peer: &Peer, stream: Stream) -> Self {
        let outbox = Outbox::new();
        let id: SessionId = shared.new_session();
        let settings = &shared.settings;
        Self {
            handles: Handles::new(shared.clone(), id, outbox.clone(), peer),
            outbox,
            send: stream.send,
            recv: stream.recv,
            decoder: Decoder::new(settings.frame_bytes_max),
            read: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            partial: 0,
            write: WriteQueue::new(),
            outgoing: VecDeque::new(),
            state: State::Greeting,
            closing: Box::pin(shared.closing()),
            tick: Box::pin(sleep(settings.hello_timeout)),
            heartbeat: settings.heartbeat,
            watch: Watch::new(),
            shared,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        for _ in 0..TURNS_MAX {
            let mut progress = self.poll_write(context)?;
            match self.poll_read(context)? {
                Read::Some => progress = true,
                Read::Wait => {}
                Read::End => return Poll::Ready(Ok(())),
            }
            if !progress {
                self.poll_clock(context)?;
                if !self.write.is_empty() && self.poll_write(context)? {
                    continue;
                }
                self.rest();
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what the outbox holds to the stream, as far as it takes it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<bool, SessionError> {
        let mut progress = false;
        loop {
            if self.write.len() < WRITE_BYTES_HIGH {
                if self.outgoing.is_empty()
                    && self.outbox.poll_drain(context, &mut self.outgoing).is_ready()
                {
                    progress = true;
                }
                while self.write.len() < WRITE_BYTES_HIGH
                    && let Some(outgoing) = self.outgoing.pop_front()
                {
                    self.write_out(outgoing);
                }
            }
            if self.write.is_empty() {
                return Ok(progress);
            }
            let before = self.write.len();
            let flushed = self.write.poll_flush(context, &mut *self.send)?;
            if self.write.len() < before {
                progress = true;
                self.watch.sent = true;
                self.watch.write_stuck = None;
                self.release();
            }
            if flushed.is_pending() {
                if self.watch.write_stuck.is_none() {
                    self.watch.write_stuck = Some(Instant::now());
                }
                return Ok(progress);
            }
        }
    }

    fn write_out(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Delivery(handle, Delivery { first_tag, attempt, batch }) => {
                self.handles.delivered(handle, batch.records.count() as u64);
                encode(&Frame::Deliver { handle, first_tag, attempt, batch }, &mut self.write);
            }
            Outgoing::Reply(reply) => {
                self.handles.replied(&reply);
                let frame = frame_of(reply, self.peer_frame_bytes_max());
                encode(&frame, &mut self.write);
            }
        }
    }

    fn peer_frame_bytes_max(&self) -> u32 {
        match self.state {
            State::Greeting => crate::protocol::FRAME_BYTES_MIN,
            State::Open { frame_bytes_max } => frame_bytes_max,
        }
    }

    /// Lets topics deliver again once enough is written.
    fn release(&mut self) {
        let unwritten = self.write.len()
            + self
                .outgoing
                .iter()
                .map(|outgoing| match outgoing {
                    Outgoing::Delivery(_, delivery) => delivery.batch.records.byte_len(),
                    Outgoing::Reply(_) => 0,
                })
                .sum::<usize>();
        for (inbox, consumer) in self.outbox.written(unwritten) {
            self.handles.release(&inbox, consumer);
        }
    }

    /// Reads once and hands on all frames that are complete.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<Read, SessionError> {
        let room = self.handles.poll_room(context).is_ready()
            && self.shared.published.poll_room(context).is_ready()
            && (self.partial == 0 || self.shared.partial.poll_room(context).is_ready())
            && self.write.len() < WRITE_BYTES_HIGH;
        self.watch.reading = room;
        if !room {
            return Ok(Read::Wait);
        }
        let max = self.read_bytes;
        let count = match self.recv.poll_recv(context, &mut self.read, max) {
            Poll::Pending => return Ok(Read::Wait),
            Poll::Ready(count) => count?,
        };
        if count == 0 {
            return if self.read.is_empty() {
                Ok(Read::End)
            } else {
                let cause = "the peer ended the stream in the middle of a frame";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, cause).into())
            };
        }
        self.watch.received = true;
        if count == max {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if count < max / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        let frames = self.take_frames();
        self.handles.hand_over();
        self.count_partial();
        frames?;
        Ok(Read::Some)
    }

    fn take_frames(&mut self) -> Result<(), SessionError> {
        let mut any = false;
        while let Some(frame) =
            self.decoder.decode(&mut self.read).map_err(|error| refusal_of(&error))?
        {
            any = true;
            self.handle(frame)?;
        }
        if self.read.is_empty() {
            self.watch.frame_began = None;
        } else if any || self.watch.frame_began.is_none() {
            self.watch.frame_began = Some(Instant::now());
        }
        Ok(())
    }

    /// Counts a long frame that is not there whole against the node's limit for them.
    fn count_partial(&mut self) {
        let partial = if self.read.len() > PARTIAL_BYTES_FREE { self.read.len() } else { 0 };
        if partial > self.partial {
            self.shared.partial.take(partial - self.partial);
        } else {
            self.shared.partial.give_back(self.partial - partial);
        }
        self.partial = partial;
    }

    fn handle(&mut self, frame: Frame) -> Result<(), SessionError> {
        if matches!(self.state, State::Greeting) {
            return match frame {
                Frame::Hello(hello) => self.greet(&hello),
                _ => Err(Refusal::new(
                    RefusalCode::UnexpectedFrame,
                    "the first frame must be a hello",
                )
                .into()),
            };
        }
        match frame {
            Frame::Ping { nonce } => encode(&Frame::Pong { nonce }, &mut self.write),
            Frame::Pong { .. } => {}
            frame => self.handles.handle(frame)?,
        }
        Ok(())
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), SessionError> {
        let settings = &self.shared.settings;
        if hello.major != PROTOCOL_MAJOR {
            let detail = format!(
                "this node speaks version {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, the client {}.{}",
                hello.major, hello.minor
            );
            return Err(Refusal::new(RefusalCode::VersionUnsupported, detail).into());
        }
        if hello.client.len() > CLIENT_BYTES_MAX {
            let detail = format!(
                "the client's name has {} bytes; the limit is {CLIENT_BYTES_MAX}",
                hello.client.len()
            );
            return Err(Refusal::new(RefusalCode::OutOfRange, detail).into());
        }
        if let Some(token) = &settings.token
            && !hello.token.as_ref().is_some_and(|given| same_secret(given, token))
        {
            return Err(Refusal::new(RefusalCode::Unauthorized, "the token is not right").into());
        }
        let run = u32::try_from(settings.model.run_bytes_max).unwrap_or(u32::MAX);
        let least = settings
            .message_bytes_max
            .max(run)
            .saturating_add(super::settings::BrokerSettings::FRAME_OVERHEAD);
        if hello.frame_bytes_max < least {
            let detail = format!(
                "the client reads frames of up to {} bytes; this node sends up to {least}",
                hello.frame_bytes_max
            );
            return Err(Refusal::new(RefusalCode::OutOfRange, detail).into());
        }
        if hello.heartbeat_ms > 0 {
            let wished = Duration::from_millis(hello.heartbeat_ms.into());
            self.heartbeat =
                wished.clamp(HEARTBEAT_MIN.min(settings.heartbeat), settings.heartbeat);
        }
        self.state = State::Open { frame_bytes_max: hello.frame_bytes_max };
        let next = Instant::now() + self.tick_pause();
        self.tick.as_mut().reset(next);
        let welcome = Welcome {
            major: PROTOCOL_MAJOR,
            // Ours is the lowest there is, so that a client of any minor version may use it.
            minor: PROTOCOL_MINOR,
            features: Features(0),
            node: settings.node.clone(),
            limits: PeerLimits {
                frame_bytes_max: settings.frame_bytes_max,
                message_bytes_max: settings.message_bytes_max,
                credit_max: settings.model.credit_max,
                subscriptions_max: settings.subscriptions_max,
                producers_max: settings.producers_max,
                publish_bytes_max: settings.publish_bytes_max,
            },
            heartbeat_ms: u32::try_from(self.heartbeat.as_millis()).unwrap_or(u32::MAX),
        };
        encode(&Frame::Welcome(welcome), &mut self.write);
        self.handles.greeted(&hello.client);
        Ok(())
    }

    /// Everything that happens because time passes, or because the node stops.
    fn poll_clock(&mut self, context: &mut Context<'_>) -> Result<(), SessionError> {
        if self.closing.as_mut().poll(context).is_ready() {
            return Err(Refusal::new(RefusalCode::Stopping, "the node is stopping").into());
        }
        while self.tick.as_mut().poll(context).is_ready() {
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), SessionError> {
        let timeout = |detail: String| Refusal::new(RefusalCode::PeerTimeout, detail);
        let settings = &self.shared.settings;
        if matches!(self.state, State::Greeting) {
            let waited = settings.hello_timeout;
            return Err(timeout(format!("no hello came within {waited:?}")).into());
        }
        let now = Instant::now();
        let pause = self.tick_pause();
        self.tick.as_mut().reset(now + pause);
        let stuck = |since: &Option<Instant>| {
            since.is_some_and(|since| now.duration_since(since) >= settings.stall_timeout)
        };
        if stuck(&self.watch.frame_began) {
            let waited = settings.stall_timeout;
            return Err(timeout(format!("a frame was not complete after {waited:?}")).into());
        }
        if stuck(&self.watch.write_stuck) {
            let waited = settings.stall_timeout;
            return Err(timeout(format!("the peer read nothing for {waited:?}")).into());
        }
        if std::mem::take(&mut self.watch.received) {
            self.watch.heard = now;
        }
        if std::mem::take(&mut self.watch.sent) {
            self.watch.spoke = now;
        }
        let silence = self.heartbeat * SILENT_HEARTBEATS_MAX;
        // A session that does not read, because the node is behind, hears nothing.
        if now.duration_since(self.watch.heard) >= silence && self.watch.reading {
            return Err(timeout(format!("nothing was heard for {silence:?}")).into());
        }
        // A ping keeps this side's word, and makes a silent peer speak.
        let quiet = now - self.watch.spoke.min(self.watch.heard);
        if quiet >= self.heartbeat / 2 && self.write.is_empty() {
            self.watch.pings += 1;
            encode(&Frame::Ping { nonce: self.watch.pings }, &mut self.write);
        }
        Ok(())
    }

    /// How often the clock is looked at: often enough for the shortest limit.
    fn tick_pause(&self) -> Duration {
        self.heartbeat.min(self.shared.settings.stall_timeout)
    }

    /// Gives back what a burst needed.
    fn rest(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 0 {
            self.read = BytesMut::new();
        }
        if self.write.is_empty() {
            self.write.shrink();
            if self.outgoing.is_empty() && self.outgoing.capacity() > OUTGOING_KEPT {
                self.outgoing = VecDeque::new();
            }
        }
    }

    /// Sends what is left, the goodbye last, and waits a little for the peer to have read it:
    /// closing a socket with unread bytes in it could take the goodbye away.
    async fn part(&mut self) {
        let parted = async {
            poll_fn(|context| self.write.poll_flush(context, &mut *self.send)).await?;
            poll_fn(|context| self.send.poll_finish(context)).await?;
            loop {
                self.read.clear();
                let recv = &mut self.recv;
                let read = &mut self.read;
                if poll_fn(|context| recv.poll_recv(context, read, READ_BYTES_MIN)).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // Whether the peer heard it makes no difference any more.
        let _ = tokio::time::timeout(PART_TIMEOUT, parted).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.partial.give_back(self.partial);
        self.outbox.close();
    }
}

enum Read {
    Some,
    Wait,
    End,
}

fn refusal_of(error: &DecodeError) -> Refusal {
    let code = match error {
        DecodeError::TooLong { .. } => RefusalCode::FrameTooLarge,
        DecodeError::Name(_) => RefusalCode::BadName,
        DecodeError::UnknownType(_) => RefusalCode::UnexpectedFrame,
        _ => RefusalCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

fn frame_of(reply: Reply, frame_bytes_max: u32) -> Frame {
    match reply {
        Reply::ProducerOpened { handle, epoch, last_sequence, durability } => {
            Frame::ProducerOpened { handle, epoch, last_sequence, durability }
        }
        Reply::ProducerRefused { handle, refusal } => Frame::ProducerRefused { handle, refusal },
        Reply::Confirmed { handle, ranges, durability } => {
            Frame::Confirmed { handle, ranges, durability }
        }
        Reply::PublishRefused { handle, sequence, count, refusal } => {
            Frame::PublishRefused { handle, sequence, count, refusal }
        }
        Reply::Subscribed { handle, timeout } => Frame::Subscribed {
            handle,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        },
        Reply::SubscribeRefused { handle, refusal } => Frame::SubscribeRefused { handle, refusal },
        Reply::Settled { handle, request, stale } => Frame::Settled { handle, request, stale },
        Reply::SubscriptionClosed { handle, refusal } => {
            Frame::SubscriptionClosed { handle, refusal }
        }
        Reply::Admin { request, result } => {
            // An operator's answer is the only one whose size follows that of the node.
            let bytes = postcard::to_stdvec(&result).map_or(usize::MAX, |bytes| bytes.len());
            let result = if bytes + ADMIN_OVERHEAD <= frame_bytes_max as usize {
                result
            } else {
                let detail = format!(
                    "the answer has {bytes} bytes and the client reads frames of up to \
                     {frame_bytes_max}; ask for one topic at a time"
                );
                Err(Refusal::new(RefusalCode::LimitReached, detail))
            };
            Frame::AdminAnswered { request, result }
        }
    }
}

/// Compares without telling by the time it takes where the difference is.
fn same_secret(given: &str, expected: &str) -> bool {
    let (given, expected) = (given.as_bytes(), expected.as_bytes());
    let differences = given
        .iter()
        .zip(expected.iter().cycle())
        .fold(0u8, |differences, (a, b)| std::hint::black_box(differences | (a ^ b)));
    differences == 0 && given.len() == expected.len()
}

/// Turns after which the task lets others run.
const TURNS_MAX: usize = 16;
/// The first read of a stream, and the least.
const READ_BYTES_MIN: usize = 16 << 10;
/// The most that one read takes: beyond it larger reads save no more system calls worth having.
const READ_BYTES_MAX: usize = 256 << 10;
/// Half-read frames up to this size are free: each connection may have one.
const PARTIAL_BYTES_FREE: usize = 64 << 10;
/// Bytes that are encoded and not written, above which the session neither encodes nor reads
/// more: a peer that sends requests and reads no answers stops itself.
const WRITE_BYTES_HIGH: usize = 256 << 10;
/// Heartbeats after which a silent peer is given up.
const SILENT_HEARTBEATS_MAX: u32 = 3;
/// The shortest heartbeat that a client may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// The longest client name in a hello.
const CLIENT_BYTES_MAX: usize = 256;
/// A frame's bytes beside the answer in it.
const ADMIN_OVERHEAD: usize = 32;
/// How long a goodbye may take.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// Room for this many entries is kept while the session rests.
const OUTGOING_KEPT: usize = 4;
