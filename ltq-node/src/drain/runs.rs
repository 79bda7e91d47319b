//! Which offsets of a topic are done: mostly few runs of many.

use std::collections::BTreeMap;

/// A set of offsets, as runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The first of each run, and the one behind its last. They neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
}

impl Runs {
    pub(super) fn contains(&self, offset: u64) -> bool {
        self.runs.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    pub(super) fn insert(&mut self, offset: u64) {
        if self.contains(offset) {
            return;
        }
        let (mut first, mut end) = (offset, offset.saturating_add(1));
        if let Some((&before, &touches)) = self.runs.range(..first).next_back()
            && touches == first
        {
            first = before;
        }
        if let Some(behind) = self.runs.remove(&end) {
            end = behind;
        }
        self.runs.insert(first, end);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_was_put_in_and_are_as_few_as_can_be(
            offsets in prop::collection::vec(0_u64..60, 0..80),
        ) {
            let mut runs = Runs::default();
            let mut set = BTreeSet::new();
            for offset in offsets {
                runs.insert(offset);
                set.insert(offset);
            }
            for offset in 0..62 {
                prop_assert_eq!(runs.contains(offset), set.contains(&offset));
            }
            let starts = set.iter().filter(|it| **it == 0 || !set.contains(&(**it - 1))).count();
            prop_assert_eq!(runs.runs.len(), starts);
        }
    }
}
