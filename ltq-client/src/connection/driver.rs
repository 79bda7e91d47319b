//! The connection's task.

mod alone;
mod commands;
mod ending;
mod phases;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ltq_core::protocol::Frame;
use tokio::{sync::oneshot, time::Instant};

use super::{
    AdminCall, Hub, Ready, deadline,
    hub::Inbox,
    link::{Link, Lost},
    timer::Timer,
};
use crate::{ConnectError, consumer::ConsumerShared, producer::ProducerShared};
pub(super) use alone::Alone;
pub(crate) use alone::DriverTask;
use ending::Stop;
use phases::Phase;

/// Dials, reads, writes and keeps time for all producers and consumers of a client.
///
/// One task, woken by its stream, by its timer, and by handles that have something new; at rest it
/// does nothing. Each turn takes what the handles said, what the stream brought, and lets those
/// that are ready write frames for as long as there is room. A message with which nothing else is on
/// its way does not wait for the task: see [`Alone`].
pub(crate) struct Driver {
    pub(super) hub: Arc<Hub>,
    inbox: Inbox,
    pub(super) producers: BTreeMap<u32, Arc<ProducerShared>>,
    pub(super) consumers: BTreeMap<u32, Arc<ConsumerShared>>,
    /// Those whose end the broker has not confirmed.
    pub(super) unsubscribing: BTreeMap<u32, Arc<ConsumerShared>>,
    /// Producers that are closed once they are answered.
    closing: Vec<u32>,
    pub(super) calls: BTreeMap<u32, AdminCall>,
    unsent_calls: VecDeque<AdminCall>,
    pub(super) next_call: u32,
    pub(super) ready_producers: VecDeque<u32>,
    pub(super) ready_consumers: VecDeque<u32>,
    /// Producers and consumers to be opened again, and when.
    retries: Vec<(Instant, Ready)>,
    phase: Phase,
    timer: Timer,
    /// Which server is tried next.
    pub(super) server: usize,
    /// Attempts that failed, and connections that did not last, in a row.
    failures: u32,
    generation: u64,
    /// Whoever waits for the first connection, and gives up when no server takes it.
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    stop: Option<Stop>,
    /// Wakes the task.
    waker: Option<Waker>,
}

impl Driver {
    /// `first` is told of the first connection; if there is one, the task ends when every server
    /// was tried once in vain.
    pub(crate) fn new(
        hub: Arc<Hub>,
        first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    ) -> Self {
        Self {
            hub,
            inbox: Inbox::default(),
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            unsubscribing: BTreeMap::new(),
            closing: Vec::new(),
            calls: BTreeMap::new(),
            unsent_calls: VecDeque::new(),
            next_call: 0,
            ready_producers: VecDeque::new(),
            ready_consumers: VecDeque::new(),
            retries: Vec::new(),
            phase: Phase::Waiting(Instant::now()),
            timer: Timer::new(),
            server: 0,
            failures: 0,
            generation: 0,
            first,
            stop: None,
            waker: None,
        }
    }

    /// Makes sure that a producer's next deadline is not missed.
    fn watch_producer(&mut self, handle: u32) {
        if let Some(at) = self.producers.get(&handle).and_then(|producer| producer.next_timeout()) {
            self.timer.no_later_than(at);
        }
    }

    /// Asks again later, the refusal being one that may pass.
    pub(super) fn retry(&mut self, ready: Ready, now: Instant) {
        let at = deadline(now, self.hub.config.wait(RETRY_FAILURES));
        self.retries.push((at, ready));
        self.timer.no_later_than(at);
    }

