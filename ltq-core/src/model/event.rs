//! What the model is told and what it says: plain data in both directions.

use std::{sync::Arc, time::Duration};

use super::marks::Limit;
use crate::{
    AdminResponse, ChannelName, Committed, Credit, Durability, Offset, ProducerName, ReadLimits,
    RecordBatch, Records, Refusal, RetentionChange, Seat, Settlement, StartAt, StoreError, Tag,
    TagRange, Timestamp, WriteBatch,
};

/// Whoever talks to the broker: a stream of a connection, or a part of the embedding program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A producer that a session opened, by the number it gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId {
    /// Whose.
    pub session: SessionId,
    /// Which of its producers.
    pub handle: u32,
}

/// A consumer that a session subscribed, by the number it gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    /// Whose.
    pub session: SessionId,
    /// Which of its subscriptions.
    pub handle: u32,
}

/// A seat, and by whom it is asked for: seats of one number under two names are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Under which name the session was let in.
    pub owner: Arc<str>,
    /// Which seat.
    pub seat: Seat,
}

/// A request that a session made, by the number it gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Whose.
    pub session: SessionId,
    /// Which of its requests.
    pub request: u32,
}

/// Ties an answer of the store to the [`Command::Load`] or [`Command::Locate`] that asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadTicket(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A session wants to publish. Answered by [`Reply::ProducerOpened`] or
    /// [`Reply::ProducerRefused`], once what must be remembered of it is as durable as the topic.
    OpenProducer {
        /// Who it will be.
        producer: ProducerId,
        /// The name under which its sequence is remembered; without one nothing is.
        name: Option<ProducerName>,
        /// The epoch that it was given when it first opened under that name, if this is the same
        /// instance coming back. `None` is a new instance: it takes over and fences the old one.
        /// One that is not the newest is refused as [`Fenced`](crate::RefusalCode::Fenced); one
        /// that was never given out, or is forgotten with its name, as
        /// [`OutOfRange`](crate::RefusalCode::OutOfRange): then its sequences mean nothing any
        /// more, and it must open anew.
        epoch: Option<u64>,
        /// Which request of its program this is. One that was overtaken on its way, by a later one
        /// under the same name, is refused as [`Fenced`](crate::RefusalCode::Fenced) and takes
        /// nothing over. Without a name it means nothing.
        seat: Option<Seat>,
    },
    /// A producer publishes. Answered by [`Reply::Confirmed`] or [`Reply::PublishRefused`], in
    /// order. The shell has checked sizes and checksums.
    Publish {
        /// Which.
        producer: ProducerId,
        /// The sequence of the first record; they count up from there.
        sequence: u64,
        /// How durable before it is confirmed; `None` as the topic is set.
        durability: Option<Durability>,
        /// The messages; never empty.
        records: Records,
    },
    /// A publish that the shell refuses, told here so that the refusal waits behind the answers to
    /// the producer's earlier publishes. Answered by [`Reply::PublishRefused`].
    RefusePublish {
        /// Which.
        producer: ProducerId,
        /// The sequence of the first message.
        sequence: u64,
        /// How many.
        count: u64,
        /// Why.
        refusal: Refusal,
    },
    /// A producer will publish no more. What it published is confirmed all the same.
    CloseProducer {
        /// Which.
        producer: ProducerId,
        /// Whether to forget its name once all that it published is answered: the next commit
        /// deletes what is stored under it.
        forget: bool,
    },
    /// A session wants to consume. Answered by [`Reply::Subscribed`] or
    /// [`Reply::SubscribeRefused`], a new channel being durable by then.
    Subscribe {
        /// Who it will be.
        consumer: ConsumerId,
        /// The channel.
        channel: ChannelName,
        /// Where the channel starts if it is new.
        start: StartAt,
        /// Whether the channel may be made.
        create: bool,
        /// How long a delivery may stay unsettled; `None` as the broker is set.
        timeout: Option<Duration>,
        /// How much it takes at first.
        credit: Credit,
        /// The seat that it takes. Whoever has it, in this channel and with a turn that is not larger,
        /// is told that it is over and gives back what it had, before this one is told anything.
        claim: Option<Claim>,
    },
    /// How much a consumer takes: the total that it has granted since it subscribed. One that is
    /// smaller than before takes back what it did not get yet, and is answered by
    /// [`Reply::Credited`].
    Credit {
        /// Which.
        consumer: ConsumerId,
        /// The new total.
        total: Credit,
    },
    /// There may be room again for deliveries to a consumer that the [`Gate`](super::Gate) had none
    /// for.
    Release {
        /// Which.
        consumer: ConsumerId,
    },
    /// A consumer wants to be alone in its channel: as long as it is there, nobody else gets anything, and it
    /// gets nothing itself before what others have is settled. Of several who want that, one after the other has it.
    Alone {
        /// Which.
        consumer: ConsumerId,
    },
    /// A consumer says what became of deliveries.
    Settle {
        /// Which.
        consumer: ConsumerId,
        /// If not 0, answer with [`Reply::Settled`] in any case; if 0, only for stale ones.
        request: u32,
        /// What became of which.
        settlements: Vec<Settlement>,
    },
    /// A consumer leaves. Its messages go back at once. Answered by
    /// [`Reply::SubscriptionClosed`] without a reason.
    Unsubscribe {
        /// Which.
        consumer: ConsumerId,
    },
    /// A session is gone with all its producers and consumers; nothing can be told to it.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// An operator's wish. Answered by [`Reply::Admin`].
    Admin {
        /// Which request.
        request: RequestId,
        /// What to do.
        action: TopicAction,
    },
    /// The commit that the last [`Command::Commit`] asked for has ended.
    Committed {
        /// How.
        result: Result<Committed, StoreError>,
    },
    /// The answer to a [`Command::Load`].
    Loaded {
        /// Which.
        ticket: LoadTicket,
        /// The records, starting where they were asked for, or why not.
        result: Result<Vec<RecordBatch>, StoreError>,
    },
    /// The answer to a [`Command::Locate`].
    Located {
        /// Which.
        ticket: LoadTicket,
        /// The offset, or why not.
        result: Result<Offset, StoreError>,
    },
    /// The node stops: take nothing new in, deliver nothing more, give everything in flight back,
    /// and say [`Command::Stopped`] once what is pending is committed or refused and the
    /// channels' states are durable.
    Stop,
}

