//! A transport of one's own, over pairs of the operating system's pipes (of Unix), and the suite that
//! every transport has to pass.
//!
//! ```text
//! cargo run -p ltq-examples --example pipes
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Peer, Stream, Transport, TransportError};
use ltq_transport::{OneStream, conformance, from_async_io};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWrite,
    net::unix::pipe::{self, Receiver, Sender},
    sync::mpsc,
};

/// Connects the parts of a program at addresses like `pipes://NAME`. Clones share names.
#[derive(Clone, Default)]
struct Pipes {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<OneStream>>>>,
    connected: Arc<AtomicU64>,
}

struct Listening {
    pipes: Pipes,
    address: Address,
    waiting: mpsc::Receiver<OneStream>,
}

/// The name in one of its own addresses.
fn name_of(address: &Address) -> Result<String, TransportError> {
    if address.scheme() == SCHEME && !address.rest().is_empty() {
        return Ok(address.rest().to_owned());
    }
    let why = "it looks like pipes://NAME".to_owned();
    Err(TransportError::Address { address: address.clone(), why })
}

fn failed(address: &Address, error: impl Into<io::Error>) -> TransportError {
    TransportError::Io { doing: format!("reaching {address}"), source: error.into() }
}

#[async_trait]
impl Transport for Pipes {
    fn scheme(&self) -> &str {
        SCHEME
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let (name, mut listeners) = (name_of(address)?, self.listeners.lock());
        if listeners.contains_key(&name) {
            return Err(failed(address, io::ErrorKind::AddrInUse));
        }
        let (sender, waiting) = mpsc::channel(BACKLOG);
        listeners.insert(name, sender);
        Ok(Box::new(Listening { pipes: self.clone(), address: address.clone(), waiting }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let nobody = || failed(address, io::ErrorKind::ConnectionRefused);
        let listener = self.listeners.lock().get(&name_of(address)?).cloned().ok_or_else(nobody)?;
        // Before there are pipes, so that giving up while waiting leaves nothing.
        let place = listener.reserve().await.map_err(|_| nobody())?;
        let (to_listener, from_client) = pipe::pipe().map_err(|error| failed(address, error))?;
        let (to_client, from_listener) = pipe::pipe().map_err(|error| failed(address, error))?;
        let number = self.connected.fetch_add(1, Ordering::Relaxed);
        let client = Address::new(SCHEME, format!("{}#{number}", address.rest()));
        let peer = |address| Peer { address, identity: None };
        place.send(OneStream::accepting(peer(client), stream(from_client, to_client)));
        let near = stream(from_listener, to_listener);
        Ok(Box::new(OneStream::connecting(peer(address.clone()), near)))
    }
}

#[async_trait]
impl Listener for Listening {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        Ok(Box::new(self.waiting.recv().await.ok_or(TransportError::Closed)?))
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.pipes.listeners.lock().remove(self.address.rest());
    }
}

fn stream(from: Receiver, to: Sender) -> Stream {
    from_async_io(from, Writer(Some(to)))
}

/// A pipe's writing end. That no more comes is said by closing it.
struct Writer(Option<Sender>);

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // A pipe holds nothing back.
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

const SCHEME: &str = "pipes";
/// Connections that wait to be accepted, before a further one waits to be made.
const BACKLOG: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let harness = conformance::Harness::new(Pipes::default(), || Address::new(SCHEME, "suite"))
        .buffered_bytes_max(1 << 20)
        .malformed(Address::new(SCHEME, ""));
    let report = conformance::run_all(&harness).await;
    println!("{report}");
    if report.is_ok() { Ok(()) } else { Err("it does not keep the contract".into()) }
}
