//! Names of topics, channels and producers: one rule, checked in one place.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// The longest name, in bytes, not counting [`EPHEMERAL`].
pub const NAME_BYTES_MAX: usize = 64;

/// The ending of the name of a topic or channel that vanishes when it is idle.
pub const EPHEMERAL: &str = "#ephemeral";

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty, or has nothing before `#ephemeral`.
    #[error("a {what} name is empty; it must have 1 to {NAME_BYTES_MAX} characters")]
    Empty {
        /// What was being named: `topic`, `channel` or `producer`.
        what: &'static str,
    },
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("a {what} name has {bytes} bytes; the limit is {NAME_BYTES_MAX}")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character is outside `[A-Za-z0-9._-]`.
    #[error("{what} name {name:?} holds {found:?}; allowed are letters, digits, '.', '_' and '-'")]
    Character {
        /// What was being named.
        what: &'static str,
        /// The refused name.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

fn check(what: &'static str, text: &str, ephemeral_allowed: bool) -> Result<(), NameError> {
    let stem = match text.strip_suffix(EPHEMERAL) {
        Some(stem) if ephemeral_allowed => stem,
        _ => text,
    };
    if stem.is_empty() {
        return Err(NameError::Empty { what });
    }
    if stem.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { what, bytes: stem.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match stem.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(found) => Err(NameError::Character { what, name: text.to_owned(), found }),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $ephemeral:literal) => {
        $(#[$doc])*
        ///
        /// Cheap to clone: the text is shared.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// A [`NameError`] that says which rule was broken.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($what, text, $ephemeral)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = NameError;
            fn try_from(text: &String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = NameError;
            fn try_from(name: &$name) -> Result<Self, NameError> {
                Ok(name.clone())
            }
        }


        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(&text).map_err(D::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of a topic: 1 to 64 of `[A-Za-z0-9._-]`, and `#ephemeral` after it for a topic
    /// that vanishes with its last channel. Upper and lower case are different: `Orders` and `orders` are two
    /// topics, in stores and registries too.
    TopicName, "topic", true
);
name_type!(
    /// The name of a channel: 1 to 64 of `[A-Za-z0-9._-]`, and `#ephemeral` after it for a
    /// channel that vanishes with its last consumer. Upper and lower case are different.
    ChannelName, "channel", true
);
name_type!(
    /// The name under which a producer's sequence is remembered: 1 to 64 of `[A-Za-z0-9._-]`.
    ProducerName, "producer", false
);

impl TopicName {
    /// Whether the topic vanishes when its last channel does.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.0.ends_with(EPHEMERAL)
    }
}

impl ChannelName {
    /// Whether the channel vanishes when its last consumer leaves.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.0.ends_with(EPHEMERAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rule() {
        for good in ["a", "orders", "a.b_c-9", &"x".repeat(64), "t#ephemeral"] {
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(TopicName::new(""), Err(NameError::Empty { what: "topic" }));
        assert_eq!(TopicName::new("#ephemeral"), Err(NameError::Empty { what: "topic" }));
        assert_eq!(
            ChannelName::new(&"x".repeat(65)),
            Err(NameError::TooLong { what: "channel", bytes: 65 })
        );
        assert!(matches!(TopicName::new("a/b"), Err(NameError::Character { found: '/', .. })));
        assert!(matches!(
            ProducerName::new("p#ephemeral"),
            Err(NameError::Character { found: '#', .. })
        ));
        assert!(TopicName::new("Ä").is_err());
    }

    #[test]
    fn names_that_differ_in_case_alone_are_two() {
        let [upper, lower] = ["Orders", "orders"].map(|text| TopicName::new(text).unwrap());
        assert_ne!(upper, lower);
        assert_eq!((upper.as_str(), lower.as_str()), ("Orders", "orders"));
        assert_eq!(std::collections::BTreeSet::from([upper, lower]).len(), 2);
    }

    #[test]
    fn a_bad_name_does_not_deserialize() {
        let bytes = postcard::to_stdvec("a b").unwrap();
        assert!(postcard::from_bytes::<TopicName>(&bytes).is_err());
    }
}
