//! What a producer has taken and not yet answered for: under which sequences it was sent, what
//! became of it, and what is to be sent next. No IO, no clock.

mod answers;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use ltq_core::{Message, Records, Refusal, RefusalCode};
use tokio::time::Instant;

use super::{
    calls::{Answer, Calls, Failure},
    chunks::Chunks,
    elsewhere::Elsewhere,
    room::Room,
};
use crate::UnknownCause;

/// The unanswered messages of one producer.
///
/// Messages are named by their *position*, the n-th that was ever taken, until they are sent; a
/// *sequence* is given to a message when it is first sent, and stays with it for as long as the
/// broker may have seen it. The broker takes sequences only without a gap, so what was sent is a
/// list of frames with sequences that count up, answered from the front.
///
/// When the broker refuses a message, everything that was sent behind it comes back as a gap:
/// nothing of it happened. The window then waits until all that was sent is answered, and sends
/// what came back again, under new sequences and in order.
///
/// `R` is whatever the answer to one call goes to.
#[derive(Debug)]
pub(super) struct Window<R> {
    calls: Calls<R>,
    chunks: Chunks,
    /// Withdrawn messages that were never sent, from (inclusive) to (exclusive).
    holes: BTreeMap<u64, u64>,
    /// Sent and not answered.
    frames: VecDeque<SentFrame>,
    /// Refusals of frames behind ones that are not answered yet, by sequence: how many messages
    /// and why. A broker may refuse at its door while what came before is on its way to the store.
    early: BTreeMap<u64, (u64, Refusal)>,
    /// How many of `frames` were sent on the connection that is up now.
    repeated: usize,
    /// The first position that was never sent, or came back.
    cursor: u64,
    is_open: bool,
    /// The sequence of the next message that is sent for the first time.
    next_sequence: u64,
    /// The last sequence that the broker is known to have stored.
    stored_through: u64,
    /// The last sequence of which the broker did not know whether it is stored, until it does.
    unknown_through: Option<u64>,
    /// A message was refused, and what was sent behind it is not all answered.
    recovering: bool,
    ended: Option<Failure>,
    linger_until: Option<Instant>,
    answered_bytes: u64,
    /// What of that which fails here another producer may publish.
    elsewhere: Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SentFrame {
    sequence: u64,
    position: u64,
    count: u64,
    bytes: u64,
}

impl SentFrame {
    const fn end_sequence(&self) -> u64 {
        self.sequence + self.count
    }
}

/// What one frame may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    /// Bytes of records.
    pub(crate) bytes: usize,
    /// Bytes of one encoded message.
    pub(crate) message_bytes: usize,
}

