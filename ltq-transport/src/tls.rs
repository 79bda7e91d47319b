//! LTQ over TLS over TCP.

mod stream;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Networks, Peer, Transport, TransportError};
use rustls::pki_types::CertificateDer;
use tokio::{net::TcpStream, time::sleep_until};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    ClientTrust, OneStream, ServerTrust, TcpOptions,
    handshakes::{Bounds, Failures, HandshakeFailures, Handshakes},
    host_port::HostPort,
    tcp::{self, Sockets, address_of},
    trust::{ALPN, identity_of, server_name},
};

/// The transport over TLS 1.3 and TCP, of addresses like `tls://HOST:PORT`.
///
/// A connection carries one stream. A client verifies the server for the host that the address
/// names, by what its [`ClientTrust`] says; who the server proved to be stands in
/// [`Peer::identity`]: the host, or the fingerprint that was known. What a listener proves, and
/// whether it asks clients for certificates, is its [`ServerTrust`].
///
/// A listener takes connections in by tasks of their own, so that a client that says nothing
/// holds nobody up. A stream that ends without a word of the peer (its process killed, the path
/// cut) is an error, never an end.
///
/// It needs a tokio runtime with I/O and time enabled.
///
/// ```
/// # #[cfg(feature = "self-signed")] mod example {
/// # #[tokio::main(flavor = "current_thread")]
/// # pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use ltq_core::{Listener, Transport};
/// use ltq_transport::{ClientTrust, Pem, ServerTrust, Tls, self_signed};
///
/// let made = self_signed(&["localhost"])?;
/// let server = ServerTrust::new(Pem::text(made.certificate), Pem::text(made.key))?;
/// let client = ClientTrust::fingerprint(made.fingerprint)?;
///
/// let mut listener = Tls::default().serving(server).listen(&"tls://127.0.0.1:0".parse()?).await?;
/// let address = listener.local_address();
/// let tls = Tls::default().trusting(client);
/// let (near, far) = tokio::join!(tls.connect(&address), listener.accept());
/// assert_eq!(near?.peer().identity, Some(made.fingerprint.to_string()));
/// assert_eq!(far?.peer().identity, None);
/// # Ok(()) } }
/// # #[cfg(feature = "self-signed")] example::run().unwrap();
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    options: TlsOptions,
    server: Option<ServerTrust>,
    client: Option<ClientTrust>,
    names_no_protocol: bool,
    failures: Arc<Failures>,
}

/// How [`Tls`] connects and listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The connections below.
    pub tcp: TcpOptions,
    /// How long a listener waits for a client's handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// How many handshakes a listener has under way and finished but not accepted, at most; at
    /// least 1. One more waits in the system's backlog until one of them ends or has had a second;
    /// then the oldest is given up for it. Default 256.
    pub handshakes_max: usize,
    /// How many of them one address has at most, this machine's own aside; at least 1: one more is given
    /// up itself while they have not had their second. Default `None`: a quarter of them.
    pub handshakes_per_address_max: Option<usize>,
    /// How many handshakes begin in a second from one address, this machine's own aside; ten times as many may at once.
    /// One more is closed at once. At least 1; default 200.
    pub handshakes_per_second_max: u32,
    /// Of how many addresses, and of how many sites, a listener remembers how many handshakes they began of late; at
    /// least 1. Default 4,096.
    pub addresses_known_max: usize,
    /// Addresses that no limit by address counts, such as those of a proxy. Default: none.
    pub exempt_addresses: Networks,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            tcp: TcpOptions::default(),
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 256,
            handshakes_per_address_max: None,
            handshakes_per_second_max: 200,
            addresses_known_max: 4_096,
            exempt_addresses: Networks::default(),
        }
    }
}

