//! The sockets that connections are made from.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use parking_lot::Mutex;
use quinn::{ConnectError, Connecting, Endpoint};

/// One endpoint for all connections to IPv4 hosts and one for those to IPv6 hosts, made when they
/// are needed first.
#[derive(Debug, Default)]
pub(super) struct Clients {
    v4: Mutex<Option<Endpoint>>,
    v6: Mutex<Option<Endpoint>>,
}

impl Clients {
    /// Starts to connect.
    pub(super) fn connect(
        &self,
        config: &quinn::ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> io::Result<Connecting> {
        let place = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut place = place.lock();
        loop {
            let (endpoint, new) = match &*place {
                Some(endpoint) => (endpoint, false),
                None => (&*place.insert(Endpoint::client(any_port(to))?), true),
            };
            match endpoint.connect_with(config.clone(), to, name) {
                Ok(connecting) => return Ok(connecting),
                // The runtime that drove it is gone; this one needs its own.
                Err(ConnectError::EndpointStopping) if !new => *place = None,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
            }
        }
    }

    /// Waits until all connections are gone.
    pub(super) async fn idle(&self) {
        for place in [&self.v4, &self.v6] {
            let endpoint = place.lock().clone();
            if let Some(endpoint) = endpoint {
                endpoint.wait_idle().await;
            }
        }
    }

    /// Goes over to other ports.
    pub(super) fn rebind(&self) -> io::Result<()> {
        for place in [&self.v4, &self.v6] {
            if let Some(endpoint) = &*place.lock() {
                endpoint.rebind(UdpSocket::bind(any_port(endpoint.local_addr()?))?)?;
            }
        }
        Ok(())
    }
}

/// Of the same family as this one.
fn any_port(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
