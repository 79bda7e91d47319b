//! The contract between a broker or client and whatever carries its bytes: [`Transport`].
//!
//! A transport listens and connects. A connection carries one or many streams: ordered, reliable,
//! in both directions. Streams are polled, so that a connection at rest holds no buffer.

use std::{
    fmt, io,
    io::IoSlice,
    str::FromStr,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::BytesMut;
use thiserror::Error;

/// Where to listen or connect: `scheme://rest`, for instance `tcp://127.0.0.1:7440`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: String,
    rest: String,
}

impl Address {
    /// An address of these two parts.
    pub fn new(scheme: impl Into<String>, rest: impl Into<String>) -> Self {
        Self { scheme: scheme.into(), rest: rest.into() }
    }

    /// The part before `://`: which transport.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The part after `://`: what the transport makes of it, mostly `HOST:PORT`.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.rest)
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no address; it looks like tcp://127.0.0.1:7440")]
pub struct AddressError(pub String);

impl FromStr for Address {
    type Err = AddressError;
    /// Without a scheme it is `tcp://`. There is no control character in an address, and white space only in the
    /// path of a Unix socket: it is listed and shown.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let strange = |c: char| c.is_control() || (c.is_whitespace() && scheme != "unix");
        if scheme.is_empty()
            || rest.is_empty()
            || !scheme.chars().all(plain)
            || rest.contains(strange)
        {
            return Err(AddressError(text.to_owned()));
        }
        Ok(Self::new(scheme, rest))
    }
}

/// Why a transport could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address is not for this transport, or names nothing that it understands.
    #[error("{address} cannot be used: {why}")]
    Address {
        /// The address.
        address: Address,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system or the peer refused.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was being done to what.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// The listener or connection was closed from this side.
    #[error("closed")]
    Closed,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as far as the transport knows one.
    pub address: Address,
    /// Who it proved to be (by a TLS certificate, say), or `None` when it proved nothing.
    pub identity: Option<String>,
}

/// Listens and connects.
///
/// `ltq_transport::conformance` holds the test suite for transports of your own.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The scheme of its addresses, such as `tcp`. A set of transports names all of theirs,
    /// separated by commas; that is for people to read.
    fn scheme(&self) -> &str;

    /// Starts to listen.
    ///
    /// # Errors
    /// [`TransportError::Address`] or [`TransportError::Io`].
    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError>;

    /// Connects. The caller sets a deadline: there need be none, though a transport whose path
    /// does not say that nobody listens gives up after a time of its own. Dropping the future
    /// gives the attempt up; the listener may see a connection that ends at once.
    ///
    /// # Errors
    /// [`TransportError::Address`]; [`TransportError::Io`], also when nobody listens there.
    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError>;
}

/// Takes connections in. Dropping it closes it: connections that it gave out live on, those that
/// wait to be accepted are cut.
#[async_trait]
pub trait Listener: Send + 'static {
    /// Waits for the next connection. Cancel safe: a dropped call loses no connection. After an
    /// error the next call tries again, so that one bad handshake or a shortage of descriptors
    /// ends nothing. It tries at once: a caller that loops pauses after an error.
    ///
    /// # Errors
    /// [`TransportError::Io`]; [`TransportError::Closed`] when no connection can come any more.
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError>;

    /// Where it listens, a port that was asked for as 0 filled in: an address to connect to.
    fn local_address(&self) -> Address;
}

/// A connection to one peer. It lives as long as it or one of its streams does; when the last of
/// them is dropped it closes.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Whether it can carry more than one stream. If not, the connecting side opens the one and
    /// the accepting side accepts it; every other `open_stream` is [`TransportError::Closed`],
    /// every other `accept_stream` is `None`, at once. That `None` does not end the connection.
    fn multiplexed(&self) -> bool;

    /// Who is at the other end.
    fn peer(&self) -> &Peer;

    /// Opens a stream. The peer need not notice before bytes are sent on it. Waits while there are
    /// as many as may be at once. Cancel safe: a dropped call uses nothing up.
    ///
    /// # Errors
    /// [`TransportError::Io`] when the connection is gone, [`TransportError::Closed`] when it
    /// carries no further stream.
    async fn open_stream(&self) -> Result<Stream, TransportError>;

    /// Waits for a stream that the peer opened, in the order in which it opened them; `None` when
    /// none can come any more. Cancel safe.
    ///
    /// # Errors
    /// [`TransportError::Io`] when the connection is gone.
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError>;

    /// Said by the accepting side when its peer has shown who it is, on the first of its streams that
    /// did. A connection of many streams may keep what it holds for its peer small before. Nothing by
    /// default.
    fn welcomed(&self) {}
}

/// One ordered, reliable stream in both directions. The halves may be used from different tasks.
pub struct Stream {
    /// To the peer.
    pub send: Box<dyn SendStream>,
    /// From the peer.
    pub recv: Box<dyn RecvStream>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// The receiving half of a [`Stream`]. Dropping it says that nothing more will be read: the peer's
/// sends then fail, or wait for room that never comes.
pub trait RecvStream: Send + 'static {
    /// Appends up to `max` bytes (at least 1) to `buffer` and says how many; 0 means that the
    /// peer will send no more, and is the answer to later calls too. Takes memory only when there
    /// are bytes: while pending, and on an error, `buffer` keeps its bytes and its capacity.
    ///
    /// Room that `buffer` has is used first. Where there is little, it grows by what the stream
    /// expects, never by more than `max`: a caller that waits for a piece of known size reserves
    /// that room itself.
    ///
    /// Pending wakes the task of the newest call, and no earlier one.
    ///
    /// # Errors
    /// The stream was cut: bytes may be missing. What had arrived was received before. Later
    /// calls fail too. [`io::ErrorKind::InvalidInput`] for a `max` of 0.
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>>;
}

/// The sending half of a [`Stream`]. When it is dropped unfinished, the peer receives some first
/// part of what was taken, and then an error or the end.
pub trait SendStream: Send + 'static {
    /// Takes some of the bytes and says how many: at least 1, or 0 at once when all are empty.
    /// What it took is on its way without any flush. Pending is the peer's, or the path's,
    /// back-pressure: nothing was taken, and the task of the newest call is woken.
    ///
    /// # Errors
    /// The stream was cut: what was taken earlier may not have arrived. Later calls fail too.
    /// [`io::ErrorKind::BrokenPipe`] after [`poll_finish`](Self::poll_finish).
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Says that no more will come: the peer reads what was taken and then the end. The receiving
    /// half goes on. Once this is ready, dropping the stream and the connection takes nothing of
    /// it back, provided that everything from the peer was received. Ready again when called
    /// again.
    ///
    /// # Errors
    /// The stream was cut; also, where this waits for the peer's word, when the peer had all and
    /// went before its word came through.
    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        let address: Address = "quic://[::1]:7440".parse().unwrap();
        assert_eq!((address.scheme(), address.rest()), ("quic", "[::1]:7440"));
        assert_eq!(address.to_string(), "quic://[::1]:7440");
        assert_eq!("localhost:1".parse::<Address>().unwrap().to_string(), "tcp://localhost:1");
        for bad in ["", "tcp://", "://x", "a b://x", "tcp://a b", "tcp://a\u{1b}[2J", "a\n:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}
