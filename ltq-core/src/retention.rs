//! What a topic keeps of its messages, and for how long.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// What a topic keeps. The default keeps each message until every channel has acked it, however
/// long that takes, and no longer.
///
/// Limits work on stretches of the log, not on single messages: a stretch is about 1/64 of what the
/// limit allows, or 1 MiB where that is more, and is given up as a whole once all of it is beyond
/// a limit. So a limit may be met by that much too late, and never too early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retention {
    /// Which messages are kept while no limit says otherwise.
    pub keep: Keep,
    /// Messages older than this are given up, whether or not they were acked. `None`, the default,
    /// sets no limit. From [`AGE_MIN`](Self::AGE_MIN) to [`AGE_MAX`](Self::AGE_MAX); counted in
    /// whole milliseconds.
    #[serde(rename = "age_max_ms", with = "millis")]
    pub age_max: Option<Duration>,
    /// The oldest messages are given up while those that are kept have more bytes than this,
    /// encoded, whether or not they were acked. `None`, the default, sets no limit. At least
    /// [`BYTES_MIN`](Self::BYTES_MIN).
    pub bytes_max: Option<u64>,
}

impl Retention {
    /// The shortest age: a second.
    pub const AGE_MIN: Duration = Duration::from_secs(1);
    /// The longest age: 100 years.
    pub const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    /// The fewest bytes: 1 MiB.
    pub const BYTES_MIN: u64 = 1 << 20;

    /// Checks that the limits are within their bounds.
    ///
    /// # Errors
    /// A [`RetentionError`] that names the limit at fault.
    pub fn check(&self) -> Result<(), RetentionError> {
        if let Some(age) = self.age_max
            && !(Self::AGE_MIN..=Self::AGE_MAX).contains(&age)
        {
            let rule = "it must be from 1 second to 36,500 days";
            return Err(RetentionError { limit: "age_max", value: format!("{age:?}"), rule });
        }
        if let Some(bytes) = self.bytes_max
            && bytes < Self::BYTES_MIN
        {
            let rule = "it must be at least 1,048,576 bytes";
            return Err(RetentionError { limit: "bytes_max", value: bytes.to_string(), rule });
        }
        Ok(())
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub const fn has_limit(&self) -> bool {
        self.age_max.is_some() || self.bytes_max.is_some()
    }
}

/// What is to be different from another [`Retention`]: what is `None` stays as it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetentionChange {
    /// Which messages to keep while no limit says otherwise.
    pub keep: Option<Keep>,
    /// The limit by age; `Some(None)` takes it away.
    pub age_max: Option<Option<Duration>>,
    /// The limit by size; `Some(None)` takes it away.
    pub bytes_max: Option<Option<u64>>,
}

impl RetentionChange {
    /// `before` with these changes.
    #[must_use]
    pub fn apply(&self, before: Retention) -> Retention {
        Retention {
            keep: self.keep.unwrap_or(before.keep),
            age_max: self.age_max.unwrap_or(before.age_max),
            bytes_max: self.bytes_max.unwrap_or(before.bytes_max),
        }
    }
}

impl From<Retention> for RetentionChange {
    /// Changes everything.
    fn from(all: Retention) -> Self {
        let Retention { keep, age_max, bytes_max } = all;
        Self { keep: Some(keep), age_max: Some(age_max), bytes_max: Some(bytes_max) }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keep {}", self.keep)?;
        if let Some(age) = self.age_max {
            write!(f, ", at most {age:?}")?;
        }
        if let Some(bytes) = self.bytes_max {
            write!(f, ", at most {bytes} bytes")?;
        }
        Ok(())
    }
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{limit} cannot be {value}: {rule}")]
pub struct RetentionError {
    /// Which: `age_max` or `bytes_max`.
    pub limit: &'static str,
    /// Its value.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// Which messages are kept while no limit says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those that some channel has not acked; all of them while there is no channel.
    #[default]
    Unacked,
    /// All, so that a channel made later can read them again.
    All,
}

/// A text that names no [`Keep`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} does not say what to keep; use unacked or all")]
pub struct UnknownKeep(pub String);

impl FromStr for Keep {
    type Err = UnknownKeep;
    fn from_str(text: &str) -> Result<Self, UnknownKeep> {
        match text {
            "unacked" => Ok(Self::Unacked),
            "all" => Ok(Self::All),
            other => Err(UnknownKeep(other.to_owned())),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unacked => "unacked",
            Self::All => "all",
        })
    }
}

/// Durations as whole milliseconds, which other languages read as easily.
mod millis {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        age: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let millis = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        millis.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_out_of_bounds_are_refused_by_name() {
        let with = |age_max, bytes_max| Retention { age_max, bytes_max, ..Retention::default() };
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        for good in [
            with(None, None),
            with(Some(Retention::AGE_MIN), Some(1 << 20)),
            with(Some(Retention::AGE_MAX), Some(u64::MAX)),
        ] {
            assert_eq!(good.check(), Ok(()));
        }
        for (bad, limit) in [
            (with(Some(Duration::ZERO), None), "age_max"),
            (with(Some(Duration::from_millis(999)), None), "age_max"),
            (with(Some(year * 101), None), "age_max"),
            (with(None, Some(0)), "bytes_max"),
            (with(None, Some((1 << 20) - 1)), "bytes_max"),
        ] {
            assert_eq!(bad.check().unwrap_err().limit, limit);
        }
    }

    #[test]
    fn words_come_back_as_they_were() {
        for keep in [Keep::Unacked, Keep::All] {
            assert_eq!(keep.to_string().parse(), Ok(keep));
        }
        assert!("some".parse::<Keep>().is_err());
    }
}
