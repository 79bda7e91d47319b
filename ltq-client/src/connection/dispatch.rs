//! What the frames of a broker mean.

use ltq_core::{Refusal, RefusalCode, protocol::Frame};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Driver, Ready,
    link::{Link, Lost},
};
use crate::producer::Again;

impl Driver {
    /// Hands a frame to whomever it is for.
    pub(super) fn handle_frame(
        &mut self,
        link: &mut Link,
        frame: Frame,
        now: Instant,
    ) -> Result<(), Lost> {
        match frame {
            Frame::Ping { nonce } => {
                // A broker that asks and does not read gets no answers heaped up.
                if link.has_room() {
                    link.write(&Frame::Pong { nonce });
                }
            }
            Frame::Pong { .. } => {}
            Frame::Goodbye { refusal } if refusal.code == RefusalCode::Stopping => {
                info!(node = %link.node, %refusal, "the broker is going");
                link.handle_goodbye(refusal, now);
            }
            Frame::Goodbye { refusal } => return Err(Lost::Goodbye(refusal)),
            Frame::ProducerOpened { handle, epoch, last_sequence, durability: _ } => {
                match self.producers.get(&handle) {
                    Some(producer) => {
                        producer.handle_opened(&link.server, epoch, last_sequence)?;
                        self.producer_ready(handle);
                    }
                    None => self.check_handle(handle)?,
                }
            }
            Frame::ProducerRefused { handle, refusal } => match self.producers.get(&handle) {
                Some(producer) => {
                    debug!(handle, %refusal, "producer refused");
                    note_stopping(link, &refusal, now);
                    let again = producer.handle_open_refused(&refusal);
                    let answered = producer.take_answered_bytes();
                    link.publish_bytes = link.publish_bytes.saturating_sub(answered);
                    match again {
                        Again::Never => {}
                        Again::Later => self.retry(Ready::Producer(handle), now),
                        Again::Now => producer
                            .open_frame(&link.server)
                            .into_iter()
                            .for_each(|frame| link.write(&frame)),
                    }
                }
                None => self.check_handle(handle)?,
            },
            Frame::Confirmed { handle, ranges, durability } => match self.producers.get(&handle) {
                Some(producer) => {
                    let answered = producer.handle_confirmed(&ranges, durability)?;
                    link.publish_bytes = link.publish_bytes.saturating_sub(answered);
                }
                None => self.check_handle(handle)?,
            },
            Frame::PublishRefused { handle, sequence, count, refusal } => {
                match self.producers.get(&handle) {
                    Some(producer) => {
                        note_stopping(link, &refusal, now);
                        let answered = producer.handle_publish_refused(sequence, count, refusal)?;
                        link.publish_bytes = link.publish_bytes.saturating_sub(answered);
                        self.producer_ready(handle);
                    }
                    None => self.check_handle(handle)?,
                }
            }
            frame => return self.handle_consumer_frame(link, frame, now),
        }
        Ok(())
    }

    fn handle_consumer_frame(
        &mut self,
        link: &mut Link,
        frame: Frame,
        now: Instant,
    ) -> Result<(), Lost> {
        match frame {
            Frame::Subscribed { handle, timeout_ms } => match self.consumers.get(&handle) {
                Some(consumer) => consumer.handle_subscribed(timeout_ms)?,
                None => self.check_handle(handle)?,
            },
            Frame::SubscribeRefused { handle, refusal } => {
                if let Some(consumer) = self.unsubscribing.remove(&handle) {
                    consumer.handle_closed(None);
                }
                match self.consumers.get(&handle) {
                    Some(consumer) => {
                        debug!(handle, %refusal, "subscription refused");
                        note_stopping(link, &refusal, now);
                        if consumer.handle_subscribe_refused(&refusal) {
                            self.retry(Ready::Consumer(handle), now);
                        }
                    }
                    None => self.check_handle(handle)?,
                }
            }
            Frame::Deliver { handle, first_tag, attempt, batch } => {
                match self.consumers.get(&handle) {
                    Some(consumer) => consumer.handle_deliver(first_tag, attempt, batch, now)?,
                    None => self.check_handle(handle)?,
                }
            }
            Frame::Settled { handle, request, stale } => {
                let either = self.consumers.get(&handle);
                match either.or_else(|| self.unsubscribing.get(&handle)) {
                    Some(consumer) => consumer.handle_settled(request, &stale)?,
                    None => self.check_handle(handle)?,
                }
            }
            Frame::SubscriptionClosed { handle, refusal } => {
                if let Some(consumer) = self.unsubscribing.remove(&handle) {
                    consumer.handle_closed(None);
                    return Ok(());
                }
                match (self.consumers.get(&handle), refusal) {
                    (Some(consumer), Some(refusal)) => {
                        info!(handle, %refusal, "subscription ended");
                        note_stopping(link, &refusal, now);
                        if consumer.handle_closed(Some(&refusal)) {
                            self.retry(Ready::Consumer(handle), now);
                        }
                    }
                    (Some(_), None) => {
                        return Err(Lost::Violation("a subscription ended without a reason"));
                    }
                    (None, _) => self.check_handle(handle)?,
                }
            }
            Frame::AdminAnswered { request, result } => match self.calls.remove(&request) {
                Some(mut call) => call.request.answer(result),
                None if request <= self.next_call => {}
                None => return Err(Lost::Violation("an answer to a request that was not made")),
            },
            _ => return Err(Lost::Violation("a frame that has no place here")),
        }
        Ok(())
    }

    fn producer_ready(&mut self, handle: u32) {
        if self.producers.get(&handle).is_some_and(|producer| producer.mark_ready()) {
            self.ready_producers.push_back(handle);
        }
    }

    /// What comes for a number that is not in use any more may have been on its way.
    fn check_handle(&self, handle: u32) -> Result<(), Lost> {
        if self.hub.was_handle(handle) {
            Ok(())
        } else {
            Err(Lost::Violation("a number that names nothing"))
        }
    }
}

/// A broker that refuses because it stops says no other goodbye before it is at rest.
fn note_stopping(link: &mut Link, refusal: &Refusal, now: Instant) {
    if refusal.code == RefusalCode::Stopping {
        link.handle_goodbye(refusal.clone(), now);
    }
}
