//! What a producer's handles and the connection's task share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ltq_core::{
    Durability, Message, ProducerName, Records, Refusal, RefusalCode, TopicName,
    model::SequenceRange, protocol::Frame,
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    calls::{Answer, Failure},
    elsewhere::Elsewhere,
    lent::{Done, Stored},
    receipt::{BatchReceipt, Receipt},
    room::{NoRoom, Permits, Room, Rooms},
    window::{FrameLimits, Violation, Window},
};
use crate::{
    BatchError, PublishError, UnknownCause,
    cluster::{Behalf, Errand},
    connection::{Hub, Opening, Place, Ready},
};

/// How a producer was asked to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) topic: TopicName,
    pub(crate) name: ProducerName,
    /// The name is the client's and not the user's, and nobody comes back under it.
    pub(crate) auto_name: bool,
    pub(crate) durability: Option<Durability>,
    pub(crate) timeout: Duration,
    pub(crate) linger: Duration,
}

pub(crate) struct ProducerShared {
    pub(crate) handle: u32,
    pub(crate) place: Place,
    pub(super) settings: Settings,
    hub: Arc<Hub>,
    rooms: Arc<Rooms>,
    /// For whom it works; nobody but its own handles mostly.
    behalf: Option<Arc<Behalf>>,
    pub(super) last_sequence: AtomicU64,
    core: Mutex<Core>,
}

struct Core {
    window: Window<Reply>,
    /// The connection's task knows that there is something to send.
    queued: bool,
    opening: Opening,
    /// Under which server and epoch a broker knows it.
    identity: Option<(String, u64)>,
    /// The handles are gone: to be closed once every call is answered.
    closing: bool,
    /// Takes nothing for a while.
    is_resting: bool,
}

/// Where the answer to one call goes.
#[derive(Debug)]
pub(super) enum Reply {
    One(oneshot::Sender<Result<Receipt, PublishError>>),
    Batch(oneshot::Sender<Result<BatchReceipt, BatchError>>),
    Flush(oneshot::Sender<Result<(), PublishError>>),
    /// To whom it works for.
    Errand(Errand),
}

/// What a caller does when its message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It waits for the answer.
    Wait,
    /// It may bring more.
    More,
}

impl ProducerShared {
    pub(super) fn new(
        hub: Arc<Hub>,
        settings: Settings,
        opening: Opening,
        rooms: Arc<Rooms>,
        behalf: Option<Arc<Behalf>>,
    ) -> Self {
        let elsewhere = behalf.as_ref().map_or(Elsewhere::Nothing, |behalf| behalf.elsewhere());
        Self {
            handle: hub.next_handle(),
            place: Place::nowhere(),
            rooms,
            behalf,
            settings,
            hub,
            last_sequence: AtomicU64::new(0),
            core: Mutex::new(Core {
                window: Window::new(elsewhere),
                queued: false,
                opening,
                identity: None,
                closing: false,
                is_resting: false,
            }),
        }
    }

