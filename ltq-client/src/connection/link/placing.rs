//! Which lane a producer or subscription uses.

use tokio::time::Instant;

use super::Link;
use crate::{
    connection::{hub::Config, lane::Lane, place::LaneNumber, waking::LaneWaker},
    consumer::ConsumerShared,
    producer::ProducerShared,
};

/// The lane of a topic that is published to.
pub(super) struct TopicLane {
    number: LaneNumber,
    producers: usize,
}

impl Link {
    /// Asks the broker to open a producer, unless it is over. All producers of a topic share a
    /// lane, and with it the broker's limit to what is unanswered.
    pub(in crate::connection) fn open_producer(
        &mut self,
        producer: &ProducerShared,
        config: &Config,
        now: Instant,
    ) {
        let Some(frame) = producer.open_frame(&self.server, self.instance) else { return };
        if producer.place.get().is_none() {
            let topic = producer.topic();
            let number = match self.topics.get_mut(topic) {
                Some(lane) => {
                    lane.producers += 1;
                    lane.number
                }
                None => {
                    let number = self.new_lane(config, now);
                    self.topics.insert(topic.clone(), TopicLane { number, producers: 1 });
                    number
                }
            };
            producer.place.set(number);
            if let Some(lane) = self.lane(number) {
                lane.handles += 1;
                if producer.is_queued() {
                    lane.ready_producers.push_back(producer.handle);
                }
            }
        }
        if let Some(number) = producer.place.get() {
            self.write(number, &frame);
        }
    }

    /// A producer is closed.
    pub(in crate::connection) fn leave_producer(
        &mut self,
        producer: &ProducerShared,
        now: Instant,
    ) {
        let Some(number) = producer.place.get() else { return };
        if producer.is_known() {
            self.write(number, &producer.close_frame());
        }
        if let Some(lane) = self.topics.get_mut(producer.topic()) {
            lane.producers -= 1;
            if lane.producers == 0 {
                self.topics.remove(producer.topic());
            }
        }
        if let Some(lane) = self.lane(number) {
            // Nobody is there any more whom its answers would be counted for.
            lane.handle_answered(producer.take_unanswered_bytes());
            lane.leave(now);
            self.touch(number);
        }
    }

    /// Asks the broker for a subscription, unless it is over.
    pub(in crate::connection) fn open_consumer(
        &mut self,
        consumer: &ConsumerShared,
        generation: u64,
        config: &Config,
        now: Instant,
    ) {
        let Some(limits) = self.limits() else { return };
        let at = (&*self.server, self.instance);
        let frame = consumer.subscribe_frame(at, generation, limits.credit_max);
        let Some(frame) = frame else { return };
        if consumer.place.get().is_none() {
            let number = self.new_lane(config, now);
            consumer.place.set(number);
            if let Some(lane) = self.lane(number) {
                lane.handles += 1;
                if consumer.is_queued() {
                    lane.ready_consumers.push_back(consumer.handle);
                }
            }
        }
        if let Some(number) = consumer.place.get() {
            self.write(number, &frame);
        }
    }

    /// A subscription of which the broker knows nothing is given up.
    pub(in crate::connection) fn leave_consumer(
        &mut self,
        consumer: &ConsumerShared,
        now: Instant,
    ) {
        if let Some(number) = consumer.place.get()
            && let Some(lane) = self.lane(number)
        {
            lane.leave(now);
            self.touch(number);
        }
    }

    /// A lane for somebody who wants one of his own: a new one, as long as there may be more, or
    /// else the one that the fewest use.
    fn new_lane(&mut self, config: &Config, now: Instant) -> LaneNumber {
        let Some(woken) = self.woken.clone() else { return LaneNumber::FIRST };
        if self.count >= self.lanes_max {
            // Operators' requests keep theirs for themselves, where there are others.
            let others = self.lanes().filter(|lane| lane.number != LaneNumber::FIRST);
            let usable = others.filter(|lane| !lane.is_finishing());
            let least = usable.min_by_key(|lane| lane.handles).map(|lane| lane.number);
            return least.unwrap_or(LaneNumber::FIRST);
        }
        let Some(limits) = self.limits() else { return LaneNumber::FIRST };
        let number = self.free.pop().unwrap_or(LaneNumber(self.lanes.len() as u32));
        let waker = LaneWaker::new(number, woken);
        let lane = Lane::open(number, &self.connection, config, limits, waker, now);
        if number.0 as usize == self.lanes.len() {
            self.lanes.push(None);
        }
        self.count += 1;
        self.put(Box::new(lane));
        self.touch(number);
        // Should the new lane get no answer, this tells whether the connection is at fault.
        if let Some(first) = self.lane(LaneNumber::FIRST)
            && first.has_room()
        {
            first.ping(now);
            self.touch(LaneNumber::FIRST);
        }
        number
    }
}

/// How many lanes a connection has at most, the first included. Each is a session of the broker,
/// with buffers and heartbeats of its own, and brokers and QUIC allow a connection some 1,000
/// streams. Beyond so many that are independent another one gains little.
pub(in crate::connection) const LANES_MAX: usize = 128;
