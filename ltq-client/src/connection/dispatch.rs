//! What the frames of a broker mean.

use std::sync::Arc;

use ltq_core::{Refusal, RefusalCode, protocol::Frame};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Driver, Ready,
    lane::{Lane, Lost},
    link::Link,
    place::{LaneNumber, Place},
};
use crate::{
    consumer::ConsumerShared,
    producer::{Again, ProducerShared},
};

impl Driver {
    /// Hands a frame that came on a lane to whomever it is for.
    pub(super) fn handle_frame(
        &mut self,
        link: &mut Link,
        lane: &mut Lane,
        frame: Frame,
        now: Instant,
    ) -> Result<(), Lost> {
        match frame {
            Frame::Goodbye { refusal } if refusal.code == RefusalCode::Stopping => {
                info!(node = %link.node, %refusal, "the broker is going");
                link.handle_goodbye(refusal, now);
            }
            Frame::Goodbye { refusal } => return Err(Lost::Goodbye(refusal)),
            Frame::Welcome(welcome) if lane.awaits_welcome() => {
                lane.handle_welcome(&welcome, &link.node, link.instance)?;
            }
            _ if lane.awaits_welcome() => {
                return Err(Lost::Violation("a further stream's first frame is no welcome"));
            }
            Frame::Ping { nonce } => {
                // A broker that asks and does not read gets no answers heaped up.
                if lane.has_room() && !lane.is_finishing() {
                    lane.write(&Frame::Pong { nonce });
                }
            }
            Frame::Pong { .. } => {}
            Frame::ProducerOpened { handle, epoch, last_sequence, durability } => {
                if let Some(producer) = self.producer(lane, handle)? {
                    let server = &link.server;
                    producer.handle_opened(server, epoch, last_sequence, durability, now)?;
                    self.producer_ready(lane, handle);
                    self.watch_producer(handle);
                }
            }
            Frame::ProducerRefused { handle, refusal } => {
                if let Some(producer) = self.producer(lane, handle)? {
                    debug!(handle, %refusal, "producer refused");
                    note_stopping(link, &refusal, now);
                    let again = producer.handle_open_refused(&refusal, self.retried_by(now));
                    lane.handle_answered(producer.take_answered_bytes());
                    match again {
                        Again::Never => {}
                        Again::Later => self.retry(Ready::Producer(handle), now),
                        Again::Now => producer
                            .open_frame(&link.server, link.instance)
                            .into_iter()
                            .for_each(|frame| lane.write(&frame)),
                    }
                }
            }
            Frame::Confirmed { handle, ranges, durability } => {
                self.heard.hear_stored(durability, now);
                if let Some(producer) = self.producer(lane, handle)? {
                    lane.handle_answered(producer.handle_confirmed(&ranges, durability, now)?);
                }
            }
            Frame::PublishRefused { handle, sequence, count, refusal } => {
                if let Some(producer) = self.producer(lane, handle)? {
                    note_stopping(link, &refusal, now);
                    let answered =
                        producer.handle_publish_refused(sequence, count, &refusal, now)?;
                    lane.handle_answered(answered);
                    self.producer_ready(lane, handle);
                }
            }
            frame => return self.handle_consumer_frame(link, lane, frame, now),
        }
        Ok(())
    }