    /// Waits for room, in turn with everybody else who does.
    pub(super) async fn room(
        &self,
        deadline: Instant,
        messages: usize,
        bytes: usize,
    ) -> Result<Permits<'_>, PublishError> {
        let permits = self.rooms.take(deadline, messages, bytes).await;
        permits.map_err(|no| match no {
            NoRoom::Late => self.error(&Failure::NotSent),
            NoRoom::Closed => self.closed(),
        })
    }

    pub(super) fn push(
        &self,
        message: &Message,
        permits: Permits<'_>,
        deadline: Instant,
        linger_until: Option<Instant>,
        reply: Reply,
        then: Then,
    ) -> Result<(), PublishError> {
        self.with_window(permits, then, |window, room| {
            window.push(message, room, deadline, linger_until, reply);
        })
    }

    pub(super) fn push_records(
        &self,
        records: impl IntoIterator<Item = Records>,
        permits: Permits<'_>,
        deadline: Instant,
        reply: Reply,
    ) -> Result<(), PublishError> {
        self.with_window(permits, Then::More, |window, room| {
            window.push_records(records, room, deadline, reply);
        })
    }

    fn with_window(
        &self,
        permits: Permits<'_>,
        then: Then,
        push: impl FnOnce(&mut Window<Reply>, Room),
    ) -> Result<(), PublishError> {
        self.put(permits, then, |window, permits| push(window, permits.keep()))
            .map_err(|(failure, _)| self.error(&failure))
    }

    /// Puts something in the window, and sees to it that it is sent; gives it back where nothing is
    /// taken.
    pub(super) fn put<W>(
        &self,
        what: W,
        then: Then,
        push: impl FnOnce(&mut Window<Reply>, W),
    ) -> Result<(), (Failure, W)> {
        let mut core = self.core.lock();
        if let Some(failure) = core.window.ended() {
            return Err((failure.clone(), what));
        }
        if core.is_resting {
            return Err((Failure::Closed, what));
        }
        // The task keeps time for as long as a call is unanswered, and no longer.
        let is_timed = core.window.pending() > 0;
        push(&mut core.window, what);
        let wake = !std::mem::replace(&mut core.queued, true);
        self.finish(core);
        match then {
            _ if !wake && is_timed => {}
            _ if !wake => self.hub.watch(self.handle),
            Then::Wait => self.hub.ready_alone(self),
            Then::More => self.hub.ready(Ready::Producer(self.handle)),
        }
        Ok(())
    }

    fn closed(&self) -> PublishError {
        let core = self.core.lock();
        self.error(core.window.ended().unwrap_or(&Failure::Closed))
    }

    /// Puts a failure in the words of the caller.
    pub(super) fn error(&self, failure: &Failure) -> PublishError {
        let topic = self.settings.topic.clone();
        let after = self.settings.timeout;
        match failure.clone() {
            Failure::Refused(refusal) => PublishError::Refused { topic, refusal },
            Failure::NotSent => PublishError::TimedOut { topic, after },
            Failure::Closed => PublishError::Closed { topic },
            Failure::Unknown(cause) => PublishError::Unknown { topic, cause },
            Failure::Late => {
                PublishError::Unknown { topic, cause: UnknownCause::TimedOut { after } }
            }
        }
    }

    /// Unlocks, answers the calls that have come to their end, and lets others have their room.
    fn finish(&self, mut core: parking_lot::MutexGuard<'_, Core>) {
        let (answers, freed) = core.window.take_answers();
        drop(core);
        let is_news = !answers.is_empty() || freed != Room::default();
        for answer in answers {
            self.answer(answer);
        }
        self.rooms.give_back(freed);
        if is_news && let Some(behalf) = &self.behalf {
            behalf.answered(freed);
        }
    }

    fn answer(&self, answer: Answer<Reply>) {
        if let Reply::Errand(errand) = answer.reply {
            let Answer { stored: ranges, durability, failure, rest, .. } = answer;
            let topic = self.settings.topic.clone();
            let stored = Stored { topic, ranges, durability };
            return self.answer_errand(errand, Done { stored, failure, rest });
        }
        let error = answer.failure.as_ref().map(|failure| self.error(failure));
        // Whoever does not wait for an answer any more does not need it.
        match answer.reply {
            Reply::One(reply) => drop(reply.send(match (error, answer.stored.first) {
                (None, Some(range)) => Ok(Receipt {
                    topic: self.settings.topic.clone(),
                    offset: range.offset,
                    sequence: range.sequence,
                    durability: answer.durability,
                }),
                (error, _) => Err(error.unwrap_or_else(|| self.error(&Failure::Closed))),
            })),
            Reply::Batch(reply) => {
                let stored = BatchReceipt {
                    topic: self.settings.topic.clone(),
                    ranges: answer.stored.into_vec(),
                    durability: answer.durability,
                };
                drop(reply.send(match error {
                    None => Ok(stored),
                    Some(error) => Err(BatchError { stored, error }),
                }));
            }
            Reply::Flush(reply) => drop(reply.send(error.map_or(Ok(()), Err))),
            Reply::Errand(_) => {}
        }
    }
}

/// What the connection's task does with it.
impl ProducerShared {
    pub(crate) const fn topic(&self) -> &TopicName {
        &self.settings.topic
    }

