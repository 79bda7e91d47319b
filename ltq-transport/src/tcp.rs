//! LTQ over TCP.

mod address;
mod connect;
mod options;
mod stream;

use std::{io, net::SocketAddr};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Peer, Transport, TransportError};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use crate::OneStream;
use address::HostPort;

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

    fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // On Windows the option of this name lets two listeners share a port.
        if cfg!(not(windows)) {
            socket.set_reuse_address(true)?;
        }
        // So that a bad value fails here and not at each connection.
        self.options.apply(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(self.options.backlog.try_into().unwrap_or(i32::MAX))?;
        TcpListener::from_std(socket.into())
    }
}

#[async_trait]
impl Transport for Tcp {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let host_port = HostPort::of(address)?;
        let mut failure = None;
        for candidate in resolve(address, host_port).await? {
            match self.bind(candidate).and_then(|listener| Ok((listener.local_addr()?, listener))) {
                Ok((local, listener)) => {
                    return Ok(Box::new(Accepting {
                        listener,
                        local: address_of(local),
                        options: self.options.clone(),
                    }));
                }
                Err(error) => failure = Some(error),
            }
        }
        let source = failure.unwrap_or_else(no_address);
        Err(TransportError::Io { doing: format!("listening on {address}"), source })
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let host_port = HostPort::of(address)?;
        if host_port.port == 0 {
            return Err(TransportError::Address {
                address: address.clone(),
                why: "port 0 is only for listening".to_owned(),
            });
        }
        let candidates = resolve(address, host_port).await?;
        let connected = async {
            let (stream, peer) = connect::any(candidates).await?.ok_or_else(no_address)?;
            self.options.apply(&SockRef::from(&stream))?;
            Ok((stream, peer))
        };
        let (stream, peer) = connected.await.map_err(|source| TransportError::Io {
            doing: format!("connecting to {address}"),
            source,
        })?;
        Ok(Box::new(OneStream::connecting(peer_of(peer), stream::split(stream))))
    }
}

struct Accepting {
    listener: TcpListener,
    local: Address,
    options: TcpOptions,
}

impl Accepting {
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

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let (stream, peer) = self.next().await.map_err(|source| TransportError::Io {
            doing: format!("accepting a connection on {}", self.local),
            source,
        })?;
        Ok(Box::new(OneStream::accepting(peer_of(peer), stream::split(stream))))
    }

    fn local_address(&self) -> Address {
        self.local.clone()
    }
}

async fn resolve(
    address: &Address,
    host_port: HostPort<'_>,
) -> Result<Vec<SocketAddr>, TransportError> {
    match lookup_host((host_port.host, host_port.port)).await {
        Ok(found) => Ok(found.collect()),
        Err(source) => {
            Err(TransportError::Io { doing: format!("looking up the host of {address}"), source })
        }
    }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the host has no address")
}

fn address_of(address: SocketAddr) -> Address {
    Address::new(SCHEME, address.to_string())
}

fn peer_of(address: SocketAddr) -> Peer {
    Peer { address: address_of(address), identity: None }
}

const SCHEME: &str = "tcp";

#[cfg(test)]
mod tests;
