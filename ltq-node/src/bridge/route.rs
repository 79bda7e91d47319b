//! What is forwarded, and as what: [`Route`].

use std::{fmt, str::FromStr};

use ltq_core::{
    ChannelName, Durability, EPHEMERAL, Message, NameError, StartAt, TopicName, TopicPattern,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Topics that go one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name, for figures and logs.
    pub name: String,
    /// The topics that it takes. One that vanishes when it is idle is taken only where its whole name stands
    /// here: the bridge's channel would keep it.
    pub topics: Vec<TopicPattern>,
    /// Those among them that it does not take.
    pub exclude: Vec<TopicPattern>,
    /// What a message's headers must have, all of it.
    pub headers: Vec<HeaderFilter>,
    /// What their names are at the destination.
    pub target: Target,
    /// The channel by which messages are taken at the source, where it keeps the place.
    pub channel: ChannelName,
    /// Where that channel begins if it does not exist yet.
    pub start: StartAt,
    /// How durable a message is to be at the destination before it is acked at the source; `None` is as the
    /// topic is set there.
    pub durability: Option<Durability>,
    /// Whether messages are kept in order at the destination.
    pub ordered: bool,
    /// What becomes of a message that the destination refuses for good.
    pub refused: Refused,
}

/// What a topic is called at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This, and the topic's name behind it; nothing for the same name.
    Prefixed(String),
    /// This one name, for all of them.
    One(TopicName),
}

/// What becomes of a message that the destination refuses, and would refuse again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is tried again for ever, and its topic waits behind it.
    Hold,
    /// It is moved to this topic at the source, as it came there, with the reason as one more header if that
    /// fits, and its topic goes on.
    Park(TopicName),
    /// It is acked and not forwarded: it is lost to the destination, counted and logged.
    Skip,
}

impl Route {
    /// Whether it takes this topic.
    #[must_use]
    pub fn takes(&self, topic: &TopicName) -> bool {
        let matches = |pattern: &TopicPattern| {
            pattern.matches(topic) && (!topic.is_ephemeral() || pattern.as_str() == topic.as_str())
        };
        self.topics.iter().any(matches)
            && !self.exclude.iter().any(|pattern| pattern.matches(topic))
            && !matches!(&self.refused, Refused::Park(parked) if parked == topic)
    }

    /// What the topic is called at the destination.
    ///
    /// # Errors
    /// A [`NameError`] when the name is longer than names may be.
    pub fn target(&self, topic: &TopicName) -> Result<TopicName, NameError> {
        match &self.target {
            Target::Prefixed(prefix) if prefix.is_empty() => Ok(topic.clone()),
            Target::Prefixed(prefix) => TopicName::new(&format!("{prefix}{topic}")),
            Target::One(one) => Ok(one.clone()),
        }
    }

    /// Whether it takes a message by its headers.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        self.headers.iter().all(|filter| filter.matches(message))
    }
}

/// Checks that a text can stand before a topic's name.
///
/// # Errors
/// A [`NameError`].
pub fn check_prefix(prefix: &str) -> Result<(), NameError> {
    match prefix {
        "" => Ok(()),
        // It would be the ending of no name.
        _ if prefix.contains(EPHEMERAL) => TopicName::new("#").map(drop),
        _ => TopicName::new(prefix).map(drop),
    }
}

/// What a header of a message must be: there (`name`), or this (`name=value`). Of headers with one name any
/// will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFilter {
    name: String,
    value: Option<String>,
}

/// A text that is no [`HeaderFilter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a header to look for is written as NAME or NAME=VALUE, in at most {FILTER_BYTES_MAX} bytes"
)]
pub struct HeaderFilterError;

impl HeaderFilter {
    /// Whether a message has it.
    #[must_use]
    pub fn matches(&self, message: &Message) -> bool {
        let is_it = |value: &[u8]| match &self.value {
            Some(wanted) => value == wanted.as_bytes(),
            None => true,
        };
        message.headers.iter().any(|(name, value)| name == self.name && is_it(value))
    }
}

impl FromStr for HeaderFilter {
    type Err = HeaderFilterError;
    fn from_str(text: &str) -> Result<Self, HeaderFilterError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        match name.is_empty() || text.len() > FILTER_BYTES_MAX {
            true => Err(HeaderFilterError),
            false => Ok(Self { name: name.to_owned(), value }),
        }
    }
}

impl fmt::Display for HeaderFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Serialize for HeaderFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HeaderFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Longer than any header that somebody means.
const FILTER_BYTES_MAX: usize = 4_096;

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
