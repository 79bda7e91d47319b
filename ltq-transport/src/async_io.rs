//! Streams out of tokio's `AsyncRead` and `AsyncWrite`.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use ltq_core::{RecvStream, SendStream, Stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    task::AbortHandle,
};

use crate::room::Room;

/// Makes a [`Stream`] of a reader and a writer: [`tokio::io::split`] gives the two of a type that
/// is both.
///
/// The writer is flushed after every write. When it cannot be flushed at once (a TLS session over
/// a full socket, say) a short-lived task sees to it, and the next send waits for it: so what was
/// taken is on its way though the caller sends nothing more. Finishing shuts the writer down.
/// Dropping the sending half unfinished drops the writer; what that means to the peer is the
/// writer's affair.
///
/// The reader is given room for each try and holds none while it waits. A reader that comes to
/// its end within what its protocol sends must say so by an error, or the end is taken for the
/// peer's.
///
/// It must be used within a tokio runtime.
pub fn from_async_io(
    reader: impl AsyncRead + Send + Unpin + 'static,
    writer: impl AsyncWrite + Send + Unpin + 'static,
) -> Stream {
    let writer = Arc::new(Mutex::new(Writer { io: writer, state: State::Ready, sender: None }));
    Stream {
        send: Box::new(AsyncSend { writer, finished: false, flusher: None }),
        recv: Box::new(AsyncRecv { reader, room: Room::new(), failed: None }),
    }
}

struct AsyncRecv<R> {
    reader: R,
    room: Room,
    failed: Option<io::ErrorKind>,
}

impl<R: AsyncRead + Send + Unpin + 'static> RecvStream for AsyncRecv<R> {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let Self { reader, room, failed } = self;
        let received = ready!(
            room.poll_fill(buffer, max, |target| { pin!(reader.read_buf(target)).poll(context) })
        );
        if let Err(error) = &received
            && max > 0
        {
            *failed = Some(error.kind());
        }
        Poll::Ready(received)
    }
}

struct Writer<W> {
    io: W,
    state: State,
    /// Who waits to send while the writer is being flushed.
    sender: Option<Waker>,
}

#[derive(Clone, Copy)]
enum State {
    Ready,
    /// A task flushes it.
    Flushing,
    Failed(io::ErrorKind),
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Waits until the writer is whole and flushed.
    fn poll_usable(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match self.state {
            State::Ready => Poll::Ready(Ok(())),
            State::Failed(kind) => Poll::Ready(Err(kind.into())),
            State::Flushing => {
                self.sender = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Remembers a failure.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.state = State::Failed(error.kind());
        error
    }
}

struct AsyncSend<W> {
    writer: Arc<Mutex<Writer<W>>>,
    finished: bool,
    flusher: Option<AbortHandle>,
}

impl<W: AsyncWrite + Send + Unpin + 'static> SendStream for AsyncSend<W> {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the stream was finished",
            )));
        }
        let Some(first) = slices.iter().position(|slice| !slice.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let slices = slices.get(first..).unwrap_or_default();
        let mut writer = self.writer.lock();
        ready!(writer.poll_usable(context))?;
        let io = Pin::new(&mut writer.io);
        let sent = match slices {
            [first, _, ..] if !io.is_write_vectored() => io.poll_write(context, first),
            [single] => io.poll_write(context, single),
            several => io.poll_write_vectored(context, several),
        };
        let sent = match ready!(sent) {
            Ok(0) => return Poll::Ready(Err(writer.fail(io::ErrorKind::WriteZero.into()))),
            Ok(sent) => sent,
            Err(error) => return Poll::Ready(Err(writer.fail(error))),
        };
        match writer.poll_flush(context) {
            Poll::Ready(Ok(())) => {}
            // The bytes were taken; the failure is for the next call.
            Poll::Ready(Err(error)) => drop(writer.fail(error)),
            Poll::Pending => {
                writer.state = State::Flushing;
                let flushed = flushed(Arc::clone(&self.writer));
                self.flusher = Some(tokio::spawn(flushed).abort_handle());
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            let mut writer = self.writer.lock();
            ready!(writer.poll_usable(context))?;
            ready!(Pin::new(&mut writer.io).poll_shutdown(context))
                .map_err(|error| writer.fail(error))?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<W> Drop for AsyncSend<W> {
    fn drop(&mut self) {
        // It would keep the writer alive.
        if let Some(flusher) = &self.flusher {
            flusher.abort();
        }
    }
}

async fn flushed<W: AsyncWrite + Unpin>(shared: Arc<Mutex<Writer<W>>>) {
    let sender = poll_fn(|context| {
        let mut writer = shared.lock();
        match ready!(writer.poll_flush(context)) {
            Ok(()) => writer.state = State::Ready,
            Err(error) => drop(writer.fail(error)),
        }
        Poll::Ready(writer.sender.take())
    })
    .await;
    if let Some(sender) = sender {
        sender.wake();
    }
}

#[cfg(test)]
mod tests;
