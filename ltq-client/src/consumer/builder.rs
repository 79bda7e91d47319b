//! How a consumer is made.

use std::{sync::Arc, time::Duration};

use ltq_core::{ChannelName, Credit, StartAt, TopicName};
use tokio::time::Instant;

use super::{
    Consumer, ConsumerLease, ConsumerSeat,
    shared::{ConsumerShared, Settings},
    watcher::Watcher,
};
use crate::{
    Client, RequestError,
    connection::{Command, Lease, Opening},
};

/// Sets a consumer up: [`Client::consumer_builder`](crate::Client::consumer_builder).
#[derive(Debug)]
#[must_use = "nothing happens before `open`"]
pub struct ConsumerBuilder {
    client: Arc<Lease>,
    topic: Result<TopicName, RequestError>,
    channel: Result<ChannelName, RequestError>,
    start: StartAt,
    timeout: Option<Duration>,
    credit: Credit,
    seat: Option<ConsumerSeat>,
}

impl ConsumerBuilder {
    pub(crate) const fn new(
        client: Arc<Lease>,
        topic: Result<TopicName, RequestError>,
        channel: Result<ChannelName, RequestError>,
    ) -> Self {
        Self {
            client,
            topic,
            channel,
            start: StartAt::Earliest,
            timeout: None,
            credit: Credit { messages: 2_500, bytes: 16 << 20 },
            seat: None,
        }
    }

    /// Where the channel starts if it does not exist yet. Default: with the oldest message that
    /// the topic keeps.
    pub const fn start(mut self, start: StartAt) -> Self {
        self.start = start;
        self
    }

    /// How long a delivery may stay unsettled before the broker delivers it again, at least 1 ms;
    /// the broker has bounds of its own. Default: as the broker is set.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How much may be delivered and not settled at once, at least 1 of each: what this consumer
    /// holds in memory, and what it keeps from the channel's other consumers. The message that
    /// uses up the last bytes may go beyond. A broker that allows less is asked for what it allows.
    /// Default: 2,500 messages and 16 MiB.
    pub fn credit(mut self, messages: u64, bytes: u64) -> Self {
        self.credit = Credit { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }

    /// In whose place it goes on: of consumers with one seat in a channel only the one that was opened last is
    /// there, and the others are ended as [`Fenced`](crate::RefusalCode::Fenced), be it when they connect again.
    /// Default: a seat of its own.
    pub fn seat(mut self, seat: &ConsumerSeat) -> Self {
        self.seat = Some(seat.clone());
        self
    }

    /// Subscribes, making the channel and its topic where the broker allows that.
    ///
    /// # Cancellation
    /// Dropping it gives the subscription up; topic and channel may have been made.
    ///
    /// A broker whose limit is reached is asked again by the client's backoff, for three quarters of that
    /// timeout, before it is an error: what counts there may be of a connection that the broker has not
    /// found dead yet.
    ///
    /// # Errors
    /// A [`RequestError`], by the client's request timeout.
    pub async fn open(self) -> Result<Consumer, RequestError> {
        check_timeout(self.timeout)?;
        let settings = Settings {
            topic: self.topic?,
            channel: self.channel?,
            start: self.start,
            timeout: self.timeout,
            credit: self.credit,
            make_topic: true,
        };
        let doing = format!("subscribing to {}, channel {}", settings.topic, settings.channel);
        let hub = self.client.hub();
        let after = hub.config.request_timeout;
        let (opening, opened) = Opening::patient(Instant::now(), after);
        let seat = self.seat.unwrap_or_else(|| ConsumerSeat::drawn(&*hub.config.entropy));
        let shared = Arc::new(ConsumerShared::new(hub.clone(), (settings, seat), opening, None));
        // From here on dropping this future ends the subscription.
        let lease = ConsumerLease { handle: shared.handle, client: self.client.clone() };
        hub.command(Command::Subscribe(shared.clone()));
        opened.wait(doing, after).await?;
        Ok(Consumer { shared, current: None, ended: false, lease })
    }
}

/// How long a delivery may stay unsettled has a lower bound.
pub(crate) fn check_timeout(timeout: Option<Duration>) -> Result<(), RequestError> {
    match timeout {
        Some(timeout) if timeout < Duration::from_millis(1) => Err(RequestError::Option {
            what: "a consumer's timeout",
            got: format!("{timeout:?}"),
            allowed: "it must be at least 1 ms",
        }),
        _ => Ok(()),
    }
}

impl Consumer {
    /// Subscribes in the background, for as long as it takes, with credit that is lent: the watcher is
    /// told what becomes of it, a refusal included.
    pub(crate) fn lent(
        client: &Client,
        settings: (Settings, ConsumerSeat),
        watcher: Watcher,
    ) -> Self {
        let client = client.lease().clone();
        let hub = client.hub().clone();
        // Nobody waits for the answer: the watcher is told.
        let (opening, _opened) = Opening::new();
        let shared = Arc::new(ConsumerShared::new(hub.clone(), settings, opening, Some(watcher)));
        let lease = ConsumerLease { handle: shared.handle, client };
        hub.command(Command::Subscribe(shared.clone()));
        Self { shared, current: None, ended: false, lease }
    }
}
