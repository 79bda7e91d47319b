//! The frames.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AdminRequest, AdminResponse, ChannelName, Credit, Durability, ProducerName, RecordBatch,
    Records, Refusal, Seat, Settlement, StartAt, Tag, TagRange, TopicName, model::SequenceRange,
};

/// Peers of different major versions do not talk.
pub const PROTOCOL_MAJOR: u16 = 1;
/// The highest minor version that this code knows.
pub const PROTOCOL_MINOR: u16 = 0;

/// What a peer can do beyond the basics: one bit each. None are defined yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features(pub u64);

/// One broker that runs: 128 random bits, drawn when it starts. A broker that starts again is another
/// instance, on the same store too.
///
/// It tells whether two addresses, or two nodes of a discovery scheme, lead to one and the same running
/// broker, which a node's name does not: a name is set by an operator, and often not at all. It says
/// nothing of what is stored, and is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub [u8; 16]);

impl fmt::Display for InstanceId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

/// The client's first frame.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its major version.
    pub major: u16,
    /// Its minor version.
    pub minor: u16,
    /// What it offers.
    pub features: Features,
    /// Who it is, for logs: up to 256 bytes.
    pub client: String,
    /// The token, where the node asks for one: up to 1,024 bytes.
    pub token: Option<String>,
    /// The longest frame that it reads, in bytes.
    pub frame_bytes_max: u32,
    /// How often it wants to hear something, in milliseconds; 0 as the node likes.
    pub heartbeat_ms: u32,
}

impl fmt::Debug for Hello {
    /// Without the token, which has no place in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("major", &self.major)
            .field("minor", &self.minor)
            .field("features", &self.features)
            .field("client", &self.client)
            .field("has_token", &self.token.is_some())
            .field("frame_bytes_max", &self.frame_bytes_max)
            .field("heartbeat_ms", &self.heartbeat_ms)
            .finish()
    }
}

/// The broker's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its major version.
    pub major: u16,
    /// The minor version that both use.
    pub minor: u16,
    /// What both can do.
    pub features: Features,
    /// The node's name.
    pub node: String,
    /// Which broker this is, as long as it runs.
    pub instance: InstanceId,
    /// What it allows.
    pub limits: PeerLimits,
    /// Either side sends something at least this often, in milliseconds, and gives the other up
    /// after three times as long without a byte.
    pub heartbeat_ms: u32,
}

/// What a broker allows a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    /// The longest frame, in bytes.
    pub frame_bytes_max: u32,
    /// The largest encoded message, in bytes.
    pub message_bytes_max: u32,
    /// The most credit that a consumer may have open.
    pub credit_max: Credit,
    /// The most subscriptions of a connection, on all of its streams.
    pub subscriptions_max: u32,
    /// The most producers of a connection, on all of its streams.
    pub producers_max: u32,
    /// Bytes of publishes that a stream may have unconfirmed before the broker stops reading: their
    /// records, and some 256 for each publish. What all streams of a connection may have has a limit of
    /// its own.
    pub publish_bytes_max: u64,
}

