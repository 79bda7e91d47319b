//! The places of connections: who has one, and who has not said yet who it is.
//!
//! A place costs a peer nothing but a connection, so those that were let in must not compete for it with those that
//! say nothing. Without an accepted hello a connection has one of a part of the places, of which those of one address
//! have a part again; where they are taken, or all places are, the oldest gives way once it has had its time.

mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;

use super::{rates::Arrivals, settings::BrokerSettings};
use crate::{Limit, Networks, Origin, Peer, Refusal};

pub use settings::{ConnectionLimits, EntranceSettings};

/// All places of a server, and how they are given to connections.
#[derive(Debug)]
pub struct Entrance {
    /// What it is the entrance of, in words.
    whose: &'static str,
    limits: Limits,
    arrivals: Arrivals,
    exempt: Networks,
    places: Mutex<Places>,
    /// How many are taken.
    open: watch::Sender<usize>,
    counts: Counts,
}

/// What came to an [`Entrance`] since it was made, and who is there without a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntranceFigures {
    /// Connections that got a place.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections refused because their address, or its site, had too many.
    pub refused_by_address: u64,
    /// Connections refused because too many, of all or of their address, had said no hello.
    pub refused_greeting: u64,
    /// Connections refused because too many came from their address in a short time.
    pub refused_by_rate: u64,
    /// Connections that gave way to others before they had said hello.
    pub crowded_out: u64,
    /// Connections that have a place, and on which no hello was accepted so far.
    pub greeting: u64,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    refused_by_address: AtomicU64,
    refused_greeting: AtomicU64,
    refused_by_rate: AtomicU64,
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

/// A limit that is reached, and how many it allows.
type Reached = (Limit, usize);

/// By which a connection learns that it has to give way.
#[derive(Debug, Default)]
struct Gate {
    /// For want of which room.
    shut: OnceLock<Reached>,
    told: Notify,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What there are enough of.
    pub limit: Limit,
    /// How many that is.
    pub max: usize,
    whose: &'static str,
}

impl Entrance {
    /// That of `whose` kind of server: "node", "registry".
    #[must_use]
    pub fn new(whose: &'static str, of: ConnectionLimits, settings: &EntranceSettings) -> Self {
        let ConnectionLimits { connections_max, connections_per_address_max, addresses_known_max } =
            of;
        let of = |all: usize, one: usize| [all, one, Origin::share_of_site(one, all)];
        let greeting_max = settings.greeting_max(connections_max);
        let per_second = settings.connections_per_second_max;
        let exempt = settings.exempt_addresses.clone();
        Self {
            whose,
            limits: Limits {
                open: of(connections_max, connections_per_address_max),
                greeting: of(
                    greeting_max,
                    settings.greeting_per_address(connections_max, connections_per_address_max),
                ),
                per_second,
            },
            arrivals: Arrivals::new(per_second, addresses_known_max, exempt.clone()),
            exempt,
            places: Mutex::default(),
            open: watch::channel(0).0,
            counts: Counts::default(),
        }
    }

    /// That of a broker.
    pub(super) fn of_broker(settings: &BrokerSettings) -> Self {
        let BrokerSettings {
            connections_max,
            connections_per_address_max,
            addresses_known_max,
            entrance,
            ..
        } = settings;
        let of = ConnectionLimits {
            connections_max: *connections_max,
            connections_per_address_max: *connections_per_address_max,
            addresses_known_max: *addresses_known_max,
        };
        Self::new("node", of, entrance)
    }

    /// Connections that have a place.
    #[must_use]
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Resolves when there is none.
    pub async fn deserted(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// What came so far.
    #[must_use]
    pub fn figures(&self) -> EntranceFigures {
        let Counts {
            accepted,
            refused,
            refused_by_address,
            refused_greeting,
            refused_by_rate,
            crowded_out,
        } = &self.counts;
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EntranceFigures {
            accepted: now(accepted),
            refused: now(refused),
            refused_by_address: now(refused_by_address),
            refused_greeting: now(refused_greeting),
            refused_by_rate: now(refused_by_rate),
            crowded_out: now(crowded_out),
            greeting: self.greeting() as u64,
        }
    }

    /// How many have said no hello that was accepted.
    pub(super) fn greeting(&self) -> usize {
        self.places.lock().greeting.len()
    }

    /// A connection from there gets no place.
    fn refused(&self, peer: &Peer, full: Full) {
        let counts = &self.counts;
        let counter = match full.limit {
            Limit::ConnectionsPerAddress => &counts.refused_by_address,
            Limit::ConnectionsPerSecond => &counts.refused_by_rate,
            Limit::GreetingConnections | Limit::GreetingConnectionsPerAddress => {
                &counts.refused_greeting
            }
            _ => &counts.refused,
        };
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        // An operator has to know of it; a flood of connections is no reason for one of lines.
        if count.is_power_of_two() {
            let (peer, limit, max) = (&peer.address, full.limit.as_str(), full.max);
            warn!(%peer, limit, max, count, "refused: too many connections");
        }
    }

    fn full(&self, (limit, max): Reached) -> Full {
        Full { limit, max, whose: self.whose }
    }

    fn take(&self, origin: Option<Origin>, now: Instant) -> Result<(Ticket, Arc<Gate>), Full> {
        let from = [origin, origin.and_then(Origin::site)];
        let mut places = self.places.lock();
        let gives_way = places.room(from, &self.limits, now).map_err(|limit| self.full(limit))?;
        // Last, as what is refused counts for nothing.
        if !self.arrivals.take(origin) {
            let max = self.limits.per_second as usize;
            return Err(self.full((Limit::ConnectionsPerSecond, max)));
        }
        if let Some((oldest, full)) = gives_way
            && let Some(gate) = places.give_way(oldest)
        {
            self.counts.crowded_out.fetch_add(1, Ordering::Relaxed);
            gate.shut(full);
        }
        Ok(places.take(from, now))
    }
}

impl Places {
    /// Who has to give way for one more from there, if anybody has, and for want of what.
    fn room(
        &self,
        from: From,
        limits: &Limits,
        now: Instant,
    ) -> Result<Option<(Ticket, Reached)>, Reached> {
        let [origin, site] = from.map(|from| from.and_then(|from| self.by_origin.get(&from)));
        let ([all, one, whole_site], [silent, silent_of_one, silent_of_site]) =
            (limits.open, limits.greeting);
        let of_one = (Limit::ConnectionsPerAddress, Limit::GreetingConnectionsPerAddress);
        let of_all = (Limit::Connections, Limit::GreetingConnections);
        // The narrowest first: whoever takes a place there takes none of others, and who gives way there makes room in
        // what is around it, too.
        for (taken, (limit, max), (greeting_limit, greeting_max)) in [
            (origin, (of_one.0, one), (of_one.1, silent_of_one)),
            (site, (of_one.0, whole_site), (of_one.1, silent_of_site)),
            (Some(&self.all), (of_all.0, all), (of_all.1, silent)),
        ] {
            let Some(taken) = taken else { continue };
            let full = if taken.open >= max {
                (limit, max)
            } else if taken.greeting.len() >= greeting_max {
                (greeting_limit, greeting_max)
            } else {
                continue;
            };
            return match taken.greeting.first() {
                Some(oldest) if self.had_its_time(*oldest, now) => Ok(Some((*oldest, full))),
                _ => Err(full),
            };
        }
        Ok(None)
    }

