//! What operators do, from a program.

use std::sync::Arc;

use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, DrainOptions, NodeStats, RetentionChange, StartAt,
    TopicName, TopicOptions, TopicStats,
};

use crate::{
    RequestError,
    connection::{AdminCall, Command, Lease, Request},
};

/// An operator's requests to the broker: [`Client::admin`](crate::Client::admin).
///
/// Each ends by the client's request timeout. One that only reads is asked again after a lost
/// connection; one that changes something is [`RequestError::Unknown`] then. All of them can be
/// repeated safely: what is so already is fine.
///
/// # Cancellation
/// Dropping a call's future does not take the request back once it was sent.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Arc<Lease>,
}

/// A name, or why it is none.
pub(crate) fn named<N, T>(name: N) -> Result<T, RequestError>
where
    N: TryInto<T>,
    RequestError: From<N::Error>,
{
    Ok(name.try_into()?)
}

impl Admin {
    pub(crate) const fn new(client: Arc<Lease>) -> Self {
        Self { client }
    }

    async fn ask(
        &self,
        doing: String,
        action: AdminRequest,
    ) -> Result<AdminResponse, RequestError> {
        let hub = self.client.hub();
        let (request, asked) = Request::new();
        hub.command(Command::Admin(AdminCall { action, request }));
        asked.wait(doing, hub.config.request_timeout).await
    }

    async fn done(&self, doing: String, action: AdminRequest) -> Result<(), RequestError> {
        match self.ask(doing.clone(), action).await? {
            AdminResponse::Done => Ok(()),
            _ => Err(RequestError::WrongAnswer { doing }),
        }
    }

    /// The names of all topics, in order.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn list_topics(&self) -> Result<Vec<TopicName>, RequestError> {
        let doing = "listing topics".to_owned();
        match self.ask(doing.clone(), AdminRequest::ListTopics).await? {
            AdminResponse::Topics(topics) => Ok(topics),
            _ => Err(RequestError::WrongAnswer { doing }),
        }
    }

    /// Makes a topic. What `options` leaves open is as the node is set.
    ///
    /// # Errors
    /// A [`RequestError`]; [`RefusalCode::Exists`](crate::RefusalCode::Exists) when there is one
    /// that is not as asked.
    pub async fn create_topic<N>(&self, topic: N, options: TopicOptions) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        let doing = format!("creating topic {topic}");
        self.done(doing, AdminRequest::CreateTopic { topic, options }).await
    }

    /// Changes what a topic keeps, from now on.
    ///
    /// # Errors
    /// A [`RequestError`]; [`RefusalCode::OutOfRange`](crate::RefusalCode::OutOfRange) for a limit
    /// that cannot be.
    pub async fn alter_topic<N>(
        &self,
        topic: N,
        change: RetentionChange,
    ) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        self.done(format!("altering topic {topic}"), AdminRequest::AlterTopic { topic, change })
            .await
    }

    /// Everything about a topic and its channels.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn show_topic<N>(&self, topic: N) -> Result<TopicStats, RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        let doing = format!("showing topic {topic}");
        match self.ask(doing.clone(), AdminRequest::ShowTopic { topic }).await? {
            AdminResponse::Topic(stats) => Ok(*stats),
            _ => Err(RequestError::WrongAnswer { doing }),
        }
    }

    /// Deletes a topic, its channels and its messages.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn delete_topic<N>(&self, topic: N) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        self.done(format!("deleting topic {topic}"), AdminRequest::DeleteTopic { topic }).await
    }

    /// Stops delivery in all channels of a topic. Publishing goes on.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn pause_topic<N>(&self, topic: N) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        let doing = format!("pausing topic {topic}");
        self.done(doing, AdminRequest::PauseTopic { topic, paused: true }).await
    }

    /// Starts delivery in all channels of a topic again.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn resume_topic<N>(&self, topic: N) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        let doing = format!("resuming topic {topic}");
        self.done(doing, AdminRequest::PauseTopic { topic, paused: false }).await
    }

    /// Makes a channel, and its topic where that is allowed. An existing channel stays where it
    /// is.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn create_channel<N, C>(
        &self,
        topic: N,
        channel: C,
        start: StartAt,
    ) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        let (topic, channel): (TopicName, ChannelName) = (named(topic)?, named(channel)?);
        let doing = format!("creating channel {channel} of topic {topic}");
        self.done(doing, AdminRequest::CreateChannel { topic, channel, start }).await
    }

    /// Deletes a channel: its place in the topic is forgotten, its consumers are told.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn delete_channel<N, C>(&self, topic: N, channel: C) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        let (topic, channel): (TopicName, ChannelName) = (named(topic)?, named(channel)?);
        let doing = format!("deleting channel {channel} of topic {topic}");
        self.done(doing, AdminRequest::DeleteChannel { topic, channel }).await
    }

    /// Stops delivery in a channel.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn pause_channel<N, C>(&self, topic: N, channel: C) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        let (topic, channel): (TopicName, ChannelName) = (named(topic)?, named(channel)?);
        let doing = format!("pausing channel {channel} of topic {topic}");
        self.done(doing, AdminRequest::PauseChannel { topic, channel, paused: true }).await
    }

    /// Starts delivery in a channel again.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn resume_channel<N, C>(&self, topic: N, channel: C) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        C: TryInto<ChannelName>,
        RequestError: From<N::Error> + From<C::Error>,
    {
        let (topic, channel): (TopicName, ChannelName) = (named(topic)?, named(channel)?);
        let doing = format!("resuming channel {channel} of topic {topic}");
        self.done(doing, AdminRequest::PauseChannel { topic, channel, paused: false }).await
    }

    /// The node's and all topics' figures.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub async fn stats(&self) -> Result<NodeStats, RequestError> {
        let doing = "reading the node's figures".to_owned();
        match self.ask(doing.clone(), AdminRequest::Stats).await? {
            AdminResponse::Stats(stats) => Ok(*stats),
            _ => Err(RequestError::WrongAnswer { doing }),
        }
    }

    /// Has the node take in nothing more, and end once what it has is consumed or handed over. It says that
    /// it will, and does it after: [`stats`](Self::stats) shows what is left.
    ///
    /// # Errors
    /// A [`RequestError`]; [`RefusalCode::OutOfRange`](crate::RefusalCode::OutOfRange) for options that
    /// cannot be, and from a broker whose program does not drain it.
    pub async fn drain(&self, options: DrainOptions) -> Result<(), RequestError> {
        self.done("draining the node".to_owned(), AdminRequest::Drain { options }).await
    }

    /// Takes a drain back that is not over: the node takes in again.
    ///
    /// # Errors
    /// As for [`drain`](Self::drain).
    pub async fn end_drain(&self) -> Result<(), RequestError> {
        self.done("ending the node's drain".to_owned(), AdminRequest::EndDrain).await
    }
}
