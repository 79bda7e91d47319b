//! One more consumer, at the end of a play: who goes, or whose node does, before it has answered for
//! what it was given.

use std::{fmt::Display, time::Duration};

use ltq_client::{Client, Consumer, Delivery, Message};
use ltq_core::Durability;
use tokio::time::timeout;

use crate::{
    body::Body,
    clients::Clients,
    history::{History, Spot, What},
    topics::{LASTING, channel_name, topic_name},
};

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    /// It ends its subscription.
    Leaves,
    /// Its connection is cut.
    IsCut,
    /// Its node is killed.
    Outlives,
    /// Its node is stopped as soon as it has acked something.
    SeesAStop,
}

/// The consumer, and what it has taken.
pub(crate) struct PasserBy {
    client: Client,
    consumer: Consumer,
    held: Vec<(Spot, Delivery)>,
    history: History,
}

fn words(error: impl Display) -> String {
    error.to_string()
}

impl PasserBy {
    /// Takes its share of some messages, which are published one by one. Others must get them long
    /// before the time that it has for them is over.
    ///
    /// # Errors
    /// What failed, in words.
    pub(crate) async fn come(
        clients: &Clients,
        operator: &Client,
        history: &History,
    ) -> Result<Self, String> {
        let (topic, channel) = (topic_name(LASTING), channel_name(0));
        let client = clients.client(HOST);
        let builder = client.consumer_builder(topic.as_str(), channel.as_str());
        let opened = builder.credit(MESSAGES, 1 << 20).timeout(LONG).open().await;
        let mut consumer = opened.map_err(words)?;
        let producer = operator.producer(topic.as_str()).await.map_err(words)?;
        for number in 1..=MESSAGES {
            let body = Body { producer: usize::MAX - 1, number };
            let (topic, durability, within) = (LASTING, Durability::Disk, producer.timeout());
            history.add(HOST, What::Published { topic, body, durability, within });
            let receipt = producer.send(Message::new(body.bytes())).await.map_err(words)?;
            let (offset, durability) = (receipt.offset, receipt.durability);
            history.add(HOST, What::Confirmed { topic: LASTING, body, offset, durability });
        }
        let mut held = Vec::new();
        while let Ok(Some(next)) = timeout(Duration::from_secs(1), consumer.next()).await {
            let delivery = next.map_err(words)?;
            let (offset, attempt) = (delivery.offset(), delivery.attempt());
            let spot = Spot { topic: LASTING, channel: 0, consumer: u64::MAX, offset, attempt };
            match Body::parse(&delivery.message.body) {
                Some(body) => history.add(HOST, What::Delivered(spot, body)),
                None => history.add(HOST, What::Unreadable(format!("wrong bytes at {spot}"))),
            }
            held.push((spot, delivery));
        }
        Ok(Self { client, consumer, held, history: history.clone() })
    }

    /// Gives half of it back for a while.
    pub(crate) async fn put_off(&mut self) {
        for (place, delivery) in self.held.drain(..self.held.len() / 2) {
            let asked = self.history.elapsed();
            self.history.add(HOST, What::Requeues(place));
            let result = delivery.requeue_confirmed(A_WHILE).await.map_err(words);
            self.history.add(HOST, What::Requeued { place, asked, after: A_WHILE, result });
        }
    }

    /// Acks the rest.
    pub(crate) async fn ack(&mut self) {
        for (place, delivery) in self.held.drain(..) {
            self.history.add(HOST, What::Acks { place, waits: true });
            let result = delivery.ack_confirmed().await.map_err(words);
            self.history.add(HOST, What::Acked(place, result));
        }
    }

    /// Ends its subscription.
    ///
    /// # Errors
    /// What failed, in words.
    pub(crate) async fn leave(self) -> Result<(), String> {
        self.history.note(HOST, "leaves");
        self.consumer.close().await.map_err(words)
    }

    /// Loses its connection, and does not come back.
    pub(crate) fn lose_connection(self, clients: &Clients) {
        self.history.note(HOST, "loses its connection");
        clients.cut(HOST);
        drop((self.consumer, self.client));
    }
}

const HOST: &str = "passer-by";
const MESSAGES: u64 = 12;
/// How long it may keep what it takes.
const LONG: Duration = Duration::from_secs(60);
/// Longer than until its node is killed and back again.
const A_WHILE: Duration = Duration::from_secs(15);
