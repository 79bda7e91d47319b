//! What is still to be written to a stream.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};

use crate::SendStream;

/// Bytes in the order in which they are to be sent: small ones gathered in one buffer, large ones
/// kept as the slices that they are, all of them written with vectored writes.
#[derive(Debug, Default)]
pub struct WriteQueue {
    chunks: VecDeque<Bytes>,
    /// The end of the queue: what came after the last chunk.
    scratch: BytesMut,
    bytes: usize,
    /// How much of `scratch` is counted in `bytes`.
    counted: usize,
}

impl WriteQueue {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Gives memory back that an idle stream has no use for.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Adds bytes of any kind.
    pub fn push(&mut self, bytes: &Bytes) {
        self.push_bytes(bytes);
        self.commit();
    }

    /// Writes until nothing is left or the stream takes no more.
    ///
    /// # Errors
    /// The stream was cut.
    pub fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut dyn SendStream,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut filled = 0;
            let waiting = self.chunks.iter().map(|chunk| &**chunk);
            for (slot, chunk) in slices.iter_mut().zip(waiting.chain([&*self.scratch])) {
                *slot = IoSlice::new(chunk);
                filled += 1;
            }
            let slices = slices.get(..filled).unwrap_or_default();
            let sent = ready!(stream.poll_send(context, slices))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn scratch(&mut self) -> &mut BytesMut {
        &mut self.scratch
    }

    /// Adds bytes behind the scratch: copied when small, shared when large.
    pub(super) fn push_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            self.scratch.extend_from_slice(bytes);
            return;
        }
        self.commit();
        if !self.scratch.is_empty() {
            self.chunks.push_back(self.scratch.split().freeze());
            self.counted = 0;
        }
        self.bytes += bytes.len();
        self.chunks.push_back(bytes.clone());
    }

    /// Counts what was added to the scratch.
    pub(super) fn commit(&mut self) {
        self.bytes += self.scratch.len() - self.counted;
        self.counted = self.scratch.len();
    }

    fn advance(&mut self, mut sent: usize) {
        self.bytes = self.bytes.saturating_sub(sent);
        while let Some(front) = self.chunks.front_mut() {
            if sent < front.len() {
                front.advance(sent);
                return;
            }
            sent -= front.len();
            self.chunks.pop_front();
        }
        let sent = sent.min(self.scratch.len());
        self.scratch.advance(sent);
        self.counted = self.scratch.len();
        if self.scratch.is_empty() {
            self.scratch.clear();
        }
    }
}

/// Slices handed to one vectored write; Linux takes up to 1,024.
const SLICES_MAX: usize = 64;
/// Below this a copy costs less than one more slice, its reference count and its share of a
/// vectored write.
const SHARE_BYTES_MIN: usize = 1024;