impl Tls {
    /// With these options; it can neither listen nor connect yet.
    #[must_use]
    pub fn new(options: TlsOptions) -> Self {
        Self { options, ..Self::default() }
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

    /// Connecting to servers that are none of LTQ's, such as an etcd: they are not told which protocol is
    /// spoken (ALPN), and need not say it. What it listens at is as before.
    #[must_use]
    pub const fn without_protocol(mut self) -> Self {
        self.names_no_protocol = true;
        self
    }

    /// How many handshakes of clients have failed so far.
    #[must_use]
    pub fn handshake_failures(&self) -> HandshakeFailures {
        self.failures.now()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("options", &self.options)
            .field("server", &self.server)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Tls {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        HostPort::of(address, SCHEME)?;
        let Some(trust) = self.server.clone() else {
            return Err(failed(
                format!("listening on {address}"),
                io::Error::new(io::ErrorKind::InvalidInput, "no certificate is set up"),
            ));
        };
        let sockets = Sockets::listen(SCHEME, &self.options.tcp, address).await?;
        let options = &self.options;
        let bounds = Bounds {
            max: options.handshakes_max,
            share: options.handshakes_per_address_max,
            patience: options.handshake_timeout,
            per_second: options.handshakes_per_second_max,
            known: options.addresses_known_max,
            exempt: options.exempt_addresses.clone(),
        };
        let handshakes = Handshakes::new(bounds, self.failures.clone());
        Ok(Box::new(Accepting { sockets, trust, handshakes }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let host_port = HostPort::to_connect(address, SCHEME)?;
        let doing = || format!("connecting to {address}");
        let Some(trust) = &self.client else {
            let why = "it is not set up whom to trust";
            return Err(failed(doing(), io::Error::new(io::ErrorKind::InvalidInput, why)));
        };
        let name = server_name(address, host_port)?;
        let (socket, met) = tcp::connect(&self.options.tcp, address, host_port).await?;
        let mut config = Arc::clone(&trust.newest().tls);
        if self.names_no_protocol {
            Arc::make_mut(&mut config).alpn_protocols.clear();
        }
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, socket).await;
        let stream = stream.map_err(|source| failed(doing(), source))?;
        if !self.names_no_protocol {
            spoken(stream.get_ref().1.alpn_protocol()).map_err(|source| failed(doing(), source))?;
        }
        let peer =
            Peer { address: address_of(SCHEME, met), identity: Some(trust.proved(host_port.host)) };
        Ok(Box::new(OneStream::connecting(peer, stream::split(stream.into()))))
    }
}

struct Accepting {
    sockets: Sockets,
    trust: ServerTrust,
    handshakes: Handshakes<OneStream>,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        loop {
            let room_at = self.handshakes.room_at();
            let next = async {
                sleep_until(room_at).await;
                self.sockets.accept().await
            };
            tokio::select! {
                biased;
                ended = self.handshakes.next() => if let Some(connection) = ended {
                    return Ok(Box::new(connection));
                },
                accepted = next => {
                    let (socket, peer) = accepted?;
                    if self.handshakes.may_begin(peer) {
                        self.handshakes.start(peer, handshake(self.trust.clone(), socket, peer));
                    }
                }
            }
        }
    }

    fn local_address(&self) -> Address {
        self.sockets.local_address()
    }
}

async fn handshake(
    trust: ServerTrust,
    socket: TcpStream,
    peer: SocketAddr,
) -> io::Result<OneStream> {
    let acceptor = TlsAcceptor::from(Arc::clone(&trust.newest().tls));
    let stream = acceptor.accept(socket).await?;
    let session = stream.get_ref().1;
    spoken(session.alpn_protocol())?;
    let certificate = session.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    let peer = Peer { address: address_of(SCHEME, peer), identity: certificate.map(identity_of) };
    Ok(OneStream::accepting(peer, stream::split(stream.into())))
}

/// Refuses who did not say what it speaks: TLS itself only refuses who says something else.
fn spoken(protocol: Option<&[u8]>) -> io::Result<()> {
    if protocol == Some(ALPN) {
        return Ok(());
    }
    let why = "the peer does not say that it speaks ltq/1";
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

const fn failed(doing: String, source: io::Error) -> TransportError {
    TransportError::Io { doing, source }
}

const SCHEME: &str = "tls";
