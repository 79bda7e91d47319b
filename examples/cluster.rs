//! Two brokers and a registry, and programs that know nothing but the registry's address: they find the brokers
//! there, publish to both, consume from both, and go on when one of them stops. All of it is in this one
//! process; each part talks to the others over TCP, as it would from another machine.
//!
//! ```text
//! cargo run -p ltq-examples --example cluster
//! ```

use std::{collections::BTreeMap, error::Error, time::Duration};

use ltq_client::{Cluster, Message};
use ltq_core::{
    Broker, BrokerSettings, Durability, Environment, SystemEntropy, TopicSettings, Transport,
};
use ltq_discovery::{
    Announced, Announcement, Discovery, NodeId, NodeInfo,
    registry::{Registries, RegistryServer, RegistryServerSettings},
};
use ltq_store::MemoryStore;
use ltq_transport::{Tcp, Transports};
use tokio::task::JoinSet;

/// How many messages are published while both brokers are there, and again once one has stopped.
const MESSAGES: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = registry().await?;
    println!("a registry at {registry}");
    let north = Member::start("north", &registry).await?;
    let south = Member::start("south", &registry).await?;

    // Each program has a cluster of its own, made from the one address.
    let consumer = Cluster::builder().registry(&registry).connect().await?;
    let mut meals = consumer.consumer("meals", "kitchen").await?;
    let publisher = Cluster::builder().registry(&registry).connect().await?;

    let stored = publish(&publisher, 0..MESSAGES).await?;
    println!("stored: {stored:?}");
    if stored.len() != 2 {
        return Err("both brokers are there, and one got nothing".into());
    }

    // One of them stops in order: what it has is consumed first, and what comes after goes to the other.
    let mut seen = vec![false; 2 * MESSAGES];
    take(&mut meals, &mut seen, MESSAGES).await?;
    south.stop().await?;
    let stored = publish(&publisher, MESSAGES..2 * MESSAGES).await?;
    println!("stored without south: {stored:?}");
    take(&mut meals, &mut seen, MESSAGES).await?;
    if !seen.into_iter().all(|seen| seen) {
        return Err("a message is missing".into());
    }
    println!("each of {} messages was consumed", 2 * MESSAGES);

    publisher.close().await?;
    meals.close().await?;
    consumer.close().await?;
    north.stop().await?;
    Ok(())
}

/// A registry in this process, and where it is. `ltq-node registry` is the same as a program.
async fn registry() -> Result<String, Box<dyn Error>> {
    let server = RegistryServer::new(RegistryServerSettings::default(), &SystemEntropy)?;
    let listener = Tcp::default().listen(&"tcp://127.0.0.1:0".parse()?).await?;
    let address = listener.local_address().to_string();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    tokio::spawn(async move { server.serve(listener).await });
    Ok(address)
}

/// A broker that is announced.
struct Member {
    broker: Broker<MemoryStore>,
    announced: Box<dyn Announcement>,
}

impl Member {
    async fn start(name: &str, registry: &str) -> Result<Self, Box<dyn Error>> {
        let settings = BrokerSettings {
            node: name.to_owned(),
            topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
            ..BrokerSettings::default()
        };
        let store = MemoryStore::new(64 << 20);
        let broker = Broker::start(store, settings, Environment::system()).await?;
        let listener = Tcp::default().listen(&"tcp://127.0.0.1:0".parse()?).await?;
        let address = listener.local_address();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        println!("{name} at {address}");
        // It says nothing of its topics: then it may have any, and consumers ask it. `ltq-node` says which.
        let node = NodeInfo::new(name.parse::<NodeId>()?, [address])?;
        let registries = Registries::builder(Transports::new().with(Tcp::default()));
        match registries.registry(registry).build()?.announce(node).await? {
            Announced::Known(announced) => Ok(Self { broker, announced }),
            Announced::NotTaken(why) => Err(why.into()),
        }
    }

    /// Nobody new comes, and whoever is there is told that it goes.
    async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.announced.withdraw().await?;
        self.broker.stop(Duration::from_secs(5)).await?;
        Ok(())
    }
}

/// Publishes from several tasks, and counts what each node has stored.
async fn publish(
    cluster: &Cluster,
    numbers: std::ops::Range<usize>,
) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let producer = cluster.producer("meals").await?;
    let mut publishing = JoinSet::new();
    for number in numbers {
        let producer = producer.clone();
        publishing.spawn(async move { producer.send(Message::new(number.to_string())).await });
    }
    let mut stored = BTreeMap::new();
    while let Some(receipt) = publishing.join_next().await {
        *stored.entry(receipt??.node.to_string()).or_default() += 1;
    }
    Ok(stored)
}

/// Consumes so many messages that were not seen before, from whichever node they come.
async fn take(
    meals: &mut ltq_client::ClusterConsumer,
    seen: &mut [bool],
    mut count: usize,
) -> Result<(), Box<dyn Error>> {
    while count > 0 {
        let Some(delivery) = meals.next().await else { return Err("no more messages".into()) };
        let delivery = delivery?;
        let number: usize = std::str::from_utf8(&delivery.message.body)?.parse()?;
        let is_new = seen.get_mut(number).is_some_and(|seen| !std::mem::replace(seen, true));
        if is_new {
            count -= 1;
        }
        delivery.ack()?;
    }
    Ok(())
}
