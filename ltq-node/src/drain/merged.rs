//! Several channels of a topic, taken from as though they were one: what comes first in the topic comes first.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    ops::Range,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, ChannelStats, Credit, DirectError, Offset,
    SubscribeOptions, Subscription, Tag, TagRange, TopicName, Verdict, model::Delivery,
};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{going::waiting, runs::Runs};
use crate::NodeBroker;

/// The channels of a topic that are handed over together.
pub(super) struct Merged {
    broker: NodeBroker,
    topic: TopicName,
    channels: Vec<Channel>,
}

struct Channel {
    name: ChannelName,
    subscription: Subscription,
    /// What is to go next of it.
    head: Option<Delivery>,
    /// How much consumers had of it when that was less than before, and since when.
    with_others: Option<(u64, Instant)>,
    /// It is to have something soon, which may come before what others have.
    is_due: bool,
    /// The channel is gone.
    is_over: bool,
}

impl Merged {
    /// A channel that is gone by now is left out.
    pub(super) async fn open(
        broker: &NodeBroker,
        topic: &TopicName,
        names: &[ChannelName],
    ) -> Self {
        // Consumers finish what they have and get nothing more here: what is behind that is not to overtake it.
        let credit = credit(broker, names.len());
        let options = SubscribeOptions { credit, alone: true, ..Default::default() };
        let mut channels = Vec::with_capacity(names.len());
        for name in names {
            let opened = broker.subscribe(topic.as_str(), name.as_str(), options).await;
            let Ok(subscription) = opened else { continue };
            channels.push(Channel {
                name: name.clone(),
                subscription,
                head: None,
                with_others: None,
                is_due: true,
                is_over: false,
            });
        }
        Self { broker: broker.clone(), topic: topic.clone(), channels }
    }

    /// What comes first in the topic of all that its channels have, and whose it is; `None` when no channel has
    /// anything that waits. A channel that has is waited for, however long: what others have may be behind it.
    /// `slow` hears of one from which nothing comes for a while.
    pub(super) async fn next(&mut self, slow: impl Fn(&ChannelStats)) -> Option<(usize, Delivery)> {
        let mut began = Instant::now();
        loop {
            poll_fn(|context| Poll::Ready(self.poll_more(context).is_ready())).await;
            if !self.channels.iter().any(Channel::lacks) {
                return self.first();
            }
            if timeout(BRIEFLY, poll_fn(|context| self.poll_more(context))).await.is_ok() {
                began = Instant::now();
                continue;
            }
            // Consumers may have taken it, or it is loaded from a slow disk.
            let due = self.due().await;
            let find = |name: &ChannelName| due.iter().find(|it| it.channel == *name);
            for channel in &mut self.channels {
                channel.is_due &= find(&channel.name).is_some();
            }
            self.look_at_others(&due).await;
            if began.elapsed() >= SLOW_AFTER {
                let lacking = self.channels.iter().filter(|it| it.lacks());
                let lacking = lacking.filter(|it| it.with_others.is_none());
                lacking.filter_map(|it| find(&it.name)).take(1).for_each(&slow);
                began = Instant::now();
            }
        }
    }

