//! One topic on its way to other nodes.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use futures::future::join_all;
use ltq_core::{
    ChannelName, ChannelStats, Durability, HeldUp, Offset, TopicName, TopicStats, model::Delivery,
};
use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    held::Held,
    merged::Merged,
    peer::Peer,
    pieces::{Piece, pieces},
    runs::Runs,
    ways::{HandOverError, Wanted, Way, Ways},
};
use crate::NodeBroker;

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

/// Why a topic does not go on.
enum Stop {
    /// These nodes failed.
    Failed(Vec<(usize, HandOverError)>),
    /// It is the same for every node.
    Unreadable(HeldUp),
    /// The time of a message was over, and others have it by now: what is left is asked for again.
    Lost,
}

/// What a channel gave, and where it is settled.
struct Taken<'a> {
    channels: &'a mut Merged,
    index: usize,
    delivery: &'a Delivery,
}

/// One topic on its way.
pub(super) struct Going {
    broker: NodeBroker,
    topic: TopicStats,
    done: Arc<Mutex<Runs>>,
    held: Held,
}

impl Going {
    pub(super) fn new(
        broker: NodeBroker,
        topic: TopicStats,
        done: Arc<Mutex<Runs>>,
        held: Held,
    ) -> Self {
        Self { broker, topic, done, held }
    }

    /// Gives each message to the node whose it is, and those of a node that fails to the others.
    pub(super) async fn over(self, peers: Vec<Arc<Peer>>) {
        let mut refused = Refused::default();
        // Those that could not be reached a short while ago are asked last.
        let (down, up): (Vec<_>, Vec<_>) = peers.iter().cloned().partition(|peer| peer.is_down());
        for asked in [up, down] {
            let (mut ways, errors) = Ways::open(&asked).await;
            for error in errors {
                refused.note(&self.topic.topic, error);
            }
            while !ways.is_empty() {
                let ended = self.through(&mut ways).await;
                self.held.passed(&self.topic.topic, &self.done.lock());
                match ended {
                    Ok(()) | Err(Stop::Lost) => return self.tell(&ways.leave_all()),
                    Err(Stop::Unreadable(held)) => {
                        self.held.tell(held);
                        self.tell(&ways.leave_all());
                        return sleep(RETRY_PAUSE).await;
                    }
                    Err(Stop::Failed(mut failed)) => {
                        failed.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
                        for (index, error) in failed {
                            let Some(way) = ways.leave(index) else { continue };
                            way.give_up_for(&error);
                            self.tell(&[way]);
                            refused.note(&self.topic.topic, error);
                        }
                    }
                }
            }
        }
        refused.tell(&self.held, peers.len());
        sleep(RETRY_PAUSE).await;
    }

    /// Tells what nodes took that are asked no more.
    fn tell(&self, ways: &[Way]) {
        let topic = &self.topic.topic;
        for way in ways.iter().filter(|way| way.handed > 0) {
            info!(%topic, messages = way.handed, to = way.address(), "handed over");
        }
    }

    /// Forwards what there is, until nothing waits.
    async fn through(&self, ways: &mut Ways) -> Result<(), Stop> {
        for names in together(&self.topic) {
            let mut channels = Merged::open(&self.broker, &self.topic.topic, &names).await;
            while let Some((index, delivery)) = channels.next(|it| self.slow(it)).await {
                let (messages, unreadable) = self.missing(&delivery);
                let taken = Taken { channels: &mut channels, index, delivery: &delivery };
                self.give(ways, taken, messages).await?;
                if let Some(held) = unreadable {
                    return Err(Stop::Unreadable(held));
                }
            }
        }
        Ok(())
    }

    /// Gives messages of a channel's delivery to their nodes, to all of them at a time, and acks what is stored.
    async fn give(
        &self,
        ways: &mut Ways,
        mut taken: Taken<'_>,
        messages: Piece,
    ) -> Result<(), Stop> {
        let mut of_each = vec![Piece::new(); ways.len()];
        for (offset, message) in messages {
            let home = ways.home(&self.topic.topic, &message);
            if let Some(of_it) = home.and_then(|home| of_each.get_mut(home)) {
                of_it.push((offset, message));
            }
        }
        let mut of_each: Vec<_> = of_each.into_iter().map(pieces).collect();
        let (mut acked, end) = (taken.delivery.batch.first, taken.delivery.batch.end());
        loop {
            let heads = of_each.iter_mut().enumerate();
            let round: Vec<_> =
                heads.filter_map(|(index, it)| Some((index, it.pop_front()?))).collect();
            if round.is_empty() {
                break;
            }
            let sent = self.send(ways, &mut taken, &round).await;
            let left = of_each.iter().filter_map(|it| it.front()?.first());
            let behind = left.map(|(offset, _)| Offset(*offset)).min().unwrap_or(end);
            // While the rest is on its way, or held up, others are not to take what is stored there. As long as
            // all goes well, no hole is made in what is held: it is touched as one run.
            let until = if sent.is_ok() { behind } else { end };
            taken.ack(acked..until, &self.done.lock());
            acked = until;
            sent?;
        }
        taken.ack(acked..end, &self.done.lock());
        Ok(())
    }

