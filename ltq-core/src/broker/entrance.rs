//! The places of connections: who has one, and who has not said yet who it is.
//!
//! A place costs a peer nothing but a connection, so those that were let in must not compete for it with those that
//! say nothing. Without an accepted hello a connection has one of a part of the places, of which those of one address
//! have a part again; where they are taken, the oldest gives way once it has had its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{rates::Arrivals, settings::BrokerSettings, shared::Shared};
use crate::{Limit, Networks, Origin, Refusal};

/// How connections come in: what of [`BrokerSettings`] is about those that nobody has let in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntranceSettings {
    /// The most connections at a time without an accepted hello. Of more the oldest gives way when it has had a second;
    /// until then further ones are refused. `None`, the default: a quarter of
    /// [`connections_max`](BrokerSettings::connections_max), and 16 at least.
    pub greeting_connections_max: Option<usize>,
    /// The most of them from one [`Origin`], by the same rule; of a whole [site](Origin::site) four times as many,
    /// but no more than three quarters. `None`, the default: a quarter, and 4 at least.
    pub greeting_connections_per_address_max: Option<usize>,
    /// The most connections that begin in a second from one IP address, other than this machine's; of a whole
    /// [site](Origin::site) four times as many. Ten times as many may come at once; further ones are refused, which
    /// counts for nothing. Default: 200.
    pub connections_per_second_max: u32,
    /// Addresses that no limit by address counts, nor the one of wrong tokens: proxies, load balancers. Default: none.
    pub exempt_addresses: Networks,
}

impl Default for EntranceSettings {
    fn default() -> Self {
        Self {
            greeting_connections_max: None,
            greeting_connections_per_address_max: None,
            connections_per_second_max: 200,
            exempt_addresses: Networks::default(),
        }
    }
}

impl EntranceSettings {
    /// Of so many places in all.
    pub(super) fn greeting_max(&self, connections_max: usize) -> usize {
        let usual = (connections_max / GREETING_PART).max(GREETING_LEAST);
        self.greeting_connections_max.unwrap_or(usual)
    }

