//! One direction of an in-process stream: a bounded buffer between two halves.

use std::{
    io::{self, IoSlice},
    mem,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use ltq_core::{RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, task::coop};

/// The two halves of a new pipe, and a place in its connection that it may keep until both are
/// dropped.
pub(super) fn pipe(place: Option<Arc<OwnedSemaphorePermit>>) -> (PipeSend, PipeRecv) {
    let pipe = Arc::new(Mutex::new(Pipe { _place: place, ..Pipe::default() }));
    (PipeSend { pipe: Arc::clone(&pipe) }, PipeRecv { pipe })
}

#[derive(Default)]
struct Pipe {
    /// Sent and not yet received. When it is emptied its memory goes to the receiver.
    bytes: BytesMut,
    sending: Sending,
    receiver_gone: bool,
    /// Who waits for bytes.
    receiver: Option<Waker>,
    /// Who waits for room.
    sender: Option<Waker>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

#[derive(Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Open,
    Finished,
    Cut,
}

pub(super) struct PipeSend {
    pipe: Arc<Mutex<Pipe>>,
}

pub(super) struct PipeRecv {
    pipe: Arc<Mutex<Pipe>>,
}

impl SendStream for PipeSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(coop::poll_proceed(context));
        let mut pipe = self.pipe.lock();
        if pipe.sending == Sending::Finished {
            return Poll::Ready(Err(error(io::ErrorKind::BrokenPipe, "the stream was finished")));
        }
        if pipe.receiver_gone {
            return Poll::Ready(Err(error(io::ErrorKind::ConnectionReset, "the peer is gone")));
        }
        let offered = slices.iter().fold(0_usize, |sum, slice| sum.saturating_add(slice.len()));
        let taken = offered.min(BYTES_MAX - pipe.bytes.len());
        if taken == 0 && offered > 0 {
            wait(&mut pipe.sender, context);
            return Poll::Pending;
        }
        pipe.bytes.reserve(taken);
        let mut left = taken;
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            pipe.bytes.extend_from_slice(part);
            left -= part.len();
        }
        let receiver = if taken > 0 { pipe.receiver.take() } else { None };
        drop(pipe);
        budget.made_progress();
        wake(receiver);
        Poll::Ready(Ok(taken))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.lock();
        if pipe.sending == Sending::Open {
            if pipe.receiver_gone {
                return Poll::Ready(Err(error(io::ErrorKind::ConnectionReset, "the peer is gone")));
            }
            pipe.sending = Sending::Finished;
            let receiver = pipe.receiver.take();
            drop(pipe);
            wake(receiver);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeSend {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        if pipe.sending == Sending::Open {
            pipe.sending = Sending::Cut;
        }
        let receiver = pipe.receiver.take();
        pipe.sender = None;
        drop(pipe);
        wake(receiver);
    }
}

impl RecvStream for PipeRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if max == 0 {
            return Poll::Ready(Err(error(
                io::ErrorKind::InvalidInput,
                "a receive of at most 0 bytes; it must be at least 1",
            )));
        }
        let budget = ready!(coop::poll_proceed(context));
        let mut pipe = self.pipe.lock();
        if pipe.bytes.is_empty() {
            return match pipe.sending {
                Sending::Finished => Poll::Ready(Ok(0)),
                Sending::Cut => Poll::Ready(Err(error(
                    io::ErrorKind::ConnectionReset,
                    "the peer went without finishing the stream",
                ))),
                Sending::Open => {
                    wait(&mut pipe.receiver, context);
                    Poll::Pending
                }
            };
        }
        let taken = if pipe.bytes.len() <= max {
            mem::take(&mut pipe.bytes)
        } else {
            pipe.bytes.split_to(max)
        };
        // Half empty, so that a receiver which takes little at a time does not wake the sender
        // for each little.
        let sender = if pipe.bytes.len() <= BYTES_MAX / 2 { pipe.sender.take() } else { None };
        drop(pipe);
        budget.made_progress();
        wake(sender);
        let received = taken.len();
        // Room that the receiver made for more than this is kept.
        if buffer.is_empty() && buffer.capacity() <= taken.capacity() {
            *buffer = taken;
        } else {
            buffer.extend_from_slice(&taken);
        }
        Poll::Ready(Ok(received))
    }
}

impl Drop for PipeRecv {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.receiver_gone = true;
        pipe.bytes = BytesMut::new();
        pipe.receiver = None;
        let sender = pipe.sender.take();
        drop(pipe);
        wake(sender);
    }
}

/// Called without the lock: waking may run anything.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn wait(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

fn error(kind: io::ErrorKind, why: &'static str) -> io::Error {
    io::Error::new(kind, why)
}

/// What one direction holds before its sender waits: a batch of 200 messages of 1 KiB and some.
const BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn bytes_are_handed_over_without_a_second_copy_and_leave_no_memory_behind() {
        let (mut send, mut recv) = pipe(None);
        let sent = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
        assert!(matches!(send.poll_send(&mut context(), &sent), Poll::Ready(Ok(4))));
        let held = recv.pipe.lock().bytes.as_ptr();
        let mut buffer = BytesMut::new();
        assert!(matches!(recv.poll_recv(&mut context(), &mut buffer, 100), Poll::Ready(Ok(4))));
        assert_eq!((buffer.as_ptr(), &buffer[..]), (held, &b"abcd"[..]));
        assert_eq!(recv.pipe.lock().bytes.capacity(), 0);
    }

    #[test]
    fn promise_9_a_pipe_takes_no_more_than_its_bound() {
        let (mut send, mut recv) = pipe(None);
        let much = vec![0; BYTES_MAX + 1];
        let sent = send.poll_send(&mut context(), &[IoSlice::new(&much)]);
        assert!(matches!(sent, Poll::Ready(Ok(BYTES_MAX))));
        assert!(send.poll_send(&mut context(), &[IoSlice::new(b"x")]).is_pending());
        let mut buffer = BytesMut::new();
        assert!(matches!(recv.poll_recv(&mut context(), &mut buffer, 9), Poll::Ready(Ok(9))));
        let sent = send.poll_send(&mut context(), &[IoSlice::new(&much)]);
        assert!(matches!(sent, Poll::Ready(Ok(9))));
    }

    #[test]
    fn a_receiver_that_goes_frees_what_it_did_not_read_and_fails_the_sender() {
        let (mut send, recv) = pipe(None);
        assert!(send.poll_send(&mut context(), &[IoSlice::new(b"x")]).is_ready());
        drop(recv);
        assert_eq!(send.pipe.lock().bytes.capacity(), 0);
        let sent = send.poll_send(&mut context(), &[IoSlice::new(b"x")]);
        assert!(matches!(sent, Poll::Ready(Err(_))));
        assert!(matches!(send.poll_finish(&mut context()), Poll::Ready(Err(_))));
    }
}