    /// Publishes a piece at each of some nodes; where one of its messages is too large, those before it, too.
    async fn send(
        &self,
        ways: &mut Ways,
        taken: &mut Taken<'_>,
        round: &[(usize, Piece)],
    ) -> Result<(), Stop> {
        let wanted = Wanted { topic: &self.topic, durability: self.durability() };
        for (index, _) in round {
            let Some(way) = ways.get_mut(*index) else { continue };
            let prepared = tokio::select! {
                prepared = way.prepare(&wanted) => prepared,
                never = kept(taken.channels) => match never {},
            };
            prepared.map_err(|error| Stop::Failed(vec![(*index, error)]))?;
        }
        let mut failed = Vec::new();
        for (index, error) in self.send_held(ways, taken, round).await? {
            let piece = round.iter().find(|it| it.0 == index).map(|it| &it.1);
            let is_one_of_many = matches!(error, HandOverError::TooLarge { .. });
            match piece.filter(|piece| is_one_of_many && piece.len() > 1) {
                Some(piece) => {
                    failed.extend(self.send_one_by_one(ways, taken, index, piece).await?)
                }
                None => failed.push((index, error)),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(failed)) }
    }

    /// Publishes at one node what goes before the one that is too large. One after the other they take long: each
    /// is looked after for itself.
    async fn send_one_by_one(
        &self,
        ways: &mut Ways,
        taken: &mut Taken<'_>,
        index: usize,
        piece: &Piece,
    ) -> Result<Vec<(usize, HandOverError)>, Stop> {
        for (offset, message) in piece {
            // What was said to be stored is not sent again.
            if self.done.lock().contains(*offset) {
                continue;
            }
            let one = [(index, vec![(*offset, message.clone())])];
            let failed = self.send_held(ways, taken, &one).await?;
            if !failed.is_empty() {
                return Ok(failed);
            }
        }
        Ok(Vec::new())
    }

    /// Publishes pieces if all of them are still held here, and notes what is stored; says which nodes failed.
    async fn send_held(
        &self,
        ways: &mut Ways,
        taken: &mut Taken<'_>,
        round: &[(usize, Piece)],
    ) -> Result<Vec<(usize, HandOverError)>, Stop> {
        let offsets = round.iter().flat_map(|(_, piece)| piece.iter().map(|(offset, _)| *offset));
        if !taken.keep(&offsets.collect()).await {
            return Err(Stop::Lost);
        }
        let wanted = Wanted { topic: &self.topic, durability: self.durability() };
        let sends = round.iter().filter_map(|(index, piece)| {
            let way = ways.get(*index)?;
            let wanted = &wanted;
            Some(async move { (*index, piece, way.send(piece, wanted).await) })
        });
        let sent = tokio::select! {
            sent = join_all(sends) => sent,
            never = kept(taken.channels) => match never {},
        };
        let mut failed = Vec::new();
        for (index, piece, (stored, result)) in sent {
            let mut done = self.done.lock();
            piece.iter().take(stored).for_each(|(offset, _)| done.insert(*offset));
            if let Some(way) = ways.get_mut(index) {
                way.handed += stored as u64;
            }
            failed.extend(result.err().map(|error| (index, error)));
        }
        Ok(failed)
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

    /// What of it was not stored elsewhere yet, as far as the first one that cannot be read, and that.
    fn missing(&self, delivery: &Delivery) -> (Piece, Option<HeldUp>) {
        let records = &delivery.batch.records;
        let offsets = delivery.batch.first.0..;
        let done = self.done.lock();
        let mut missing = Piece::new();
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

impl Taken<'_> {
    /// Acks those of these that are done.
    fn ack(&mut self, offsets: Range<Offset>, done: &Runs) {
        self.channels.ack(self.index, self.delivery, offsets, done);
    }

    /// Whether all of these are still held here.
    async fn keep(&mut self, offsets: &BTreeSet<u64>) -> bool {
        self.channels.keep(self.index, self.delivery, offsets).await
    }
}

/// Why nodes did not take a topic.
#[derive(Default)]
struct Refused {
    too_large: Vec<HeldUp>,
    not_asked: Vec<String>,
}

impl Refused {
    fn note(&mut self, topic: &TopicName, error: HandOverError) {
        match error {
            HandOverError::TooLarge { held } => self.too_large.push(held),
            error => {
                warn!(%topic, %error, "not handed over; trying another way");
                self.not_asked.push(error.to_string());
            }
        }
    }

    /// Tells that a message is too large, when all nodes were asked for it.
    fn tell(mut self, to: &Held, peers: usize) {
        // Those asked before for another one are asked for this one next time.
        let Some(offset) = self.too_large.iter().map(|it| it.offset).max() else { return };
        self.too_large.retain(|it| it.offset == offset);
        let whys: Vec<_> = self.too_large.iter().map(|it| it.why.clone()).collect();
        let Some(mut held) = self.too_large.pop() else { return };
        held.why = whys.join("; ");
        if whys.len() == peers {
            to.tell(held);
        } else if !self.not_asked.is_empty() {
            let not_asked = self.not_asked.join("; ");
            warn!(%held, not_asked, "too large for some nodes; the others could not be asked");
        }
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

/// Channels of a topic that go together; what they hold is bounded by their number.
pub(super) const CHANNELS_MAX: usize = 16;
/// The pause after no node took a topic.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
