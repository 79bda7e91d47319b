//! Programs that publish to a cluster.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use ltq_client::{
    Availability, Choice, Cluster, ClusterBatchError, ClusterBatchReceipt, ClusterProducer,
    ClusterPublishError, ClusterReceipt, Durability, Failover, Message, Outcome,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    clients::Programs,
    history::Scene,
    simulation::Mistake,
    topics::{self, Mode},
};
use crate::{
    body::Body,
    chance::{Odds, Seeded},
    history::{History, What},
    plan::Part,
    topics::topic_name,
};

/// A program that publishes to one topic.
pub(super) struct Producing {
    pub(super) part: Part,
    pub(super) programs: Programs,
    pub(super) topic: usize,
    /// How many it has handed over.
    pub(super) published: AtomicU64,
    pub(super) habits: Habits,
}

/// How a producer publishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// One message and its receipt, several before the first receipt, or batches.
    calls: Odds<3>,
    /// How many milliseconds it lets pass at most before it publishes again.
    pause_max: u64,
    /// Whether it goes by its own name, or by one that is made up each time.
    is_named: bool,
}

impl Habits {
    pub(super) fn of(chance: &Seeded) -> Self {
        let calls = Odds::about([2, 2, 1], chance);
        Self { calls, pause_max: chance.pick(&[200, 800, 1_600]), is_named: chance.one_in(2) }
    }
}

impl Producing {
    /// Publishes until nobody wants any more of it. Now and then it crashes, and starts again.
    pub(super) async fn run(self, run: watch::Receiver<bool>) {
        while *run.borrow() {
            self.programs.run(&self.part, self.live(&run)).await;
        }
        self.note("is done");
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.programs.history.note(&self.part.name, what);
    }

    fn add(&self, scene: Scene) {
        self.programs.history.add(&self.part.name, What::Cluster(scene));
    }

    async fn live(&self, run: &watch::Receiver<bool>) {
        let cluster = match self.programs.cluster(&self.part.name).await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.note(format!("has no cluster: {error}"));
                return sleep(self.part.chance.millis(500)).await;
            }
        };
        for _ in 0..1 + self.part.chance.below(3) {
            if !*run.borrow() {
                break;
            }
            self.publish_with(&cluster, run).await;
        }
        self.programs.close(&self.part, cluster).await;
    }

    /// Opens a producer, and publishes by it for a while, or for as long as everybody is steady.
    async fn publish_with(&self, cluster: &Cluster, run: &watch::Receiver<bool>) {
        let chance = &self.part.chance;
        let mode = topics::mode(self.topic);
        let mut builder = cluster.producer_builder(topic_name(self.topic).as_str());
        builder = builder
            .window_messages(200)
            .timeout(Duration::from_millis(2_000 + chance.below(8_000)))
            .linger(chance.millis(if chance.one_in(2) { 0 } else { 5 }))
            .failover_after(Duration::from_millis(chance.pick(&[0, 200, 500, 500])))
            .choice(chance.pick(&[
                Choice::LeastLoaded,
                Choice::LeastLoaded,
                Choice::RoundRobin,
                Choice::Random,
            ]));
        let resends = self.programs.mistake == Some(Mistake::ResendsElsewhere);
        builder = match mode {
            Mode::Available => builder.failover(Failover::AtLeastOnce),
            Mode::Strict if resends => builder.failover(Failover::AtLeastOnce),
            Mode::Strict => builder.failover(Failover::SameNode),
            Mode::OrderedFail => builder.ordered(Availability::Fail),
            Mode::OrderedMove => builder.ordered(Availability::Move),
        };
        builder = builder.moves_silently(self.programs.mistake == Some(Mistake::MovesSilently));
        if self.habits.is_named {
            builder = builder.name(&self.part.name);
        }
        let durability = match chance.below(4) {
            0 => Some(Durability::Os),
            1 => Some(Durability::Disk),
            _ => None,
        };
        if let Some(durability) = durability {
            builder = builder.durability(durability);
        }
        let producer = match builder.open().await {
            Ok(producer) => producer,
            Err(error) => {
                self.note(format!("cannot open: {error}"));
                return sleep(Duration::from_millis(200)).await;
            }
        };
        let life = self.programs.lives.fetch_add(1, Relaxed);
        self.add(Scene::Opened { life, topic: self.topic, mode });
        let durability = durability.unwrap_or_else(|| topics::durability(self.topic));
        let own = Own { life, durability, within: producer.timeout() };
        let most = 1 + chance.below(60);
        let mut done = 0;
        while *run.borrow() && (done < most || self.programs.is_steady()) {
            self.publish(&producer, own).await;
            done += 1;
            // What is said of steady times needs fewer messages.
            let longer = if self.programs.is_steady() { 3 } else { 1 };
            sleep(chance.millis(self.habits.pause_max) * longer).await;
        }
        let closed = timeout(own.within * 2, producer.close()).await;
        self.note(format!("closes producer {life}: {closed:?}"));
    }

    fn next(&self, own: Own, key: u64) -> (Body, Message) {
        let number = self.published.fetch_add(1, Relaxed) + 1;
        let body = Body { producer: self.part.number, number };
        let Own { life, durability, within } = own;
        self.add(Scene::Handed { life, topic: self.topic, body, key, durability, within });
        let message = Message::new(body.bytes());
        // The first one is that of messages without.
        let keyed = topics::mode(self.topic).is_ordered() && key > 0;
        (body, if keyed { message.with_key(format!("key {key}")) } else { message })
    }

    async fn publish(&self, producer: &ClusterProducer, own: Own) {
        let chance = &self.part.chance;
        let many = 1 + chance.below(6);
        let key = chance.below(KEYS);
        if self.programs.mistake == Some(Mistake::PublishesTwice) && self.part.number == 0 {
            let (body, message) = self.next(own, key);
            for message in [message.clone(), message] {
                let told = producer.send(message).await;
                self.teller().told(body, told);
            }
            return;
        }
        match self.habits.calls.draw(chance) {
            0 => {
                let (body, message) = self.next(own, key);
                let told = producer.send(message).await;
                self.teller().told(body, told);
            }
            1 => {
                // Noted when it is told, not when this program comes to it.
                let mut told = JoinSet::new();
                for _ in 0..many {
                    let (body, message) = self.next(own, chance.below(KEYS));
                    let teller = self.teller();
                    match producer.enqueue(message).await {
                        Ok(receipt) => {
                            told.spawn(async move { teller.told(body, receipt.await) });
                        }
                        Err(error) => teller.told(body, Err(error)),
                    }
                }
                while told.join_next().await.is_some() {}
            }
            _ => {
                let (bodies, messages): (Vec<_>, Vec<_>) =
                    (0..many).map(|_| self.next(own, key)).unzip();
                let told = producer.send_batch(messages).await;
                self.teller().batch(&bodies, told);
            }
        }
    }

    fn teller(&self) -> Teller {
        Teller { history: self.programs.history.clone(), name: self.part.name.clone() }
    }
}