    /// The request to open it at this server, unless it is over.
    pub(crate) fn open_frame(&self, server: &str) -> Option<Frame> {
        let mut core = self.core.lock();
        if core.window.ended().is_some() {
            return None;
        }
        core.opening.sent();
        let epoch =
            core.identity.as_ref().filter(|(known, _)| known == server).map(|known| known.1);
        drop(core);
        if let Some(behalf) = &self.behalf {
            behalf.opened(server);
        }
        let Settings { topic, name, .. } = &self.settings;
        Some(Frame::OpenProducer {
            handle: self.handle,
            topic: topic.clone(),
            name: Some(name.clone()),
            epoch,
        })
    }

    pub(crate) fn handle_opened(
        &self,
        server: &str,
        epoch: u64,
        last_sequence: u64,
    ) -> Result<(), Violation> {
        let mut core = self.core.lock();
        if !core.opening.is_asked() {
            return Err(Violation("a producer was opened that was not to be"));
        }
        let resumed =
            core.identity.as_ref().is_some_and(|known| known.0 == server && known.1 == epoch);
        core.identity = Some((server.to_owned(), epoch));
        core.window.handle_opened(resumed, last_sequence)?;
        if core.opening.is_first() {
            self.last_sequence.store(last_sequence, Ordering::Relaxed);
        }
        core.opening.answer(Ok(()));
        self.finish(core);
        Ok(())
    }

    /// It is not open, or not any more. Returns when to ask again.
    pub(crate) fn handle_open_refused(&self, refusal: &Refusal) -> Again {
        let mut core = self.core.lock();
        if !core.opening.is_asked() && !core.window.is_open() {
            return Again::Never;
        }
        if !core.opening.is_first() || refusal.code == RefusalCode::Stopping {
            // A broker that forgot it wants it to begin anew.
            let forgotten = core.opening.is_asked()
                && refusal.code == RefusalCode::OutOfRange
                && core.identity.take().is_some();
            if forgotten || passes(refusal.code) {
                core.opening.again();
                core.window.handle_cut();
                self.finish(core);
                if !forgotten && let Some(behalf) = &self.behalf {
                    behalf.refused(refusal);
                }
                return if forgotten { Again::Now } else { Again::Later };
            }
        }
        let refusal = self.told(refusal);
        core.opening.answer(Err(refusal.clone()));
        core.window.handle_ended(&Failure::Refused(refusal));
        self.finish(core);
        self.close_rooms();
        Again::Never
    }

    pub(crate) fn handle_confirmed(
        &self,
        ranges: &[SequenceRange],
        durability: Durability,
    ) -> Result<u64, Violation> {
        let mut core = self.core.lock();
        let result = core.window.handle_confirmed(ranges, durability);
        self.after_answers(core, result)
    }

    /// A refusal as it is told: a producer that is fenced by one that works for the same one has nothing
    /// wrong with it, and what it has goes to that other one.
    fn told(&self, refusal: &Refusal) -> Refusal {
        let is_fenced = refusal.code == RefusalCode::Fenced;
        match self.behalf.as_ref().filter(|_| is_fenced) {
            Some(behalf) if behalf.is_fenced_by_twin() => {
                Refusal::new(RefusalCode::Internal, "the node is listed twice")
            }
            _ => refusal.clone(),
        }
    }

    pub(crate) fn handle_publish_refused(
        &self,
        sequence: u64,
        count: u64,
        refusal: &Refusal,
    ) -> Result<u64, Violation> {
        let refusal = self.told(refusal);
        let mut core = self.core.lock();
        let is_stopping = refusal.code == RefusalCode::Stopping;
        let draining = (refusal.code == RefusalCode::Draining).then(|| refusal.clone());
        let result = core.window.handle_refused(sequence, count, refusal);
        if core.is_resting && !core.window.is_recovering() {
            // What came back is not sent there again.
            core.window.withdraw();
        }
        let result = self.after_answers(core, result);
        if let Some(behalf) = &self.behalf {
            // What comes back for that waits in the window.
            match draining {
                Some(refusal) => behalf.refused(&refusal),
                None if is_stopping => behalf.look_here(),
                None => {}
            }
        }
        result
    }

    fn after_answers(
        &self,
        mut core: parking_lot::MutexGuard<'_, Core>,
        result: Result<(), Violation>,
    ) -> Result<u64, Violation> {
        let answered_bytes = core.window.take_answered_bytes();
        self.finish(core);
        result.map(|()| answered_bytes)
    }

