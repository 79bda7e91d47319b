//! The small quantities that everything else is counted in: each a type of its own, so that two
//! of them are never mistaken for each other.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A record's place in its topic's log, counted from 0 without gaps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Offset(pub u64);

impl Offset {
    /// The first record of a log that was never truncated.
    pub const ZERO: Self = Self(0);

    /// The offset `records` further on; saturates at the largest.
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many records lie between `earlier` and this; 0 when this is the earlier one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall time in milliseconds since 1970-01-01 UTC, as the node saw it. It may step back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time and `duration`; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The time from `earlier` to this; zero when this is the earlier one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Monotonic time in microseconds since the broker started. It never steps back, and means
/// nothing in another process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// This moment and `duration`, rounded up to a microsecond; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time from `earlier` to this; zero when this is the earlier one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The two clocks, read once for each turn and handed to the model as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For everything that waits while the node runs.
    pub monotonic: Monotonic,
    /// For what is stored and must mean something after a restart.
    pub wall: Timestamp,
}

/// How durable a commit is, from least to most.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In this process's memory: gone when the process is.
    Memory,
    /// Handed to the operating system: survives the process being killed, not a power cut.
    Os,
    /// On the device: survives a power cut.
    #[default]
    Disk,
}

/// A text that names no [`Durability`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no durability; use memory, os or disk")]
pub struct UnknownDurability(pub String);

impl FromStr for Durability {
    type Err = UnknownDurability;
    fn from_str(text: &str) -> Result<Self, UnknownDurability> {
        match text {
            "memory" => Ok(Self::Memory),
            "os" => Ok(Self::Os),
            "disk" => Ok(Self::Disk),
            other => Err(UnknownDurability(other.to_owned())),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Os => "os",
            Self::Disk => "disk",
        })
    }
}