/// What all messages of one opened producer have in common.
#[derive(Clone, Copy)]
struct Own {
    life: u64,
    durability: Durability,
    within: Duration,
}

/// Writes down what a producer is told.
struct Teller {
    history: History,
    name: String,
}

impl Teller {
    fn told(&self, body: Body, told: Result<ClusterReceipt, ClusterPublishError>) {
        self.add(match told {
            Ok(receipt) => stored(body, &receipt),
            Err(error) => failed(body, &error),
        });
    }

    fn batch(&self, bodies: &[Body], told: Result<ClusterBatchReceipt, ClusterBatchError>) {
        let (receipts, error) = match told {
            Ok(stored) => (stored, None),
            Err(ClusterBatchError { stored, error }) => (stored, Some(error)),
        };
        let mut bodies = bodies.iter();
        for (receipt, body) in receipts.iter().zip(&mut bodies) {
            self.add(stored(*body, &receipt));
        }
        for body in bodies {
            self.add(match &error {
                Some(error) => failed(*body, error),
                None => {
                    let why = "no receipt of its batch tells of it".to_owned();
                    Scene::MaybeStored { body: *body, why }
                }
            });
        }
    }

    fn add(&self, scene: Scene) {
        self.history.add(&self.name, What::Cluster(scene));
    }
}

fn stored(body: Body, receipt: &ClusterReceipt) -> Scene {
    let ClusterReceipt { node, receipt } = receipt;
    let (offset, durability) = (receipt.offset, receipt.durability);
    Scene::Stored { body, node: node.to_string(), offset, durability }
}

fn failed(body: Body, error: &ClusterPublishError) -> Scene {
    let why = error.to_string();
    match error.outcome() {
        Outcome::Nothing => {
            let is_move = matches!(error, ClusterPublishError::OrderMoved { .. });
            Scene::NotStored { body, is_move, why }
        }
        Outcome::Unknown => Scene::MaybeStored { body, why },
    }
}

/// How many keys a producer's messages have, those without one counted as one. They are in slots of
/// their own.
const KEYS: u64 = 4;