    fn handle_timeouts(&mut self, now: Instant) {
        let mut next = Vec::new();
        for (handle, producer) in &self.producers {
            if producer.next_timeout().is_some_and(|at| at <= now) {
                producer.handle_timeout(now);
                if producer.mark_ready() {
                    self.ready_producers.push_back(*handle);
                }
            }
            next.extend(producer.next_timeout());
        }
        let due: Vec<_> = self.retries.extract_if(.., |retry| retry.0 <= now).collect();
        if let Some(link) = self.phase.lasting_link() {
            for (_, ready) in due {
                let frame = match ready {
                    Ready::Producer(handle) => {
                        self.producers.get(&handle).and_then(|p| p.open_frame(&link.server))
                    }
                    Ready::Consumer(handle) => {
                        self.consumers.get(&handle).and_then(|c| c.subscribe_frame(self.generation))
                    }
                };
                if let Some(frame) = frame {
                    link.write(&frame);
                }
            }
        }
        // Whoever gave up waiting needs no answer.
        self.calls.retain(|_, call| call.request.is_wanted());
        self.unsent_calls.retain(|call| call.request.is_wanted());
        next.extend(self.retries.iter().map(|retry| retry.0));
        next.extend(self.stop.as_ref().and_then(|stop| stop.deadline));
        if let Phase::Waiting(until) = self.phase {
            next.push(until);
        }
        if let Some(at) = next.into_iter().filter(|at| *at > now).min() {
            self.timer.no_later_than(at);
        }
        let lost = match &mut self.phase {
            Phase::Up(link) => link.handle_timeout(now).err(),
            _ => None,
        };
        if let Some(lost) = lost {
            self.cut(&lost, now);
        }
    }

    /// Reads and writes once. Returns whether there may be more to do.
    fn exchange(
        &mut self,
        link: &mut Link,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, Lost> {
        while let Some(frame) = link.next_frame()? {
            self.handle_frame(link, frame, now)?;
        }
        let received = match link.poll_receive(context, now) {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        let more = self.fill(link, now);
        let flushed = match link.poll_flush(context, now) {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        Ok(received || (flushed && more))
    }

    /// Lets everybody who is ready write, for as long as there is room. Returns whether somebody
    /// is left.
    fn fill(&mut self, link: &mut Link, now: Instant) -> bool {
        while link.has_room() {
            let Some(call) = self.unsent_calls.pop_front() else { break };
            if call.request.is_wanted() {
                self.next_call = self.next_call.wrapping_add(1);
                call.request.sent();
                let (request, action) = (self.next_call, call.action.clone());
                link.write(&Frame::Admin { request, action });
                self.calls.insert(request, call);
            }
        }
        while link.has_room() {
            let Some(handle) = self.ready_consumers.pop_front() else { break };
            let Some(consumer) = self.consumers.get(&handle) else { continue };
            if let Some(frame) = consumer.poll_frame(link.settlements_max()) {
                link.write(&frame);
                self.ready_consumers.push_back(handle);
            }
        }
        // A broker stops reading beyond its limit; answers to deliveries must not wait behind.
        let limit = link.limits.publish_bytes_max;
        while link.has_room() && !link.is_ending() {
            if link.publish_bytes > 0 && link.publish_bytes >= limit {
                return false;
            }
            let Some(handle) = self.ready_producers.pop_front() else { return false };
            let Some(producer) = self.producers.get(&handle) else { continue };
            match producer.poll_frame(now, link.frame_limits()) {
                None => self.watch_producer(handle),
                Some(frame) => {
                    link.write_publish(&frame);
                    self.ready_producers.push_back(handle);
                }
            }
        }
        !link.has_room()
    }

    /// One stretch of the task's work. Ready when it is at its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.hub.waker.register(context.waker());
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        for _ in 0..TURNS_MAX {
            let now = Instant::now();
            let mut more = self.take_inbox();
            more |= self.advance(context, now);
            more |= self.close_producers();
            if matches!(self.phase, Phase::Over) || self.poll_stop(context, now).is_ready() {
                return Poll::Ready(());
            }
            if self.timer.poll(context).is_ready() {
                self.handle_timeouts(now);
            } else if !more {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    /// However the task ends, nobody waits for it any longer.
    fn drop(&mut self) {
        self.shut();
    }
}

/// Turns before other tasks have theirs.
const TURNS_MAX: usize = 32;
/// A refusal that may pass is not asked about as often as a connection: the third wait.
const RETRY_FAILURES: u32 = 3;
