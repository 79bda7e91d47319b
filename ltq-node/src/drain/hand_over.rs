//! A backlog goes to other nodes: each message is acked here once another node has stored it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ltq_client::{Client, ClientBuilder};
use ltq_core::{HeldUp, TopicName, TopicStats};
use parking_lot::Mutex;
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::error;

use super::{
    going::{Going, HandOverError, has_waiting},
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
    done: Done,
    held: Held,
}

/// A node that takes messages.
pub(super) struct Peer {
    pub(super) address: String,
    template: ClientBuilder,
    client: Mutex<Option<Client>>,
}

impl Peer {
    /// A client of it, connected at least once.
    pub(super) async fn client(&self) -> Result<Client, HandOverError> {
        if let Some(client) = &*self.client.lock() {
            return Ok(client.clone());
        }
        let connected = self.template.clone().server(&self.address).connect().await;
        let client = connected.map_err(|source| {
            let address = self.address.clone();
            HandOverError::Connect { address, source }
        })?;
        Ok(self.client.lock().get_or_insert(client).clone())
    }
}

impl HandOver {
    pub(super) fn new(
        broker: &NodeBroker,
        config: &Config,
        addresses: &[String],
        done: Done,
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
        Ok(Self::by(broker, &template, addresses, done))
    }

    /// By clients like this one.
    pub(super) fn by(
        broker: &NodeBroker,
        template: &ClientBuilder,
        addresses: &[String],
        done: Done,
    ) -> Self {
        let template = template.clone().name(concat!("ltq-node/", env!("CARGO_PKG_VERSION")));
        let template = template.connect_timeout(CONNECT_TIMEOUT);
        let peer = |address: &String| {
            let (address, template) = (address.clone(), template.clone());
            Arc::new(Peer { address, template, client: Mutex::default() })
        };
        let peers = addresses.iter().map(peer).collect();
        let held = Held { broker: broker.clone(), topics: Arc::default() };
        Self { broker: broker.clone(), peers, done, held }
    }

    /// Forwards for as long as it is awaited: whoever awaits it knows when nothing is left.
    pub(super) async fn run(self) -> ! {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut busy: HashMap<Id, TopicName> = HashMap::new();
        let mut queue: VecDeque<TopicStats> = VecDeque::new();
        let mut next_look = Instant::now();
        self.held.keep(&BTreeSet::new());
        loop {
            while tasks.len() < TOPICS_MAX
                && let Some(topic) = queue.pop_front()
            {
                let name = topic.topic.clone();
                let done = self.done.of(&name);
                let going = Going::new(self.broker.clone(), topic, done, self.held.clone());
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
                    let topics = self.broker.stats().await.topics.into_iter();
                    let left: Vec<_> = topics.filter(has_waiting).collect();
                    let names = left.iter().map(|it| it.topic.clone());
                    self.held.keep(&names.chain(taken.iter().cloned()).collect());
                    queue.extend(left.into_iter().filter(|it| !taken.contains(&it.topic)));
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

/// The messages that no node takes, the first one of each topic, as the broker shows them.
#[derive(Clone)]
pub(super) struct Held {
    broker: NodeBroker,
    topics: Arc<Mutex<BTreeMap<TopicName, HeldUp>>>,
}

impl Held {
    /// Whether that was not known yet.
    pub(super) fn insert(&self, held: HeldUp) -> bool {
        let mut topics = self.topics.lock();
        let (topic, offset) = (held.topic.clone(), held.offset);
        let before = topics.insert(topic, held);
        self.show(&topics);
        before.is_none_or(|before| before.offset != offset)
    }

    pub(super) fn remove(&self, topic: &TopicName) {
        let mut topics = self.topics.lock();
        if topics.remove(topic).is_some() {
            self.show(&topics);
        }
    }

    /// Forgets all but those topics that have still something to hand over.
    fn keep(&self, names: &BTreeSet<TopicName>) {
        let mut topics = self.topics.lock();
        topics.retain(|name, _| names.contains(name));
        self.show(&topics);
    }

    fn show(&self, topics: &BTreeMap<TopicName, HeldUp>) {
        self.broker.set_held_up(topics.values().cloned().collect());
    }
}

/// Topics that are on their way at a time.
const TOPICS_MAX: usize = 16;
/// How often it is looked which topics have something left, at most.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a node may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
