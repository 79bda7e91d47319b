//! LTQ over Unix sockets.

mod place;

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Peer, Transport, TransportError};
use tokio::net::{UnixListener, UnixStream, unix::UCred};

use crate::{OneStream, socket};
use place::Place;

/// The transport over Unix stream sockets, of addresses like `unix:///PATH`: an absolute path of up
/// to 107 bytes.
///
/// A connection carries one stream. Both sides know the user at the other end by the operating
/// system's word: [`Peer::identity`] is `uid:` and the user's number, as in `uid:1000`. A listener
/// sees its peers as `unix:///PATH#NUMBER`; the number only tells them apart.
///
/// The socket's file has the permissions of [`UnixOptions`] before the first client can connect,
/// and goes when the listener is dropped. A file that a listener left which was killed is taken
/// over: nobody answers there. One at which somebody answers is not, nor is a file that is no
/// socket. A listener whose file was removed or replaced, so that nobody can connect to it any more,
/// says within a second or two that it is closed. To listen needs to be allowed to make and remove
/// files in the folder.
///
/// A stream that is dropped unfinished looks to the peer like one that was finished there.
///
/// It needs a tokio runtime with I/O and time enabled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ltq_core::{Address, Transport};
/// use ltq_transport::Unix;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("ltq.sock").display().to_string();
/// let address = Address::new("unix", path);
/// let mut listener = Unix::default().listen(&address).await?;
/// let near = Unix::default().connect(&address).await?;
/// let far = listener.accept().await?;
/// assert!(far.peer().identity.as_deref().is_some_and(|user| user.starts_with("uid:")));
/// # let _ = near; Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Unix {
    options: UnixOptions,
}

/// How [`Unix`] listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixOptions {
    /// The permissions of the socket's file, as for `chmod`; who may write may connect. Default
    /// `0o600`: the user of the broker alone. At most `0o777`.
    pub mode: u32,
    /// Connections that may wait to be accepted. The system may cap it lower
    /// (`net.core.somaxconn` on Linux). Default 4,096.
    pub backlog: u32,
}

impl Default for UnixOptions {
    fn default() -> Self {
        Self { mode: 0o600, backlog: 4096 }
    }
}

impl Unix {
    /// With these options. [`Unix::default`] has the default ones.
    #[must_use]
    pub const fn new(options: UnixOptions) -> Self {
        Self { options }
    }
}

fn path_of(address: &Address) -> Result<PathBuf, TransportError> {
    let refuse = |why: &str| TransportError::Address { address: address.clone(), why: why.into() };
    if address.scheme() != SCHEME {
        return Err(refuse("the transport over Unix sockets takes addresses like unix:///PATH"));
    }
    let path = Path::new(address.rest());
    if !path.is_absolute() || path.file_name().is_none() || address.rest().ends_with('/') {
        return Err(refuse(
            "its path is not that of a file from the root; it looks like unix:///PATH",
        ));
    }
    if address.rest().contains('\0') {
        return Err(refuse("no path holds a zero byte"));
    }
    if address.rest().len() > PATH_BYTES_MAX {
        return Err(refuse("its path is longer than the 107 bytes that a socket's may have"));
    }
    Ok(path.to_owned())
}

fn peer_of(address: Address, user: UCred) -> Peer {
    Peer { address, identity: Some(format!("uid:{}", user.uid())) }
}

#[async_trait]
impl Transport for Unix {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let path = path_of(address)?;
        let failed =
            |source| TransportError::Io { doing: format!("listening on {address}"), source };
        let (socket, place) = Place::take(path, &self.options).await.map_err(failed)?;
        let listener = UnixListener::from_std(socket).map_err(failed)?;
        let accepted = AtomicU64::new(0);
        Ok(Box::new(Accepting { listener, address: address.clone(), accepted, place }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let path = path_of(address)?;
        let connected = async {
            let socket = UnixStream::connect(path).await?;
            let user = socket.peer_cred()?;
            Ok((socket, user))
        };
        let (socket, user) = connected.await.map_err(|source| TransportError::Io {
            doing: format!("connecting to {address}"),
            source,
        })?;
        let peer = peer_of(address.clone(), user);
        Ok(Box::new(OneStream::connecting(peer, socket::split(socket))))
    }
}

struct Accepting {
    listener: UnixListener,
    address: Address,
    accepted: AtomicU64,
    /// Gone with it.
    place: Place,
}

impl Accepting {
    async fn next(&self) -> io::Result<(UnixStream, UCred)> {
        loop {
            let gone = match self.listener.accept().await {
                Ok((socket, _unnamed)) => match socket.peer_cred() {
                    Ok(user) => return Ok((socket, user)),
                    Err(error) => error,
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(listener = %self.address, %gone, "a connection ended before it began");
        }
    }
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let next = tokio::select! {
            biased;
            next = self.next() => next,
            () = self.place.lost() => return Err(TransportError::Closed),
        };
        let (socket, user) = next.map_err(|source| TransportError::Io {
            doing: format!("accepting a connection on {}", self.address),
            source,
        })?;
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let address = Address::new(SCHEME, format!("{}#{number}", self.address.rest()));
        Ok(Box::new(OneStream::accepting(peer_of(address, user), socket::split(socket))))
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

const SCHEME: &str = "unix";
/// What an address of the operating system holds, less the zero at its end.
const PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests;