/// What an operator does to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicAction {
    /// Resolves once the topic is durable.
    Ensure,
    /// Tells its figures.
    Show,
    /// Deletes it.
    Delete,
    /// Changes what it keeps. The shell has checked the limits.
    Alter(RetentionChange),
    /// Stops or restarts delivery in all channels.
    Pause(bool),
    /// Makes a channel.
    CreateChannel(ChannelName, StartAt),
    /// Deletes a channel.
    DeleteChannel(ChannelName),
    /// Stops or restarts delivery in one channel.
    PauseChannel(ChannelName, bool),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Commit this. There is never more than one that has not been answered by
    /// [`Event::Committed`].
    Commit {
        /// The changes.
        batch: WriteBatch,
        /// How durable.
        durability: Durability,
    },
    /// Read from the topic's log. Answered by [`Event::Loaded`], at once or later; a few may be
    /// open at a time.
    Load {
        /// To be given back.
        ticket: LoadTicket,
        /// Where to begin.
        from: Offset,
        /// How much.
        limits: ReadLimits,
    },
    /// Find the offset of a time. Answered by [`Event::Located`].
    Locate {
        /// To be given back.
        ticket: LoadTicket,
        /// The time.
        time: Timestamp,
    },
    /// Send this to a consumer.
    Deliver {
        /// Which.
        consumer: ConsumerId,
        /// What.
        delivery: Delivery,
    },
    /// Tell a session.
    Reply {
        /// Which.
        session: SessionId,
        /// What.
        reply: Reply,
    },
    /// A limit of the topic has removed messages, acked or not; the store gives them up with one of
    /// the next commits. Told once, for whoever keeps logs.
    Removed(Removed),
    /// The topic is gone from the store: forget it, refuse what still comes for it.
    Deleted,
    /// The topic has come to rest after [`Event::Stop`].
    Stopped,
}

/// Messages that a limit has removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The first of them.
    pub first: Offset,
    /// The first behind them: the oldest that is kept.
    pub until: Offset,
    /// About how many bytes they have.
    pub bytes: u64,
    /// Which limit.
    pub limit: Limit,
    /// Channels that had not acked all of them, and how many messages each has lost.
    pub dropped: Vec<(ChannelName, u64)>,
}

/// Consecutive messages of one attempt for one consumer. The tag of each is `first_tag` plus its
/// place in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The first message's tag.
    pub first_tag: Tag,
    /// Which delivery of these messages this is, from 1.
    pub attempt: u32,
    /// The messages.
    pub batch: RecordBatch,
}

/// Published messages whose sequences and offsets both count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SequenceRange {
    /// The first message's sequence.
    pub sequence: u64,
    /// How many.
    pub count: u64,
    /// The first message's offset; `None` for repeats of messages that were stored long enough
    /// ago that only the fact is remembered.
    pub offset: Option<Offset>,
}

/// What a session is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A producer is open.
    ProducerOpened {
        /// Which.
        handle: u32,
        /// The epoch of its name; 0 without a name.
        epoch: u64,
        /// The sequence of the last message stored under its name, 0 for none. The next publish
        /// must start at the one after.
        last_sequence: u64,
        /// How durable its messages are unless a publish asks otherwise.
        durability: Durability,
    },
    /// A producer was not opened, or is open no longer.
    ProducerRefused {
        /// Which.
        handle: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Messages are stored.
    Confirmed {
        /// Whose.
        handle: u32,
        /// Which messages; in the order of their sequences.
        ranges: Vec<SequenceRange>,
        /// How durable they are: as asked or better.
        durability: Durability,
    },
    /// Messages are not stored, or [`Effect::Unknown`](crate::Effect) to be.
    PublishRefused {
        /// Whose.
        handle: u32,
        /// The first message's sequence.
        sequence: u64,
        /// How many.
        count: u64,
        /// Why.
        refusal: Refusal,
    },
    /// A subscription is open.
    Subscribed {
        /// Which.
        handle: u32,
        /// How long a delivery may stay unsettled.
        timeout: Duration,
    },
    /// A subscription was not opened.
    SubscribeRefused {
        /// Which.
        handle: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Credit was taken back.
    Credited {
        /// Whose.
        handle: u32,
        /// The total that holds now: as asked, and at least what it got.
        total: Credit,
    },
    /// Settlements were handled; those of `stale` were not: the messages had been settled, given
    /// back or delivered anew, or were never delivered.
    Settled {
        /// Whose.
        handle: u32,
        /// The number that came with them.
        request: u32,
        /// Those that changed nothing.
        stale: Vec<TagRange>,
    },
    /// A subscription is over.
    SubscriptionClosed {
        /// Which.
        handle: u32,
        /// Why, unless the consumer wished it.
        refusal: Option<Refusal>,
    },
    /// The answer to an operator.
    Admin {
        /// Which request.
        request: u32,
        /// The answer.
        result: Result<AdminResponse, Refusal>,
    },
}
