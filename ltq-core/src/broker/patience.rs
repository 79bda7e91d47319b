//! Whether it pays to let others go first.

/// A topic that is woken by one session may wait until the others that are ready have had their
/// turns: what they bring goes into the same commit then. It goes on so while each round brings
/// more, within bounds. Where nobody else is ready that gains nothing and can wake another worker
/// of the runtime; so after each time in vain it is tried half as often, down to once in
/// [`PAUSE_MAX`] turns.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How much there was when the others were let go first, while they are, and how often they
    /// were and brought something.
    waiting: Option<usize>,
    rounds: u8,
    /// Turns to go on at once, and how many it was the last time.
    left: u16,
    pause: u16,
}

impl Patience {
    /// The topic is woken and there is so much for it: whether it waits for more. It is told again
    /// when it is woken again.
    pub(super) fn waits(&mut self, entries: usize) -> bool {
        let Some(before) = self.waiting.take() else {
            if entries == 0 || entries >= ENTRIES_MANY {
                return false;
            }
            if self.left > 0 {
                self.left -= 1;
                return false;
            }
            self.rounds = 0;
            self.waiting = Some(entries);
            return true;
        };
        if entries > before {
            self.pause = 0;
            self.rounds += 1;
            if self.rounds < ROUNDS_MAX && entries < ENTRIES_MANY {
                self.waiting = Some(entries);
                return true;
            }
        } else if self.rounds == 0 {
            self.pause = (2 * self.pause + 1).min(PAUSE_MAX);
        }
        self.left = self.pause;
        false
    }
}

/// Turns between two tries at most.
const PAUSE_MAX: u16 = 255;
/// So much is worth a commit of its own.
const ENTRIES_MANY: usize = 256;
/// So often the others go first at most.
const ROUNDS_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_others_bring_something_they_go_first() {
        let mut patience = Patience::default();
        for _ in 0..1_000 {
            assert!(patience.waits(1));
            assert!(patience.waits(2));
            assert!(!patience.waits(2), "nobody is left");
        }
    }

    #[test]
    fn where_there_is_nobody_else_it_is_hardly_tried() {
        let mut patience = Patience::default();
        let mut tries = 0;
        for _ in 0..10_000 {
            if patience.waits(1) {
                assert!(!patience.waits(1));
                tries += 1;
            }
        }
        assert!((10..60).contains(&tries), "{tries}");
        // And when there is somebody again it is found out, and done every time from then on.
        let turn = (0..300).find(|_| patience.waits(1));
        assert!(turn.is_some());
        assert!(patience.waits(5));
        assert!(!patience.waits(5));
        assert!(patience.waits(1));
    }

    #[test]
    fn a_stream_of_others_does_not_make_it_wait_for_ever() {
        let mut patience = Patience::default();
        assert_eq!((1..1_000).take_while(|entries| patience.waits(*entries)).count(), 16);
        let mut patience = Patience::default();
        assert!(patience.waits(1));
        assert!(!patience.waits(ENTRIES_MANY));
    }

    #[test]
    fn what_is_much_or_nothing_does_not_wait() {
        let mut patience = Patience::default();
        assert!(!patience.waits(0));
        assert!(!patience.waits(ENTRIES_MANY));
        assert!(patience.waits(ENTRIES_MANY - 1));
    }
}
