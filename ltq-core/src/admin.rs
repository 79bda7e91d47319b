//! What an operator asks of a broker besides messages, and what it answers.

use serde::{Deserialize, Serialize};

use crate::{
    Address, ChannelName, Durability, Offset, Refusal, RefusalCode, Retention, RetentionChange,
    StartAt, StoreStats, TopicName,
};

/// Settings of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// How durable a publish is before it is confirmed, unless the publish asks otherwise.
    /// [`Durability::Memory`] makes the topic one that is never written to the journal.
    pub durability: Durability,
    /// What is kept, and for how long.
    pub retention: Retention,
}

/// What is asked of a topic that is to be made: the rest is as the node is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicOptions {
    /// How durable a publish is before it is confirmed.
    pub durability: Option<Durability>,
    /// What is kept, and for how long.
    pub retention: RetentionChange,
}

impl TopicOptions {
    /// `defaults` with what is asked for.
    #[must_use]
    pub fn apply(&self, defaults: TopicSettings) -> TopicSettings {
        TopicSettings {
            durability: self.durability.unwrap_or(defaults.durability),
            retention: self.retention.apply(defaults.retention),
        }
    }
}

impl From<TopicSettings> for TopicOptions {
    /// Asks for everything.
    fn from(settings: TopicSettings) -> Self {
        let TopicSettings { durability, retention } = settings;
        Self { durability: Some(durability), retention: retention.into() }
    }
}

/// An operator's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// All topics' names, in order.
    ListTopics,
    /// Makes a topic. One that is there already is fine if it has what is asked for.
    CreateTopic {
        /// Its name.
        topic: TopicName,
        /// How it is to be.
        options: TopicOptions,
    },
    /// Changes what a topic keeps, from now on. What is beyond a new limit is given up soon after.
    AlterTopic {
        /// Its name.
        topic: TopicName,
        /// What is to be different.
        change: RetentionChange,
    },
    /// Everything about a topic and its channels.
    ShowTopic {
        /// Its name.
        topic: TopicName,
    },
    /// Deletes a topic, its channels and its messages.
    DeleteTopic {
        /// Its name.
        topic: TopicName,
    },
    /// Stops or restarts delivery in all channels of a topic. Publishing goes on.
    PauseTopic {
        /// Its name.
        topic: TopicName,
        /// Whether to stop.
        paused: bool,
    },
    /// Makes a channel, and its topic where that is allowed. One that is there already is fine.
    CreateChannel {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// Where it starts.
        start: StartAt,
    },
    /// Deletes a channel: its place in the topic is forgotten, its consumers are told.
    DeleteChannel {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
    },
    /// Stops or restarts delivery in a channel.
    PauseChannel {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// Whether to stop.
        paused: bool,
    },
    /// The node's and all topics' figures.
    Stats,
    /// Has the node take in nothing more, and end once what it has is consumed or handed over. A node
    /// that drains already goes on by the new options.
    Drain {
        /// How.
        options: DrainOptions,
    },
    /// Takes a drain back that is not over: the node takes in again.
    EndDrain,
}

/// How a node is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainOptions {
    /// The addresses of the nodes to which the backlog is forwarded. None: as the node is set, and where
    /// that names none, its consumers have to finish it. At most [`HAND_OVER_TO_MAX`](Self::HAND_OVER_TO_MAX),
    /// of at most [`ADDRESS_BYTES_MAX`](Self::ADDRESS_BYTES_MAX) bytes each.
    pub hand_over_to: Vec<String>,
    /// After how many milliseconds the node ends with what is left, which it keeps. `None`: as the node is
    /// set.
    pub timeout_ms: Option<u64>,
}

impl DrainOptions {
    /// The most addresses.
    pub const HAND_OVER_TO_MAX: usize = 64;
    /// The longest address, in bytes.
    pub const ADDRESS_BYTES_MAX: usize = 512;

    /// Checks them against their bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let bad = |detail| Err(Refusal::new(RefusalCode::OutOfRange, detail));
        let count = self.hand_over_to.len();
        if count > Self::HAND_OVER_TO_MAX {
            let max = Self::HAND_OVER_TO_MAX;
            return bad(format!("{count} addresses to hand over to; {max} at most"));
        }
        for text in &self.hand_over_to {
            if text.len() > Self::ADDRESS_BYTES_MAX {
                let max = Self::ADDRESS_BYTES_MAX;
                return bad(format!("an address of {} bytes; {max} at most", text.len()));
            }
            if let Err(error) = text.parse::<Address>() {
                return bad(error.to_string());
            }
        }
        Ok(())
    }
}

