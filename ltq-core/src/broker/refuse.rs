//! What the shell refuses by itself, and in which words.

use crate::{
    Credit, Records, RecordsError, Refusal, RefusalCode, TopicName,
    model::{Event, Reply, SessionId},
    protocol::{DecodeError, Frame},
};

/// Why a topic hears nothing any more.
pub(super) fn gone(topic: &TopicName, stopping: bool) -> Refusal {
    if stopping {
        Refusal::new(RefusalCode::Stopping, "the node is stopping")
    } else {
        Refusal::new(RefusalCode::TopicDeleted, format!("topic {topic} was deleted"))
    }
}

/// The reply to an event that came after its topic was deleted, or after the node stopped; `None`
/// for what needs none.
pub(super) fn refuse(event: &Event, refusal: &Refusal) -> Option<(SessionId, Reply)> {
    let refusal = refusal.clone();
    Some(match event {
        Event::OpenProducer { producer, .. } => {
            (producer.session, Reply::ProducerRefused { handle: producer.handle, refusal })
        }
        Event::Publish { producer, sequence, records, .. } => {
            let (handle, sequence) = (producer.handle, *sequence);
            let count = records.count() as u64;
            (producer.session, Reply::PublishRefused { handle, sequence, count, refusal })
        }
        Event::RefusePublish { producer, sequence, count, refusal } => {
            let (handle, sequence, count) = (producer.handle, *sequence, *count);
            let refusal = refusal.clone();
            (producer.session, Reply::PublishRefused { handle, sequence, count, refusal })
        }
        Event::Subscribe { consumer, .. } => {
            (consumer.session, Reply::SubscribeRefused { handle: consumer.handle, refusal })
        }
        Event::Settle { consumer, request, settlements } => {
            let (handle, request) = (consumer.handle, *request);
            let stale = settlements.iter().map(|settlement| settlement.tags).collect();
            (consumer.session, Reply::Settled { handle, request, stale })
        }
        Event::Admin { request, .. } => {
            (request.session, Reply::Admin { request: request.request, result: Err(refusal) })
        }
        // Whoever could unsubscribe was told of the end when the topic came to it.
        Event::Unsubscribe { .. }
        | Event::CloseProducer { .. }
        | Event::Credit { .. }
        | Event::Release { .. }
        | Event::Alone { .. }
        | Event::SessionEnded { .. }
        | Event::Committed { .. }
        | Event::Loaded { .. }
        | Event::Located { .. }
        | Event::Stop => return None,
    })
}

/// Why these records are not taken in, if so.
pub(super) fn bad_records(records: &Records, message_bytes_max: u32) -> Option<Refusal> {
    let largest = records.largest();
    if largest > message_bytes_max as usize {
        let detail = format!("a message of {largest} bytes; the limit is {message_bytes_max}");
        return Some(Refusal::new(RefusalCode::MessageTooLarge, detail));
    }
    let error: RecordsError = records.verify().err()?;
    Some(Refusal::new(RefusalCode::Damaged, error.to_string()))
}

pub(super) fn in_use(what: &str, handle: u32) -> Refusal {
    Refusal::new(RefusalCode::HandleInUse, format!("{what} {handle} is open already"))
}

pub(super) fn credit_refusal(credit: Credit, max: Credit) -> Refusal {
    let detail = format!(
        "credit for {} messages and {} bytes; the limit is {} messages and {} bytes",
        credit.messages, credit.bytes, max.messages, max.bytes
    );
    Refusal::new(RefusalCode::OutOfRange, detail)
}

/// Bytes that are no frame.
pub(super) fn undecodable(error: &DecodeError) -> Refusal {
    let code = match error {
        DecodeError::TooLong { .. } => RefusalCode::FrameTooLarge,
        DecodeError::Name(_) => RefusalCode::BadName,
        DecodeError::UnknownType(_) => RefusalCode::UnexpectedFrame,
        _ => RefusalCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

/// A frame that has no place in what a client sends.
pub(super) fn unexpected(frame: &Frame) -> Refusal {
    let name = match frame {
        Frame::Hello(_) => "a second hello",
        Frame::Welcome(_) => "a welcome",
        Frame::Goodbye { .. } => "a goodbye",
        _ => "a broker's answer",
    };
    Refusal::new(RefusalCode::UnexpectedFrame, format!("a client does not send {name}"))
}
