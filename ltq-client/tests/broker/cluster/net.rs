//! A network of in-process links that a test can cut.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::task::AtomicWaker;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::InProcess;

#[derive(Clone, Default)]
pub(crate) struct Net {
    inner: InProcess,
    places: Arc<Mutex<BTreeMap<String, Place>>>,
}

/// What there is at an address.
#[derive(Default)]
struct Place {
    is_unreachable: bool,
    links: Vec<Arc<Switch>>,
}

#[derive(Default)]
struct Switch {
    is_cut: AtomicBool,
    sender: AtomicWaker,
    receiver: AtomicWaker,
}

impl Net {
    /// Links to brokers here are never cut.
    pub(crate) fn steady(&self) -> InProcess {
        self.inner.clone()
    }

    /// Cuts all links to a node. It can be connected to again at once.
    pub(crate) fn cut(&self, node: &str) {
        let mut places = self.places.lock().unwrap();
        for link in places.entry(node.to_owned()).or_default().links.drain(..) {
            link.is_cut.store(true, Ordering::SeqCst);
            link.sender.wake();
            link.receiver.wake();
        }
    }

    /// Cuts all links to a node for good.
    pub(crate) fn take_away(&self, node: &str) {
        self.places.lock().unwrap().entry(node.to_owned()).or_default().is_unreachable = true;
        self.cut(node);
    }
}

#[async_trait]
impl Transport for Net {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let inner = self.inner.connect(address).await?;
        let switch = Arc::new(Switch::default());
        let mut places = self.places.lock().unwrap();
        let place = places.entry(address.rest().to_owned()).or_default();
        if place.is_unreachable {
            return Err(TransportError::Closed);
        }
        place.links.push(switch.clone());
        Ok(Box::new(Link(inner, switch)))
    }
}

struct Link(Box<dyn Connection>, Arc<Switch>);
struct Sender(Box<dyn SendStream>, Arc<Switch>);
struct Receiver(Box<dyn RecvStream>, Arc<Switch>);

#[async_trait]
impl Connection for Link {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }
    fn peer(&self) -> &Peer {
        self.0.peer()
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let Stream { send, recv } = self.0.open_stream().await?;
        Ok(Stream {
            send: Box::new(Sender(send, self.1.clone())),
            recv: Box::new(Receiver(recv, self.1.clone())),
        })
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

impl Switch {
    fn check(&self) -> io::Result<()> {
        match self.is_cut.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl SendStream for Sender {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.sender.register(context.waker());
        self.1.check()?;
        self.0.poll_send(context, bytes)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(context)
    }
}

impl RecvStream for Receiver {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.1.receiver.register(context.waker());
        self.1.check()?;
        self.0.poll_recv(context, buffer, max)
    }
}
