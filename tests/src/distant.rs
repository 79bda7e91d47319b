use async_trait::async_trait;
use ltq_core::{
    Address, Broker, BrokerSettings, Connection, Environment, Limit, Listener, Peer, Stream,
    Transport, TransportError,
};
use ltq_store::MemoryStore;
use ltq_transport::InProcess;
use tokio::sync::{mpsc, watch};

use crate::{Gated, RawPeer, within};

/// A broker over links within this process, whose peers seem to come from where a test says. Its commits
/// wait while its gate is closed.
pub struct Distant {
    /// The broker.
    pub broker: Broker<Gated<MemoryStore>>,
    /// Whether it commits.
    pub gate: watch::Sender<bool>,
    transport: InProcess,
    origins: mpsc::UnboundedSender<&'static str>,
}

/// No machine that tests run on.
pub const FAR: &str = "tcp://192.0.2.1:1";
/// Another one.
pub const OTHER: &str = "tcp://192.0.2.2:1";
/// This machine.
pub const HERE: &str = "tcp://127.0.0.1:1";

impl Distant {
    /// One whose connections carry many streams.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn new(settings: BrokerSettings) -> Self {
        Self::over(InProcess::multiplexed(), settings).await
    }

    /// One that is reached by this transport.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn over(transport: InProcess, settings: BrokerSettings) -> Self {
        let (store, gate) = Gated::new(MemoryStore::new(256 << 20), true);
        let broker = Broker::start(store, settings, Environment::system()).await.expect("it");
        let listener = transport.listen(&Self::address()).await.expect("a listener");
        let (origins, called) = mpsc::unbounded_channel();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(Box::new(From(listener, called))).await });
        Self { broker, gate, transport, origins }
    }

    fn address() -> Address {
        Address::new("in-process", "broker")
    }

    /// A connection that seems to come from there.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect(&self, origin: &'static str) -> Box<dyn Connection> {
        self.origins.send(origin).expect("taken");
        self.transport.connect(&Self::address()).await.expect("a connection")
    }

    /// How often peers were held back by this limit.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn held_back(&self, limit: &str) -> u64 {
        let counts = self.broker.held_back();
        counts.into_iter().find(|(name, _)| *name == limit).expect("a limit").1
    }

    /// The limits that were reached, and how often.
    #[must_use]
    pub fn reached(&self) -> Vec<(Limit, u64)> {
        self.broker.limits_reached().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Waits until so many subscriptions and producers are open.
    pub async fn until_handles(&self, count: u64) {
        within("handles to be counted", async {
            while self.broker.in_use().handles != count {
                tokio::time::sleep(MOMENT).await;
            }
        })
        .await;
    }

    /// Waits until so many connections are open.
    pub async fn until_connections(&self, count: u64) {
        within("connections to be counted", async {
            while self.broker.stats().await.connections != count {
                tokio::time::sleep(MOMENT).await;
            }
        })
        .await;
    }
}

/// One more stream of a connection, whose hello is accepted.
///
/// # Panics
/// When it is not.
pub async fn stream(connection: &dyn Connection) -> RawPeer {
    let mut peer = RawPeer::over(connection.open_stream().await.expect("a stream"));
    peer.greet(RawPeer::hello()).await;
    peer
}

/// A listener whose peers seem to come from where the names say that they call.
struct From(Box<dyn Listener>, mpsc::UnboundedReceiver<&'static str>);

struct Far(Box<dyn Connection>, Peer);

#[async_trait]
impl Listener for From {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.0.accept().await?;
        let address = self.1.recv().await.ok_or(TransportError::Closed)?;
        let peer = Peer { address: address.parse().expect("an address"), identity: None };
        Ok(Box::new(Far(connection, peer)))
    }
    fn local_address(&self) -> Address {
        self.0.local_address()
    }
}

#[async_trait]
impl Connection for Far {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }
    fn peer(&self) -> &Peer {
        &self.1
    }
    fn welcomed(&self) {
        self.0.welcomed();
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.0.open_stream().await
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

/// Between two looks.
const MOMENT: std::time::Duration = std::time::Duration::from_millis(1);
