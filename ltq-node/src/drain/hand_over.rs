//! A backlog goes to other nodes: each message is acked here once another node has stored it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::future::select_all;
use ltq_client::{
    BatchError, Client, ClientBuilder, ConnectError, ConnectionState, Producer, RefusalCode,
    RequestError,
};
use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, Credit, DirectError, Durability, Message, StartAt,
    SubscribeOptions, Subscription, TagRange, TopicName, TopicStats, Verdict, model::Delivery,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::runs::Runs;
use crate::{
    NodeBroker,
    config::Config,
    peers::{PeersError, Proof},
};

/// Why messages were not handed over.
#[derive(Debug, Error)]
enum HandOverError {
    #[error("connecting to {address}: {source}")]
    Connect { address: String, source: ConnectError },
    #[error("preparing {address}: {source}")]
    Prepare { address: String, source: RequestError },
    #[error("publishing to {address}: {source}")]
    Publish { address: String, source: Box<BatchError> },
    #[error("publishing to {address}: its connection is down")]
    Gone { address: String },
    #[error("publishing to {address}: durability {wanted} is needed, and {reached} was reached")]
    Weak { address: String, reached: Durability, wanted: Durability },
    #[error("reading: {0}")]
    Read(#[from] DirectError),
}

/// Forwards what channels have still to settle.
pub(super) struct HandOver {
    broker: NodeBroker,
    peers: Vec<Arc<Peer>>,
    done: Done,
}

/// A node that takes messages.
struct Peer {
    address: String,
    template: ClientBuilder,
    client: Mutex<Option<Client>>,
}

impl Peer {
    /// A client of it, connected at least once.
    async fn client(&self) -> Result<Client, HandOverError> {
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
        let ways = proof.ways()?;
        let mut template = Client::builder()
            .name(concat!("ltq-node/", env!("CARGO_PKG_VERSION")))
            .transports(ways.transports.clone())
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(token) = config.drain_token() {
            template = template.token(&*token.0);
        }
        let peer = |address: &String| {
            let (address, template) = (address.clone(), template.clone());
            Arc::new(Peer { address, template, client: Mutex::default() })
        };
        Ok(Self { broker: broker.clone(), peers: addresses.iter().map(peer).collect(), done })
    }

