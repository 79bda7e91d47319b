//! Programs that consume.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Client, ConsumeError, Consumer, Delivery};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    chance::Seeded,
    history::{History, Place, What},
};
use crate::kill::Body;

/// A consumer of one channel.
pub(super) struct Consuming {
    pub(super) number: usize,
    pub(super) topic: usize,
    pub(super) channel: usize,
    pub(super) client: Client,
    pub(super) chance: Seeded,
    pub(super) history: History,
    pub(super) subscriptions: Arc<AtomicU64>,
    /// Whether it now does its work and nothing else.
    pub(super) diligent: watch::Receiver<bool>,
}

impl Consuming {
    /// Subscribes, consumes and leaves, again and again, until nobody wants any more of it.
    pub(super) async fn run(self, run: watch::Receiver<bool>) {
        let name = format!("c{}", self.number);
        while *run.borrow() {
            let (topic, channel) = (format!("t{}", self.topic), format!("c{}", self.channel));
            let builder = self.client.consumer_builder(topic.as_str(), channel.as_str());
            let credit = 1 + self.chance.below(40);
            let wait = Duration::from_millis(1_000 + self.chance.below(4_000));
            match builder.credit(credit, 1 << 20).timeout(wait).open().await {
                Ok(consumer) => self.consume(&name, consumer, &run).await,
                Err(error) => {
                    self.history.note(&name, format!("cannot subscribe: {error}"));
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn consume(&self, name: &str, mut consumer: Consumer, run: &watch::Receiver<bool>) {
        let id = self.subscriptions.fetch_add(1, Relaxed);
        self.history.note(name, format!("is consumer {id} of t{}/c{}", self.topic, self.channel));
        let mut held = Vec::new();
        let many = 1 + self.chance.below(200);
        for _ in 0..many {
            if !*run.borrow() {
                break;
            }
            let next = match timeout(Duration::from_secs(1), consumer.next()).await {
                Err(_) => {
                    if *self.diligent.borrow() {
                        held.clear();
                    }
                    continue;
                }
                Ok(None) => break,
                Ok(Some(next)) => next,
            };
            match next {
                Ok(delivery) => self.take(name, id, delivery, &mut held).await,
                Err(error @ ConsumeError::Ended(_)) => {
                    self.history.note(name, error);
                    break;
                }
                Err(error) => self.history.note(name, format!("broken: {error}")),
            }
        }
        held.clear();
        if self.chance.one_in(2) {
            let closed = timeout(Duration::from_secs(5), consumer.close()).await;
            self.history.note(name, format!("leaves: {closed:?}"));
        }
    }

    async fn take(&self, name: &str, consumer: u64, delivery: Delivery, held: &mut Vec<Delivery>) {
        let (topic, channel) = (self.topic, self.channel);
        let (offset, attempt) = (delivery.offset(), delivery.attempt());
        let place = Place { topic, channel, consumer, offset, attempt };
        match Body::parse(&delivery.message.body) {
            Some(body) => self.history.add(name, What::Delivered(place, body)),
            None => self.history.note(name, format!("wrong bytes at {place}")),
        }
        let diligent = *self.diligent.borrow();
        if diligent {
            held.clear();
        }
        if !diligent && self.chance.one_in(30) {
            sleep(self.chance.millis(3_000)).await;
        }
        match if diligent { 0 } else { self.chance.below(12) } {
            0..=4 => {
                let result = delivery.ack_confirmed().await.map_err(|error| error.to_string());
                self.history.add(name, What::Acked(place, result));
            }
            5..=7 => {
                if let Err(error) = delivery.ack() {
                    self.history.note(name, format!("{place}: {error}"));
                }
            }
            8 | 9 => {
                let after = self.chance.millis(2_000);
                let asked = self.history.elapsed();
                let result = delivery.requeue_confirmed(after).await;
                let result = result.map_err(|error| error.to_string());
                self.history.add(name, What::Requeued { place, asked, after, result });
            }
            10 => {
                self.history.add(name, What::Forgot(place));
                held.push(delivery);
            }
            _ => {
                let result = delivery.touch_confirmed().await;
                self.history.note(name, format!("touches {place}: {result:?}"));
                // Dropped: given back at once.
            }
        }
    }
}
