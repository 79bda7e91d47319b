//! One stream of one peer: bytes in, frames to topics; replies and deliveries out.
//!
//! A session is one task that sleeps until its stream, its outbox or its clock has something. At
//! rest it holds no buffer.

mod encoding;
mod read_memory;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::{
    budget::Partial,
    entrance::Entry,
    greeting,
    handles::Handles,
    holds::Hold,
    outbox::{Outbox, Outgoing},
    pace::Pace,
    parting::part,
    refuse::undecodable,
    shared::Shared,
    standing::Standing,
    strangers::Stranger,
    together::Together,
    watch::{Attention, Watch},
};
use crate::{
    Peer, RecvStream, Refusal, RefusalCode, SendStream, Stream,
    model::{Delivery, Reply, SessionId},
    protocol::{Decoder, FRAME_BYTES_MIN, Frame, Hello, WriteQueue, encode},
};

/// Why a session ended other than by its peer's wish.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the stream was cut: {0}")]
    Cut(#[from] io::Error),
}

/// Serves one stream until either side ends it, or until its connection gives its place to another before anybody was
/// let in. A connection of many streams says with a [`Stranger`] that this one is not known so far.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: &Peer,
    stream: Stream,
    together: Arc<Together>,
    entry: Arc<Entry>,
    stranger: Option<Stranger>,
) -> Result<(), SessionError> {
    let mut session = Session::new(shared, peer, stream, together, entry.clone());
    let is_alone = stranger.is_none();
    session.stranger = stranger;
    let mut gives_way = pin!(entry.gives_way());
    let result = poll_fn(|context| {
        let is_greeting = matches!(session.state, State::Greeting);
        if is_greeting && gives_way.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(entry.crowded_out().into()));
        }
        session.poll(context)
    })
    .await;
    // A peer that is refused hears what was answered before: what is stored and not said to be is
    // published again.
    if matches!(result, Err(SessionError::Refused(_))) {
        session.say_answers();
    }
    // Whatever happened, topics learn at once that the session is gone, before the goodbye.
    session.handles.end();
    let flooded = |refusal: &Refusal| refusal.code == RefusalCode::Flooding;
    if is_alone || matches!(&result, Err(SessionError::Refused(refusal)) if flooded(refusal)) {
        session.shared.left(&session.together);
    }
    // Nor does what waited for it keep others waiting.
    session.outbox.close();
    (session.heard, session.outgoing) = Default::default();
    match &result {
        Ok(()) => {}
        Err(SessionError::Refused(refusal)) => {
            session.shared.refusals.count(refusal);
            encode(&Frame::Goodbye { refusal: refusal.clone() }, &mut session.write);
        }
        Err(SessionError::Cut(_)) => return result,
    }
    let Session { write, send, recv, read, .. } = &mut session;
    let mut parted = pin!(part(write, &mut **send, &mut **recv, read));
    let mut gives_way = pin!(entry.gives_way());
    // Where its place is another's already, or becomes it meanwhile: what it says it says at once.
    poll_fn(|context| match parted.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => gives_way.as_mut().poll(context),
    })
    .await;
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
    id: SessionId,
    peer: Peer,
    outbox: Arc<Outbox>,
    handles: Handles,
    send: Box<dyn SendStream>,
    recv: Box<dyn RecvStream>,
    decoder: Decoder,
    read: BytesMut,
    /// How much the next read may take.
    read_bytes: usize,
    memory: ReadMemory,
    /// Its publishes wait, at the first of which it stops.
    publishes_wait: bool,
    /// It has stopped there, and there may be whole frames in `read`.
    paused: bool,
    /// What of `read` is counted as half-read, against the node's limit or as free.
    partial: Partial,
    together: Arc<Together>,
    entry: Arc<Entry>,
    half_read: usize,
    write: WriteQueue,
    /// What topics said last, and what of all that is not encoded.
    heard: VecDeque<Outgoing>,
    outgoing: VecDeque<Outgoing>,
    /// Bytes of deliveries in `outgoing`, and whether any were written since there were none.
    outgoing_bytes: usize,
    delivering: bool,
    state: State,
    /// By what it is kept from reading.
    held_back: Option<Hold>,
    stranger: Option<Stranger>,
    tick: Pin<Box<Sleep>>,
    heartbeat: Duration,
    watch: Watch,
    pace: Pace,
}

