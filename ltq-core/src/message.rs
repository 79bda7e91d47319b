//! A message as a program sees it, and its one encoding.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a producer publishes and a consumer gets: a body, and optionally a key and headers.
///
/// ```
/// use ltq_core::Message;
/// let message = Message::new("hello").with_key("customer-7").with_header("trace", "a1");
/// assert_eq!(message.body, "hello");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What the message is about, for order and routing; empty keys are keys.
    pub key: Option<Bytes>,
    /// Names and values beside the body, in the order given; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    /// The bytes themselves; LTQ never looks inside.
    pub body: Bytes,
}

impl Message {
    /// A message with this body, no key and no headers.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { key: None, headers: Vec::new(), body: body.into() }
    }

    /// The same message with this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same message with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The most bytes that this message takes when encoded, without its entry in the table of
    /// [`Records`](crate::Records). A message's size limit is compared with this.
    #[must_use]
    pub fn encoded_len_max(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len() + VARINT_BYTES_MAX);
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2 * VARINT_BYTES_MAX)
            .sum();
        self.body.len() + key + headers + 2 * VARINT_BYTES_MAX + 2
    }

    /// Appends the encoding: the length of the meta part as a varint, the meta part (absent
    /// without key and headers; else postcard of key and headers), the body.
    pub(crate) fn encode(&self, into: &mut BytesMut) {
        if self.key.is_none() && self.headers.is_empty() {
            into.reserve(1 + self.body.len());
            into.put_u8(0);
        } else {
            let meta = MetaRef {
                key: self.key.as_deref(),
                headers: self.headers.iter().map(|(n, v)| (n.as_str(), v.as_ref())).collect(),
            };
            // Writing to a growing vector cannot fail, and the types have no fallible encoder.
            let meta = postcard::to_stdvec(&meta).unwrap_or_default();
            put_varint(into, meta.len() as u32);
            into.reserve(meta.len() + self.body.len());
            into.extend_from_slice(&meta);
        }
        into.extend_from_slice(&self.body);
    }

    /// Reads back what [`encode`](Self::encode) wrote; the body is a slice of `encoded`.
    ///
    /// # Errors
    /// [`MessageError`] when the meta part is not one that LTQ writes.
    pub(crate) fn decode(encoded: &Bytes) -> Result<Self, MessageError> {
        let (meta_len, start) = take_varint(encoded).ok_or(MessageError)?;
        if meta_len == 0 {
            return Ok(Self { key: None, headers: Vec::new(), body: encoded.slice(start..) });
        }
        let end = start.checked_add(meta_len as usize).ok_or(MessageError)?;
        let meta = encoded.get(start..end).ok_or(MessageError)?;
        let meta: MetaRef<'_> = postcard::from_bytes(meta).map_err(|_| MessageError)?;
        Ok(Self {
            key: meta.key.map(|key| encoded.slice_ref(key)),
            headers: meta
                .headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), encoded.slice_ref(value)))
                .collect(),
            body: encoded.slice(end..),
        })
    }
}

/// An encoded message whose meta part cannot be read: its producer wrote nonsense, since its
/// checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record's key and headers are not in LTQ's encoding")]
pub struct MessageError;

#[derive(Serialize, Deserialize)]
struct MetaRef<'a> {
    #[serde(borrow)]
    key: Option<&'a [u8]>,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a [u8])>,
}

const VARINT_BYTES_MAX: usize = 5;

fn put_varint(into: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

fn take_varint(from: &[u8]) -> Option<(u32, usize)> {
    let mut value = 0u64;
    for (at, byte) in from.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: &Message) {
        let mut buffer = BytesMut::new();
        message.encode(&mut buffer);
        assert!(buffer.len() <= message.encoded_len_max());
        assert_eq!(&Message::decode(&buffer.freeze()).unwrap(), message);
    }

    #[test]
    fn messages_survive_their_encoding() {
        round_trip(&Message::new(""));
        round_trip(&Message::new("body"));
        round_trip(&Message::new("body").with_key(""));
        round_trip(&Message::new(vec![7; 300]).with_key(vec![1; 200]).with_header("a", "b"));
        round_trip(&Message::new("").with_header("", "").with_header("", "x"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&[][..], &[0x80], &[5, 1], &[2, 9, 9, 1], &[0xff; 6]] {
            assert_eq!(Message::decode(&Bytes::copy_from_slice(bytes)), Err(MessageError));
        }
    }
}
