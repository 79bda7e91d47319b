//! A network in one process, on tokio's clock and by a seed: what a path may do to bytes it does.

mod link;
mod many_streams;
mod pipe;
mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Entropy, Listener, Peer, Transport, TransportError};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};

use crate::OneStream;
use link::{Carried, Link, Side};
pub use routes::Route;
use routes::Routes;

/// What a [`SimulatedNetwork`] does to what passes through. By default it delivers at once and
/// whole, and never breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// How long a piece is under way at least; 0.
    pub delay_min: Duration,
    /// How long at most, when nothing stalls; 0. Pieces of one stream do not overtake each other,
    /// those of different streams do.
    pub delay_max: Duration,
    /// One piece in so many, and all behind it in that direction, takes up to
    /// [`stall_max`](Self::stall_max) more; none when it is 0.
    pub stall_one_in: u64,
    /// How long a stall is at most; 0.
    pub stall_max: Duration,
    /// After one piece in so many some connection is cut, and both ends are told; none when 0.
    pub cut_one_in: u64,
    /// After one piece in so many one direction of some connection is dead, and nobody is told; none
    /// when 0.
    pub silence_one_in: u64,
    /// After one piece in so many one stream of some connection is broken alone, and both ends are
    /// told; none when 0.
    pub reset_one_in: u64,
    /// After one piece in so many one direction of one stream ends, as if its sender had finished it,
    /// and the other goes on; none when 0.
    pub half_close_one_in: u64,
    /// One attempt to connect in so many is refused; none when 0.
    pub refuse_one_in: u64,
    /// One attempt to connect in so many is never answered; none when 0.
    pub hang_one_in: u64,
    /// Whether sends and receives take less than they could, as chance will have it; no.
    pub pieces: bool,
    /// Bytes of one direction that may be under way before its sender has to wait; 256 KiB. At
    /// least 1 is allowed always.
    pub window: usize,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_min: Duration::ZERO,
            delay_max: Duration::ZERO,
            stall_one_in: 0,
            stall_max: Duration::ZERO,
            cut_one_in: 0,
            silence_one_in: 0,
            reset_one_in: 0,
            half_close_one_in: 0,
            refuse_one_in: 0,
            hang_one_in: 0,
            pieces: false,
            window: 256 << 10,
        }
    }
}

/// A network of hosts in one process, for simulations: [`host`](Self::host) gives each of them its
/// [`Transport`], of addresses like `sim://HOST`. Clones are the same network.
///
/// Time is tokio's, which a simulation pauses; chance comes from where it is told. On a runtime of
/// one thread the same then happens again for the same chance.
#[derive(Clone)]
pub struct SimulatedNetwork {
    roads: Arc<Roads>,
}

/// What all of it share.
struct Roads {
    chance: Arc<dyn Entropy>,
    weather: Mutex<Weather>,
    routes: Routes,
    listeners: Mutex<BTreeMap<String, mpsc::UnboundedSender<Box<dyn Connection>>>>,
    links: Mutex<Vec<Link>>,
    down: Mutex<BTreeSet<String>>,
    connections: AtomicU64,
    many_streams_one_in: AtomicU64,
}

impl Roads {
    fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    fn below(&self, limit: u64) -> u64 {
        self.chance.next() % limit.max(1)
    }

    fn one_in(&self, count: u64) -> bool {
        count > 0 && self.below(count) == 0
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(span.saturating_add(1)))
    }

    /// Whether the one end of a connection does not hear what becomes of the other.
    fn is_apart(&self, link: &Link) -> bool {
        let [one, other] = link.hosts();
        self.routes.is_cut(one, other) || self.routes.is_cut(other, one)
    }

    /// A piece is on its way: what else happens to the network.
    fn passed(&self) {
        let weather = self.weather();
        let cut = self.one_in(weather.cut_one_in);
        let silence = self.one_in(weather.silence_one_in);
        let reset = self.one_in(weather.reset_one_in);
        let half_close = self.one_in(weather.half_close_one_in);
        if !cut && !silence && !reset && !half_close {
            return;
        }
        let mut links = self.links.lock();
        links.retain(|link| !link.is_over());
        let Some(link) = links.get(self.below(links.len() as u64) as usize) else { return };
        if cut {
            link.cut(self.is_apart(link));
        } else if silence {
            link.silence(self.below(2) as usize);
        } else if reset {
            link.reset(self.chance.next());
        } else {
            link.half_close(self.chance.next(), self.below(2) as usize);
        }
    }
}

impl SimulatedNetwork {
    /// A network without hosts, in fine weather. Its connections carry one stream.
    #[must_use]
    pub fn new(chance: Arc<dyn Entropy>) -> Self {
        let roads = Roads {
            chance,
            weather: Mutex::default(),
            routes: Routes::default(),
            listeners: Mutex::default(),
            links: Mutex::default(),
            down: Mutex::default(),
            connections: AtomicU64::new(0),
            many_streams_one_in: AtomicU64::new(0),
        };
        Self { roads: Arc::new(roads) }
    }

    /// Of the connections that are made from now on, one in so many carries many streams: as many as
    /// are opened. None when 0.
    pub fn set_many_streams(&self, one_in: u64) {
        self.roads.many_streams_one_in.store(one_in, Relaxed);
    }

