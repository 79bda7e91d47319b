//! Whether a broker answers anything of what it has. No IO, no clock.

use std::time::Duration;

use tokio::time::Instant;

/// Since when a producer that is open waits for a first answer.
///
/// One answer is enough, whatever it is about: who has much to do answers late and always something, and
/// only who answers nothing at all is silent.
#[derive(Debug)]
pub(super) struct Silence {
    /// How long that may last; for ever without it.
    after: Option<Duration>,
    since: Option<Instant>,
    /// It has lasted for longer.
    is_silent: bool,
}

impl Silence {
    pub(super) const fn new(after: Option<Duration>) -> Self {
        Self { after, since: None, is_silent: false }
    }

    /// Something waits for an answer.
    pub(super) fn wait(&mut self, now: Instant) {
        if self.after.is_some() {
            self.since.get_or_insert(now);
        }
    }

    /// The broker answered something, and more waits or not. Returns whether it was silent.
    pub(super) fn answered(&mut self, now: Instant, waits: bool) -> bool {
        let was_silent = self.end();
        if waits {
            self.wait(now);
        }
        was_silent
    }

    /// Nothing waits for an answer, or none will come. Returns whether it was silent.
    pub(super) const fn end(&mut self) -> bool {
        self.since = None;
        std::mem::replace(&mut self.is_silent, false)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let due = self.since?.checked_add(self.after?);
        due.filter(|_| !self.is_silent)
    }

    /// Returns whether it is silent from now on.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let begins = self.next_timeout().is_some_and(|due| due <= now);
        self.is_silent |= begins;
        begins
    }

    pub(super) const fn is_silent(&self) -> bool {
        self.is_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_answers_nothing_is_silent_until_it_answers_something() {
        let mut silence = Silence::new(Some(SECOND));
        let now = Instant::now();
        assert_eq!(silence.next_timeout(), None, "nothing waits");
        silence.wait(now);
        silence.wait(now + SECOND / 2);
        assert_eq!(silence.next_timeout(), Some(now + SECOND), "since the first one waits");
        assert!(!silence.handle_timeout(now + SECOND / 2));
        assert!(silence.handle_timeout(now + SECOND));
        assert!(silence.is_silent() && silence.next_timeout().is_none());
        assert!(!silence.handle_timeout(now + SECOND * 2), "that was said");
        assert!(silence.answered(now + SECOND * 3, true));
        assert!(!silence.is_silent());
        assert_eq!(silence.next_timeout(), Some(now + SECOND * 4), "it begins anew");
    }

    #[test]
    fn one_that_answers_slowly_is_not() {
        let mut silence = Silence::new(Some(SECOND));
        let mut now = Instant::now();
        silence.wait(now);
        for _ in 0..100 {
            now += SECOND * 9 / 10;
            assert!(!silence.handle_timeout(now));
            assert!(!silence.answered(now, true));
        }
        silence.answered(now, false);
        assert_eq!(silence.next_timeout(), None);
    }

    #[test]
    fn nobody_asked_to_look_looks() {
        let mut silence = Silence::new(None);
        silence.wait(Instant::now());
        assert_eq!(silence.next_timeout(), None);
    }
}
