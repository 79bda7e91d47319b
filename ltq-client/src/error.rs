//! Why a call failed, and what is left of it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ltq_core::{
    Address, AddressError, Effect, MessageError, NameError, Offset, RecordsError, Refusal,
    RefusalCode, TopicName, TransportError,
};
use thiserror::Error;

use crate::{BatchReceipt, producer::passes};

/// What is left of a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing happened, and nothing will: trying again is safe.
    Nothing,
    /// It may have happened, or still happen.
    Unknown,
}

impl From<Effect> for Outcome {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Nothing | Effect::Fatal => Self::Nothing,
            Effect::Unknown => Self::Unknown,
        }
    }
}

/// Why nobody knows whether something happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnknownCause {
    /// It was sent, and no answer came in time.
    #[error("no answer within {after:?} after it was sent")]
    TimedOut {
        /// The time that it had.
        after: Duration,
    },
    /// The broker does not know either.
    #[error("the broker says: {0}")]
    Broker(Refusal),
    /// The connection was cut after it was sent, and the broker that answered next knows nothing
    /// of this producer any more, or is another one.
    #[error("the connection was lost, and the broker found after it does not remember")]
    Forgotten,
    /// The connection was cut before the answer came.
    #[error("the connection was lost before the answer came")]
    ConnectionLost,
    /// The client was closed, or its runtime stopped, before the answer came.
    #[error("the client was closed before the answer came")]
    Closed,
}

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No server was named.
    #[error("no server to connect to; name at least one")]
    NoServer,
    /// A server's address cannot be read.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The transport could not connect, or there is none for this kind of address.
    #[error("cannot connect to {address}: {source}")]
    Transport {
        /// The address.
        address: Address,
        /// Why.
        source: Arc<TransportError>,
    },
    /// Nothing came of it in time.
    #[error("{address} did not answer within {after:?}")]
    TimedOut {
        /// The address.
        address: Address,
        /// The time that it had.
        after: Duration,
    },
    /// The broker does not want this client: a wrong token, no common version, it is stopping.
    #[error("{address} refused the connection: {refusal}")]
    Refused {
        /// The address.
        address: Address,
        /// The broker's words.
        refusal: Refusal,
    },
    /// The broker broke the protocol.
    #[error("{address} does not speak the protocol: {what}")]
    Protocol {
        /// The address.
        address: Address,
        /// What it did.
        what: String,
    },
    /// The connection was up and is not any more.
    #[error("the connection to {address} was lost: {cause}")]
    Lost {
        /// The address.
        address: Address,
        /// Why.
        cause: String,
    },
    /// The client was closed meanwhile.
    #[error("the client is closed")]
    Closed,
}

impl ConnectError {
    /// Whether a server was there and refused for what may be no longer so after a while, when it has fewer
    /// connections, say.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            // What is left of a flood is over within a second.
            Self::Refused { refusal, .. } => {
                passes(refusal.code) || matches!(refusal.code, RefusalCode::Flooding)
            }
            _ => false,
        }
    }
}

/// Why a message has no receipt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker refused it, or would: nothing happened.
    #[error("publishing to {topic} was refused: {refusal}")]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The reason.
        refusal: Refusal,
    },
    /// Its time was up before it could be handed to a connection: nothing happened. The window
    /// was full, or there was no connection.
    #[error("publishing to {topic}: it could not be sent within {after:?}")]
    TimedOut {
        /// The topic.
        topic: TopicName,
        /// The time that it had.
        after: Duration,
    },
    /// The producer or client is closed: nothing happened.
    #[error("publishing to {topic}: the producer is closed")]
    Closed {
        /// The topic.
        topic: TopicName,
    },
    /// It may have been stored, or still be.
    #[error("publishing to {topic}: nobody knows whether it was stored: {cause}")]
    Unknown {
        /// The topic.
        topic: TopicName,
        /// Why.
        cause: UnknownCause,
    },
}

impl PublishError {
    /// Whether it may have happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { .. } | Self::TimedOut { .. } | Self::Closed { .. } => Outcome::Nothing,
            Self::Unknown { .. } => Outcome::Unknown,
        }
    }

    /// The broker's refusal, where there is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. }
            | Self::Unknown { cause: UnknownCause::Broker(refusal), .. } => Some(refusal),
            _ => None,
        }
    }
}

