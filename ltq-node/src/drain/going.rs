//! One topic on its way to another node.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use ltq_client::{
    BatchError, Client, ConnectError, Producer, PublishError, RefusalCode, RequestError,
};
use ltq_core::{
    ChannelName, ChannelStats, Durability, HeldUp, Message, Offset, Records, StartAt, TopicStats,
    model::Delivery,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    held::Held,
    merged::Merged,
    peer::{Peer, gone},
    runs::Runs,
};
use crate::NodeBroker;

/// Why messages were not handed over.
#[derive(Debug, Error)]
pub(super) enum HandOverError {
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
    #[error("publishing {held}")]
    TooLarge { held: HeldUp },
    #[error("reading {held}")]
    Unreadable { held: HeldUp },
}

/// The channels of a topic that have something to hand over. What is ephemeral would vanish there, and what is
/// paused, delayed or in flight is looked at again.
pub(super) fn waiting(topic: &TopicStats) -> impl Iterator<Item = &ChannelStats> {
    let goes = !topic.topic.is_ephemeral() && !topic.paused;
    let channels = topic.channels.iter().filter(move |_| goes);
    channels.filter(|it| !it.channel.is_ephemeral() && !it.paused && it.waiting > 0)
}

/// Whether a topic has something to hand over.
pub(super) fn has_waiting(topic: &TopicStats) -> bool {
    waiting(topic).next().is_some()
}

/// Where pieces go, and where they are from.
struct Way<'a> {
    peer: &'a Peer,
    client: &'a Client,
    producer: &'a Producer,
    channels: &'a mut Merged,
}

/// How far messages were sent.
enum Sent {
    All,
    /// The time of one was over, and others have it by now: what is left is asked for again.
    UntilLost,
}

/// One topic on its way.
pub(super) struct Going {
    broker: NodeBroker,
    topic: TopicStats,
    done: Arc<Mutex<Runs>>,
    held: Held,
    handed: u64,
    /// The last message that was stored elsewhere.
    furthest: Option<Offset>,
}

impl Going {
    pub(super) fn new(
        broker: NodeBroker,
        topic: TopicStats,
        done: Arc<Mutex<Runs>>,
        held: Held,
    ) -> Self {
        Self { broker, topic, done, held, handed: 0, furthest: None }
    }

    /// Tries the nodes one after the other, from one that the topic's name draws, so that a topic goes to one
    /// node as long as that takes it.
    pub(super) async fn over(mut self, peers: Vec<Arc<Peer>>) {
        let mut hasher = DefaultHasher::new();
        self.topic.topic.hash(&mut hasher);
        let from = (hasher.finish() % peers.len().max(1) as u64) as usize;
        let topic = self.topic.topic.clone();
        let mut in_turn: Vec<_> = peers.iter().cycle().skip(from).take(peers.len()).collect();
        in_turn.sort_by_key(|peer| peer.is_down());
        let (mut too_large, mut not_asked) = (Vec::new(), Vec::new());
        for peer in in_turn {
            let result = self.to(peer).await;
            let (messages, to) = (std::mem::take(&mut self.handed), &peer.address);
            if messages > 0 {
                info!(%topic, messages, to, "handed over");
            }
            if let Some(furthest) = self.furthest {
                self.held.passed(&topic, furthest);
            }
            match result {
                Ok(()) => return,
                Err(HandOverError::TooLarge { held }) => too_large.push(held),
                // It is the same for every node.
                Err(HandOverError::Unreadable { held }) => {
                    self.held.tell(held);
                    return sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    use HandOverError::{Connect, Gone};
                    if matches!(error, Connect { .. } | Gone { .. }) {
                        peer.give_up();
                    }
                    warn!(%topic, %error, "not handed over; trying another way");
                    not_asked.push(error.to_string());
                }
            }
        }
        self.refused(too_large, &not_asked, peers.len());
        sleep(RETRY_PAUSE).await;
    }

    /// Tells that a message is too large, when all nodes were asked for it.
    fn refused(&self, mut too_large: Vec<HeldUp>, not_asked: &[String], peers: usize) {
        // Those asked before for another one are asked for this one next time.
        let Some(offset) = too_large.iter().map(|it| it.offset).max() else { return };
        too_large.retain(|it| it.offset == offset);
        let whys: Vec<_> = too_large.iter().map(|it| it.why.clone()).collect();
        let Some(mut held) = too_large.pop() else { return };
        held.why = whys.join("; ");
        if whys.len() == peers {
            self.held.tell(held);
        } else if !not_asked.is_empty() {
            let not_asked = not_asked.join("; ");
            warn!(%held, not_asked, "too large for some nodes; the others could not be asked");
        }
    }

