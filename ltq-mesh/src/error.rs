//! What goes wrong, and what is left of it.

use std::time::Duration;

use ltq_core::{
    AddressError, BrokerError, DirectError, Effect, MessageError, NameError, Refusal, RefusalCode,
    StoreError, TokenError,
};
use thiserror::Error;

use crate::{MeshName, MeshNameError, SettingsError};

/// Why a message is not known to be in the other's inbox.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nobody of this name is known: it is neither configured nor discovered, and has not called. Nothing
    /// happened.
    #[error("nobody called {peer:?} is known in the mesh")]
    NoSuchPeer {
        /// The name, or as much of it as fits.
        peer: String,
    },
    /// There is no connection to it. Nothing happened; it is being connected to.
    #[error("{peer} is not connected: {cause}")]
    NotConnected {
        /// To whom.
        peer: MeshName,
        /// Why not.
        cause: DownCause,
    },
    /// There is no connection, as the other does not take our token. Nothing happened.
    #[error("{peer} does not take our token")]
    Unauthenticated {
        /// To whom.
        peer: MeshName,
    },
    /// No answer came in time. [`Effect::Nothing`]: it waited for room and was never sent.
    /// [`Effect::Unknown`]: it was sent, and may be there.
    #[error("{peer} did not answer within {after:?}")]
    TimedOut {
        /// To whom.
        peer: MeshName,
        /// The acknowledgement timeout.
        after: Duration,
        /// Whether it may be there.
        effect: Effect,
    },
    /// The other's handler does not want it. It is not stored.
    #[error("{peer} rejected the message: {reason}")]
    Rejected {
        /// Who.
        peer: MeshName,
        /// Why, in the handler's words, of at most 1,024 bytes.
        reason: String,
    },
    /// It has more bytes than we send, or the other takes. Nothing happened.
    #[error("a message of {bytes} bytes; the limit is {max}")]
    TooLarge {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        max: usize,
    },
    /// The connection was lost while it was on its way, and did not come back in time. It may be there.
    #[error("the connection to {peer} was lost while the message was on its way: {cause}")]
    WriteFailed {
        /// To whom.
        peer: MeshName,
        /// How it was lost.
        cause: DownCause,
    },
    /// The connection was lost while it was on its way, and who answered next has another inbox, or one that
    /// has lost its memory. It may have been there, and was not sent again.
    #[error("{peer} came back with another inbox while the message was on its way")]
    Forgotten {
        /// To whom.
        peer: MeshName,
    },
    /// The other's inbox has no room, or too much has come to it from all programs together. It is not
    /// stored.
    #[error("the inbox of {peer} is full: {detail}")]
    InboxFull {
        /// Whose.
        peer: MeshName,
        /// In the words of its broker.
        detail: String,
    },
    /// The other's broker did not take it for another reason.
    #[error("the broker of {peer} refused the message: {detail}")]
    Refused {
        /// Whose.
        peer: MeshName,
        /// In the words of its broker.
        detail: String,
        /// Whether it may be there: only in one's own inbox, when the store failed meanwhile.
        effect: Effect,
    },
    /// The mesh was closed.
    #[error("the mesh was closed")]
    Closed {
        /// Whether it may be there: it was on its way then.
        effect: Effect,
    },
}

impl SendError {
    /// What the call has done: [`Effect::Nothing`] when the message is in no inbox and will not be, so
    /// that sending it again is safe, [`Effect::Unknown`] when it may be.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::NoSuchPeer { .. }
            | Self::NotConnected { .. }
            | Self::Unauthenticated { .. }
            | Self::Rejected { .. }
            | Self::TooLarge { .. }
            | Self::InboxFull { .. } => Effect::Nothing,
            Self::WriteFailed { .. } | Self::Forgotten { .. } => Effect::Unknown,
            Self::TimedOut { effect, .. }
            | Self::Refused { effect, .. }
            | Self::Closed { effect } => *effect,
        }
    }

    /// What a broker's refusal means for a message.
    pub(crate) fn of_refusal(peer: MeshName, refusal: &Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal.code {
            code if is_full(code) => Self::InboxFull { peer, detail },
            code => Self::Refused { peer, detail, effect: code.effect() },
        }
    }
}

/// Whether a refusal is for want of room.
pub(crate) const fn is_full(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::StoreFull | RefusalCode::LimitReached)
}

/// Why there is no connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DownCause {
    /// It has only just begun.
    #[error("nothing has come of it yet")]
    NotYet,
    /// No address of it is known, and it has not called.
    #[error("none of its addresses is known, and it has not called")]
    NoAddress,
    /// Its addresses lead nowhere.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer the hello.
    #[error("no answer to the hello within {0:?}")]
    NoAnswer(Duration),
    /// It does not take our token.
    #[error("it does not take our token")]
    Unauthenticated,
    /// It is connected with another process that has our name.
    #[error("it is connected with another process of our name")]
    NameTaken,
    /// It refused for another reason, or is not who was meant.
    #[error("it refused: {0}")]
    Refused(String),
    /// The connection was cut.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nothing was heard of it, for so long: the read timeout, or less when it was asked for a sign of life
    /// because another process of its name called.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// It took nothing of what was sent, for so long: the write timeout.
    #[error("it took nothing for {0:?}")]
    Stalled(Duration),
    /// It did not end what it had begun to say, for so long: the read timeout, or the acknowledgement
    /// timeout where that is longer.
    #[error("it did not end within {0:?} what it had begun to say")]
    Slow(Duration),
    /// It says what has no place there.
    #[error("it does not keep to the protocol: {0}")]
    Protocol(String),
    /// It has another connection in the place of this one.
    #[error("it has called anew")]
    Replaced,
    /// It said that it stops.
    #[error("it is stopping")]
    Stopping,
    /// What we have to do with it panicked, as a transport of the program's own may. It begins anew.
    #[error("internal: {0}")]
    Internal(String),
    /// Our own inbox cannot take what it sends.
    #[error("our inbox: {0}")]
    Inbox(String),
}

/// Why a mesh did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] MeshNameError),
    /// The name of the mesh is none.
    #[error("the name of the mesh: {0}")]
    Mesh(NameError),
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A peer has our own name.
    #[error("{0} is both our name and a peer's")]
    OwnName(MeshName),
    /// A token that is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A setting is out of its bounds.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The embedded broker did not start.
    #[error("the embedded broker: {0}")]
    Broker(#[from] BrokerError),
    /// The store cannot say whose inbox it holds, or be told.
    #[error("the inbox's identity in the store: {0}")]
    Store(#[from] StoreError),
    /// The inbox cannot be published to.
    #[error("the inbox: {0}")]
    Inbox(#[from] DirectError),
}

/// Why a message of the inbox was not had, or not settled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InboxError {
    /// The broker refused: it is stopping, or the inbox was deleted.
    #[error("the inbox: {0}")]
    Broker(Refusal),
    /// A message cannot be read. It stays in the inbox, and is delivered again after its timeout.
    #[error("a message in the inbox: {0}")]
    Message(#[from] MessageError),
    /// A message names no sender: something else than this crate published it.
    #[error("a message in the inbox names no sender")]
    NoSender,
}

impl From<DirectError> for InboxError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Refused(refusal) => Self::Broker(refusal),
            DirectError::Message { error, .. } => Self::Message(error),
            error => Self::Broker(Refusal::new(RefusalCode::Internal, error.to_string())),
        }
    }
}
