//! Several channels of a topic, taken from as though they were one: what comes first in the topic comes first.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, Credit, DirectError, SubscribeOptions, Subscription,
    Tag, TagRange, TopicName, Verdict, model::Delivery,
};
use tokio::time::{Instant, timeout};

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
        let options =
            SubscribeOptions { credit: credit(broker, names.len()), ..Default::default() };
        let mut channels = Vec::with_capacity(names.len());
        for name in names {
            let opened = broker.subscribe(topic.as_str(), name.as_str(), options).await;
            let Ok(subscription) = opened else { continue };
            let name = name.clone();
            channels.push(Channel { name, subscription, head: None, is_due: true, is_over: false });
        }
        Self { broker: broker.clone(), topic: topic.clone(), channels }
    }

    /// What comes first in the topic of all that its channels have, and whose it is; `None` when no channel has
    /// anything that waits, or nothing comes of it for half a second.
    pub(super) async fn next(&mut self) -> Option<(usize, Delivery)> {
        let until = Instant::now() + PATIENCE;
        loop {
            poll_fn(|context| Poll::Ready(self.poll_more(context).is_ready())).await;
            let is_late = Instant::now() >= until;
            let lacks = |it: &Channel| it.head.is_none() && it.is_due && !it.is_over;
            if is_late || !self.channels.iter().any(lacks) {
                return self.first();
            }
            if timeout(BRIEFLY, poll_fn(|context| self.poll_more(context))).await.is_err() {
                // Consumers may have taken it, or it is loaded from a slow disk.
                let due = self.due().await;
                for channel in &mut self.channels {
                    channel.is_due = due.contains(&channel.name);
                }
            }
        }
    }

    /// Acks those of a channel's delivery that are done.
    pub(super) fn ack(&mut self, index: usize, delivery: &Delivery, done: &Runs) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let count = delivery.batch.records.count() as u64;
        let mut run: Option<TagRange> = None;
        for index in 0..count {
            if done.contains(delivery.batch.first.0 + index) {
                let tag = Tag(delivery.first_tag.0 + index);
                run = Some(TagRange { first: run.map_or(tag, |run| run.first), last: tag });
            } else if let Some(run) = run.take() {
                channel.settle(run);
            }
        }
        if let Some(run) = run {
            channel.settle(run);
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

    fn first(&mut self) -> Option<(usize, Delivery)> {
        let heads = self.channels.iter().enumerate();
        let heads = heads.filter_map(|(index, it)| Some((it.head.as_ref()?.batch.first, index)));
        let (_, index) = heads.min()?;
        let delivery = self.channels.get_mut(index)?.head.take()?;
        Some((index, delivery))
    }

    /// The channels that have something for who asks.
    async fn due(&self) -> BTreeSet<ChannelName> {
        let request = AdminRequest::ShowTopic { topic: self.topic.clone() };
        match self.broker.admin(request).await {
            Ok(AdminResponse::Topic(topic)) => {
                waiting(&topic).map(|it| it.channel.clone()).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

impl Channel {
    fn settle(&mut self, tags: TagRange) {
        if let Err(DirectError::Refused(_)) = self.subscription.settle(tags, Verdict::Ack) {
            self.is_over = true;
        }
    }
}

/// What each of so many channels has on its way: all together what one would have, and each at least one message.
fn credit(broker: &NodeBroker, channels: usize) -> Credit {
    let max = broker.settings().model.credit_max;
    let bytes = TOPIC_BYTES / channels.max(1) as u64;
    Credit { messages: MESSAGES_MAX.min(max.messages), bytes: bytes.min(max.bytes) }
}

/// What of a topic may be on its way to here at a time. As much may be on its way from here to another node, and
/// beside that one message for each of its channels.
const TOPIC_BYTES: u64 = 2 << 20;
const MESSAGES_MAX: u64 = 1_000;
/// How long nothing comes before it is asked whether anything waits.
const BRIEFLY: Duration = Duration::from_millis(20);
/// How long what waits may take to come.
const PATIENCE: Duration = Duration::from_millis(500);
