//! Reading the inbox.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use ltq_core::{Subscription, Tag, Timestamp};
use parking_lot::Mutex;

use crate::{InboxError, MeshName};

/// Reads the messages of a program's inbox, oldest first. Several readers share them.
///
/// A message that is not acked is delivered again: at once when it is dropped, and after the broker's
/// `delivery_timeout` (60 s by default) when it is kept. What a reader has in hand at a time is bounded to
/// 1,000 messages and 4 MiB.
pub struct Inbox {
    subscription: Arc<Mutex<Subscription>>,
}

impl Inbox {
    pub(crate) fn new(subscription: Subscription) -> Self {
        Self { subscription: Arc::new(Mutex::new(subscription)) }
    }

    /// The next message; waits until there is one. `None` when the inbox is over without a reason. Cancel
    /// safe: a dropped call takes no message.
    ///
    /// # Errors
    /// [`InboxError::Broker`] when there is no more to be had, as after the mesh was closed. For a message
    /// that cannot be read the other ones; the next call goes on.
    pub async fn next(&mut self) -> Option<Result<InboxMessage, InboxError>> {
        // The lock is taken for each poll, so that messages can be acked while somebody waits here. Nothing
        // is lost with a call that is made anew each time: receiving is cancel safe.
        let received = poll_fn(|context| {
            let mut subscription = self.subscription.lock();
            let receiving = pin!(subscription.receive());
            receiving.poll(context)
        })
        .await;
        let received = match received {
            Ok(None) => return None,
            Ok(Some(received)) => received,
            Err(error) => return Some(Err(error.into())),
        };
        let from = received.message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let Some(from) = from.and_then(|name| MeshName::new(name).ok()) else {
            return Some(Err(InboxError::NoSender));
        };
        Some(Ok(InboxMessage {
            from,
            body: received.message.body,
            time: received.time,
            attempt: received.attempt,
            tag: Some(received.tag),
            subscription: self.subscription.clone(),
        }))
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// A message of the inbox. Dropped without an ack, it is given back and delivered again.
pub struct InboxMessage {
    from: MeshName,
    body: Bytes,
    time: Timestamp,
    attempt: u32,
    /// `None` once it is settled.
    tag: Option<Tag>,
    subscription: Arc<Mutex<Subscription>>,
}

impl InboxMessage {
    /// Who sent it.
    #[must_use]
    pub const fn from(&self) -> &MeshName {
        &self.from
    }

    /// What was sent.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// When it came into the inbox.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Which delivery of it this is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// It is done. An ack that comes after the delivery's timeout changes nothing: the message is delivered
    /// again.
    ///
    /// # Errors
    /// [`InboxError::Broker`] when the inbox is closed.
    pub fn ack(mut self) -> Result<(), InboxError> {
        match self.tag.take() {
            Some(tag) => Ok(self.subscription.lock().ack(tag)?),
            None => Ok(()),
        }
    }

    /// It is to be delivered again, after `delay` (seven days at most).
    ///
    /// # Errors
    /// [`InboxError::Broker`] when the inbox is closed; it is delivered again once it is opened.
    pub fn requeue(mut self, delay: Duration) -> Result<(), InboxError> {
        match self.tag.take() {
            Some(tag) => Ok(self.subscription.lock().requeue(tag, delay)?),
            None => Ok(()),
        }
    }

    /// Its timeout starts anew.
    ///
    /// # Errors
    /// [`InboxError::Broker`] when the inbox is closed.
    pub fn touch(&self) -> Result<(), InboxError> {
        match self.tag {
            Some(tag) => Ok(self.subscription.lock().touch(tag)?),
            None => Ok(()),
        }
    }
}

impl Drop for InboxMessage {
    fn drop(&mut self) {
        if let Some(tag) = self.tag.take() {
            // Of a closed inbox everything that is not acked is delivered again.
            let _ = self.subscription.lock().requeue(tag, Duration::ZERO);
        }
    }
}

impl std::fmt::Debug for InboxMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboxMessage")
            .field("from", &self.from)
            .field("bytes", &self.body.len())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
