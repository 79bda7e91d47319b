//! One producer of a run.

use std::sync::{Arc, atomic::Ordering};

use hdrhistogram::Histogram;
use ltq_client::{Durability, Message};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
};

use super::{
    pacer::{Schedule, nanos},
    plan::{Limit, Plan},
    run::{Run, histogram, micros},
};
use crate::cli::{
    CliError,
    ends::{Pending, Publisher},
};

/// What became of one producer.
pub(super) struct Produced {
    pub(super) id: u32,
    /// Which topic.
    pub(super) topic: usize,
    pub(super) published: u64,
    /// The least of all receipts.
    pub(super) durability: Option<Durability>,
    /// From when a message was due to its receipt, in microseconds.
    pub(super) latency: Histogram<u64>,
}

/// One producer, ready to begin.
pub(super) struct Publishing {
    pub(super) producer: Publisher,
    /// Its place among the producers.
    pub(super) place: usize,
    pub(super) topic: usize,
    /// Wakes it when it has a schedule.
    pub(super) wake: Arc<Notify>,
}

/// A batch under way: its messages are due from `first` on.
struct Sent {
    pending: Pending,
    first: u64,
    count: u64,
    /// When all of it was due, without a schedule.
    due: u64,
}

impl Publishing {
    /// Publishes its share.
    pub(super) async fn run(
        self,
        run: &Run,
        plan: &Plan,
        schedule: Option<Schedule>,
    ) -> Result<Produced, CliError> {
        let id = rand::random();
        let mut produced = Produced {
            id,
            topic: self.topic,
            published: 0,
            durability: None,
            latency: histogram(),
        };
        if plan.wait_each {
            self.one_by_one(run, plan, &mut produced).await?;
            return Ok(produced);
        }
        // Batches that wait for their receipt; the producer's window bounds the messages in them.
        let (sender, batches) = mpsc::channel(1024);
        let sending = async {
            match schedule {
                None => self.as_fast_as_it_goes(run, plan, id, sender).await,
                Some(schedule) => self.on_schedule(run, plan, id, schedule, sender).await,
            }
        };
        let place = self.place as u64;
        let confirming = confirm(run, batches, &mut produced, schedule.map(|s| (s, place)));
        tokio::try_join!(sending, confirming)?;
        Ok(produced)
    }

    async fn as_fast_as_it_goes(
        &self,
        run: &Run,
        plan: &Plan,
        id: u32,
        sender: mpsc::Sender<Sent>,
    ) -> Result<(), CliError> {
        let mut messages = Vec::with_capacity(plan.batch);
        let (mut first, mut calls) = (0, 0);
        loop {
            let due = run.nanos();
            let count = self.allowed(run, plan, first).min(plan.batch as u64);
            if count == 0 {
                return Ok(());
            }
            run.bodies.fill(&mut messages, id, first..first + count, |_| due);
            run.bodies.set_key(&mut messages, calls);
            calls += 1;
            let pending = self.producer.enqueue_batch(&messages).await?;
            if sender.send(Sent { pending, first, count, due }).await.is_err() {
                return Ok(());
            }
            first += count;
        }
    }

    async fn on_schedule(
        &self,
        run: &Run,
        plan: &Plan,
        id: u32,
        schedule: Schedule,
        sender: mpsc::Sender<Sent>,
    ) -> Result<(), CliError> {
        let place = self.place as u64;
        // What was due in time is published, late or not: a stall at the end is seen by every
        // message that it delays, as one before is.
        let all = match plan.limit {
            Limit::Messages(_) => plan.share(self.place).unwrap_or(0),
            Limit::After(duration) => schedule.due_before(place, nanos(duration)),
        };
        let mut messages = Vec::with_capacity(plan.batch);
        let (mut first, mut calls) = (0, 0);
        loop {
            let allowed = all - first;
            if allowed == 0 {
                return Ok(());
            }
            let now = run.nanos();
            let due = schedule.due_by(place, now).saturating_sub(first);
            let count = due.min(allowed).min(plan.batch as u64);
            if count == 0 {
                if plan.spin {
                    yield_now().await;
                } else {
                    self.wake.notified().await;
                }
                continue;
            }
            let range = first..first + count;
            run.bodies.fill(&mut messages, id, range, |sequence| schedule.due(place, sequence));
            run.bodies.set_key(&mut messages, calls);
            calls += 1;
            let pending = self.producer.enqueue_batch(&messages).await?;
            if sender.send(Sent { pending, first, count, due: now }).await.is_err() {
                return Ok(());
            }
            first += count;
        }
    }

    async fn one_by_one(
        &self,
        run: &Run,
        plan: &Plan,
        produced: &mut Produced,
    ) -> Result<(), CliError> {
        let mut messages: Vec<Message> = Vec::with_capacity(1);
        while self.allowed(run, plan, produced.published) > 0 {
            let (first, due) = (produced.published, run.nanos());
            run.bodies.fill(&mut messages, produced.id, first..first + 1, |_| due);
            run.bodies.set_key(&mut messages, produced.published as usize);
            let Some(message) = messages.pop() else { return Ok(()) };
            let durability = self.producer.confirmed(message).await?;
            produced.latency.saturating_record(micros(run.nanos().saturating_sub(due)));
            produced.take(durability, 1);
            run.published.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many more messages it may publish.
    fn allowed(&self, run: &Run, plan: &Plan, published: u64) -> u64 {
        match plan.limit {
            Limit::Messages(_) => plan.share(self.place).unwrap_or(0).saturating_sub(published),
            Limit::After(duration) if run.clock.elapsed() >= duration => 0,
            Limit::After(_) => u64::MAX,
        }
    }
}

/// Awaits the receipts in order.
async fn confirm(
    run: &Run,
    mut batches: mpsc::Receiver<Sent>,
    produced: &mut Produced,
    schedule: Option<(Schedule, u64)>,
) -> Result<(), CliError> {
    while let Some(batch) = batches.recv().await {
        let became = batch.pending.became().await;
        let now = run.nanos();
        if let Some(error) = became.failure {
            return Err(error);
        }
        if became.confirmed as u64 != batch.count {
            let (got, sent) = (became.confirmed, batch.count);
            return Err(CliError::Failed(format!("a receipt for {got} messages of {sent}")));
        }
        match schedule {
            None => {
                let latency = micros(now.saturating_sub(batch.due));
                produced.latency.saturating_record_n(latency, batch.count);
            }
            Some((schedule, place)) => {
                for sequence in batch.first..batch.first + batch.count {
                    let latency = micros(now.saturating_sub(schedule.due(place, sequence)));
                    produced.latency.saturating_record(latency);
                }
            }
        }
        // There is one where anything is confirmed, and all of it is.
        produced.take(became.durability.unwrap_or_default(), batch.count);
        run.published.fetch_add(batch.count, Ordering::Relaxed);
    }
    Ok(())
}

impl Produced {
    fn take(&mut self, durability: Durability, count: u64) {
        self.published += count;
        self.durability = Some(self.durability.unwrap_or(Durability::Disk).min(durability));
    }
}