    /// Forwards what there is, until nothing waits.
    async fn to(&mut self, peer: &Peer) -> Result<(), HandOverError> {
        let client = peer.client().await?;
        let producer = tokio::select! {
            prepared = self.prepare(peer, &client) => prepared?,
            () = gone(&client) => return Err(HandOverError::Gone { address: peer.address.clone() }),
        };
        for names in together(&self.topic) {
            let mut channels = Merged::open(&self.broker, &self.topic.topic, &names).await;
            while let Some((index, delivery)) = channels.next(|it| self.slow(it)).await {
                let (messages, unreadable) = self.missing(&delivery);
                let (mut acked, end) = (delivery.batch.first, delivery.batch.end());
                for piece in pieces(messages) {
                    let behind = piece.last().map_or(acked, |(offset, _)| Offset(offset + 1));
                    let mut way =
                        Way { peer, client: &client, producer: &producer, channels: &mut channels };
                    let sent = self.send(&mut way, (index, &delivery), &piece).await;
                    // While the rest is on its way, or held up, others are not to take what is stored there. As
                    // long as all goes well, no hole is made in what is held: it is touched as one run.
                    let goes_on = matches!(sent, Ok(Sent::All));
                    let until = if goes_on { behind } else { end };
                    channels.ack(index, &delivery, acked..until, &self.done.lock());
                    acked = until;
                    if let Sent::UntilLost = sent? {
                        return Ok(());
                    }
                }
                channels.ack(index, &delivery, acked..end, &self.done.lock());
                if let Some(held) = unreadable {
                    return Err(HandOverError::Unreadable { held });
                }
            }
        }
        Ok(())
    }

    /// Tells that a channel is waited for.
    fn slow(&self, channel: &ChannelStats) {
        let why = format!("channel {} has messages that cannot be read yet", channel.channel);
        let (topic, offset) = (self.topic.topic.clone(), channel.floor);
        self.held.tell(HeldUp { topic, offset, bytes: 0, why });
    }

    /// What survived a power cut here does so there.
    fn durability(&self) -> Durability {
        match self.topic.settings.durability {
            Durability::Memory => Durability::Memory,
            // Single publishes may have asked for more than their topic is set to.
            Durability::Os | Durability::Disk => Durability::Disk,
        }
    }

    /// Publishes messages of a channel's delivery; where one of them is too large, those before it, too.
    async fn send(
        &mut self,
        way: &mut Way<'_>,
        of: (usize, &Delivery),
        messages: &[(u64, Message)],
    ) -> Result<Sent, HandOverError> {
        match self.send_held(way, of, messages).await {
            Err(HandOverError::TooLarge { .. }) if messages.len() > 1 => {}
            result => return result,
        }
        for one in messages.chunks(1) {
            // What it says is stored is not sent again.
            if one.iter().any(|(offset, _)| self.done.lock().contains(*offset)) {
                continue;
            }
            // One after the other they take long: each is looked after for itself.
            if let Sent::UntilLost = self.send_held(way, of, one).await? {
                return Ok(Sent::UntilLost);
            }
        }
        Ok(Sent::All)
    }

    /// Publishes messages if all of them are still held here.
    async fn send_held(
        &mut self,
        way: &mut Way<'_>,
        (index, delivery): (usize, &Delivery),
        messages: &[(u64, Message)],
    ) -> Result<Sent, HandOverError> {
        if !way.channels.keep(index, delivery, messages).await {
            return Ok(Sent::UntilLost);
        }
        self.send_all(way, messages).await.map(|()| Sent::All)
    }

    /// Publishes messages, however long that takes while there is a connection: what is sent again over a new
    /// one is stored once, and what is given up may be stored.
    async fn send_all(
        &mut self,
        way: &mut Way<'_>,
        messages: &[(u64, Message)],
    ) -> Result<(), HandOverError> {
        let Way { peer, client, producer, channels } = way;
        let address = || peer.address.clone();
        let sent = tokio::select! {
            sent = producer.send_batch(messages.iter().map(|(_, message)| message)) => sent,
            () = gone(client) => return Err(HandOverError::Gone { address: address() }),
            never = kept(channels) => match never {},
        };
        let (receipt, error) = match sent {
            Ok(receipt) => (receipt, None),
            Err(error) => (error.stored.clone(), Some(error)),
        };
        let (wanted, reached) = (self.durability(), receipt.durability());
        if !receipt.is_empty() && reached < wanted {
            return Err(HandOverError::Weak { address: address(), reached, wanted });
        }
        self.handed += receipt.len() as u64;
        {
            let mut done = self.done.lock();
            for (offset, _) in messages.iter().take(receipt.len()) {
                done.insert(*offset);
                self.furthest = self.furthest.max(Some(Offset(*offset)));
            }
        }
        match error {
            None => Ok(()),
            Some(BatchError { error: PublishError::Refused { refusal, .. }, .. })
                if refusal.code == RefusalCode::MessageTooLarge =>
            {
                let largest = messages.iter().map(|(offset, message)| {
                    let bytes = Records::encode([message]).largest() as u64;
                    (bytes, Offset(*offset))
                });
                let (bytes, offset) = largest.max_by_key(|it| it.0).unwrap_or_default();
                let why = format!("{}: {refusal}", peer.address);
                let topic = self.topic.topic.clone();
                Err(HandOverError::TooLarge { held: HeldUp { topic, offset, bytes, why } })
            }
            Some(error) => {
                Err(HandOverError::Publish { address: address(), source: Box::new(error) })
            }
        }
    }