    fn handle_consumer_frame(
        &mut self,
        link: &mut Link,
        lane: &mut Lane,
        frame: Frame,
        now: Instant,
    ) -> Result<(), Lost> {
        match frame {
            Frame::Subscribed { handle, timeout_ms } => {
                if let Some(consumer) = self.consumer(lane, handle)? {
                    consumer.handle_subscribed(timeout_ms)?;
                }
            }
            Frame::SubscribeRefused { handle, refusal } => {
                self.handle_unsubscribed(lane, handle, now)?;
                if let Some(consumer) = self.consumer(lane, handle)? {
                    debug!(handle, %refusal, "subscription refused");
                    note_stopping(link, &refusal, now);
                    if consumer.handle_subscribe_refused(&refusal, self.retried_by(now)) {
                        self.retry(Ready::Consumer(handle), now);
                    }
                }
            }
            Frame::Deliver { handle, first_tag, attempt, batch } => {
                if let Some(consumer) = self.consumer(lane, handle)? {
                    consumer.handle_deliver(first_tag, attempt, batch, now)?;
                }
            }
            Frame::Credited { handle, total } => {
                if let Some(consumer) = self.consumer(lane, handle)? {
                    consumer.handle_credited(total)?;
                }
            }
            Frame::Settled { handle, request, stale } => {
                let consumer = match self.unsubscribing.get(&handle) {
                    Some(consumer) => Some(check_place(lane, &consumer.place).map(|()| consumer)?),
                    None => self.consumer(lane, handle)?,
                };
                if let Some(consumer) = consumer {
                    consumer.handle_settled(request, &stale)?;
                }
            }
            Frame::SubscriptionClosed { handle, refusal } => {
                if self.handle_unsubscribed(lane, handle, now)? {
                    return Ok(());
                }
                match (self.consumer(lane, handle)?, refusal) {
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
                    (None, _) => {}
                }
            }
            Frame::AdminAnswered { request, result } if lane.number == LaneNumber::FIRST => {
                match self.calls.remove(&request) {
                    Some(mut call) => call.request.answer(result),
                    None if request <= self.next_call => {}
                    None => {
                        return Err(Lost::Violation("an answer to a request that was not made"));
                    }
                }
            }
            _ => return Err(Lost::Violation("a frame that has no place here")),
        }
        Ok(())
    }

    fn producer_ready(&self, lane: &mut Lane, handle: u32) {
        if self.producers.get(&handle).is_some_and(|producer| producer.mark_ready()) {
            lane.ready_producers.push_back(handle);
        }
    }

    /// A subscription that was to end is over, if it is one.
    fn handle_unsubscribed(
        &mut self,
        lane: &mut Lane,
        handle: u32,
        now: Instant,
    ) -> Result<bool, Lost> {
        let Some(consumer) = self.unsubscribing.get(&handle) else { return Ok(false) };
        check_place(lane, &consumer.place)?;
        consumer.handle_closed(None);
        self.unsubscribing.remove(&handle);
        lane.leave(now);
        Ok(true)
    }

    /// The producer of this number. One that is not in use any more has none, since what comes for it
    /// may have been on its way.
    fn producer(&self, lane: &Lane, handle: u32) -> Result<Option<&Arc<ProducerShared>>, Lost> {
        match self.producers.get(&handle) {
            Some(producer) => check_place(lane, &producer.place).map(|()| Some(producer)),
            None => self.check_handle(handle).map(|()| None),
        }
    }

    /// The same for a subscription.
    fn consumer(&self, lane: &Lane, handle: u32) -> Result<Option<&Arc<ConsumerShared>>, Lost> {
        match self.consumers.get(&handle) {
            Some(consumer) => check_place(lane, &consumer.place).map(|()| Some(consumer)),
            None => self.check_handle(handle).map(|()| None),
        }
    }

    fn check_handle(&self, handle: u32) -> Result<(), Lost> {
        if self.hub.was_handle(handle) {
            Ok(())
        } else {
            Err(Lost::Violation("a number that names nothing"))
        }
    }
}

/// Nobody is spoken to on another stream than that on which he was opened.
fn check_place(lane: &Lane, place: &Place) -> Result<(), Lost> {
    match place.get() {
        Some(number) if number == lane.number => Ok(()),
        _ => Err(Lost::Violation("a frame on another stream than the one it belongs to")),
    }
}

/// A broker that refuses because it stops says no other goodbye before it is at rest.
fn note_stopping(link: &mut Link, refusal: &Refusal, now: Instant) {
    if refusal.code == RefusalCode::Stopping {
        link.handle_goodbye(refusal.clone(), now);
    }
}
