//! How a producer is made.

use std::{sync::Arc, time::Duration};

use ltq_core::{Durability, NameError, ProducerName, TopicName};
use tokio::time::Instant;

use super::{
    Producer, ProducerLease,
    room::{Room, Rooms},
    shared::{ProducerShared, Settings},
};
use crate::{
    RequestError,
    connection::{Command, Lease, Opening},
};

/// Sets a producer up: [`Client::producer_builder`](crate::Client::producer_builder).
#[derive(Debug)]
#[must_use = "nothing happens before `open`"]
pub struct ProducerBuilder {
    client: Arc<Lease>,
    topic: Result<TopicName, RequestError>,
    name: Option<Result<ProducerName, NameError>>,
    durability: Option<Durability>,
    window: Room,
    timeout: Duration,
    linger: Duration,
}

impl ProducerBuilder {
    pub(crate) const fn new(client: Arc<Lease>, topic: Result<TopicName, RequestError>) -> Self {
        Self {
            client,
            topic,
            name: None,
            durability: None,
            window: Room { messages: 10_000, bytes: 8 << 20 },
            timeout: Duration::from_secs(10),
            linger: Duration::ZERO,
        }
    }

    /// The name under which the broker remembers the sequence, over restarts of this program too.
    /// One name is for one producer at a time: a newer one fences the older. Default: a random
    /// name, which makes repeats after a lost connection safe and nothing more; the broker is told
    /// to forget it when the producer is closed.
    ///
    /// A broker remembers so many names for each topic, and forgets the one that was closed longest
    /// ago. The random name of a program that was killed, or closed while it had no connection, is
    /// remembered until then like any other. Opening a producer costs a commit: keep one open
    /// rather than open one for each message.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(ProducerName::new(name));
        self
    }

    /// How durable a message is to be before it is confirmed. Default: as the topic is set.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// How many messages may be unanswered; at least 1, at most a billion. Default: 10,000.
    pub fn window_messages(mut self, messages: usize) -> Self {
        self.window.messages = messages.clamp(1, WINDOW_MAX);
        self
    }

    /// How many bytes of messages may be unanswered; at least 1, at most a billion. They are what
    /// a producer holds in memory; one message or batch may go beyond. Default: 8 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window.bytes = bytes.clamp(1, WINDOW_MAX);
        self
    }

    /// How long each call may take, waiting for room included. Default: 10 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a message waits for others to be sent with it, unless there are already many.
    /// Messages that come while the connection is busy are sent together in any case. Default:
    /// not at all.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Opens the producer, making the topic where the broker allows that.
    ///
    /// # Cancellation
    /// Dropping it gives the producer up; the topic may have been made.
    ///
    /// A broker whose limit is reached is asked again by the client's backoff, for three quarters of that
    /// timeout, before it is an error: what counts there may be of a connection that the broker has not
    /// found dead yet.
    ///
    /// # Errors
    /// A [`RequestError`], by the client's request timeout.
    pub async fn open(self) -> Result<Producer, RequestError> {
        let auto_name = self.name.is_none();
        let name = match self.name {
            Some(name) => name?,
            None => {
                let [a, b] = [(); 2].map(|()| self.client.hub().config.entropy.next());
                ProducerName::new(&format!("auto-{a:016x}{b:016x}"))?
            }
        };
        let settings = Settings {
            topic: self.topic?,
            name,
            auto_name,
            durability: self.durability,
            timeout: self.timeout,
            linger: self.linger,
        };
        let doing = format!("opening a producer for {}", settings.topic);
        let hub = self.client.hub();
        let after = hub.config.request_timeout;
        let (opening, opened) = Opening::patient(Instant::now(), after);
        let rooms = Arc::new(Rooms::new(self.window));
        let shared = Arc::new(ProducerShared::new(hub.clone(), settings, opening, rooms, None));
        // From here on dropping this future closes the producer.
        let lease = Arc::new(ProducerLease { handle: shared.handle, client: self.client.clone() });
        hub.command(Command::OpenProducer(shared.clone()));
        opened.wait(doing, after).await?;
        Ok(Producer { shared, _lease: lease })
    }
}

/// What a semaphore's permits can count in 32 bits, with room to spare.
pub(crate) const WINDOW_MAX: usize = 1_000_000_000;
