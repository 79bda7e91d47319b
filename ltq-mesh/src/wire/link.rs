//! Frames over a stream.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    task::{Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use ltq_core::{Address, Connection, RecvStream, SendStream, Stream};
use thiserror::Error;

use super::{Say, WireError, decode, encode};

/// A connection to a peer and the one stream of it that is used, its halves apart so that both can be waited
/// for at once.
pub(crate) struct Link {
    pub(crate) mouth: Mouth,
    pub(crate) ear: Ear,
    pub(crate) connection: Box<dyn Connection>,
}

/// What is said waits here until the stream takes it.
pub(crate) struct Mouth {
    send: Box<dyn SendStream>,
    chunks: VecDeque<Bytes>,
    /// What came after the last chunk.
    scratch: BytesMut,
    unsent: usize,
}

/// What is heard.
pub(crate) struct Ear {
    recv: Box<dyn RecvStream>,
    received: BytesMut,
}

/// Why a link is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Lost(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the peer closed it")]
    Ended,
}

impl Link {
    pub(crate) fn new(connection: Box<dyn Connection>, Stream { send, recv }: Stream) -> Self {
        let mouth = Mouth { send, chunks: VecDeque::new(), scratch: BytesMut::new(), unsent: 0 };
        Self { mouth, ear: Ear { recv, received: BytesMut::new() }, connection }
    }

    /// Where the peer is, as far as the transport knows.
    pub(crate) fn address(&self) -> &Address {
        &self.connection.peer().address
    }
}

impl Mouth {
    /// Sends bytes of any kind.
    #[cfg(test)]
    pub(crate) fn poll_raw(
        &mut self,
        context: &mut std::task::Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send.poll_send(context, slices)
    }

    /// Says something, as soon as it can.
    pub(crate) fn say(&mut self, say: &Say) -> Result<(), LinkError> {
        let before = self.scratch.len();
        encode(say, 0, &mut self.scratch)?;
        self.unsent += self.scratch.len() - before;
        Ok(())
    }

    /// Says a message, as soon as it can.
    pub(crate) fn message(&mut self, number: u64, body: Bytes) -> Result<(), LinkError> {
        let before = self.scratch.len();
        encode(&Say::Message { number }, body.len(), &mut self.scratch)?;
        self.unsent += self.scratch.len() - before + body.len();
        if body.len() < SHARED_FROM {
            self.scratch.extend_from_slice(&body);
        } else {
            self.chunks.push_back(self.scratch.split().freeze());
            self.chunks.push_back(body);
        }
        Ok(())
    }

    /// Bytes that wait.
    pub(crate) const fn unsent(&self) -> usize {
        self.unsent
    }

    /// Sends some of what waits; waits for ever when nothing does. Cancel safe.
    pub(crate) async fn send_some(&mut self) -> Result<(), LinkError> {
        poll_fn(|context| {
            if self.unsent == 0 {
                return Poll::Pending;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut filled = 0;
            let waiting = self.chunks.iter().map(|chunk| &**chunk);
            for (slot, bytes) in slices.iter_mut().zip(waiting.chain([&*self.scratch])) {
                *slot = IoSlice::new(bytes);
                filled += 1;
            }
            let slices = slices.get(..filled).unwrap_or_default();
            let sent = ready!(self.send.poll_send(context, slices))?;
            if sent == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.advance(sent);
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends all that waits, and the end. Cancel safe.
    pub(crate) async fn finish(&mut self) -> Result<(), LinkError> {
        while self.unsent > 0 {
            self.send_some().await?;
        }
        Ok(poll_fn(|context| self.send.poll_finish(context)).await?)
    }

    fn advance(&mut self, sent: usize) {
        let mut left = sent.min(self.unsent);
        self.unsent -= left;
        while let Some(chunk) = self.chunks.front_mut() {
            if left < chunk.len() {
                chunk.advance(left);
                return;
            }
            left -= chunk.len();
            self.chunks.pop_front();
        }
        self.scratch.advance(left.min(self.scratch.len()));
        if self.unsent == 0 {
            // Nothing is held while nothing is said.
            self.scratch = BytesMut::new();
        }
    }
}

impl Ear {
    /// The next frame, and the body of a message that has no more bytes than so many; `None` for these takes
    /// no message. Answers `None` when only a part of the frame has come. Cancel safe.
    pub(crate) async fn hear_some(
        &mut self,
        body_bytes_max: Option<usize>,
    ) -> Result<Option<(Say, Bytes)>, LinkError> {
        if let Some(frame) = decode(&mut self.received, body_bytes_max)? {
            return Ok(Some(frame));
        }
        let max = match body_bytes_max {
            Some(_) => READ_BYTES,
            None => READ_BYTES_BEFORE_HELLO,
        };
        let received = &mut self.received;
        let got = poll_fn(|context| self.recv.poll_recv(context, received, max)).await?;
        if got == 0 {
            return Err(LinkError::Ended);
        }
        Ok(decode(&mut self.received, body_bytes_max)?)
    }

    /// The next frame, which is no message: what is said before a peer is known. Cancel safe.
    pub(crate) async fn hear(&mut self) -> Result<Say, LinkError> {
        loop {
            if let Some((say, _)) = self.hear_some(None).await? {
                return Ok(say);
            }
        }
    }
}

/// Bodies from here on are not copied.
const SHARED_FROM: usize = 4 << 10;
/// What one write takes at most.
const SLICES_MAX: usize = 32;
/// What is read at a time.
const READ_BYTES: usize = 64 << 10;
/// The same of somebody who has not said who it is.
const READ_BYTES_BEFORE_HELLO: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Context};

    use parking_lot::Mutex;

    use super::*;

    /// Has nothing to say, and notes how much of it may be read at a time.
    struct Noting(Arc<Mutex<Vec<usize>>>);

    impl RecvStream for Noting {
        fn poll_recv(
            &mut self,
            _: &mut Context<'_>,
            _: &mut BytesMut,
            max: usize,
        ) -> Poll<io::Result<usize>> {
            self.0.lock().push(max);
            Poll::Ready(Ok(0))
        }
    }

    #[tokio::test]
    async fn promise_9_of_who_has_not_said_who_it_is_no_more_than_4_kib_are_read() {
        let noted = Arc::default();
        let recv = Box::new(Noting(Arc::clone(&noted)));
        let mut ear = Ear { recv, received: BytesMut::new() };
        assert!(matches!(ear.hear().await, Err(LinkError::Ended)));
        assert!(matches!(ear.hear_some(Some(1)).await, Err(LinkError::Ended)));
        assert_eq!(*noted.lock(), [4 << 10, 64 << 10]);
    }
}
