//! What a topic's log and values are called in the store.
//!
//! ```text
//! t/<topic>              the topic itself
//! c/<topic>/<channel>    a channel's state
//! p/<topic>/<producer>   what is remembered of a named producer
//! m/<topic>              how large and how old the parts of its log are
//! ```
//!
//! Names never hold a `/`, so that no prefix here is a prefix of another topic's keys. A topic's
//! log has the topic's name.

use bytes::Bytes;

use crate::{ChannelName, LogName, ProducerName, TopicName};

/// What every topic's own key begins with.
pub const TOPICS_PREFIX: &[u8] = b"t/";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The topic itself.
    Topic(TopicName),
    /// A channel's state.
    Channel(TopicName, ChannelName),
    /// A named producer.
    Producer(TopicName, ProducerName),
    /// How large and how old the parts of a topic's log are.
    Marks(TopicName),
}

impl Key {
    /// The topic that it belongs to.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        match self {
            Self::Topic(topic)
            | Self::Marks(topic)
            | Self::Channel(topic, _)
            | Self::Producer(topic, _) => topic,
        }
    }
}

/// The key of a topic's own value.
#[must_use]
pub fn topic_key(topic: &TopicName) -> Bytes {
    format!("t/{topic}").into()
}

/// The key of a channel's state.
#[must_use]
pub fn channel_key(topic: &TopicName, channel: &ChannelName) -> Bytes {
    format!("c/{topic}/{channel}").into()
}

/// The key of what is remembered of a producer.
#[must_use]
pub fn producer_key(topic: &TopicName, producer: &ProducerName) -> Bytes {
    format!("p/{topic}/{producer}").into()
}

/// The key of the marks in a topic's log.
#[must_use]
pub fn marks_key(topic: &TopicName) -> Bytes {
    format!("m/{topic}").into()
}

/// What the keys of all channels of a topic begin with.
#[must_use]
pub fn channels_prefix(topic: &TopicName) -> Bytes {
    format!("c/{topic}/").into()
}

/// What the keys of all producers of a topic begin with.
#[must_use]
pub fn producers_prefix(topic: &TopicName) -> Bytes {
    format!("p/{topic}/").into()
}

/// The name of a topic's log.
#[must_use]
pub fn log_name(topic: &TopicName) -> LogName {
    LogName::new(topic.as_str())
}

/// What a key names, or `None` when it is none of the model's.
#[must_use]
pub fn parse(key: &[u8]) -> Option<Key> {
    let (kind, rest) = std::str::from_utf8(key).ok()?.split_once('/')?;
    match (kind, rest.split_once('/')) {
        ("t", None) => Some(Key::Topic(TopicName::new(rest).ok()?)),
        ("m", None) => Some(Key::Marks(TopicName::new(rest).ok()?)),
        ("c", Some((topic, channel))) => {
            Some(Key::Channel(TopicName::new(topic).ok()?, ChannelName::new(channel).ok()?))
        }
        ("p", Some((topic, producer))) => {
            Some(Key::Producer(TopicName::new(topic).ok()?, ProducerName::new(producer).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KEY_BYTES_MAX;

    #[test]
    fn keys_come_back_as_they_were() {
        let topic = TopicName::new("orders#ephemeral").unwrap();
        let channel = ChannelName::new("mail#ephemeral").unwrap();
        let producer = ProducerName::new("p-1.x_").unwrap();
        assert_eq!(parse(&topic_key(&topic)), Some(Key::Topic(topic.clone())));
        assert_eq!(parse(&marks_key(&topic)), Some(Key::Marks(topic.clone())));
        assert_eq!(
            parse(&channel_key(&topic, &channel)),
            Some(Key::Channel(topic.clone(), channel.clone()))
        );
        assert_eq!(
            parse(&producer_key(&topic, &producer)),
            Some(Key::Producer(topic.clone(), producer.clone()))
        );
        assert!(channel_key(&topic, &channel).starts_with(&channels_prefix(&topic)));
        assert!(producer_key(&topic, &producer).starts_with(&producers_prefix(&topic)));
        assert!(topic_key(&topic).starts_with(TOPICS_PREFIX));
    }

    #[test]
    fn the_longest_key_is_one_that_stores_take() {
        let topic = TopicName::new(&format!("{}#ephemeral", "t".repeat(64))).unwrap();
        let channel = ChannelName::new(&format!("{}#ephemeral", "c".repeat(64))).unwrap();
        assert!(channel_key(&topic, &channel).len() <= KEY_BYTES_MAX);
    }

    #[test]
    fn other_keys_are_not_taken_for_ours() {
        for key in [
            "",
            "t",
            "t/",
            "t/a/b",
            "m/",
            "m/a/b",
            "c/a",
            "c/a/",
            "c//b",
            "c/a/b/c",
            "x/a",
            "p/a/b#ephemeral",
        ] {
            assert_eq!(parse(key.as_bytes()), None, "{key:?}");
        }
        assert_eq!(parse(&[b't', b'/', 0xff]), None);
    }
}
