//! A peer as those see it who send to it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ltq_core::{Address, Effect};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turnstile, Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::{
    DownCause, MeshName, MeshSettings, SendError, Undelivered,
    listening::Caller,
    room::{Part, Taken},
    rules::{Grant, NeverSent, Ticket, Window},
    wire::NotStored,
};

/// What is known of a peer's addresses: `None` when it is in no list, and only called by itself.
pub(crate) type Listed = Option<Vec<Address>>;

/// One peer: what is on its way to it, and whether it is connected.
pub(crate) struct Peer {
    name: MeshName,
    sending: Mutex<Sending>,
    /// Only one at a time waits for room, so that whoever called first is first.
    turnstile: Turnstile<()>,
    room: Arc<Semaphore>,
    room_bytes: Arc<Semaphore>,
    /// Its part of that of all peers together.
    room_total: Part,
    /// Nobody may wait for anything any more.
    idle: Notify,
    /// There may be something to be said.
    pub(crate) work: Notify,
    /// A sign of life is wanted at once.
    pub(crate) probe: Notify,
    /// Where those who call it go.
    pub(crate) callers: mpsc::Sender<Caller>,
    pub(crate) listed: watch::Sender<Listed>,
}

struct Sending {
    window: Window<Waiting>,
    /// What the peer takes, or why it takes nothing.
    up: Result<Up, DownCause>,
    is_closed: bool,
    /// Calls that wait for room.
    waiting: u64,
    /// What the end of the mesh has left.
    left: Undelivered,
}

#[derive(Clone, Copy)]
struct Up {
    grant: Grant,
    message_bytes_max: usize,
}

/// Who waits for the answer to a message, and the room that it takes.
struct Waiting {
    answer: oneshot::Sender<Answer>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    /// Of the room of all; given back with the body, and with all else at last.
    taken: Option<Taken>,
}

enum Answer {
    Stored,
    NotStored(NotStored),
    /// It is more than the peer takes since it is back.
    TooLarge {
        max: usize,
    },
    Forgotten,
    Closed {
        was_sent: bool,
    },
}

impl Peer {
    pub(crate) fn new(
        name: MeshName,
        listed: Listed,
        settings: &MeshSettings,
        room_total: Part,
        callers: mpsc::Sender<Caller>,
    ) -> Self {
        let sending = Sending {
            window: Window::default(),
            up: Err(DownCause::NotYet),
            is_closed: false,
            waiting: 0,
            left: Undelivered::default(),
        };
        Self {
            name,
            sending: Mutex::new(sending),
            turnstile: Turnstile::new(()),
            room: Arc::new(Semaphore::new(settings.unacknowledged_messages_max)),
            room_bytes: Arc::new(Semaphore::new(settings.unacknowledged_bytes_max)),
            room_total,
            idle: Notify::new(),
            work: Notify::new(),
            probe: Notify::new(),
            callers,
            listed: watch::Sender::new(listed),
        }
    }

    pub(crate) const fn name(&self) -> &MeshName {
        &self.name
    }

    /// Sends a message and waits for its answer. Given up, it is not sent if it was not yet.
    pub(crate) async fn send(&self, body: Bytes, after: Duration) -> Result<(), SendError> {
        let bytes = body.len();
        self.check(&self.sending.lock(), bytes)?;
        let deadline = Instant::now() + after;
        let taken = timeout_at(deadline, self.take(body)).await;
        let (ticket, mut answered) = taken.unwrap_or_else(|_| Err(self.too_late(false, after)))?;
        let mut given_up = GivenUp { peer: self, ticket: Some(ticket) };
        let answer = match timeout_at(deadline, &mut answered).await {
            Ok(answer) => answer.ok(),
            Err(_) => match given_up.give_up() {
                Some(was_sent) => return Err(self.too_late(was_sent, after)),
                // It was answered at this very moment.
                None => answered.try_recv().ok(),
            },
        };
        given_up.ticket = None;
        let peer = self.name.clone();
        match answer {
            Some(Answer::Stored) => Ok(()),
            Some(Answer::NotStored(NotStored::Rejected(reason))) => {
                Err(SendError::Rejected { peer, reason })
            }
            Some(Answer::NotStored(NotStored::Full(detail))) => {
                Err(SendError::InboxFull { peer, detail })
            }
            Some(Answer::NotStored(NotStored::Refused(detail))) => {
                Err(SendError::Refused { peer, detail, effect: Effect::Nothing })
            }
            Some(Answer::TooLarge { max }) => Err(SendError::TooLarge { bytes, max }),
            Some(Answer::Forgotten) => Err(SendError::Forgotten { peer }),
            Some(Answer::Closed { was_sent: false }) => {
                Err(SendError::Closed { effect: Effect::Nothing })
            }
            Some(Answer::Closed { was_sent: true }) | None => {
                Err(SendError::Closed { effect: Effect::Unknown })
            }
        }
    }

