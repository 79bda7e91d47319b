//! A message as a program sees it, and its one encoding.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::{
    Headers,
    varint::{
        LEN_BYTES_MAX, bytes_len, len_of, put_bytes, put_len, take_bytes, take_len, take_u64,
    },
};

/// What a producer publishes and a consumer gets: a body, and optionally a key and headers.
///
/// ```
/// use ltq_core::Message;
/// let message = Message::new("hello").with_key("customer-7").with_header("trace", "a1");
/// assert_eq!(message.body, "hello");
/// assert_eq!(message.headers.get("trace"), Some(&b"a1"[..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What the message is about, for order and routing; empty keys are keys.
    pub key: Option<Bytes>,
    /// Names and values beside the body, in the order given; names may repeat.
    pub headers: Headers,
    /// The bytes themselves; LTQ never looks inside.
    pub body: Bytes,
}

impl Message {
    /// A message with this body, no key and no headers.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { key: None, headers: Headers::new(), body: body.into() }
    }

    /// The same message with this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same message with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// The most bytes that this message takes when encoded, without its entry in the table of
    /// [`Records`](crate::Records). A message's size limit is compared with this.
    #[must_use]
    pub fn encoded_len_max(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len() + LEN_BYTES_MAX);
        self.body.len() + key + self.headers.encoded().len() + 2 * LEN_BYTES_MAX + 2
    }

    /// Appends the encoding: the length of the meta part as a varint, the meta part (absent
    /// without key and headers; else postcard of key and headers), the body.
    /// With `more` it has one more header, behind its own.
    pub(crate) fn encode(&self, more: Option<(&str, &[u8])>, into: &mut BytesMut) {
        let count = self.headers.len() + usize::from(more.is_some());
        if self.key.is_none() && count == 0 {
            into.reserve(1 + self.body.len());
            into.put_u8(0);
        } else {
            // Postcard's encoding, written in one go: this is done for each message.
            let (key, headers) = (self.key.as_deref(), self.headers.encoded());
            let of_more =
                more.map_or(0, |(name, value)| bytes_len(name.as_bytes()) + bytes_len(value));
            let meta = 1 + key.map_or(0, bytes_len) + len_of(count) + headers.len() + of_more;
            into.reserve(LEN_BYTES_MAX + meta + self.body.len());
            put_len(into, meta);
            into.put_u8(u8::from(key.is_some()));
            key.into_iter().for_each(|key| put_bytes(into, key));
            put_len(into, count);
            into.extend_from_slice(headers);
            if let Some((name, value)) = more {
                put_bytes(into, name.as_bytes());
                put_bytes(into, value);
            }
        }
        into.extend_from_slice(&self.body);
    }

    /// Reads back what [`encode`](Self::encode) wrote; key, headers and body are slices of `encoded`.
    ///
    /// # Errors
    /// [`MessageError`] when the meta part is not one that LTQ writes.
    pub(crate) fn decode(encoded: Bytes) -> Result<Self, MessageError> {
        Self::take_apart(encoded).ok_or(MessageError)
    }

    fn take_apart(mut encoded: Bytes) -> Option<Self> {
        let mut rest = &encoded[..];
        let meta_len = take_len(&mut rest)?;
        let (mut meta, body) = rest.split_at_checked(meta_len)?;
        let body_at = encoded.len() - body.len();
        let (mut key, mut headers) = (None, Headers::new());
        if meta_len > 0 {
            key = match meta.split_off_first()? {
                0 => None,
                1 => Some(encoded.slice_ref(take_bytes(&mut meta)?)),
                _ => return None,
            };
            let count = take_u64(&mut meta)?;
            let found = Headers::check(meta, count)?;
            if !found.is_empty() {
                headers = Headers::checked(encoded.slice_ref(found));
            }
        }
        encoded.advance(body_at);
        Some(Self { key, headers, body: encoded })
    }
}

/// An encoded message whose meta part cannot be read: its producer wrote nonsense, since its
/// checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record's key and headers are not in LTQ's encoding")]
pub struct MessageError;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;

    /// What the meta part is, as postcard has it.
    #[derive(Serialize, Deserialize)]
    struct MetaRef<'a> {
        #[serde(borrow)]
        key: Option<&'a [u8]>,
        #[serde(borrow)]
        headers: Vec<(&'a str, &'a [u8])>,
    }

    fn round_trip(message: &Message) {
        let mut buffer = BytesMut::new();
        message.encode(None, &mut buffer);
        assert!(buffer.len() <= message.encoded_len_max());
        assert_eq!(&Message::decode(buffer.freeze()).unwrap(), message);
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
                message.headers = headers.iter().copied().collect();
                for more in [None, Some(("more", &[9; 3][..]))] {
                    let mut expected = BytesMut::new();
                    let headers: Vec<_> = headers.iter().copied().chain(more).collect();
                    if key.is_none() && headers.is_empty() {
                        expected.put_u8(0);
                    } else {
                        let meta = postcard::to_stdvec(&MetaRef { key, headers }).unwrap();
                        put_len(&mut expected, meta.len());
                        expected.extend_from_slice(&meta);
                    }
                    expected.extend_from_slice(b"body");
                    let mut encoded = BytesMut::new();
                    message.encode(more, &mut encoded);
                    assert_eq!(encoded, expected);
                }
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&[][..], &[0x80], &[5, 1], &[2, 9, 9, 1], &[0xff; 6]] {
            assert_eq!(Message::decode(Bytes::copy_from_slice(bytes)), Err(MessageError));
        }
    }

    /// Bytes that are nearly a meta part: some that are one with a few changed.
    fn metas() -> impl Strategy<Value = Vec<u8>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..5);
        let headers = prop::collection::vec(("[a-cä]{0,3}", bytes()), 0..4);
        let right = (prop::option::of(bytes()), headers).prop_map(|(key, headers)| {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), &value[..]));
            let meta = MetaRef { key: key.as_deref(), headers: headers.collect() };
            postcard::to_stdvec(&meta).unwrap()
        });
        let few = prop_oneof![0_u8..4, 0x7f_u8..=0x82, any::<u8>()];
        let changes = prop::collection::vec((any::<prop::sample::Index>(), few), 0..3);
        let changed = (right, changes).prop_map(|(mut meta, changes)| {
            changes.iter().for_each(|(at, byte)| *at.get_mut(&mut meta) = *byte);
            meta
        });
        prop_oneof![9 => changed, 1 => prop::collection::vec(any::<u8>(), 1..20)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_comes_is_taken_as_postcard_takes_it_and_goes_on_as_it_came(
            meta in metas(),
            body in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut encoded = BytesMut::new();
            put_bytes(&mut encoded, &meta);
            encoded.extend_from_slice(&body);
            let taken = Message::decode(encoded.freeze());
            let expected: Option<MetaRef<'_>> = postcard::from_bytes(&meta).ok();
            prop_assert_eq!(taken.is_ok(), expected.is_some());
            if let (Ok(message), Some(MetaRef { key, headers })) = (taken, expected) {
                prop_assert_eq!(message.key.as_deref(), key);
                prop_assert_eq!(message.headers.len(), headers.len());
                prop_assert_eq!(message.headers.iter().collect::<Vec<_>>(), headers);
                prop_assert_eq!(&message.body[..], &body);
                round_trip(&message);
            }
        }
    }
}
