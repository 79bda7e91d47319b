//! A producer that works for a cluster's, beside those on other nodes.

use std::{fmt, sync::Arc};

use ltq_core::{Durability, Message, Records, TopicName};
use tokio::time::Instant;

use super::{
    ProducerLease,
    calls::{Failure, RangeList, Rest},
    receipt::{BatchReceipt, Receipt},
    room::{Room, Rooms},
    shared::{ProducerShared, Reply, Settings, Then},
};
use crate::{
    Client, RequestError, UnknownCause,
    cluster::{Behalf, Errand},
    connection::{Command, Opening},
};

/// What is to be published.
#[derive(Debug)]
pub(crate) enum Load {
    /// A message, which is encoded when it is taken.
    One(Message),
    /// Messages, encoded.
    Records(Vec<Records>),
}

/// What a cluster's producer lends to a node: everything that is not known when it is made anew.
pub(crate) struct Lending {
    pub(crate) settings: Settings,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) behalf: Behalf,
}

/// A producer on one node.
pub(crate) struct Lent {
    shared: Arc<ProducerShared>,
    behalf: Arc<Behalf>,
    _lease: ProducerLease,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(self.behalf.node()).finish()
    }
}

impl Lent {
    /// Begins to open one. The future ends by the client's request timeout; dropping it changes nothing.
    pub(crate) fn open(
        client: &Client,
        lending: Lending,
    ) -> (Self, impl Future<Output = Result<(), RequestError>> + Send + use<>) {
        let Lending { settings, rooms, behalf } = lending;
        let doing = format!("opening a producer for {} on {}", settings.topic, behalf.node());
        let (opening, opened) = Opening::new();
        let hub = client.lease().hub();
        let after = hub.config.request_timeout;
        let behalf = Arc::new(behalf);
        let lent = Some(behalf.clone());
        let shared = ProducerShared::new(hub.clone(), settings, opening, rooms, lent);
        let shared = Arc::new(shared);
        let lease = ProducerLease { handle: shared.handle, client: client.lease().clone() };
        hub.command(Command::OpenProducer(shared.clone()));
        (Self { shared, behalf, _lease: lease }, opened.wait(doing, after))
    }

    /// Takes what is to be published, unless it is at rest or over.
    ///
    /// # Errors
    /// All of it back.
    #[expect(clippy::result_large_err, reason = "it is given back as it is, and seldom")]
    pub(crate) fn take(
        &self,
        load: Load,
        rest: (Room, Instant),
        linger_until: Option<Instant>,
        errand: Errand,
        then: Then,
    ) -> Result<(), (Load, Errand)> {
        let (room, deadline) = rest;
        let behalf = &self.behalf;
        behalf.hold(room.bytes);
        let result = self.shared.put((load, errand), then, |window, (load, errand)| {
            let reply = Reply::Errand(errand);
            match load {
                Load::One(message) => window.push(&message, room, deadline, linger_until, reply),
                Load::Records(records) => window.push_records(records, room, deadline, reply),
            }
        });
        result.map_err(|(_, back)| {
            behalf.release(room.bytes);
            back
        })
    }

    /// For whom it works.
    pub(crate) fn behalf(&self) -> &Behalf {
        &self.behalf
    }

    /// Takes nothing more until [`wake`](Self::wake), and gives back everything of which nothing is on
    /// its way.
    pub(crate) fn rest(&self) {
        self.shared.rest();
    }

    /// Takes messages again.
    pub(crate) fn wake(&self) {
        self.shared.wake();
    }

    /// Ends it: everything unanswered ends now, and nothing is sent any more, nor sent again. Of what
    /// was never sent nothing happened; of the rest nobody knows.
    pub(crate) fn abandon(&self) {
        self.shared.end(&UnknownCause::ConnectionLost);
    }

    /// Whether it takes nothing ever again.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// Whether the broker has answered nothing of what it has for too long.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.is_silent()
    }

    /// Whether messages were sent that are not answered, be it that their calls are.
    pub(crate) fn is_anything_sent(&self) -> bool {
        self.shared.is_anything_sent()
    }

    /// Calls that are not answered.
    pub(crate) fn pending(&self) -> usize {
        self.shared.pending()
    }
}

/// What it tells whom it works for.
impl ProducerShared {
    pub(super) fn answer_errand(&self, errand: Errand, done: Done) {
        let Some(behalf) = self.behalf() else { return };
        let error = done.failure.as_ref().map(|failure| self.error(failure));
        match (done.failure, error) {
            (Some(failure), Some(error)) => {
                if let Some(rest) = &done.rest {
                    behalf.release(rest.room.bytes);
                }
                behalf.failed(errand, done.stored, done.rest, &failure, error);
            }
            _ => behalf.stored(errand, done.stored),
        }
    }
}

/// What became of an errand on one node.
pub(super) struct Done {
    pub(super) stored: Stored,
    pub(super) failure: Option<Failure>,
    pub(super) rest: Option<Rest>,
}

/// What of an errand one node has stored.
pub(crate) struct Stored {
    pub(crate) topic: TopicName,
    pub(crate) ranges: RangeList,
    pub(crate) durability: Durability,
}

impl Stored {
    /// The receipt of one message.
    pub(crate) fn one(&self) -> Option<Receipt> {
        let range = self.ranges.first?;
        Some(Receipt {
            topic: self.topic.clone(),
            offset: range.offset,
            sequence: range.sequence,
            durability: self.durability,
        })
    }

    /// The receipt of all of them, if there are any.
    pub(crate) fn all(self) -> Option<BatchReceipt> {
        self.ranges.first?;
        let Self { topic, ranges, durability } = self;
        Some(BatchReceipt { topic, ranges: ranges.into_vec(), durability })
    }
}
