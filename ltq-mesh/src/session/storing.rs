//! Putting a peer's messages into the inbox.

use std::sync::Arc;

use bytes::Bytes;
use ltq_core::{DirectError, Message, Publisher, RecordsBuilder, Refusal, RefusalCode};
use tokio::time::timeout;

use super::{End, Session};
use crate::{
    DownCause,
    error::is_full,
    wire::{Farewell, NotStored, Say, shortened},
};

impl Session<'_> {
    /// Opens the way into the inbox, says what is there already, and stores what is accepted, in order.
    ///
    /// The way is opened under the peer's name and instance. That ends whatever an earlier connection of it
    /// still had under way there, so that what it says to be stored is all that is and will be.
    pub(super) async fn store(&self) -> End {
        let settings = &self.shared.settings;
        let name = match self.peer.name().producer(self.instance) {
            Ok(name) => name,
            Err(error) => return ended(&error.to_string()),
        };
        let opening = self.shared.publisher(Some(name));
        let mut publisher = match timeout(settings.read_timeout, opening).await {
            Ok(Ok(publisher)) => publisher,
            Ok(Err(error)) => return ended(&error.to_string()),
            Err(_) => return ended("its store does not answer"),
        };
        let resume = Say::Resume {
            inbox: self.shared.inbox,
            stored: publisher.last_sequence(),
            messages_max: settings.unacknowledged_messages_max as u64,
            bytes_max: settings.unacknowledged_bytes_max as u64,
            message_bytes_max: u32::try_from(settings.message_bytes_max).unwrap_or(u32::MAX),
            patience_ms: u64::try_from(settings.acknowledgement_timeout.as_millis())
                .unwrap_or(u64::MAX),
        };
        self.talk.lock().outgoing.resume(resume);
        self.peer.work.notify_one();
        let key = Bytes::copy_from_slice(self.peer.name().as_str().as_bytes());
        loop {
            let batch = self.talk.lock().arrivals.to_store(BATCH_BYTES);
            if batch.is_empty() {
                self.ready.notified().await;
                continue;
            }
            let count = batch.len();
            let stored = publish(&mut publisher, &key, batch).await;
            let mut talk = self.talk.lock();
            match stored {
                Ok(()) => {
                    if let Some(through) = talk.arrivals.stored(count) {
                        talk.outgoing.stored(through);
                    }
                }
                Err(refusal) => {
                    let Some(why) = not_stored(&refusal) else {
                        return ended(&refusal.to_string());
                    };
                    let why = Arc::new(why);
                    for number in talk.arrivals.refused(count) {
                        talk.outgoing.not_stored(number, why.clone());
                    }
                    self.unheard.notify_one();
                }
            }
            drop(talk);
            self.peer.work.notify_one();
        }
    }
}

/// Publishes all or none of them.
async fn publish(publisher: &mut Publisher, key: &Bytes, batch: Vec<Bytes>) -> Result<(), Refusal> {
    let mut records = RecordsBuilder::new();
    for body in batch {
        records.push(&Message::new(body).with_key(key.clone()));
    }
    match publisher.publish_records(records.finish()).await {
        Ok(_) => Ok(()),
        Err(DirectError::Refused(refusal)) => Err(refusal),
        Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
    }
}

/// What the peer is told of a refusal by which nothing happened and after which the connection goes on.
/// `None` where it cannot be told what happened: what is told after the next hello is what counts.
fn not_stored(refusal: &Refusal) -> Option<NotStored> {
    let detail = shortened(refusal.to_string());
    match refusal.code {
        code if is_full(code) => Some(NotStored::Full(detail)),
        RefusalCode::MessageTooLarge
        | RefusalCode::OutOfRange
        | RefusalCode::DurabilityUnavailable
        | RefusalCode::StoreFailed => Some(NotStored::Refused(detail)),
        _ => None,
    }
}

fn ended(why: &str) -> End {
    End::saying(DownCause::Inbox(why.to_owned()), Farewell::Inbox)
}

/// Bytes stored at a time, unless one message has more: what arrives while they are is stored next.
const BATCH_BYTES: u64 = 1 << 20;
