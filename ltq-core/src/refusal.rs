//! What a broker says when it does not do what it was asked.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refusal: a stable code for programs, and words for people that name the limit or the value
/// at fault.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Which kind.
    pub code: RefusalCode,
    /// What was refused and why, in words. Not for programs.
    pub detail: String,
    /// Which limit was reached, where one was. It stays in the process of the broker, for its figures.
    #[serde(skip)]
    pub limit: Option<Limit>,
}

impl Refusal {
    /// A refusal of this kind with these words.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), limit: None }
    }

    /// A refusal for want of room under this limit, with these words.
    pub fn limit(limit: Limit, detail: impl Into<String>) -> Self {
        Self { limit: Some(limit), ..Self::new(RefusalCode::LimitReached, detail) }
    }
}

/// A limit by which something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`connections_max`](crate::BrokerSettings::connections_max)
    Connections,
    /// [`connections_per_address_max`](crate::BrokerSettings::connections_per_address_max)
    ConnectionsPerAddress,
    /// [`greeting_connections_max`](crate::EntranceSettings::greeting_connections_max)
    GreetingConnections,
    /// [`greeting_connections_per_address_max`](crate::EntranceSettings::greeting_connections_per_address_max)
    GreetingConnectionsPerAddress,
    /// [`connections_per_second_max`](crate::EntranceSettings::connections_per_second_max)
    ConnectionsPerSecond,
    /// [`topics_max`](crate::BrokerSettings::topics_max)
    Topics,
    /// [`topics_per_minute_max`](crate::BrokerSettings::topics_per_minute_max)
    TopicsPerMinute,
    /// [`channels_per_minute_max`](crate::BrokerSettings::channels_per_minute_max)
    ChannelsPerMinute,
    /// [`channels_max`](crate::model::ModelSettings::channels_max) of a topic
    Channels,
    /// [`consumers_max`](crate::model::ModelSettings::consumers_max) of a channel
    Consumers,
    /// [`producers_known_max`](crate::model::ModelSettings::producers_known_max) of a topic
    ProducersKnown,
    /// [`producers_max`](crate::BrokerSettings::producers_max) of a connection
    Producers,
    /// [`subscriptions_max`](crate::BrokerSettings::subscriptions_max) of a connection
    Subscriptions,
    /// [`handles_total_max`](crate::BrokerSettings::handles_total_max) of the node
    Handles,
    /// [`handles_per_address_max`](crate::BrokerSettings::handles_per_address_max)
    HandlesPerAddress,
    /// [`requests_max`](crate::BrokerSettings::requests_max) of a connection
    Requests,
    /// An answer to an operator that is longer than the frames that he reads.
    Answer,
}

impl Limit {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::GreetingConnections,
        Self::GreetingConnectionsPerAddress,
        Self::ConnectionsPerSecond,
        Self::Topics,
        Self::TopicsPerMinute,
        Self::ChannelsPerMinute,
        Self::Channels,
        Self::Consumers,
        Self::ProducersKnown,
        Self::Producers,
        Self::Subscriptions,
        Self::Handles,
        Self::HandlesPerAddress,
        Self::Requests,
        Self::Answer,
    ];

    /// What it is called in settings and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections_max",
            Self::ConnectionsPerAddress => "connections_per_address_max",
            Self::GreetingConnections => "greeting_connections_max",
            Self::GreetingConnectionsPerAddress => "greeting_connections_per_address_max",
            Self::ConnectionsPerSecond => "connections_per_second_max",
            Self::Topics => "topics_max",
            Self::TopicsPerMinute => "topics_per_minute_max",
            Self::ChannelsPerMinute => "channels_per_minute_max",
            Self::Channels => "channels_max",
            Self::Consumers => "consumers_max",
            Self::ProducersKnown => "producers_known_max",
            Self::Producers => "producers_max",
            Self::Subscriptions => "subscriptions_max",
            Self::Handles => "handles_total_max",
            Self::HandlesPerAddress => "handles_per_address_max",
            Self::Requests => "requests_max",
            Self::Answer => "answer",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $effect:ident;)*) => {
        /// The kinds of refusal. On the wire each is its number in this order; new ones are added
        /// at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as logs, metrics and the HTTP API spell it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What is left of the request.
            #[must_use]
            pub const fn effect(self) -> Effect {
                match self { $(Self::$name => Effect::$effect,)* }
            }
        }
    };
}

/// What a refused request has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, and the stream goes on.
    Nothing,
    /// Nothing, and the broker ends the stream.
    Fatal,
    /// Nobody knows: it may have happened, or happen after a restart.
    Unknown,
}

codes! {
    /// The bytes are not what the protocol allows there.
    Malformed = "malformed", Fatal;
    /// The frame's type is not known, or has no place there.
    UnexpectedFrame = "unexpected_frame", Fatal;
    /// No common version of the protocol.
    VersionUnsupported = "version_unsupported", Fatal;
    /// The token is wrong or missing, or what it gave was taken back.
    Unauthorized = "unauthorized", Fatal;
    /// A frame is longer than the limit.
    FrameTooLarge = "frame_too_large", Fatal;
    /// Too much at once: connections, subscriptions, producers, topics, channels.
    LimitReached = "limit_reached", Nothing;
    /// The peer was silent, or read nothing, for too long.
    PeerTimeout = "peer_timeout", Fatal;
    /// A name breaks the rule for names.
    BadName = "bad_name", Nothing;
    /// A number or option is out of its range.
    OutOfRange = "out_of_range", Nothing;
    /// There is no such topic, and it may not be created on first use.
    NoSuchTopic = "no_such_topic", Nothing;
    /// There is no such channel, and it may not be created on first use.
    NoSuchChannel = "no_such_channel", Nothing;
    /// The number names no open producer or subscription of this stream.
    NoSuchHandle = "no_such_handle", Nothing;
    /// The number already names an open producer or subscription of this stream.
    HandleInUse = "handle_in_use", Nothing;
    /// It exists already, with other settings than those asked for.
    Exists = "exists", Nothing;
    /// A message is larger than the limit.
    MessageTooLarge = "message_too_large", Nothing;
    /// A message's checksum is wrong: it was damaged on its way.
    Damaged = "damaged", Nothing;
    /// A newer instance of the same producer name has taken over, or of the same consumer's seat.
    Fenced = "fenced", Nothing;
    /// A publish does not follow on the one before; an earlier one was refused.
    SequenceGap = "sequence_gap", Nothing;
    /// The durability asked for is more than the topic or the store can give.
    DurabilityUnavailable = "durability_unavailable", Nothing;
    /// There is no room left, on disk or in a memory store, or for now nothing to make a file with.
    StoreFull = "store_full", Nothing;
    /// The store stopped taking commits before this one began.
    StoreFailed = "store_failed", Nothing;
    /// The store failed while this was being committed.
    OutcomeUnknown = "outcome_unknown", Unknown;
    /// The topic was deleted.
    TopicDeleted = "topic_deleted", Nothing;
    /// The channel was deleted.
    ChannelDeleted = "channel_deleted", Nothing;
    /// The node is stopping.
    Stopping = "stopping", Nothing;
    /// The broker could not do it for a reason of its own.
    Internal = "internal", Nothing;
    /// The permission for it is missing. The same whether what it is about exists or not.
    Forbidden = "forbidden", Nothing;
    /// Too many frames within a second that brought nothing: pings, requests that were refused,
    /// numbers that name nothing.
    Flooding = "flooding", Fatal;
    /// The node is draining: it takes nothing in, and is going to stop.
    Draining = "draining", Nothing;
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
