//! What a drain waits for in vain, as the broker shows it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ltq_core::{ChannelStats, HeldUp, NodeStats, Offset, TopicName, TopicStats};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::runs::Runs;
use crate::NodeBroker;

/// Where topics are held up, one message of each.
#[derive(Clone, Debug)]
pub(super) struct Held {
    broker: NodeBroker,
    topics: Arc<Mutex<Topics>>,
}

#[derive(Debug, Default)]
struct Topics {
    /// What stopped the hand-over of a topic.
    held: BTreeMap<TopicName, HeldUp>,
    /// What nobody takes, and since when that is so.
    in_vain: BTreeMap<TopicName, (Instant, HeldUp)>,
    /// What the log was told last of a topic, so that it is told once.
    told: BTreeMap<TopicName, Offset>,
    /// The same of what nobody takes.
    told_in_vain: BTreeMap<TopicName, String>,
}

impl Held {
    pub(super) fn new(broker: &NodeBroker) -> Self {
        Self { broker: broker.clone(), topics: Arc::default() }
    }

    /// Shows what holds up its topic, and tells the log, once for each such message.
    pub(super) fn tell(&self, held: HeldUp) {
        let mut topics = self.topics.lock();
        if topics.told.insert(held.topic.clone(), held.offset) != Some(held.offset) {
            warn!(%held, "not handed over; what is behind it stays here, too");
        }
        topics.held.insert(held.topic.clone(), held);
        self.show(&topics);
    }

    /// Forgets what held up a topic if it is stored elsewhere by now.
    pub(super) fn passed(&self, topic: &TopicName, done: &Runs) {
        let mut topics = self.topics.lock();
        if topics.held.get(topic).is_some_and(|held| done.contains(held.offset.0)) {
            topics.held.remove(topic);
            self.show(&topics);
        }
    }

    /// Forgets what was settled here, and shows what nobody takes: what is paused, and with `hands_over` what is
    /// ephemeral.
    pub(super) fn look(&self, stats: &NodeStats, hands_over: bool) {
        let mut topics = self.topics.lock();
        topics.held.retain(|name, held| {
            let found = stats.topics.binary_search_by(|it| it.topic.cmp(name)).ok();
            let topic = found.and_then(|index| stats.topics.get(index));
            let mut channels = topic.into_iter().flat_map(|it| &it.channels);
            // What a consumer has here may come back.
            channels
                .any(|it| !it.channel.is_ephemeral() && it.backlog() > 0 && it.floor <= held.offset)
        });
        let before = std::mem::take(&mut topics.in_vain);
        for held in stats.topics.iter().filter_map(|it| in_vain(it, hands_over)) {
            let known = before.get(&held.topic).filter(|(_, it)| it.why == held.why);
            let since = known.map_or_else(Instant::now, |it| it.0);
            let is_shown = since.elapsed() >= IN_VAIN_AFTER;
            if is_shown && topics.told_in_vain.get(&held.topic) != Some(&held.why) {
                topics.told_in_vain.insert(held.topic.clone(), held.why.clone());
                warn!(%held, "nothing of it goes");
            }
            topics.in_vain.insert(held.topic.clone(), (since, held));
        }
        self.show(&topics);
    }

    pub(super) fn clear(&self) {
        let mut topics = self.topics.lock();
        *topics = Topics::default();
        self.show(&topics);
    }

    fn show(&self, topics: &Topics) {
        let in_vain = topics.in_vain.iter().filter(|(_, it)| it.0.elapsed() >= IN_VAIN_AFTER);
        let mut shown: BTreeMap<_, _> = in_vain.map(|(name, it)| (name, &it.1)).collect();
        shown.extend(&topics.held);
        self.broker.set_held_up(shown.into_values().cloned().collect());
    }
}

/// What of a topic nobody takes as long as it is as it is.
fn in_vain(topic: &TopicStats, hands_over: bool) -> Option<HeldUp> {
    let left = || topic.channels.iter().filter(|it| it.backlog() > 0);
    let offset = left().map(|it| it.floor).min()?;
    let is_ephemeral = "ephemeral, not handed over";
    let of_channel = |it: &ChannelStats| {
        let why = match (it.paused, it.channel.is_ephemeral() && hands_over) {
            (true, _) => "paused",
            (false, true) => is_ephemeral,
            (false, false) => return None,
        };
        Some(format!("channel {} is {why}", it.channel))
    };
    let why = if topic.paused {
        "the topic is paused".to_owned()
    } else if topic.topic.is_ephemeral() && hands_over {
        format!("the topic is {is_ephemeral}")
    } else {
        left().filter_map(of_channel).collect::<Vec<_>>().join(", ")
    };
    let topic = topic.topic.clone();
    (!why.is_empty()).then_some(HeldUp { topic, offset, bytes: 0, why })
}

/// How long nothing of a topic is to go before that is told: consumers may be about to end it.
const IN_VAIN_AFTER: Duration = Duration::from_secs(5);
