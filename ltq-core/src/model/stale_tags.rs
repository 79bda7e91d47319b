//! The settlements of one request that changed nothing.

use crate::{Tag, TagRange};

/// Collects stale tags as ranges, joining neighbours.
#[derive(Debug, Default)]
pub(super) struct StaleTags {
    ranges: Vec<TagRange>,
}

impl StaleTags {
    /// Adds a range; nothing when it goes backwards.
    pub(super) fn add(&mut self, range: TagRange) {
        if range.last < range.first {
            return;
        }
        if let Some(before) = self.ranges.last_mut()
            && range.first.0 <= before.last.0.saturating_add(1)
            && range.first >= before.first
        {
            before.last = before.last.max(range.last);
        } else if self.ranges.len() < RANGES_MAX {
            self.ranges.push(range);
        }
    }

    /// Adds the tags from `from` (inclusive) to `to` (exclusive).
    pub(super) fn add_between(&mut self, from: Tag, to: Tag) {
        if from < to {
            self.add(TagRange { first: from, last: Tag(to.0 - 1) });
        }
    }

    /// How many of the stale tags had been delivered once, `delivered` being the last tag of all.
    pub(super) fn delivered_up_to(&self, delivered: Tag) -> u64 {
        let count = |range: &TagRange| {
            (range.last.min(delivered).0 + 1).saturating_sub(range.first.0.max(1))
        };
        self.ranges.iter().map(count).fold(0, u64::saturating_add)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, in the order in which the settlements named them.
    pub(super) fn finish(self) -> Vec<TagRange> {
        self.ranges
    }
}

/// The most ranges in one answer: 1 MiB of them. A consumer with the default credit cannot have
/// more than 1,250 apart from each other, so only nonsense is cut short.
const RANGES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(first: u64, last: u64) -> TagRange {
        TagRange { first: Tag(first), last: Tag(last) }
    }

    #[test]
    fn neighbours_are_joined() {
        let mut stale = StaleTags::default();
        for range in [tags(3, 4), tags(5, 5), tags(7, 9), tags(8, u64::MAX), tags(2, 1), tags(1, 1)]
        {
            stale.add(range);
        }
        stale.add_between(Tag(4), Tag(4));
        assert_eq!(stale.delivered_up_to(Tag(10)), 3 + 4 + 1);
        assert_eq!(stale.finish(), [tags(3, 5), tags(7, u64::MAX), tags(1, 1)]);
    }

    #[test]
    fn promise_9_the_list_is_bounded() {
        let mut stale = StaleTags::default();
        for tag in 0..200_000 {
            stale.add(tags(tag * 2 + 1, tag * 2 + 1));
        }
        assert_eq!(stale.finish().len(), RANGES_MAX);
    }
}
