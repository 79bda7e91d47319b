//! LTQ over QUIC.

mod apart;
mod clients;
mod leaving;
mod options;
mod places;
mod restarts;
mod stream;
mod windows;

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use async_trait::async_trait;
use futures::FutureExt;
use ltq_core::{Address, Connection, Listener, Peer, Stream, Transport, TransportError};
use parking_lot::Mutex;
use quinn::{
    ApplicationClose, ConnectionError, Endpoint, Incoming, Runtime as _, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use crate::{
    ClientTrust, ServerTrust,
    first_of::first_of,
    handshakes::{Bounds, Failed, Failures, HandshakeFailures, Handshakes},
    host_port::HostPort,
    trust::{identity_of, server_name},
};
use apart::Apart;
use clients::Clients;
use leaving::Leaving;
use places::Places;
use windows::{Promise, Wanted, Windows};

pub use options::{Congestion, QuicOptions};

/// The transport over QUIC, of addresses like `quic://HOST:PORT`; the port is UDP's.
///
/// A connection carries many streams, which do not wait for each other: a lost packet, or a stream
/// that nobody reads, holds up one of them. It is always encrypted; who proves what is as for
/// `Tls`. A connection lives on when the client's address changes; [`Peer::address`] stays
/// what it was.
///
/// A stream that is dropped unfinished is cut: the peer gets an error, and possibly less than had
/// arrived. Finishing waits for the peer's word that it has all, so that closing the connection
/// takes nothing back. Opening a stream waits while the peer allows no more at once.
///
/// A listener that is dropped keeps its port until the last of its connections is gone. One that
/// comes after it with the same key tells the clients of the one before that their connections
/// are lost, when they next send.
///
/// There is no 0-RTT: what is sent that way can be played again by others, and LTQ's hello may not
/// be. Clones share the sockets that connections are made from.
///
/// It needs a tokio runtime with I/O and time enabled.
///
/// ```
/// # #[cfg(feature = "self-signed")] mod example {
/// # #[tokio::main(flavor = "current_thread")]
/// # pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use ltq_core::{Listener, Transport};
/// use ltq_transport::{ClientTrust, Pem, Quic, ServerTrust, self_signed};
///
/// let made = self_signed(&["localhost"])?;
/// let server = ServerTrust::new(Pem::text(made.certificate), Pem::text(made.key))?;
/// let client = ClientTrust::fingerprint(made.fingerprint)?;
///
/// let mut listener = Quic::default().serving(server).listen(&"quic://127.0.0.1:0".parse()?).await?;
/// let address = listener.local_address();
/// let quic = Quic::default().trusting(client);
/// let (near, far) = tokio::join!(quic.connect(&address), listener.accept());
/// assert!(near?.multiplexed() && far?.multiplexed());
/// # Ok(()) } }
/// # #[cfg(feature = "self-signed")] example::run().unwrap();
/// ```
#[derive(Clone)]
pub struct Quic {
    options: QuicOptions,
    server: Option<ServerTrust>,
    client: Option<ClientTrust>,
    failures: Arc<Failures>,
    clients: Arc<Clients>,
    windows: Arc<Windows>,
    leaving: Arc<Leaving>,
}

impl Default for Quic {
    fn default() -> Self {
        Self::new(QuicOptions::default())
    }
}

impl Quic {
    /// With these options; it can neither listen nor connect yet.
    #[must_use]
    pub fn new(options: QuicOptions) -> Self {
        Self {
            windows: Windows::exempting(
                options.windows_bytes_max,
                options.windows_bytes_per_address_max,
                options.exempt_addresses.clone(),
            ),
            options,
            server: None,
            client: None,
            failures: Arc::default(),
            clients: Arc::default(),
            leaving: Arc::default(),
        }
    }

    /// Able to listen.
    #[must_use]
    pub fn serving(mut self, trust: ServerTrust) -> Self {
        self.server = Some(trust);
        self
    }

    /// Able to connect.
    #[must_use]
    pub fn trusting(mut self, trust: ClientTrust) -> Self {
        self.client = Some(trust);
        self
    }

    /// How many handshakes of clients have failed so far.
    #[must_use]
    pub fn handshake_failures(&self) -> HandshakeFailures {
        self.failures.now()
    }

    /// Bytes that the windows of accepted connections have of
    /// [`windows_bytes_max`](QuicOptions::windows_bytes_max).
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        self.windows.used()
    }

    /// How many accepted connections got smaller windows than are set up, for want of room.
    #[must_use]
    pub fn windows_narrowed(&self) -> u64 {
        self.windows.narrowed()
    }

    /// Moves the connections that this transport and its clones have made to other local ports, as
    /// a change of networks would, without ending them.
    ///
    /// # Errors
    /// When no socket can be had; those not moved yet stay where they are.
    pub fn rebind(&self) -> io::Result<()> {
        self.clients.rebind()
    }

    /// Waits until every connection that this transport and its clones have made, or that their
    /// listeners took in that are dropped by now, is gone and its peer told so. For the end of a
    /// process or runtime, which would otherwise keep that from being sent, so that peers would
    /// learn of it by their idle timeout. It waits for connections that are still in use too: give
    /// it a deadline, of a second, say; some round trips are what it takes.
    ///
    /// # Cancellation
    /// Dropping it changes nothing.
    pub async fn settled(&self) {
        self.clients.idle().await;
        self.leaving.over().await;
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quic")
            .field("options", &self.options)
            .field("server", &self.server)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Quic {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let host_port = HostPort::of(address, SCHEME)?;
        let failed = |source| failed(format!("listening on {address}"), source);
        let Some(trust) = self.server.clone() else {
            return Err(failed(io::Error::new(
                ErrorKind::InvalidInput,
                "no certificate is set up",
            )));
        };
        let mut failure = io::ErrorKind::NotFound.into();
        for candidate in host_port.resolve(address).await? {
            match Accepting::bind(candidate, trust.clone(), self) {
                Ok(listener) => return Ok(Box::new(listener)),
                Err(error) => failure = error,
            }
        }
        Err(failed(failure))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let host_port = HostPort::to_connect(address, SCHEME)?;
        let failed = |source| failed(format!("connecting to {address}"), source);
        let Some(trust) = &self.client else {
            let why = "it is not set up whom to trust";
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, why)));
        };
        let name = server_name(address, host_port)?.to_str().into_owned();
        let candidates = host_port.resolve(address).await?;
        let mut config = quinn::ClientConfig::new(trust.newest().quic.clone());
        config.transport_config(self.options.connecting());
        let connecting = first_of(candidates, |candidate| {
            let connecting = self.clients.connect(&config, candidate, &name);
            async move { Ok((connecting?.await?, candidate)) }
        });
        let patience = self.options.handshake_timeout;
        let (connection, met) = match timeout(patience, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                let why = format!("no answer within {patience:?}");
                return Err(failed(io::Error::new(ErrorKind::TimedOut, why)));
            }
        };
        let peer = Peer { address: address_of(met), identity: Some(trust.proved(host_port.host)) };
        Ok(Box::new(Multiplexed { connection, peer, accepted: None }))
    }
}

