//! What everybody did and was told, in order: what the promises are checked against, and the trace.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use ltq_core::{Durability, Offset, TopicStats};
use ltq_store::simulation::DiskFailure;
use ltq_transport::Weather;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{body::Body, cluster::Scene, violation::Violation};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// How long after the beginning.
    pub at: Duration,
    /// Who did it or was told.
    pub who: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Nothing goes wrong in this play, and everybody does nothing but his work.
    Fair,
    /// A producer handed a message over.
    Published {
        /// The topic's number.
        topic: usize,
        /// The message.
        body: Body,
        /// How durable it is to be before anybody sees it.
        durability: Durability,
        /// How long it may take until the producer is told what became of it.
        within: Duration,
    },
    /// It was told that the message is stored.
    Confirmed {
        /// The topic's number.
        topic: usize,
        /// The message.
        body: Body,
        /// Where, if that was said.
        offset: Option<Offset>,
        /// How durably.
        durability: Durability,
    },
    /// It was told that the message is not stored, and never will be.
    Refused {
        /// The message.
        body: Body,
        /// In whose words.
        why: String,
    },
    /// Nobody knows whether it is stored.
    Unknown {
        /// The message.
        body: Body,
        /// In whose words.
        why: String,
    },
    /// A consumer subscribed, or is about to.
    Subscribed {
        /// Its number.
        consumer: u64,
        /// How long it may keep a message before others get it.
        timeout: Duration,
    },
    /// A message came.
    Delivered(Spot, Body),
    /// A consumer is about to ack, whatever it is told of it.
    Acks {
        /// The delivery.
        place: Spot,
        /// Whether it waits until it is told.
        waits: bool,
    },
    /// A consumer asked for its message to be settled, and was told how that went.
    Acked(Spot, Result<(), String>),
    /// A consumer is about to ask for the message to come again, whatever it is told of that.
    Requeues(Spot),
    /// It asked for the message to come again after some time.
    Requeued {
        /// The delivery.
        place: Spot,
        /// When it asked.
        asked: Duration,
        /// After how long.
        after: Duration,
        /// How that went.
        result: Result<(), String>,
    },
    /// What came cannot be read, or is not what was published.
    Unreadable(String),
    /// It asked for more time.
    Touched {
        /// The delivery.
        place: Spot,
        /// When it asked.
        asked: Duration,
        /// How that went.
        result: Result<(), String>,
    },
    /// It gives no answer, and keeps it.
    Forgot(Spot),
    /// It drops it without an answer, which gives it back.
    GaveBack(Spot),
    /// A program is gone, in the middle of whatever it was at.
    Crashed,
    /// A consumer goes, however it does, with all that it has not answered.
    Left(u64),
    /// A node is there.
    Started,
    /// A node's process is gone.
    Killed {
        /// Together with the power of its machine.
        power: bool,
    },
    /// A node was stopped as an operator does.
    Stopped(Result<(), String>),
    /// From now on the network delays, stalls, cuts, or does not.
    Weather(Weather),
    /// From now on a disk has room for so many bytes more.
    Room(u64),
    /// From now on a node may have so many files more open.
    Descriptors(u64),
    /// From now on a sync, or any write, may fail, and what it was for is gone.
    DiskFails(String),
    /// A disk failed the node: something that it was to change it did not.
    DiskFailed {
        /// Whether what was written and not synced may be gone.
        lost: bool,
        /// What failed.
        failure: DiskFailure,
    },
    /// A node's store takes no commits any more, as it says.
    StoreFailed(String),
    /// From now on a disk takes up to so long for whatever is asked of it.
    DiskTakes(Duration),
    /// From now on reads may fail.
    ReadsFail,
    /// They do not any more, for a node that starts after this.
    DiskFine,
    /// Nothing goes wrong from now on, but what the world does itself to a node.
    Healed,
    /// Whatever comes from now on comes from the node that is there now.
    AllAnew,
    /// Something was done to what lies on the disk.
    Damaged(String),
    /// The wall clock jumps.
    ClockJumps {
        /// So far ahead, or back.
        millis: i64,
    },
    /// An operator asks for a topic, or a channel of it, to be deleted.
    Deleting {
        /// The topic's number.
        topic: usize,
    },
    /// A channel is paused, and has delivered all it had.
    Paused {
        /// The topic's number.
        topic: usize,
        /// The channel's.
        channel: usize,
    },
    /// It is not paused any more.
    Resumed {
        /// The topic's number.
        topic: usize,
        /// The channel's.
        channel: usize,
    },
    /// An operator was told of a topic's figures.
    Counted {
        /// The topic's number.
        topic: usize,
        /// When he asked.
        asked: Duration,
        /// The figures.
        stats: TopicStats,
    },
    /// What the node's store has in memory while it works.
    AtWork {
        /// Bytes of records and values.
        memory_bytes: u64,
        /// As many as it may have.
        most: u64,
    },
    /// What the node holds when everything is delivered and everybody has left.
    AtRest {
        /// Connections that are open.
        connections: u64,
        /// What the store has in memory.
        memory_bytes: u64,
        /// As much as it may have there.
        memory_bytes_max: u64,
        /// What it has in files.
        disk_bytes: u64,
        /// As much as it may have there.
        disk_bytes_max: u64,
    },
    /// What happens where there are several nodes.
    Cluster(Scene),
    /// Something is broken already.
    Broken(Violation),
    /// Anything else, for the trace.
    Noted(String),
}

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Spot {
    /// The topic's number.
    pub topic: usize,
    /// The channel's number.
    pub channel: usize,
    /// The consumer's: each subscription has one of its own.
    pub consumer: u64,
    /// Where the message is.
    pub offset: Offset,
    /// Which delivery of it this is.
    pub attempt: u32,
}

