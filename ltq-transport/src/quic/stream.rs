//! A stream of a QUIC connection.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use ltq_core::{RecvStream, SendStream, Stream};
use quinn::{StoppedError, VarInt};
use tokio::{io::AsyncReadExt, task::coop};

use super::places::Place;
use crate::room::Room;

/// With its place, where it is one that was accepted.
pub(super) fn stream(
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    place: Option<Place>,
) -> Stream {
    let place = place.map(Arc::new);
    Stream {
        send: Box::new(QuicSend { stream: send, state: Sending::Open, place: place.clone() }),
        recv: Box::new(QuicRecv { stream: recv, room: Room::new(), failed: None, place }),
    }
}

struct QuicSend {
    stream: quinn::SendStream,
    state: Sending,
    /// Until it is being finished: quinn gives its peer another stream for it once that is acknowledged.
    place: Option<Arc<Place>>,
}

enum Sending {
    Open,
    /// Until the peer has all of it.
    Finishing(BoxFuture<'static, Result<Option<VarInt>, StoppedError>>),
    Finished,
    Failed(io::ErrorKind),
}

impl SendStream for QuicSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.state {
            Sending::Open => {}
            Sending::Failed(kind) => return Poll::Ready(Err(kind.into())),
            Sending::Finishing(_) | Sending::Finished => {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "the stream was finished",
                )));
            }
        }
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let budget = ready!(coop::poll_proceed(context));
        let sent = if first.len() >= LARGE_BYTES {
            ready!(Pin::new(&mut self.stream).poll_write(context, first))
        } else {
            // Each write locks the connection and becomes a piece of its own in what is kept until
            // it is acknowledged; small slices are cheaper joined.
            let mut chunks = [joined(slices)];
            let writing = self.stream.write_chunks(&mut chunks);
            ready!(pin!(writing).poll(context)).map(|written| written.bytes)
        };
        budget.made_progress();
        Poll::Ready(sent.map_err(|error| {
            let error = io::Error::from(error);
            self.state = Sending::Failed(error.kind());
            error
        }))
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                Sending::Finished => return Poll::Ready(Ok(())),
                Sending::Failed(kind) => return Poll::Ready(Err((*kind).into())),
                Sending::Open => {
                    self.place = None;
                    self.state = match self.stream.finish() {
                        Ok(()) => Sending::Finishing(Box::pin(self.stream.stopped())),
                        Err(_closed) => Sending::Failed(io::ErrorKind::NotConnected),
                    };
                }
                // Closing the connection takes back what is not acknowledged.
                Sending::Finishing(acknowledged) => {
                    let failed = match ready!(acknowledged.as_mut().poll(context)) {
                        Ok(None) => {
                            self.state = Sending::Finished;
                            return Poll::Ready(Ok(()));
                        }
                        Ok(Some(_)) => io::Error::new(
                            io::ErrorKind::ConnectionReset,
                            "the peer stopped reading before it had all",
                        ),
                        Err(error) => error.into(),
                    };
                    self.state = Sending::Failed(failed.kind());
                    return Poll::Ready(Err(failed));
                }
            }
        }
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        // Else it would count as finished, and the peer take a part for the whole.
        if matches!(self.state, Sending::Open) {
            let _gone_already = self.stream.reset(VarInt::from_u32(0));
        }
    }
}

/// The first slices, up to a bound, in one piece.
fn joined(slices: &[IoSlice<'_>]) -> Bytes {
    let offered = slices.iter().fold(0_usize, |sum, slice| sum.saturating_add(slice.len()));
    let mut joined = BytesMut::with_capacity(offered.min(JOINED_BYTES_MAX));
    for slice in slices {
        let room = JOINED_BYTES_MAX - joined.len();
        joined.extend_from_slice(slice.get(..room).unwrap_or(slice));
        if joined.len() == JOINED_BYTES_MAX {
            break;
        }
    }
    joined.freeze()
}

struct QuicRecv {
    stream: quinn::RecvStream,
    room: Room,
    /// After a failure the stream itself would say that it has ended.
    failed: Option<io::ErrorKind>,
    /// Until it has ended.
    place: Option<Arc<Place>>,
}

impl RecvStream for QuicRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let budget = ready!(coop::poll_proceed(context));
        let Self { stream, room, failed, place } = self;
        let received = ready!(
            room.poll_fill(buffer, max, |target| pin!(stream.read_buf(target)).poll(context))
        );
        budget.made_progress();
        if max > 0 && matches!(received, Ok(0) | Err(_)) {
            *place = None;
        }
        if let Err(error) = &received
            && max > 0
        {
            *failed = Some(error.kind());
        }
        Poll::Ready(received)
    }
}

/// A slice of this size is worth a write of its own.
const LARGE_BYTES: usize = 16 << 10;
/// What is copied in vain at most when there turns out to be no room.
const JOINED_BYTES_MAX: usize = 64 << 10;
