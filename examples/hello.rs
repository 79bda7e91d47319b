//! A producer and a consumer.
//!
//! ```text
//! cargo run -p ltq-examples --example hello                              # a broker of its own
//! cargo run -p ltq-examples --example hello -- tcp://127.0.0.1:7440      # one that runs
//! ```

mod support;

use std::error::Error;

use ltq_client::{Client, Message};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(&support::server().await?).await?;

    let producer = client.producer("greetings").await?;
    let receipt = producer.send(Message::new("hello, world").with_header("lang", "en")).await?;
    println!("stored at {:?}, durability {}", receipt.offset, receipt.durability);

    let mut consumer = client.consumer("greetings", "printer").await?;
    if let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("got {:?}", String::from_utf8_lossy(&delivery.message.body));
        delivery.ack()?;
    }

    client.close().await?;
    Ok(())
}