    /// What it does from now on.
    pub fn set_weather(&self, weather: Weather) {
        *self.roads.weather.lock() = weather;
    }

    /// The transport of a host.
    #[must_use]
    pub fn host(&self, name: impl Into<String>) -> SimulatedHost {
        SimulatedHost { roads: Arc::clone(&self.roads), name: name.into() }
    }

    /// What ways from one host to another do from now on, each told as from, to and what: these, and
    /// all others nothing.
    pub fn set_routes(&self, routes: impl IntoIterator<Item = (String, String, Route)>) {
        self.roads.routes.set(routes);
        self.roads.links.lock().iter().for_each(Link::wake);
    }

    /// Cuts all connections of a host. Their other ends are told, or, if it is `silent` or the
    /// [way](Self::set_routes) is cut, hear nothing any more, as when a machine loses its power.
    pub fn cut(&self, host: &str, silent: bool) {
        let mut links = self.roads.links.lock();
        links.retain(|link| {
            let ours = link.is_of(host);
            if ours {
                link.cut(silent || self.roads.is_apart(link));
            }
            !ours && !link.is_over()
        });
    }

    /// Whether a host takes part: while it is down whatever it sends or asks for goes nowhere, and
    /// nobody listens there. What it was listening on is gone.
    pub fn set_down(&self, host: &str, down: bool) {
        if down {
            self.roads.down.lock().insert(host.to_owned());
            self.roads.listeners.lock().remove(host);
        } else {
            self.roads.down.lock().remove(host);
        }
    }
}

impl fmt::Debug for SimulatedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedNetwork")
            .field("weather", &self.roads.weather())
            .finish_non_exhaustive()
    }
}

/// The transport of one host of a [`SimulatedNetwork`].
#[derive(Clone)]
pub struct SimulatedHost {
    roads: Arc<Roads>,
    name: String,
}

impl fmt::Debug for SimulatedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedHost").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SimulatedHost {
    fn is_down(&self) -> bool {
        self.roads.down.lock().contains(&self.name)
    }
}

#[async_trait]
impl Transport for SimulatedHost {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        if address.scheme() != SCHEME || address.rest() != self.name {
            return Err(TransportError::Address {
                address: address.clone(),
                why: format!("host {} listens on {SCHEME}://{} only", self.name, self.name),
            });
        }
        let failed = |source: io::ErrorKind| TransportError::Io {
            doing: format!("listening on {address}"),
            source: source.into(),
        };
        if self.is_down() {
            return Err(failed(io::ErrorKind::NetworkDown));
        }
        let mut listeners = self.roads.listeners.lock();
        if listeners.get(&self.name).is_some_and(|listener| !listener.is_closed()) {
            return Err(failed(io::ErrorKind::AddrInUse));
        }
        let (sender, waiting) = mpsc::unbounded_channel();
        listeners.insert(self.name.clone(), sender);
        Ok(Box::new(SimulatedListener { address: address.clone(), waiting }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        if address.scheme() != SCHEME {
            return Err(TransportError::Address {
                address: address.clone(),
                why: format!("the simulated network takes addresses like {SCHEME}://HOST"),
            });
        }
        let roads = &self.roads;
        let weather = roads.weather();
        let (us, there) = (self.name.as_str(), address.rest());
        let ways = [[us, there], [there, us]];
        let routes: Duration = ways.iter().map(|[from, to]| roads.routes.of(from, to).delay).sum();
        sleep(roads.between(weather.delay_min, weather.delay_max) * 2 + routes).await;
        roads.routes.open(&ways).await;
        if roads.one_in(weather.hang_one_in) {
            pending::<()>().await;
        }
        let refused = || TransportError::Io {
            doing: format!("connecting to {address}"),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        if self.is_down() || roads.one_in(weather.refuse_one_in) {
            return Err(refused());
        }
        let listener = roads.listeners.lock().get(address.rest()).cloned().ok_or_else(refused)?;
        let number = roads.connections.fetch_add(1, Relaxed);
        let us = Address::new(SCHEME, format!("{}#{number}", self.name));
        let us = Peer { address: us, identity: None };
        let them = Peer { address: address.clone(), identity: None };
        let carried = Carried::new([self.name.clone(), address.rest().to_owned()]);
        let (near, far): (Box<dyn Connection>, Box<dyn Connection>);
        if roads.one_in(roads.many_streams_one_in.load(Relaxed)) {
            let ends = many_streams::ends(roads, &carried, them, us);
            (near, far) = (Box::new(ends.0), Box::new(ends.1));
        } else {
            let ends = carried.stream(roads, Side::Connecting).ok_or_else(refused)?;
            near = Box::new(OneStream::connecting(them, ends.0));
            far = Box::new(OneStream::accepting(us, ends.1));
        }
        listener.send(far).map_err(|_| refused())?;
        roads.links.lock().push(Link::new(carried));
        Ok(near)
    }
}

struct SimulatedListener {
    address: Address,
    waiting: mpsc::UnboundedReceiver<Box<dyn Connection>>,
}

#[async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        self.waiting.recv().await.ok_or(TransportError::Closed)
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

const SCHEME: &str = "sim";
