//! The bounds that all topics of a node share.

use std::time::Duration;

use crate::Credit;

/// What a topic allows and how it batches. One value serves all topics of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSettings {
    /// How long a delivery may stay unsettled when its consumer did not ask for a time of its
    /// own. 60 s: long enough for ordinary work, short enough that the messages of a consumer
    /// that hangs are soon with another.
    pub delivery_timeout: Duration,
    /// The most that a consumer may ask for, and the most that touching can stretch one delivery
    /// to in all, counted from when it was sent. 15 min.
    pub delivery_timeout_max: Duration,
    /// The longest delay of a requeue; longer ones are cut to it, since a settlement has no
    /// answer that could refuse it. 7 days.
    pub requeue_delay_max: Duration,
    /// The most credit that a consumer may have open; grants are cut to it. 2,500 messages and
    /// 16 MiB.
    pub credit_max: Credit,
    /// The most channels of a topic. 10,000.
    pub channels_max: usize,
    /// The most consumers of a channel. 100,000.
    pub consumers_max: usize,
    /// The most named producers that a topic remembers. Beyond it the one that was closed longest
    /// ago is forgotten; when all are open, a new name is refused. 10,000.
    pub producers_known_max: usize,
    /// How many runs of unlike fate a channel may hold (in flight, waiting for redelivery or for
    /// their time, acked beyond a gap) before it delivers no new messages until there are fewer.
    /// 100,000: about 10 MiB of memory, and a state of about 1 MiB in the store.
    pub channel_runs_max: usize,
    /// How long an ack may be known to the model alone. Within it all acks of a channel become
    /// one small write, which rides along with a publish where there is one. 20 ms.
    pub ack_commit_interval: Duration,
    /// Bytes per second that one channel's state may write. A state larger than this allows in
    /// [`ack_commit_interval`](Self::ack_commit_interval) is written less often. 8 MiB.
    pub ack_commit_rate: u64,
    /// The most messages of one delivery. 1,024: the cost of a delivery is spread thinly by then,
    /// and a longer one would only make the consumers of a channel share a burst more coarsely.
    pub run_messages_max: usize,
    /// The most bytes of one delivery, unless one message alone has more. 256 KiB: several
    /// consumers' deliveries take turns on one connection without one holding the others up.
    pub run_bytes_max: usize,
    /// The most bytes asked of the store at once. 512 KiB: two deliveries, so that the next read
    /// is under way while the last is being sent.
    pub load_bytes: usize,
    /// The most bytes of records read from the store that a topic keeps for its channels at one
    /// time. 4 MiB.
    pub window_bytes: usize,
    /// The most bytes of records in one commit, unless one publish alone has more. 8 MiB.
    pub commit_bytes_max: usize,
    /// The most publishes in one commit. 65,536.
    pub commit_publishes_max: usize,
    /// The least number of bytes appended from one mark in a topic's log to the next, unless a
    /// small limit of the topic asks for less: as finely as this a log's parts are known by size
    /// and age. 1 MiB: then writing marks costs a thousandth of what is published.
    pub mark_bytes: u64,
    /// The most bytes that a topic keeps among the messages that are wanted, though every channel
    /// has acked them, before it gives them up in the middle of the log; more only where they are
    /// less than a 32nd of what is kept there. 16 MiB: acks out of order rarely reach it, and what
    /// does is worth the store's while. A store that takes up to 16/9 of what it was not told to
    /// give up and half a segment takes at most twice what is wanted and a segment, as long as this
    /// is no more than a quarter of a segment.
    pub discard_bytes: u64,
    /// How often a topic looks for such messages at most, and only once something may have changed.
    /// 1 s: a look visits every run of acked messages.
    pub discard_interval: Duration,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            delivery_timeout: Duration::from_secs(60),
            delivery_timeout_max: Duration::from_secs(15 * 60),
            requeue_delay_max: Duration::from_secs(7 * 24 * 60 * 60),
            credit_max: Credit { messages: 2_500, bytes: 16 << 20 },
            channels_max: 10_000,
            consumers_max: 100_000,
            producers_known_max: 10_000,
            channel_runs_max: 100_000,
            ack_commit_interval: Duration::from_millis(20),
            ack_commit_rate: 8 << 20,
            run_messages_max: 1_024,
            run_bytes_max: 256 << 10,
            load_bytes: 512 << 10,
            window_bytes: 4 << 20,
            commit_bytes_max: 8 << 20,
            commit_publishes_max: 65_536,
            mark_bytes: 1 << 20,
            discard_bytes: 16 << 20,
            discard_interval: Duration::from_secs(1),
        }
    }
}
