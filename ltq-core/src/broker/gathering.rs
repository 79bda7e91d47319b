//! Small publishes of one read that follow on each other, made into one.
//!
//! A producer that sends its messages one by one, without waiting, costs each topic then what one
//! that sends batches does: one event, one place in the commit, one confirm for a read's worth.

use super::producers::Place;
use crate::{Durability, Records, RecordsBuilder};

/// Publishes of one producer that nothing came between.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) place: Place,
    pub(super) sequence: u64,
    pub(super) durability: Option<Durability>,
    next: u64,
    pieces: Vec<Records>,
    bytes: usize,
}

impl Gathering {
    pub(super) fn new(
        place: Place,
        sequence: u64,
        durability: Option<Durability>,
        records: Records,
    ) -> Self {
        let (next, bytes) = (sequence + records.count() as u64, records.byte_len());
        Self { place, sequence, durability, next, pieces: vec![records], bytes }
    }

    /// Takes one more in if it belongs to these: after them, as durable, and small, so that making
    /// one of them costs less than each by itself. `stored` is what the broker had of this producer
    /// when it was opened: repeats stay apart from what is new, so that each gets its own answer.
    pub(super) fn join(
        &mut self,
        place: Place,
        sequence: u64,
        durability: Option<Durability>,
        stored: u64,
        records: Records,
    ) -> Result<(), Records> {
        let bytes = self.bytes + records.byte_len();
        let fits = records.byte_len() <= SMALL_BYTES_MAX && bytes <= GATHERED_BYTES_MAX;
        let follows = self.place == place && self.next == sequence && self.durability == durability;
        let alike = (self.sequence <= stored) == (sequence <= stored);
        if !(fits && follows && alike && self.is_small()) {
            return Err(records);
        }
        self.next += records.count() as u64;
        self.bytes = bytes;
        self.pieces.push(records);
        Ok(())
    }

    /// Whether they were many: then [`into_records`](Self::into_records) makes a copy.
    pub(super) const fn is_joined(&self) -> bool {
        self.pieces.len() > 1
    }

    fn is_small(&self) -> bool {
        self.is_joined() || self.bytes <= SMALL_BYTES_MAX
    }

    /// All of them as one. Many are copied, and do not keep what they were read with.
    pub(super) fn into_records(mut self) -> Records {
        match self.pieces.pop() {
            Some(only) if self.pieces.is_empty() => only,
            last => {
                self.pieces.extend(last);
                let count = self.pieces.iter().map(Records::count).sum();
                let bytes = self.pieces.iter().map(|records| records.payload().len()).sum();
                let mut joined = RecordsBuilder::with_capacity(count, bytes);
                self.pieces.iter().for_each(|records| joined.extend(records));
                joined.finish()
            }
        }
    }
}

/// A publish beyond this size is better left where it was read than copied.
const SMALL_BYTES_MAX: usize = 4 << 10;
/// As much as a read brings at most.
const GATHERED_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    const PLACE: Place = Place { slot: 1, id: 7 };

    fn records(bodies: &[&str]) -> Records {
        Records::encode(
            &bodies.iter().map(|body| Message::new(body.to_string())).collect::<Vec<_>>(),
        )
    }

    fn begun() -> Gathering {
        Gathering::new(PLACE, 5, None, records(&["a", "b"]))
    }

    #[test]
    fn publishes_that_follow_on_each_other_become_one_with_the_same_records() {
        let mut gathering = begun();
        assert!(!gathering.is_joined());
        gathering.join(PLACE, 7, None, 0, records(&["c"])).unwrap();
        gathering.join(PLACE, 8, None, 0, records(&["d", "e"])).unwrap();
        assert!(gathering.is_joined());
        assert_eq!(gathering.sequence, 5);
        let joined = gathering.into_records();
        joined.verify().unwrap();
        assert_eq!(joined, records(&["a", "b", "c", "d", "e"]));
    }

    #[test]
    fn one_alone_is_left_as_it_was_read() {
        let read = records(&["a", "b"]);
        let payload = read.payload().as_ptr();
        let kept = Gathering::new(PLACE, 1, None, read).into_records();
        assert_eq!(kept.payload().as_ptr(), payload);
    }

    #[test]
    fn what_does_not_follow_is_given_back() {
        let other = Place { slot: 1, id: 8 };
        let large = "x".repeat(SMALL_BYTES_MAX);
        for (place, sequence, durability, stored, body) in [
            (other, 7, None, 0, "c"),
            (PLACE, 8, None, 0, "c"),
            (PLACE, 6, None, 0, "c"),
            (PLACE, 7, Some(Durability::Disk), 0, "c"),
            // Five and six are repeats, seven is new.
            (PLACE, 7, None, 6, "c"),
            (PLACE, 7, None, 0, &*large),
        ] {
            let mut gathering = begun();
            let read = records(&[body]);
            let back = gathering.join(place, sequence, durability, stored, read.clone());
            assert_eq!(back, Err(read), "{place:?} {sequence} {durability:?} {stored}");
            assert_eq!(gathering.into_records(), records(&["a", "b"]));
        }
        let mut gathering = Gathering::new(PLACE, 1, None, records(&[&large]));
        assert!(gathering.join(PLACE, 2, None, 0, records(&["c"])).is_err(), "it is large itself");
    }

    #[test]
    fn promise_9_what_is_copied_is_bounded() {
        let body = "x".repeat(SMALL_BYTES_MAX / 2);
        let mut gathering = Gathering::new(PLACE, 1, None, records(&[&body]));
        let taken = (2..).take_while(|sequence| {
            gathering.join(PLACE, *sequence, None, 0, records(&[&body])).is_ok()
        });
        assert!(taken.count() < 2 * GATHERED_BYTES_MAX / SMALL_BYTES_MAX);
    }
}
