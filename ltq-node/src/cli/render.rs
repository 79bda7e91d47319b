//! A message as `ltq sub` prints it.

use std::io::{self, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ltq_client::Received;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::args::Format;

/// Writes one message and a newline.
pub(super) fn write(into: &mut impl Write, format: Format, received: &Received) -> io::Result<()> {
    match format {
        Format::Body => into.write_all(&received.message.body)?,
        Format::Json => serde_json::to_writer(&mut *into, &Shown(received))?,
    }
    into.write_all(b"\n")
}

struct Shown<'a>(&'a Received);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Received { message, offset, time, attempt } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("offset", offset)?;
        map.serialize_entry("time", time)?;
        map.serialize_entry("attempt", attempt)?;
        match &message.key {
            None => map.serialize_entry("key", &None::<&str>)?,
            Some(key) => entry(&mut map, "key", "key_base64", key)?,
        }
        let headers: Vec<_> =
            message.headers.iter().map(|(name, value)| Header { name, value }).collect();
        map.serialize_entry("headers", &headers)?;
        entry(&mut map, "body", "body_base64", &message.body)?;
        map.end()
    }
}

struct Header<'a> {
    name: &'a str,
    value: &'a [u8],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", self.name)?;
        entry(&mut map, "value", "value_base64", self.value)?;
        map.end()
    }
}

/// Bytes as text where they are text, else as base64 under another name, so that nobody takes one
/// for the other.
fn entry<M: SerializeMap>(
    map: &mut M,
    as_text: &'static str,
    as_base64: &'static str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(as_text, text),
        Err(_) => map.serialize_entry(as_base64, &STANDARD.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use ltq_client::{Message, Offset, Timestamp};

    use super::*;

    fn shown(format: Format, message: Message) -> String {
        let mut out = Vec::new();
        let (offset, time) = (Offset(7), Timestamp(1_700_000_000_000));
        write(&mut out, format, &Received { message, offset, time, attempt: 2 }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_shown_as_text_and_bytes_as_base64() {
        assert_eq!(
            shown(Format::Json, Message::new("a\n\"").with_key("k").with_header("h", "v")),
            "{\"offset\":7,\"time\":1700000000000,\"attempt\":2,\"key\":\"k\",\
             \"headers\":[{\"name\":\"h\",\"value\":\"v\"}],\"body\":\"a\\n\\\"\"}\n"
        );
        assert_eq!(
            shown(
                Format::Json,
                Message::new(vec![0xff]).with_header("h", vec![0xfe]).with_header("h", "")
            ),
            "{\"offset\":7,\"time\":1700000000000,\"attempt\":2,\"key\":null,\
             \"headers\":[{\"name\":\"h\",\"value_base64\":\"/g==\"},\
             {\"name\":\"h\",\"value\":\"\"}],\"body_base64\":\"/w==\"}\n"
        );
        assert_eq!(shown(Format::Body, Message::new("a b")), "a b\n");
    }
}
