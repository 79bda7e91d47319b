//! A broker to talk to.

use std::{future::Future, time::Duration};

use ltq_client::{Backoff, Client, ClientBuilder};
use ltq_core::{
    Address, Broker, BrokerSettings, Durability, Environment, TopicSettings, Transport,
};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Tcp, Transports};
use tokio::time::timeout;

pub(crate) struct Node {
    pub(crate) broker: Broker<MemoryStore>,
    pub(crate) address: String,
    pub(crate) transports: Transports,
}

impl Node {
    /// One that is reached without a socket.
    pub(crate) async fn over(namespace: InProcess) -> Self {
        Self::at(namespace, "in-process://node").await
    }

    pub(crate) async fn tcp() -> Self {
        Self::at(Tcp::default(), "tcp://127.0.0.1:0").await
    }

    pub(crate) async fn at(transport: impl Transport, address: &str) -> Self {
        Self::with(transport, address, settings()).await
    }

    pub(crate) async fn with(
        transport: impl Transport,
        address: &str,
        settings: BrokerSettings,
    ) -> Self {
        let address: Address = address.parse().unwrap();
        let transports = Transports::new().with(transport);
        let listener = transports.listen(&address).await.unwrap();
        let address = listener.local_address().to_string();
        let store = MemoryStore::new(1 << 30);
        let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self { broker, address, transports }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .server(&self.address)
            .transports(self.transports.clone())
            .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(5)))
    }

    pub(crate) async fn client(&self) -> Client {
        within(self.builder().connect()).await.unwrap()
    }
}

/// The settings of brokers here.
pub(crate) fn settings() -> BrokerSettings {
    let topic = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    BrokerSettings { topic, ..BrokerSettings::default() }
}

/// What a test waits for comes soon, or never.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(60), what).await {
        Ok(value) => value,
        Err(_) => panic!("nothing came"),
    }
}
