//! How often peers of an address may do something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::by_address::ByAddress;
use crate::{Networks, Origin};

/// How many connections each address may begin in a time: so many a second, and ten times as many
/// at once, of a whole [site](Origin::site) four times that. What is turned away counts for nothing, so who comes
/// again and again comes in, only later.
///
/// Users of Unix sockets and other peers of this machine are not counted.
#[derive(Debug)]
pub struct Arrivals {
    per_second: u32,
    exempt: Networks,
    rates: Mutex<Rates>,
}

impl Arrivals {
    /// Remembers so many addresses, those seen last, and as many sites. `exempt` are counted nowhere.
    #[must_use]
    pub const fn new(per_second: u32, addresses_known_max: usize, exempt: Networks) -> Self {
        let rates = Mutex::new(Rates::new(addresses_known_max));
        Self { per_second, exempt, rates }
    }

    /// Counts one more of there, if there is room for it.
    pub fn take(&self, from: Option<Origin>) -> bool {
        let Some(origin) = from.filter(|from| from.is_remote()) else { return true };
        self.rates.lock().take(origin, self.limit(), Instant::now())
    }

    /// Whether somebody of there has to prove first that it is there: half of what may come at once has come, from its
    /// address or its site.
    pub fn are_many(&self, from: Option<Origin>) -> bool {
        let Some(origin) = from.filter(|from| from.is_remote()) else { return false };
        self.rates.lock().is_half_taken(origin, self.limit(), Instant::now())
    }

    /// Where somebody comes from, as far as it is counted.
    #[must_use]
    pub fn origin_of_ip(&self, ip: std::net::IpAddr) -> Option<Origin> {
        self.exempt.origin_of_ip(ip)
    }

    fn limit(&self) -> RateLimit {
        let at_once = f64::from(self.per_second) * f64::from(ARRIVALS_AT_ONCE);
        RateLimit { at_once, again_in: Duration::from_secs(ARRIVALS_AT_ONCE.into()) }
    }
}

/// So many at once, and as many again in each such time.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimit {
    at_once: f64,
    again_in: Duration,
}

impl RateLimit {
    pub(super) fn per_minute(count: u32) -> Self {
        Self { at_once: count.into(), again_in: Duration::from_secs(60) }
    }

    /// What a whole site has.
    fn of_site(self) -> Self {
        Self { at_once: self.at_once * SITE_SHARES, ..self }
    }
}

/// What the addresses that were seen last, and their sites, have left.
#[derive(Debug)]
pub(super) struct Rates {
    by_origin: ByAddress<Rate>,
    by_site: ByAddress<Rate>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

impl Rates {
    pub(super) const fn new(addresses_known_max: usize) -> Self {
        Self {
            by_origin: ByAddress::new(addresses_known_max),
            by_site: ByAddress::new(addresses_known_max),
        }
    }

    /// Counts one more of there, if there is room for it.
    pub(super) fn take(&mut self, origin: Origin, limit: RateLimit, now: Instant) -> bool {
        let of_site = limit.of_site();
        let mut site = origin.site().map(|site| {
            let rate = self.by_site.of(site, || Rate { left: of_site.at_once, at: now });
            rate.refill(of_site, now);
            rate
        });
        let rate = self.by_origin.of(origin, || Rate { left: limit.at_once, at: now });
        rate.refill(limit, now);
        if rate.left < 1.0 || site.as_ref().is_some_and(|site| site.left < 1.0) {
            return false;
        }
        rate.left -= 1.0;
        if let Some(site) = &mut site {
            site.left -= 1.0;
        }
        true
    }

