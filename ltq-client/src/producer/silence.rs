//! Whether a broker answers anything of what it has. No IO, no clock.

use std::time::Duration;

use ltq_core::Durability;
use tokio::time::Instant;

/// What was heard on the connection that is up, whoever it was for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// The last byte.
    any: Option<Instant>,
    /// The last publish that was confirmed, by how durable it is at least.
    stored: [Option<Instant>; 3],
}

impl Heard {
    /// Something came.
    pub(crate) const fn hear(&mut self, now: Instant) {
        self.any = Some(now);
    }

    /// A publish is stored, as durably as this.
    pub(crate) fn hear_stored(&mut self, durability: Durability, now: Instant) {
        self.stored.iter_mut().take(durability as usize + 1).for_each(|at| *at = Some(now));
    }

    fn stored(&self, durability: Durability) -> Option<Instant> {
        self.stored.get(durability as usize).copied().flatten()
    }
}

/// Since when a producer that is open waits for a first answer.
///
/// One answer is enough, whatever it is about: who has much to do answers late and always something, and
/// only who answers nothing at all is silent. What others hear on the same connection counts for what it
/// shows. That a message of theirs is as durable as ours is to be is nearly as good as an answer: ours may be
/// behind theirs. It may also be in another topic or on another stream, which stands still by itself, so that
/// this is believed for three times as long as nothing at all, and no longer. Anything else, deliveries and
/// heartbeats, shows that the process and the line are well and not that the store is: that is believed for
/// twice as long.
#[derive(Debug)]
pub(super) struct Silence {
    /// How long nothing may be heard; for ever without it.
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

    /// From when on it is silent, if nothing more is heard.
    fn due(&self, heard: &Heard, durability: Durability) -> Option<Instant> {
        let (since, after) = (self.since?, self.after?);
        let answered = since.max(heard.stored(durability).unwrap_or(since));
        let alive = answered.max(heard.any.unwrap_or(answered));
        let unheard = alive.checked_add(after)?;
        let unanswered = answered.checked_add(after.saturating_mul(ALIVE_FOR))?;
        let overtaken = since.checked_add(after.saturating_mul(OVERTAKEN_FOR))?;
        Some(unheard.min(unanswered).min(overtaken))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn next_timeout(&self, heard: &Heard, durability: Durability) -> Option<Instant> {
        self.due(heard, durability).filter(|_| !self.is_silent)
    }

    /// Returns whether it is silent from now on, or is no more.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        heard: &Heard,
        durability: Durability,
    ) -> bool {
        let is_silent = self.due(heard, durability).is_some_and(|due| due <= now);
        std::mem::replace(&mut self.is_silent, is_silent) != is_silent
    }

    pub(super) const fn is_silent(&self) -> bool {
        self.is_silent
    }
}

/// For how many times as long as nothing at all a sign of life is enough that shows nothing of the store.
const ALIVE_FOR: u32 = 2;
/// For how many times as long it is enough that others are confirmed.
const OVERTAKEN_FOR: u32 = 3;

#[cfg(test)]
mod tests {
    use Durability::{Disk, Memory, Os};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_answers_nothing_is_silent_until_it_answers_something() {
        let (mut silence, heard) = (Silence::new(Some(SECOND)), Heard::default());
        let now = Instant::now();
        assert_eq!(silence.next_timeout(&heard, Disk), None, "nothing waits");
        silence.wait(now);
        silence.wait(now + SECOND / 2);
        let due = silence.next_timeout(&heard, Disk);
        assert_eq!(due, Some(now + SECOND), "since the first one waits");
        assert!(!silence.handle_timeout(now + SECOND / 2, &heard, Disk));
        assert!(silence.handle_timeout(now + SECOND, &heard, Disk));
        assert!(silence.is_silent() && silence.next_timeout(&heard, Disk).is_none());
        assert!(!silence.handle_timeout(now + SECOND * 2, &heard, Disk), "that was said");
        assert!(silence.answered(now + SECOND * 3, true));
        assert!(!silence.is_silent());
        assert_eq!(silence.next_timeout(&heard, Disk), Some(now + SECOND * 4), "it begins anew");
    }

    #[test]
    fn one_that_answers_slowly_is_not() {
        let (mut silence, heard) = (Silence::new(Some(SECOND)), Heard::default());
        let mut now = Instant::now();
        silence.wait(now);
        for _ in 0..100 {
            now += SECOND * 9 / 10;
            assert!(!silence.handle_timeout(now, &heard, Disk));
            assert!(!silence.answered(now, true));
        }
        silence.answered(now, false);
        assert_eq!(silence.next_timeout(&heard, Disk), None);
    }

    #[test]
    fn what_others_hear_counts_for_what_it_shows() {
        let (mut silence, mut heard) = (Silence::new(Some(SECOND)), Heard::default());
        let start = Instant::now();
        // Before anything waited: it says nothing of what waits now.
        heard.hear(start);
        heard.hear_stored(Disk, start);
        silence.wait(start + SECOND);
        assert_eq!(silence.next_timeout(&heard, Os), Some(start + SECOND * 2));
        heard.hear(start + SECOND * 3 / 2);
        assert_eq!(silence.next_timeout(&heard, Os), Some(start + SECOND * 5 / 2));
        heard.hear(start + SECOND * 5 / 2);
        assert_eq!(silence.next_timeout(&heard, Os), Some(start + SECOND * 3), "no longer");
        heard.hear_stored(Memory, start + SECOND * 5 / 2);
        assert_eq!(silence.next_timeout(&heard, Os), Some(start + SECOND * 3), "less than asked");
        assert!(silence.handle_timeout(start + SECOND * 3, &heard, Os));
        let late = start + SECOND * 7 / 2;
        heard.hear(late);
        assert!(!silence.handle_timeout(late, &heard, Os), "a sign of life is late");
        heard.hear_stored(Disk, late);
        assert!(silence.handle_timeout(late, &heard, Os), "its store is well");
        assert!(!silence.is_silent());
        assert_eq!(silence.next_timeout(&heard, Os), Some(start + SECOND * 4), "and no longer");
    }

    #[test]
    fn a_sign_of_life_ends_a_silence_that_was_for_lack_of_any() {
        let (mut silence, mut heard) = (Silence::new(Some(SECOND)), Heard::default());
        let start = Instant::now();
        silence.wait(start);
        assert!(silence.handle_timeout(start + SECOND, &heard, Disk));
        heard.hear(start + SECOND * 3 / 2);
        assert!(silence.handle_timeout(start + SECOND * 3 / 2, &heard, Disk));
        assert_eq!(silence.next_timeout(&heard, Disk), Some(start + SECOND * 2));
    }

    #[test]
    fn nobody_asked_to_look_looks() {
        let mut silence = Silence::new(None);
        silence.wait(Instant::now());
        assert_eq!(silence.next_timeout(&Heard::default(), Disk), None);
    }
}
