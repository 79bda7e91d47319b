//! What the handles want done.

use std::mem;

use super::{Driver, ending::Stop, phases::Phase};
use crate::connection::{Command, Ready, place::LaneNumber};
use ltq_core::protocol::Frame;
use tokio::time::Instant;

impl Driver {
    pub(super) fn take_inbox(&mut self, now: Instant) -> bool {
        let mut inbox = mem::take(&mut self.inbox);
        self.hub.take(&mut inbox);
        let any = !inbox.commands.is_empty() || !inbox.ready.is_empty();
        for command in inbox.commands.drain(..) {
            self.handle_command(command, now);
        }
        inbox.unwatched.drain(..).for_each(|handle| self.watch_producer(handle));
        for ready in inbox.ready.drain(..) {
            match ready {
                Ready::Consumer(handle) => {
                    if let Some(consumer) = self.consumers.get(&handle) {
                        self.phase.enqueue_consumer(consumer);
                    }
                }
                Ready::Producer(handle) => {
                    self.watch_producer(handle);
                    if let Some(producer) = self.producers.get(&handle) {
                        self.phase.enqueue_producer(producer);
                    }
                }
            }
        }
        self.inbox = inbox;
        any
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::OpenProducer(_) | Command::Subscribe(_) | Command::Admin(_)
                if self.stop.is_some() =>
            {
                command.abandon();
            }
            Command::Connect => {
                if let Phase::Waiting(until) = &mut self.phase {
                    *until = now;
                }
            }
            Command::OpenProducer(producer) => {
                // Those closed before it make room for it.
                self.close_producers(now);
                if let Some(link) = self.phase.lasting_link() {
                    link.open_producer(&producer, &self.hub.config, now);
                }
                self.producers.insert(producer.handle, producer);
            }
            Command::CloseProducer(handle) => {
                if let Some(producer) = self.producers.get(&handle) {
                    producer.close();
                    self.closing.push(handle);
                }
            }
            Command::Subscribe(consumer) => {
                if let Some(link) = self.phase.lasting_link() {
                    link.open_consumer(&consumer, self.generation, &self.hub.config, now);
                }
                self.consumers.insert(consumer.handle, consumer);
            }
            Command::Unsubscribe(handle) => self.unsubscribe(handle, now),
            Command::Admin(call) => {
                self.unsent_calls.push_back(call);
                if let Phase::Up(link) = &mut self.phase {
                    link.touch(LaneNumber::FIRST);
                }
            }
            Command::Close { deadline, after, reply } => {
                for (handle, producer) in &self.producers {
                    producer.close();
                    self.closing.push(*handle);
                }
                let consumers: Vec<_> = self.consumers.keys().copied().collect();
                consumers.into_iter().for_each(|handle| self.unsubscribe(handle, now));
                let stop = self.stop.get_or_insert_with(|| Stop::new(after));
                stop.deadline = Some(stop.deadline.map_or(deadline, |at| at.min(deadline)));
                stop.replies.push(reply);
                self.timer.no_later_than(deadline);
            }
            Command::Leave => {
                let after = self.hub.config.request_timeout;
                self.stop.get_or_insert_with(|| Stop::new(after));
            }
        }
    }

    fn unsubscribe(&mut self, handle: u32, now: Instant) {
        let Some(consumer) = self.consumers.remove(&handle) else { return };
        let Phase::Up(link) = &mut self.phase else {
            consumer.handle_closed(None);
            return;
        };
        if !consumer.is_known() {
            link.leave_consumer(&consumer, now);
            consumer.handle_closed(None);
            return;
        }
        if let Some(number) = consumer.place.get()
            && let Some(lane) = link.lane(number)
        {
            // Its last answers go first. They are no more than its credit.
            while let Some(frame) = consumer.poll_frame(lane.settlements_max()) {
                lane.write(&frame);
            }
            lane.write(&Frame::Unsubscribe { handle });
            link.touch(number);
        }
        self.unsubscribing.insert(handle, consumer);
    }
}