struct Accepting {
    endpoint: Endpoint,
    local: Address,
    trust: ServerTrust,
    options: QuicOptions,
    windows: Arc<Windows>,
    /// What each connection would have of them.
    wanted: Wanted,
    handshakes: Handshakes<Multiplexed>,
    failures: Arc<Failures>,
    leaving: Arc<Leaving>,
}

impl Accepting {
    fn bind(address: SocketAddr, trust: ServerTrust, quic: &Quic) -> io::Result<Self> {
        let options = &quic.options;
        let made = trust.newest();
        let wanted = options.wanted();
        let transport = options.accepting(wanted.stream);
        let endpoint = Endpoint::new_with_abstract_socket(
            restarts::endpoint_config(&made.secret)?,
            Some(server_config(&made.quic, transport, options.handshakes_max)),
            Apart::new(TokioRuntime.wrap_udp_socket(UdpSocket::bind(address)?)?),
            Arc::new(TokioRuntime),
        )?;
        let local = address_of(endpoint.local_addr()?);
        let bounds = Bounds {
            max: options.handshakes_max,
            share: options.handshakes_per_address_max,
            patience: options.handshake_timeout,
            per_second: options.handshakes_per_second_max,
            known: options.addresses_known_max,
            exempt: options.exempt_addresses.clone(),
        };
        let handshakes = Handshakes::new(bounds, Arc::clone(&quic.failures));
        let failures = Arc::clone(&quic.failures);
        let leaving = Arc::clone(&quic.leaving);
        let windows = Arc::clone(&quic.windows);
        let options = options.clone();
        Ok(Self { endpoint, local, trust, options, windows, wanted, handshakes, failures, leaving })
    }

