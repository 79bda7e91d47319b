//! What consumers ask of a channel, and how they answer for its messages.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Offset, Timestamp};

/// Where a channel begins when it is made. A channel that exists goes on where it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartAt {
    /// With the oldest message that the topic still keeps.
    #[default]
    Earliest,
    /// With the next message published.
    Latest,
    /// With this offset, or the oldest kept one behind it; the end when it lies beyond.
    Offset(Offset),
    /// With the first message taken in at this time or later.
    Time(Timestamp),
}

/// A text that names no [`StartAt`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no place to start; use earliest, latest, an offset, or a time in milliseconds since 1970 as @MILLIS"
)]
pub struct StartAtError(pub String);

impl FromStr for StartAt {
    type Err = StartAtError;
    fn from_str(text: &str) -> Result<Self, StartAtError> {
        let number = |digits: &str| digits.parse().map_err(|_| StartAtError(text.to_owned()));
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match text.strip_prefix('@') {
                Some(millis) => Ok(Self::Time(Timestamp(number(millis)?))),
                None => Ok(Self::Offset(Offset(number(text)?))),
            },
        }
    }
}

/// How much more a consumer will take. As a grant it counts from the start of the subscription,
/// so that repeating a grant changes nothing, and a smaller one takes back what is not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Messages.
    pub messages: u64,
    /// Bytes of encoded messages. The message that uses up the last of them may go beyond.
    pub bytes: u64,
}

impl Credit {
    /// The smaller of both in messages, and in bytes.
    #[must_use]
    pub const fn at_most(self, most: Self) -> Self {
        Self {
            messages: if self.messages < most.messages { self.messages } else { most.messages },
            bytes: if self.bytes < most.bytes { self.bytes } else { most.bytes },
        }
    }

    /// The larger of both in messages, and in bytes.
    #[must_use]
    pub const fn at_least(self, least: Self) -> Self {
        Self {
            messages: if self.messages > least.messages { self.messages } else { least.messages },
            bytes: if self.bytes > least.bytes { self.bytes } else { least.bytes },
        }
    }

    /// Whether this is no more than `most`, neither in messages nor in bytes.
    #[must_use]
    pub const fn is_within(self, most: Self) -> bool {
        self.messages <= most.messages && self.bytes <= most.bytes
    }

    /// The sum of both, as far as numbers go.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(more.messages),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    /// What is left of this without `less`; none where that is more.
    #[must_use]
    pub const fn minus(self, less: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(less.messages),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// Which delivery of which message to one consumer: its deliveries are numbered from 1 without
/// gaps, in the order in which they are sent. A message delivered again has a new tag.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tag(pub u64);

/// Tags from `first` to `last`, both included. A range from 0 begins at the oldest in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TagRange {
    /// The first.
    pub first: Tag,
    /// The last.
    pub last: Tag,
}

/// What a consumer says of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Done: never deliver it again.
    Ack,
    /// Deliver it again, to anyone, after so many milliseconds; 0 is now.
    Requeue {
        /// The delay in milliseconds.
        delay_ms: u64,
    },
    /// More time: its timeout starts anew now.
    Touch,
}

/// One verdict on a range of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The deliveries.
    pub tags: TagRange,
    /// The verdict.
    pub verdict: Verdict,
}
