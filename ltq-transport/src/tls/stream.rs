//! The stream of a TLS connection.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ltq_core::Stream;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::from_async_io;

/// Both halves of a session.
pub(super) fn split(session: TlsStream<TcpStream>) -> Stream {
    let session = Arc::new(Mutex::new(session));
    from_async_io(Reader(Arc::clone(&session)), Writer { session, finished: false })
}

type Shared = Arc<Mutex<TlsStream<TcpStream>>>;

struct Reader(Shared);

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(context, buffer)
    }
}

struct Writer {
    session: Shared,
    finished: bool,
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.session.lock()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.session.lock()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.session.lock()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut *self.session.lock()).poll_shutdown(context);
        self.finished |= matches!(shut, Poll::Ready(Ok(())));
        shut
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The reader may live on and keep the socket, and the peer must not wait for more. The end
        // of the socket without TLS's own is an error to it. With no reader, closing does this.
        if !self.finished && Arc::strong_count(&self.session) > 1 {
            let session = self.session.lock();
            let _gone_already = SockRef::from(session.get_ref().0).shutdown(Shutdown::Write);
        }
    }
}