    fn take_in(&mut self, incoming: Incoming) {
        let peer = incoming.remote_address();
        // Who cannot be reached there made the address up: such ones cost nobody a place.
        let many = self.handshakes.are_many() || self.handshakes.are_many_of(peer);
        if many && !incoming.remote_address_validated() {
            self.failures.count_retried();
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            return;
        }
        if self.handshakes.room_at_for(peer) > Instant::now() {
            // It tries again by itself, and comes to those then that had their time.
            self.failures.count_ignored();
            incoming.ignore();
            return;
        }
        if !self.handshakes.may_begin(peer) {
            // The same, and they are fewer then.
            incoming.ignore();
            return;
        }
        let made = self.trust.newest();
        let proved = incoming.remote_address_validated();
        let promise = self.windows.promise(peer.ip(), self.wanted, proved);
        let transport = self.options.accepting(promise.stream());
        let config = server_config(&made.quic, transport, 0);
        let streams_max = self.options.streams_max;
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => self.handshakes.start(peer, async move {
                let connection = connecting.await?;
                let identity = connection.peer_identity();
                let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'_>>>().ok());
                let identity = chain.and_then(|chain| chain.first().map(identity_of));
                let peer = Peer { address: address_of(connection.remote_address()), identity };
                let places = Places::new(connection.clone(), streams_max);
                let accepted = Some(Accepted { promise: Mutex::new(Some(promise)), places });
                Ok::<_, ConnectionError>(Multiplexed { connection, peer, accepted })
            }),
            // The first packet is enough for that, where nothing in it is what we speak.
            Err(error) => self.failures.count_failed(peer, &error),
        }
    }
}

impl Failed for ConnectionError {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::VersionMismatch | Self::TransportError(_) | Self::ConnectionClosed(_))
    }
}

fn server_config(
    crypto: &Arc<quinn::crypto::rustls::QuicServerConfig>,
    transport: Arc<TransportConfig>,
    waiting_max: usize,
) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(Arc::clone(crypto) as Arc<_>);
    config
        .transport_config(transport)
        // Those that the listener's owner is slow to take in; the rest try again by themselves.
        .max_incoming(waiting_max.max(1))
        .incoming_buffer_size(WAITING_BYTES_MAX)
        .incoming_buffer_size_total(WAITING_BYTES_TOTAL_MAX);
    config
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        loop {
            tokio::select! {
                biased;
                ended = self.handshakes.next() => if let Some(connection) = ended {
                    return Ok(Box::new(connection));
                },
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take_in(incoming),
                    None => return Err(TransportError::Closed),
                }
            }
        }
    }

    fn local_address(&self) -> Address {
        self.local.clone()
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // The endpoint lives on with its connections, and must not keep clients waiting.
        self.endpoint.set_server_config(None);
        while let Some(Some(incoming)) = self.endpoint.accept().now_or_never() {
            incoming.refuse();
        }
        self.leaving.follow(self.endpoint.clone());
    }
}

struct Multiplexed {
    connection: quinn::Connection,
    peer: Peer,
    /// Of one that a listener took in.
    accepted: Option<Accepted>,
}

/// Of a connection that a listener took in.
struct Accepted {
    /// Until its peer is welcomed.
    promise: Mutex<Option<Promise>>,
    places: Arc<Places>,
}

#[async_trait]
impl Connection for Multiplexed {
    fn multiplexed(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn welcomed(&self) {
        let Some(Accepted { promise, places }) = &self.accepted else { return };
        if let Some(promise) = promise.lock().take() {
            places.welcome(promise.take());
        }
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        match self.connection.open_bi().await {
            Ok((send, recv)) => Ok(stream::stream(send, recv, None)),
            Err(error) => {
                let doing = format!("opening a stream to {}", self.peer.address);
                Err(failed(doing, error.into()))
            }
        }
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        match self.connection.accept_bi().await {
            Ok((send, recv)) => {
                let place = self.accepted.as_ref().map(|accepted| accepted.places.accept());
                Ok(Some(stream::stream(send, recv, place)))
            }
            Err(ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }))
                if error_code == VarInt::from_u32(0) =>
            {
                Ok(None)
            }
            Err(error) => {
                let doing = format!("accepting a stream of {}", self.peer.address);
                Err(failed(doing, error.into()))
            }
        }
    }
}

fn address_of(address: SocketAddr) -> Address {
    Address::new(SCHEME, address.to_string())
}

const fn failed(doing: String, source: io::Error) -> TransportError {
    TransportError::Io { doing, source }
}

const SCHEME: &str = "quic";
/// Of a client that nobody has taken in yet: its first flight, with a chain of certificates.
const WAITING_BYTES_MAX: u64 = 64 << 10;
const WAITING_BYTES_TOTAL_MAX: u64 = 4 << 20;
