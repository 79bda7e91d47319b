//! Programs that consume from a cluster.

use std::time::Duration;

use ltq_client::{ClusterBatch, ClusterConsumer, ClusterDelivery, Message, Offset};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    clients::Programs,
    history::{Place, Scene},
};
use crate::{
    body::Body,
    history::What,
    plan::Part,
    topics::{channel_name, topic_name},
};

/// A program that consumes one channel on all nodes, and is not always a good one.
pub(super) struct Consuming {
    pub(super) part: Part,
    pub(super) programs: Programs,
    pub(super) topic: usize,
    pub(super) channel: usize,
}

impl Consuming {
    /// Consumes until nobody wants any more of it. Now and then it crashes, and starts again.
    pub(super) async fn run(self, run: watch::Receiver<bool>) {
        self.add(Scene::Consumes { topic: self.topic, channel: self.channel });
        while *run.borrow() {
            self.programs.run(&self.part, self.live(&run)).await;
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.programs.history.note(&self.part.name, what);
    }

    fn add(&self, scene: Scene) {
        self.programs.history.add(&self.part.name, What::Cluster(scene));
    }

    async fn live(&self, run: &watch::Receiver<bool>) {
        let chance = &self.part.chance;
        let cluster = match self.programs.cluster(&self.part.name).await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.note(format!("has no cluster: {error}"));
                return sleep(chance.millis(500)).await;
            }
        };
        let (topic, channel) = (topic_name(self.topic), channel_name(self.channel));
        let opened = cluster
            .consumer_builder(topic.as_str(), channel.as_str())
            .credit(1 + chance.below(60), 1 << 20)
            .timeout(Duration::from_millis(1_000 + chance.below(4_000)))
            .every_node(chance.one_in(4))
            .open();
        match opened.await {
            Ok(consumer) => self.consume(consumer, run).await,
            Err(error) => {
                self.note(format!("cannot subscribe: {error}"));
                sleep(Duration::from_millis(200)).await;
            }
        }
        self.programs.close(&self.part, cluster).await;
    }

    async fn consume(&self, mut consumer: ClusterConsumer, run: &watch::Receiver<bool>) {
        let chance = &self.part.chance;
        self.note("is subscribed");
        let (batches, most) = (chance.one_in(2), 1 + chance.below(300));
        let mut done = 0;
        while *run.borrow() && (done < most || self.programs.is_steady()) {
            done += 1;
            let most = if batches { 1 + chance.below(20) as usize } else { 1 };
            match timeout(Duration::from_secs(1), consumer.next_batch(most)).await {
                Err(_) => {}
                Ok(None) => break,
                Ok(Some(Ok(batch))) => self.batch(batch).await,
                Ok(Some(Err(error))) => {
                    self.note(&error);
                    if error.is_end() {
                        break;
                    }
                    self.add(Scene::Unreadable(error.to_string()));
                }
            }
        }
        if chance.one_in(2) {
            let closed = timeout(Duration::from_secs(20), consumer.close()).await;
            self.note(format!("leaves: {closed:?}"));
        }
    }

    fn place(&self, node: &str, offset: Offset, attempt: u32) -> Place {
        let (topic, channel) = (self.topic, self.channel);
        Place { node: node.to_owned(), topic, channel, offset, attempt }
    }

    fn taken(&self, place: Place, message: &Message) {
        self.add(match Body::parse(&message.body) {
            Some(body) => Scene::Taken(place, body),
            None => Scene::Unreadable(format!("wrong bytes at {place}")),
        });
    }

    async fn batch(&self, batch: ClusterBatch) {
        let node = batch.node().to_string();
        let mut places = Vec::new();
        for received in batch.iter() {
            match received {
                Ok(received) => {
                    let place = self.place(&node, received.offset, received.attempt);
                    self.taken(place.clone(), &received.message);
                    places.push(place);
                }
                Err(error) => self.add(Scene::Unreadable(error.to_string())),
            }
        }
        if places.len() > 1 && (self.programs.is_steady() || self.part.chance.one_in(3)) {
            places.into_iter().for_each(|place| self.add(Scene::Acks(place)));
            if let Err(error) = batch.ack_all_confirmed().await {
                self.note(format!("acks of {node}: {error}"));
            }
            return;
        }
        for delivery in batch.into_deliveries().flatten() {
            self.answer(&node, delivery).await;
        }
    }

    async fn answer(&self, node: &str, delivery: ClusterDelivery) {
        let chance = &self.part.chance;
        let place = self.place(node, delivery.offset(), delivery.attempt());
        if self.programs.is_steady() {
            self.add(Scene::Acks(place));
            if let Err(error) = delivery.ack_confirmed().await {
                self.note(error);
            }
            return;
        }
        if chance.one_in(30) {
            sleep(chance.millis(2_000)).await;
        }
        let told = match chance.below(12) {
            0 => delivery.requeue(chance.millis(1_000)).map_err(|error| error.to_string()),
            1 => {
                self.note(format!("drops {place}"));
                drop(delivery);
                Ok(())
            }
            2..6 => {
                self.add(Scene::Acks(place));
                delivery.ack_confirmed().await.map_err(|error| error.to_string())
            }
            _ => {
                self.add(Scene::Acks(place));
                delivery.ack().map_err(|error| error.to_string())
            }
        };
        if let Err(error) = told {
            self.note(format!("{node}: {error}"));
        }
    }
}
