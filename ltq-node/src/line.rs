//! A line to a broker that is lost at one end alone: the broker hears nothing of it.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::InProcess;
use parking_lot::Mutex;

/// In-process connections that [`mute`](Self::mute) and [`lose`](Self::lose) do something to.
#[derive(Clone)]
pub(crate) struct Line {
    inner: InProcess,
    now: Arc<Mutex<Now>>,
}

#[derive(Default)]
struct Now {
    /// Counts the losses: streams from before one are lost.
    age: u64,
    /// Whether all that is said stays on the way; with an address, to and from there alone.
    muted: Option<Option<Address>>,
    /// Whether only what brokers say does.
    only_answers: bool,
    wakers: Vec<Waker>,
    /// What the broker takes for well.
    kept: Vec<Kept>,
}

type Kept = (Option<Box<dyn SendStream>>, Option<Box<dyn RecvStream>>);

struct LineConnection(Box<dyn Connection>, Arc<Mutex<Now>>, Address);

/// One direction of a stream.
struct End<S> {
    inner: Option<S>,
    now: Arc<Mutex<Now>>,
    age: u64,
    address: Address,
}

impl Line {
    pub(crate) fn new(inner: InProcess) -> Self {
        Self { inner, now: Arc::default() }
    }

    /// What either end says from now on does not come.
    pub(crate) fn mute(&self) {
        self.now.lock().muted = Some(None);
    }

    /// What one broker says from now on does not come; it hears everything.
    pub(crate) fn mute_answers_of(&self, name: &str) {
        let mut now = self.now.lock();
        now.muted = Some(Some(Address::new("in-process", name)));
        now.only_answers = true;
    }

    /// The same of one broker.
    pub(crate) fn mute_at(&self, name: &str) {
        self.now.lock().muted = Some(Some(Address::new("in-process", name)));
    }

    /// What was kept on the way goes on.
    pub(crate) fn clear(&self) {
        let mut now = self.now.lock();
        now.muted = None;
        now.only_answers = false;
        now.wakers.drain(..).for_each(Waker::wake);
    }

    /// The client loses what connections it has, and may make others.
    pub(crate) fn lose(&self) {
        let mut now = self.now.lock();
        now.age += 1;
        now.muted = None;
        now.only_answers = false;
        now.wakers.drain(..).for_each(Waker::wake);
    }
}

impl<S> End<S> {
    fn new(inner: S, now: &Arc<Mutex<Now>>, address: &Address) -> Self {
        let age = now.lock().age;
        Self { inner: Some(inner), now: now.clone(), age, address: address.clone() }
    }

    /// The stream while it is well, or what is to be said instead.
    fn at(&mut self, context: &Context<'_>, is_answer: bool) -> Result<&mut S, Poll<io::Error>> {
        let mut now = self.now.lock();
        if now.age > self.age {
            return Err(Poll::Ready(io::ErrorKind::ConnectionReset.into()));
        }
        now.wakers.push(context.waker().clone());
        let here = |of: &Option<Address>| of.as_ref().is_none_or(|of| *of == self.address);
        if now.muted.as_ref().is_some_and(here) && (is_answer || !now.only_answers) {
            return Err(Poll::Pending);
        }
        drop(now);
        self.inner.as_mut().ok_or(Poll::Pending)
    }
}

#[async_trait]
impl Transport for Line {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.inner.connect(address).await?;
        Ok(Box::new(LineConnection(connection, self.now.clone(), address.clone())))
    }
}

#[async_trait]
impl Connection for LineConnection {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }

    fn peer(&self) -> &Peer {
        self.0.peer()
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let Stream { send, recv } = self.0.open_stream().await?;
        let send = Box::new(Sending(End::new(send, &self.1, &self.2)));
        Ok(Stream { send, recv: Box::new(Receiving(End::new(recv, &self.1, &self.2))) })
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

struct Sending(End<Box<dyn SendStream>>);
struct Receiving(End<Box<dyn RecvStream>>);

impl SendStream for Sending {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.0.at(context, false) {
            Ok(inner) => inner.poll_send(context, bytes),
            Err(instead) => instead.map(Err),
        }
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.at(context, false) {
            Ok(inner) => inner.poll_finish(context),
            Err(instead) => instead.map(Err),
        }
    }
}

impl RecvStream for Receiving {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        match self.0.at(context, true) {
            Ok(inner) => inner.poll_recv(context, buffer, max),
            Err(instead) => instead.map(Err),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.now.lock().kept.push((self.0.inner.take(), None));
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.now.lock().kept.push((None, self.0.inner.take()));
    }
}
