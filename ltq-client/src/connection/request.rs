//! Requests that wait for one answer: opening a producer or consumer, and an operator's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ltq_core::{AdminRequest, AdminResponse, Refusal, RefusalCode};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::deadline;
use crate::{Outcome, RequestError, UnknownCause};

/// The asked side of a request.
#[derive(Debug)]
pub(crate) struct Request<T> {
    reply: Option<oneshot::Sender<Result<T, Failed>>>,
    was_sent: Arc<AtomicBool>,
}

/// The asking side.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    answer: oneshot::Receiver<Result<T, Failed>>,
    was_sent: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Failed {
    Refused(Refusal),
    ConnectionLost,
}

impl<T> Request<T> {
    pub(crate) fn new() -> (Self, Asked<T>) {
        let (reply, answer) = oneshot::channel();
        let was_sent = Arc::new(AtomicBool::new(false));
        (Self { reply: Some(reply), was_sent: was_sent.clone() }, Asked { answer, was_sent })
    }

    /// It goes on its way now: from here on it may happen.
    pub(crate) fn sent(&self) {
        self.was_sent.store(true, Ordering::Relaxed);
    }

    /// Whether it is not answered.
    pub(crate) const fn is_open(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether somebody still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    pub(crate) fn answer(&mut self, result: Result<T, Refusal>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(result.map_err(Failed::Refused)));
        }
    }

    pub(crate) fn lost(&mut self) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(Err(Failed::ConnectionLost)));
        }
    }

    /// Nobody will answer any more.
    pub(crate) fn abandon(&mut self) {
        self.reply = None;
    }
}

impl<T> Asked<T> {
    /// Waits for the answer to `doing`.
    pub(crate) async fn wait(self, doing: String, after: Duration) -> Result<T, RequestError> {
        let was_sent = || self.was_sent.load(Ordering::Relaxed);
        let unknown = |doing, cause| RequestError::Unknown { doing, cause };
        match timeout(after, self.answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(Failed::Refused(refusal)))) => {
                Err(match Outcome::from(refusal.code.effect()) {
                    Outcome::Nothing => RequestError::Refused { doing, refusal },
                    Outcome::Unknown => unknown(doing, UnknownCause::Broker(refusal)),
                })
            }
            Ok(Ok(Err(Failed::ConnectionLost))) => {
                Err(unknown(doing, UnknownCause::ConnectionLost))
            }
            Ok(Err(_)) if was_sent() => Err(unknown(doing, UnknownCause::Closed)),
            Ok(Err(_)) => Err(RequestError::Closed { doing }),
            Err(_) if was_sent() => Err(unknown(doing, UnknownCause::TimedOut { after })),
            Err(_) => Err(RequestError::TimedOut { doing, after }),
        }
    }
}

/// Where the opening of a producer or consumer stands. It is asked for on every connection anew;
/// only the first answer is one that somebody waits for.
#[derive(Debug)]
pub(crate) struct Opening {
    first: Request<()>,
    is_asked: bool,
    /// Until when a limit that is reached is no answer.
    until: Option<Instant>,
}

impl Opening {
    /// Whoever waits for it can do something else when a limit is reached, and is told.
    pub(crate) fn new() -> (Self, Asked<()>) {
        let (first, asked) = Request::new();
        (Self { first, is_asked: false, until: None }, asked)
    }

    /// A limit that is reached is asked about again for three quarters of the time that there is, so that the
    /// last answer comes before that is up: what counts there may be this client's own, of a connection that
    /// the broker has not found dead yet.
    pub(crate) fn patient(now: Instant, timeout: Duration) -> (Self, Asked<()>) {
        let (opening, asked) = Self::new();
        (Self { until: Some(deadline(now, timeout / 4 * 3)), ..opening }, asked)
    }

    /// Whether what it was refused for is to be asked about once more at this time, before anybody is told.
    pub(crate) fn asks_again(&self, refusal: &Refusal, at: Instant) -> bool {
        refusal.code == RefusalCode::LimitReached && self.until.is_some_and(|until| at < until)
    }

    /// The request goes out.
    pub(crate) fn sent(&mut self) {
        self.first.sent();
        self.is_asked = true;
    }

    /// Whether an answer is due.
    pub(crate) const fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Whether it never was open.
    pub(crate) const fn is_first(&self) -> bool {
        self.first.is_open()
    }

    /// No answer is due any more, and it is not open.
    pub(crate) const fn again(&mut self) {
        self.is_asked = false;
    }

    pub(crate) fn answer(&mut self, result: Result<(), Refusal>) {
        self.is_asked = false;
        self.first.answer(result);
    }

    pub(crate) fn abandon(&mut self) {
        self.first.abandon();
    }
}

/// An operator's request on its way.
#[derive(Debug)]
pub(crate) struct AdminCall {
    pub(crate) action: AdminRequest,
    pub(crate) request: Request<AdminResponse>,
}

impl AdminCall {
    /// Whether asking twice changes nothing.
    pub(crate) const fn may_repeat(&self) -> bool {
        matches!(
            self.action,
            AdminRequest::ListTopics | AdminRequest::ShowTopic { .. } | AdminRequest::Stats
        )
    }
}