    pub(super) fn greeting_per_address(&self, connections_max: usize) -> usize {
        let part = self.greeting_max(connections_max) / GREETING_PART;
        self.greeting_connections_per_address_max.unwrap_or_else(|| part.max(GREETING_LEAST_OF_ONE))
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Entrance {
    limits: Limits,
    arrivals: Arrivals,
    places: Mutex<Places>,
    crowded_out: AtomicU64,
}

/// Of all, of one address, and of one site.
#[derive(Clone, Copy, Debug)]
struct Limits {
    open: [usize; 3],
    greeting: [usize; 3],
    per_second: u32,
}

#[derive(Debug, Default)]
struct Places {
    all: Taken,
    by_origin: BTreeMap<Origin, Taken>,
    greeting: BTreeMap<Ticket, Greeting>,
    tickets: u64,
}

/// In the order in which they came.
type Ticket = u64;

#[derive(Debug, Default)]
struct Taken {
    open: usize,
    greeting: BTreeSet<Ticket>,
}

#[derive(Debug)]
struct Greeting {
    since: Instant,
    from: From,
    gate: Arc<Gate>,
}

/// An origin, and its site.
type From = [Option<Origin>; 2];

/// By which a connection learns that it has to give way.
#[derive(Debug, Default)]
struct Gate {
    is_shut: AtomicBool,
    told: Notify,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// What of it is full.
    pub(super) limit: Limit,
    pub(super) max: usize,
}

impl Entrance {
    pub(super) fn new(settings: &BrokerSettings) -> Self {
        let BrokerSettings { connections_max, connections_per_address_max, entrance, .. } =
            settings;
        let of = |all: usize, one: usize| [all, one, Origin::share_of_site(one, all)];
        let greeting_max = entrance.greeting_max(*connections_max);
        let per_second = entrance.connections_per_second_max;
        let exempt = entrance.exempt_addresses.clone();
        Self {
            limits: Limits {
                open: of(*connections_max, *connections_per_address_max),
                greeting: of(greeting_max, entrance.greeting_per_address(*connections_max)),
                per_second,
            },
            arrivals: Arrivals::new(per_second, settings.addresses_known_max, exempt),
            places: Mutex::default(),
            crowded_out: AtomicU64::new(0),
        }
    }

    /// Connections that gave way to others before they had said hello.
    pub(super) fn crowded_out(&self) -> u64 {
        self.crowded_out.load(Ordering::Relaxed)
    }

    /// How many have said no hello that was accepted.
    pub(super) fn greeting(&self) -> usize {
        self.places.lock().greeting.len()
    }

    fn take(&self, origin: Option<Origin>, now: Instant) -> Result<(Ticket, Arc<Gate>), Full> {
        let from = [origin, origin.and_then(Origin::site)];
        let mut places = self.places.lock();
        let gives_way = places.room(from, &self.limits, now)?;
        // Last, as what is refused counts for nothing.
        if !self.arrivals.take(origin) {
            let max = self.limits.per_second as usize;
            return Err(Full { limit: Limit::ConnectionsPerSecond, max });
        }
        if let Some(oldest) = gives_way
            && let Some(greeting) = places.greeted(oldest)
        {
            self.crowded_out.fetch_add(1, Ordering::Relaxed);
            greeting.gate.shut();
        }
        Ok(places.take(from, now))
    }
}

impl Places {
    /// Who has to give way for one more from there, if anybody has.
    fn room(&self, from: From, limits: &Limits, now: Instant) -> Result<Option<Ticket>, Full> {
        let [origin, site] = from.map(|from| from.and_then(|from| self.by_origin.get(&from)));
        // Of one address first: whoever takes its place there takes none of others.
        let [all, one, whole_site] = limits.open;
        for (taken, limit, max) in [
            (origin, Limit::ConnectionsPerAddress, one),
            (site, Limit::ConnectionsPerAddress, whole_site),
            (Some(&self.all), Limit::Connections, all),
        ] {
            if taken.is_some_and(|taken| taken.open >= max) {
                return Err(Full { limit, max });
            }
        }
        let [all, one, whole_site] = limits.greeting;
        for (taken, limit, max) in [
            (origin, Limit::GreetingConnectionsPerAddress, one),
            (site, Limit::GreetingConnectionsPerAddress, whole_site),
            (Some(&self.all), Limit::GreetingConnections, all),
        ] {
            let Some(taken) = taken.filter(|taken| taken.greeting.len() >= max) else { continue };
            let oldest = taken.greeting.first().copied();
            let since = oldest.and_then(|oldest| Some(self.greeting.get(&oldest)?.since));
            return match since {
                Some(since) if now.saturating_duration_since(since) >= GRACE => Ok(oldest),
                _ => Err(Full { limit, max }),
            };
        }
        Ok(None)
    }

    fn take(&mut self, from: From, now: Instant) -> (Ticket, Arc<Gate>) {
        let ticket = self.tickets;
        self.tickets += 1;
        self.each(from, |taken| {
            taken.open += 1;
            taken.greeting.insert(ticket);
        });
        let gate = Arc::<Gate>::default();
        self.greeting.insert(ticket, Greeting { since: now, from, gate: gate.clone() });
        (ticket, gate)
    }

    /// One of those without a hello is none any more.
    fn greeted(&mut self, ticket: Ticket) -> Option<Greeting> {
        let greeting = self.greeting.remove(&ticket)?;
        self.each(greeting.from, |taken| {
            taken.greeting.remove(&ticket);
        });
        Some(greeting)
    }

    fn leave(&mut self, origin: Option<Origin>, ticket: Ticket) {
        self.greeted(ticket);
        self.each([origin, origin.and_then(Origin::site)], |taken| taken.open -= 1);
    }

    /// Changes the counts of all, of an origin and of its site, and forgets those that have nothing.
    fn each(&mut self, from: From, change: impl Fn(&mut Taken)) {
        change(&mut self.all);
        for origin in from.into_iter().flatten() {
            let taken = self.by_origin.entry(origin).or_default();
            change(taken);
            if taken.open == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Gate {
    fn shut(&self) {
        self.is_shut.store(true, Ordering::Release);
        self.told.notify_waiters();
    }
}

impl Full {
    /// What whoever is turned away is told.
    pub(super) fn refusal(self) -> Refusal {
        let Self { limit, max } = self;
        let detail = match limit {
            Limit::ConnectionsPerAddress => format!("this address has {max} connections"),
            Limit::GreetingConnections => {
                format!("the node is full: {max} connections have said no hello")
            }
            Limit::GreetingConnectionsPerAddress => {
                format!("{max} connections of this address have said no hello")
            }
            Limit::ConnectionsPerSecond => {
                format!("more than {max} connections a second came from this address")
            }
            _ => format!("the node is full: it has {max} connections"),
        };
        Refusal::limit(limit, format!("{detail}, the most by {}; try again later", limit.as_str()))
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Entry {
    shared: Arc<Shared>,
    origin: Option<Origin>,
    ticket: Ticket,
    gate: Arc<Gate>,
}

impl Entry {
    /// One for a connection from there.
    pub(super) fn take(shared: &Arc<Shared>, origin: Option<Origin>) -> Result<Self, Full> {
        let (ticket, gate) = shared.entrance.take(origin, Instant::now())?;
        shared.connections.send_modify(|open| *open += 1);
        Ok(Self { shared: shared.clone(), origin, ticket, gate })
    }

    /// Where the connection comes from.
    pub(super) const fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// A hello was accepted: nobody takes this place any more.
    pub(super) fn welcomed(&self) {
        self.shared.entrance.places.lock().greeted(self.ticket);
    }

    /// Resolves when it has to give way to another.
    pub(super) async fn gives_way(&self) {
        loop {
            // Made before it is looked, so that nothing is said in between.
            let told = self.gate.told.notified();
            if self.gate.is_shut.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }

    /// What whoever gives way is told.
    pub(super) fn crowded_out(&self) -> Refusal {
        let [max, ..] = self.shared.entrance.limits.greeting;
        Full { limit: Limit::GreetingConnections, max }.refusal()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.entrance.places.lock().leave(self.origin, self.ticket);
        self.shared.connections.send_modify(|open| *open -= 1);
    }
}

/// One in so many of all connections may have said no hello, and one in so many of those be from one address.
const GREETING_PART: usize = 4;
/// Of few connections this many may have said no hello all the same, and of one address so many.
const GREETING_LEAST: usize = 16;
const GREETING_LEAST_OF_ONE: usize = 4;
/// What a connection has for its hello before it may have to give way: three times the way around the earth and back.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "entrance_tests.rs"]
mod tests;
