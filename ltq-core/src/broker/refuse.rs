//! What to say to an event that its topic will never hear.

use crate::{
    Refusal, RefusalCode, TopicName,
    model::{Event, Reply, SessionId},
};

/// The reply to an event that came after its topic was deleted, or after the node stopped; `None`
/// for what needs none.
pub(super) fn refuse(
    event: &Event,
    topic: &TopicName,
    stopping: bool,
) -> Option<(SessionId, Reply)> {
    let refusal = if stopping {
        Refusal::new(RefusalCode::Stopping, "the node is stopping")
    } else {
        Refusal::new(RefusalCode::TopicDeleted, format!("topic {topic} was deleted"))
    };
    Some(match event {
        Event::OpenProducer { producer, .. } => {
            (producer.session, Reply::ProducerRefused { handle: producer.handle, refusal })
        }
        Event::Publish { producer, sequence, records, .. } => (
            producer.session,
            Reply::PublishRefused {
                handle: producer.handle,
                sequence: *sequence,
                count: records.count() as u64,
                refusal,
            },
        ),
        Event::Subscribe { consumer, .. } => {
            (consumer.session, Reply::SubscribeRefused { handle: consumer.handle, refusal })
        }
        Event::Settle { consumer, request, settlements } => (
            consumer.session,
            Reply::Settled {
                handle: consumer.handle,
                request: *request,
                stale: settlements.iter().map(|settlement| settlement.tags).collect(),
            },
        ),
        Event::Unsubscribe { consumer } => {
            (consumer.session, Reply::SubscriptionClosed { handle: consumer.handle, refusal: None })
        }
        Event::Admin { request, .. } => {
            (request.session, Reply::Admin { request: request.request, result: Err(refusal) })
        }
        Event::CloseProducer { .. }
        | Event::Credit { .. }
        | Event::Hold { .. }
        | Event::SessionEnded { .. }
        | Event::Committed { .. }
        | Event::Loaded { .. }
        | Event::Located { .. }
        | Event::Stop => return None,
    })
}
