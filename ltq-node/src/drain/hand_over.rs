//! A backlog goes to other nodes: each message is acked here once another node has stored it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::future::select_all;
use ltq_client::{
    BatchError, Client, ClientBuilder, ConnectError, Producer, RefusalCode, RequestError,
};
use ltq_core::{
    ChannelName, Credit, DirectError, Message, StartAt, SubscribeOptions, Subscription, TagRange,
    TopicName, TopicStats, Verdict, model::Delivery,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::runs::Runs;
use crate::{
    NodeBroker,
    config::Config,
    peers::{self, PeersError},
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
    #[error("reading: {0}")]
    Read(#[from] DirectError),
}

/// Forwards what channels have still to settle.
pub(super) struct HandOver {
    broker: NodeBroker,
    peers: Vec<Arc<Peer>>,
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
    ) -> Result<Self, PeersError> {
        let of = &config.drain;
        let transports = peers::transports(of.tls_ca.as_deref(), of.tls_fingerprint.as_deref())?;
        let mut template = Client::builder()
            .name(concat!("ltq-node/", env!("CARGO_PKG_VERSION")))
            .transports(transports)
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(token) = config.drain_token() {
            template = template.token(&*token.0);
        }
        let peer = |address: &String| {
            let (address, template) = (address.clone(), template.clone());
            Arc::new(Peer { address, template, client: Mutex::default() })
        };
        Ok(Self { broker: broker.clone(), peers: addresses.iter().map(peer).collect() })
    }

    /// Forwards for as long as it is awaited: whoever awaits it knows when nothing is left.
    pub(super) async fn run(self) {
        let mut topics = JoinSet::new();
        let mut done: BTreeMap<TopicName, Runs> = BTreeMap::new();
        let mut busy: BTreeSet<TopicName> = BTreeSet::new();
        loop {
            for topic in self.broker.stats().await.topics {
                let name = topic.topic.clone();
                let has_some = handed_over(&topic).next().is_some();
                if !has_some || topics.len() >= TOPICS_MAX || !busy.insert(name.clone()) {
                    continue;
                }
                let done = done.remove(&name).unwrap_or_default();
                let going = Going { broker: self.broker.clone(), topic, done, handed: 0 };
                topics.spawn(going.over(self.peers.clone()));
            }
            // Those that ended, for an error or for want of messages, are looked at again.
            tokio::select! {
                Some(ended) = topics.join_next(), if !topics.is_empty() => {
                    let Ok(going) = ended else { return pending().await };
                    busy.remove(&going.topic.topic);
                    done.insert(going.topic.topic, going.done);
                }
                () = sleep(LOOK_PAUSE) => {}
            }
        }
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
    /// What was stored elsewhere: another channel that has it too need not send it again.
    done: Runs,
    handed: u64,
}

impl Going {
    /// Tries the nodes one after the other, from one that the topic's name draws, so that a topic goes to one
    /// node as long as that takes it.
    async fn over(mut self, peers: Vec<Arc<Peer>>) -> Self {
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
                Ok(()) => return self,
                Err(error) => warn!(%topic, %error, "not handed over; trying another way"),
            }
        }
        sleep(RETRY_PAUSE).await;
        self
    }

    /// Forwards what there is, until nothing has come for a while.
    async fn to(&mut self, peer: &Peer) -> Result<(), HandOverError> {
        let producer = self.prepare(peer).await?;
        let mut subscriptions = Vec::new();
        for channel in handed_over(&self.topic) {
            let options = SubscribeOptions { credit: CREDIT, ..SubscribeOptions::default() };
            let (topic, channel) = (self.topic.topic.as_str(), channel.as_str());
            subscriptions.push(self.broker.subscribe(topic, channel, options).await?);
        }
        while let Some((index, delivery)) = next_of(&mut subscriptions).await? {
            let messages = self.missing(&delivery);
            let offsets: Vec<_> = messages.iter().map(|(offset, _)| *offset).collect();
            if !messages.is_empty() {
                let bodies = messages.into_iter().map(|(_, message)| message);
                let sent = producer.send_batch(bodies).await;
                sent.map_err(|source| {
                    let address = peer.address.clone();
                    HandOverError::Publish { address, source: Box::new(source) }
                })?;
            }
            self.handed += offsets.len() as u64;
            offsets.into_iter().for_each(|offset| self.done.insert(offset));
            let Some(subscription) = subscriptions.get_mut(index) else { return Ok(()) };
            self.ack(subscription, &delivery)?;
        }
        Ok(())
    }

    /// The topic and all its channels are there before the first message is, so that each of them sees it.
    async fn prepare(&self, peer: &Peer) -> Result<Producer, HandOverError> {
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
        producer.open().await.map_err(failed)
    }

    /// What of it was not stored elsewhere yet.
    fn missing(&self, delivery: &Delivery) -> Vec<(u64, Message)> {
        let offsets = delivery.batch.first.0..;
        let messages = offsets.zip(delivery.batch.records.messages());
        let missing = messages.filter(|(offset, _)| !self.done.contains(*offset));
        // What cannot be read cannot be sent: it is not acked either.
        missing.filter_map(|(offset, message)| message.ok().map(|it| (offset, it))).collect()
    }

    /// Acks those of a delivery that are stored elsewhere.
    fn ack(&self, subscription: &mut Subscription, delivery: &Delivery) -> Result<(), DirectError> {
        let count = delivery.batch.records.count() as u64;
        let mut run: Option<TagRange> = None;
        for index in 0..count {
            if self.done.contains(delivery.batch.first.0 + index) {
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

/// The next delivery of any subscription; `None` when none comes for a while.
async fn next_of(
    subscriptions: &mut [Subscription],
) -> Result<Option<(usize, Delivery)>, HandOverError> {
    if subscriptions.is_empty() {
        return Ok(None);
    }
    let received = subscriptions.iter_mut().map(|one| Box::pin(one.receive_run()));
    match timeout(IDLE_PAUSE, select_all(received)).await {
        Err(_) => Ok(None),
        Ok((received, index, _)) => Ok(received?.map(|delivery| (index, delivery))),
    }
}

/// Topics that are on their way at a time.
const TOPICS_MAX: usize = 16;
/// What one channel has on its way, at most.
const CREDIT: Credit = Credit { messages: 1_000, bytes: 4 << 20 };
/// How long nothing comes before a topic is looked at anew.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked which topics have something left.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// The pause after no node took a topic.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a node may take to store what it is sent before another one is tried.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
