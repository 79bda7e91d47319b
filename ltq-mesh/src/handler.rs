//! Who is asked before a message is stored.

use std::{panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::timeout;

use crate::{
    MeshName,
    lines::{self, say},
    wire::shortened,
};

/// Is asked about each message that another program sends, before it is stored.
///
/// # What an implementation keeps to
///
/// - It is asked about the messages of one sender one after another, in their order, and about those of
///   several senders at once. Who is slow holds up that sender, up to its acknowledgement timeout for each
///   message, and nobody else.
/// - Its answer may be given up at any await: when the sender's patience or connection ends. It may be
///   asked about a message again: when the connection was lost before the message was stored.
/// - That it accepts is not yet that the message is in the inbox: the broker may have no room.
///
/// A panic rejects the message, and harms nothing else.
#[async_trait]
pub trait InboxHandler: Send + Sync + 'static {
    /// Whether a message of `from` is to be stored in the inbox.
    async fn accept(&self, from: &MeshName, body: &Bytes) -> Admission;
}

/// What a handler says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is to be stored.
    Accept,
    /// It is not. Its sender is told why.
    Reject {
        /// In words, of which the first 1,024 bytes are told.
        reason: String,
    },
}

impl Admission {
    /// It is not to be stored, for this reason.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into() }
    }
}

/// Asks, for at most so long. An error has the words for the sender.
pub(crate) async fn ask(
    handler: &dyn InboxHandler,
    from: &MeshName,
    body: &Bytes,
    patience: Duration,
    lines: &lines::Kind,
) -> Result<(), String> {
    // Making the future may panic as well.
    let asked = AssertUnwindSafe(async { handler.accept(from, body).await }).catch_unwind();
    match timeout(patience, asked).await {
        Ok(Ok(Admission::Accept)) => Ok(()),
        Ok(Ok(Admission::Reject { reason })) => Err(shortened(reason)),
        Ok(Err(_)) => {
            say!(lines, warn, %from, "the inbox handler panicked; the message is rejected");
            Err("internal: the inbox handler panicked".to_owned())
        }
        Err(_) => Err(format!("the inbox handler took longer than {patience:?}")),
    }
}