/// The broker broke the protocol; the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl<R> Window<R> {
    pub(super) fn new(elsewhere: Elsewhere) -> Self {
        Self {
            calls: Calls::default(),
            chunks: Chunks::default(),
            holes: BTreeMap::new(),
            frames: VecDeque::new(),
            early: BTreeMap::new(),
            repeated: 0,
            cursor: 0,
            is_open: false,
            next_sequence: 1,
            stored_through: 0,
            unknown_through: None,
            recovering: false,
            ended: None,
            linger_until: None,
            answered_bytes: 0,
            elsewhere,
        }
    }

    /// Calls that are not answered.
    pub(super) const fn pending(&self) -> usize {
        self.calls.pending()
    }

    /// Whether messages were sent that are not answered, be it that their calls are.
    pub(super) fn is_anything_sent(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Whether the broker knows the producer on the connection that is up now.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether something came back that is not sent anew before all is answered.
    pub(super) const fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Why nothing more is taken, if so.
    pub(super) const fn ended(&self) -> Option<&Failure> {
        self.ended.as_ref()
    }

    /// The answers since the last time, and the room that is free again.
    pub(super) fn take_answers(&mut self) -> (Vec<Answer<R>>, Room) {
        self.calls.take()
    }

    /// Bytes of frames that were answered since the last time.
    pub(super) const fn take_answered_bytes(&mut self) -> u64 {
        std::mem::replace(&mut self.answered_bytes, 0)
    }

    /// Takes one message. It may be held back until `linger_until` so that others join it.
    pub(super) fn push(
        &mut self,
        message: &Message,
        room: Room,
        deadline: Instant,
        linger_until: Option<Instant>,
        reply: R,
    ) {
        if self.chunks.open().is_none() {
            self.linger_until = linger_until;
        }
        self.calls.push(self.chunks.end(), 1, room, deadline, reply);
        self.chunks.push(message);
    }

    /// Takes messages that are encoded already, as one call. None at all is a barrier: it is
    /// answered once everything before it is, with the first failure since the last barrier.
    pub(super) fn push_records(
        &mut self,
        records: impl IntoIterator<Item = Records>,
        room: Room,
        deadline: Instant,
        reply: R,
    ) {
        self.chunks.close();
        let position = self.chunks.end();
        for records in records {
            self.chunks.push_records(records);
        }
        self.calls.push(position, self.chunks.end() - position, room, deadline, reply);
    }

    /// The next frame to send: the first sequence and the messages.
    pub(super) fn poll_frame(
        &mut self,
        now: Instant,
        limits: FrameLimits,
    ) -> Option<(u64, Records)> {
        if !self.is_open {
            return None;
        }
        if let Some(frame) = self.repeat(limits) {
            return Some(frame);
        }
        loop {
            if self.recovering || self.ended.is_some() {
                return None;
            }
            self.skip_holes();
            if self.chunks.open().is_some_and(|open_at| open_at <= self.cursor) {
                if self.linger_until.is_some_and(|until| now < until) {
                    return None;
                }
                self.chunks.close();
                self.linger_until = None;
            }
            let end = self.holes.range(self.cursor..).next().map_or(u64::MAX, |hole| *hole.0);
            let records = self.chunks.get(self.cursor, end)?;
            let mut records = records.slice(0..records.fitting(0, usize::MAX, limits.bytes));
            if let Some(index) = too_large(&records, limits) {
                if index == 0 {
                    self.refuse_at_cursor(&records.slice(0..1), limits);
                    continue;
                }
                records = records.slice(0..index);
            }
            let (sequence, count) = (self.next_sequence, records.count() as u64);
            let bytes = publish_bytes(&records);
            self.frames.push_back(SentFrame { sequence, position: self.cursor, count, bytes });
            self.repeated = self.frames.len();
            self.next_sequence += count;
            self.cursor += count;
            return Some((sequence, records));
        }
    }

    /// The next of the frames that were sent on an earlier connection.
    fn repeat(&mut self, limits: FrameLimits) -> Option<(u64, Records)> {
        let frame = *self.frames.get(self.repeated)?;
        let records = self.chunks.get(frame.position, frame.position + frame.count);
        let Some(records) = records.filter(|r| too_large(&r.slice(0..1), limits).is_none()) else {
            // This broker takes smaller messages than it did.
            self.forget_frames(&UnknownCause::Forgotten);
            return None;
        };
        let records = records.slice(0..records.fitting(0, usize::MAX, limits.bytes));
        let records = match too_large(&records, limits) {
            Some(index) => records.slice(0..index),
            None => records,
        };
        self.split_frame(self.repeated, records.count() as u64);
        if let Some(frame) = self.frames.get_mut(self.repeated) {
            frame.bytes = publish_bytes(&records);
        }
        self.repeated += 1;
        Some((frame.sequence, records))
    }

    /// Cuts a frame in two after so many messages, unless that is none or all of them.
    fn split_frame(&mut self, index: usize, count: u64) {
        let Some(frame) = self.frames.get_mut(index) else { return };
        if count == 0 || count >= frame.count {
            return;
        }
        let rest = SentFrame {
            sequence: frame.sequence + count,
            position: frame.position + count,
            count: frame.count - count,
            bytes: 0,
        };
        frame.count = count;
        self.frames.insert(index + 1, rest);
    }

    /// The producer is open under a connection. `resumed` says that the broker knows it as the one
    /// that it was; `last_sequence` is the last that is stored under its name.
    pub(super) fn handle_opened(
        &mut self,
        resumed: bool,
        last_sequence: u64,
    ) -> Result<(), Violation> {
        if last_sequence > SEQUENCE_MAX {
            return Err(Violation("a last sequence that leaves no room for more"));
        }
        if let (Some(first), Some(last)) = (self.frames.front(), self.frames.back()) {
            let last = last.end_sequence() - 1;
            let forgotten = !resumed || last_sequence + 1 < first.sequence;
            // Numbers that were given twice tell nothing about the second message.
            let ambiguous = self.unknown_through.is_some_and(|through| first.sequence <= through);
            if forgotten || ambiguous {
                self.forget_frames(&UnknownCause::Forgotten);
            } else {
                // Repeats and new messages never share a frame.
                let end = self.frames.partition_point(|f| f.end_sequence() <= last_sequence + 1);
                if let Some(across) = self.frames.get(end) {
                    self.split_frame(end, (last_sequence + 1).saturating_sub(across.sequence));
                }
                self.next_sequence = last_sequence.max(last) + 1;
            }
        }
        if self.frames.is_empty() {
            self.next_sequence = last_sequence + 1;
        }
        self.is_open = true;
        self.repeated = 0;
        self.stored_through = last_sequence;
        if !resumed || self.unknown_through.is_some_and(|through| through <= last_sequence) {
            self.unknown_through = None;
        }
        Ok(())
    }

    /// The connection is gone, or the broker has the producer open no longer.
    pub(super) fn handle_cut(&mut self) {
        self.is_open = false;
        self.expect_no_answers();
        self.early.clear();
        if self.ended.is_some() || (self.recovering && self.unknown_through.is_some()) {
            self.forget_frames(&UnknownCause::ConnectionLost);
        } else if self.recovering {
            // What is left was sent behind a refused message: nothing of it happened, but for what an
            // earlier connection had stored.
            while let Some(frame) = self.frames.pop_front() {
                if frame.sequence <= self.stored_through {
                    let unknown = Failure::Unknown(UnknownCause::ConnectionLost);
                    self.fail(frame.position, frame.count, &unknown);
                }
            }
            self.recover();
        }
    }

    /// Gives up everything that was sent: nobody will tell what became of it.
    fn forget_frames(&mut self, cause: &UnknownCause) {
        self.expect_no_answers();
        while let Some(frame) = self.frames.pop_front() {
            self.fail(frame.position, frame.count, &Failure::Unknown(cause.clone()));
        }
        self.early.clear();
        self.recover();
        self.release();
    }

    /// Nothing that was sent on this connection will be answered any more.
    pub(super) fn expect_no_answers(&mut self) {
        let sent = self.frames.iter().take(self.repeated);
        self.answered_bytes += sent.map(|frame| frame.bytes).sum::<u64>();
        self.repeated = 0;
    }

    /// The broker refused the producer, and with it everything that was sent and not answered.
    fn refuse_frames(&mut self, refusal: &Refusal) {
        self.expect_no_answers();
        while let Some(frame) = self.frames.pop_front() {
            // An earlier connection's, and stored: only its repeat was refused.
            let failure = match frame.sequence <= self.stored_through {
                true => Failure::Unknown(UnknownCause::Broker(refusal.clone())),
                false => Failure::of(refusal),
            };
            self.fail(frame.position, frame.count, &failure);
        }
        self.early.clear();
        self.recover();
    }

    /// The broker ended the producer, or the client did: nothing more is taken or sent.
    pub(super) fn handle_ended(&mut self, failure: &Failure) {
        if self.ended.is_none() {
            self.ended = Some(failure.clone());
        }
        match failure {
            Failure::Refused(refusal) if self.is_open => self.refuse_frames(refusal),
            _ => self.forget_frames(&UnknownCause::ConnectionLost),
        }
        self.fail(self.cursor, u64::MAX, failure);
        self.is_open = false;
        self.cursor = self.chunks.end();
        self.release();
    }

    /// Answers every call now, what was sent with `cause`. Nothing is sent any more.
    pub(super) fn abandon(&mut self, cause: &UnknownCause) {
        self.forget_frames(cause);
        self.handle_ended(&Failure::Closed);
        self.fail(0, u64::MAX, &Failure::Closed);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then
    /// [`poll_frame`](Self::poll_frame).
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let linger = self.linger_until.filter(|_| self.chunks.open().is_some());
        self.calls.earliest().into_iter().chain(linger).min()
    }

    /// Answers the calls whose time is up. Messages that were not sent are withdrawn; those that
    /// were keep their place, because others were numbered behind them.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.linger_until.is_some_and(|until| until <= now) {
            self.linger_until = None;
        }
        let holes = &mut self.holes;
        self.calls.expire(now, self.cursor, |hole| {
            holes.insert(hole.start, hole.end);
        });
        self.release();
    }

    /// Answers every call of which nothing is on its way: it was never sent, or came back.
    pub(super) fn withdraw(&mut self) {
        let frames = &self.frames;
        let on_its_way = |call: &Range<u64>| {
            let next = frames.partition_point(|frame| frame.position + frame.count <= call.start);
            frames.get(next).is_some_and(|frame| frame.position < call.end)
        };
        let unsent: Vec<_> = self.calls.unanswered().filter(|call| !on_its_way(call)).collect();
        for call in unsent {
            self.fail(call.start, call.end - call.start, &Failure::Closed);
        }
        self.release();
    }

    fn fail(&mut self, position: u64, count: u64, failure: &Failure) {
        let (holes, chunks) = (&mut self.holes, &mut self.chunks);
        let goes_on = self.elsewhere.takes(failure);
        if goes_on {
            chunks.close();
        }
        let hole = |hole: Range<u64>| {
            holes.insert(hole.start, hole.end);
        };
        let keep = |left| if goes_on { chunks.copy(left) } else { None };
        self.calls.fail(position, count, self.cursor, failure, hole, keep);
    }

    /// Refuses the message at the cursor, and its call, before it is sent.
    fn refuse_at_cursor(&mut self, message: &Records, limits: FrameLimits) {
        let (bytes, limit) = (message.largest(), limits.message_bytes.min(limits.bytes));
        self.fail(self.cursor, 1, &Failure::Refused(message_too_large(bytes, limit)));
        self.release();
    }

    fn skip_holes(&mut self) {
        while let Some((_, end)) = self.holes.range(..=self.cursor).next_back() {
            if *end <= self.cursor {
                return;
            }
            self.cursor = *end;
        }
    }

    /// Forgets what is settled.
    fn release(&mut self) {
        let end = self.chunks.end();
        let low = self.calls.low().unwrap_or(end);
        let low = self.frames.front().map_or(low, |frame| frame.position.min(low));
        if low >= end {
            self.chunks.close();
        }
        self.chunks.release(low);
        while let Some(hole) = self.holes.first_entry().filter(|hole| *hole.get() <= low) {
            self.cursor = self.cursor.max(*hole.get());
            hole.remove();
        }
    }
}

/// A refusal of the client's own, in the broker's words.
pub(super) fn message_too_large(bytes: usize, limit: usize) -> Refusal {
    let detail = format!("a message of {bytes} bytes encoded; the limit is {limit}");
    Refusal::new(RefusalCode::MessageTooLarge, detail)
}

/// What a publish counts of what the broker lets a stream have unconfirmed.
pub(crate) fn publish_bytes(records: &Records) -> u64 {
    (records.byte_len() + PUBLISH_BYTES) as u64
}

/// The first message that is larger than allowed.
fn too_large(records: &Records, limits: FrameLimits) -> Option<usize> {
    if records.largest() <= limits.message_bytes && records.byte_len() <= limits.bytes {
        return None;
    }
    (0..records.count()).find(|index| {
        let one = records.slice(*index..*index + 1);
        one.largest() > limits.message_bytes || one.byte_len() > limits.bytes
    })
}

/// What each publish counts beside its records, as the protocol says.
const PUBLISH_BYTES: usize = 256;
/// Sequences above this are a broken broker's: at a billion a second the rest lasts a century.
const SEQUENCE_MAX: u64 = u64::MAX / 2;

#[cfg(test)]
mod tests;