    /// The topic and all its channels are there before the first message is, so that each of them sees it.
    async fn prepare(&self, peer: &Peer, client: &Client) -> Result<Producer, HandOverError> {
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
        producer.durability(self.durability()).open().await.map_err(failed)
    }

    /// What of it was not stored elsewhere yet, as far as the first one that cannot be read, and that.
    fn missing(&self, delivery: &Delivery) -> (Vec<(u64, Message)>, Option<HeldUp>) {
        let records = &delivery.batch.records;
        let offsets = delivery.batch.first.0..;
        let done = self.done.lock();
        let mut missing = Vec::new();
        for (index, (offset, message)) in offsets.zip(records.messages()).enumerate() {
            match message {
                _ if done.contains(offset) => {}
                Ok(message) => missing.push((offset, message)),
                Err(error) => {
                    let bytes = records.encoded(index).map_or(0, |it| it.len() as u64);
                    let (topic, offset) = (self.topic.topic.clone(), Offset(offset));
                    let why = format!("it cannot be read: {error}");
                    return (missing, Some(HeldUp { topic, offset, bytes, why }));
                }
            }
        }
        (missing, None)
    }
}

/// The channels that go at a time: those first that are furthest behind.
fn together(topic: &TopicStats) -> Vec<Vec<ChannelName>> {
    let mut channels: Vec<_> = waiting(topic).collect();
    channels.sort_by_key(|it| it.floor);
    let names: Vec<_> = channels.into_iter().map(|it| it.channel.clone()).collect();
    names.chunks(CHANNELS_MAX).map(<[_]>::to_vec).collect()
}

/// Keeps what is held from consumers for as long as it is awaited.
async fn kept(channels: &mut Merged) -> std::convert::Infallible {
    loop {
        sleep(channels.touch_each()).await;
        channels.touch();
    }
}

/// Cuts messages into pieces of at most [`PIECE_BYTES`], or of one message.
fn pieces(messages: Vec<(u64, Message)>) -> Vec<Vec<(u64, Message)>> {
    let mut pieces: Vec<Vec<_>> = Vec::new();
    let mut bytes = PIECE_BYTES;
    for (offset, message) in messages {
        let of_it = message.encoded_len_max();
        bytes += of_it;
        match pieces.last_mut() {
            Some(piece) if bytes <= PIECE_BYTES => piece.push((offset, message)),
            _ => {
                bytes = of_it;
                pieces.push(vec![(offset, message)]);
            }
        }
    }
    pieces
}

/// Channels of a topic that go together; what they hold is bounded by their number.
pub(super) const CHANNELS_MAX: usize = 16;
/// The pause after no node took a topic.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// What one publish holds, encoded: what may be twice when a node is given up.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// How long a publish may take over a connection that is up, however slow.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_the_order_and_are_no_larger_than_they_may_be() {
        let beside = Message::default().encoded_len_max();
        let body = |bytes: usize| Message::new(vec![0; bytes.saturating_sub(beside)]);
        let sizes = [20, PIECE_BYTES - 20, 20, PIECE_BYTES + 1, PIECE_BYTES / 2, PIECE_BYTES / 2];
        let mut messages: Vec<_> = sizes.into_iter().map(body).collect();
        // What stands beside the body counts as well.
        let header = vec![0; PIECE_BYTES * 2 / 3];
        messages.push(Message::default().with_header("h", header.clone()));
        messages.push(Message::default().with_header("h", header.clone()));
        messages.push(Message::default().with_key(header));
        let pieces = pieces((0..).zip(messages).collect());
        let offsets = |piece: &Vec<(u64, Message)>| piece.iter().map(|it| it.0).collect::<Vec<_>>();
        let cut: Vec<_> = pieces.iter().map(offsets).collect();
        let each = [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6], vec![7], vec![8]];
        assert_eq!(cut, each);
    }
}