/// Why a batch was not stored whole. Of its messages a first part may have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{error} (the first {} messages of the batch were stored)", stored.len())]
pub struct BatchError {
    /// The messages from the front that are certainly stored.
    pub stored: BatchReceipt,
    /// What became of all others.
    pub error: PublishError,
}

impl BatchError {
    /// Whether those that are not in `stored` may have been stored all the same.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.error.outcome()
    }
}

/// Why a request other than a publish failed: opening a producer or consumer, or an operator's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A name in it is none. Nothing was sent.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An option in it is out of its range. Nothing was sent.
    #[error("{what} is {got}; {allowed}")]
    Option {
        /// The option.
        what: &'static str,
        /// The value given.
        got: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The broker refused it.
    #[error("{doing} was refused: {refusal}")]
    Refused {
        /// What was asked.
        doing: String,
        /// The reason.
        refusal: Refusal,
    },
    /// Its time was up before there was a connection to send it on: nothing happened.
    #[error("{doing}: it could not be sent within {after:?}")]
    TimedOut {
        /// What was asked.
        doing: String,
        /// The time that it had.
        after: Duration,
    },
    /// The client is closed: nothing happened.
    #[error("{doing}: the client is closed")]
    Closed {
        /// What was asked.
        doing: String,
    },
    /// It may have happened.
    #[error("{doing}: nobody knows whether it happened: {cause}")]
    Unknown {
        /// What was asked.
        doing: String,
        /// Why.
        cause: UnknownCause,
    },
    /// The broker's answer was not one to this request.
    #[error("{doing}: the broker's answer does not fit the request")]
    WrongAnswer {
        /// What was asked.
        doing: String,
    },
}

impl RequestError {
    /// Whether it may have happened.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Name(_) | Self::Option { .. } | Self::TimedOut { .. } | Self::Closed { .. } => {
                Outcome::Nothing
            }
            Self::Refused { refusal, .. } => refusal.code.effect().into(),
            Self::Unknown { .. } | Self::WrongAnswer { .. } => Outcome::Unknown,
        }
    }

    /// The broker's refusal, where there is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. }
            | Self::Unknown { cause: UnknownCause::Broker(refusal), .. } => Some(refusal),
            _ => None,
        }
    }
}

impl From<Infallible> for RequestError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// An item of a consumer's stream that is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A message was damaged on its way from the broker. It was given back and comes again after
    /// a delay; the stream goes on.
    #[error("the message at {offset} was damaged on its way: {error}")]
    Damaged {
        /// Its place in the topic.
        offset: Offset,
        /// What is wrong with it.
        error: RecordsError,
    },
    /// A message whose producer did not encode it as LTQ does. It was given back and comes again
    /// after a delay; the stream goes on.
    #[error("the message at {offset} cannot be read: {error}")]
    Unreadable {
        /// Its place in the topic.
        offset: Offset,
        /// What is wrong with it.
        error: MessageError,
    },
    /// The broker ended the subscription: its topic or channel was deleted, say. The stream ends
    /// behind this item.
    #[error("the subscription is over: {0}")]
    Ended(Refusal),
}

impl ConsumeError {
    /// Whether the stream ends behind this item.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// The delivery is not this consumer's any more: its connection was cut, or its consumer closed.
/// The broker has given the message to somebody again, or will; this answer changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the delivery is void: the connection or consumer that it came by is gone")]
pub struct StaleError;

/// Why a confirmed settlement did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettleError {
    /// It came too late and changed nothing: the delivery's time was up, or its connection or
    /// consumer is gone.
    #[error("the answer came too late and changes nothing: the delivery is void")]
    Stale,
    /// It may have happened.
    #[error("nobody knows whether the delivery was settled: {0}")]
    Unknown(UnknownCause),
}

impl SettleError {
    /// Whether it may have happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Stale => Outcome::Nothing,
            Self::Unknown(_) => Outcome::Unknown,
        }
    }
}

impl From<StaleError> for SettleError {
    fn from(_: StaleError) -> Self {
        Self::Stale
    }
}

/// Closing did not come to its end in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "closed without an answer for {publishes} publishes and {subscriptions} subscriptions within {after:?}"
)]
pub struct CloseError {
    /// Calls of `send`, `enqueue` and `enqueue_batch` that were not answered.
    pub publishes: usize,
    /// Subscriptions whose end was not confirmed: their last settlements may be lost.
    pub subscriptions: usize,
    /// The time that it had.
    pub after: Duration,
}