/// The answer to an [`AdminRequest`] that was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminResponse {
    /// It is so now.
    Done,
    /// To `ListTopics`.
    Topics(Vec<TopicName>),
    /// To `ShowTopic`.
    Topic(Box<TopicStats>),
    /// To `Stats`.
    Stats(Box<NodeStats>),
}

/// A topic's figures, all read at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStats {
    /// Its name.
    pub topic: TopicName,
    /// Its settings.
    pub settings: TopicSettings,
    /// Whether delivery is stopped.
    pub paused: bool,
    /// The oldest message that is kept.
    pub first: Offset,
    /// The offset that the next message will have.
    pub end: Offset,
    /// About how many bytes the messages have that are kept, encoded. Of those taken in since the
    /// last mark (about 1 MiB, or 1/64 of what is kept) nothing is known after a crash.
    pub bytes: u64,
    /// Messages stored since the node started.
    pub published: u64,
    /// Their bytes, encoded.
    pub published_bytes: u64,
    /// Publishes found to be repeats, in messages, since the node started.
    pub duplicates: u64,
    /// Messages refused since the node started.
    pub refused: u64,
    /// Open producers.
    pub producers: u64,
    /// Producer names remembered.
    pub producers_known: u64,
    /// Its channels, in order of their names.
    pub channels: Vec<ChannelStats>,
}

/// A channel's figures. Each message from the channel's start to the topic's end is in one state:
/// `(end - start) == waiting + delayed + in_flight + acked + damaged + dropped`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStats {
    /// Its name.
    pub channel: ChannelName,
    /// Whether delivery is stopped.
    pub paused: bool,
    /// Where it started.
    pub start: Offset,
    /// Everything below is acked, damaged or dropped.
    pub floor: Offset,
    /// Messages not yet delivered, or given back and due.
    pub waiting: u64,
    /// Messages given back with a delay that has not passed.
    pub delayed: u64,
    /// Messages delivered and not yet settled.
    pub in_flight: u64,
    /// Messages acked, since the channel was made.
    pub acked: u64,
    /// Messages that the store could not read back, since the channel was made.
    pub damaged: u64,
    /// Messages that a limit of the topic removed before they were acked, since the channel was
    /// made.
    pub dropped: u64,
    /// Deliveries since the node started.
    pub delivered: u64,
    /// Deliveries after the first of the same message since the node started.
    pub redelivered: u64,
    /// Messages given back by consumers since the node started.
    pub requeued: u64,
    /// Deliveries whose time ran out since the node started.
    pub timed_out: u64,
    /// Settlements that came too late, in messages, since the node started.
    pub stale: u64,
    /// Consumers now.
    pub consumers: u64,
}

/// A node's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStats {
    /// The node's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Open connections.
    pub connections: u64,
    /// The store's figures.
    pub store: StoreStats,
    /// Whether it takes in nothing more, to end: see [`AdminRequest::Drain`].
    pub is_draining: bool,
    /// The topics of which a drain waits for the rest in vain, in order of their names.
    pub held_up: Vec<HeldUp>,
    /// Why the store takes no commits, if it does not.
    pub store_failure: Option<String>,
    /// All topics, in order of their names.
    pub topics: Vec<TopicStats>,
}

/// What a drain waits for in vain: a message that none of the nodes takes to which a drained node hands over what
/// it has, or that cannot be read, so that it, and what is behind it in its topic, stays where it is; or what is left
/// of a topic while something of it is paused, or ephemeral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// Its topic.
    pub topic: TopicName,
    /// Its place there.
    pub offset: Offset,
    /// How many bytes it has, encoded; 0 where it is not about one message.
    pub bytes: u64,
    /// Why: which nodes refused it, and their limits, or what is to be done here.
    pub why: String,
}

impl std::fmt::Display for HeldUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, offset, bytes, why } = self;
        write!(f, "{topic} from {} on", offset.0)?;
        if *bytes > 0 {
            write!(f, ", a message of {bytes} bytes")?;
        }
        write!(f, ": {why}")
    }
}

impl NodeStats {
    /// Messages that some channel has still to settle, counted once for each channel.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        let channels = self.topics.iter().flat_map(|topic| &topic.channels);
        channels.map(ChannelStats::backlog).sum()
    }
}

impl ChannelStats {
    /// Messages that it has still to settle.
    #[must_use]
    pub const fn backlog(&self) -> u64 {
        self.waiting.saturating_add(self.delayed).saturating_add(self.in_flight)
    }
}
