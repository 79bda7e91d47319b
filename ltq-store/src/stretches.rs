//! Sets of offsets, kept as stretches: what was discarded of a log.

use std::{collections::BTreeMap, ops::Range};

use ltq_core::Offset;

/// Offsets in stretches that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretches {
    /// First offset to the one behind the last.
    map: BTreeMap<Offset, Offset>,
}

impl Stretches {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Adds a stretch.
    pub(crate) fn insert(&mut self, stretch: Range<Offset>) {
        let Range { start: mut from, end: mut until } = stretch;
        if from >= until {
            return;
        }
        if let Some((&before, &end)) = self.map.range(..from).next_back()
            && end >= from
        {
            from = before;
            until = until.max(end);
        }
        while let Some((&inside, &end)) = self.map.range(from..=until).next() {
            until = until.max(end);
            self.map.remove(&inside);
        }
        self.map.insert(from, until);
    }

    /// Forgets what lies before an offset.
    pub(crate) fn drop_before(&mut self, before: Offset) {
        while let Some(first) = self.map.first_entry().filter(|first| *first.key() < before) {
            let (_, until) = first.remove_entry();
            if until > before {
                self.map.insert(before, until);
                return;
            }
        }
    }

    /// Forgets what lies at or behind an offset.
    pub(crate) fn drop_from(&mut self, from: Offset) {
        self.map.split_off(&from);
        if let Some(mut last) = self.map.last_entry().filter(|last| *last.get() > from) {
            *last.get_mut() = from;
        }
    }

    /// The stretch that an offset lies in.
    pub(crate) fn stretch_at(&self, offset: Offset) -> Option<Range<Offset>> {
        let (&from, &until) = self.map.range(..=offset).next_back()?;
        (until > offset).then_some(from..until)
    }

    /// The end of the stretch that an offset lies in; `None` when it lies in none.
    pub(crate) fn end_at(&self, offset: Offset) -> Option<Offset> {
        self.stretch_at(offset).map(|stretch| stretch.end)
    }

    /// Where the first stretch begins behind an offset that lies in none.
    pub(crate) fn next_behind(&self, offset: Offset) -> Option<Offset> {
        self.map.range(offset..).next().map(|(&from, _)| from)
    }

    /// Whether all of a range is in one stretch.
    pub(crate) fn covers(&self, range: &Range<Offset>) -> bool {
        range.start >= range.end || self.end_at(range.start).is_some_and(|end| end >= range.end)
    }

    /// Whether any of a range is in a stretch.
    pub(crate) fn touches(&self, range: &Range<Offset>) -> bool {
        let begins = self.next_behind(range.start).is_some_and(|next| next < range.end);
        begins || (range.start < range.end && self.end_at(range.start).is_some())
    }

    /// The parts of a range that are in no stretch, in order.
    pub(crate) fn outside(&self, range: Range<Offset>) -> impl Iterator<Item = Range<Offset>> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            at = self.end_at(at).unwrap_or(at);
            if at >= range.end {
                return None;
            }
            let until = self.next_behind(at).map_or(range.end, |next| next.min(range.end));
            let gap = at..until;
            at = until;
            Some(gap)
        })
    }

    /// All stretches, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<Offset>> + '_ {
        self.map.iter().map(|(&from, &until)| from..until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range((from, until): (u64, u64)) -> Range<Offset> {
        Offset(from)..Offset(until)
    }

    #[test]
    fn any_sequence_of_changes_leaves_what_a_plain_list_says() {
        for seed in 0..200_u64 {
            let (mut set, mut plain) = (Stretches::default(), [false; 64]);
            for step in 0..24_u64 {
                let random = (seed * 7_919 + step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                let (from, len) = (random % 60, random / 64 % 9);
                if random / 1024 % 6 == 0 {
                    set.drop_before(Offset(from));
                    plain[..from as usize].fill(false);
                } else if random / 1024 % 6 == 1 {
                    set.drop_from(Offset(from + 20));
                    plain[(from as usize + 20).min(64)..].fill(false);
                } else {
                    let until = (from + len).min(64);
                    set.insert(range((from, until)));
                    plain[from as usize..until as usize].fill(true);
                }
                let found: Vec<bool> = (0..64).map(|at| set.end_at(Offset(at)).is_some()).collect();
                assert_eq!(found, plain, "seed {seed}, step {step}");
                let kept: Vec<u64> =
                    set.outside(range((3, 50))).flat_map(|gap| gap.start.0..gap.end.0).collect();
                let expected: Vec<u64> = (3..50).filter(|&at| !plain[at as usize]).collect();
                assert_eq!(kept, expected, "seed {seed}, step {step}");
                let (a, b) = (from, (from + 5).min(64));
                let part = &plain[a as usize..b as usize];
                assert_eq!(set.touches(&range((a, b))), part.contains(&true));
                assert_eq!(set.covers(&range((a, b))), !part.contains(&false));
                assert_eq!(set.len(), set.iter().count());
                let apart = set.iter().zip(set.iter().skip(1));
                assert!(apart.into_iter().all(|(one, next)| one.end < next.start));
            }
        }
    }
}
