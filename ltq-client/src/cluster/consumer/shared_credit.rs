//! Who gets how much of one credit. No IO, no clock of its own.
//!
//! Each subscription, a *share*, is lent a size: what may be open and unsettled there. What it takes of
//! the whole is the larger of its size and what is out there already, since what was granted comes back
//! only when the broker says so or when it is settled. All of these together are never more than the
//! whole.
//!
//! A share that used up all that it had is *hungry*: there may be more where that came from. Credit moves
//! to the hungry ones, from those that do not use theirs first, and is even among hungry ones. While
//! nobody is hungry nothing moves.

mod turns;

use std::{collections::BTreeMap, time::Duration};

use ltq_core::Credit;
use tokio::time::Instant;

use crate::{CreditUse, consumer::Marks};

/// One credit, and who has which part of it.
#[derive(Debug)]
pub(super) struct SharedCredit {
    total: Credit,
    shares: BTreeMap<u64, Share>,
}

/// A part of it, lent to one subscription that is up.
#[derive(Debug)]
struct Share {
    /// What it is lent.
    size: Credit,
    /// What is open and unsettled there, at most.
    out: Credit,
    unsettled: Credit,
    /// It can get nothing before something is settled or it is lent more.
    is_exhausted: bool,
    /// Having been exhausted it counts as hungry until then: what it was granted after that may be on its
    /// way to be used.
    hungry_until: Instant,
    /// It has come so lately that nobody knows what it needs: until then an even part is its due.
    new_until: Instant,
    /// The most that its broker lets it have.
    allowed: Credit,
    /// The most that was unsettled of late.
    peak: Peak,
    /// Nothing more is to come by it.
    is_leaving: bool,
    /// Its turn, where there are more shares than messages to share.
    turn: turns::Turn,
}

/// The most that was unsettled in the last one to two seconds.
#[derive(Debug)]
struct Peak {
    now: Credit,
    before: Credit,
    since: Instant,
}

impl Peak {
    fn see(&mut self, peak: Credit, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= PEAK_TIME {
            self.before = if age < 2 * PEAK_TIME { self.now } else { Credit::default() };
            self.now = Credit::default();
            self.since = now;
        }
        self.now = self.now.at_least(peak);
    }

    fn most(&self, now: Instant) -> Credit {
        match now.saturating_duration_since(self.since) {
            age if age < PEAK_TIME => self.now.at_least(self.before),
            age if age < 2 * PEAK_TIME => self.now,
            _ => Credit::default(),
        }
    }

    /// When it is less, if nothing happens.
    fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let is_any = self.most(now) != Credit::default();
        let ends = [self.since + PEAK_TIME, self.since + 2 * PEAK_TIME];
        ends.into_iter().find(|at| is_any && *at > now)
    }
}

impl Share {
    /// What it takes of the whole.
    const fn held(&self) -> Credit {
        self.size.at_least(self.out)
    }

    /// Makes it no larger than this.
    fn shrink(&mut self, size: Credit) {
        // It may have been granted all of it since it was looked at.
        self.out = self.held();
        self.size = self.size.at_most(size);
    }

    fn is_hungry(&self, now: Instant) -> bool {
        self.is_exhausted || now < self.hungry_until
    }

    /// How much it could use: a hungry one much more than it has.
    fn want(&self, total: Credit, floor: Credit, even: Credit, now: Instant) -> Credit {
        let want = if self.is_hungry(now) {
            times(self.size.at_least(self.unsettled), GROWTH)
        } else {
            let of_late = self.peak.most(now).at_most(part(total, PEAK_PART));
            self.unsettled.plus(times(of_late, 2)).plus(floor)
        };
        let due = if now < self.new_until { even } else { floor };
        want.at_least(due).at_most(self.allowed)
    }
}

impl SharedCredit {
    pub(super) fn new(total: Credit) -> Self {
        Self { total: total.at_least(ONE), shares: BTreeMap::new() }
    }

    /// There is so much to share from now on; at least 1 of each.
    pub(super) fn set_total(&mut self, total: Credit) {
        self.total = total.at_least(ONE);
    }

