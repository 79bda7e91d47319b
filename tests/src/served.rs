use ltq_core::{
    Address, Broker, BrokerSettings, Durability, Environment, TopicSettings, Transport,
};
use ltq_store::MemoryStore;
use ltq_transport::Tcp;

/// A broker on a memory store, served over TCP on a port of its own.
pub struct Served {
    /// The broker.
    pub broker: Broker<MemoryStore>,
    /// Where it listens.
    pub address: Address,
}

impl Served {
    /// Settings that suit a memory store.
    #[must_use]
    pub fn settings() -> BrokerSettings {
        BrokerSettings {
            topic: TopicSettings { durability: Durability::Memory },
            ..BrokerSettings::default()
        }
    }

    /// Starts one with a store of 64 MiB.
    pub async fn start(settings: BrokerSettings) -> Self {
        Self::start_with(settings, 64 << 20).await
    }

    /// Starts one with a store of so many bytes.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(settings: BrokerSettings, store_bytes: usize) -> Self {
        let store = MemoryStore::new(store_bytes);
        let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
        let any = Address::new("tcp", "127.0.0.1:0");
        let listener = Tcp::default().listen(&any).await.expect("a listener");
        let address = listener.local_address();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self { broker, address }
    }
}