/// One frame. Producers and subscriptions are named by numbers that the client chooses, at most
/// one open one for each number and kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Client: the first frame.
    Hello(Hello),
    /// Broker: the answer.
    Welcome(Welcome),
    /// Broker: the stream ends here, and why; or that it soon will
    /// ([`RefusalCode::Stopping`](crate::RefusalCode::Stopping)).
    Goodbye {
        /// Why.
        refusal: Refusal,
    },
    /// Either: are you there?
    Ping {
        /// Comes back in the answer.
        nonce: u64,
    },
    /// Either: yes.
    Pong {
        /// From the question.
        nonce: u64,
    },
    /// Client: opens a producer.
    OpenProducer {
        /// Its number.
        handle: u32,
        /// The topic.
        topic: TopicName,
        /// The name under which its sequence is remembered.
        name: Option<ProducerName>,
        /// The epoch that it had under that name, when it comes back.
        epoch: Option<u64>,
        /// Which request of its program this is, so that one which was left in a lost connection takes
        /// nothing from a later one.
        seat: Option<Seat>,
    },
    /// Broker: it is open.
    ProducerOpened {
        /// Its number.
        handle: u32,
        /// The epoch of its name.
        epoch: u64,
        /// The last sequence stored under its name.
        last_sequence: u64,
        /// How durable its messages are unless a publish asks otherwise.
        durability: Durability,
    },
    /// Broker: it is not open, or no longer.
    ///
    /// **This is the last frame for the producer, and the answer to everything of it that is not
    /// answered.** Do not wait for a [`Confirmed`](Self::Confirmed) or a
    /// [`PublishRefused`](Self::PublishRefused) after it: for what the broker had read by then none
    /// comes. A client must count all publishes that it sent and has no answer to as refused by
    /// this frame, for the same reason, whose [effect](crate::RefusalCode::effect) says whether
    /// they may be stored all the same; or else it waits for ever.
    ///
    /// Publishes that cross this frame on their way are not stored. Each of them is told
    /// [`NoSuchHandle`](crate::RefusalCode::NoSuchHandle), which is to be ignored. The number is
    /// free at once; so a client that sends without waiting takes another one, or what crossed
    /// would be taken for the new producer's.
    ProducerRefused {
        /// Its number.
        handle: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Client: messages. Answered in order by [`Confirmed`](Self::Confirmed) and
    /// [`PublishRefused`](Self::PublishRefused), which go by sequences and not by frames: one
    /// answer may be for many publishes, and one publish may get several. The exception is
    /// [`ProducerRefused`](Self::ProducerRefused), after which there are none.
    Publish {
        /// The producer.
        handle: u32,
        /// The first message's sequence.
        sequence: u64,
        /// How durable before they are confirmed.
        durability: Option<Durability>,
        /// The messages.
        records: Records,
    },
    /// Broker: messages are stored. Several frames follow each other where one would be longer
    /// than the client reads.
    Confirmed {
        /// The producer.
        handle: u32,
        /// Which.
        ranges: Vec<SequenceRange>,
        /// How durable.
        durability: Durability,
    },
    /// Broker: messages are not stored, or nobody knows.
    PublishRefused {
        /// The producer.
        handle: u32,
        /// The first message's sequence.
        sequence: u64,
        /// How many.
        count: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Client: a producer will publish no more; its number is free once its opening and all that it
    /// published are answered.
    CloseProducer {
        /// Its number.
        handle: u32,
        /// Whether its name is of no more use: the broker forgets the name, and the sequence and
        /// epoch with it, once all that it published is answered. For names that the client made
        /// up; one that a user chose is to be kept, since the next instance goes on behind it.
        forget: bool,
    },
    /// Client: subscribes.
    Subscribe {
        /// The subscription's number.
        handle: u32,
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// Where the channel starts if it is new.
        start: StartAt,
        /// How long a delivery may stay unsettled, in milliseconds.
        timeout_ms: Option<u64>,
        /// How much it takes at first.
        credit: Credit,
        /// Whether the topic may be made, where the broker allows it. If not, one that is not there is
        /// [`NoSuchTopic`](crate::RefusalCode::NoSuchTopic). The channel may be made in either case.
        make_topic: bool,
        /// Its seat, which it takes over from an earlier subscription of its own that may still be there;
        /// without one it takes over nothing, and nobody it.
        seat: Option<Seat>,
    },
    /// Broker: it is open.
    Subscribed {
        /// Its number.
        handle: u32,
        /// How long a delivery may stay unsettled, in milliseconds.
        timeout_ms: u64,
    },
    /// Broker: it is not.
    SubscribeRefused {
        /// Its number.
        handle: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Client: how much it takes; the total since it subscribed.
    ///
    /// A total that is larger than the one before, the first being that of
    /// [`Subscribe`](Self::Subscribe), grants the difference. One that is smaller, in messages or in
    /// bytes, takes back what the broker has not used yet: what it sent counts as used. Until the
    /// [`Credited`](Self::Credited) that answers it, the client must be ready for everything that it
    /// had granted before.
    Credit {
        /// The subscription.
        handle: u32,
        /// The total.
        total: Credit,
    },
    /// Broker: credit was taken back. The answer to each [`Credit`](Self::Credit) that is smaller than
    /// the one before, in their order and behind all that was sent until then; to no other. A
    /// subscription that is over gets none: its end is the answer. It may come before
    /// [`Subscribed`](Self::Subscribed), as the channel may have to be made first.
    Credited {
        /// The subscription.
        handle: u32,
        /// The total that holds now: as asked, and at least what was sent.
        total: Credit,
    },
    /// Broker: messages.
    Deliver {
        /// The subscription.
        handle: u32,
        /// The first message's tag.
        first_tag: Tag,
        /// Which delivery of these messages this is, from 1.
        attempt: u32,
        /// The messages.
        batch: RecordBatch,
    },
    /// Client: what became of deliveries.
    Settle {
        /// The subscription.
        handle: u32,
        /// Not 0: answer in any case, with this number.
        request: u32,
        /// What became of which: up to [`SETTLEMENTS_MAX`](super::SETTLEMENTS_MAX).
        settlements: Vec<Settlement>,
    },
    /// Broker: settlements were handled.
    Settled {
        /// The subscription.
        handle: u32,
        /// The number that came with them.
        request: u32,
        /// Those that changed nothing; as many as fit into a frame that the client reads.
        stale: Vec<TagRange>,
    },
    /// Client: ends a subscription.
    Unsubscribe {
        /// Its number.
        handle: u32,
    },
    /// Broker: a subscription is over; its number is free.
    SubscriptionClosed {
        /// Its number.
        handle: u32,
        /// Why, unless the client wished it.
        refusal: Option<Refusal>,
    },
    /// Client: an operator's request.
    Admin {
        /// Its number.
        request: u32,
        /// What.
        action: AdminRequest,
    },
    /// Broker: the answer.
    AdminAnswered {
        /// The request's number.
        request: u32,
        /// The answer.
        result: Result<AdminResponse, Refusal>,
    },
}