    /// A subscription is up, and has nothing yet.
    pub(super) fn join(&mut self, number: u64, allowed: Credit, now: Instant) {
        let none = Credit::default();
        let turn = turns::Turn::new(self.shares.values().map(|share| &share.turn));
        self.shares.insert(
            number,
            Share {
                size: none,
                out: none,
                unsettled: none,
                is_exhausted: false,
                hungry_until: now,
                new_until: now + GRACE,
                allowed: allowed.at_least(ONE),
                peak: Peak { now: none, before: none, since: now },
                is_leaving: false,
                turn,
            },
        );
    }

    /// A subscription is no more, and with it all that was lent to it.
    pub(super) fn leave(&mut self, number: u64) {
        self.shares.remove(&number);
    }

    /// Whether nothing more is to come by a subscription.
    pub(super) fn set_leaving(&mut self, number: u64, is_leaving: bool) {
        if let Some(share) = self.shares.get_mut(&number) {
            share.is_leaving = is_leaving;
        }
    }

    /// What a subscription's credit stands at, and what happened to it since the last time.
    pub(super) fn see(&mut self, number: u64, credit: CreditUse, marks: Marks, now: Instant) {
        let Some(share) = self.shares.get_mut(&number) else { return };
        share.out = credit.open.plus(credit.unsettled);
        share.unsettled = credit.unsettled;
        // One that was lent something of which its broker has not heard yet is not exhausted.
        share.is_exhausted = credit.is_exhausted() && !credit.is_idle();
        share.turn.is_used |= marks.was_exhausted;
        share.peak.see(marks.peak, now);
        if marks.was_exhausted || share.is_exhausted {
            share.hungry_until = now + GRACE;
        }
    }

    /// Whether somebody could use what others have not given back yet.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        let waits = |share: &Share| share.size.messages == 0 || share.is_hungry(now);
        self.shares.values().any(|share| !share.is_leaving && waits(share))
    }

    /// Shares the credit anew. Returns the new sizes of those whose size changed. Whoever lends them is to
    /// [tell](Self::lent) what that came to: only then is what was taken back there for others.
    pub(super) fn rebalance(&mut self, now: Instant) -> Vec<(u64, Credit)> {
        let before: Vec<_> = self.shares.values().map(|share| share.size).collect();
        for share in self.shares.values_mut().filter(|share| share.is_leaving) {
            share.shrink(Credit::default());
        }
        let count = self.shares.values().filter(|share| !share.is_leaving).count() as u64;
        let places = self.total.messages.min(self.total.bytes);
        if count > places {
            self.take_turns(places, now);
        } else if count > 0 {
            self.share_fairly(count, now);
        }
        let both = self.shares.iter().zip(before);
        both.filter(|((_, share), before)| share.size != *before)
            .map(|((number, share), _)| (*number, share.size))
            .collect()
    }

    /// What a subscription's credit stands at since it was lent another size.
    pub(super) fn lent(&mut self, number: u64, credit: CreditUse) {
        if let Some(share) = self.shares.get_mut(&number) {
            share.out = credit.open.plus(credit.unsettled);
        }
    }

    /// When to share anew because time passed, if nothing else happens.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let members = || self.shares.values().filter(|share| !share.is_leaving);
        let turns = members().filter_map(|share| share.turn.ends_at()).min();
        let is_anybody_short = members().any(|share| share.is_exhausted);
        // What they are lent beyond their want may go to those that are short.
        let full = members().filter(|share| is_anybody_short && !share.is_exhausted);
        let ends = full.flat_map(|share| {
            let ends = [share.hungry_until, share.new_until].into_iter().filter(|at| *at > now);
            ends.chain(share.peak.next_timeout(now))
        });
        turns.into_iter().chain(ends).min()
    }

    fn share_fairly(&mut self, count: u64, now: Instant) {
        let total = self.total;
        let floor = Credit { messages: 1, bytes: (total.bytes / total.messages).max(1) };
        let even = part(total, count);
        let floor = floor.at_most(even);
        let targets = self.targets(floor, even, now);
        let mut is_short = false;
        let mut lent = Credit::default();
        for (share, target) in self.members().zip(&targets) {
            share.turn.ends = None;
            let wants = share.is_hungry(now) || !floor.is_within(share.size);
            is_short |= wants && is_much_more(*target, share.size);
            lent = lent.plus(share.size);
        }
        // What nobody else could use stays where it is.
        if is_short || !lent.is_within(total) {
            for (share, target) in self.members().zip(&targets) {
                share.shrink(*target);
            }
        }
        let mut free = self.free();
        let mut growing: Vec<_> = self
            .members()
            .zip(targets)
            .filter(|(share, target)| !target.is_within(share.size))
            .collect();
        // The neediest first.
        growing.sort_by_key(|(share, _)| (share.size.messages, share.size.bytes));
        for (share, target) in growing {
            let held = share.held();
            let size = share.size.at_least(target.at_most(held.plus(free)));
            if size == target || is_much_more(size, share.size) {
                share.size = size;
                free = free.minus(share.held().minus(held));
            }
        }
    }

    /// What each member is to have: what all want as far as it goes, and what is left is for the hungry
    /// ones. Where there are none, all have the same.
    fn targets(&mut self, floor: Credit, even: Credit, now: Instant) -> Vec<Credit> {
        let (total, none) = (self.total, Credit::default());
        let is_any_hungry = self.members().any(|share| share.is_hungry(now));
        let (wants, more): (Vec<_>, Vec<_>) = self
            .members()
            .map(|share| {
                if !is_any_hungry {
                    return (share.allowed, none);
                }
                let want = share.want(total, floor, even, now);
                (want, if share.is_hungry(now) { share.allowed.minus(want) } else { none })
            })
            .unzip();
        let of = |part: fn(&Credit) -> u64| -> Vec<u64> {
            let mut given = fill(part(&total), &wants.iter().map(part).collect::<Vec<_>>());
            let left = part(&total).saturating_sub(given.iter().sum());
            let rest = fill(left, &more.iter().map(part).collect::<Vec<_>>());
            given.iter_mut().zip(rest).for_each(|(given, rest)| *given += rest);
            given
        };
        let messages = of(|credit| credit.messages);
        let bytes = of(|credit| credit.bytes);
        let both = messages.into_iter().zip(bytes);
        both.map(|(messages, bytes)| Credit { messages, bytes }).collect()
    }

    /// What nobody has.
    fn free(&self) -> Credit {
        let held = self.shares.values().map(Share::held);
        self.total.minus(held.fold(Credit::default(), Credit::plus))
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Share> {
        self.shares.values_mut().filter(|share| !share.is_leaving)
    }
}

