//! What peers ask for that costs work and brings nothing, and how much of that there was within a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{by_address::ByAddress, settings::BrokerSettings};
use crate::Origin;

/// What was in vain. The two are counted apart: who closes at once all that it may have open is no flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vain {
    /// A frame that brings nothing.
    Frame,
    /// The end of a subscription or a producer that was of no use.
    End,
}

/// How much of each may be in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct VainMax {
    frames: u32,
    ends: u32,
}

impl VainMax {
    pub(super) fn of(settings: &BrokerSettings) -> Self {
        let &BrokerSettings { futile_frames_max: frames, subscriptions_max, producers_max, .. } =
            settings;
        Self { frames, ends: frames.max(subscriptions_max.saturating_add(producers_max)) }
    }

    /// What is told of a limit that was passed.
    pub(super) fn told(self, vain: Vain) -> (u32, &'static str) {
        match vain {
            Vain::Frame => (self.frames, "frames that bring nothing"),
            Vain::End => (self.ends, "ends of what was opened and not used"),
        }
    }
}

/// How much there was of something since a moment. The clock is looked at once for as much as is
/// allowed in a second.
#[derive(Debug)]
struct Count {
    count: u32,
    began: Instant,
    /// What of it the address knows.
    left: u32,
}

impl Count {
    fn new() -> Self {
        Self { count: 0, began: Instant::now(), left: 0 }
    }

    /// Says whether there were more than `max` within a second.
    fn add(&mut self, count: u32, max: u32) -> bool {
        self.count = self.count.saturating_add(count);
        if self.count <= max {
            return false;
        }
        if self.is_fresh() {
            return true;
        }
        *self = Self { count, ..Self::new() };
        count > max
    }

    fn is_fresh(&self) -> bool {
        self.began.elapsed() < WINDOW
    }

    fn is_over(&self, max: u32) -> bool {
        self.count > max && self.is_fresh()
    }

    /// What the address does not know of it, and does from now on.
    fn leave(&mut self) -> u32 {
        self.count - std::mem::replace(&mut self.left, self.count)
    }
}

#[derive(Debug)]
struct Counts {
    frames: Count,
    ends: Count,
}

impl Counts {
    fn new() -> Self {
        Self { frames: Count::new(), ends: Count::new() }
    }

    /// Of what there was more than may be within a second, if of anything.
    fn over(&self, max: VainMax) -> Option<Vain> {
        if self.frames.is_over(max.frames) {
            Some(Vain::Frame)
        } else {
            self.ends.is_over(max.ends).then_some(Vain::End)
        }
    }
}

/// What the streams of one connection did in vain.
#[derive(Debug)]
pub(super) struct InVain {
    max: VainMax,
    began: Instant,
    counts: Mutex<Counts>,
}

impl InVain {
    pub(super) fn new(max: VainMax) -> Self {
        Self { max, began: Instant::now(), counts: Mutex::new(Counts::new()) }
    }

    pub(super) const fn max(&self) -> VainMax {
        self.max
    }

    /// Says whether there was too much of this within a second.
    pub(super) fn note(&self, vain: Vain, count: u32) -> bool {
        let mut counts = self.counts.lock();
        match vain {
            Vain::Frame => counts.frames.add(count, self.max.frames),
            Vain::End => counts.ends.add(count, self.max.ends),
        }
    }

    /// Of what there is too much now.
    pub(super) fn over(&self) -> Option<Vain> {
        self.counts.lock().over(self.max)
    }

    /// With how many ends the next connection of the address goes on, as if it was this one: those within
    /// its first second, or in a flood. One that lasted longer may have closed as much in each second, and
    /// what it had open when it was lost was no flood. Other frames cost less than connecting again does.
    pub(super) fn leave(&self) -> u32 {
        let mut counts = self.counts.lock();
        let is_flood = counts.ends.is_over(self.max.ends);
        if is_flood || self.began.elapsed() < WINDOW { counts.ends.leave() } else { 0 }
    }
}

/// What connections opened and closed in vain that are gone, or were cut off for it, by address and by
/// [site](Origin::site), which may leave four times as much: nobody begins anew by connecting again.
#[derive(Debug)]
pub(super) struct Leavings {
    max: u32,
    by_address: Mutex<ByAddress<Count>>,
    by_site: Mutex<ByAddress<Count>>,
}

impl Leavings {
    pub(super) fn new(settings: &BrokerSettings) -> Self {
        let known = || Mutex::new(ByAddress::new(settings.addresses_known_max));
        Self { max: VainMax::of(settings).ends, by_address: known(), by_site: known() }
    }

    /// A connection from there leaves so many ends.
    pub(super) fn add(&self, from: Option<Origin>, ends: u32) {
        let Some(origin) = from.filter(|_| ends > 0) else { return };
        self.by_address.lock().of(origin, Count::new).add(ends, self.max);
        if let Some(site) = origin.site() {
            self.by_site.lock().of(site, Count::new).add(ends, self.max_of_site());
        }
    }

