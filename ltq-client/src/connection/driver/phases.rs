//! How a connection comes and goes.

use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use ltq_core::RefusalCode;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Driver, first::FIRST_WAIT_MAX};
use crate::{
    ConnectError, ConnectionState,
    connection::{
        deadline,
        dial::dial,
        lane::Lost,
        link::{LANES_MAX, Link, Welcomed},
    },
    consumer::ConsumerShared,
    producer::{Heard, ProducerShared},
};

/// What the connection is doing.
pub(super) enum Phase {
    Dialing(BoxFuture<'static, Result<Welcomed, ConnectError>>),
    Waiting(Instant),
    Up(Box<Link>),
    Over,
}

impl Phase {
    /// The connection, if it is up and is to stay so.
    pub(super) fn lasting_link(&mut self) -> Option<&mut Link> {
        match self {
            Self::Up(link) if !link.is_ending() => Some(link),
            _ => None,
        }
    }

    /// Whether some lane waits for its turn.
    pub(super) fn has_due(&self) -> bool {
        matches!(self, Self::Up(link) if link.has_due())
    }

    /// A producer has something to send. One that is on no lane is asked once it is on one.
    pub(super) fn enqueue_producer(&mut self, producer: &ProducerShared) {
        if let (Self::Up(link), Some(number)) = (self, producer.place.get())
            && let Some(lane) = link.lane(number)
        {
            lane.ready_producers.push_back(producer.handle);
            link.touch(number);
        }
    }

    /// The same for a consumer.
    pub(super) fn enqueue_consumer(&mut self, consumer: &ConsumerShared) {
        if let (Self::Up(link), Some(number)) = (self, consumer.place.get())
            && let Some(lane) = link.lane(number)
        {
            lane.ready_consumers.push_back(consumer.handle);
            link.touch(number);
        }
    }
}

impl Driver {
    /// One step of whatever the connection is doing. Returns whether there may be more to do.
    pub(super) fn advance(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Waiting(until) if until <= now => {
                self.start_dialing(now);
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
                self.timer.no_later_than(link.next_timeout());
                if link.begins_to_end() {
                    self.hub.state.send_replace(ConnectionState::Leaving {
                        address: link.address.clone(),
                        node: link.node.clone(),
                        instance: link.instance,
                    });
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

    fn start_dialing(&mut self, now: Instant) {
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
        let after = hub.config.connect_timeout;
        let is_again = self.failures >= self.servers();
        let after = self.first.as_mut().map_or(after, |first| first.begin(is_again, after, now));
        self.phase =
            Phase::Dialing(Box::pin(async move { dial(&hub.config, address, after).await }));
    }

    /// How many there are, one at least.
    fn servers(&self) -> u32 {
        u32::try_from(self.hub.config.servers.len()).unwrap_or(u32::MAX).max(1)
    }

    fn handle_connected(&mut self, welcomed: Welcomed, now: Instant) {
        self.hub.set_message_bytes_max(welcomed.welcome.limits.message_bytes_max as usize);
        self.few_lanes.take_if(|(.., until)| *until <= now);
        let few = self.few_lanes.as_ref().filter(|(address, ..)| *address == welcomed.address);
        let lanes_max = few.map_or(LANES_MAX, |few| few.1);
        let mut link = Box::new(Link::new(welcomed, &self.hub, lanes_max, now));
        info!(address = %link.address, node = %link.node, "connected");
        self.generation += 1;
        self.heard = Heard::default();
        let config = &self.hub.config;
        for producer in self.producers.values() {
            link.open_producer(producer, config, now);
        }
        for consumer in self.consumers.values() {
            link.open_consumer(consumer, self.generation, config, now);
        }
        self.hub.state.send_replace(ConnectionState::Connected {
            address: link.address.clone(),
            node: link.node.clone(),
            instance: link.instance,
        });
        if let Some(first) = self.first.take() {
            first.connected();
        }
        self.phase = Phase::Up(link);
    }

    fn handle_not_connected(&mut self, error: ConnectError, now: Instant) {
        self.server += 1;
        self.failures = self.failures.saturating_add(1);
        let servers = self.servers();
        let round_over = self.failures.is_multiple_of(servers);
        self.unwelcome = if is_unwelcome(&error) { self.unwelcome.saturating_add(1) } else { 0 };
        warn!(%error, attempt = self.failures, "cannot connect");
        if let Some(first) = &mut self.first {
            first.failed(&error, self.hub.config.connect_timeout);
        }
        // Mostly all servers are tried before anything waits: a connection that was lost counts as one
        // that was tried.
        let mut retry_in =
            if round_over { self.wait(self.failures / servers) } else { Duration::ZERO };
        if round_over && self.unwelcome >= servers {
            retry_in = retry_in.max(self.hub.config.wait_unwelcome());
        }
        if round_over && let Some(mut first) = self.first.take() {
            retry_in = retry_in.min(FIRST_WAIT_MAX);
            if !first.goes_on(retry_in, now) {
                self.shut();
                return first.give_up(error);
            }
            self.first = Some(first);
        }
        self.wait_to_dial(error, retry_in, now);
    }

    fn wait(&self, failures: u32) -> Duration {
        self.hub.config.wait(failures)
    }

    fn wait_to_dial(&mut self, error: ConnectError, retry_in: Duration, now: Instant) {
        let attempt = self.failures;
        self.hub.state.send_replace(ConnectionState::Disconnected { attempt, error, retry_in });
        self.phase = Phase::Waiting(deadline(now, retry_in));
    }

    /// Gives up the connection that is up.
    pub(super) fn cut(&mut self, lost: &Lost, now: Instant) {
        let Phase::Up(mut link) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let (address, cause) = (link.address.clone(), lost.to_string());
        if self.stop.is_none() {
            warn!(%address, cause, "connection lost");
        }
        if now.saturating_duration_since(link.up_since) >= STABLE {
            self.failures = 0;
        }
        // A server that takes clients and loses them again and again is no use; another may be.
        if link.is_ending() || self.failures > 0 {
            self.server += 1;
        }
        if let Some(lanes) = link.lanes_taken(lost, now) {
            warn!(%address, lanes, "it takes no further stream, so that some have to be shared");
            self.few_lanes = Some((address.clone(), lanes, now + FEW_LANES));
        }
        drop(link);
        self.silent_to.clear();
        for producer in self.producers.values() {
            producer.place.clear();
            producer.handle_cut();
        }
        for consumer in self.consumers.values() {
            consumer.place.clear();
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
        self.retries.clear();
        let retry_in = self.wait(self.failures + 1);
        self.wait_to_dial(ConnectError::Lost { address, cause }, retry_in, now);
        self.failures = self.failures.saturating_add(1);
    }
}

/// Whether a server was there and does not want this client: it would say the same again soon.
pub(super) const fn is_unwelcome(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused { refusal, .. } => {
            matches!(refusal.code, RefusalCode::Unauthorized | RefusalCode::VersionUnsupported)
        }
        _ => false,
    }
}

/// For so long connections to a server that took few streams have no more of them. It costs a connection to find out.
const FEW_LANES: Duration = Duration::from_secs(600);
/// A connection that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