    /// Whether one address has less than half left, or its site has.
    fn is_half_taken(&self, origin: Origin, limit: RateLimit, now: Instant) -> bool {
        let is_half = |rate: Option<&Rate>, limit: RateLimit| {
            rate.is_some_and(|rate| {
                let mut rate = *rate;
                rate.refill(limit, now);
                rate.left < limit.at_once / 2.0
            })
        };
        let site = origin.site().and_then(|site| self.by_site.get(site));
        is_half(self.by_origin.get(origin), limit) || is_half(site, limit.of_site())
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.by_origin.forgotten() + self.by_site.forgotten()
    }
}

impl Rate {
    fn refill(&mut self, limit: RateLimit, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let back = passed * limit.at_once / limit.again_in.as_secs_f64();
        self.left = (self.left + back).min(limit.at_once);
        self.at = now;
    }
}

/// So many seconds' worth of connections may come at once: when a node is there again, all clients of an address are
/// within a moment.
const ARRIVALS_AT_ONCE: u32 = 10;
/// A site has so many times what one address has.
const SITE_SHARES: f64 = 4.0;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::advance;

    use super::*;

    fn at(text: &str) -> Option<Origin> {
        Origin::of_ip(text.parse::<IpAddr>().unwrap())
    }

    fn taken(arrivals: &Arrivals, from: Option<Origin>, tries: usize) -> usize {
        (0..tries).filter(|_| arrivals.take(from)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_an_address_that_comes_too_often_is_slowed_down_and_never_locked_out() {
        let arrivals = Arrivals::new(3, 100, Networks::default());
        let (one, other) = (at("192.0.2.1"), at("192.0.2.2"));
        assert!(!arrivals.are_many(one));
        assert_eq!(taken(&arrivals, one, 16), 16);
        assert!(arrivals.are_many(one));
        assert_eq!(taken(&arrivals, one, 100), 14);
        assert_eq!(taken(&arrivals, other, 5), 5);
        // However many were turned away.
        assert_eq!(taken(&arrivals, one, 10_000), 0);
        for _ in 0..4 {
            advance(Duration::from_secs(1)).await;
            assert_eq!(taken(&arrivals, one, 100), 3);
        }
        advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken(&arrivals, one, 100), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_all_networks_of_a_site_have_four_times_what_one_has() {
        let arrivals = Arrivals::new(1, 100, Networks::default());
        let nth = |n: u32| at(&format!("2001:db8:1:{n:x}::1"));
        let taken_by_all: usize = (0..100).map(|n| taken(&arrivals, nth(n), 20)).sum();
        assert_eq!(taken_by_all, 40);
        assert_eq!(taken(&arrivals, at("2001:db8:2::1"), 20), 10, "another site");
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_all_of_a_site_have_to_prove_that_they_are_there_at_half_of_its_rate() {
        let arrivals = Arrivals::new(1, 100, Networks::default());
        let nth = |n: u32| at(&format!("2001:db8:1:{n:x}::1"));
        // Each network has come less often than makes it prove anything by itself.
        for n in 0..5 {
            assert!(!arrivals.are_many(nth(100)), "{n}");
            assert_eq!(taken(&arrivals, nth(n), 4), 4);
        }
        assert!(!arrivals.are_many(nth(100)), "just half of it");
        assert_eq!(taken(&arrivals, nth(5), 1), 1);
        assert!(arrivals.are_many(nth(100)) && arrivals.are_many(nth(0)));
        assert!(!arrivals.are_many(at("2001:db8:2::1")), "another site");
        advance(Duration::from_secs(1)).await;
        assert!(!arrivals.are_many(nth(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn this_machine_s_own_and_those_that_are_named_are_not_counted() {
        let arrivals = Arrivals::new(1, 100, ["10.0.0.0/8".parse().unwrap()].into_iter().collect());
        assert_eq!(arrivals.origin_of_ip([10, 1, 2, 3].into()), None);
        assert_eq!(taken(&arrivals, None, 100), 100);
        let identity = Some("uid:7".to_owned());
        let user = crate::Peer { address: "unix:///run/ltq#1".parse().unwrap(), identity };
        assert_eq!(taken(&arrivals, Origin::of_peer(&user), 100), 100);
    }
}