    /// Whether there were too many now for a stream from there to begin.
    pub(super) fn are_over(&self, from: Option<Origin>) -> bool {
        let Some(origin) = from else { return false };
        let is_over = |known: &Mutex<ByAddress<Count>>, of, max| {
            known.lock().get(of).is_some_and(|ends| ends.is_over(max))
        };
        is_over(&self.by_address, origin, self.max)
            || origin.site().is_some_and(|site| is_over(&self.by_site, site, self.max_of_site()))
    }

    const fn max_of_site(&self) -> u32 {
        self.max.saturating_mul(SITE_SHARES)
    }

    /// How many addresses were forgotten for want of room.
    pub(super) fn forgotten(&self) -> u64 {
        let sites = self.by_site.lock().forgotten();
        self.by_address.lock().forgotten() + sites
    }
}

/// A site has so many times what one address has.
const SITE_SHARES: u32 = 4;

const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::far;

    const MAX: VainMax = VainMax { frames: 100, ends: 300 };

    #[tokio::test(start_paused = true)]
    async fn promise_10_what_is_in_vain_is_counted_by_the_second_and_each_kind_apart() {
        let connection = InVain::new(MAX);
        for _ in 0..3 {
            assert!((0..100).all(|_| !connection.note(Vain::Frame, 1)));
            assert!(!connection.note(Vain::End, 300), "all that there may be, at once");
            assert_eq!(connection.over(), None);
            assert!(connection.note(Vain::Frame, 1));
            assert_eq!(connection.over(), Some(Vain::Frame));
            assert!(connection.note(Vain::End, 1));
            tokio::time::advance(WINDOW).await;
            assert_eq!(connection.over(), None);
            assert!(!connection.note(Vain::Frame, 0) && !connection.note(Vain::End, 0));
        }
    }

    #[test]
    fn ends_may_be_as_many_as_there_may_be_open_handles() {
        let settings = BrokerSettings { subscriptions_max: 12_000, ..BrokerSettings::default() };
        assert_eq!(VainMax::of(&settings).told(Vain::End).0, 12_000 + 4_096);
        assert_eq!(VainMax::of(&settings).told(Vain::Frame).0, 10_000);
        let settings = BrokerSettings::default();
        assert_eq!(VainMax::of(&settings).told(Vain::End).0, 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_a_connection_leaves_to_its_address_what_it_did_in_its_first_second() {
        let settings = BrokerSettings {
            futile_frames_max: 100,
            subscriptions_max: 150,
            producers_max: 150,
            ..BrokerSettings::default()
        };
        let leavings = Leavings::new(&settings);
        let come_and_go = |origin| {
            let connection = InVain::new(VainMax::of(&settings));
            assert!(!connection.note(Vain::End, 150));
            leavings.add(origin, connection.leave());
            leavings.add(origin, connection.leave());
        };
        come_and_go(far(1));
        come_and_go(far(1));
        assert!(!leavings.are_over(far(1)), "once more is no harm");
        come_and_go(far(1));
        assert!(leavings.are_over(far(1)) && !leavings.are_over(far(2)));
        (0..10).for_each(|_| come_and_go(None));
        assert!(!leavings.are_over(None), "this machine's peers have no address of their own");
        tokio::time::advance(WINDOW).await;
        assert!(!leavings.are_over(far(1)));
        come_and_go(far(1));
        assert!(!leavings.are_over(far(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_all_networks_of_a_site_leave_four_times_what_one_may() {
        let settings = BrokerSettings {
            futile_frames_max: 100,
            subscriptions_max: 50,
            producers_max: 50,
            ..BrokerSettings::default()
        };
        let leavings = Leavings::new(&settings);
        let of = |text: &str| Origin::of_ip(text.parse().unwrap());
        let nth = |n: u32| of(&format!("2001:db8:1:{n:x}::1"));
        for n in 0..8 {
            assert!(!leavings.are_over(nth(100)), "{n}");
            leavings.add(nth(n), 50);
        }
        assert!(!leavings.are_over(nth(100)), "just four times as many");
        leavings.add(nth(8), 1);
        assert!(leavings.are_over(nth(100)));
        assert!(!leavings.are_over(of("2001:db8:2::1")), "another site");
        tokio::time::advance(WINDOW).await;
        assert!(!leavings.are_over(nth(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_a_crowd_that_is_lost_at_once_leaves_nothing_and_a_flood_is_left_at_any_age()
    {
        let leavings = Leavings::new(&BrokerSettings::default());
        let crowd: Vec<_> =
            (0..100).map(|_| InVain::new(VainMax::of(&BrokerSettings::default()))).collect();
        tokio::time::advance(WINDOW).await;
        for connection in &crowd {
            assert!(!connection.note(Vain::End, 4_096));
            leavings.add(far(1), connection.leave());
        }
        assert!(!leavings.are_over(far(1)));
        // Ends of long ago do not hide it.
        let late = &crowd[0];
        tokio::time::advance(WINDOW).await;
        assert!(!late.note(Vain::End, 9_000));
        assert!(late.note(Vain::End, 1_001));
        leavings.add(far(1), late.leave());
        assert!(leavings.are_over(far(1)));
        // Other frames stay with their connection.
        assert!(late.note(Vain::Frame, 10_001));
        leavings.add(far(2), late.leave());
        assert!(!leavings.are_over(far(2)));
    }
}