    fn had_its_time(&self, ticket: Ticket, now: Instant) -> bool {
        let since = self.greeting.get(&ticket).map(|greeting| greeting.since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE)
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

    /// One of those without a hello counts no more, though it may be there for a moment still.
    fn give_way(&mut self, ticket: Ticket) -> Option<Arc<Gate>> {
        let Greeting { from, gate, .. } = self.greeted(ticket)?;
        self.each(from, |taken| taken.open -= 1);
        Some(gate)
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
    fn shut(&self, full: Reached) {
        self.shut.get_or_init(|| full);
        self.told.notify_waiters();
    }

    fn is_shut(&self) -> bool {
        self.shut.get().is_some()
    }
}

impl Full {
    /// What whoever is turned away is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        let Self { limit, max, whose } = self;
        let detail = match limit {
            Limit::ConnectionsPerAddress => format!("this address has {max} connections"),
            Limit::GreetingConnections => {
                format!("the {whose} is full: {max} connections have said no hello")
            }
            Limit::GreetingConnectionsPerAddress => {
                format!("{max} connections of this address have said no hello")
            }
            Limit::ConnectionsPerSecond => {
                format!("more than {max} connections a second came from this address")
            }
            _ => format!("the {whose} is full: it has {max} connections"),
        };
        Refusal::limit(limit, format!("{detail}, the most by {}; try again later", limit.as_str()))
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    entrance: Arc<Entrance>,
    origin: Option<Origin>,
    ticket: Ticket,
    gate: Arc<Gate>,
}

impl Entry {
    /// One for a connection of this peer. It is counted, and now and then logged, if there is none.
    ///
    /// # Errors
    /// [`Full`], which says what the peer is to be told.
    pub fn take(entrance: &Arc<Entrance>, peer: &Peer) -> Result<Self, Full> {
        let origin = entrance.exempt.origin_of_peer(peer);
        let (ticket, gate) = entrance
            .take(origin, Instant::now())
            .inspect_err(|full| entrance.refused(peer, *full))?;
        entrance.counts.accepted.fetch_add(1, Ordering::Relaxed);
        entrance.open.send_modify(|open| *open += 1);
        Ok(Self { entrance: entrance.clone(), origin, ticket, gate })
    }

    /// Where the connection comes from, as far as limits by address count it.
    #[must_use]
    pub const fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// A hello was accepted: nobody takes this place any more.
    ///
    /// # Errors
    /// What [`crowded_out`](Self::crowded_out) says: somebody has just taken it.
    pub fn welcomed(&self) -> Result<(), Refusal> {
        let mut places = self.entrance.places.lock();
        // Of a connection of many streams the first has been welcomed before, perhaps.
        places.greeted(self.ticket);
        if self.gate.is_shut() { Err(self.crowded_out()) } else { Ok(()) }
    }

    /// Resolves when it has to give way to another. Cancel safe.
    pub async fn gives_way(&self) {
        loop {
            // Made before it is looked, so that nothing is said in between.
            let told = self.gate.told.notified();
            if self.gate.is_shut() {
                return;
            }
            told.await;
        }
    }

    /// What whoever gives way is told.
    #[must_use]
    pub fn crowded_out(&self) -> Refusal {
        let [max, ..] = self.entrance.limits.greeting;
        let usual = (Limit::GreetingConnections, max);
        self.entrance.full(self.gate.shut.get().copied().unwrap_or(usual)).refusal()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut places = self.entrance.places.lock();
        // Who gave way was counted as gone then.
        if !self.gate.is_shut() {
            places.leave(self.origin, self.ticket);
        }
        drop(places);
        self.entrance.open.send_modify(|open| *open -= 1);
    }
}

/// What a connection has for its hello before it may have to give way: three times the way around the earth and back.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "entrance_tests.rs"]
mod tests;
