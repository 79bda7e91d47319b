//! What goes in and out while the connection is up.

use std::task::{Context, Poll};

use ltq_core::protocol::Frame;
use tokio::time::Instant;

use super::Driver;
use crate::connection::{
    lane::{Lane, Lost},
    link::Link,
    place::LaneNumber,
};

impl Driver {
    /// Lets each lane that is due have one turn. Returns whether there may be more to do.
    pub(super) fn exchange(
        &mut self,
        link: &mut Link,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, Lost> {
        for _ in 0..link.poll_due() {
            let Some(mut lane) = link.take_due() else { continue };
            let number = lane.number;
            match self.have_turn(link, &mut lane, context, now) {
                Ok(more) => {
                    link.put(lane);
                    if more {
                        link.touch(number);
                    }
                }
                Err(lost) => link.handle_over(lane, lost)?,
            }
        }
        if !self.silent_to.is_empty() {
            self.tell_heard(now);
        }
        Ok(link.has_due())
    }

    /// Reads and writes once on a lane. Returns whether there may be more to do.
    fn have_turn(
        &mut self,
        link: &mut Link,
        lane: &mut Lane,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, Lost> {
        if lane.poll_open(context)?.is_pending() {
            return Ok(false);
        }
        while let Some(frame) = lane.next_frame()? {
            self.handle_frame(link, lane, frame, now)?;
        }
        let received = match lane.poll_receive(context, now) {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        if received {
            self.heard.hear(now);
        }
        let more = self.fill(link, lane, now);
        let flushed = match lane.poll_flush(context, now) {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        lane.poll_finish(context)?;
        Ok(received || (flushed && more))
    }

    /// Lets everybody on a lane who is ready write, for as long as there is room. Returns whether
    /// somebody is left.
    fn fill(&mut self, link: &Link, lane: &mut Lane, now: Instant) -> bool {
        if lane.is_finishing() {
            return false;
        }
        while lane.number == LaneNumber::FIRST && lane.has_room() {
            let Some(call) = self.unsent_calls.pop_front() else { break };
            if call.request.is_wanted() {
                self.next_call = self.next_call.wrapping_add(1);
                call.request.sent();
                let (request, action) = (self.next_call, call.action.clone());
                lane.write(&Frame::Admin { request, action });
                self.calls.insert(request, call);
            }
        }
        while lane.has_room() {
            let Some(handle) = lane.ready_consumers.pop_front() else { break };
            let Some(consumer) = self.consumers.get(&handle) else { continue };
            if let Some(frame) = consumer.poll_frame(lane.settlements_max()) {
                lane.write(&frame);
                lane.ready_consumers.push_back(handle);
            }
        }
        // A broker stops reading beyond its limit; answers to deliveries must not wait behind.
        while lane.has_room() && !link.is_ending() {
            if lane.is_full() {
                return false;
            }
            let Some(handle) = lane.ready_producers.pop_front() else { return false };
            let Some(producer) = self.producers.get(&handle) else { continue };
            match producer.poll_frame(now, lane.frame_limits()) {
                None => self.watch_producer(handle),
                Some(frame) => {
                    lane.write_publish(&frame);
                    lane.ready_producers.push_back(handle);
                }
            }
        }
        !lane.has_room()
    }
}
