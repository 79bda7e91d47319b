//! What a producer's handles and the connection's task share.

mod driven;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ltq_core::{Durability, Message, ProducerName, Records, RefusalCode, TopicName};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    calls::{Answer, Failure},
    elsewhere::Elsewhere,
    lent::{Done, Stored},
    receipt::{BatchReceipt, Receipt},
    room::{NoRoom, Permits, Room, Rooms},
    silence::Silence,
    window::Window,
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
    /// What the broker's silence is to whom it works for.
    silence: Silence,
    /// How durable what is published is to be.
    durability: Durability,
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
        let silent_after = behalf.as_ref().map(|behalf| behalf.silent_after());
        // By the end of its time a call is answered anyway; and what lingers here is not with the broker yet.
        let silent_after = silent_after
            .filter(|after| *after < settings.timeout)
            .map(|after| after.saturating_add(settings.linger));
        let elsewhere = behalf.as_ref().map_or(Elsewhere::Nothing, |behalf| behalf.elsewhere());
        let durability = settings.durability.unwrap_or_default();
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
                silence: Silence::new(silent_after),
                durability,
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
        if !is_timed && self.behalf.is_some() && core.window.is_open() {
            core.silence.wait(Instant::now());
        }
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

    /// Whether the broker has answered nothing of what it has for too long.
    pub(super) fn is_silent(&self) -> bool {
        self.core.lock().silence.is_silent()
    }

    pub(super) fn is_anything_sent(&self) -> bool {
        self.core.lock().window.is_anything_sent()
    }

    fn look_here(&self) {
        if let Some(behalf) = &self.behalf {
            behalf.look_here();
        }
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
