//! What operators ask: over the wire, over HTTP or from the program that embeds the broker.

use std::{collections::VecDeque, future::poll_fn, sync::Arc};

use super::{
    inbox::{Entry, Inbox},
    outbox::Outgoing,
    refuse::gone,
    shared::Shared,
};
use crate::{
    AdminRequest, AdminResponse, NodeStats, Refusal, RefusalCode, Retention, TopicName,
    TopicSettings, TopicStats,
    model::{Event, Reply, RequestId, SessionId, TopicAction},
};

/// Does what an operator asks, whose [turn](Shared::surveys_for) it is.
pub(super) async fn perform(
    shared: &Arc<Shared>,
    request: AdminRequest,
) -> Result<AdminResponse, Refusal> {
    let auto = shared.settings.auto_create_topics;
    match request {
        AdminRequest::ListTopics => Ok(AdminResponse::Topics(shared.topic_names())),
        AdminRequest::CreateTopic { topic, options } => {
            let wanted = options.apply(shared.settings.topic);
            check(&topic, wanted.retention)?;
            let inbox = shared.topic(&topic, true, wanted)?;
            ask(shared, &inbox, TopicAction::Ensure).await?;
            match ask(shared, &inbox, TopicAction::Show).await? {
                AdminResponse::Topic(stats) if options.apply(stats.settings) != stats.settings => {
                    let TopicSettings { durability, retention } = stats.settings;
                    let detail =
                        format!("topic {topic} exists with durability {durability}, {retention}");
                    Err(Refusal::new(RefusalCode::Exists, detail))
                }
                _ => Ok(AdminResponse::Done),
            }
        }
        AdminRequest::AlterTopic { topic, change } => {
            // Each limit stands alone, so that the change is right if it is right by itself.
            check(&topic, change.apply(Retention::default()))?;
            on(shared, &topic, false, TopicAction::Alter(change)).await
        }
        AdminRequest::ShowTopic { topic } => on(shared, &topic, false, TopicAction::Show).await,
        AdminRequest::DeleteTopic { topic } => on(shared, &topic, false, TopicAction::Delete).await,
        AdminRequest::PauseTopic { topic, paused } => {
            on(shared, &topic, false, TopicAction::Pause(paused)).await
        }
        AdminRequest::CreateChannel { topic, channel, start } => {
            shared.draining.check()?;
            on(shared, &topic, auto, TopicAction::CreateChannel(channel, start)).await
        }
        AdminRequest::DeleteChannel { topic, channel } => {
            on(shared, &topic, false, TopicAction::DeleteChannel(channel)).await
        }
        AdminRequest::PauseChannel { topic, channel, paused } => {
            on(shared, &topic, false, TopicAction::PauseChannel(channel, paused)).await
        }
        AdminRequest::Drain { options } => shared.draining.want(Some(options)),
        AdminRequest::EndDrain => shared.draining.want(None),
        AdminRequest::Stats => Ok(AdminResponse::Stats(Box::new(stats(shared).await))),
    }
}

/// Everything's figures. Topics that end meanwhile are left out.
pub(super) async fn stats(shared: &Arc<Shared>) -> NodeStats {
    let outbox = shared.outbox();
    let asked = |inbox: Arc<Inbox>| inbox.push(Entry::Show(outbox.clone())).is_ok();
    let mut open = shared.inboxes().into_iter().map(asked).filter(|asked| *asked).count();
    let mut topics: Vec<TopicStats> = Vec::with_capacity(open);
    let mut replies = VecDeque::new();
    while open > 0 {
        poll_fn(|context| outbox.poll_drain(context, &mut replies)).await;
        for reply in replies.drain(..) {
            let Outgoing::Own(Reply::Admin { result, .. }) = reply else { continue };
            open -= 1;
            if let Ok(AdminResponse::Topic(stats)) = result {
                topics.push(*stats);
            }
        }
    }
    topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    NodeStats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.environment.now().monotonic.0 / 1_000_000,
        connections: shared.entrance.open() as u64,
        store: shared.store.stats(),
        is_draining: shared.draining.is_on(),
        held_up: shared.draining.held_up(),
        store_failure: shared.store.health().err().map(|error| error.to_string()),
        topics,
    }
}

/// Checks limits that someone wants for a topic.
fn check(topic: &TopicName, retention: Retention) -> Result<(), Refusal> {
    retention
        .check()
        .map_err(|error| Refusal::new(RefusalCode::OutOfRange, format!("topic {topic}: {error}")))
}

async fn on(
    shared: &Arc<Shared>,
    topic: &TopicName,
    create: bool,
    action: TopicAction,
) -> Result<AdminResponse, Refusal> {
    let inbox = shared.topic(topic, create, shared.settings.topic)?;
    ask(shared, &inbox, action).await
}

/// Asks one topic one thing.
async fn ask(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    action: TopicAction,
) -> Result<AdminResponse, Refusal> {
    let asker = Asker { inbox, session: shared.new_session() };
    let outbox = shared.outbox();
    let request = RequestId { session: asker.session, request: 0 };
    let closed = |_| gone(inbox.topic(), shared.is_stopping());
    inbox.push(Entry::Attach(asker.session, outbox.clone())).map_err(closed)?;
    inbox.push(Entry::Event(Event::Admin { request, action })).map_err(closed)?;
    let mut replies = VecDeque::new();
    loop {
        poll_fn(|context| outbox.poll_drain(context, &mut replies)).await;
        for reply in replies.drain(..) {
            if let Outgoing::Reply(Reply::Admin { result, .. }) = reply {
                return result;
            }
        }
    }
}

/// A session that only asks. When it is dropped, answered or not, the topic forgets it.
struct Asker<'a> {
    inbox: &'a Inbox,
    session: SessionId,
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        // A closed topic knows nobody any more.
        let _ = self.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
