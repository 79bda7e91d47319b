//! Links inside one process: no sockets, no tasks, one copy per byte.

mod many_streams;
mod pipe;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Peer, Stream, Transport, TransportError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::OneStream;
use pipe::pipe;

/// The transport inside a process, of addresses like `in-process://NAME`.
///
/// An `InProcess` is a namespace: its clones share it, another one knows nothing of its names. A
/// name is any text; one listener at a time has it, and sees its peers as
/// `in-process://NAME#NUMBER`.
///
/// A stream holds up to 256 KiB per direction before its sender has to wait, and no memory for
/// bytes while it is empty. Dropping a sending half unfinished cuts: the peer gets what was
/// taken, and then an error. Dropping a receiving half fails the peer's next send. Nothing here
/// runs a task or a timer.
///
/// A connection carries one stream, or many where [`multiplexed`](Self::multiplexed) made the
/// namespace. Of those each side may have opened 1,024 at once whose halves are not all dropped;
/// opening one more waits.
#[derive(Clone, Default)]
pub struct InProcess {
    namespace: Arc<Namespace>,
}

#[derive(Default)]
struct Namespace {
    multiplexed: bool,
    listeners: Mutex<HashMap<String, mpsc::Sender<Box<dyn Connection>>>>,
    connections: AtomicU64,
}

impl InProcess {
    /// A new namespace, whose connections carry one stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new namespace, whose connections carry many streams.
    #[must_use]
    pub fn multiplexed() -> Self {
        Self { namespace: Arc::new(Namespace { multiplexed: true, ..Namespace::default() }) }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.namespace.listeners.lock().keys().cloned().collect();
        f.debug_struct("InProcess").field("listeners", &names).finish()
    }
}

fn name_of(address: &Address) -> Result<&str, TransportError> {
    let refuse = |why: &str| TransportError::Address { address: address.clone(), why: why.into() };
    if address.scheme() != SCHEME {
        return Err(refuse("the in-process transport takes addresses like in-process://NAME"));
    }
    if address.rest().is_empty() {
        return Err(refuse("it has no name; it looks like in-process://NAME"));
    }
    Ok(address.rest())
}

#[async_trait]
impl Transport for InProcess {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let name = name_of(address)?;
        match self.namespace.listeners.lock().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(TransportError::Io {
                doing: format!("listening on {address}"),
                source: io::ErrorKind::AddrInUse.into(),
            }),
            Entry::Vacant(vacant) => {
                let (sender, waiting) = mpsc::channel(BACKLOG);
                vacant.insert(sender);
                let (namespace, address) = (Arc::clone(&self.namespace), address.clone());
                Ok(Box::new(InProcessListener { namespace, address, waiting }))
            }
        }
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let name = name_of(address)?;
        let refused = || TransportError::Io {
            doing: format!("connecting to {address}"),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        let listener = self.namespace.listeners.lock().get(name).cloned().ok_or_else(refused)?;
        let place = listener.reserve().await.map_err(|_| refused())?;
        let number = self.namespace.connections.fetch_add(1, Ordering::Relaxed);
        let client = Address::new(SCHEME, format!("{name}#{number}"));
        let client = Peer { address: client, identity: None };
        let listener = Peer { address: address.clone(), identity: None };
        if self.namespace.multiplexed {
            let (near, far) = many_streams::link(listener, client);
            place.send(Box::new(far));
            return Ok(Box::new(near));
        }
        let (near, far) = stream(None);
        place.send(Box::new(OneStream::accepting(client, far)));
        Ok(Box::new(OneStream::connecting(listener, near)))
    }
}

/// Both ends of a new stream, which keeps a place for as long as one of its halves lives.
fn stream(place: Option<OwnedSemaphorePermit>) -> (Stream, Stream) {
    let place = place.map(Arc::new);
    let (near_send, far_recv) = pipe(place.clone());
    let (far_send, near_recv) = pipe(place);
    (
        Stream { send: Box::new(near_send), recv: Box::new(near_recv) },
        Stream { send: Box::new(far_send), recv: Box::new(far_recv) },
    )
}

struct InProcessListener {
    namespace: Arc<Namespace>,
    address: Address,
    waiting: mpsc::Receiver<Box<dyn Connection>>,
}

#[async_trait]
impl Listener for InProcessListener {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        // The namespace holds a sender for as long as this listener has the name.
        self.waiting.recv().await.ok_or(TransportError::Closed)
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for InProcessListener {
    fn drop(&mut self) {
        self.namespace.listeners.lock().remove(self.address.rest());
    }
}

const SCHEME: &str = "in-process";
/// Connections that wait to be accepted before a further `connect` has to wait: as many as TCP's
/// listeners usually hold.
const BACKLOG: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clones_share_names_and_others_do_not() {
        let ours = InProcess::new();
        let address = Address::new(SCHEME, "broker");
        let mut listener = ours.listen(&address).await.unwrap();
        let near = ours.clone().connect(&address).await.unwrap();
        let far = listener.accept().await.unwrap();
        assert_eq!(near.peer().address, address);
        assert_eq!(far.peer().address.to_string(), "in-process://broker#0");
        assert!(InProcess::new().connect(&address).await.is_err());
    }

    #[tokio::test]
    async fn a_name_has_one_listener_and_is_free_when_that_is_dropped() {
        let transport = InProcess::new();
        let address = Address::new(SCHEME, "broker");
        let first = transport.listen(&address).await.unwrap();
        assert!(matches!(
            transport.listen(&address).await.err(),
            Some(TransportError::Io { source, .. }) if source.kind() == io::ErrorKind::AddrInUse
        ));
        drop(first);
        assert!(transport.listen(&address).await.is_ok());
    }

    #[tokio::test]
    async fn addresses_of_others_are_refused() {
        for address in [Address::new("tcp", "a:1"), Address::new(SCHEME, "")] {
            for error in [
                InProcess::new().listen(&address).await.err(),
                InProcess::new().connect(&address).await.err(),
            ] {
                assert!(matches!(error, Some(TransportError::Address { .. })), "{error:?}");
            }
        }
    }
}