/// The memory that is being read into.
#[derive(Default)]
struct ReadMemory {
    capacity: usize,
    /// Bytes of publishes that keep it.
    pinned: usize,
}

impl Session {
    fn new(
        shared: Arc<Shared>,
        peer: &Peer,
        stream: Stream,
        together: Arc<Together>,
        entry: Arc<Entry>,
    ) -> Self {
        let (id, outbox) = (shared.new_session(), Outbox::new(together.clone()));
        shared.enter(id, &outbox);
        let settings = &shared.settings;
        Self {
            id,
            handles: Handles::new(
                Standing::new(shared.clone(), together.clone(), peer),
                shared.clone(),
                id,
                outbox.clone(),
            ),
            peer: peer.clone(),
            outbox,
            send: stream.send,
            recv: stream.recv,
            // Whoever has not said who it is has room for that and no more.
            decoder: Decoder::new(FRAME_BYTES_MIN),
            read: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            memory: ReadMemory::default(),
            publishes_wait: false,
            paused: false,
            partial: Partial::default(),
            half_read: 0,
            together,
            entry,
            write: WriteQueue::new(),
            heard: VecDeque::new(),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            delivering: false,
            state: State::Greeting,
            held_back: None,
            stranger: None,
            tick: Box::pin(sleep(settings.hello_timeout)),
            heartbeat: settings.heartbeat,
            watch: Watch::new(),
            pace: Pace::default(),
            shared,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        for _ in 0..TURNS_MAX {
            let mut progress = self.poll_write(context)?;
            match self.poll_read(context)? {
                Read::Some => progress = true,
                Read::Wait => {}
                Read::End => {
                    // What topics said to the last requests goes out.
                    self.poll_write(context)?;
                    return Poll::Ready(Ok(()));
                }
            }
            if !progress && !self.poll_clock(context)? {
                self.rest();
                return Poll::Pending;
            }
        }
        // A peer that never pauses is not without a clock, nor alone.
        self.poll_clock(context)?;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what the outbox holds to the stream, as far as it takes it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<bool, SessionError> {
        let mut progress = self.hear(context)?;
        progress |= self.flush(context)?;
        self.handles.unread().count();
        Ok(progress)
    }

    /// Says what is to be said, as far as the stream takes it.
    fn flush(&mut self, context: &mut Context<'_>) -> Result<bool, SessionError> {
        let mut progress = false;
        loop {
            while self.write.len() < self.shared.settings.answer_bytes_max
                && let Some(outgoing) = self.outgoing.pop_front()
            {
                self.write_out(outgoing);
            }
            if self.write.is_empty() {
                return Ok(progress);
            }
            let before = self.write.len();
            let flushed = self.write.poll_flush(context, &mut *self.send)?;
            if self.write.len() < before {
                progress = true;
                self.handles.unread().sent(before - self.write.len());
                self.pace.sent(before - self.write.len());
                self.watch.sent();
                self.release();
            }
            if flushed.is_pending() {
                self.watch.blocked();
                return Ok(progress);
            }
        }
    }

    /// Takes in what topics said. What follows from it follows now, however long the peer takes
    /// to read it: others may wait for the room that an answer gives back.
    fn hear(&mut self, context: &Context<'_>) -> Result<bool, SessionError> {
        if self.outbox.poll_drain(context, &mut self.heard).is_pending() {
            return Ok(false);
        }
        while let Some(mut outgoing) = self.heard.pop_front() {
            match &mut outgoing {
                Outgoing::Delivery(handle, Delivery { batch, .. }) => {
                    // It is given nothing more than it may have, whether or not it says anything.
                    self.handles.standing().check()?;
                    self.handles.delivered(*handle, batch.records.count() as u64);
                    self.outgoing_bytes += batch.records.byte_len();
                    self.delivering = true;
                }
                Outgoing::Reply(reply) => {
                    if let Reply::SubscriptionClosed { handle, .. }
                    | Reply::SubscribeRefused { handle, .. } = reply
                    {
                        self.outbox.forget(*handle);
                    }
                    if self.handles.replied(reply).is_err() {
                        continue;
                    }
                }
                Outgoing::Own(_) | Outgoing::Answer(_) => {}
                Outgoing::Closing => {
                    let refusal = Refusal::new(RefusalCode::Stopping, "the node is stopping");
                    return Err(refusal.into());
                }
            }
            self.handles.unread().waits(outgoing.held_bytes());
            self.outgoing.push_back(outgoing);
        }
        self.handles.heard();
        Ok(true)
    }

    /// Lets topics deliver again once enough is written.
    fn release(&mut self) {
        if !self.delivering {
            return;
        }
        let unwritten = self.write.len() + self.outgoing_bytes;
        self.delivering = unwritten > 0;
        self.outbox.written(unwritten);
    }

    /// Reads once and hands on all frames that are complete.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<Read, SessionError> {
        let attention = self.poll_room(context);
        self.watch.attend(attention);
        if attention != Attention::Reading {
            return Ok(Read::Wait);
        }
        if !std::mem::take(&mut self.paused) {
            match self.poll_recv(context)? {
                Read::Some => {}
                other => return Ok(other),
            }
        }
        let frames = self.take_frames();
        self.pin();
        self.handles.hand_over();
        self.count_partial(matches!(frames, Ok(true)));
        frames?;
        Ok(Read::Some)
    }

    /// Reads once.
    fn poll_recv(&mut self, context: &mut Context<'_>) -> Result<Read, SessionError> {
        self.make_room()?;
        // What follows on a publish that waits is kept: little of it.
        let max = if self.publishes_wait { READ_BYTES_MIN } else { self.read_bytes };
        let capacity = self.read.capacity();
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
        if self.read.capacity() > capacity {
            self.memory = ReadMemory { capacity: self.read.capacity(), pinned: 0 };
        }
        if self.publishes_wait {
            // It says nothing of how much comes.
        } else if count == max {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if count < max / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Ok(Read::Some)
    }

    /// Whether to read now; if not, what is waited for wakes this task.
    fn poll_room(&mut self, context: &Context<'_>) -> Attention {
        let (hold, attention) = if self.write.len() >= self.shared.settings.answer_bytes_max {
            (Some(Hold::AnswerBytes), Attention::Behind)
        } else if let Err(hold) = self.poll_handles_room(context) {
            (Some(hold), Attention::Behind)
        } else if self.shared.partials.poll_room(&self.partial, context).is_pending() {
            (Some(Hold::PartialBytesTotal), Attention::Crowded)
        } else {
            (None, Attention::Reading)
        };
        if let Some(hold) = hold
            && self.held_back != Some(hold)
        {
            self.shared.holds.count(hold);
        }
        self.held_back = hold;
        attention
    }

    /// What a peer says to its deliveries makes room, and is not to wait for room itself: it is read while
    /// publishes wait, until there is one of them before it.
    fn poll_handles_room(&mut self, context: &Context<'_>) -> Result<(), Hold> {
        let room = self.handles.poll_room(context);
        self.publishes_wait = room.is_err_and(Hold::is_of_publishes);
        if self.publishes_wait && !self.decoder.is_publish(&self.read) { Ok(()) } else { room }
    }

    /// Says whether there was any.
    fn take_frames(&mut self) -> Result<bool, SessionError> {
        let mut any = false;
        loop {
            if self.publishes_wait && self.decoder.is_publish(&self.read) {
                self.paused = true;
                break;
            }
            let frame = self.decoder.decode(&mut self.read).map_err(|error| undecodable(&error))?;
            let Some(frame) = frame else { break };
            any = true;
            self.handles.standing().check()?;
            let opens = matches!(frame, Frame::OpenProducer { .. });
            self.handle(frame)?;
            self.publishes_wait |= opens && self.handles.is_crowded();
        }
        self.watch.received(any, !self.read.is_empty());
        Ok(any)
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
            Frame::Ping { nonce } => {
                self.handles.standing().futile("a ping");
                let before = self.write.len();
                encode(&Frame::Pong { nonce }, &mut self.write);
                self.handles.unread().said(self.write.len() - before, self.write.len());
            }
            Frame::Pong { .. } => self.handles.standing().futile("a pong"),
            frame => self.handles.handle(frame)?,
        }
        Ok(())
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), SessionError> {
        greeting::check_version(hello)?;
        self.handles.standing().may_begin()?;
        let known = self.stranger.as_ref().and_then(Stranger::known);
        let grant = self.shared.admit(&self.peer, hello.token.as_deref(), known)?;
        let settings = &self.shared.settings;
        self.heartbeat = greeting::check_limits(hello, settings)?;
        self.entry.welcomed()?;
        self.state = State::Open { frame_bytes_max: hello.frame_bytes_max };
        self.decoder = Decoder::new(settings.frame_bytes_max);
        let next = Instant::now() + self.tick_pause();
        self.tick.as_mut().reset(next);
        let welcome = greeting::welcome(settings, self.shared.instance, self.heartbeat);
        encode(&Frame::Welcome(welcome), &mut self.write);
        debug!(peer = %self.peer.address, client = hello.client, who = grant.who(), "hello");
        if let Some(stranger) = self.stranger.take() {
            stranger.welcome(&grant);
        }
        self.handles.standing().admitted(grant);
        Ok(())
    }

    /// Everything that happens because time passes. Says whether there is something to write now.
    fn poll_clock(&mut self, context: &mut Context<'_>) -> Result<bool, SessionError> {
        let mut pinged = false;
        while self.tick.as_mut().poll(context).is_ready() {
            pinged |= self.tick()?;
        }
        Ok(pinged)
    }

    fn tick(&mut self) -> Result<bool, Refusal> {
        let settings = &self.shared.settings;
        if matches!(self.state, State::Greeting) {
            let detail = format!("no hello came within {:?}", settings.hello_timeout);
            return Err(Refusal::new(RefusalCode::PeerTimeout, detail));
        }
        self.handles.standing().check()?;
        self.outbox.nudge();
        let (stretch, most) = (settings.answer_bytes_max, settings.slow_read_timeout());
        if self.pace.behind(self.write.len(), stretch) >= most {
            let detail = format!("less than {stretch} bytes of what waits were read in {most:?}");
            return Err(Refusal::new(RefusalCode::PeerTimeout, detail));
        }
        let nonce = self.watch.tick(self.heartbeat, settings.stall_timeout)?;
        let pause = self.tick_pause();
        self.tick.as_mut().reset(Instant::now() + pause);
        let quiet = self.write.is_empty();
        if quiet {
            encode(&Frame::Ping { nonce }, &mut self.write);
        }
        Ok(quiet)
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
        let left = self.read.len();
        if (1..=self.short_bytes_max()).contains(&left) {
            let allocated = self.memory.capacity.max(self.read.capacity());
            if allocated > 2 * left + READ_BYTES_MIN {
                // The rest may take long to come, and was read with much that is gone.
                self.read = BytesMut::from(&self.read[..]);
                self.memory = ReadMemory { capacity: self.read.capacity(), pinned: 0 };
            }
            self.count_short(self.memory.capacity.max(self.read.capacity()));
        }
        if self.write.is_empty() {
            self.write.shrink();
            for queue in [&mut self.heard, &mut self.outgoing] {
                if queue.is_empty() && queue.capacity() > OUTGOING_KEPT {
                    *queue = VecDeque::new();
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.partials.set(&mut self.partial, 0);
        self.together.half_read(self.half_read, 0);
        self.shared.leave(self.id);
        self.outbox.close();
    }
}

enum Read {
    Some,
    Wait,
    End,
}

/// Turns after which the task lets others run.
const TURNS_MAX: usize = 16;
/// The first read of a stream, and the least.
const READ_BYTES_MIN: usize = 16 << 10;
/// The most that one read takes: beyond it larger reads save no more system calls worth having.
const READ_BYTES_MAX: usize = 256 << 10;
/// Room for this many entries is kept while the session rests.
const OUTGOING_KEPT: usize = 4;
