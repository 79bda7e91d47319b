//! Programs that publish.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use ltq_client::{
    BatchError, BatchReceipt, Client, Durability, Message, Outcome, Producer, PublishError, Receipt,
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    body::Body,
    chance::{Odds, Seeded},
    clients::Clients,
    history::{History, What},
    plan::Part,
    topics::{TOPICS, topic_name},
    violation::breaks,
};

/// A program that publishes to one topic, under a name of its own.
pub(crate) struct Producing {
    pub(crate) part: Part,
    pub(crate) clients: Clients,
    pub(crate) history: History,
    pub(crate) topic: usize,
    /// How many messages it has.
    pub(crate) messages: u64,
    /// How many milliseconds it lets pass at most, as a rule, before it publishes again: some are done
    /// soon, others go on through all of a play.
    pub(crate) pause_max: u64,
    /// Whether it crashes now and then.
    pub(crate) crashes: bool,
    /// How many it has handed over.
    pub(crate) published: AtomicU64,
    /// How it publishes.
    pub(crate) habits: Habits,
    /// What it will be told when it has gone on.
    pub(crate) late: Mutex<JoinSet<()>>,
}

/// How a producer publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// One message and its receipt, several before the first receipt, or batches.
    calls: Odds<3>,
    /// As [`WISHES`] has them.
    wishes: Odds<4>,
}

impl Habits {
    pub(crate) fn of(chance: &Seeded) -> Self {
        let calls = Odds::about([2, 1, 1], chance);
        Self { calls, wishes: Odds::about([3, 1, 1, 1], chance) }
    }
}

impl Producing {
    /// Publishes until it has published enough, or nobody wants any more of it. Now and then it
    /// crashes, wherever it is, and starts again.
    pub(crate) async fn run(self, run: watch::Receiver<bool>) {
        while self.goes_on(&run) {
            let chance = Some(&self.part.chance).filter(|it| self.crashes && it.one_in(3));
            let life = |client| self.live(client, &run);
            if self.clients.run(&self.part.name, chance, life).await {
                self.history.add(&self.part.name, What::Crashed);
            }
        }
        let mut late = std::mem::take(&mut *self.late.lock());
        while late.join_next().await.is_some() {}
        self.note("is done");
    }

    fn goes_on(&self, run: &watch::Receiver<bool>) -> bool {
        *run.borrow() && self.published.load(Relaxed) < self.messages
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.history.note(&self.part.name, what);
    }

    async fn live(&self, client: Client, run: &watch::Receiver<bool>) {
        let chance = &self.part.chance;
        while self.goes_on(run) {
            let mut builder = client.producer_builder(topic_name(self.topic).as_str());
            builder = builder.name(&self.part.name).window_messages(1 + chance.below(50) as usize);
            builder = builder.timeout(Duration::from_millis(500 + chance.below(10_000)));
            builder = builder.linger(chance.millis(if chance.one_in(2) { 0 } else { 5 }));
            let own = TOPICS.get(self.topic).map_or(Durability::Disk, |topic| topic.durability);
            // A topic in memory refuses what it cannot do: where nothing is to fail nobody asks for it.
            let may_ask = |_: &Durability| self.crashes || own != Durability::Memory;
            let wish =
                WISHES.get(self.habits.wishes.draw(chance)).copied().flatten().filter(may_ask);
            if let Some(durability) = wish {
                builder = builder.durability(durability);
            }
            let durability = wish.unwrap_or(own);
            let producer = match builder.open().await {
                Ok(producer) => producer,
                Err(error) => {
                    self.note(format!("cannot open: {error}"));
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            self.note("is open");
            for _ in 0..1 + chance.below(40) {
                if !self.goes_on(run) {
                    break;
                }
                self.publish(&producer, durability).await;
                sleep(chance.millis(if chance.one_in(8) { 800 } else { self.pause_max })).await;
            }
            if chance.one_in(3) {
                // What is under way at that moment is told to whoever waits for it.
                let closed = timeout(Duration::from_secs(5), producer.close()).await;
                self.note(format!("closes: {closed:?}"));
            }
        }
    }

    fn next(&self, durability: Durability, within: Duration) -> (Body, Message) {
        let number = self.published.fetch_add(1, Relaxed) + 1;
        let body = Body { producer: self.part.number, number };
        let what = What::Published { topic: self.topic, body, durability, within };
        self.history.add(&self.part.name, what);
        (body, Message::new(body.bytes()))
    }

    async fn publish(&self, producer: &Producer, durability: Durability) {
        let within = producer.timeout();
        let many = 1 + self.part.chance.below(10);
        match self.habits.calls.draw(&self.part.chance) {
            0 => {
                let (body, message) = self.next(durability, within);
                let told = producer.send(message).await;
                self.teller().told(body, told);
            }
            1 => {
                // Noted when it is told, not when this program comes to it.
                let mut told = JoinSet::new();
                for _ in 0..many {
                    let (body, message) = self.next(durability, within);
                    let teller = self.teller();
                    match producer.enqueue(message).await {
                        Ok(receipt) => {
                            told.spawn(async move { teller.told(body, receipt.await) });
                        }
                        Err(error) => teller.told(body, Err(error)),
                    }
                }
                if self.crashes && self.part.chance.one_in(4) {
                    // It may open another one under the same name before it is told.
                    let mut late = self.late.lock();
                    late.spawn(async move { while told.join_next().await.is_some() {} });
                    return;
                }
                while told.join_next().await.is_some() {}
            }
            _ => {
                let (bodies, messages): (Vec<_>, Vec<_>) =
                    (0..many).map(|_| self.next(durability, within)).unzip();
                let told = producer.send_batch(messages).await;
                self.teller().batch(&bodies, told);
            }
        }
    }

    fn teller(&self) -> Teller {
        let (history, name) = (self.history.clone(), self.part.name.clone());
        Teller { history, name, topic: self.topic }
    }
}

/// Writes down what a producer is told.
struct Teller {
    history: History,
    name: String,
    topic: usize,
}

impl Teller {
    fn told(&self, body: Body, told: Result<Receipt, PublishError>) {
        let what = match told {
            Ok(receipt) => self.confirmed(body, &receipt),
            Err(error) => failed(body, &error),
        };
        self.history.add(&self.name, what);
    }

    fn batch(&self, bodies: &[Body], told: Result<BatchReceipt, BatchError>) {
        let (stored, error) = match told {
            Ok(stored) => (stored, None),
            Err(BatchError { stored, error }) => (stored, Some(error)),
        };
        let mut bodies = bodies.iter();
        for (receipt, body) in stored.iter().zip(&mut bodies) {
            self.history.add(&self.name, self.confirmed(*body, &receipt));
        }
        for body in bodies {
            let what = match &error {
                Some(error) => failed(*body, error),
                None => {
                    What::Broken(breaks(&[6], format!("no receipt tells of {body:?} of a batch")))
                }
            };
            self.history.add(&self.name, what);
        }
    }

    fn confirmed(&self, body: Body, receipt: &Receipt) -> What {
        let Receipt { offset, durability, .. } = *receipt;
        What::Confirmed { topic: self.topic, body, offset, durability }
    }
}

fn failed(body: Body, error: &PublishError) -> What {
    let why = error.to_string();
    match error.outcome() {
        Outcome::Nothing => What::Refused { body, why },
        Outcome::Unknown => What::Unknown { body, why },
    }
}

/// How durable a producer wants its messages, if it has a wish of its own.
const WISHES: [Option<Durability>; 4] =
    [None, Some(Durability::Disk), Some(Durability::Os), Some(Durability::Memory)];
