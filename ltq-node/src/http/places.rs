//! The places for HTTP connections, and who has them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ltq_core::{Networks, Origin};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::HttpOptions;

/// The places for connections, and how many are taken: shared by a server and who shows its figures.
///
/// Those of one address (of IPv6, one /64, and of its /48 three quarters at most) have a part of them at most, so that nobody alone keeps a probe
/// of health out; this machine's own, which stand for many programs, are not counted so.
#[derive(Clone, Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    all: usize,
    of_one: usize,
    exempt: Networks,
    by_address: Arc<Mutex<BTreeMap<Origin, usize>>>,
    refused: Arc<AtomicU64>,
    gave_way: Arc<AtomicU64>,
}

/// One of the connections of an address.
#[derive(Debug)]
pub(super) struct Share {
    counted: Option<Origin>,
    by_address: Arc<Mutex<BTreeMap<Origin, usize>>>,
}

impl Places {
    /// So many as `options` say.
    #[must_use]
    pub fn new(options: &HttpOptions) -> Self {
        let all = options.connections_max;
        Self {
            free: Arc::new(Semaphore::new(all)),
            all,
            of_one: options.connections_per_address_max.unwrap_or_else(|| share_of(all)),
            exempt: options.exempt_addresses.clone(),
            by_address: Arc::default(),
            refused: Arc::default(),
            gave_way: Arc::default(),
        }
    }

    /// How many there are.
    pub(in crate::http) const fn all(&self) -> usize {
        self.all
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// How many connections were closed because their address had its share.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many connections without a request were closed for others.
    #[must_use]
    pub fn gave_way(&self) -> u64 {
        self.gave_way.load(Ordering::Relaxed)
    }

    /// Notes whether one was.
    pub(super) fn made(&self, room: bool) -> bool {
        self.gave_way.fetch_add(u64::from(room), Ordering::Relaxed);
        room
    }

    /// Counts one more of an address. Where that has its share already one of its own has to make `room`; `None`,
    /// counted too, when none does.
    pub(super) fn share(&self, address: IpAddr, room: impl Fn(Origin) -> bool) -> Option<Share> {
        let counted = self.exempt.origin_of_ip(address);
        let scopes = [counted, counted.and_then(Origin::site)];
        let shares = [self.of_one, Origin::share_of_site(self.of_one, self.all)];
        let mut by_address = self.by_address.lock();
        // The first that is full makes room in the other as well.
        let full = scopes.into_iter().zip(shares).find_map(|(scope, max)| {
            scope.filter(|scope| by_address.get(scope).is_some_and(|has| *has >= max))
        });
        if full.is_some_and(|full| !self.made(room(full))) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        for scope in scopes.into_iter().flatten() {
            *by_address.entry(scope).or_default() += 1;
        }
        drop(by_address);
        Some(Share { counted, by_address: self.by_address.clone() })
    }

    /// A free place, at once.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// A free place, if there is one within this time. Cancel safe.
    pub(super) async fn take_within(&self, time: Duration) -> Option<OwnedSemaphorePermit> {
        timeout(time, self.free.clone().acquire_owned()).await.ok()?.ok()
    }
}

impl Share {
    /// Which address, unless it is this machine's.
    pub(super) const fn of(&self) -> Option<Origin> {
        self.counted
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let scopes = [self.counted, self.counted.and_then(Origin::site)];
        let mut by_address = self.by_address.lock();
        for scope in scopes.into_iter().flatten() {
            if let Some(has) = by_address.get_mut(&scope) {
                *has = has.saturating_sub(1);
                if *has == 0 {
                    by_address.remove(&scope);
                }
            }
        }
    }
}

/// Of so many places, what one address may have: at least one.
fn share_of(all: usize) -> usize {
    (all - all / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, of_one: Option<usize>) -> Places {
        Places::new(&HttpOptions {
            connections_max: all,
            connections_per_address_max: of_one,
            request_timeout: Duration::from_secs(1),
            body_bytes_total_max: 0,
            body_bytes_per_address_max: None,
            metrics_series_max: 0,
            metrics_public: true,
            at_loopback: true,
            exempt_addresses: ["198.51.100.7".parse().unwrap()].into_iter().collect(),
        })
    }

    #[test]
    fn promise_9_a_site_has_three_quarters_at_most_and_who_is_named_is_not_counted() {
        let places = places(8, Some(5));
        let share = |of: &str| places.share(of.parse().unwrap(), |_| false);
        let mut held: Vec<_> = (0..8).map_while(|n| share(&format!("2001:db8:1:{n}::1"))).collect();
        assert_eq!((held.len(), places.refused()), (6, 1));
        held.push(share("2001:db8:2::1").expect("another site"));
        held.extend((0..20).map(|_| share("198.51.100.7").expect("it is not counted")));
        drop(held);
        assert!(places.by_address.lock().is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn promise_9_how_many_places_one_address_has_can_be_set() {
        for (of_one, expected) in [(None, 6), (Some(2), 2), (Some(8), 8)] {
            let places = places(8, of_one);
            let one: IpAddr = "192.0.2.1".parse().unwrap();
            let held: Vec<_> = std::iter::from_fn(|| places.share(one, |_| false)).collect();
            assert_eq!((held.len(), places.refused()), (expected, 1));
        }
    }

    #[test]
    fn promise_9_one_address_has_three_quarters_of_the_places_at_most() {
        let places = places(4, None);
        let [one, same, other]: [IpAddr; 3] =
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"].map(|it| it.parse().unwrap());
        let share = |of: IpAddr| places.share(of, |_| false);
        let mut held: Vec<_> = [one, same, one].map(|it| share(it).unwrap()).into();
        assert!(share(one).is_none() && share(same).is_none());
        assert_eq!(places.refused(), 2);
        held.push(share(other).unwrap());
        held.remove(0);
        held.push(share(same).expect("one of its own has gone"));
        let own = |of| Origin::of_ip(one) == Some(of);
        held.push(places.share(one, own).expect("one of its own goes"));
        let here = IpAddr::from([127, 0, 0, 1]);
        held.extend((0..9).map(|_| share(here).expect("this machine's own are not counted")));
        drop(held);
        assert!(places.by_address.lock().is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn of_few_places_one_is_for_everybody() {
        assert_eq!([1, 2, 4, 512].map(share_of), [1, 2, 3, 384]);
    }
}