    /// Acks those of a channel's delivery in `offsets` that are done. None is to be acked twice.
    pub(super) fn ack(
        &mut self,
        index: usize,
        delivery: &Delivery,
        offsets: Range<Offset>,
        done: &Runs,
    ) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let mut run: Option<TagRange> = None;
        for offset in offsets.start.0..offsets.end.0 {
            if done.contains(offset) {
                let tag = tag_of(delivery, offset);
                run = Some(TagRange { first: run.map_or(tag, |run| run.first), last: tag });
            } else if let Some(run) = run.take() {
                channel.settle(run);
            }
        }
        if let Some(run) = run {
            channel.settle(run);
        }
    }

    /// Whether all of these offsets of a channel's delivery are still held here; nothing behind the first is acked.
    /// The time of all that is held of any channel starts anew, so that no consumer gets what is about to go.
    pub(super) async fn keep(
        &mut self,
        index: usize,
        delivery: &Delivery,
        offsets: &BTreeSet<u64>,
    ) -> bool {
        let Some(from) = offsets.first() else { return true };
        let first = tag_of(delivery, *from);
        let last = Tag(delivery.first_tag.0 + delivery.batch.records.count() as u64 - 1);
        self.touch();
        let Some(channel) = self.channels.get_mut(index) else { return false };
        let asked = channel.subscription.settle_confirmed(TagRange { first, last }, Verdict::Touch);
        let Ok(stale) = asked.await else { return false };
        let is_stale = |tag: Tag| stale.iter().any(|it| it.first <= tag && tag <= it.last);
        !offsets.iter().any(|offset| is_stale(tag_of(delivery, *offset)))
    }

    /// How long what is held may wait for [`touch`](Self::touch).
    pub(super) fn touch_each(&self) -> Duration {
        (self.broker.settings().model.delivery_timeout / 4).max(Duration::from_millis(1))
    }

    /// The time of all that is held of any channel starts anew, as far as the broker allows.
    pub(super) fn touch(&mut self) {
        for channel in self.channels.iter_mut().filter(|it| !it.is_over) {
            // From the oldest that it holds to whatever is on its way to here.
            let tags = TagRange { first: Tag(0), last: Tag(u64::MAX) };
            if let Err(DirectError::Refused(_)) = channel.subscription.settle(tags, Verdict::Touch)
            {
                channel.is_over = true;
            }
        }
    }

    /// Takes what is there of channels that have no head; ready when any had something.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut any = false;
        for channel in self.channels.iter_mut().filter(|it| it.head.is_none() && !it.is_over) {
            // What wakes for it stays with the subscription.
            match pin!(channel.subscription.receive_run()).poll(context) {
                Poll::Pending => continue,
                Poll::Ready(Ok(Some(delivery))) => channel.head = Some(delivery),
                Poll::Ready(Ok(None) | Err(_)) => channel.is_over = true,
            }
            channel.is_due = true;
            any = true;
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits no longer for consumers that have messages of a channel and settle none of them for a while.
    async fn look_at_others(&mut self, due: &[ChannelStats]) {
        let credit = credit(&self.broker, self.channels.len());
        for channel in self.channels.iter_mut().filter(|it| it.lacks()) {
            // All that came from here is acked.
            let with_others = due.iter().find(|it| it.channel == channel.name);
            let with_others = with_others.map_or(0, |it| it.in_flight);
            channel.with_others = match channel.with_others {
                _ if with_others == 0 => None,
                Some((before, since)) if before <= with_others => Some((before, since)),
                _ => Some((with_others, Instant::now())),
            };
            let stands = |(_, since): (u64, Instant)| since.elapsed() >= SLOW_AFTER;
            if !channel.with_others.is_some_and(stands) {
                continue;
            }
            let (topic, name) = (&self.topic, &channel.name);
            warn!(
                %topic,
                channel = %name,
                messages = with_others,
                "consumers have messages that they do not settle; what is behind these is handed over before them"
            );
            let options = SubscribeOptions { credit, ..Default::default() };
            match self.broker.subscribe(topic.as_str(), name.as_str(), options).await {
                Ok(subscription) => channel.subscription = subscription,
                Err(_) => channel.is_over = true,
            }
            channel.with_others = None;
        }
    }

    fn first(&mut self) -> Option<(usize, Delivery)> {
        let heads = self.channels.iter().enumerate();
        let heads = heads.filter_map(|(index, it)| Some((it.head.as_ref()?.batch.first, index)));
        let (_, index) = heads.min()?;
        let delivery = self.channels.get_mut(index)?.head.take()?;
        Some((index, delivery))
    }

    /// The channels that have something for who asks.
    async fn due(&self) -> Vec<ChannelStats> {
        let request = AdminRequest::ShowTopic { topic: self.topic.clone() };
        match self.broker.admin(request).await {
            Ok(AdminResponse::Topic(topic)) => waiting(&topic).cloned().collect(),
            _ => Vec::new(),
        }
    }
}

impl Channel {
    /// Whether what it has may come before what others have.
    const fn lacks(&self) -> bool {
        self.head.is_none() && self.is_due && !self.is_over
    }

    fn settle(&mut self, tags: TagRange) {
        if let Err(DirectError::Refused(_)) = self.subscription.settle(tags, Verdict::Ack) {
            self.is_over = true;
        }
    }
}

fn tag_of(delivery: &Delivery, offset: u64) -> Tag {
    Tag(delivery.first_tag.0 + offset.saturating_sub(delivery.batch.first.0))
}

/// What each of so many channels has on its way: all together what one would have, and each at least one message.
fn credit(broker: &NodeBroker, channels: usize) -> Credit {
    let max = broker.settings().model.credit_max;
    let bytes = TOPIC_BYTES / channels.max(1) as u64;
    Credit { messages: MESSAGES_MAX.min(max.messages), bytes: bytes.min(max.bytes) }
}

/// What of a topic may be on its way to here at a time. As much may be here to go to another node, and beside each of
/// both one message for each of its channels.
const TOPIC_BYTES: u64 = 2 << 20;
const MESSAGES_MAX: u64 = 1_000;
/// How long nothing comes before it is asked whether anything waits.
const BRIEFLY: Duration = Duration::from_millis(20);
/// How long what waits may take to come before that is told, and how long consumers may have what they have
/// without settling any of it.
const SLOW_AFTER: Duration = Duration::from_secs(10);
