//! A broker, a producer and two consumers in one process: no socket, no frame, the same rules.
//!
//! ```text
//! cargo run -p ltq-examples --example embedded
//! ```

use std::{error::Error, time::Duration};

use ltq_core::{Broker, BrokerSettings, Durability, Environment, Message, TopicSettings};
use ltq_store::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A store of at most 16 MiB that lives as long as the program does.
    let store = MemoryStore::new(16 << 20);
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = Broker::start(store, settings, Environment::system()).await?;

    let mut publisher = broker.publisher("orders", Default::default()).await?;
    for number in 1..=3 {
        let receipt = publisher.publish(&Message::new(format!("order {number}"))).await?;
        println!("published order {number} at offset {}", receipt.offset.unwrap_or_default());
    }

    // Every channel sees every message.
    for channel in ["billing", "shipping"] {
        let mut consumer = broker.subscribe("orders", channel, Default::default()).await?;
        for _ in 1..=3 {
            let Some(received) = consumer.receive().await? else { break };
            println!("{channel} got {}", String::from_utf8_lossy(&received.message.body));
            consumer.ack(received.tag)?;
        }
    }

    broker.stop(Duration::from_secs(5)).await?;
    Ok(())
}
