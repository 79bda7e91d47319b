//! How a client is made.

use std::{fmt, sync::Arc, time::Duration};

use ltq_core::{
    Address, AddressError, Entropy, SystemEntropy, process::inherit, protocol::FRAME_BYTES_MIN,
};
#[cfg(any(feature = "tls", feature = "quic"))]
use ltq_transport::ClientTrust;
#[cfg(feature = "quic")]
use ltq_transport::Quic;
#[cfg(feature = "tls")]
use ltq_transport::Tls;
use ltq_transport::{Tcp, Transports, Unix};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Backoff, Client, ConnectError,
    connection::{Config, Driver, DriverTask, Hub, Lease},
    producer::ProducerSeat,
};

/// Sets a client up: [`Client::builder`].
#[derive(Clone)]
#[must_use = "nothing happens before `connect`"]
pub struct ClientBuilder {
    servers: Vec<Result<Address, AddressError>>,
    transports: Transports,
    #[cfg(feature = "quic")]
    quic: Option<Quic>,
    name: String,
    token: Option<String>,
    request_timeout: Duration,
    connect_timeout: Duration,
    backoff: Backoff,
    heartbeat: Duration,
    frame_bytes_max: u32,
    entropy: Arc<dyn Entropy>,
    seat: Arc<ProducerSeat>,
    /// All servers are one node, which remembers its producers whatever address it is reached by.
    is_one_node: bool,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            transports: transports(),
            #[cfg(feature = "quic")]
            quic: None,
            name: concat!("ltq-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            token: None,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            backoff: Backoff::default(),
            heartbeat: Duration::ZERO,
            frame_bytes_max: 8 << 20,
            entropy: Arc::new(SystemEntropy),
            seat: Arc::default(),
            is_one_node: false,
        }
    }
}

impl ClientBuilder {
    /// Adds a server, such as `tcp://127.0.0.1:7440`. With several the client goes to the first
    /// that takes it; when a connection is lost it tries the same server again first, since that
    /// one remembers its producers, and then the others in turn. A server that is stopping, or that
    /// loses the connection again within seconds, is left for the next one.
    ///
    /// Nodes share nothing: name several only where each of them serves the same purpose.
    pub fn server(mut self, address: &str) -> Self {
        self.servers.push(address.parse());
        self
    }

    /// The token, where the broker asks for one: it says what this client may do there.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Which servers to trust at `tls://` and `quic://` addresses, and what to prove to them; without
    /// it neither is connected to. With the features `tls` and `quic`. It adds to
    /// [`transports`](Self::transports), and so comes after it.
    ///
    /// ```no_run
    /// use ltq_client::{Client, ClientTrust, Pem};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let trust = ClientTrust::authorities(Pem::file("authority.pem"))?;
    /// let client = Client::builder().server("quic://broker.example:7440").trust(trust).connect().await?;
    /// # let _ = client; Ok(()) }
    /// ```
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[cfg_attr(
        not(feature = "quic"),
        allow(
            clippy::redundant_clone,
            clippy::needless_pass_by_value,
            reason = "with quic it is not"
        )
    )]
    pub fn trust(mut self, trust: ClientTrust) -> Self {
        #[cfg(feature = "tls")]
        {
            self.transports = self.transports.with(Tls::default().trusting(trust.clone()));
        }
        #[cfg(feature = "quic")]
        {
            let quic = Quic::default().trusting(trust);
            self.quic = Some(quic.clone());
            self.transports = self.transports.with(quic);
        }
        self
    }

