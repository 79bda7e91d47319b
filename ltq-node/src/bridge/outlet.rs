//! Where messages go: [`Outlet`], over a producer that is opened when it is first needed.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use ltq_client::{
    Availability, Client, Cluster, ClusterError, ClusterPendingReceipt, ClusterProducer,
    ClusterPublishError, PendingReceipt, Producer, PublishError, RequestError,
};
use ltq_core::{Credit, Durability, Message, Refusal, RefusalCode, TopicName};
use thiserror::Error;

/// Where a topic's messages go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// The nodes of a cluster.
    Cluster {
        /// Which.
        cluster: Cluster,
        /// The topic there.
        topic: TopicName,
        /// How durable messages are to be before they count as stored; `None` is as the topic is set.
        durability: Option<Durability>,
        /// In which order they are stored.
        order: Order,
    },
    /// One node.
    Node {
        /// Its client.
        client: Client,
        /// The topic there.
        topic: TopicName,
        /// How durable messages are to be before they count as stored; `None` is as the topic is set.
        durability: Option<Durability>,
    },
}

/// How a cluster keeps the order of what it is given: [`ClusterProducer`] has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not at all: each message goes to the node that has least to do. What was sent to a node that is lost for
    /// so long goes to others, and may be stored twice.
    Free(Duration),
    /// Messages of one key, and those without a key, go to one node in the order in which they came. What was
    /// sent to a node that is lost waits for it.
    Waiting,
    /// The same, and what belongs to a node that is lost for so long goes to others. What was sent to it may
    /// be there too.
    Moving(Duration),
}

/// Why a message was not stored, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The destination refuses it, and would again.
    #[error("{0}")]
    Refused(Refusal),
    /// It may be stored later, or is.
    #[error("{0}")]
    Later(String),
}

/// The way to a [`Destination`], which is opened by the first message.
pub(super) struct Outlet {
    destination: Destination,
    window: Credit,
    state: State,
}

enum State {
    Closed,
    Opening(BoxFuture<'static, Result<Open, Failure>>),
    Open(Open),
}

enum Open {
    Cluster(ClusterProducer),
    Node(Producer),
}

/// What becomes of a message that was given away: a future of it.
pub(super) enum Answer {
    Cluster(ClusterPendingReceipt),
    Node(PendingReceipt),
}

impl Outlet {
    /// To there; at most as much as the window is ever under way.
    pub(super) const fn new(destination: Destination, window: Credit) -> Self {
        Self { destination, window, state: State::Closed }
    }

    /// Takes one message, opening the way first where that is still to be done.
    ///
    /// Cancel safe: dropped before it returns, the message was not taken, and opening goes on with the next
    /// call.
    pub(super) async fn take(&mut self, message: Message) -> Result<Answer, Failure> {
        loop {
            match &mut self.state {
                State::Open(Open::Cluster(producer)) => {
                    return Ok(Answer::Cluster(producer.enqueue(message).await?));
                }
                State::Open(Open::Node(producer)) => {
                    return Ok(Answer::Node(producer.enqueue(message).await?));
                }
                State::Opening(opening) => {
                    let opened = opening.await;
                    self.state = State::Closed;
                    self.state = State::Open(opened?);
                }
                State::Closed => {
                    self.state =
                        State::Opening(Box::pin(open(self.destination.clone(), self.window)));
                }
            }
        }
    }

    /// Has the way opened anew by the next message.
    pub(super) fn close(&mut self) {
        drop(mem::replace(&mut self.state, State::Closed));
    }
}

async fn open(destination: Destination, window: Credit) -> Result<Open, Failure> {
    // Encoded, a message is no longer than this.
    let bytes = usize::try_from(window.bytes.saturating_mul(2)).unwrap_or(usize::MAX);
    let messages = usize::try_from(window.messages).unwrap_or(usize::MAX);
    match destination {
        Destination::Cluster { cluster, topic, durability, order } => {
            let mut builder = cluster
                .producer_builder(&topic)
                .timeout(ANSWER_MAX)
                .window_messages(messages)
                .window_bytes(bytes)
                // A message that has no id is known by its origin.
                .ids(false);
            if let Some(durability) = durability {
                builder = builder.durability(durability);
            }
            let builder = match order {
                Order::Free(after) => builder.failover_after(after),
                Order::Waiting => builder.ordered(Availability::Fail).moves_silently(true),
                Order::Moving(after) => {
                    builder.ordered(Availability::Move).moves_silently(true).failover_after(after)
                }
            };
            Ok(Open::Cluster(builder.open().await?))
        }
        Destination::Node { client, topic, durability } => {
            let mut builder = client
                .producer_builder(&topic)
                .timeout(ANSWER_MAX)
                .window_messages(messages)
                .window_bytes(bytes);
            if let Some(durability) = durability {
                builder = builder.durability(durability);
            }
            Ok(Open::Node(builder.open().await?))
        }
    }
}

impl Future for Answer {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Cluster(pending) => {
                Pin::new(pending).poll(context).map(|answer| Ok(answer.map(drop)?))
            }
            Self::Node(pending) => {
                Pin::new(pending).poll(context).map(|answer| Ok(answer.map(drop)?))
            }
        }
    }
}

impl Failure {
    fn of(refusal: Option<&Refusal>, error: impl fmt::Display) -> Self {
        match refusal.filter(|refusal| is_for_good(refusal.code)) {
            Some(refusal) => Self::Refused(refusal.clone()),
            None => Self::Later(error.to_string()),
        }
    }
}

impl From<ClusterPublishError> for Failure {
    fn from(error: ClusterPublishError) -> Self {
        Self::of(error.refusal(), &error)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::of(error.refusal(), &error)
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        // What refuses a producer is no fault of the message that it is opened for.
        Self::Later(error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Later(error.to_string())
    }
}

/// Whether a refusal is of the message itself, so that it would come again and others would not have it.
const fn is_for_good(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::MessageTooLarge
            | RefusalCode::Malformed
            | RefusalCode::OutOfRange
            | RefusalCode::FrameTooLarge
            | RefusalCode::Damaged
    )
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("destination", &self.destination).finish_non_exhaustive()
    }
}

/// How long a message that was sent is waited for: a destination that comes back in that time stores once
/// what it was sent, and later may store it twice.
const ANSWER_MAX: Duration = Duration::from_secs(24 * 3_600);
