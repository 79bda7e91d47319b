//! What the connection's task does with a producer.

use std::{mem, sync::atomic::Ordering};

use ltq_core::{
    Durability, Refusal, RefusalCode, TopicName,
    model::SequenceRange,
    protocol::{Frame, InstanceId},
};
use tokio::time::Instant;

use super::{Again, Core, ProducerShared, Settings, passes};
use crate::{
    UnknownCause,
    producer::{
        calls::Failure,
        silence::Heard,
        window::{FrameLimits, Violation},
    },
};

impl ProducerShared {
    pub(crate) const fn topic(&self) -> &TopicName {
        &self.settings.topic
    }

    /// The request to open it at this server, which is this broker, unless it is over.
    pub(crate) fn open_frame(&self, server: &str, instance: InstanceId) -> Option<Frame> {
        let mut core = self.core.lock();
        if core.window.ended().is_some() {
            return None;
        }
        core.opening.sent();
        let epoch =
            core.identity.as_ref().filter(|(known, _)| known == server).map(|known| known.1);
        drop(core);
        if let Some(behalf) = &self.behalf {
            behalf.opened(instance);
        }
        let Settings { topic, name, .. } = &self.settings;
        Some(Frame::OpenProducer {
            handle: self.handle,
            topic: topic.clone(),
            name: Some(name.clone()),
            epoch,
            seat: Some(self.hub.config.seat.next(&*self.hub.config.entropy)),
        })
    }

    pub(crate) fn handle_opened(
        &self,
        server: &str,
        epoch: u64,
        last_sequence: u64,
        durability: Durability,
        now: Instant,
    ) -> Result<(), Violation> {
        let mut core = self.core.lock();
        if !core.opening.is_asked() {
            return Err(Violation("a producer was opened that was not to be"));
        }
        let resumed =
            core.identity.as_ref().is_some_and(|known| known.0 == server && known.1 == epoch);
        core.identity = Some((server.to_owned(), epoch));
        core.window.handle_opened(resumed, last_sequence)?;
        core.durability = self.settings.durability.unwrap_or(durability);
        let waits = core.window.pending() > 0;
        core.silence.answered(now, waits);
        if core.opening.is_first() {
            self.last_sequence.store(last_sequence, Ordering::Relaxed);
        }
        core.opening.answer(Ok(()));
        self.finish(core);
        Ok(())
    }

    /// It is not open, or not any more. Returns when to ask again, which is by `later` then.
    pub(crate) fn handle_open_refused(&self, refusal: &Refusal, later: Instant) -> Again {
        let mut core = self.core.lock();
        if !core.opening.is_asked() && !core.window.is_open() {
            return Again::Never;
        }
        if !core.opening.is_first()
            || refusal.code == RefusalCode::Stopping
            || core.opening.asks_again(refusal, later)
        {
            // A broker that forgot it wants it to begin anew.
            let forgotten = core.opening.is_asked()
                && refusal.code == RefusalCode::OutOfRange
                && core.identity.take().is_some();
            if forgotten || passes(refusal.code) {
                core.opening.again();
                core.silence.end();
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
        core.silence.end();
        let failure = Failure::Refused(refusal);
        core.window.handle_ended(&failure);
        self.finish(core);
        if let (Some(behalf), Failure::Refused(refusal)) = (&self.behalf, &failure)
            && refusal.code == RefusalCode::Fenced
        {
            // It would open it anew, and fence the newer one.
            behalf.fenced(self.error(&failure));
        }
        self.close_rooms();
        Again::Never
    }

    pub(crate) fn handle_confirmed(
        &self,
        ranges: &[SequenceRange],
        durability: Durability,
        now: Instant,
    ) -> Result<u64, Violation> {
        let mut core = self.core.lock();
        let result = core.window.handle_confirmed(ranges, durability);
        self.after_answers(core, result, now)
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
        now: Instant,
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
        let result = self.after_answers(core, result, now);
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
        now: Instant,
    ) -> Result<u64, Violation> {
        let answered_bytes = core.window.take_answered_bytes();
        let waits = core.window.pending() > 0;
        let was_silent = core.silence.answered(now, waits);
        self.finish(core);
        if was_silent {
            self.look_here();
        }
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
        if frame.is_some()
            && let Some(behalf) = self.behalf()
        {
            behalf.sent();
        }
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

    /// The same, and those of what was sent on this connection and is not answered: no answer will be taken.
    pub(crate) fn take_unanswered_bytes(&self) -> u64 {
        let mut core = self.core.lock();
        core.window.expect_no_answers();
        core.window.take_answered_bytes()
    }

    /// `heard` is what was heard on its connection. Returns whether the broker is silent to it.
    pub(crate) fn handle_timeout(&self, now: Instant, heard: &Heard) -> bool {
        let mut core = self.core.lock();
        core.window.handle_timeout(now);
        let is_idle = core.window.pending() == 0 && !core.window.is_anything_sent();
        let ends = is_idle && core.silence.end();
        self.judge(core, ends, now, heard)
    }

    /// The same where nothing is due and something was heard.
    pub(crate) fn handle_heard(&self, now: Instant, heard: &Heard) -> bool {
        let core = self.core.lock();
        self.judge(core, false, now, heard)
    }

    fn judge(
        &self,
        mut core: parking_lot::MutexGuard<'_, Core>,
        mut is_news: bool,
        now: Instant,
        heard: &Heard,
    ) -> bool {
        let durability = core.durability;
        is_news |= core.silence.handle_timeout(now, heard, durability);
        let is_silent = core.silence.is_silent();
        self.finish(core);
        if is_news {
            self.look_here();
        }
        is_silent
    }

    /// `heard` is what was heard on its connection.
    pub(crate) fn next_timeout(&self, heard: &Heard) -> Option<Instant> {
        let core = self.core.lock();
        let silence = core.silence.next_timeout(heard, core.durability);
        core.window.next_timeout().into_iter().chain(silence).min()
    }

    pub(crate) fn handle_cut(&self) {
        let mut core = self.core.lock();
        core.opening.again();
        core.queued = false;
        core.silence.end();
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
        !mem::replace(&mut self.core.lock().queued, true)
    }

    /// The largest message that the broker takes, as far as is known.
    pub(in crate::producer) fn message_bytes_max(&self) -> usize {
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
    pub(in crate::producer) fn end(&self, cause: &UnknownCause) {
        let mut core = self.core.lock();
        core.opening.abandon();
        core.silence.end();
        core.window.abandon(cause);
        // Nobody takes word of it any more.
        core.queued = true;
        self.finish(core);
        self.close_rooms();
    }
}