    /// Puts a message behind all others once there is room. Cancel safe: nothing is taken by a call that is
    /// given up.
    async fn take(&self, body: Bytes) -> Result<(Ticket, oneshot::Receiver<Answer>), SendError> {
        let _waits = Waits::new(self)?;
        let closed = SendError::Closed { effect: Effect::Nothing };
        // Held until the message has its place.
        let _first = self.turnstile.lock().await;
        let room = self.room.clone().acquire_owned().await.map_err(|_| closed.clone())?;
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let bytes = self.room_bytes.clone().acquire_many_owned(bytes).await;
        let bytes = bytes.map_err(|_| closed.clone())?;
        // The last, so that a peer that answers nothing has no more of it than its own room.
        let Some(taken) = self.room_total.take(body.len()).await else { return Err(closed) };
        let (answer, answered) = oneshot::channel();
        let ticket = {
            let mut sending = self.sending.lock();
            self.check(&sending, body.len())?;
            let taken = Some(taken);
            sending.window.push(body, Waiting { answer, _room: (room, bytes), taken })
        };
        self.work.notify_one();
        Ok((ticket, answered))
    }

    /// Whether a message may be sent now.
    fn check(&self, sending: &Sending, bytes: usize) -> Result<(), SendError> {
        if sending.is_closed {
            return Err(SendError::Closed { effect: Effect::Nothing });
        }
        match &sending.up {
            Ok(up) if bytes > up.message_bytes_max => {
                Err(SendError::TooLarge { bytes, max: up.message_bytes_max })
            }
            Ok(_) => Ok(()),
            Err(cause) => Err(self.not_connected(cause)),
        }
    }

    fn not_connected(&self, cause: &DownCause) -> SendError {
        let peer = self.name.clone();
        match cause {
            DownCause::Unauthenticated => SendError::Unauthenticated { peer },
            cause => SendError::NotConnected { peer, cause: cause.clone() },
        }
    }

    fn too_late(&self, was_sent: bool, after: Duration) -> SendError {
        let peer = self.name.clone();
        match (&self.sending.lock().up, was_sent) {
            (Err(cause), false) => self.not_connected(cause),
            (Err(cause), true) => SendError::WriteFailed { peer, cause: cause.clone() },
            (Ok(_), false) => SendError::TimedOut { peer, after, effect: Effect::Nothing },
            (Ok(_), true) => SendError::TimedOut { peer, after, effect: Effect::Unknown },
        }
    }

    /// There is a connection, and this is what the other end's inbox says.
    pub(crate) fn resume(&self, inbox: u64, stored: u64, grant: Grant, message_bytes_max: usize) {
        let mut sending = self.sending.lock();
        let resumed = sending.window.resume(inbox, stored);
        // What it took before it may take no longer, and it would cut us for trying.
        let larger = sending.window.take_larger(message_bytes_max as u64);
        sending.up = Ok(Up { grant, message_bytes_max });
        drop(sending);
        answer(resumed.stored, || Answer::Stored);
        answer(resumed.forgotten, || Answer::Forgotten);
        answer(larger, || Answer::TooLarge { max: message_bytes_max });
        self.idle.notify_waiters();
        self.work.notify_one();
    }