    /// Forwards for as long as it is awaited: whoever awaits it knows when nothing is left.
    pub(super) async fn run(self) -> ! {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut busy: HashMap<Id, TopicName> = HashMap::new();
        let mut queue: VecDeque<TopicStats> = VecDeque::new();
        let mut next_look = Instant::now();
        loop {
            while tasks.len() < TOPICS_MAX
                && let Some(topic) = queue.pop_front()
            {
                let name = topic.topic.clone();
                let done = self.done.of(&name);
                let going = Going { broker: self.broker.clone(), topic, done, handed: 0 };
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
                    let left = topics.filter(|it| handed_over(it).next().is_some());
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

/// The channels of a topic that have something to hand over. What is ephemeral would vanish there.
fn handed_over(topic: &TopicStats) -> impl Iterator<Item = &ChannelName> {
    let lasts = !topic.topic.is_ephemeral();
    let channels = topic.channels.iter().filter(move |_| lasts);
    let has_some = channels.filter(|it| !it.channel.is_ephemeral() && it.backlog() > 0);
    has_some.map(|it| &it.channel)
}

/// One topic on its way.
struct Going {
    broker: NodeBroker,
    topic: TopicStats,
    done: Arc<Mutex<Runs>>,
    handed: u64,
}

impl Going {
    /// Tries the nodes one after the other, from one that the topic's name draws, so that a topic goes to one
    /// node as long as that takes it.
    async fn over(mut self, peers: Vec<Arc<Peer>>) {
        let mut hasher = DefaultHasher::new();
        self.topic.topic.hash(&mut hasher);
        let from = (hasher.finish() % peers.len().max(1) as u64) as usize;
        let topic = self.topic.topic.clone();
        for peer in peers.iter().cycle().skip(from).take(peers.len()) {
            let result = self.to(peer).await;
            let (messages, to) = (std::mem::take(&mut self.handed), &peer.address);
            if messages > 0 {
                info!(%topic, messages, to, "handed over");
            }
            match result {
                Ok(()) => return,
                Err(error) => warn!(%topic, %error, "not handed over; trying another way"),
            }
        }
        sleep(RETRY_PAUSE).await;
    }

    /// Forwards what there is, until nothing is left or nothing has come for a while.
    async fn to(&mut self, peer: &Peer) -> Result<(), HandOverError> {
        let (client, producer) = self.prepare(peer).await?;
        let mut subscriptions = Vec::new();
        for channel in handed_over(&self.topic) {
            let options = SubscribeOptions { credit: CREDIT, ..SubscribeOptions::default() };
            let (topic, channel) = (self.topic.topic.as_str(), channel.as_str());
            subscriptions.push(self.broker.subscribe(topic, channel, options).await?);
        }
        let mut wait = BRIEFLY;
        loop {
            let Some((index, delivery)) = next_of(&mut subscriptions, wait).await? else {
                if wait == IDLE_PAUSE || !self.has_some().await {
                    return Ok(());
                }
                // What is in flight to others may come back.
                wait = IDLE_PAUSE;
                continue;
            };
            wait = BRIEFLY;
            let Some(subscription) = subscriptions.get_mut(index) else { return Ok(()) };
            for piece in pieces(self.missing(&delivery)) {
                self.send(peer, &client, &producer, piece).await?;
                // While the rest is on its way, others are not to take what is stored there.
                self.ack(subscription, &delivery)?;
            }
            self.ack(subscription, &delivery)?;
        }
    }

    /// Whether any channel has something left.
    async fn has_some(&self) -> bool {
        let request = AdminRequest::ShowTopic { topic: self.topic.topic.clone() };
        match self.broker.admin(request).await {
            Ok(AdminResponse::Topic(topic)) => handed_over(&topic).next().is_some(),
            _ => false,
        }
    }

    /// What survived a power cut here does so there.
    fn durability(&self) -> Durability {
        match self.topic.settings.durability {
            Durability::Memory => Durability::Memory,
            // Single publishes may have asked for more than their topic is set to.
            Durability::Os | Durability::Disk => Durability::Disk,
        }
    }

    /// Publishes messages, however long that takes while there is a connection: what is sent again over a new
    /// one is stored once, and what is given up may be stored.
    async fn send(
        &mut self,
        peer: &Peer,
        client: &Client,
        producer: &Producer,
        messages: Vec<(u64, Message)>,
    ) -> Result<(), HandOverError> {
        let (offsets, messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
        let address = || peer.address.clone();
        let sent = tokio::select! {
            sent = producer.send_batch(messages) => sent,
            () = gone(client) => return Err(HandOverError::Gone { address: address() }),
        };
        let receipt = sent.map_err(|source| HandOverError::Publish {
            address: address(),
            source: Box::new(source),
        })?;
        let (wanted, reached) = (self.durability(), receipt.durability());
        if reached < wanted {
            return Err(HandOverError::Weak { address: address(), reached, wanted });
        }
        self.handed += offsets.len() as u64;
        let mut done = self.done.lock();
        offsets.into_iter().for_each(|offset| done.insert(offset));
        Ok(())
    }

    /// The topic and all its channels are there before the first message is, so that each of them sees it.
    async fn prepare(&self, peer: &Peer) -> Result<(Client, Producer), HandOverError> {
        let client = peer.client().await?;
        let failed = |source| {
            let address = peer.address.clone();
            HandOverError::Prepare { address, source }
        };
        let (admin, topic) = (client.admin(), &self.topic.topic);
        match admin.create_topic(topic.clone(), self.topic.settings.into()).await {
            // It is there, and is kept as whoever made it there wanted.
            Err(RequestError::Refused { refusal, .. }) if refusal.code == RefusalCode::Exists => {}
            result => result.map_err(failed)?,
        }
        for channel in self.topic.channels.iter().filter(|it| !it.channel.is_ephemeral()) {
            let channel = channel.channel.clone();
            let made = admin.create_channel(topic.clone(), channel, StartAt::Latest).await;
            made.map_err(failed)?;
        }
        let producer = client.producer_builder(topic.clone()).timeout(PUBLISH_TIMEOUT);
        let producer = producer.durability(self.durability()).open().await.map_err(failed)?;
        Ok((client, producer))
    }

    /// What of it was not stored elsewhere yet.
    fn missing(&self, delivery: &Delivery) -> Vec<(u64, Message)> {
        let offsets = delivery.batch.first.0..;
        let messages = offsets.zip(delivery.batch.records.messages());
        let done = self.done.lock();
        let missing = messages.filter(|(offset, _)| !done.contains(*offset));
        // What cannot be read cannot be sent: it is not acked either.
        missing.filter_map(|(offset, message)| message.ok().map(|it| (offset, it))).collect()
    }

    /// Acks those of a delivery that are stored elsewhere.
    fn ack(&self, subscription: &mut Subscription, delivery: &Delivery) -> Result<(), DirectError> {
        let count = delivery.batch.records.count() as u64;
        let mut run: Option<TagRange> = None;
        let done = self.done.lock();
        for index in 0..count {
            if done.contains(delivery.batch.first.0 + index) {
                let tag = ltq_core::Tag(delivery.first_tag.0 + index);
                run = Some(TagRange { first: run.map_or(tag, |run| run.first), last: tag });
            } else if let Some(run) = run.take() {
                subscription.settle(run, Verdict::Ack)?;
            }
        }
        if let Some(run) = run {
            subscription.settle(run, Verdict::Ack)?;
        }
        Ok(())
    }
}

/// The next delivery of any subscription; `None` when none comes for so long.
async fn next_of(
    subscriptions: &mut [Subscription],
    wait: Duration,
) -> Result<Option<(usize, Delivery)>, HandOverError> {
    if subscriptions.is_empty() {
        return Ok(None);
    }
    let received = subscriptions.iter_mut().map(|one| Box::pin(one.receive_run()));
    match timeout(wait, select_all(received)).await {
        Err(_) => Ok(None),
        Ok((received, index, _)) => Ok(received?.map(|delivery| (index, delivery))),
    }
}

/// Resolves when the connection has been down for a while.
async fn gone(client: &Client) {
    let mut state = client.state();
    loop {
        if state.wait_for(|state| !state.is_connected()).await.is_err() {
            return;
        }
        match timeout(GONE_AFTER, state.wait_for(ConnectionState::is_connected)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Cuts messages into pieces of at most [`PIECE_BYTES`], or of one message.
fn pieces(messages: Vec<(u64, Message)>) -> Vec<Vec<(u64, Message)>> {
    let mut pieces: Vec<Vec<_>> = Vec::new();
    let mut bytes = PIECE_BYTES;
    for (offset, message) in messages {
        bytes += message.body.len();
        match pieces.last_mut() {
            Some(piece) if bytes <= PIECE_BYTES => piece.push((offset, message)),
            _ => {
                bytes = message.body.len();
                pieces.push(vec![(offset, message)]);
            }
        }
    }
    pieces
}

/// Topics that are on their way at a time.
const TOPICS_MAX: usize = 16;
/// What one channel has on its way, at most.
const CREDIT: Credit = Credit { messages: 1_000, bytes: 4 << 20 };
/// How long nothing comes before it is asked whether anything is left, and before a topic is looked at anew.
const BRIEFLY: Duration = Duration::from_millis(20);
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked which topics have something left, at most.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// The pause after no node took a topic.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// What one publish holds: what may be twice when a node is given up.
const PIECE_BYTES: usize = 64 << 10;
/// How long a connection is down before its node is given up.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// How long a publish may take over a connection that is up, however slow.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a node may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_the_order_and_are_no_larger_than_they_may_be() {
        let body = |bytes: usize| Message::new(vec![0; bytes]);
        let sizes = [10, PIECE_BYTES - 10, 1, PIECE_BYTES + 1, PIECE_BYTES / 2, PIECE_BYTES / 2, 0];
        let messages = sizes.iter().enumerate().map(|(index, size)| (index as u64, body(*size)));
        let pieces = pieces(messages.collect());
        let offsets = |piece: &Vec<(u64, Message)>| piece.iter().map(|it| it.0).collect::<Vec<_>>();
        let cut: Vec<_> = pieces.iter().map(offsets).collect();
        assert_eq!(cut, [vec![0, 1], vec![2], vec![3], vec![4, 5, 6]]);
    }
}
