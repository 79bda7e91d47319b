//! The answers of a consumer on their way to the broker: gathered into ranges. No IO.

use std::collections::{BTreeMap, VecDeque};

use ltq_core::{Settlement, Tag, TagRange, Verdict};

/// Answers that were given and not yet sent, and those that wait to be confirmed.
///
/// `W` is whoever waits for a confirmation.
#[derive(Debug)]
pub(super) struct Settling<W> {
    acks: TagRanges,
    touches: TagRanges,
    /// By delay.
    requeues: BTreeMap<u64, TagRanges>,
    confirmed: VecDeque<(Settlement, W)>,
    /// Sent, in the order of their requests.
    awaiting: VecDeque<Awaiting<W>>,
    last_request: u32,
}

#[derive(Debug)]
struct Awaiting<W> {
    request: u32,
    waiters: Vec<(TagRange, W)>,
}

impl<W> Default for Settling<W> {
    fn default() -> Self {
        Self {
            acks: TagRanges::default(),
            touches: TagRanges::default(),
            requeues: BTreeMap::new(),
            confirmed: VecDeque::new(),
            awaiting: VecDeque::new(),
            last_request: 0,
        }
    }
}

impl<W> Settling<W> {
    /// Takes an answer that nobody waits for.
    pub(super) fn add(&mut self, settlement: Settlement) {
        match settlement.verdict {
            Verdict::Ack => self.acks.add(settlement.tags),
            Verdict::Touch => self.touches.add(settlement.tags),
            Verdict::Requeue { delay_ms } => {
                self.requeues.entry(delay_ms).or_default().add(settlement.tags);
            }
        }
    }

    /// Takes an answer that `waiter` wants to have confirmed.
    pub(super) fn add_confirmed(&mut self, settlement: Settlement, waiter: W) {
        self.confirmed.push_back((settlement, waiter));
    }

    /// The next answers to send, at most `max` (at least 1), and the request's number: 0 when
    /// they need no confirmation.
    pub(super) fn poll(&mut self, max: usize) -> Option<(u32, Vec<Settlement>)> {
        let mut settlements = Vec::new();
        // A touch goes before an ack of the same message, or it would come too late.
        self.touches.take(max, Verdict::Touch, &mut settlements);
        self.acks.take(max, Verdict::Ack, &mut settlements);
        while let Some(mut entry) = self.requeues.first_entry().filter(|_| settlements.len() < max)
        {
            let verdict = Verdict::Requeue { delay_ms: *entry.key() };
            if entry.get_mut().take(max, verdict, &mut settlements) {
                entry.remove();
            }
        }
        if !settlements.is_empty() {
            return Some((0, settlements));
        }
        if self.confirmed.is_empty() {
            return None;
        }
        let count = self.confirmed.len().min(max.max(1));
        let (settlements, waiters) = self
            .confirmed
            .drain(..count)
            .map(|(settlement, waiter)| (settlement, (settlement.tags, waiter)))
            .unzip();
        self.last_request = self.last_request.checked_add(1).unwrap_or(1);
        let request = self.last_request;
        self.awaiting.push_back(Awaiting { request, waiters });
        Some((request, settlements))
    }

    /// The broker answered a request. Calls `each` with every waiter and whether it came too late.
    /// Returns false when there was no such request.
    pub(super) fn handle_settled(
        &mut self,
        request: u32,
        stale: &[TagRange],
        mut each: impl FnMut(W, bool),
    ) -> bool {
        let Some(index) = self.awaiting.iter().position(|a| a.request == request) else {
            return false;
        };
        let Some(awaiting) = self.awaiting.remove(index) else { return false };
        for (tags, waiter) in awaiting.waiters {
            let overlaps = |range: &TagRange| range.first <= tags.last && tags.first <= range.last;
            each(waiter, stale.iter().any(overlaps));
        }
        true
    }

    /// The deliveries are void: nothing more is sent. Calls `each` with every waiter and whether
    /// its answer was sent, and so may have counted.
    pub(super) fn clear(&mut self, mut each: impl FnMut(W, bool)) {
        let old = std::mem::take(self);
        for (_, waiter) in old.confirmed {
            each(waiter, false);
        }
        for (_, waiter) in old.awaiting.into_iter().flat_map(|a| a.waiters) {
            each(waiter, true);
        }
    }
}

/// Tags, as few ranges as their order allows.
#[derive(Debug, Default)]
struct TagRanges {
    ranges: Vec<TagRange>,
    /// Whether each range lies wholly behind the one before.
    unsorted: bool,
    /// How many ranges there were when they were last put in order.
    sorted_len: usize,
}

impl TagRanges {
    fn add(&mut self, range: TagRange) {
        if let Some(last) = self.ranges.last_mut() {
            if last.last.0.checked_add(1) == Some(range.first.0) {
                last.last = range.last;
                return;
            }
            if range.first <= last.last {
                self.unsorted = true;
            }
        }
        self.ranges.push(range);
        // Repeated touches of the same messages take no more room than one.
        if self.unsorted && self.ranges.len() >= 2 * self.sorted_len.max(COMPACT_MIN) {
            self.compact();
        }
    }

