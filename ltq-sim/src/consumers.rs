//! Programs that consume.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Batch, Client, ConsumeError, Consumer, Credit, Delivery, Message, Offset};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    body::Body,
    chance::{Odds, Seeded},
    clients::Clients,
    history::{History, Spot, What},
    plan::Part,
    topics::{channel_name, topic_name},
};

/// A program that consumes one channel, and is not always a good one.
pub(crate) struct Consuming {
    pub(crate) part: Part,
    pub(crate) clients: Clients,
    pub(crate) history: History,
    pub(crate) topic: usize,
    pub(crate) channel: usize,
    /// Each subscription has a number of its own.
    pub(crate) subscriptions: Arc<AtomicU64>,
    /// Whether it now does its work and nothing else.
    pub(crate) diligent: watch::Receiver<bool>,
    /// Whether it forgets some of it even then.
    pub(crate) forgets: bool,
    /// What it does with what it gets.
    pub(crate) habits: Habits,
}

/// What a consumer does with what it gets, unless it is diligent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    answers: Odds<5>,
    /// Once in so many times it is slow about it.
    slow_one_in: u64,
}

impl Habits {
    pub(crate) fn of(chance: &Seeded) -> Self {
        let answers = Odds::about([5, 3, 2, 1, 1], chance);
        Self { answers, slow_one_in: chance.pick(&[10, 30, 30, 200]) }
    }
}

/// One thing to do with a delivery; in the order of [`Habits::answers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    AckConfirmed,
    Ack,
    Requeue,
    Forget,
    Touch,
}

impl Answer {
    const ALL: [Self; 5] =
        [Self::AckConfirmed, Self::Ack, Self::Requeue, Self::Forget, Self::Touch];
}

impl Consuming {
    /// Subscribes, consumes and leaves, again and again, until nobody wants any more of it. Now and
    /// then it crashes, wherever it is, and starts again.
    pub(crate) async fn run(self, run: watch::Receiver<bool>) {
        while *run.borrow() {
            let crashes = self.part.chance.one_in(3) && !self.is_diligent();
            let chance = crashes.then_some(&self.part.chance);
            let life = |client| self.live(client, &run);
            if self.clients.run(&self.part.name, chance, life).await {
                self.add(What::Crashed);
            }
        }
    }

    fn is_diligent(&self) -> bool {
        *self.diligent.borrow()
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.history.note(&self.part.name, what);
    }

    fn add(&self, what: What) {
        self.history.add(&self.part.name, what);
    }

