//! The connection's task.

mod alone;
mod commands;
mod ending;
mod exchange;
mod first;
mod phases;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ltq_core::Address;
use tokio::{sync::oneshot, time::Instant};

use super::{AdminCall, Hub, Ready, deadline, hub::Inbox, timer::Timer};
use crate::{
    ConnectError,
    consumer::ConsumerShared,
    producer::{Heard, ProducerShared},
};
pub(super) use alone::Alone;
pub(crate) use alone::DriverTask;
use ending::Stop;
use first::First;
use phases::Phase;

/// Dials, reads, writes and keeps time for all producers and consumers of a client.
///
/// One task, woken by its streams, by its timer, and by handles that have something new; at rest it
/// does nothing. Each turn takes what the handles said, and goes over the streams that were woken or
/// are spoken for: takes what they brought, and lets those that are ready write frames on them for as
/// long as there is room. A message with which nothing else is on
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
    /// Producers and consumers to be opened again, and when.
    retries: Vec<(Instant, Ready)>,
    phase: Phase,
    timer: Timer,
    /// On the connection that is up.
    pub(super) heard: Heard,
    /// Producers to whom the broker is silent.
    silent_to: BTreeSet<u32>,
    /// The server that took so many streams of a connection and no more, until it is asked for all again.
    few_lanes: Option<(Address, usize, Instant)>,
    /// Which server is tried next.
    pub(super) server: usize,
    /// Attempts that failed, and connections that did not last, in a row.
    failures: u32,
    /// Attempts in a row that a server refused for what this client is.
    unwelcome: u32,
    generation: u64,
    /// Whoever waits for the first connection, and gives up when no server takes it.
    first: Option<First>,
    stop: Option<Stop>,
    /// Wakes the task.
    waker: Option<Waker>,
}

impl Driver {
    /// `first` is told of the first connection; if there is one, the task ends when every server
    /// was tried in vain: once, or for a while where a refusal may pass.
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
            retries: Vec::new(),
            phase: Phase::Waiting(Instant::now()),
            timer: Timer::new(),
            heard: Heard::default(),
            silent_to: BTreeSet::new(),
            few_lanes: None,
            server: 0,
            failures: 0,
            unwelcome: 0,
            generation: 0,
            first: first.map(First::new),
            stop: None,
            waker: None,
        }
    }

    /// Makes sure that a producer's next deadline is not missed.
    pub(super) fn watch_producer(&mut self, handle: u32) {
        if let Some(at) = self.next_timeout(handle) {
            self.timer.no_later_than(at);
        }
    }

    fn next_timeout(&self, producer: u32) -> Option<Instant> {
        self.producers.get(&producer)?.next_timeout(&self.heard)
    }

    /// Something came. Those to whom the broker was silent look whether it is so still.
    fn tell_heard(&mut self, now: Instant) {
        let (producers, heard) = (&self.producers, &self.heard);
        let mut next = None;
        self.silent_to.retain(|handle| {
            let Some(producer) = producers.get(handle) else { return false };
            let is_silent = producer.handle_heard(now, heard);
            let due = producer.next_timeout(heard).filter(|_| !is_silent);
            next = next.into_iter().chain(due).min();
            is_silent
        });
        if let Some(at) = next {
            self.timer.no_later_than(at);
        }
    }

    /// Asks again later, the refusal being one that may pass.
    pub(super) fn retry(&mut self, ready: Ready, now: Instant) {
        let at = deadline(now, self.hub.config.wait(RETRY_FAILURES));
        self.retries.push((at, ready));
        self.timer.no_later_than(at);
    }

    /// By when it is asked again that is [retried](Self::retry) now.
    pub(super) fn retried_by(&self, now: Instant) -> Instant {
        deadline(now, self.hub.config.backoff.longest(RETRY_FAILURES))
    }

    fn handle_timeouts(&mut self, now: Instant) {
        let mut next = Vec::new();
        for (handle, producer) in &self.producers {
            if producer.next_timeout(&self.heard).is_some_and(|at| at <= now) {
                if producer.handle_timeout(now, &self.heard) {
                    self.silent_to.insert(*handle);
                }
                if producer.mark_ready() {
                    self.phase.enqueue_producer(producer);
                }
            }
            next.extend(producer.next_timeout(&self.heard));
        }
        let due: Vec<_> = self.retries.extract_if(.., |retry| retry.0 <= now).collect();
        if let Some(link) = self.phase.lasting_link() {
            let config = &self.hub.config;
            for (_, ready) in due {
                match ready {
                    Ready::Producer(handle) => {
                        let producer = self.producers.get(&handle);
                        producer.into_iter().for_each(|p| link.open_producer(p, config, now));
                    }
                    Ready::Consumer(handle) => {
                        let consumer = self.consumers.get(&handle);
                        let generation = self.generation;
                        consumer
                            .into_iter()
                            .for_each(|c| link.open_consumer(c, generation, config, now));
                    }
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
            Phase::Up(link) => link.handle_timeout(now, self.hub.config.connect_timeout).err(),
            _ => None,
        };
        if let Some(lost) = lost {
            self.cut(&lost, now);
        }
    }

    /// One stretch of the task's work. Ready when it is at its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.hub.waker.register(context.waker());
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        for _ in 0..TURNS_MAX {
            let now = Instant::now();
            let mut more = self.take_inbox(now);
            more |= self.advance(context, now);
            more |= self.close_producers(now);
            if matches!(self.phase, Phase::Over) || self.poll_stop(now).is_ready() {
                return Poll::Ready(());
            }
            if self.timer.poll(context).is_ready() {
                self.handle_timeouts(now);
            } else if !more && !self.phase.has_due() {
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
