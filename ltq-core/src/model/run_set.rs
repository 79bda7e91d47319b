//! Stretches of offsets, and sets of them.

use std::{collections::BTreeMap, ops::Bound};

use crate::Offset;

/// Consecutive offsets, from `first` (inclusive) to `end` (exclusive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Offset,
    pub(super) end: Offset,
}

impl Run {
    pub(super) const fn new(first: Offset, end: Offset) -> Self {
        Self { first, end }
    }

    /// How many offsets.
    pub(super) const fn len(self) -> u64 {
        self.end.since(self.first)
    }

    /// Whether there is none.
    pub(super) const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The part inside `bounds`; empty when there is none.
    pub(super) fn within(self, bounds: Self) -> Self {
        let first = self.first.max(bounds.first);
        Self { first, end: self.end.min(bounds.end).max(first) }
    }
}

/// A set of offsets, kept as runs that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunSet {
    /// First offset to end.
    runs: BTreeMap<Offset, Offset>,
    count: u64,
}

impl RunSet {
    /// How many offsets are in the set.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// How many runs they form.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Adds a run and says how many of its offsets are new.
    pub(super) fn insert(&mut self, run: Run) -> u64 {
        if run.is_empty() {
            return 0;
        }
        let Run { mut first, mut end } = run;
        let mut absorbed = 0;
        if let Some((&before, &before_end)) = self.runs.range(..=first).next_back()
            && before_end >= first
        {
            absorbed += before_end.since(before);
            first = before;
            end = end.max(before_end);
            self.runs.remove(&before);
        }
        while let Some((&next, &next_end)) = self.runs.range(first..=end).next() {
            absorbed += next_end.since(next);
            end = end.max(next_end);
            self.runs.remove(&next);
        }
        self.runs.insert(first, end);
        let new = end.since(first) - absorbed;
        self.count += new;
        new
    }

    /// The run that `offset` is in.
    pub(super) fn covering(&self, offset: Offset) -> Option<Run> {
        let (&first, &end) = self.runs.range(..=offset).next_back()?;
        (offset < end).then_some(Run { first, end })
    }

    /// Where the first run behind `offset` starts.
    pub(super) fn next_behind(&self, offset: Offset) -> Option<Offset> {
        let behind = (Bound::Excluded(offset), Bound::Unbounded);
        self.runs.range(behind).next().map(|(&first, _)| first)
    }

    /// Takes out the lowest run if it starts at or below `offset`.
    pub(super) fn pop_at_or_below(&mut self, offset: Offset) -> Option<Run> {
        let entry = self.runs.first_entry()?;
        if *entry.key() > offset {
            return None;
        }
        let (first, end) = entry.remove_entry();
        self.count -= end.since(first);
        Some(Run { first, end })
    }

    /// Forgets the lowest run.
    pub(super) fn pop_first(&mut self) -> Option<Run> {
        self.pop_at_or_below(Offset(u64::MAX))
    }

    /// Gives back memory that was needed in busier times.
    pub(super) fn relax(&mut self) {
        if self.runs.is_empty() {
            // An emptied map keeps its last node.
            self.runs = BTreeMap::new();
        }
    }

    /// The runs in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().map(|(&first, &end)| Run { first, end })
    }

    /// What of `bounds` is not in the set, in order.
    pub(super) fn gaps(&self, bounds: Run) -> Vec<Run> {
        let mut gaps = Vec::new();
        let mut at = bounds.first;
        for run in self.iter().map(|run| run.within(bounds)).filter(|run| !run.is_empty()) {
            if at < run.first {
                gaps.push(Run { first: at, end: run.first });
            }
            at = at.max(run.end);
        }
        if at < bounds.end {
            gaps.push(Run { first: at, end: bounds.end });
        }
        gaps
    }
}

/// What is in both; the runs of each are in order and do not overlap.
pub(super) fn intersect(runs: &[Run], others: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut both = Vec::new();
    let mut at = 0;
    for other in others {
        while let Some(run) = runs.get(at) {
            let part = other.within(*run);
            if !part.is_empty() {
                both.push(part);
            }
            if run.end > other.end {
                break;
            }
            at += 1;
        }
    }
    both
}

