//! What a bridge does, for people and programs that look: [`RouteFigures`], [`TopicFigures`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ltq_core::{Timestamp, TopicName};
use ltq_discovery::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was done on a route since the bridge started, in all its topics.
        #[derive(Debug, Default)]
        pub struct RouteFigures {
            $(pub(super) $name: AtomicU64,)*
        }

        /// [`RouteFigures`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct RouteCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl RouteFigures {
            /// What it stands at.
            #[must_use]
            pub fn counts(&self) -> RouteCounts {
                RouteCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Messages that the destination has stored.
    forwarded,
    /// The bytes of their bodies.
    forwarded_bytes,
    /// Messages that have been at the destination before, acked and not forwarded.
    skipped_loop,
    /// Messages that have left too many sites, acked and not forwarded.
    skipped_hops,
    /// Messages without the headers that the route asks for, acked and not forwarded.
    skipped_filter,
    /// Messages that the destination refused for good, acked and not forwarded, as the route wants it.
    skipped_refused,
    /// Deliveries of messages that were forwarded before, acked again.
    skipped_repeat,
    /// Messages that the destination refused for good and that were moved to the topic for these.
    parked,
    /// Messages whose origin could not be read, forwarded as though they had none.
    garbled_origins,
    /// Messages whose ack came too late or by a connection that was gone: they may come again.
    late_acks,
    /// Messages that came damaged or cannot be read: they stay at the source.
    unreadable,
    /// Times that the destination refused a message for good.
    refusals,
    /// Times that something failed and was tried again: subscribing, opening, publishing.
    failures,
}

/// What a topic on one node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is being subscribed to.
    Starting,
    /// What comes is forwarded.
    Forwarding,
    /// Nothing goes at present: it is tried again.
    Waiting(String),
    /// The destination refuses a message for good, and the topic waits behind it; it is tried again.
    Held(String),
}

impl Status {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Forwarding => "forwarding",
            Self::Waiting(_) => "waiting",
            Self::Held(_) => "held",
        }
    }

    /// Why it is so, where that is not as it should be.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Starting | Self::Forwarding => None,
            Self::Waiting(why) | Self::Held(why) => Some(why),
        }
    }
}

/// A topic on one node that is forwarded.
#[derive(Debug)]
pub struct TopicFigures {
    route: Arc<RouteFigures>,
    /// What it is called at the destination.
    pub to: TopicName,
    status: Mutex<(Status, Instant)>,
    unconfirmed: AtomicU64,
    /// Plus 1; 0 is not known.
    backlog: AtomicU64,
    /// The time of the last message that was forwarded.
    reached: AtomicU64,
}

impl TopicFigures {
    /// Those of a topic that begins, called so at the destination, of this route.
    #[must_use]
    pub fn new(route: Arc<RouteFigures>, to: TopicName) -> Self {
        Self {
            route,
            to,
            status: Mutex::new((Status::Starting, Instant::now())),
            unconfirmed: AtomicU64::new(0),
            backlog: AtomicU64::new(0),
            reached: AtomicU64::new(0),
        }
    }

    /// Those of its route.
    #[must_use]
    pub fn route(&self) -> &RouteFigures {
        &self.route
    }

    /// What it is doing, and since when.
    #[must_use]
    pub fn status(&self) -> (Status, Instant) {
        self.status.lock().clone()
    }

    /// Messages that were taken and are not stored at the destination yet.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    /// Messages at the source that are not acked; `None` where the source does not tell.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        self.backlog.load(Ordering::Relaxed).checked_sub(1)
    }

    /// When the source took in the message that was forwarded last; `None` before the first one.
    #[must_use]
    pub fn reached(&self) -> Option<Timestamp> {
        match self.reached.load(Ordering::Relaxed) {
            0 => None,
            time => Some(Timestamp(time)),
        }
    }

    /// Says what it is doing now. Returns whether that is something else than before.
    pub(super) fn set_status(&self, status: Status) -> bool {
        let mut now = self.status.lock();
        if now.0 == status {
            return false;
        }
        let is_other = now.0.word() != status.word();
        let since = if is_other { Instant::now() } else { now.1 };
        *now = (status, since);
        true
    }

    pub(super) fn set_unconfirmed(&self, count: usize) {
        self.unconfirmed.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn set_backlog(&self, backlog: Option<u64>) {
        let stored = backlog.map_or(0, |backlog| backlog.saturating_add(1));
        self.backlog.store(stored, Ordering::Relaxed);
    }

    pub(super) fn set_reached(&self, time: Timestamp) {
        self.reached.store(time.0, Ordering::Relaxed);
    }
}

/// One more of a count.
pub(super) fn count(of: &AtomicU64) {
    add(of, 1);
}

/// So many more.
pub(super) fn add(of: &AtomicU64, more: u64) {
    of.fetch_add(more, Ordering::Relaxed);
}

/// A topic on a node.
pub type TopicOnNode = (NodeId, TopicName);

/// What is forwarded at present, by node and topic, each with the number of its route.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Topics>>);

type Topics = BTreeMap<NodeId, BTreeMap<TopicName, (usize, Arc<TopicFigures>)>>;

impl Board {
    /// All of it, in order.
    #[must_use]
    pub fn all(&self) -> Vec<(TopicOnNode, usize, Arc<TopicFigures>)> {
        let nodes = self.0.lock();
        nodes
            .iter()
            .flat_map(|(node, topics)| topics.iter().map(move |topic| (node, topic)))
            .map(|(node, (topic, (route, figures)))| {
                ((node.clone(), topic.clone()), *route, figures.clone())
            })
            .collect()
    }

    /// What is forwarded of one node, in order of the topics.
    pub(super) fn of(&self, node: &NodeId) -> Vec<(TopicName, usize, Arc<TopicFigures>)> {
        let nodes = self.0.lock();
        let topics = nodes.get(node).into_iter().flatten();
        topics.map(|(topic, (route, figures))| (topic.clone(), *route, figures.clone())).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Shows a topic for as long as what is returned is kept.
    pub(super) fn show(&self, of: TopicOnNode, route: usize, figures: Arc<TopicFigures>) -> Shown {
        let (node, topic) = of.clone();
        self.0.lock().entry(node).or_default().insert(topic, (route, figures.clone()));
        Shown { board: self.clone(), of, figures }
    }
}

/// A topic's place on a [`Board`].
#[derive(Debug)]
pub(super) struct Shown {
    board: Board,
    of: TopicOnNode,
    figures: Arc<TopicFigures>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut nodes = self.board.0.lock();
        let (node, topic) = &self.of;
        let Some(topics) = nodes.get_mut(node) else { return };
        // A later one may stand there already.
        if topics.get(topic).is_some_and(|(_, figures)| Arc::ptr_eq(figures, &self.figures)) {
            topics.remove(topic);
        }
        if topics.is_empty() {
            nodes.remove(node);
        }
    }
}
