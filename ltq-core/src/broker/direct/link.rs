//! A session of the program's own with one topic.

use std::{collections::VecDeque, future::poll_fn, sync::Arc};

use thiserror::Error;

use crate::{
    Effect, MessageError, NameError, Offset, Origin, Refusal, RefusalCode, Tag, TopicName,
    broker::{
        inbox::{Entry, Inbox},
        outbox::{Outbox, Outgoing},
        refuse::gone,
        shared::Shared,
    },
    model::{Event, SessionId},
};

/// Why a direct call did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The broker refused. Whether anything happened, the code's
    /// [`effect`](RefusalCode::effect) tells.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A message's key and headers cannot be read: whoever published it encoded them wrongly.
    #[error("message {tag:?} at offset {offset}: {error}")]
    Message {
        /// Its tag, to be settled.
        tag: Tag,
        /// Its offset.
        offset: Offset,
        /// What is wrong.
        error: MessageError,
    },
}

impl DirectError {
    /// What the call has done.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Refused(refusal) => refusal.code.effect(),
            Self::Message { .. } => Effect::Nothing,
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub(in crate::broker) fn bad_name(error: NameError) -> DirectError {
    Refusal::new(RefusalCode::BadName, error.to_string()).into()
}

/// One session of the program's own with one topic.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) session: SessionId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) outgoing: VecDeque<Outgoing>,
}

impl Link {
    /// With a topic, which is made where that is allowed, on behalf of who comes `from` there.
    pub(super) fn open(
        shared: &Arc<Shared>,
        topic: &TopicName,
        from: Option<Origin>,
    ) -> Result<Self, DirectError> {
        let inbox = shared.topic_by_use(topic, from)?;
        let (session, outbox) = (shared.new_session(), shared.outbox());
        let link =
            Self { shared: shared.clone(), inbox, session, outbox, outgoing: VecDeque::new() };
        let attach = Entry::Attach(session, link.outbox.clone());
        link.push(attach)?;
        Ok(link)
    }

    pub(super) fn tell(&self, event: Event) -> Result<(), DirectError> {
        self.push(Entry::Event(event))
    }

    fn push(&self, entry: Entry) -> Result<(), DirectError> {
        let closed = |_| gone(self.inbox.topic(), self.shared.is_stopping()).into();
        self.inbox.push(entry).map_err(closed)
    }

    /// The next thing that the topic says. Cancel safe.
    pub(super) async fn hear(&mut self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.outgoing.pop_front() {
                return outgoing;
            }
            let (outbox, outgoing) = (&self.outbox, &mut self.outgoing);
            poll_fn(|context| outbox.poll_drain(context, outgoing)).await;
            // What is taken is the program's; its credit alone bounds it.
            self.outbox.written(0);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outbox.close();
        // A closed topic knows nobody any more.
        let _ = self.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
    }
}
