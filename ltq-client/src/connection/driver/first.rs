//! Whoever waits for the first connection.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::phases::is_unwelcome;
use crate::{ConnectError, connection::deadline};

/// Whoever waits for the first connection. It is told that there is none when every server was tried once in
/// vain; where one refused for what may pass, they are tried again while there is time.
pub(super) struct First {
    reply: oneshot::Sender<Result<(), ConnectError>>,
    /// Since when the server is tried whose turn it is.
    began: Instant,
    /// The last refusal that may pass, and by when it has to have passed.
    refused: Option<(ConnectError, Instant)>,
    round: Round,
}

/// What was heard since every server was tried last.
#[derive(Default)]
struct Round {
    may_pass: bool,
    is_unwelcome: bool,
}

impl First {
    pub(super) fn new(reply: oneshot::Sender<Result<(), ConnectError>>) -> Self {
        Self { reply, began: Instant::now(), refused: None, round: Round::default() }
    }

    /// A server is tried. Returns how long it may take: at first `timeout`, so that each has its time, and
    /// later what is left of that.
    pub(super) fn begin(&mut self, is_again: bool, timeout: Duration, now: Instant) -> Duration {
        self.began = now;
        match &self.refused {
            Some((_, until)) if is_again => until.saturating_duration_since(now),
            _ => timeout,
        }
    }

    /// A server was tried in vain.
    pub(super) fn failed(&mut self, error: &ConnectError, timeout: Duration) {
        self.round.is_unwelcome |= is_unwelcome(error);
        // One that is full has no words left for some of those that it turns away.
        let is_wordless = matches!(error, ConnectError::Lost { .. }) && self.refused.is_some();
        self.round.may_pass |= error.may_pass() || is_wordless;
        if error.may_pass() {
            let until =
                self.refused.take().map_or_else(|| deadline(self.began, timeout), |it| it.1);
            self.refused = Some((error.clone(), until));
        }
    }

    /// Whether all servers are to be tried again after this wait.
    pub(super) fn goes_on(&mut self, wait: Duration, now: Instant) -> bool {
        let Round { may_pass, is_unwelcome } = std::mem::take(&mut self.round);
        let until = self.refused.as_ref().map(|(_, until)| *until);
        may_pass && !is_unwelcome && until.is_some_and(|until| deadline(now, wait) < until)
    }

    /// There is none: the last attempt came to this.
    pub(super) fn give_up(self, error: ConnectError) {
        let error = match (error, self.refused) {
            // The time for it was cut short, or had no words.
            (ConnectError::TimedOut { .. } | ConnectError::Lost { .. }, Some((refused, _))) => {
                refused
            }
            (error, _) => error,
        };
        drop(self.reply.send(Err(error)));
    }

    pub(super) fn connected(self) {
        drop(self.reply.send(Ok(())));
    }
}

/// While somebody waits for the first connection no wait is longer: there is not much time for it.
pub(super) const FIRST_WAIT_MAX: Duration = Duration::from_secs(1);
