//! Publishers that are kept for the next request to the same topic, so that a request need not
//! open one.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use ltq_core::{
    DirectError, Durability, Peer, Publisher, PublisherOptions, Records, RefusalCode, TopicName,
    model::SequenceRange,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::NodeBroker;

/// Publishes for requests. Each request has a publisher of its own while it runs, since one
/// publisher's messages wait for each other; between requests up to [`IDLE_MAX`] of them are kept
/// for [`IDLE_TIME`].
pub(super) struct Publishers {
    broker: NodeBroker,
    idle: Arc<Mutex<VecDeque<Idle>>>,
}

struct Idle {
    durability: Option<Durability>,
    publisher: Publisher,
    since: Instant,
}

impl Publishers {
    pub(super) fn new(broker: NodeBroker) -> Self {
        Self { broker, idle: Arc::default() }
    }

    /// Publishes messages, whole or not at all. Not cancel safe: what is given up may still
    /// happen, and its publisher is given up with it.
    pub(super) async fn publish(
        &self,
        peer: &Peer,
        topic: &TopicName,
        durability: Option<Durability>,
        records: Records,
    ) -> Result<(Vec<SequenceRange>, Durability), DirectError> {
        while let Some(mut publisher) = self.take(topic, durability) {
            match publisher.publish_records(records.clone()).await {
                Ok(confirmed) => {
                    self.keep(durability, publisher);
                    return Ok(confirmed);
                }
                // The topic that this publisher knew is gone, and nothing was stored. There may
                // be one of that name again, or may be made.
                Err(error) if is_topic_deleted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let options = PublisherOptions { name: None, durability };
        let mut publisher = self.broker.publisher_for(peer, topic, options).await?;
        let confirmed = publisher.publish_records(records).await?;
        self.keep(durability, publisher);
        Ok(confirmed)
    }

    /// The publisher of this kind that was used last.
    fn take(&self, topic: &TopicName, durability: Option<Durability>) -> Option<Publisher> {
        let mut idle = self.idle.lock();
        let fits = |idle: &Idle| idle.durability == durability && idle.publisher.topic() == topic;
        let at = idle.iter().rposition(fits)?;
        idle.remove(at).map(|idle| idle.publisher)
    }

    fn keep(&self, durability: Option<Durability>, publisher: Publisher) {
        let mut idle = self.idle.lock();
        if idle.is_empty() {
            tokio::spawn(sweep(Arc::downgrade(&self.idle)));
        }
        idle.push_back(Idle { durability, publisher, since: Instant::now() });
        if idle.len() > IDLE_MAX {
            idle.pop_front();
        }
    }
}

/// Gives up publishers that nobody needed for a while. Ends when there are none.
async fn sweep(idle: Weak<Mutex<VecDeque<Idle>>>) {
    loop {
        let wake_at = {
            let Some(idle) = idle.upgrade() else { return };
            let mut idle = idle.lock();
            while idle.front().is_some_and(|idle| idle.since.elapsed() >= IDLE_TIME) {
                idle.pop_front();
            }
            match idle.front() {
                Some(oldest) => oldest.since + IDLE_TIME,
                None => return,
            }
        };
        tokio::time::sleep_until(wake_at).await;
    }
}

const fn is_topic_deleted(error: &DirectError) -> bool {
    matches!(error, DirectError::Refused(refusal) if matches!(refusal.code, RefusalCode::TopicDeleted))
}

/// A burst of requests to one topic, or a few topics in turn, finds its publishers again.
const IDLE_MAX: usize = 64;
/// A topic at rest is soon without them, so that one that vanishes when idle can.
const IDLE_TIME: Duration = Duration::from_secs(5);
