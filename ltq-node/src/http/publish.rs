//! `POST /pub` and `POST /mpub`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri},
};
use bytes::{Buf, Bytes};
use ltq_core::{
    Action, Durability, Grant, Message, Offset, Peer, Records, RecordsBuilder, RefusalCode,
    TABLE_ENTRY_BYTES, TopicName,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Api, error::ApiError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PubQuery {
    topic: String,
    durability: Option<Durability>,
    key: Option<String>,
}

/// The answer to `POST /pub`.
#[derive(Debug, Serialize)]
pub(super) struct PubReceipt {
    topic: TopicName,
    offset: Option<Offset>,
    durability: Durability,
}

/// Publishes the body as one message.
pub(super) async fn publish_one(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Grant>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    body: Body,
) -> Result<Json<PubReceipt>, ApiError> {
    let deadline = api.deadline();
    let query: PubQuery = parse(&uri)?;
    let topic = topic_name(&query.topic)?;
    api.broker.permit(&grant, Action::Publish, Some(&topic))?;
    let max = api.broker.settings().message_bytes_max;
    let body = api.read(deadline, &peer, body, max.into()).await?;
    let mut message = Message::new(body.bytes.clone());
    message.key = query.key.map(Bytes::from);
    let records = Records::encode([&message]);
    let (ranges, durability) =
        api.publish(deadline, &peer, &topic, query.durability, records).await?;
    let offset = ranges.first().and_then(|range| range.offset);
    Ok(Json(PubReceipt { topic, offset, durability }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MpubQuery {
    topic: String,
    durability: Option<Durability>,
    #[serde(default)]
    binary: bool,
}

/// The answer to `POST /mpub`.
#[derive(Debug, Serialize)]
pub(super) struct MpubReceipt {
    topic: TopicName,
    /// How many messages.
    count: u64,
    durability: Durability,
    /// Where they are, in order.
    ranges: Vec<OffsetRange>,
}

#[derive(Debug, Serialize)]
struct OffsetRange {
    first: Offset,
    last: Offset,
}

/// Publishes many messages, all of them or none.
pub(super) async fn publish_many(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Grant>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    body: Body,
) -> Result<Json<MpubReceipt>, ApiError> {
    let deadline = api.deadline();
    let query: MpubQuery = parse(&uri)?;
    let topic = topic_name(&query.topic)?;
    api.broker.permit(&grant, Action::Publish, Some(&topic))?;
    let settings = api.broker.settings();
    let body = api.read(deadline, &peer, body, settings.frame_bytes_max.into()).await?;
    let records_max = settings.publish_bytes_max;
    let records = if query.binary {
        from_binary(&body.bytes, records_max)?
    } else {
        from_lines(&body.bytes, records_max)?
    };
    let count = records.count() as u64;
    let (ranges, durability) =
        api.publish(deadline, &peer, &topic, query.durability, records).await?;
    let ranges = ranges
        .iter()
        .filter_map(|range| {
            let first = range.offset?;
            Some(OffsetRange { first, last: first.plus(range.count.saturating_sub(1)) })
        })
        .collect();
    Ok(Json(MpubReceipt { topic, count, durability, ranges }))
}

fn parse<Q: DeserializeOwned>(uri: &Uri) -> Result<Q, ApiError> {
    let Query(query) = Query::try_from_uri(uri).map_err(|error| {
        let words = error.body_text();
        let words = words.rsplit_once("query string: ").map_or(&*words, |(_, words)| words);
        let detail = format!("the query {:?}: {words}", uri.query().unwrap_or(""));
        ApiError::new(StatusCode::BAD_REQUEST, "bad_query", detail)
    })?;
    Ok(query)
}

fn topic_name(text: &str) -> Result<TopicName, ApiError> {
    TopicName::new(text).map_err(|error| ApiError::refused(RefusalCode::BadName, error.to_string()))
}

/// One message a line. The last line may end or not; a line without anything is an empty message.
fn from_lines(body: &Bytes, max: u64) -> Result<Records, ApiError> {
    if body.is_empty() {
        return Err(none());
    }
    let text = body.strip_suffix(b"\n").unwrap_or(body);
    let count = text.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let bytes = text.len() as u64 - (count - 1);
    let mut builder = builder(count, bytes, max)?;
    for line in text.split(|byte| *byte == b'\n') {
        builder.push(&Message::new(body.slice_ref(line)));
    }
    Ok(builder.finish())
}

/// Messages, each after its length as a little-endian `u32`.
fn from_binary(body: &Bytes, max: u64) -> Result<Records, ApiError> {
    let cut = |at: usize, what: String| {
        let detail = format!("the message at byte {at} of {}: {what}", body.len());
        ApiError::refused(RefusalCode::Malformed, detail)
    };
    if body.is_empty() {
        return Err(none());
    }
    // Checked in a first pass, so that no memory is taken for what is refused.
    let (mut rest, mut count, mut bytes) = (body.clone(), 0, 0);
    while !rest.is_empty() {
        let at = body.len() - rest.len();
        let length = rest.try_get_u32_le().map_err(|_| cut(at, "its length is cut".to_owned()))?;
        if length as usize > rest.len() {
            return Err(cut(at, format!("{length} bytes announced, {} there", rest.len())));
        }
        rest.advance(length as usize);
        count += 1;
        bytes += u64::from(length);
    }
    let mut builder = builder(count, bytes, max)?;
    let mut rest = body.clone();
    while let Ok(length) = rest.try_get_u32_le() {
        builder.push(&Message::new(rest.split_to(rest.len().min(length as usize))));
    }
    Ok(builder.finish())
}

fn none() -> ApiError {
    ApiError::refused(RefusalCode::OutOfRange, "the body holds no message")
}

/// A builder with room for so many messages, unless they are too much for one publish.
fn builder(count: u64, bytes: u64, max: u64) -> Result<RecordsBuilder, ApiError> {
    // Without key and headers a message takes one byte beside its body.
    let payload = bytes.saturating_add(count);
    let whole = payload.saturating_add(count.saturating_mul(TABLE_ENTRY_BYTES as u64));
    if whole > max {
        let detail =
            format!("{count} messages take {whole} bytes; one request may publish up to {max}");
        let code = RefusalCode::MessageTooLarge.as_str();
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail));
    }
    let capacity = |wanted: u64| usize::try_from(wanted).unwrap_or(0);
    Ok(RecordsBuilder::with_capacity(capacity(count), capacity(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(records: &Records) -> Vec<Bytes> {
        records.messages().map(|message| message.unwrap().body).collect()
    }

    #[test]
    fn lines_are_messages_byte_for_byte() {
        let lines =
            |text: &'static [u8]| bodies(&from_lines(&Bytes::from_static(text), 1 << 20).unwrap());
        assert_eq!(lines(b"a\nb"), ["a", "b"]);
        assert_eq!(lines(b"a\r\n\nb\n"), ["a\r", "", "b"]);
        assert_eq!(lines(b"\n"), [""]);
        assert_eq!(from_lines(&Bytes::new(), 1 << 20).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn binary_messages_are_read_and_cut_ones_refused() {
        let body = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\n");
        assert_eq!(bodies(&from_binary(&body, 1 << 20).unwrap()), ["ab", "", "\n"]);
        for length in (1..body.len()).filter(|length| ![6, 10].contains(length)) {
            let error = from_binary(&body.slice(..length), 1 << 20).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (400, "malformed"), "{length}");
        }
        let huge = Bytes::from_static(b"\xff\xff\xff\xffabc");
        assert_eq!(from_binary(&huge, 1 << 20).unwrap_err().code, "malformed");
    }

    #[test]
    fn promise_9_many_small_messages_are_counted_with_what_they_cost() {
        let body = Bytes::from(vec![b'\n'; 1000]);
        let error = from_lines(&body, 8_000).unwrap_err();
        assert_eq!(error.status.as_u16(), 413);
        assert!(error.detail.contains("9000 bytes"), "{}", error.detail);
        assert_eq!(from_lines(&body, 10_000).unwrap().count(), 1000);
    }
}
