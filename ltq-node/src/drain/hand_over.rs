//! A backlog goes to other nodes: each message is acked here once another node has stored it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ltq_client::{Client, ClientBuilder};
use ltq_core::{TopicName, TopicStats};
use parking_lot::Mutex;
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::error;

use super::{
    going::{Going, has_waiting},
    held::Held,
    peer::Peer,
    runs::Runs,
};
use crate::{
    NodeBroker,
    config::Config,
    peers::{PeersError, Proof},
};

/// Forwards what channels have still to settle.
pub(super) struct HandOver {
    broker: NodeBroker,
    peers: Vec<Arc<Peer>>,
    known: Known,
}

impl HandOver {
    pub(super) fn new(
        broker: &NodeBroker,
        config: &Config,
        addresses: &[String],
        known: &Known,
    ) -> Result<Self, PeersError> {
        let of = &config.drain;
        let proof = Proof {
            tls_ca: of.tls_ca.as_deref(),
            tls_fingerprint: of.tls_fingerprint.as_deref(),
            ..Proof::default()
        };
        let mut template = Client::builder().transports(proof.ways()?.transports);
        if let Some(token) = config.drain_token() {
            template = template.token(&*token.0);
        }
        Ok(Self::by(broker, &template, addresses, known))
    }

    /// By clients like this one.
    pub(super) fn by(
        broker: &NodeBroker,
        template: &ClientBuilder,
        addresses: &[String],
        known: &Known,
    ) -> Self {
        let template = template.clone().name(concat!("ltq-node/", env!("CARGO_PKG_VERSION")));
        let peers = addresses.iter().map(|address| Arc::new(Peer::new(address, &template)));
        Self { broker: broker.clone(), peers: peers.collect(), known: known.clone() }
    }

    /// Forwards for as long as it is awaited: whoever awaits it knows when nothing is left.
    pub(super) async fn run(self) -> ! {
        let mut tasks = self.known.tasks.lock().await;
        let mut busy: HashMap<Id, TopicName> = HashMap::new();
        let mut queue: VecDeque<TopicStats> = VecDeque::new();
        let mut next_look = Instant::now();
        loop {
            while tasks.len() < TOPICS_MAX
                && let Some(topic) = queue.pop_front()
            {
                let name = topic.topic.clone();
                let done = self.known.done.of(&name);
                let going = Going::new(self.broker.clone(), topic, done, self.known.held.clone());
                busy.insert(tasks.spawn(going.over(self.peers.clone())).id(), name);
            }
            tokio::select! {
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(panicked) => {
                            error!(%panicked, "a topic is not handed over; it is tried again");
                            panicked.id()
                        }
                    };
                    busy.remove(&id);
                }
                // Those that ended, for an error or for want of messages, are looked at again, too.
                () = sleep_until(next_look), if queue.is_empty() && tasks.len() < TOPICS_MAX => {
                    let began = Instant::now();
                    let taken: BTreeSet<_> = busy.values().cloned().collect();
                    let left = self.broker.stats().await.topics.into_iter().filter(has_waiting);
                    queue.extend(left.filter(|it| !taken.contains(&it.topic)));
                    // With many topics a look takes a while; most of the time is not for looking.
                    next_look = Instant::now() + LOOK_PAUSE.max(began.elapsed() * 4);
                }
            }
        }
    }
}

/// What is stored elsewhere already, so that another channel which has it too need not send it again, nor
/// a later attempt.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(Arc<Mutex<BTreeMap<TopicName, Arc<Mutex<Runs>>>>>);

impl Done {
    fn of(&self, topic: &TopicName) -> Arc<Mutex<Runs>> {
        self.0.lock().entry(topic.clone()).or_default().clone()
    }

    /// Nothing of it counts any more.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// What outlives one way to drain: it is told to drain otherwise, and goes on by it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) done: Done,
    pub(super) held: Held,
    /// Topics on their way. Who hands over has them for itself; they go on until they are stopped.
    pub(super) tasks: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl Known {
    pub(super) fn new(broker: &NodeBroker) -> Self {
        Self { done: Done::default(), held: Held::new(broker), tasks: Arc::default() }
    }

    /// Ends what is on its way, once nobody hands over any more, and waits until it has ended: nothing is published
    /// or acked after that.
    pub(super) async fn stop(&self) {
        self.tasks.lock().await.shutdown().await;
    }
}

/// Topics that are on their way at a time.
const TOPICS_MAX: usize = 16;
/// How often it is looked which topics have something left, at most.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
