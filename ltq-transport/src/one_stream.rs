//! The connection of a transport that carries one stream at a time.

use std::fmt;

use async_trait::async_trait;
use ltq_core::{Connection, Peer, Stream, TransportError};
use parking_lot::Mutex;

/// A [`Connection`] that carries exactly one stream, which exists from the beginning.
///
/// The side that connected opens it, the side that accepted accepts it; whoever asks again, or
/// asks the other way round, is told at once that there is none.
pub struct OneStream {
    peer: Peer,
    side: Side,
    /// Until it is asked for.
    stream: Mutex<Option<Stream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Connecting,
    Accepting,
}

impl OneStream {
    /// The side that connected to `peer`.
    #[must_use]
    pub const fn connecting(peer: Peer, stream: Stream) -> Self {
        Self::new(peer, Side::Connecting, stream)
    }

    /// The side that accepted `peer`.
    #[must_use]
    pub const fn accepting(peer: Peer, stream: Stream) -> Self {
        Self::new(peer, Side::Accepting, stream)
    }

    const fn new(peer: Peer, side: Side, stream: Stream) -> Self {
        Self { peer, side, stream: Mutex::new(Some(stream)) }
    }

    fn take(&self, side: Side) -> Option<Stream> {
        if self.side == side { self.stream.lock().take() } else { None }
    }
}

impl fmt::Debug for OneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneStream")
            .field("peer", &self.peer)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Connection for OneStream {
    fn multiplexed(&self) -> bool {
        false
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.take(Side::Connecting).ok_or(TransportError::Closed)
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        Ok(self.take(Side::Accepting))
    }
}
