use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ltq_client::{ClusterProducer, ClusterPublishError, Durability, Message, Outcome};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{Failed, Journal};

/// Who publishes, and where that is written down.
#[derive(Clone)]
pub(super) struct Publishing {
    pub(super) producer: ClusterProducer,
    pub(super) client: String,
    /// The number of its first message.
    pub(super) first: u64,
    pub(super) journal: Arc<Journal>,
    pub(super) quiet: watch::Receiver<bool>,
}

impl Publishing {
    /// Several on their way at a time, at a fixed rate.
    pub(super) async fn at_rate(self, rate: u32) -> Result<(), Failed> {
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut under_way = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in self.first.. {
            ticks.tick().await;
            if *self.quiet.borrow() {
                break;
            }
            let place = places.clone().acquire_owned().await?;
            let (this, body) = (self.clone(), format!("{}/{number}", self.client));
            under_way.spawn(async move {
                this.send(Message::new(body.clone()), &body).await.map(drop)?;
                drop(place);
                io::Result::Ok(())
            });
            while let Some(ended) = under_way.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended??;
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
            let body = format!("{key}/{number}");
            let message = || Message::new(body.clone()).with_key(key.to_string());
            loop {
                match self.send(message(), &body).await? {
                    Sent::Confirmed => {
                        confirmed.insert(body.clone());
                    }
                    Sent::Moved => {
                        let topic = self.producer.topic().as_str();
                        tokio::select! {
                            () = self.journal.taken(topic, &mut confirmed) => continue,
                            _ = self.quiet.wait_for(|quiet| *quiet) => {}
                        }
                    }
                    Sent::Failed => {}
                }
                break;
            }
        }
        Ok(())
    }

    /// Publishes one message, and writes down what became of it.
    async fn send(&self, message: Message, body: &str) -> io::Result<Sent> {
        let (topic, journal) = (self.producer.topic().as_str(), &self.journal);
        journal.write(&format!("P\t{topic}\t{body}"))?;
        let began = Instant::now();
        let result = self.producer.send(message).await;
        let took = began.elapsed().as_millis();
        match result {
            Ok(receipt) => {
                let offset = receipt.receipt.offset.map_or("-".to_owned(), |it| it.0.to_string());
                let lasts = match receipt.receipt.durability {
                    Durability::Memory => "memory",
                    _ => "lasts",
                };
                let node = receipt.node;
                journal.write(&format!("C\t{topic}\t{body}\t{node}\t{offset}\t{took}\t{lasts}"))?;
                Ok(Sent::Confirmed)
            }
            // It is published again under the same name, so that this is no word on it.
            Err(ClusterPublishError::OrderMoved { from, to, .. }) => {
                journal.write(&format!("M\t{topic}\t{body}\t{from}\t{to}"))?;
                Ok(Sent::Moved)
            }
            Err(error) => {
                let kind = if error.outcome() == Outcome::Nothing { 'F' } else { 'U' };
                journal.write(&format!("{kind}\t{topic}\t{body}\t{took}\t{error}"))?;
                Ok(Sent::Failed)
            }
        }
    }
}

enum Sent {
    Confirmed,
    Failed,
    /// Nothing happened; the next goes to another node.
    Moved,
}

/// Publishes of one mode that are not answered.
const UNDER_WAY_MAX: usize = 64;
