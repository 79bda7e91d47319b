//! In-process links of many streams with one fault each.

use std::{
    future::pending,
    io::{self, IoSlice},
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::InProcess;
use tokio::task::yield_now;

use self::StreamFault as Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFault {
    None,
    CrossesStreams,
    SharesOneWindow,
    AcceptsNewestFirst,
    CutsAllWithOne,
    FinishesAllWithOne,
    LeavesPlacesTaken,
    OpensMoreThanItSays,
    LosesOpened,
    LosesAccepted,
    ClosesWithItsConnection,
    WaitsForEver,
}

type SharedSend = Arc<Mutex<Box<dyn SendStream>>>;

/// Of all connections of one transport: each case makes one.
#[derive(Default)]
struct Shared {
    in_flight: AtomicUsize,
    cut: AtomicBool,
    /// The number of a stream that was finished, and one more.
    finished: AtomicUsize,
    senders: Mutex<Vec<SharedSend>>,
}

pub(crate) struct BrokenStreams {
    inner: InProcess,
    fault: Fault,
    shared: Arc<Shared>,
}

impl BrokenStreams {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { inner: InProcess::multiplexed(), fault, shared: Arc::default() }
    }
}

#[async_trait]
impl Transport for BrokenStreams {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.inner.listen(address).await?;
        Ok(Box::new(Accepting { inner, fault: self.fault, shared: Arc::clone(&self.shared) }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let inner = self.inner.connect(address).await?;
        Ok(Link::boxed(inner, self.fault, &self.shared))
    }
}

struct Accepting {
    inner: Box<dyn Listener>,
    fault: Fault,
    shared: Arc<Shared>,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        Ok(Link::boxed(self.inner.accept().await?, self.fault, &self.shared))
    }

    fn local_address(&self) -> Address {
        self.inner.local_address()
    }
}

struct Link {
    inner: Box<dyn Connection>,
    fault: Fault,
    shared: Arc<Shared>,
    made: AtomicUsize,
    waiting: Mutex<Vec<Stream>>,
}

impl Link {
    fn boxed(
        inner: Box<dyn Connection>,
        fault: Fault,
        shared: &Arc<Shared>,
    ) -> Box<dyn Connection> {
        let shared = Arc::clone(shared);
        let (made, waiting) = (AtomicUsize::new(0), Mutex::default());
        Box::new(Self { inner, fault, shared, made, waiting })
    }

    fn stream(&self, stream: Stream, opened: bool) -> Stream {
        let number = self.made.fetch_add(1, SeqCst);
        let send: SharedSend = Arc::new(Mutex::new(stream.send));
        if opened && self.fault == Fault::CrossesStreams {
            self.shared.senders.lock().unwrap().push(Arc::clone(&send));
        }
        let (fault, shared) = (self.fault, Arc::clone(&self.shared));
        let recv =
            BrokenRecv { inner: Some(stream.recv), fault, number, shared: Arc::clone(&shared) };
        let send = BrokenSend { inner: Some(send), fault, number, shared, sent: 0, done: false };
        Stream { send: Box::new(send), recv: Box::new(recv) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.fault == Fault::ClosesWithItsConnection {
            self.shared.cut.store(true, SeqCst);
        }
    }
}

#[async_trait]
impl Connection for Link {
    fn multiplexed(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        self.inner.peer()
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let stream = self.inner.open_stream().await?;
        if self.fault == Fault::LosesOpened {
            yield_now().await;
        }
        Ok(self.stream(stream, true))
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        if self.fault == Fault::AcceptsNewestFirst && self.waiting.lock().unwrap().is_empty() {
            while let Some(stream) = self.inner.accept_stream().await? {
                let mut waiting = self.waiting.lock().unwrap();
                waiting.push(stream);
                if waiting.len() == 2 {
                    break;
                }
            }
        }
        let waiting = self.waiting.lock().unwrap().pop();
        let accepted = match waiting {
            Some(stream) => Some(stream),
            None => self.inner.accept_stream().await?,
        };
        match self.fault {
            Fault::LosesAccepted => yield_now().await,
            Fault::WaitsForEver if accepted.is_none() => pending().await,
            _ => {}
        }
        Ok(accepted.map(|stream| self.stream(stream, false)))
    }
}

struct BrokenSend {
    inner: Option<SharedSend>,
    fault: Fault,
    number: usize,
    shared: Arc<Shared>,
    sent: usize,
    done: bool,
}

impl SendStream for BrokenSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.shared.cut.load(SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let full = self.shared.in_flight.load(SeqCst) >= 256 << 10;
        if self.fault == Fault::SharesOneWindow && full {
            return Poll::Pending;
        }
        let other = self.shared.senders.lock().unwrap().get(self.number ^ 1).cloned();
        let inner = match other {
            Some(other) if self.sent > 5000 => other,
            _ => Arc::clone(self.inner.as_ref().unwrap()),
        };
        let sent = ready!(inner.lock().unwrap().poll_send(context, slices))?;
        self.sent += sent;
        self.shared.in_flight.fetch_add(sent, SeqCst);
        Poll::Ready(Ok(sent))
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.done = true;
        if self.fault == Fault::FinishesAllWithOne {
            self.shared.finished.store(self.number + 1, SeqCst);
        }
        self.inner.as_ref().unwrap().lock().unwrap().poll_finish(context)
    }
}

impl Drop for BrokenSend {
    fn drop(&mut self) {
        if self.fault == Fault::CutsAllWithOne && !self.done {
            self.shared.cut.store(true, SeqCst);
        }
        if self.fault == Fault::LeavesPlacesTaken {
            mem::forget(self.inner.take());
        }
    }
}

struct BrokenRecv {
    inner: Option<Box<dyn RecvStream>>,
    fault: Fault,
    number: usize,
    shared: Arc<Shared>,
}

impl RecvStream for BrokenRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let finished = self.shared.finished.load(SeqCst);
        if finished > 0 && finished != self.number + 1 {
            return Poll::Ready(Ok(0));
        }
        let received = ready!(self.inner.as_mut().unwrap().poll_recv(context, buffer, max))?;
        self.shared.in_flight.fetch_sub(received, SeqCst);
        Poll::Ready(Ok(received))
    }
}

impl Drop for BrokenRecv {
    fn drop(&mut self) {
        if self.fault == Fault::LeavesPlacesTaken {
            mem::forget(self.inner.take());
        }
    }
}
