//! The connection's task.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use ltq_core::protocol::Frame;
use tokio::{sync::oneshot, time::Instant};
use tracing::{debug, info, warn};

use super::{
    AdminCall, Command, Hub, Ready, deadline,
    dial::dial,
    hub::Inbox,
    link::{Link, Lost, Welcomed},
    timer::Timer,
};
use crate::{
    CloseError, ConnectError, ConnectionState, consumer::ConsumerShared, producer::ProducerShared,
};

/// Dials, reads, writes and keeps time for all producers and consumers of a client.
///
/// One task, woken by its stream, by its timer, and by handles that have something new; at rest it
/// does nothing. Each turn takes what the handles said, what the stream brought, and lets those
/// that are ready write frames for as long as there is room.
pub(crate) struct Driver {
    pub(super) hub: Arc<Hub>,
    inbox: Inbox,
    pub(super) producers: HashMap<u32, Arc<ProducerShared>>,
    pub(super) consumers: HashMap<u32, Arc<ConsumerShared>>,
    /// Those whose end the broker has not confirmed.
    pub(super) unsubscribing: HashMap<u32, Arc<ConsumerShared>>,
    /// Producers that are closed once they are answered.
    closing: Vec<u32>,
    pub(super) calls: HashMap<u32, AdminCall>,
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
}

