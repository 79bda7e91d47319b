//! A transport of many streams that a test can count, hold up and cut, one stream at a time.

use std::{
    future::pending,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::InProcess;
use tokio::sync::watch;

/// Connections of many streams, in this process. Clones watch the same ones.
#[derive(Clone)]
pub(crate) struct Watched {
    inner: InProcess,
    /// One for each connection that was made.
    connections: Arc<Mutex<Vec<Watch>>>,
    /// Streams of a connection beyond which opening another one waits for ever.
    streams_max: Arc<AtomicUsize>,
}

/// What is known of a connection.
#[derive(Clone)]
pub(crate) struct Watch {
    /// Each stream that was opened, in this order.
    streams: Arc<Mutex<Vec<Arc<Tap>>>>,
    /// Streams of which a half is in use.
    live: Arc<watch::Sender<usize>>,
}

/// What a test does to a stream.
struct Tap(Mutex<State>);

#[derive(Default)]
struct State {
    is_stalled: bool,
    is_cut: bool,
    /// How often somebody looked at it.
    polls: u64,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

impl Tap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = [state.receiver.take(), state.sender.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self {
            inner: InProcess::multiplexed(),
            connections: Arc::default(),
            streams_max: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// The same network, but for these connections.
    pub(crate) fn with_streams_max(mut self, streams_max: usize) -> Self {
        self.streams_max = Arc::new(AtomicUsize::new(streams_max));
        self
    }

    /// Connections have so many from now on.
    pub(crate) fn set_streams_max(&self, streams_max: usize) {
        self.streams_max.store(streams_max, Ordering::Relaxed);
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    pub(crate) fn connection(&self, index: usize) -> Watch {
        self.connections.lock().unwrap()[index].clone()
    }
}

impl Watch {
    /// How many streams were opened.
    pub(crate) fn opened(&self) -> usize {
        self.streams.lock().unwrap().len()
    }

    /// How many streams there are.
    pub(crate) fn live(&self) -> watch::Receiver<usize> {
        self.live.subscribe()
    }

    /// Nothing gets through on these streams, or everything does again.
    pub(crate) fn stall(&self, streams: &[usize], is_stalled: bool) {
        for stream in streams {
            let tap = self.streams.lock().unwrap()[*stream].clone();
            tap.change(|state| state.is_stalled = is_stalled);
        }
    }

    /// How often the client has looked at each stream.
    pub(crate) fn polls(&self) -> Vec<u64> {
        self.streams.lock().unwrap().iter().map(|tap| tap.lock().polls).collect()
    }

    /// Resets a stream, as far as the client can tell.
    pub(crate) fn cut(&self, stream: usize) {
        let tap = self.streams.lock().unwrap()[stream].clone();
        tap.change(|state| state.is_cut = true);
    }
}

#[async_trait]
impl Transport for Watched {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let inner = self.inner.connect(address).await?;
        let watch = Watch { streams: Arc::default(), live: Arc::new(watch::Sender::new(0)) };
        self.connections.lock().unwrap().push(watch.clone());
        Ok(Box::new(WatchedConnection { inner, watch, streams_max: self.streams_max.clone() }))
    }
}

struct WatchedConnection {
    inner: Box<dyn Connection>,
    watch: Watch,
    streams_max: Arc<AtomicUsize>,
}

/// Counts a stream for as long as one of its halves lives.
struct Live(Arc<watch::Sender<usize>>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.send_modify(|live| *live -= 1);
    }
}

/// One half of a stream.
struct Half<T> {
    inner: T,
    tap: Arc<Tap>,
    _live: Arc<Live>,
}

#[async_trait]
impl Connection for WatchedConnection {
    fn multiplexed(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        self.inner.peer()
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        if self.watch.opened() >= self.streams_max.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        let Stream { send, recv } = self.inner.open_stream().await?;
        let tap = Arc::new(Tap(Mutex::default()));
        self.watch.streams.lock().unwrap().push(tap.clone());
        self.watch.live.send_modify(|live| *live += 1);
        let live = Arc::new(Live(self.watch.live.clone()));
        Ok(Stream {
            send: Box::new(Half { inner: send, tap: tap.clone(), _live: live.clone() }),
            recv: Box::new(Half { inner: recv, tap, _live: live }),
        })
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.inner.accept_stream().await
    }
}

impl SendStream for Half<Box<dyn SendStream>> {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.tap.lock();
        state.polls += 1;
        state.sender = Some(context.waker().clone());
        if state.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.is_stalled {
            return Poll::Pending;
        }
        drop(state);
        self.inner.poll_send(context, bytes)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_finish(context)
    }
}

impl RecvStream for Half<Box<dyn RecvStream>> {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.tap.lock();
        state.polls += 1;
        state.receiver = Some(context.waker().clone());
        if state.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.is_stalled {
            return Poll::Pending;
        }
        drop(state);
        self.inner.poll_recv(context, buffer, max)
    }
}