    /// Puts the ranges in order and joins those that touch or overlap.
    fn compact(&mut self) {
        if self.unsorted {
            self.ranges.sort_unstable();
            self.ranges.dedup_by(|next, before| {
                let joins = next.first.0 <= before.last.0.saturating_add(1);
                if joins {
                    before.last = before.last.max(next.last);
                }
                joins
            });
            self.unsorted = false;
        }
        self.sorted_len = self.ranges.len();
    }

    /// Moves ranges to `into`, as long as that has no more than `max`. Returns whether that was
    /// all.
    fn take(&mut self, max: usize, verdict: Verdict, into: &mut Vec<Settlement>) -> bool {
        self.compact();
        let count = self.ranges.len().min(max.max(1).saturating_sub(into.len()));
        into.extend(self.ranges.drain(..count).map(|tags| Settlement { tags, verdict }));
        self.sorted_len = self.ranges.len();
        self.ranges.is_empty()
    }
}

/// Tags from `first` on.
pub(super) const fn tags(first: u64, count: u64) -> TagRange {
    TagRange { first: Tag(first), last: Tag(first.saturating_add(count.saturating_sub(1))) }
}

/// Fewer ranges than this are not worth sorting early.
const COMPACT_MIN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn one(first: u64, last: u64, verdict: Verdict) -> Settlement {
        Settlement { tags: TagRange { first: Tag(first), last: Tag(last) }, verdict }
    }

    const LATER: Verdict = Verdict::Requeue { delay_ms: 500 };

    #[test]
    fn acks_in_order_are_one_range() {
        let mut settling = Settling::<()>::default();
        for tag in 1..=1000 {
            settling.add(one(tag, tag, Verdict::Ack));
        }
        assert_eq!(settling.poll(9), Some((0, vec![one(1, 1000, Verdict::Ack)])));
        assert_eq!(settling.poll(9), None);
    }

    #[test]
    fn acks_out_of_order_are_as_few_ranges_as_can_be() {
        let mut settling = Settling::<()>::default();
        for tag in [9, 3, 1, 2, 8, 5] {
            settling.add(one(tag, tag, Verdict::Ack));
        }
        let expected =
            vec![one(1, 3, Verdict::Ack), one(5, 5, Verdict::Ack), one(8, 9, Verdict::Ack)];
        assert_eq!(settling.poll(9), Some((0, expected)));
    }

    #[test]
    fn verdicts_are_kept_apart_and_touches_go_first() {
        let mut settling = Settling::<()>::default();
        settling.add(one(4, 4, Verdict::Requeue { delay_ms: 0 }));
        settling.add(one(1, 1, Verdict::Ack));
        settling.add(one(5, 5, LATER));
        settling.add(one(1, 1, Verdict::Touch));
        settling.add(one(6, 6, LATER));
        let expected = vec![
            one(1, 1, Verdict::Touch),
            one(1, 1, Verdict::Ack),
            one(4, 4, Verdict::Requeue { delay_ms: 0 }),
            one(5, 6, LATER),
        ];
        assert_eq!(settling.poll(9), Some((0, expected)));
        assert_eq!(settling.poll(9), None);
    }

    #[test]
    fn no_frame_holds_more_than_it_may() {
        let mut settling = Settling::<u64>::default();
        for tag in (1..=20).step_by(2) {
            settling.add(one(tag, tag, Verdict::Ack));
            settling.add(one(tag + 100, tag + 100, LATER));
            settling.add_confirmed(one(tag + 200, tag + 200, Verdict::Ack), tag);
        }
        let mut all = Vec::new();
        while let Some((_, settlements)) = settling.poll(3) {
            assert!(!settlements.is_empty() && settlements.len() <= 3);
            all.extend(settlements);
        }
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn touching_again_and_again_takes_no_more_memory() {
        let mut settling = Settling::<()>::default();
        for _ in 0..10_000 {
            settling.add(one(1, 1, Verdict::Touch));
            settling.add(one(3, 3, Verdict::Touch));
        }
        assert!(settling.touches.ranges.len() <= 2 * COMPACT_MIN);
        let expected = vec![one(1, 1, Verdict::Touch), one(3, 3, Verdict::Touch)];
        assert_eq!(settling.poll(9), Some((0, expected)));
    }

    #[test]
    fn each_waiter_hears_of_its_own_messages() {
        let mut settling = Settling::default();
        settling.add_confirmed(one(1, 1, Verdict::Ack), 'a');
        settling.add_confirmed(one(2, 5, Verdict::Ack), 'b');
        let (request, settlements) = settling.poll(9).unwrap();
        assert_ne!(request, 0);
        assert_eq!(settlements.len(), 2);
        settling.add_confirmed(one(9, 9, Verdict::Touch), 'c');
        let (second, _) = settling.poll(9).unwrap();
        assert_ne!(request, second);
        let mut heard = Vec::new();
        assert!(!settling.handle_settled(77, &[], |w, s| heard.push((w, s))));
        let stale = [TagRange { first: Tag(5), last: Tag(7) }];
        assert!(settling.handle_settled(request, &stale, |w, s| heard.push((w, s))));
        assert!(!settling.handle_settled(request, &stale, |w, s| heard.push((w, s))));
        settling.add_confirmed(one(10, 10, Verdict::Ack), 'd');
        settling.clear(|w, sent| heard.push((w, sent)));
        assert_eq!(heard, [('a', false), ('b', true), ('d', false), ('c', true)]);
        assert_eq!(settling.poll(9), None);
    }
}