    /// The transports that addresses may name. Default: TCP and Unix sockets.
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// Who this client is, for the broker's logs; cut to 256 bytes. Default: the crate's name and
    /// version.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        while name.len() > NAME_BYTES_MAX {
            name.pop();
        }
        self.name = name;
        self
    }

    /// How long a request may take: opening a producer or consumer, an operator's, closing, a
    /// confirmed settlement. Default: 10 s. Publishes have the timeout of their producer.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long one attempt to connect may take, the broker's welcome included; for how long
    /// [`connect`](Self::connect) tries again where a server is full for now; and how long a
    /// further stream of the connection may take to be welcomed. Default: 5 s.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait before connecting again. Default: from 50 ms, doubling to 5 s. Once connected, a
    /// client whose token or version every server refuses waits for 15 to 30 s, or until it is given
    /// [another token](Client::set_token).
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often either side says something at least, so that one that is gone without a word is found
    /// out: whoever hears nothing for three of these gives the connection up, and the client connects
    /// anew. At least 100 ms; the broker's own (15 s, as it comes) where that is shorter, or where this
    /// is zero. Default: zero.
    ///
    /// A second or two finds out soon that a line is down, or that the machine has another address,
    /// which takes TCP connections with it and nobody tells. It costs a few bytes each time that
    /// nothing else is said; and a broker that stands still for three of them is left though it might
    /// go on.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = match heartbeat {
            Duration::ZERO => Duration::ZERO,
            heartbeat => heartbeat.max(HEARTBEAT_MIN),
        };
        self
    }

    /// The longest frame that this client reads, in bytes; at least 4 KiB. It bounds what one read
    /// takes in memory. A broker that may send longer ones refuses the connection. Default: 8 MiB.
    pub fn frame_bytes_max(mut self, bytes: u32) -> Self {
        self.frame_bytes_max = bytes.max(FRAME_BYTES_MIN);
        self
    }

    /// Where it takes chance from, for pauses and for the names of producers that have none. Default:
    /// the operating system's, which two clients must not share another one than: names would be
    /// the same. A simulation takes it from its seed.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Connects, trying each server once, each for up to the connect timeout. Where one of them refuses for
    /// what [may pass](ConnectError::may_pass), as one that is full does, they are tried again, with pauses of a second
    /// at most, until its connect timeout is over; not so where another one does not want this client at all.
    /// Afterwards the client keeps itself connected.
    ///
    /// # Cancellation
    /// Dropping it gives the attempt up.
    ///
    /// # Errors
    /// A [`ConnectError`]: what the last server came to, or the refusal that did not pass in time.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let (first, connected) = oneshot::channel();
        let client = self.start(Some(first))?;
        connected.await.unwrap_or(Err(ConnectError::Closed))?;
        Ok(client)
    }

    /// Does not wait for the connection: it is made in the background, for as long as it takes.
    /// Calls wait for it until their time is up.
    ///
    /// # Errors
    /// [`ConnectError::NoServer`] or [`ConnectError::Address`].
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub fn connect_in_background(self) -> Result<Client, ConnectError> {
        self.start(None)
    }

    fn start(
        self,
        first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    ) -> Result<Client, ConnectError> {
        let servers = self.servers.into_iter().collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(ConnectError::NoServer);
        }
        let hub = Arc::new(Hub::new(Config {
            servers,
            transports: self.transports,
            #[cfg(feature = "quic")]
            quic: self.quic,
            name: self.name,
            token: Mutex::new(self.token),
            request_timeout: self.request_timeout,
            connect_timeout: self.connect_timeout,
            backoff: self.backoff,
            heartbeat: self.heartbeat,
            frame_bytes_max: self.frame_bytes_max,
            entropy: self.entropy,
            seat: self.seat,
            is_one_node: self.is_one_node,
        }));
        let client = Client::new(Arc::new(Lease::new(hub.clone())));
        tokio::spawn(inherit(DriverTask::new(Driver::new(hub, first))));
        Ok(client)
    }
}

/// What a cluster asks of the one by which it makes a client for each node.
impl ClientBuilder {
    /// Whether a server is named.
    pub(crate) const fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The servers are these addresses of one node.
    pub(crate) fn node(mut self, addresses: impl IntoIterator<Item = Address>) -> Self {
        self.servers = addresses.into_iter().map(Ok).collect();
        self.is_one_node = true;
        self
    }

    /// Whether there is a transport for the scheme of this address. Of the addresses that a node announces, those
    /// without one are better left out: each attempt at them fails.
    #[must_use]
    pub fn knows(&self, address: &Address) -> bool {
        self.transports.knows(address)
    }

    pub(crate) const fn get_transports(&self) -> &Transports {
        &self.transports
    }

    pub(crate) const fn get_connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(crate) const fn get_request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) const fn get_backoff(&self) -> Backoff {
        self.backoff
    }

    pub(crate) const fn get_entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    pub(crate) fn get_token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn set_token(&mut self, token: Option<String>) {
        self.token = token;
    }
}

impl fmt::Debug for ClientBuilder {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("servers", &self.servers)
            .field("transports", &self.transports)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Those that need no word of the user, and for those that do what says so.
fn transports() -> Transports {
    let plain = Transports::new().with(Tcp::default()).with(Unix::default());
    #[cfg(feature = "tls")]
    let plain = plain.with(Tls::default());
    #[cfg(feature = "quic")]
    let plain = plain.with(Quic::default());
    plain
}

/// No broker takes a shorter one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// What the protocol allows.
const NAME_BYTES_MAX: usize = 256;
