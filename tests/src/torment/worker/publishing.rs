use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ltq_client::{
    ClusterBatchError, ClusterBatchReceipt, ClusterProducer, ClusterPublishError, ClusterReceipt,
    Durability, Message, Outcome,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    Failed, Journal,
    mode::{KEYS, Order},
    uptime_ms,
    ways::Call,
};

/// Who publishes, and where that is written down.
#[derive(Clone)]
pub(super) struct Publishing {
    pub(super) producer: ClusterProducer,
    pub(super) client: String,
    /// The number of its first message.
    pub(super) first: u64,
    pub(super) order: Option<Order>,
    pub(super) call: Call,
    pub(super) journal: Arc<Journal>,
    pub(super) quiet: watch::Receiver<bool>,
}

impl Publishing {
    /// Several on their way at a time, at a fixed rate of messages. Those in order go from here, one call after the
    /// other, and none is published again.
    pub(super) async fn at_rate(self, rate: u32) -> Result<(), Failed> {
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut under_way = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = self.first;
        for turn in 0.. {
            let count = self.call.size(turn);
            for _ in 0..count {
                ticks.tick().await;
            }
            if *self.quiet.borrow() {
                break;
            }
            let place = places.clone().acquire_many_owned(count as u32).await?;
            let bodies = (number..number + count).map(|number| self.body(turn, number)).collect();
            number += count;
            self.publish(bodies, place, &mut under_way).await?;
            while let Some(ended) = under_way.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// All of one call have one key, as batches in order have to.
    fn body(&self, turn: u64, number: u64) -> String {
        match self.order {
            None => format!("{}/{number}", self.client),
            Some(order) if order.has_keys => format!("{}/{number}", turn % u64::from(KEYS)),
            Some(_) => format!("{KEYLESS}/{number}"),
        }
    }

    fn message(&self, body: &str) -> Message {
        let message = Message::new(body.to_owned());
        match (self.order, body.split_once('/')) {
            (Some(order), Some((key, _))) if order.has_keys => message.with_key(key.to_owned()),
            _ => message,
        }
    }

    /// One call, whose end may be waited for elsewhere.
    async fn publish(
        &self,
        bodies: Vec<String>,
        place: OwnedSemaphorePermit,
        under_way: &mut JoinSet<io::Result<()>>,
    ) -> io::Result<()> {
        let this = self.clone();
        let messages: Vec<_> = bodies.iter().map(|body| self.message(body)).collect();
        let mut alone = messages.clone().into_iter();
        let began = self.begins(&bodies)?;
        match self.call {
            Call::Send => {
                under_way.spawn(async move {
                    let _place = place;
                    for (body, message) in bodies.iter().zip(alone.by_ref()) {
                        let answer = this.producer.send(message).await;
                        this.answered(body, began, answer)?;
                    }
                    Ok(())
                });
            }
            Call::Enqueue => {
                for body in bodies {
                    let Some(message) = alone.next() else { break };
                    match self.producer.enqueue(message).await {
                        Err(error) => drop(self.answered(&body, began, Err(error))?),
                        Ok(pending) => {
                            let this = self.clone();
                            under_way.spawn(async move {
                                this.answered(&body, began, pending.await).map(drop)
                            });
                        }
                    }
                }
                // As many at a time as the window of the producer takes.
                drop(place);
            }
            // In order only where one call ends before the next begins.
            Call::Batch if self.order.is_some() => {
                let answer = self.producer.send_batch(&messages).await;
                self.all_answered(&bodies, began, answer)?;
            }
            Call::Batch => {
                under_way.spawn(async move {
                    let _place = place;
                    let answer = this.producer.send_batch(&messages).await;
                    this.all_answered(&bodies, began, answer)
                });
            }
            Call::EnqueueBatch => match self.producer.enqueue_batch(&messages).await {
                Err(error) => {
                    let none = ClusterBatchReceipt::default();
                    self.all_answered(
                        &bodies,
                        began,
                        Err(ClusterBatchError { stored: none, error }),
                    )?;
                }
                Ok(pending) => {
                    under_way.spawn(async move {
                        let _place = place;
                        this.all_answered(&bodies, began, pending.await)
                    });
                }
            },
        }
        Ok(())
    }

    /// One after the other. When the order moves, what was published before is consumed first.
    pub(super) async fn of_key(mut self, key: u32, pause: Duration) -> Result<(), Failed> {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut confirmed = BTreeSet::new();
        for number in self.first.. {
            ticks.tick().await;
            if *self.quiet.borrow() {
                break;
            }
            let body = self.body(u64::from(key), number);
            loop {
                let began = self.begins(std::slice::from_ref(&body))?;
                let answer = self.producer.send(self.message(&body)).await;
                if let Err(ClusterPublishError::OrderMoved { from, to, .. }) = &answer {
                    // It is published again under the same name, so that this is no word on it.
                    let topic = self.producer.topic().as_str();
                    self.journal.write(&format!("M\t{topic}\t{body}\t{from}\t{to}"))?;
                    tokio::select! {
                        () = self.journal.taken(topic, &mut confirmed) => continue,
                        _ = self.quiet.wait_for(|quiet| *quiet) => {}
                    }
                } else if self.answered(&body, began, answer)? {
                    confirmed.insert(body);
                }
                break;
            }
        }
        Ok(())
    }

    fn begins(&self, bodies: &[String]) -> io::Result<Instant> {
        let (topic, now) = (self.producer.topic().as_str(), uptime_ms()?);
        for body in bodies {
            self.journal.write(&format!("P\t{topic}\t{body}\t{now}"))?;
        }
        Ok(Instant::now())
    }

    /// Writes down what became of a message, and says whether it is confirmed.
    fn answered(
        &self,
        body: &str,
        began: Instant,
        answer: Result<ClusterReceipt, ClusterPublishError>,
    ) -> io::Result<bool> {
        let (topic, took) = (self.producer.topic().as_str(), began.elapsed().as_millis());
        match answer {
            Ok(receipt) => {
                let offset = receipt.receipt.offset.map_or("-".to_owned(), |it| it.0.to_string());
                let lasts = match receipt.receipt.durability {
                    Durability::Memory => "memory",
                    _ => "lasts",
                };
                let (node, way) = (receipt.node, self.call);
                self.journal.write(&format!(
                    "C\t{topic}\t{body}\t{node}\t{offset}\t{took}\t{lasts}\t{way}"
                ))?;
                Ok(true)
            }
            Err(error) => {
                if let ClusterPublishError::OrderMoved { from, to, .. } = &error {
                    self.journal.write(&format!("M\t{topic}\t{body}\t{from}\t{to}"))?;
                }
                let kind = if error.outcome() == Outcome::Nothing { 'F' } else { 'U' };
                self.journal.write(&format!("{kind}\t{topic}\t{body}\t{took}\t{error}"))?;
                Ok(false)
            }
        }
    }

    /// The same for a batch, of which a first part may be stored.
    fn all_answered(
        &self,
        bodies: &[String],
        began: Instant,
        answer: Result<ClusterBatchReceipt, ClusterBatchError>,
    ) -> io::Result<()> {
        let (stored, error) = match answer {
            Ok(stored) => (stored, None),
            Err(ClusterBatchError { stored, error }) => (stored, Some(error)),
        };
        let mut left = bodies.iter();
        for (receipt, body) in stored.iter().zip(left.by_ref()) {
            self.answered(body, began, Ok(receipt))?;
        }
        for body in left {
            let Some(error) = &error else {
                return Err(io::Error::other(format!("{body} has neither a receipt nor an error")));
            };
            self.answered(body, began, Err(error.clone()))?;
        }
        Ok(())
    }
}

/// What stands where others have their key.
const KEYLESS: &str = "-";
/// Messages of one mode that are not answered.
const UNDER_WAY_MAX: usize = 64;
