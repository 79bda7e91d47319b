//! The stream of a socket of the operating system: TCP's and Unix's.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use ltq_core::{RecvStream, SendStream, Stream};
use socket2::SockRef;
use tokio::io::Interest;

use crate::room::Room;

/// What tokio's two kinds of stream socket have in common.
pub(crate) trait Socket: Send + Sync + 'static {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_io(
        &self,
        interest: Interest,
        transfer: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize>;
    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    fn shutdown_write(&self) -> io::Result<()>;
}

macro_rules! socket {
    ($type:ty) => {
        impl Socket for $type {
            fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(context)
            }

            fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }

            fn try_io(
                &self,
                interest: Interest,
                transfer: impl FnOnce() -> io::Result<usize>,
            ) -> io::Result<usize> {
                self.try_io(interest, transfer)
            }

            fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }

            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }

            fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(slices)
            }

            fn shutdown_write(&self) -> io::Result<()> {
                SockRef::from(self).shutdown(Shutdown::Write)
            }
        }
    };
}

#[cfg(feature = "tcp")]
socket!(tokio::net::TcpStream);
#[cfg(all(unix, feature = "unix"))]
socket!(tokio::net::UnixStream);

/// Both halves of a socket.
pub(crate) fn split(socket: impl Socket) -> Stream {
    let link = Arc::new(Link { socket, cut: AtomicBool::new(false) });
    Stream {
        send: Box::new(SocketSend { link: Arc::clone(&link), finished: false }),
        recv: Box::new(SocketRecv { link, room: Room::new() }),
    }
}

struct Link<S> {
    socket: S,
    /// A half saw the connection fail. The kernel tells a failure once, to whichever half asks
    /// first; afterwards a read finds what looks like an orderly end.
    cut: AtomicBool,
}

impl<S: Socket> Link<S> {
    /// Remembers a failure.
    fn cut(&self, error: io::Error) -> io::Error {
        self.cut.store(true, Ordering::Relaxed);
        error
    }

    fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Runs `transfer`, which could move `offered` bytes, and forgets the socket's readiness when
    /// it moved fewer: there is nothing more to move, and no call need be spent to find that out.
    fn transfer(
        &self,
        interest: Interest,
        offered: usize,
        transfer: impl FnOnce(&S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let outcome = self.socket.try_io(interest, || match transfer(&self.socket) {
            Ok(bytes) if EDGE_TRIGGERED && 0 < bytes && bytes < offered => {
                moved = Some(bytes);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        });
        moved.map_or(outcome, Ok)
    }
}

struct SocketRecv<S> {
    link: Arc<Link<S>>,
    room: Room,
}

impl<S: Socket> RecvStream for SocketRecv<S> {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let Self { link, room } = self;
        loop {
            // Before there is any room: who waits holds none.
            ready!(link.socket.poll_read_ready(context)).map_err(|error| link.cut(error))?;
            let read =
                room.poll_fill(buffer, max, |target| {
                    let offered = target.chunk_mut().len();
                    Poll::Ready(link.transfer(Interest::READABLE, offered, |socket| {
                        socket.try_read_buf(target)
                    }))
                });
            return match ready!(read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    Poll::Ready(Err(error))
                }
                Err(error) => Poll::Ready(Err(link.cut(error))),
                // Whether that is the peer's end or what a cut left cannot be told any more.
                Ok(0) if link.was_cut() => Poll::Ready(Err(was_cut())),
                received => Poll::Ready(received),
            };
        }
    }
}

struct SocketSend<S: Socket> {
    link: Arc<Link<S>>,
    finished: bool,
}

impl<S: Socket> SendStream for SocketSend<S> {
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
        // Empty slices at the front would take the places of full ones behind.
        let Some(first) = slices.iter().position(|slice| !slice.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let slices = slices.get(first..).unwrap_or_default();
        let slices = slices.get(..SLICES_MAX).unwrap_or(slices);
        let offered = slices.iter().fold(0_usize, |sum, slice| sum.saturating_add(slice.len()));
        let link = &self.link;
        loop {
            ready!(link.socket.poll_write_ready(context)).map_err(|error| link.cut(error))?;
            let sent = link.transfer(Interest::WRITABLE, offered, |socket| match slices {
                [single] => socket.try_write(single),
                several => socket.try_write_vectored(several),
            });
            return match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Poll::Ready(Err(link.cut(error))),
                sent => Poll::Ready(sent),
            };
        }
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            // A Unix socket can be shut down though its peer is gone.
            if self.link.was_cut() {
                return Poll::Ready(Err(was_cut()));
            }
            self.link.socket.shutdown_write().map_err(|error| self.link.cut(error))?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> Drop for SocketSend<S> {
    fn drop(&mut self) {
        // The receiving half may live on, and the peer must not wait for more. Where it does not,
        // closing the socket does the same.
        if !self.finished && Arc::strong_count(&self.link) > 1 {
            let _gone_already = self.link.socket.shutdown_write();
        }
    }
}

fn was_cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection was cut")
}

/// What the systems below take in one call; the short-transfer rule must not see a cut-off list.
const SLICES_MAX: usize = 1024;

/// Whether the system tells of news only: then a short transfer proves that there is nothing more
/// now, and news of what comes next is sure to follow.
const EDGE_TRIGGERED: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
));
