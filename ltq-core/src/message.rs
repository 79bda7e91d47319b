//! A message as a program sees it, and its one encoding.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
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
    /// With `more` it has one more header, behind its own.
    pub(crate) fn encode(&self, more: Option<(&str, &[u8])>, into: &mut BytesMut) {
        let headers = || {
            let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref()));
            own.chain(more)
        };
        let count = self.headers.len() + usize::from(more.is_some());
        if self.key.is_none() && count == 0 {
            into.reserve(1 + self.body.len());
            into.put_u8(0);
        } else {
            // Postcard's encoding, written in one go: this is done for each message.
            let of = |bytes: &[u8]| varint_len(bytes.len()) + bytes.len();
            let key = self.key.as_deref();
            let in_headers: usize =
                headers().map(|(name, value)| of(name.as_bytes()) + of(value)).sum();
            let meta = 1 + key.map_or(0, of) + varint_len(count) + in_headers;
            into.reserve(VARINT_BYTES_MAX + meta + self.body.len());
            put_varint(into, meta as u32);
            into.put_u8(u8::from(key.is_some()));
            key.into_iter().for_each(|key| put_bytes(into, key));
            put_varint(into, count as u32);
            for (name, value) in headers() {
                put_bytes(into, name.as_bytes());
                put_bytes(into, value);
            }
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

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
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

fn put_bytes(into: &mut BytesMut, bytes: &[u8]) {
    put_varint(into, bytes.len() as u32);
    into.extend_from_slice(bytes);
}

const fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(7) as usize }
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
        message.encode(None, &mut buffer);
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
    fn the_meta_part_is_postcards_encoding() {
        let long = vec![3; 20_000];
        for key in [None, Some(&b""[..]), Some(&[1; 127]), Some(&[1; 128]), Some(&long)] {
            for headers in [vec![], vec![("", &b""[..])], vec![("a", &[2; 300]); 130]] {
                let mut message = Message::new("body");
                message.key = key.map(Bytes::copy_from_slice);
                let own = headers.iter().map(|(n, v)| ((*n).to_owned(), Bytes::copy_from_slice(v)));
                message.headers = own.collect();
                for more in [None, Some(("more", &[9; 3][..]))] {
                    let mut expected = BytesMut::new();
                    let headers: Vec<_> = headers.iter().copied().chain(more).collect();
                    if key.is_none() && headers.is_empty() {
                        expected.put_u8(0);
                    } else {
                        let meta = postcard::to_stdvec(&MetaRef { key, headers }).unwrap();
                        put_varint(&mut expected, meta.len() as u32);
                        expected.extend_from_slice(&meta);
                    }
                    expected.extend_from_slice(b"body");
                    let mut encoded = BytesMut::new();
                    message.encode(more, &mut encoded);
                    assert_eq!(encoded, expected);
                }
            }
        }
        assert_eq!([0, 1, 127, 128, 16_383, 16_384].map(varint_len), [1, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&[][..], &[0x80], &[5, 1], &[2, 9, 9, 1], &[0xff; 6]] {
            assert_eq!(Message::decode(&Bytes::copy_from_slice(bytes)), Err(MessageError));
        }
    }
}
