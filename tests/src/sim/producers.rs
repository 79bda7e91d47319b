//! Programs that publish.

use std::time::Duration;

use ltq_client::{Backoff, Client, Durability, Message, Outcome, PublishError, Receipt};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    chance::Seeded,
    history::{History, What},
};
use crate::kill::Body;

/// A producer of one topic, under a name of its own.
pub(super) struct Producing {
    pub(super) number: usize,
    pub(super) topic: usize,
    pub(super) client: Client,
    pub(super) chance: Seeded,
    pub(super) history: History,
    pub(super) durability: Option<Durability>,
    pub(super) messages: u64,
}

impl Producing {
    /// Publishes until it has published enough, or nobody wants any more of it.
    pub(super) async fn run(self, run: watch::Receiver<bool>) {
        let name = format!("p{}", self.number);
        let mut number = 0;
        while *run.borrow() && number < self.messages {
            let mut builder = self.client.producer_builder(format!("t{}", self.topic).as_str());
            builder = builder.name(&name).window_messages(1 + self.chance.below(50) as usize);
            builder = builder.timeout(Duration::from_millis(500 + self.chance.below(10_000)));
            builder = builder.linger(self.chance.millis(if self.chance.one_in(2) { 0 } else { 5 }));
            if let Some(durability) = self.durability {
                builder = builder.durability(durability);
            }
            let producer = match builder.open().await {
                Ok(producer) => producer,
                Err(error) => {
                    self.history.note(&name, format!("cannot open: {error}"));
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            self.history.note(&name, "is open");
            let many = 1 + self.chance.below(40);
            for _ in 0..many {
                if !*run.borrow() || number >= self.messages {
                    break;
                }
                number = self.publish(&producer, &name, number).await;
                sleep(self.chance.millis(if self.chance.one_in(8) { 800 } else { 10 })).await;
            }
            if self.chance.one_in(3) {
                // What is under way at that moment is told to whoever waits for it.
                let closed = timeout(Duration::from_secs(5), producer.close()).await;
                self.history.note(&name, format!("closes: {closed:?}"));
            }
        }
        self.history.note(&name, "is done");
    }

    fn next(&self, name: &str, number: &mut u64) -> (Body, Message) {
        *number += 1;
        let body = Body { producer: self.number, number: *number };
        self.history.add(name, What::Published { topic: self.topic, body });
        (body, Message::new(body.bytes()))
    }

    async fn publish(&self, producer: &ltq_client::Producer, name: &str, mut number: u64) -> u64 {
        if self.chance.one_in(2) {
            let (body, message) = self.next(name, &mut number);
            let told = producer.send(message).await;
            self.told(name, body, told);
            return number;
        }
        // Noted when it is told, not when this program comes to it.
        let mut told = JoinSet::new();
        for _ in 0..1 + self.chance.below(10) {
            let (body, message) = self.next(name, &mut number);
            match producer.enqueue(message).await {
                Ok(receipt) => {
                    let (history, name, topic) =
                        (self.history.clone(), name.to_owned(), self.topic);
                    told.spawn(async move { note(&history, &name, topic, body, receipt.await) });
                }
                Err(error) => self.told(name, body, Err(error)),
            }
        }
        while told.join_next().await.is_some() {}
        number
    }

    fn told(&self, name: &str, body: Body, told: Result<Receipt, PublishError>) {
        note(&self.history, name, self.topic, body, told);
    }
}

fn note(
    history: &History,
    name: &str,
    topic: usize,
    body: Body,
    told: Result<Receipt, PublishError>,
) {
    let what = match told {
        Ok(Receipt { offset, durability, .. }) => {
            What::Confirmed { topic, body, offset, durability }
        }
        Err(error) if error.outcome() == Outcome::Nothing => {
            What::Refused { body, why: error.to_string() }
        }
        Err(error) => What::Unknown { body, why: error.to_string() },
    };
    history.add(name, what);
}

/// How clients of a simulation come back.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_millis(500))
}