/// Shares `total` so that everybody gets what he wants, or else no less than anybody who gets more.
fn fill(total: u64, wants: &[u64]) -> Vec<u64> {
    let mut order: Vec<_> = wants.iter().enumerate().collect();
    order.sort_by_key(|(_, want)| **want);
    let mut given = vec![0; wants.len()];
    let (mut left, mut count) = (total, wants.len() as u64);
    for (index, want) in order {
        let share = (*want).min(left / count.max(1));
        if let Some(given) = given.get_mut(index) {
            *given = share;
        }
        left -= share;
        count -= 1;
    }
    given
}

/// Whether it is worth a frame to have this and not that: an eighth more, of messages or bytes.
const fn is_much_more(more: Credit, than: Credit) -> bool {
    let Credit { messages, bytes } = more.minus(than);
    messages > than.messages / 8 || bytes > than.bytes / 8
}

const fn times(credit: Credit, factor: u64) -> Credit {
    let Credit { messages, bytes } = credit;
    Credit { messages: messages.saturating_mul(factor), bytes: bytes.saturating_mul(factor) }
}

/// At least 1 of each.
fn part(credit: Credit, divisor: u64) -> Credit {
    let of = |whole: u64| (whole / divisor.max(1)).max(1);
    Credit { messages: of(credit.messages), bytes: of(credit.bytes) }
}

const ONE: Credit = Credit { messages: 1, bytes: 1 };
/// A hungry share wants so many times what it has where others are hungry too: after a few round trips it
/// has as much as they.
const GROWTH: u64 = 8;
/// For so long after it was exhausted a share keeps what is its due beside other hungry ones: what it was
/// granted since then may be on its way.
const GRACE: Duration = Duration::from_millis(20);
/// What a share used of late it keeps twice, so that a trickle does not exhaust it again and again; but no
/// more than twice this part of the whole.
const PEAK_PART: u64 = 128;
const PEAK_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
