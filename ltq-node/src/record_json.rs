//! A message as a line of JSON: what `ltq sub --json` and `ltq-node dump` print, and what `ltq pub
//! --json` takes.
//!
//! ```text
//! {"offset":7,"time":1700000000000,"attempt":1,"key":"k","headers":[{"name":"h","value":"v"}],"body":"b"}
//! ```
//!
//! `time` is in milliseconds since 1970, `attempt` is missing where nothing is delivered, and `key`
//! is null without one. Bytes that are not UTF-8 stand as base64 under `key_base64`,
//! `value_base64` and `body_base64` instead.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ltq_core::{Message, Offset, Timestamp};
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny, ser::SerializeMap};

/// A message as it is shown.
pub(crate) struct Shown<'a> {
    pub(crate) offset: Offset,
    pub(crate) time: Timestamp,
    /// How often it was delivered, where that is known.
    pub(crate) attempt: Option<u32>,
    pub(crate) message: &'a Message,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("time", &self.time)?;
        if let Some(attempt) = self.attempt {
            map.serialize_entry("attempt", &attempt)?;
        }
        match &self.message.key {
            None => map.serialize_entry("key", &None::<&str>)?,
            Some(key) => entry(&mut map, "key", "key_base64", key)?,
        }
        let headers = self.message.headers.iter().map(|(name, value)| Header { name, value });
        map.serialize_entry("headers", &headers.collect::<Vec<_>>())?;
        entry(&mut map, "body", "body_base64", &self.message.body)?;
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    // What the message gets anew may stand there.
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "time")]
    _time: Option<IgnoredAny>,
    #[serde(rename = "attempt")]
    _attempt: Option<IgnoredAny>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<HeaderLine>,
    body: Option<String>,
    body_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    name: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// The message that a line of JSON tells of: key, headers and body. Its offset, time and attempt
/// are not looked at.
///
/// # Errors
/// What is wrong with the line, for people.
pub(crate) fn parse(line: &[u8]) -> Result<Message, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // The line of the input is told beside it; within one line there is only the column.
        let column = error.column();
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        format!("{words} at column {column}")
    })?;
    let body = bytes("body", line.body, line.body_base64)?;
    let mut message = Message::new(body.ok_or("it has neither \"body\" nor \"body_base64\"")?);
    message.key = bytes("key", line.key, line.key_base64)?.map(Into::into);
    for HeaderLine { name, value, value_base64 } in line.headers {
        let value = bytes("value", value, value_base64)?;
        let value = value.ok_or_else(|| format!("the header {name:?} has no value"))?;
        message.headers.push(name, value);
    }
    Ok(message)
}

fn bytes(
    name: &str,
    as_text: Option<String>,
    as_base64: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (as_text, as_base64) {
        (Some(_), Some(_)) => Err(format!("it has both \"{name}\" and \"{name}_base64\"")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => match STANDARD.decode(&text) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("\"{name}_base64\" is no base64: {error}")),
        },
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &Message, attempt: Option<u32>) -> String {
        let (offset, time) = (Offset(7), Timestamp(1_700_000_000_000));
        serde_json::to_string(&Shown { offset, time, attempt, message }).unwrap()
    }

    #[test]
    fn text_is_shown_as_text_and_bytes_as_base64() {
        let message = Message::new("a\n\"").with_key("k").with_header("h", "v");
        assert_eq!(
            line(&message, Some(2)),
            "{\"offset\":7,\"time\":1700000000000,\"attempt\":2,\"key\":\"k\",\
             \"headers\":[{\"name\":\"h\",\"value\":\"v\"}],\"body\":\"a\\n\\\"\"}"
        );
        let message = Message::new(vec![0xff]).with_header("h", vec![0xfe]).with_header("h", "");
        assert_eq!(
            line(&message, None),
            "{\"offset\":7,\"time\":1700000000000,\"key\":null,\
             \"headers\":[{\"name\":\"h\",\"value_base64\":\"/g==\"},\
             {\"name\":\"h\",\"value\":\"\"}],\"body_base64\":\"/w==\"}"
        );
    }

    #[test]
    fn what_is_shown_is_taken_back_exactly() {
        for message in [
            Message::new(""),
            Message::new("b").with_key(""),
            Message::new("\u{0}\n\u{2028}\"\\")
                .with_key("k")
                .with_header("", "")
                .with_header("", "x"),
            Message::new(vec![0, 0xff, b'"']).with_key(vec![0xc3]).with_header("h", vec![0xfe]),
        ] {
            for attempt in [None, Some(3)] {
                assert_eq!(parse(line(&message, attempt).as_bytes()), Ok(message.clone()));
            }
        }
        assert_eq!(parse(b"{\"body\":\"b\"}"), Ok(Message::new("b")));
    }

    #[test]
    fn a_malformed_line_says_what_is_wrong() {
        for (line, part) in [
            ("", "column 0"),
            ("hello", "column 1"),
            ("{\"body\":\"b\"", "column 11"),
            ("{\"bdy\":\"b\"}", "bdy"),
            ("{}", "neither"),
            ("{\"body\":\"b\",\"body_base64\":\"\"}", "both"),
            ("{\"body_base64\":\"?\"}", "no base64"),
            ("{\"body\":\"b\",\"headers\":[{\"name\":\"h\"}]}", "\"h\" has no value"),
            ("{\"body\":\"b\",\"body\":\"c\"}", "duplicate"),
            ("[1]", "column"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains("line 1"), "{error}");
        }
    }
}