    /// The next message for the connection that there is.
    pub(crate) fn next_message(&self) -> Option<(u64, Bytes)> {
        let mut sending = self.sending.lock();
        let grant = sending.up.as_ref().ok()?.grant;
        sending.window.next(grant)
    }

    pub(crate) fn stored(&self, through: u64) -> Result<(), NeverSent> {
        let stored = self.sending.lock().window.stored(through)?;
        answer(stored, || Answer::Stored);
        self.idle.notify_waiters();
        // There is room on the wire.
        self.work.notify_one();
        Ok(())
    }

    pub(crate) fn not_stored(&self, number: u64, why: NotStored) -> Result<(), NeverSent> {
        let waiting = self.sending.lock().window.not_stored(number)?;
        // Nobody may wait any more.
        let _ = waiting.answer.send(Answer::NotStored(why));
        self.idle.notify_waiters();
        self.work.notify_one();
        Ok(())
    }

    /// There is no connection. What is on its way keeps its place.
    pub(crate) fn cut(&self, cause: DownCause) {
        let mut sending = self.sending.lock();
        if sending.up.is_ok() {
            sending.window.cut();
        }
        sending.up = Err(cause);
    }

    /// Nothing more is taken, and who waits for room is told so.
    pub(crate) fn close(&self) {
        let mut sending = self.sending.lock();
        if !std::mem::replace(&mut sending.is_closed, true) {
            sending.left.not_sent += sending.waiting;
        }
        drop(sending);
        self.room.close();
        self.room_bytes.close();
    }

    /// Nothing more is answered either.
    pub(crate) fn end(&self) {
        self.close();
        let left = {
            let mut sending = self.sending.lock();
            let left = sending.window.drain();
            for (_, was_sent) in &left {
                sending.left.count(*was_sent);
            }
            left
        };
        for (waiting, was_sent) in left {
            let _ = waiting.answer.send(Answer::Closed { was_sent });
        }
        self.idle.notify_waiters();
    }

    /// It is known no longer. Who has it in hand still is told that it is not connected.
    pub(crate) fn forget(&self) {
        let mut sending = self.sending.lock();
        sending.up = Err(DownCause::NoAddress);
        // Nobody waits for any of it.
        sending.window.drain();
    }

    /// What its [end](Self::end) has left, if anything.
    pub(crate) fn left(&self) -> Option<Undelivered> {
        let left = self.sending.lock().left;
        (left != Undelivered::default()).then_some(left)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sending.lock().window.is_idle()
    }

    /// Waits until nobody waits for the answer to anything.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            // Before it is looked at, so that nothing is missed.
            notified.as_mut().enable();
            if self.is_idle() {
                return;
            }
            notified.await;
        }
    }
}

/// Counts a call among those that wait for room.
struct Waits<'a>(&'a Peer);

impl<'a> Waits<'a> {
    fn new(peer: &'a Peer) -> Result<Self, SendError> {
        let mut sending = peer.sending.lock();
        if sending.is_closed {
            return Err(SendError::Closed { effect: Effect::Nothing });
        }
        sending.waiting += 1;
        Ok(Self(peer))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut sending = self.0.sending.lock();
        sending.waiting = sending.waiting.saturating_sub(1);
    }
}

fn answer(waiting: Vec<Waiting>, answer: impl Fn() -> Answer) {
    for waiting in waiting {
        // Nobody may wait any more.
        let _ = waiting.answer.send(answer());
    }
}

/// Gives a message up when whoever waits for its answer is gone.
struct GivenUp<'a> {
    peer: &'a Peer,
    ticket: Option<Ticket>,
}

impl GivenUp<'_> {
    /// Says whether it may have arrived; `None` when it was answered.
    fn give_up(&mut self) -> Option<bool> {
        let ticket = self.ticket.take()?;
        let release = |waiting: &mut Waiting| drop(waiting.taken.take());
        let given_up = self.peer.sending.lock().window.give_up(ticket, release);
        self.peer.idle.notify_waiters();
        given_up
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
