//! The nodes that take a topic, and which of them is given what.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use ltq_client::{
    BatchError, Client, ConnectError, NodeId, NodeIdError, Producer, PublishError, RefusalCode,
    RequestError, ordered_home,
};
use ltq_core::{Durability, HeldUp, Message, Offset, Records, StartAt, TopicName, TopicStats};
use thiserror::Error;

use super::peer::{Peer, gone};

/// Why messages were not handed over.
#[derive(Debug, Error)]
pub(super) enum HandOverError {
    #[error("connecting to {address}: {source}")]
    Connect { address: String, source: ConnectError },
    #[error("connecting to {address}: {source}")]
    Name { address: String, source: NodeIdError },
    #[error("preparing {address}: {source}")]
    Prepare { address: String, source: RequestError },
    #[error("publishing to {address}: {source}")]
    Publish { address: String, source: Box<BatchError> },
    #[error("publishing to {address}: its connection is down")]
    Gone { address: String },
    #[error("publishing to {address}: durability {wanted} is needed, and {reached} was reached")]
    Weak { address: String, reached: Durability, wanted: Durability },
    #[error("publishing {held}")]
    TooLarge { held: HeldUp },
}

/// The nodes that are asked to take a topic, until they fail at it.
///
/// Each message goes to the one of them that an ordered producer would give it to. So what a producer publishes
/// by key from now on, when it counts the same nodes, comes behind what of that key was here.
pub(super) struct Ways {
    ways: Vec<Way>,
    ids: Vec<NodeId>,
}

/// A node that is asked to take a topic.
pub(super) struct Way {
    peer: Arc<Peer>,
    client: Client,
    id: NodeId,
    producer: Option<Producer>,
    /// How many messages it has stored.
    pub(super) handed: u64,
}

/// A topic, as it is to be elsewhere.
pub(super) struct Wanted<'a> {
    pub(super) topic: &'a TopicStats,
    /// How safely it is to be kept.
    pub(super) durability: Durability,
}

impl Ways {
    /// Those of these nodes that can be connected to, and why others cannot.
    pub(super) async fn open(peers: &[Arc<Peer>]) -> (Self, Vec<HandOverError>) {
        let clients = join_all(peers.iter().map(|peer| peer.client())).await;
        let (mut ways, mut errors) = (Self { ways: Vec::new(), ids: Vec::new() }, Vec::new());
        for (peer, client) in peers.iter().zip(clients) {
            match client {
                Ok((client, id)) => {
                    let peer = peer.clone();
                    ways.ways.push(Way { peer, client, id, producer: None, handed: 0 });
                }
                Err(error) => {
                    peer.give_up();
                    errors.push(error);
                }
            }
        }
        ways.count();
        (ways, errors)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// Which node is given a message; `None` where there is none.
    pub(super) fn home(&self, topic: &TopicName, message: &Message) -> Option<usize> {
        let home = ordered_home(topic, message.key.as_deref(), &self.ids)?;
        self.ways.iter().position(|way| way.id == *home)
    }

    pub(super) fn len(&self) -> usize {
        self.ways.len()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Way> {
        self.ways.get_mut(index)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Way> {
        self.ways.get(index)
    }

    /// Asks a node no more: what it was to have goes to others.
    pub(super) fn leave(&mut self, index: usize) -> Option<Way> {
        let left = (index < self.ways.len()).then(|| self.ways.remove(index));
        self.count();
        left
    }

    /// Asks none any more.
    pub(super) fn leave_all(&mut self) -> Vec<Way> {
        self.ids.clear();
        std::mem::take(&mut self.ways)
    }

    fn count(&mut self) {
        self.ids = self.ways.iter().map(|way| way.id.clone()).collect();
    }
}

impl Way {
    pub(super) fn address(&self) -> &str {
        &self.peer.address
    }

    /// Has others asked first, for a while, where this error tells that it cannot be reached.
    pub(super) fn give_up_for(&self, error: &HandOverError) {
        if let HandOverError::Connect { .. } | HandOverError::Gone { .. } = error {
            self.peer.give_up();
        }
    }

    /// The topic and all its channels are there before the first message is, so that each of them sees it.
    pub(super) async fn prepare(&mut self, wanted: &Wanted<'_>) -> Result<(), HandOverError> {
        if self.producer.is_some() {
            return Ok(());
        }
        let producer = tokio::select! {
            producer = self.open(wanted) => producer,
            () = gone(&self.client) => Err(self.gone()),
        };
        self.producer = Some(producer?);
        Ok(())
    }

    async fn open(&self, wanted: &Wanted<'_>) -> Result<Producer, HandOverError> {
        let failed = |source| HandOverError::Prepare { address: self.address().to_owned(), source };
        let Wanted { topic: of, durability } = wanted;
        let (admin, topic) = (self.client.admin(), &of.topic);
        match admin.create_topic(topic.clone(), of.settings.into()).await {
            // It is there, and is kept as whoever made it there wanted.
            Err(RequestError::Refused { refusal, .. }) if refusal.code == RefusalCode::Exists => {}
            result => result.map_err(failed)?,
        }
        for channel in of.channels.iter().filter(|it| !it.channel.is_ephemeral()) {
            let channel = channel.channel.clone();
            let made = admin.create_channel(topic.clone(), channel, StartAt::Latest).await;
            made.map_err(failed)?;
        }
        let producer = self.client.producer_builder(topic.clone()).timeout(PUBLISH_TIMEOUT);
        producer.durability(*durability).open().await.map_err(failed)
    }

    /// Publishes messages, however long that takes while there is a connection: what is sent again over a new
    /// one is stored once, and what is given up may be stored. Says how many of them are stored, the first ones.
    pub(super) async fn send(
        &self,
        messages: &[(u64, Message)],
        wanted: &Wanted<'_>,
    ) -> (usize, Result<(), HandOverError>) {
        let Some(producer) = &self.producer else { return (0, Err(self.gone())) };
        let sent = tokio::select! {
            sent = producer.send_batch(messages.iter().map(|(_, message)| message)) => sent,
            () = gone(&self.client) => return (0, Err(self.gone())),
        };
        let (receipt, error) = match sent {
            Ok(receipt) => (receipt, None),
            Err(error) => (error.stored.clone(), Some(error)),
        };
        let (wanted, reached, address) =
            (wanted, receipt.durability(), || self.address().to_owned());
        if !receipt.is_empty() && reached < wanted.durability {
            let weak =
                HandOverError::Weak { address: address(), reached, wanted: wanted.durability };
            return (0, Err(weak));
        }
        let result = match error {
            None => Ok(()),
            Some(BatchError { error: PublishError::Refused { refusal, .. }, .. })
                if refusal.code == RefusalCode::MessageTooLarge =>
            {
                let largest = messages.iter().map(|(offset, message)| {
                    let bytes = Records::encode([message]).largest() as u64;
                    (bytes, Offset(*offset))
                });
                let (bytes, offset) = largest.max_by_key(|it| it.0).unwrap_or_default();
                let why = format!("{}: {refusal}", self.address());
                let topic = wanted.topic.topic.clone();
                Err(HandOverError::TooLarge { held: HeldUp { topic, offset, bytes, why } })
            }
            Some(error) => {
                Err(HandOverError::Publish { address: address(), source: Box::new(error) })
            }
        };
        (receipt.len(), result)
    }

    fn gone(&self) -> HandOverError {
        HandOverError::Gone { address: self.address().to_owned() }
    }
}

/// How long a publish may take over a connection that is up, however slow.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);
