//! Where the handles and the connection's task meet.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use ltq_core::{Address, Entropy};
#[cfg(feature = "quic")]
use ltq_transport::Quic;
use ltq_transport::Transports;
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{driver::Alone, request::AdminCall};
use crate::{
    Backoff, CloseError, ConnectionState,
    consumer::ConsumerShared,
    producer::{ProducerSeat, ProducerShared},
};

/// How a client was asked to be.
pub(crate) struct Config {
    pub(crate) servers: Vec<Address>,
    pub(crate) transports: Transports,
    /// One that nobody else connects by.
    #[cfg(feature = "quic")]
    pub(crate) quic: Option<Quic>,
    pub(crate) name: String,
    pub(crate) token: Mutex<Option<String>>,
    pub(crate) request_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    /// What the broker is asked for; zero leaves it to the broker.
    pub(crate) heartbeat: Duration,
    pub(crate) frame_bytes_max: u32,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Tells its requests to open producers apart, and those of all clients that were made like it.
    pub(crate) seat: Arc<ProducerSeat>,
    /// All servers are one node.
    pub(crate) is_one_node: bool,
}

impl Config {
    /// How long to wait after so many failures in a row.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        self.backoff.wait(failures, self.entropy.next())
    }

    /// How long to wait before saying again what every server has refused: what makes it right is done
    /// by somebody, and brokers turn addresses away that bring many wrong tokens.
    pub(crate) fn wait_unwelcome(&self) -> Duration {
        Backoff::new(UNWELCOME_WAIT, UNWELCOME_WAIT).wait(1, self.entropy.next())
    }
}

/// The longest wait of a client that is not let in.
const UNWELCOME_WAIT: Duration = Duration::from_secs(30);

/// What a handle wants done.
pub(crate) enum Command {
    /// There is a reason to connect without waiting any longer.
    Connect,
    OpenProducer(Arc<ProducerShared>),
    CloseProducer(u32),
    Subscribe(Arc<ConsumerShared>),
    Unsubscribe(u32),
    Admin(AdminCall),
    /// The client is to be closed by `deadline`.
    Close {
        deadline: Instant,
        after: Duration,
        reply: oneshot::Sender<Result<(), CloseError>>,
    },
    /// The last handle is gone.
    Leave,
}

impl Command {
    /// There is no task any more to do it.
    pub(crate) fn abandon(self) {
        match self {
            Self::OpenProducer(producer) => producer.abandon(),
            Self::Subscribe(consumer) => consumer.abandon(),
            Self::Admin(mut call) => call.request.abandon(),
            Self::Close { reply, .. } => drop(reply.send(Ok(()))),
            Self::Connect | Self::CloseProducer(_) | Self::Unsubscribe(_) | Self::Leave => {}
        }
    }
}

/// Who has something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Producer(u32),
    Consumer(u32),
}

/// Where the handles and the connection's task meet.
pub(crate) struct Hub {
    pub(crate) config: Config,
    inbox: Mutex<Inbox>,
    pub(super) waker: AtomicWaker,
    alone: OnceLock<Alone>,
    handles: AtomicU32,
    pub(super) state: watch::Sender<ConnectionState>,
    /// What the broker last said; anything goes before it did.
    message_bytes_max: AtomicUsize,
}

/// What the task has not seen yet. Each handle is in `ready` at most once.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) commands: Vec<Command>,
    pub(super) ready: Vec<Ready>,
    /// Producers that wait for their turn already, and had no deadline until now.
    pub(super) unwatched: Vec<u32>,
    is_closed: bool,
}

impl Hub {
    pub(crate) fn new(config: Config) -> Self {
        let first = config.servers.first().cloned();
        let state = first.map_or(ConnectionState::Closed, |address| ConnectionState::Connecting {
            address,
            attempt: 1,
        });
        Self {
            config,
            inbox: Mutex::default(),
            waker: AtomicWaker::new(),
            alone: OnceLock::new(),
            handles: AtomicU32::new(0),
            state: watch::Sender::new(state),
            message_bytes_max: AtomicUsize::new(usize::MAX),
        }
    }

    /// A number for a producer or subscription. None is used twice.
    pub(crate) fn next_handle(&self) -> u32 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this number was ever given out.
    pub(super) fn was_handle(&self, handle: u32) -> bool {
        handle < self.handles.load(Ordering::Relaxed)
    }

    pub(crate) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max.load(Ordering::Relaxed)
    }

    pub(super) fn set_message_bytes_max(&self, bytes: usize) {
        self.message_bytes_max.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn command(&self, command: Command) {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            drop(inbox);
            command.abandon();
            return;
        }
        inbox.commands.push(command);
        drop(inbox);
        self.waker.wake();
    }

    pub(crate) fn ready(&self, ready: Ready) {
        self.inbox.lock().ready.push(ready);
        self.waker.wake();
    }

    /// A producer that the task has been told of has a deadline again.
    pub(crate) fn watch(&self, producer: u32) {
        self.inbox.lock().unwatched.push(producer);
        self.waker.wake();
    }

    /// A producer has a message, and nothing more to say before it is answered.
    pub(crate) fn ready_alone(&self, producer: &ProducerShared) {
        if !self.alone.get().is_some_and(|alone| alone.send(producer)) {
            self.ready(Ready::Producer(producer.handle));
        }
    }

    pub(super) fn set_alone(&self, alone: Alone) {
        // There is one driver for each hub.
        let _first = self.alone.set(alone);
    }

    /// Takes what came since the last time. `into` is empty, and lends its memory.
    pub(super) fn take(&self, into: &mut Inbox) {
        let mut inbox = self.inbox.lock();
        std::mem::swap(&mut inbox.commands, &mut into.commands);
        std::mem::swap(&mut inbox.ready, &mut into.ready);
        std::mem::swap(&mut inbox.unwatched, &mut into.unwatched);
    }

    /// The task is at its end: what comes from now on is abandoned at once.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        let commands = std::mem::take(&mut inbox.commands);
        drop(inbox);
        for command in commands {
            command.abandon();
        }
        self.state.send_replace(ConnectionState::Closed);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("client", &self.config.name).finish_non_exhaustive()
    }
}

/// Held by every handle of a client; the connection's task ends when the last one is dropped and
/// what was enqueued is answered or out of time.
#[derive(Debug)]
pub(crate) struct Lease {
    hub: Arc<Hub>,
}

impl Lease {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    pub(crate) const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hub.command(Command::Leave);
    }
}