    /// The next frame to send. Without one the producer waits until it says that it is ready.
    pub(crate) fn poll_frame(&self, now: Instant, limits: FrameLimits) -> Option<Frame> {
        let mut core = self.core.lock();
        let frame = core.window.poll_frame(now, limits);
        if frame.is_none() {
            core.queued = false;
        }
        self.finish(core);
        frame.map(|(sequence, records)| Frame::Publish {
            handle: self.handle,
            sequence,
            durability: self.settings.durability,
            records,
        })
    }

    /// Bytes of publishes that are answered, or will not be, since the last time.
    pub(crate) fn take_answered_bytes(&self) -> u64 {
        self.core.lock().window.take_answered_bytes()
    }

    pub(crate) fn handle_timeout(&self, now: Instant) {
        let mut core = self.core.lock();
        core.window.handle_timeout(now);
        self.finish(core);
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.core.lock().window.next_timeout()
    }

    pub(crate) fn handle_cut(&self) {
        let mut core = self.core.lock();
        core.opening.again();
        core.queued = false;
        core.window.handle_cut();
        // The next connection begins with none.
        core.window.take_answered_bytes();
        self.finish(core);
    }

    /// Takes nothing more; what was taken is still sent and answered.
    pub(crate) fn close(&self) {
        self.core.lock().closing = true;
        self.close_rooms();
    }

    /// Whether it was closed and has nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        let core = self.core.lock();
        core.closing && core.window.pending() == 0
    }

    /// The request to close it, which is made once everything is answered.
    pub(crate) fn close_frame(&self) -> Frame {
        Frame::CloseProducer { handle: self.handle, forget: self.settings.auto_name }
    }

    /// Whether the broker knows it on the connection that is up now.
    pub(crate) fn is_known(&self) -> bool {
        let core = self.core.lock();
        core.opening.is_asked() || (core.window.is_open() && core.window.ended().is_none())
    }

    /// Whether the connection's task knows that there is something to send, or would if it were up.
    pub(crate) fn is_queued(&self) -> bool {
        self.core.lock().queued
    }

    /// Whether it is to be told from now on that it may send, and was not before.
    pub(crate) fn mark_ready(&self) -> bool {
        !std::mem::replace(&mut self.core.lock().queued, true)
    }

    /// The largest message that the broker takes, as far as is known.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.hub.message_bytes_max()
    }

    /// Calls that are not answered.
    pub(crate) fn pending(&self) -> usize {
        self.core.lock().window.pending()
    }

    /// Answers everything now: there will be no connection any more.
    pub(crate) fn abandon(&self) {
        self.end(&UnknownCause::Closed);
    }

    /// Answers everything now, what was sent with `cause`, and sends nothing more.
    pub(super) fn end(&self, cause: &UnknownCause) {
        let mut core = self.core.lock();
        core.opening.abandon();
        core.window.abandon(cause);
        // Nobody takes word of it any more.
        core.queued = true;
        self.finish(core);
        self.close_rooms();
    }
}

/// What a cluster's producer has it do.
impl ProducerShared {
    pub(super) fn behalf(&self) -> Option<&Behalf> {
        self.behalf.as_deref()
    }

    /// Takes nothing more, and answers every call of which nothing is on its way.
    pub(super) fn rest(&self) {
        let mut core = self.core.lock();
        core.is_resting = true;
        core.window.withdraw();
        self.finish(core);
    }

    pub(super) fn wake(&self) {
        self.core.lock().is_resting = false;
    }

    /// Whether it takes nothing ever again.
    pub(super) fn is_over(&self) -> bool {
        self.core.lock().window.ended().is_some()
    }

    /// Nobody gets room any more, unless others share it.
    fn close_rooms(&self) {
        if self.behalf.is_none() {
            self.rooms.close();
        }
    }
}

/// When to ask again for what was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Now,
    Later,
    Never,
}

/// Whether a broker that refuses for this reason may do so no longer after a while.
pub(crate) const fn passes(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::StoreFull
            | RefusalCode::StoreFailed
            | RefusalCode::OutcomeUnknown
            | RefusalCode::LimitReached
            | RefusalCode::Stopping
            | RefusalCode::Draining
            | RefusalCode::Internal
    )
}
