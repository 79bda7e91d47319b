//! Who may do what with which topics: plain data.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::{AdminRequest, NAME_BYTES_MAX, NameError, TopicName};

/// What a permission is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publishing to a topic, which makes it where topics are made on first use.
    Publish,
    /// Subscribing to any channel of a topic, which makes the channel and the topic where these
    /// are made on first use.
    Consume,
    /// Making, changing, showing, pausing and deleting a topic and its channels. On all topics
    /// (the pattern `*`) the node's own figures too.
    Administer,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Administer => "administer",
        })
    }
}

/// Which topics: the name of one, or the beginning of names with a `*` behind it.
///
/// - `orders` is the topic `orders` and no other.
/// - `orders.*` is every topic whose name begins with the seven characters `orders.`, however it
///   goes on: `orders.new`, `orders.eu.new`, `orders.new#ephemeral`; not `orders`. The dot means
///   nothing by itself: `orders*` has `orders`, `orders.new` and `orders2`.
/// - `*` is every topic.
///
/// A `*` stands at the end and nowhere else; capitals matter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPattern(Arc<str>);

/// A text that is no [`TopicPattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{pattern:?} is no pattern of topics: {error}; write a name, the beginning of one and \"*\" \
     behind it, or \"*\" for all"
)]
pub struct PatternError {
    /// The text.
    pub pattern: String,
    /// What is wrong with the name in it.
    pub error: NameError,
}

impl TopicPattern {
    /// Checks `text` and makes a pattern of it.
    ///
    /// # Errors
    /// A [`PatternError`] when what stands before the `*`, or all of it where there is none, is
    /// neither empty (before a `*`) nor could be in a topic's name.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let checked = match text.strip_suffix('*') {
            Some("") => Ok(()),
            // As the beginning of a name, without an `#ephemeral` at its end.
            Some(beginning) if beginning.contains('#') => TopicName::new("#").map(drop),
            Some(beginning) => TopicName::new(beginning).map(drop),
            None => TopicName::new(text).map(drop),
        };
        match checked {
            Ok(()) => Ok(Self(text.into())),
            Err(error) => {
                let pattern = text.chars().take(NAME_BYTES_MAX * 2).collect();
                Err(PatternError { pattern, error })
            }
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the topic is one of them.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => topic.as_str().starts_with(beginning),
            None => *self.0 == *topic.as_str(),
        }
    }

    /// Whether every topic is one of them.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self.0 == *"*"
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for TopicPattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl Serialize for TopicPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TopicPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(D::Error::custom)
    }
}

/// What somebody may do: for each [`Action`] the topics. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Topics to publish to.
    pub publish: Vec<TopicPattern>,
    /// Topics to consume from.
    pub consume: Vec<TopicPattern>,
    /// Topics to administer.
    pub administer: Vec<TopicPattern>,
}

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let all = vec![TopicPattern("*".into())];
        Self { publish: all.clone(), consume: all.clone(), administer: all }
    }

    /// Whether this may be done with the topic.
    #[must_use]
    pub fn allow(&self, action: Action, topic: &TopicName) -> bool {
        self.of(action).iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether this may be done with every topic, and with the node itself: it takes the pattern
    /// `*`.
    #[must_use]
    pub fn allow_all(&self, action: Action) -> bool {
        self.of(action).iter().any(TopicPattern::is_all)
    }

    /// Whether anything may be done with the topic, so that it may be known of.
    #[must_use]
    pub fn see(&self, topic: &TopicName) -> bool {
        [Action::Publish, Action::Consume, Action::Administer]
            .into_iter()
            .any(|action| self.allow(action, topic))
    }

    fn of(&self, action: Action) -> &[TopicPattern] {
        match action {
            Action::Publish => &self.publish,
            Action::Consume => &self.consume,
            Action::Administer => &self.administer,
        }
    }
}

/// What is needed to be answered a request: on which topic, or `None` for the whole node.
/// Anybody may ask for the topics that there are, and is told those that it may see.
pub(crate) const fn needed_for(request: &AdminRequest) -> Need<'_> {
    match request {
        AdminRequest::ListTopics => Need::Nothing,
        AdminRequest::Stats | AdminRequest::Drain { .. } | AdminRequest::EndDrain => Need::Node,
        AdminRequest::CreateTopic { topic, .. }
        | AdminRequest::AlterTopic { topic, .. }
        | AdminRequest::ShowTopic { topic }
        | AdminRequest::DeleteTopic { topic }
        | AdminRequest::PauseTopic { topic, .. }
        | AdminRequest::CreateChannel { topic, .. }
        | AdminRequest::DeleteChannel { topic, .. }
        | AdminRequest::PauseChannel { topic, .. } => Need::Topic(topic),
    }
}

/// What an operator's request needs to be permitted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need<'a> {
    Nothing,
    Topic(&'a TopicName),
    Node,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(pattern: &str, names: &[&str]) -> Vec<String> {
        let pattern = TopicPattern::new(pattern).unwrap();
        let names = names.iter().map(|name| TopicName::new(name).unwrap());
        names.filter(|name| pattern.matches(name)).map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_pattern_is_a_name_or_the_beginning_of_names() {
        let names =
            ["orders", "orders.new", "orders.", "orders2", "Orders.new", "orders.x#ephemeral", "o"];
        assert_eq!(matching("orders", &names), ["orders"]);
        assert_eq!(matching("orders.*", &names), ["orders.new", "orders.", "orders.x#ephemeral"]);
        let beginning = ["orders", "orders.new", "orders.", "orders2", "orders.x#ephemeral"];
        assert_eq!(matching("orders*", &names), beginning);
        assert_eq!(matching("*", &names), names);
        assert_eq!(matching("orders.x#ephemeral", &names), ["orders.x#ephemeral"]);
        assert_eq!(matching("orders.x", &names), [""; 0]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in
            ["", "**", "a*b", "*a", "a b", "a/*", "#ephemeral", "a#*", "a#ephemeral*", &long, "Ä*"]
        {
            let error = TopicPattern::new(bad).unwrap_err();
            assert!(error.to_string().contains("no pattern of topics"), "{bad}: {error}");
        }
        let huge = TopicPattern::new(&"x".repeat(1 << 20)).unwrap_err();
        assert!(huge.to_string().len() < 1_000);
        let bytes = postcard::to_stdvec("a*b").unwrap();
        assert!(postcard::from_bytes::<TopicPattern>(&bytes).is_err());
    }

    #[test]
    fn each_action_has_its_own_topics() {
        let pattern = |text| vec![TopicPattern::new(text).unwrap()];
        let permissions = Permissions {
            publish: pattern("orders.*"),
            consume: pattern("*"),
            administer: Vec::new(),
        };
        let (ours, other) = (TopicName::new("orders.a").unwrap(), TopicName::new("x").unwrap());
        assert!(permissions.allow(Action::Publish, &ours));
        assert!(!permissions.allow(Action::Publish, &other));
        assert!(permissions.allow(Action::Consume, &other) && permissions.see(&other));
        assert!(!permissions.allow(Action::Administer, &ours));
        assert!(permissions.allow_all(Action::Consume) && !permissions.allow_all(Action::Publish));

        assert!(!Permissions::default().see(&ours));
        for action in [Action::Publish, Action::Consume, Action::Administer] {
            assert!(
                Permissions::all().allow_all(action) && Permissions::all().allow(action, &ours)
            );
        }
        let prefix = Permissions { publish: pattern("orders.*"), ..Permissions::default() };
        assert!(prefix.see(&ours) && !prefix.see(&other));
    }
}