/// What of `runs` is not in `others`; the runs of each are in order and do not overlap.
pub(super) fn subtract(runs: &[Run], others: &RunSet) -> Vec<Run> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for &run in runs {
        let mut at = run.first;
        while let Some(other) = others.peek().copied().filter(|other| other.first < run.end) {
            if at < other.first {
                left.push(Run::new(at, other.first));
            }
            at = at.max(other.end);
            if other.end > run.end {
                break;
            }
            others.next();
        }
        if at < run.end {
            left.push(Run::new(at, run.end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn run(first: u64, end: u64) -> Run {
        Run::new(Offset(first), Offset(end))
    }

    #[test]
    fn neighbours_become_one_run() {
        let mut set = RunSet::default();
        assert_eq!(set.insert(run(5, 7)), 2);
        assert_eq!(set.insert(run(9, 10)), 1);
        assert_eq!(set.runs(), 2);
        assert_eq!(set.insert(run(6, 9)), 2);
        assert_eq!(set.iter().collect::<Vec<_>>(), [run(5, 10)]);
        assert_eq!(set.covering(Offset(9)), Some(run(5, 10)));
        assert_eq!(set.covering(Offset(10)), None);
        assert_eq!(set.pop_at_or_below(Offset(4)), None);
        assert_eq!(set.pop_at_or_below(Offset(5)), Some(run(5, 10)));
        assert_eq!((set.count(), set.runs()), (0, 0));
        assert_eq!(set.insert(run(3, 3)), 0);
    }

    proptest! {
        #[test]
        fn what_is_in_both_and_what_is_in_one_alone(
            ours in prop::collection::vec((0u64..60, 0u64..12), 0..12),
            others in prop::collection::vec((0u64..60, 0u64..12), 0..12),
        ) {
            let (mut a, mut b) = (RunSet::default(), RunSet::default());
            ours.into_iter().for_each(|(first, len)| { a.insert(run(first, first + len)); });
            others.into_iter().for_each(|(first, len)| { b.insert(run(first, first + len)); });
            let runs: Vec<_> = a.iter().collect();
            let listed = |runs: &[Run]| -> Vec<u64> {
                runs.iter().flat_map(|r| r.first.0..r.end.0).collect()
            };
            let is_in = |set: &RunSet, offset: u64| set.covering(Offset(offset)).is_some();
            let both: Vec<u64> = (0..80).filter(|&o| is_in(&a, o) && is_in(&b, o)).collect();
            prop_assert_eq!(listed(&intersect(&runs, b.iter())), both);
            let alone: Vec<u64> = (0..80).filter(|&o| is_in(&a, o) && !is_in(&b, o)).collect();
            let left = subtract(&runs, &b);
            prop_assert!(left.iter().all(|run| !run.is_empty()));
            prop_assert_eq!(listed(&left), alone);
        }

        #[test]
        fn a_run_set_is_a_set(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let mut set = RunSet::default();
            let mut naive = BTreeSet::new();
            for (first, len) in inserts {
                let before = naive.len();
                naive.extend(first..first + len);
                let new = set.insert(run(first, first + len));
                prop_assert_eq!(new as usize, naive.len() - before);
            }
            prop_assert_eq!(set.count() as usize, naive.len());
            let listed: Vec<u64> = set.iter().flat_map(|r| r.first.0..r.end.0).collect();
            prop_assert_eq!(&listed, &naive.iter().copied().collect::<Vec<_>>());
            for pair in set.iter().collect::<Vec<_>>().windows(2) {
                prop_assert!(pair[0].end < pair[1].first);
            }
            let bounds = run(10, 50);
            let gaps: Vec<u64> =
                set.gaps(bounds).into_iter().flat_map(|r| r.first.0..r.end.0).collect();
            let expected: Vec<u64> = (10..50).filter(|o| !naive.contains(o)).collect();
            prop_assert_eq!(gaps, expected);
        }
    }
}