/// What happened so far. Clones share it.
#[derive(Clone)]
pub(crate) struct History {
    start: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl History {
    /// An empty one, that starts now. A runtime must be there.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), events: Arc::default() }
    }

    /// Adds to it.
    pub(crate) fn add(&self, who: &str, what: What) {
        let at = self.start.elapsed();
        self.events.lock().push(Event { at, who: who.to_owned(), what });
    }

    /// Adds words to it.
    pub(crate) fn note(&self, who: &str, what: impl fmt::Display) {
        self.add(who, What::Noted(what.to_string()));
    }

    /// All of it.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// How long it has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A history in words, one line for each event.
pub(crate) fn trace(events: &[Event]) -> String {
    let mut trace = String::new();
    for event in events {
        let _ = writeln!(trace, "{event}");
    }
    trace
}

impl fmt::Display for Event {
    /// A line of the trace: when, who, what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, who, what } = self;
        write!(f, "{:10.3} {who:<12} {what}", at.as_secs_f64())
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, channel, consumer, offset, attempt } = self;
        write!(f, "t{topic}/c{channel}@{offset} (consumer {consumer}, attempt {attempt})")
    }
}

fn name(body: &Body) -> String {
    format!("m{}.{}", body.producer, body.number)
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |result: &Result<(), String>| match result {
            Ok(()) => "done".to_owned(),
            Err(why) => why.clone(),
        };
        match self {
            Self::Fair => write!(f, "nothing goes wrong in all of it"),
            Self::Published { topic, body, durability, .. } => {
                write!(f, "publishes {} to t{topic}, {durability}", name(body))
            }
            Self::Confirmed { topic, body, offset, durability } => {
                let offset = offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
                write!(f, "{} is stored at t{topic}@{offset}, {durability}", name(body))
            }
            Self::Refused { body, why } => write!(f, "{} is not stored: {why}", name(body)),
            Self::Unknown { body, why } => write!(f, "{} may be stored: {why}", name(body)),
            Self::Subscribed { consumer, timeout } => {
                write!(f, "is consumer {consumer} now, with {timeout:?} for a message")
            }
            Self::Delivered(place, body) => write!(f, "gets {} from {place}", name(body)),
            Self::Acks { place, .. } => write!(f, "is about to ack {place}"),
            Self::Acked(place, result) => write!(f, "acks {place}: {}", how(result)),
            Self::Requeues(place) => write!(f, "is about to give {place} back"),
            Self::Requeued { place, after, result, .. } => {
                write!(f, "gives {place} back for {after:?}: {}", how(result))
            }
            Self::Touched { place, result, .. } => write!(f, "touches {place}: {}", how(result)),
            Self::Unreadable(what) => write!(f, "cannot read what came: {what}"),
            Self::Forgot(place) => write!(f, "forgets {place}"),
            Self::GaveBack(place) => write!(f, "drops {place}"),
            Self::Crashed => write!(f, "crashes"),
            Self::Left(consumer) => write!(f, "is consumer {consumer} no more"),
            Self::Weather(weather) => write!(f, "the weather is {weather:?}"),
            Self::Started => write!(f, "is there"),
            Self::Killed { power: true } => write!(f, "loses its power"),
            Self::Killed { power: false } => write!(f, "is killed"),
            Self::Stopped(result) => write!(f, "stops: {}", how(result)),
            Self::Descriptors(more) => write!(f, "there are descriptors for {more} more files"),
            Self::Room(bytes) => write!(f, "the disk has room for {bytes} bytes"),
            Self::DiskFails(what) => write!(f, "the disk fails: {what}"),
            Self::DiskFailed { failure, .. } => write!(f, "its disk has failed it: {failure}"),
            Self::StoreFailed(why) => write!(f, "its store takes no more: {why}"),
            Self::ReadsFail => write!(f, "reads fail"),
            Self::Healed => write!(f, "nothing goes wrong from now on"),
            Self::AllAnew => write!(f, "all know that it is another node"),
            Self::ClockJumps { millis } => write!(f, "clocks jump by {millis} ms"),
            Self::Damaged(what) => write!(f, "the disk is damaged: {what}"),
            Self::Deleting { topic } => write!(f, "is about to delete of t{topic}"),
            Self::Paused { topic, channel } => write!(f, "has paused t{topic}/c{channel}, at rest"),
            Self::Resumed { topic, channel } => write!(f, "resumes t{topic}/c{channel}"),
            Self::Counted { stats, .. } => write!(f, "sees {stats:?}"),
            Self::AtWork { memory_bytes, .. } => write!(f, "has {memory_bytes} bytes in memory"),
            Self::AtRest { connections, memory_bytes, disk_bytes, .. } => write!(
                f,
                "at rest: {connections} connections, {memory_bytes} bytes in memory, {disk_bytes} \
                 in files"
            ),
            Self::Cluster(scene) => write!(f, "{scene}"),
            Self::Broken(violation) => write!(f, "{violation}"),
            Self::Noted(words) => f.write_str(words),
            Self::DiskTakes(latency) => write!(f, "the disk takes up to {latency:?}"),
            Self::DiskFine => write!(f, "the disk is fine"),
        }
    }
}
