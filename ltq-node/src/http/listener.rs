//! Where HTTP is listened for.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::{Address, TransportError};
use tokio::net::{TcpListener, TcpStream};

use crate::listening::{ListenFigures, Opens, Reopened};

/// A place for HTTP that is taken, and taken again when its socket fails for good.
pub(crate) struct HttpListener {
    local: SocketAddr,
    listener: Reopened<OverTcp>,
}

impl HttpListener {
    /// Takes the place: the first address that `address` names and that can be had.
    pub(crate) async fn bind(
        address: &str,
        retry: Duration,
        figures: Arc<ListenFigures>,
    ) -> io::Result<Self> {
        let opened = Reopened::open(OverTcp, &Address::new(SCHEME, address), retry, figures).await;
        let listener = opened.map_err(|error| match error {
            TransportError::Io { source, .. } => source,
            other => io::Error::other(other),
        })?;
        let local = listener.address().rest().parse().map_err(io::Error::other)?;
        Ok(Self { local, listener })
    }

    /// Where, with the port that it really got.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next connection. Cancel safe. After an error the caller pauses, and asks again.
    pub(super) async fn accept(&mut self) -> Result<(TcpStream, SocketAddr), TransportError> {
        self.listener.take().await
    }
}

/// HTTP brings no transport of its own.
struct OverTcp;

#[async_trait]
impl Opens for OverTcp {
    type Open = (TcpListener, SocketAddr);
    type Taken = (TcpStream, SocketAddr);

    async fn open(&self, address: &Address) -> Result<Self::Open, TransportError> {
        let failed = |source| failed("listening for HTTP", source);
        let listener = TcpListener::bind(address.rest()).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok((listener, local))
    }

    fn address((_, local): &Self::Open) -> Address {
        Address::new(SCHEME, local.to_string())
    }

    async fn accept((listener, _): &mut Self::Open) -> Result<Self::Taken, TransportError> {
        listener.accept().await.map_err(|source| failed("accepting an HTTP connection", source))
    }
}

fn failed(doing: &str, source: io::Error) -> TransportError {
    TransportError::Io { doing: doing.to_owned(), source }
}

const SCHEME: &str = "http";
