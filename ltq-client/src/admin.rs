//! What operators do, from a program.

use std::{sync::Arc, time::Duration};

use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, ChannelStats, DrainOptions, NodeStats, RefusalCode,
    RetentionChange, StartAt, TopicName, TopicOptions, TopicStats,
};
use tokio::time::sleep;

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
        self.stats_of(named(topic)?).await
    }

    async fn stats_of(&self, topic: TopicName) -> Result<TopicStats, RequestError> {
        let doing = format!("showing topic {topic}");
        match self.ask(doing.clone(), AdminRequest::ShowTopic { topic }).await? {
            AdminResponse::Topic(stats) => Ok(*stats),
            _ => Err(RequestError::WrongAnswer { doing }),
        }
    }

    /// Waits until every channel of a topic has settled all that the topic had when this was asked for, whatever is
    /// published meanwhile: what an ordered producer whose
    /// [order moves](crate::ClusterPublishError::OrderMoved) waits for at the node that it moves away from. A
    /// topic that does not exist has nothing to settle, and neither has one without a channel, whatever messages it
    /// holds: they wait for the first, and nobody knows whether one comes. So consumers have to have subscribed at the
    /// node before. Asks every 50 ms at first, and every 250 ms later; without an end while a
    /// channel is paused or has no consumer.
    ///
    /// # Cancellation
    /// Dropping it changes nothing.
    ///
    /// # Errors
    /// As of [`show_topic`](Self::show_topic). A node that is drained goes on for 700 ms when all is settled, so
    /// that who waits sees it; one whose time is over ends with what is left, and the error is that it is gone.
    pub async fn until_consumed<N>(&self, topic: N) -> Result<(), RequestError>
    where
        N: TryInto<TopicName>,
        RequestError: From<N::Error>,
    {
        let topic: TopicName = named(topic)?;
        let mut pause = CONSUMED_PAUSE;
        let mut end = None;
        loop {
            match self.stats_of(topic.clone()).await {
                Ok(stats) => {
                    let end = *end.get_or_insert(stats.end);
                    // One that ends before was made anew meanwhile.
                    let is_done = |it: &ChannelStats| it.floor >= end || is_settled(it);
                    if stats.end < end || stats.channels.iter().all(is_done) {
                        return Ok(());
                    }
                }
                Err(error) => match error.refusal() {
                    Some(refusal) if refusal.code == RefusalCode::NoSuchTopic => return Ok(()),
                    _ => return Err(error),
                },
            }
            sleep(pause).await;
            pause = (pause * 2).min(CONSUMED_PAUSE_MAX);
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

/// Whether nothing of it is left to be settled.
const fn is_settled(channel: &ChannelStats) -> bool {
    channel.waiting == 0 && channel.delayed == 0 && channel.in_flight == 0
}

/// How long to wait before a backlog is asked for again, at first; each time twice as long.
const CONSUMED_PAUSE: Duration = Duration::from_millis(50);
/// And at most.
const CONSUMED_PAUSE_MAX: Duration = Duration::from_millis(250);
