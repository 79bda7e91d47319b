//! One more consumer, who goes without a word on what it was given.

use std::time::Duration;

use ltq_client::{Client, Message};
use ltq_core::Durability;
use tokio::time::timeout;

use crate::{
    body::Body,
    history::{History, What},
    topics::{LASTING, channel_name, topic_name},
    world::Clients,
};

/// Takes its share of some messages, which are published one by one, and leaves, or loses its
/// connection. Others must get them long before the time that it had for them is over.
///
/// # Errors
/// What failed, in words.
pub(crate) async fn take_and_go(
    clients: &Clients,
    operator: &Client,
    history: &History,
    cut: bool,
) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let (topic, channel) = (topic_name(LASTING), channel_name(0));
    let client = clients.client(HOST);
    let builder = client.consumer_builder(topic.as_str(), channel.as_str());
    let opened = builder.credit(MESSAGES, 1 << 20).timeout(LONG).open().await;
    let mut consumer = opened.map_err(|error| words(&error))?;
    let producer = operator.producer(topic.as_str()).await.map_err(|error| words(&error))?;
    for number in 1..=MESSAGES {
        let body = Body { producer: usize::MAX - 1, number };
        let durability = Durability::Disk;
        history.add(HOST, What::Published { topic: LASTING, body, durability });
        let told = producer.send(Message::new(body.bytes())).await;
        let receipt = told.map_err(|error| words(&error))?;
        let (offset, durability) = (receipt.offset, receipt.durability);
        history.add(HOST, What::Confirmed { topic: LASTING, body, offset, durability });
    }
    let mut held = Vec::new();
    while let Ok(Some(next)) = timeout(Duration::from_secs(1), consumer.next()).await {
        held.push(next.map_err(|error| words(&error))?);
    }
    let how = if cut { "loses its connection" } else { "leaves" };
    history.note(HOST, format!("{how} with {} messages", held.len()));
    if cut {
        clients.cut(HOST);
        drop((consumer, client));
        return Ok(());
    }
    consumer.close().await.map_err(|error| words(&error))
}

const HOST: &str = "passer-by";
const MESSAGES: u64 = 12;
/// How long it may keep what it takes.
const LONG: Duration = Duration::from_secs(60);
