//! A connection of many streams.

use std::{io, sync::Arc};

use async_trait::async_trait;
use ltq_core::{Connection, Peer, Stream, TransportError};
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::stream;

/// Both sides of a new connection; each is told who the other is.
pub(super) fn link(listener: Peer, client: Peer) -> (ManyStreams, ManyStreams) {
    // The places bound what waits in these.
    let (to_far, from_near) = mpsc::unbounded_channel();
    let (to_near, from_far) = mpsc::unbounded_channel();
    (ManyStreams::new(listener, to_far, from_far), ManyStreams::new(client, to_near, from_near))
}

pub(super) struct ManyStreams {
    peer: Peer,
    places: Arc<Semaphore>,
    opened: mpsc::UnboundedSender<Stream>,
    /// A tokio mutex: it is held while waiting.
    accepted: Mutex<mpsc::UnboundedReceiver<Stream>>,
}

impl ManyStreams {
    fn new(
        peer: Peer,
        opened: mpsc::UnboundedSender<Stream>,
        accepted: mpsc::UnboundedReceiver<Stream>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { peer, places, opened, accepted: Mutex::new(accepted) }
    }

    fn gone(&self) -> TransportError {
        TransportError::Io {
            doing: format!("opening a stream to {}", self.peer.address),
            source: io::Error::new(io::ErrorKind::ConnectionReset, "the peer is gone"),
        }
    }
}

#[async_trait]
impl Connection for ManyStreams {
    fn multiplexed(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let place = tokio::select! {
            biased;
            () = self.opened.closed() => return Err(self.gone()),
            place = Arc::clone(&self.places).acquire_owned() => place.map_err(|_| self.gone())?,
        };
        let (near, far) = stream(Some(place));
        self.opened.send(far).map_err(|_| self.gone())?;
        Ok(near)
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        Ok(self.accepted.lock().await.recv().await)
    }
}

/// Streams of one side at once before opening a further one has to wait: what QUIC's default is
/// here.
const STREAMS_MAX: usize = 1024;
