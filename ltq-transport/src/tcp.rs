//! LTQ over TCP.

mod options;

use std::{io, net::SocketAddr};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Peer, Transport, TransportError};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{OneStream, first_of::first_of, host_port::HostPort, socket};

pub use options::{Keepalive, TcpOptions};

/// The transport over TCP, of addresses like `tcp://HOST:PORT`: a name, an IPv4 address, or an
/// IPv6 address in brackets.
///
/// A connection carries one stream. Small writes leave at once (`TCP_NODELAY`); the rest is set
/// by [`TcpOptions`]. What the two kernels buffer is the back-pressure. A stream that is dropped
/// unfinished looks to the peer like one that was finished there: TCP has no other end that does
/// not also take back what was sent before.
///
/// Listening binds the first of a name's addresses that can be bound, and reuses addresses that
/// only wait for old connections to fade. Connecting tries all of a name's addresses: the next
/// one when one fails or has not answered within a quarter of a second.
///
/// Out of descriptors, [`accept`](Listener::accept) fails at every call until there are some
/// again: a loop around it pauses after an error.
///
/// It needs a tokio runtime with I/O and time enabled.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    options: TcpOptions,
}

impl Tcp {
    /// With these options. [`Tcp::default`] has the default ones.
    #[must_use]
    pub const fn new(options: TcpOptions) -> Self {
        Self { options }
    }
}

#[async_trait]
impl Transport for Tcp {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        Ok(Box::new(Sockets::listen(SCHEME, &self.options, address).await?))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let host_port = HostPort::to_connect(address, SCHEME)?;
        let (socket, peer) = connect(&self.options, address, host_port).await?;
        Ok(Box::new(OneStream::connecting(peer_of(SCHEME, peer), socket::split(socket))))
    }
}

/// A connected socket of the options, for this transport and those that put something on top.
pub(crate) async fn connect(
    options: &TcpOptions,
    address: &Address,
    host_port: HostPort<'_>,
) -> Result<(TcpStream, SocketAddr), TransportError> {
    let candidates = host_port.resolve(address).await?;
    let connected = async {
        let (stream, peer) = first_of(candidates, attempt).await?;
        options.apply(&SockRef::from(&stream))?;
        Ok((stream, peer))
    };
    connected
        .await
        .map_err(|source| TransportError::Io { doing: format!("connecting to {address}"), source })
}

async fn attempt(candidate: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(candidate).await?;
    // Where nobody listens on a port of the range that outgoing connections are given, a
    // connection can get that very port and meet itself.
    if stream.local_addr()? == candidate {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok((stream, candidate))
}

/// A listening socket, and the sockets that come in by it.
pub(crate) struct Sockets {
    listener: TcpListener,
    local: Address,
    options: TcpOptions,
}

impl Sockets {
    /// Listens on the first of the address's hosts that can be bound.
    pub(crate) async fn listen(
        scheme: &str,
        options: &TcpOptions,
        address: &Address,
    ) -> Result<Self, TransportError> {
        let host_port = HostPort::of(address, scheme)?;
        let mut failure = None;
        for candidate in host_port.resolve(address).await? {
            match bind(options, candidate) {
                Ok((listener, local)) => {
                    let local = address_of(scheme, local);
                    return Ok(Self { listener, local, options: options.clone() });
                }
                Err(error) => failure = Some(error),
            }
        }
        let source = failure.unwrap_or_else(|| io::ErrorKind::NotFound.into());
        Err(TransportError::Io { doing: format!("listening on {address}"), source })
    }

    /// The next socket, set up. Cancel safe.
    pub(crate) async fn accept(&self) -> Result<(TcpStream, SocketAddr), TransportError> {
        self.next().await.map_err(|source| TransportError::Io {
            doing: format!("accepting a connection on {}", self.local),
            source,
        })
    }

    async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let gone = match self.listener.accept().await {
                Ok((stream, peer)) => match self.options.apply(&SockRef::from(&stream)) {
                    Ok(()) => return Ok((stream, peer)),
                    Err(error) => error,
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => error,
                Err(error) => return Err(error),
            };
            // The listener is well, and nobody should pause because of a peer that went.
            tracing::debug!(listener = %self.local, %gone, "a connection ended before it began");
        }
    }
}

fn bind(options: &TcpOptions, address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the option of this name lets two listeners share a port.
    if cfg!(not(windows)) {
        socket.set_reuse_address(true)?;
    }
    // So that a bad value fails here and not at each connection.
    options.apply(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
    let listener = TcpListener::from_std(socket.into())?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

#[async_trait]
impl Listener for Sockets {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let (socket, peer) = Self::accept(self).await?;
        Ok(Box::new(OneStream::accepting(peer_of(SCHEME, peer), socket::split(socket))))
    }

    fn local_address(&self) -> Address {
        self.local.clone()
    }
}

pub(crate) fn address_of(scheme: &str, address: SocketAddr) -> Address {
    Address::new(scheme, address.to_string())
}

fn peer_of(scheme: &str, address: SocketAddr) -> Peer {
    Peer { address: address_of(scheme, address), identity: None }
}

const SCHEME: &str = "tcp";

#[cfg(test)]
mod tests;
