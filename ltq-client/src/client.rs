//! The client itself.

use std::sync::Arc;
#[cfg(feature = "quic")]
use std::time::Duration;

use ltq_core::{ChannelName, TopicName, protocol::InstanceId};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    Admin, ClientBuilder, CloseError, ConnectError, ConnectionState, Consumer, ConsumerBuilder,
    Producer, ProducerBuilder, RequestError,
    admin::named,
    connection::{Command, Lease, deadline},
};

/// A connection to a broker, under any number of producers and consumers.
///
/// Cheap to clone; clones share the connection. One task serves it. Where the transport carries many
/// streams in a connection, as QUIC does, each consumer and each topic that is published to has one
/// of its own, up to 128 in all, so that what is late on one holds up no other; what is asked of
/// different ones at once may then happen in any order. When the connection is lost it
/// is made again, for as long as there are handles: producers go on under their names and send
/// again what was not confirmed, consumers subscribe again.
///
/// When the last handle of the client (clones, producers, consumers, admins) is dropped, what was
/// enqueued is still sent for as long as its time lasts, and the connection ended then.
/// [`close`](Self::close) does that with a word on the outcome.
#[derive(Clone, Debug)]
pub struct Client {
    lease: Arc<Lease>,
}

impl Client {
    pub(crate) const fn new(lease: Arc<Lease>) -> Self {
        Self { lease }
    }

    /// Connects to a server, such as `tcp://127.0.0.1:7440`, with everything else at its default.
    ///
    /// # Cancellation
    /// Dropping it gives the attempt up.
    ///
    /// # Errors
    /// A [`ConnectError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn connect(server: &str) -> Result<Self, ConnectError> {
        Self::builder().server(server).connect().await
    }

    /// Sets a client up.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Opens a producer for a topic, with everything else at its default.
    ///
    /// # Cancellation
    /// As for [`ProducerBuilder::open`].
    ///
    /// # Errors
    /// As for [`ProducerBuilder::open`].
    pub async fn producer<N>(&self, topic: N) -> Result<Producer, RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        self.producer_builder(topic).open().await
    }

    /// Sets a producer up. A name that is none is an error of
    /// [`open`](ProducerBuilder::open).
    pub fn producer_builder<N>(&self, topic: N) -> ProducerBuilder
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        ProducerBuilder::new(self.lease.clone(), named(topic))
    }

    /// Subscribes to a channel of a topic, with everything else at its default.
    ///
    /// # Cancellation
    /// As for [`ConsumerBuilder::open`].
    ///
    /// # Errors
    /// As for [`ConsumerBuilder::open`].
    pub async fn consumer<N, C>(&self, topic: N, channel: C) -> Result<Consumer, RequestError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        self.consumer_builder(topic, channel).open().await
    }

    /// Sets a consumer up. A name that is none is an error of
    /// [`open`](ConsumerBuilder::open).
    pub fn consumer_builder<N, C>(&self, topic: N, channel: C) -> ConsumerBuilder
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        ConsumerBuilder::new(self.lease.clone(), named(topic), named(channel))
    }

    /// An operator's requests.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.lease.clone())
    }

    /// Says another token from now on, or none: for when the one before is about to be taken back. A
    /// connection that is up stays as it is; streams that it opens say the new one. A client that waits
    /// to connect again tries at once.
    pub fn set_token(&self, token: Option<String>) {
        let hub = self.lease.hub();
        *hub.config.token.lock() = token;
        hub.command(Command::Connect);
    }

    /// What the connection is doing, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.lease.hub().state()
    }

    /// Which broker it is connected to, for as long as that runs: two clients that have the same one here
    /// talk to one broker, whatever its addresses and names. `None` while it is not connected.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceId> {
        self.state().borrow().instance()
    }

    /// There is a reason to connect now, if it waits to do so again.
    pub(crate) fn hurry(&self) {
        self.lease.hub().command(Command::Connect);
    }

    pub(crate) const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Closes the client with all its clones, producers and consumers: waits until everything
    /// that was enqueued is answered, sends the last settlements, gives back what is unsettled,
    /// and ends the connection. Calls made meanwhile or later fail as closed.
    ///
    /// Over QUIC the program may end at once then: this waits, for a second at most, until the
    /// broker was told that the connection is no more. With a `Quic` of one's own that is left to
    /// its `settled`, since other clients may use it.
    ///
    /// # Cancellation
    /// Once polled it closes, whether or not it is dropped then.
    ///
    /// # Errors
    /// [`CloseError`] when that was not done within the request timeout; the client is closed all
    /// the same.
    pub async fn close(self) -> Result<(), CloseError> {
        let after = self.lease.hub().config.request_timeout;
        self.close_by(deadline(Instant::now(), after)).await
    }

    /// Closes it by this time at the latest.
    pub(crate) async fn close_by(self, deadline: Instant) -> Result<(), CloseError> {
        let hub = self.lease.hub();
        let after = hub.config.request_timeout;
        let (reply, closed) = oneshot::channel();
        hub.command(Command::Close { deadline, after, reply });
        // Without an answer the runtime was shut down, and nothing is left to wait for.
        let result = closed.await.unwrap_or(Ok(()));
        #[cfg(feature = "quic")]
        if let Some(quic) = &hub.config.quic {
            let _late = tokio::time::timeout(SETTLE_MAX, quic.settled()).await;
        }
        result
    }
}

/// What the broker's word for the end of a connection may take.
#[cfg(feature = "quic")]
const SETTLE_MAX: Duration = Duration::from_secs(1);