    async fn live(&self, client: Client, run: &watch::Receiver<bool>) {
        let chance = &self.part.chance;
        let (topic, channel) = (topic_name(self.topic), channel_name(self.channel));
        for _ in 0..1 + chance.below(4) {
            if !*run.borrow() {
                break;
            }
            let builder = client.consumer_builder(topic.as_str(), channel.as_str());
            let credit = 1 + chance.below(40);
            let timeout = Duration::from_millis(1_000 + chance.below(4_000));
            let consumer = self.subscriptions.fetch_add(1, Relaxed);
            self.note(format!("subscribes to {topic}/{channel}"));
            self.add(What::Subscribed { consumer, timeout });
            // Told before the subscription ends, also when this program crashes.
            let _leaving = Leaving { of: self, consumer };
            match builder.credit(credit, 1 << 20).timeout(timeout).open().await {
                Ok(opened) => self.consume(consumer, opened, credit, run).await,
                Err(error) => {
                    self.note(format!("cannot subscribe: {error}"));
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn consume(
        &self,
        id: u64,
        mut consumer: Consumer,
        mut credit: u64,
        run: &watch::Receiver<bool>,
    ) {
        let chance = &self.part.chance;
        let mut held = Vec::new();
        let batches = chance.one_in(3);
        // In the end, and where nothing goes wrong, it does not leave what it has under way.
        let most = if self.is_diligent() { u64::MAX } else { 1 + chance.below(200) };
        for _ in 0..most {
            if !*run.borrow() {
                break;
            }
            if chance.one_in(40) {
                credit = 1 + chance.below(40);
                self.note(format!("takes up to {credit} from now on"));
                consumer.set_credit(Credit { messages: credit, bytes: 1 << 20 });
            }
            // What it forgot it never answers: its time must run out. But it cannot work without credit.
            if self.is_diligent() && held.len() as u64 * 2 > credit {
                self.give_back(&mut held);
            }
            let most = if batches { 1 + chance.below(20) as usize } else { 1 };
            let next = match timeout(Duration::from_secs(1), consumer.next_batch(most)).await {
                Err(_) => continue,
                Ok(None) => break,
                Ok(Some(next)) => next,
            };
            match next {
                Ok(batch) => self.batch(id, batch, &mut held).await,
                Err(error @ ConsumeError::Ended(_)) => {
                    self.note(error);
                    break;
                }
                Err(error) => self.add(What::Unreadable(error.to_string())),
            }
        }
        self.give_back(&mut held);
        if chance.one_in(2) {
            // From here on the node may know that it goes.
            self.add(What::Left(id));
            let closed = timeout(Duration::from_secs(5), consumer.close()).await;
            self.note(format!("leaves: {closed:?}"));
        }
    }

    fn give_back(&self, held: &mut Vec<(Spot, Delivery)>) {
        for (spot, delivery) in held.drain(..) {
            self.add(What::GaveBack(spot));
            drop(delivery);
        }
    }

    fn spot(&self, consumer: u64, offset: Offset, attempt: u32) -> Spot {
        Spot { topic: self.topic, channel: self.channel, consumer, offset, attempt }
    }

    fn delivered(&self, spot: Spot, message: &Message) {
        self.add(match Body::parse(&message.body) {
            Some(body) => What::Delivered(spot, body),
            None => What::Unreadable(format!("wrong bytes at {spot}")),
        });
    }

    async fn batch(&self, consumer: u64, batch: Batch, held: &mut Vec<(Spot, Delivery)>) {
        let mut spots = Vec::new();
        for received in batch.iter() {
            match received {
                Ok(received) => {
                    let spot = self.spot(consumer, received.offset, received.attempt);
                    self.delivered(spot, &received.message);
                    spots.push(spot);
                }
                Err(error) => self.add(What::Unreadable(error.to_string())),
            }
        }
        if spots.len() > 1 && (self.is_diligent() || self.part.chance.one_in(3)) {
            for &spot in &spots {
                self.add(What::Acks { place: spot, waits: true });
            }
            let result = batch.ack_all_confirmed().await.map_err(|error| error.to_string());
            for spot in spots {
                self.add(What::Acked(spot, result.clone()));
            }
            return;
        }
        let leaves_off = self.part.chance.one_in(8) && !self.is_diligent();
        let most = if leaves_off { spots.len() / 2 } else { spots.len() };
        for delivery in batch.into_deliveries().take(most).flatten() {
            let spot = self.spot(consumer, delivery.offset(), delivery.attempt());
            self.answer(spot, delivery, held).await;
        }
        for &spot in spots.iter().skip(most) {
            self.add(What::GaveBack(spot));
        }
    }

    async fn answer(&self, spot: Spot, delivery: Delivery, held: &mut Vec<(Spot, Delivery)>) {
        let chance = &self.part.chance;
        let diligent = self.is_diligent();
        if !diligent && chance.one_in(self.habits.slow_one_in) {
            sleep(chance.millis(3_000)).await;
        }
        let what = match diligent {
            true if self.forgets && chance.one_in(20) => Answer::Forget,
            true => Answer::AckConfirmed,
            false => {
                let drawn = self.habits.answers.draw(chance);
                Answer::ALL.get(drawn).copied().unwrap_or(Answer::AckConfirmed)
            }
        };
        match what {
            Answer::AckConfirmed => {
                self.add(What::Acks { place: spot, waits: true });
                let result = delivery.ack_confirmed().await.map_err(|error| error.to_string());
                self.add(What::Acked(spot, result));
            }
            Answer::Ack => {
                self.add(What::Acks { place: spot, waits: false });
                if let Err(error) = delivery.ack() {
                    self.note(format!("{spot}: {error}"));
                }
            }
            Answer::Requeue => {
                let after = chance.millis(2_000);
                let asked = self.history.elapsed();
                self.add(What::Requeues(spot));
                let result = delivery.requeue_confirmed(after).await;
                let result = result.map_err(|error| error.to_string());
                self.add(What::Requeued { place: spot, asked, after, result });
            }
            Answer::Forget => {
                self.add(What::Forgot(spot));
                held.push((spot, delivery));
            }
            Answer::Touch => {
                let asked = self.history.elapsed();
                let result = delivery.touch_confirmed().await;
                let result = result.map_err(|error| error.to_string());
                self.add(What::Touched { place: spot, asked, result });
                if chance.one_in(2) {
                    self.add(What::Forgot(spot));
                    held.push((spot, delivery));
                } else {
                    self.add(What::GaveBack(spot));
                }
            }
        }
    }
}

/// Tells that a subscription ends, however it does.
struct Leaving<'a> {
    of: &'a Consuming,
    consumer: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.of.add(What::Left(self.consumer));
    }
}
