//! A broker of one's own choice of crates: a store wrapper written here, in front of the memory
//! store, served over an in-process link and over TCP at the same time.
//!
//! ```text
//! cargo run -p ltq-examples --example custom_broker
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_client::Client;
use ltq_core::{
    Broker, BrokerSettings, Committed, Durability, Environment, Message, Store, StoreError,
    TopicSettings, Transport, WriteBatch, WriteOp,
};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Tcp, Transports};

/// Counts the bytes that pass through to another store: the place for encryption, a quota, an
/// audit, or a second copy.
struct Metered<S> {
    inner: S,
    appended: Arc<AtomicU64>,
}

#[async_trait]
impl<S: Store> ltq_core::StoreLayer for Metered<S> {
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let bytes: usize = batch
            .ops()
            .iter()
            .map(|op| match op {
                WriteOp::Append { records, .. } => records.byte_len(),
                _ => 0,
            })
            .sum();
        let committed = self.inner.commit(batch, durability).await?;
        self.appended.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(committed)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let appended = Arc::new(AtomicU64::new(0));
    let store = Metered { inner: MemoryStore::new(64 << 20), appended: appended.clone() };
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = Broker::start(store, settings, Environment::system()).await?;

    // Two ways in, one broker.
    let inside = InProcess::new();
    let mut servers = Vec::new();
    for listener in [
        inside.listen(&"in-process://hub".parse()?).await?,
        Tcp::default().listen(&"tcp://127.0.0.1:0".parse()?).await?,
    ] {
        let address = listener.local_address();
        println!("serving on {address}");
        let broker = broker.clone();
        tokio::spawn(async move { broker.serve(listener).await });
        servers.push(address.to_string());
    }

    let transports = Transports::new().with(Tcp::default()).with(inside);
    for server in &servers {
        let client =
            Client::builder().server(server).transports(transports.clone()).connect().await?;
        let producer = client.producer("readings").await?;
        producer.send(Message::new(format!("over {server}"))).await?;
        client.close().await?;
    }

    let client = Client::connect(&servers[1]).await?;
    let mut consumer = client.consumer("readings", "display").await?;
    for _ in &servers {
        let Some(delivery) = consumer.next().await else { break };
        let delivery = delivery?;
        println!("got {}", String::from_utf8_lossy(&delivery.message.body));
        delivery.ack()?;
    }
    client.close().await?;

    broker.stop(Duration::from_secs(5)).await?;
    println!("{} bytes of records passed through the wrapper", appended.load(Ordering::Relaxed));
    Ok(())
}
