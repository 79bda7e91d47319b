//! The README's Rust is code that compiles: each of its blocks stands here too, word for word.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "this is what readers are shown; most of it is for a server that is not there"
)]

use std::{error::Error, path::Path, sync::Arc};

use ltq_core::Store;

async fn from_a_program() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Client, Message};

    let client = Client::connect("tcp://127.0.0.1:7440").await?;

    let producer = client.producer("orders").await?;
    let receipt = producer.send(Message::new("one coffee")).await?;
    println!("stored at {:?}, {}", receipt.offset, receipt.durability);

    let mut consumer = client.consumer("orders", "kitchen").await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("{:?}", delivery.message.body);
        delivery.ack()?;
    }
    Ok(())
}

#[cfg(all(feature = "tls", feature = "quic"))]
async fn encrypted() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Client, ClientTrust, Pem};

    let trust = ClientTrust::authorities(Pem::file("authority.pem"))?;
    let client =
        Client::builder().server("quic://broker.example:7440").trust(trust).connect().await?;
    client.close().await?;
    Ok(())
}

async fn on_several_nodes() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Cluster, Message};

    let cluster = Cluster::builder().registry("tcp://127.0.0.1:7450").connect().await?;
    let producer = cluster.producer("orders").await?;
    let receipt = producer.send(Message::new("one coffee")).await?;
    println!("stored on {}, {}", receipt.node, receipt.receipt.durability);

    let mut consumer = cluster.consumer("orders", "kitchen").await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("{} bytes from {}", delivery.message.body.len(), delivery.node());
        delivery.ack()?;
    }
    Ok(())
}

async fn embedded() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Durability, Environment, Message, TopicSettings};
    use ltq_store::MemoryStore;

    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = Broker::start(MemoryStore::new(16 << 20), settings, Environment::system()).await?;

    let mut publisher = broker.publisher("orders", Default::default()).await?;
    publisher.publish(&Message::new("one coffee")).await?;

    let mut consumer = broker.subscribe("orders", "kitchen", Default::default()).await?;
    if let Some(received) = consumer.receive().await? {
        consumer.ack(received.tag)?;
    }
    Ok(())
}

#[test]
fn promises_hold_under_bad_luck() -> Result<(), Box<dyn std::error::Error>> {
    let simulation = ltq_sim::Simulation::new(); // or with_stores, settings, transport: of your own
    println!("{}", simulation.play_all(ltq_sim::seeds(1..101)?)?);
    Ok(())
}

/// Stands for the reader's own store.
struct Metered;

impl Metered {
    #[allow(clippy::new_ret_no_self, reason = "a wrapper's constructor, without the wrapper")]
    fn new(store: impl Store) -> Arc<dyn Store> {
        Arc::new(store)
    }
}

async fn custom() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Environment, Transport};
    use ltq_store::{FileStore, FileStoreOptions};
    use ltq_transport::{InProcess, Tcp};

    let store = Metered::new(FileStore::open(FileStoreOptions::new("./data")).await?); // yours
    let broker = Broker::start(store, BrokerSettings::default(), Environment::system()).await?;

    let inside = InProcess::new();
    for listener in [
        inside.listen(&"in-process://hub".parse()?).await?,
        Tcp::default().listen(&"tcp://127.0.0.1:7440".parse()?).await?,
    ] {
        let broker = broker.clone();
        tokio::spawn(async move { broker.serve(listener).await });
    }
    Ok(())
}

async fn overflow() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Environment};
    use ltq_store::{FileStore, FileStoreOptions, MemoryStore, OverflowOptions, OverflowStore};

    let memory = MemoryStore::new(256 << 20);
    let files = FileStore::open(FileStoreOptions::new("./data")).await?; // or any other store
    let store = OverflowStore::open(memory, files, OverflowOptions::default())?;
    let broker = Broker::start(store, BrokerSettings::default(), Environment::system()).await?;
    broker.stop(std::time::Duration::from_secs(5)).await?;
    Ok(())
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn each_rust_block_of_the_readme_is_here() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let here = squeezed(include_str!("readme.rs"));
    let mut blocks = 0;
    for block in readme.split("```rust\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        assert!(here.contains(&squeezed(block)), "not here as it stands there:\n{block}");
        blocks += 1;
    }
    assert_eq!(blocks, 7);
}

#[tokio::test]
async fn the_embedded_broker_of_the_readme_does_what_it_says() {
    embedded().await.unwrap();
}