enum Phase {
    Dialing(BoxFuture<'static, Result<Welcomed, ConnectError>>),
    Waiting(Instant),
    Up(Box<Link>),
    Over,
}

/// The end, as it was asked for.
struct Stop {
    deadline: Option<Instant>,
    after: Duration,
    reply: Option<oneshot::Sender<Result<(), CloseError>>>,
    /// Nothing more will be sent.
    finished: bool,
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
            producers: HashMap::new(),
            consumers: HashMap::new(),
            unsubscribing: HashMap::new(),
            closing: Vec::new(),
            calls: HashMap::new(),
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
        }
    }

    fn take_inbox(&mut self) -> bool {
        let mut inbox = mem::take(&mut self.inbox);
        self.hub.take(&mut inbox);
        let any = !inbox.commands.is_empty() || !inbox.ready.is_empty();
        for command in inbox.commands.drain(..) {
            self.handle_command(command);
        }
        for ready in inbox.ready.drain(..) {
            match ready {
                Ready::Consumer(handle) => self.ready_consumers.push_back(handle),
                Ready::Producer(handle) => {
                    self.watch_producer(handle);
                    self.ready_producers.push_back(handle);
                }
            }
        }
        self.inbox = inbox;
        any
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::OpenProducer(producer) => {
                if let Phase::Up(link) = &mut self.phase
                    && let Some(frame) = producer.open_frame(&link.server)
                {
                    link.write(&frame);
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
                if let Phase::Up(link) = &mut self.phase
                    && let Some(frame) = consumer.subscribe_frame(self.generation)
                {
                    link.write(&frame);
                }
                self.consumers.insert(consumer.handle, consumer);
            }
            Command::Unsubscribe(handle) => self.unsubscribe(handle),
            Command::Admin(call) => self.unsent_calls.push_back(call),
            Command::Close { deadline, after, reply } => {
                for (handle, producer) in &self.producers {
                    producer.close();
                    self.closing.push(*handle);
                }
                let consumers: Vec<_> = self.consumers.keys().copied().collect();
                consumers.into_iter().for_each(|handle| self.unsubscribe(handle));
                let reply = Some(reply);
                self.stop = Some(Stop { deadline: Some(deadline), after, reply, finished: false });
                self.timer.no_later_than(deadline);
            }
            Command::Leave => {
                let after = self.hub.config.request_timeout;
                self.stop.get_or_insert(Stop {
                    deadline: None,
                    after,
                    reply: None,
                    finished: false,
                });
            }
        }
    }

    fn unsubscribe(&mut self, handle: u32) {
        let Some(consumer) = self.consumers.remove(&handle) else { return };
        let Phase::Up(link) = &mut self.phase else {
            consumer.handle_closed(None);
            return;
        };
        if !consumer.is_known() {
            consumer.handle_closed(None);
            return;
        }
        // Its last answers go first. They are no more than its credit.
        while let Some(frame) = consumer.poll_frame(link.settlements_max()) {
            link.write(&frame);
        }
        link.write(&Frame::Unsubscribe { handle });
        self.unsubscribing.insert(handle, consumer);
    }

    /// Makes sure that a producer's next deadline is not missed.
    fn watch_producer(&mut self, handle: u32) {
        if let Some(at) = self.producers.get(&handle).and_then(|producer| producer.next_timeout()) {
            self.timer.no_later_than(at);
        }
    }

    /// Asks again later, the refusal being one that may pass.
    pub(super) fn retry(&mut self, ready: Ready, now: Instant) {
        let at = deadline(now, self.hub.config.backoff.wait(RETRY_FAILURES, rand::random()));
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
        if let Phase::Up(link) = &mut self.phase {
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

    /// One step of whatever the connection is doing. Returns whether there may be more to do.
    fn advance(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Waiting(until) if until <= now => {
                self.start_dialing();
                true
            }
            Phase::Waiting(until) => {
                self.timer.no_later_than(until);
                self.phase = Phase::Waiting(until);
                false
            }
            Phase::Dialing(mut dialing) => match dialing.as_mut().poll(context) {
                Poll::Pending => {
                    self.phase = Phase::Dialing(dialing);
                    false
                }
                Poll::Ready(Ok(welcomed)) => {
                    self.handle_connected(welcomed, now);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.handle_not_connected(error, now);
                    true
                }
            },
            Phase::Up(mut link) => {
                let result = self.exchange(&mut link, context, now);
                if let Some(at) = link.next_timeout() {
                    self.timer.no_later_than(at);
                }
                self.phase = Phase::Up(link);
                match result {
                    Ok(more) => more,
                    Err(lost) => {
                        self.cut(&lost, now);
                        true
                    }
                }
            }
            Phase::Over => false,
        }
    }

    fn start_dialing(&mut self) {
        let hub = self.hub.clone();
        let servers = &hub.config.servers;
        let Some(address) = servers.get(self.server % servers.len().max(1)).cloned() else {
            return;
        };
        debug!(%address, failures = self.failures, "connecting");
        hub.state.send_replace(ConnectionState::Connecting {
            address: address.clone(),
            attempt: self.failures + 1,
        });
        let hub = hub.clone();
        self.phase = Phase::Dialing(Box::pin(async move { dial(&hub.config, address).await }));
    }

    fn handle_connected(&mut self, welcomed: Welcomed, now: Instant) {
        let mut link = Box::new(Link::new(welcomed, now));
        info!(address = %link.address, node = %link.node, "connected");
        self.generation += 1;
        self.hub.set_message_bytes_max(link.limits.message_bytes_max as usize);
        for producer in self.producers.values() {
            if let Some(frame) = producer.open_frame(&link.server) {
                link.write(&frame);
            }
        }
        for consumer in self.consumers.values() {
            if let Some(frame) = consumer.subscribe_frame(self.generation) {
                link.write(&frame);
            }
        }
        self.hub.state.send_replace(ConnectionState::Connected {
            address: link.address.clone(),
            node: link.node.clone(),
        });
        if let Some(first) = self.first.take() {
            drop(first.send(Ok(())));
        }
        self.phase = Phase::Up(link);
    }

    fn handle_not_connected(&mut self, error: ConnectError, now: Instant) {
        self.server += 1;
        self.failures = self.failures.saturating_add(1);
        let servers = u32::try_from(self.hub.config.servers.len()).unwrap_or(u32::MAX).max(1);
        let round_over = self.failures.is_multiple_of(servers);
        warn!(%error, attempt = self.failures, "cannot connect");
        if round_over && let Some(first) = self.first.take() {
            drop(first.send(Err(error)));
            return;
        }
        // All servers are tried before anything waits.
        let retry_in = if round_over { self.wait(self.failures / servers) } else { Duration::ZERO };
        self.wait_to_dial(error, retry_in, now);
    }

    fn wait(&self, failures: u32) -> Duration {
        self.hub.config.backoff.wait(failures, rand::random())
    }

    fn wait_to_dial(&mut self, error: ConnectError, retry_in: Duration, now: Instant) {
        let attempt = self.failures;
        self.hub.state.send_replace(ConnectionState::Disconnected { attempt, error, retry_in });
        self.phase = Phase::Waiting(deadline(now, retry_in));
    }

    /// Gives up the connection that is up.
    fn cut(&mut self, lost: &Lost, now: Instant) {
        let Phase::Up(link) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let (address, cause) = (link.address.clone(), lost.to_string());
        if self.stop.is_none() {
            warn!(%address, cause, "connection lost");
        }
        if now.saturating_duration_since(link.up_since) >= STABLE {
            self.failures = 0;
        }
        if link.is_ending() {
            self.server += 1;
        }
        drop(link);
        for producer in self.producers.values() {
            producer.handle_cut();
        }
        for consumer in self.consumers.values() {
            consumer.handle_cut();
        }
        for consumer in mem::take(&mut self.unsubscribing).into_values() {
            consumer.handle_cut();
        }
        for (_, mut call) in mem::take(&mut self.calls) {
            if call.may_repeat() {
                self.unsent_calls.push_back(call);
            } else {
                call.request.lost();
            }
        }
        self.ready_producers.clear();
        self.ready_consumers.clear();
        self.retries.clear();
        let retry_in = self.wait(self.failures + 1);
        self.wait_to_dial(ConnectError::Lost { address, cause }, retry_in, now);
        self.failures = self.failures.saturating_add(1);
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
                    if let Frame::Publish { records, .. } = &frame {
                        link.publish_bytes += records.byte_len() as u64;
                    }
                    link.write(&frame);
                    self.ready_producers.push_back(handle);
                }
            }
        }
        !link.has_room()
    }

    /// Closes the producers that were to be closed and are answered. Returns whether there were
    /// any.
    fn close_producers(&mut self) -> bool {
        let before = self.closing.len();
        let producers = &mut self.producers;
        let phase = &mut self.phase;
        self.closing.retain(|handle| {
            let Some(producer) = producers.get(handle) else { return false };
            if !producer.is_done() {
                return true;
            }
            if let Phase::Up(link) = phase
                && producer.is_known()
            {
                link.write(&Frame::CloseProducer { handle: *handle });
            }
            producers.remove(handle);
            false
        });
        self.closing.len() < before
    }

    /// Whether the task is at its end, as it was asked.
    fn poll_stop(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(stop) = &mut self.stop else { return Poll::Pending };
        let expired = stop.deadline.is_some_and(|deadline| deadline <= now);
        // Somebody who asked for the end waits for word of the last settlements; who just left
        // does not.
        let awaited = if stop.reply.is_some() { self.unsubscribing.len() } else { 0 };
        let answered = self.producers.is_empty() && awaited == 0;
        if !expired {
            if !answered {
                return Poll::Pending;
            }
            if let Phase::Up(link) = &mut self.phase {
                if stop.finished || !link.is_flushed() {
                    return Poll::Pending;
                }
                // The broker ends the stream in its turn. Ending it here with bytes unread could
                // take back what was sent.
                if let Ok(()) = ready!(link.poll_finish(context)) {
                    stop.finished = true;
                    let wait = deadline(now, FINISH_WAIT);
                    stop.deadline = Some(stop.deadline.map_or(wait, |at| at.min(wait)));
                    self.timer.no_later_than(wait);
                    return Poll::Pending;
                }
            }
        }
        if let Some(reply) = stop.reply.take() {
            let publishes = self.producers.values().map(|producer| producer.pending()).sum();
            let error = CloseError { publishes, subscriptions: awaited, after: stop.after };
            drop(reply.send(if answered { Ok(()) } else { Err(error) }));
        }
        Poll::Ready(())
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.hub.waker.register(context.waker());
        for _ in 0..TURNS_MAX {
            let now = Instant::now();
            let mut more = this.take_inbox();
            if this.timer.poll(context).is_ready() {
                this.handle_timeouts(now);
                more = true;
            }
            more |= this.advance(context, now);
            more |= this.close_producers();
            if matches!(this.phase, Phase::Over) || this.poll_stop(context, now).is_ready() {
                return Poll::Ready(());
            }
            if !more && this.timer.poll(context).is_pending() {
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
        self.hub.close();
        self.producers.values().for_each(|producer| producer.abandon());
        self.consumers.values().for_each(|consumer| consumer.abandon());
        self.unsubscribing.values().for_each(|consumer| consumer.abandon());
    }
}

/// Turns before other tasks have theirs.
const TURNS_MAX: usize = 32;
/// A connection that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
/// A refusal that may pass is not asked about as often as a connection: the third wait.
const RETRY_FAILURES: u32 = 3;
/// How long the broker may take to end a stream that this side has ended.
const FINISH_WAIT: Duration = Duration::from_secs(1);
