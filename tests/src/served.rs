use ltq_core::{
    Address, Broker, BrokerSettings, Connection, Durability, Environment, Store, TopicSettings,
    Transport,
};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Tcp};

use crate::RawPeer;

/// A broker served over TCP on a port of its own.
pub struct Served<S: Store = MemoryStore> {
    /// The broker.
    pub broker: Broker<S>,
    /// Where it listens.
    pub address: Address,
}

impl Served {
    /// Settings that suit a memory store.
    #[must_use]
    pub fn settings() -> BrokerSettings {
        BrokerSettings {
            topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
            ..BrokerSettings::default()
        }
    }

    /// Starts one with a memory store of 64 MiB.
    pub async fn start(settings: BrokerSettings) -> Self {
        Self::on(MemoryStore::new(64 << 20), settings).await
    }
}

impl<S: Store> Served<S> {
    /// Starts one on a store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn on(store: S, settings: BrokerSettings) -> Self {
        let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
        let any = Address::new("tcp", "127.0.0.1:0");
        let listener = Tcp::default().listen(&any).await.expect("a listener");
        let address = listener.local_address();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self { broker, address }
    }
}

/// A broker served over links within this process: with tokio's clock paused, hours of its time
/// are moments.
pub struct Local<S: Store = MemoryStore> {
    /// The broker.
    pub broker: Broker<S>,
    transport: InProcess,
    address: Address,
}

impl Local {
    /// Starts one with a memory store of 64 MiB.
    pub async fn start(settings: BrokerSettings) -> Self {
        Self::on(MemoryStore::new(64 << 20), settings).await
    }
}

impl<S: Store> Local<S> {
    /// Starts one on a store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn on(store: S, settings: BrokerSettings) -> Self {
        let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
        let transport = InProcess::new();
        let address = Address::new("in-process", "broker");
        let listener = transport.listen(&address).await.expect("a listener");
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self { broker, transport, address }
    }

    /// A peer that has said nothing.
    pub async fn connect(&self) -> RawPeer {
        RawPeer::connect_over(&self.transport, &self.address).await
    }

    /// A connection on which no stream is opened.
    ///
    /// # Panics
    /// When there is no broker.
    pub async fn connect_alone(&self) -> Box<dyn Connection> {
        self.transport.connect(&self.address).await.expect("a connection")
    }

    /// A peer that has said hello.
    pub async fn peer(&self) -> RawPeer {
        let mut peer = self.connect().await;
        peer.greet(RawPeer::hello()).await;
        peer
    }
}
