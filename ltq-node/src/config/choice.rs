//! Settings that are one of a few words.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::suggest::nearest;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The words, in the order of the variants.
            pub const WORDS: &[&str] = &[$($word,)*];

            /// The word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(none_of(text, Self::WORDS)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for &'static str {
            fn from(choice: $name) -> Self {
                choice.word()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

choice!(
    /// What keeps the messages.
    StoreKind {
        /// Files in the data directory.
        File = "file",
        /// This process's memory: gone when it ends.
        Memory = "memory",
        /// A RocksDB database in the data directory; only in a node built with the feature
        /// `rocksdb`.
        RocksDb = "rocksdb",
    }
);

choice!(
    /// How durable a message is before it is confirmed, for topics made from now on.
    DurabilityChoice {
        /// Survives power loss.
        Disk = "disk",
        /// Survives the process being killed.
        Os = "os",
        /// Gone with the process.
        Memory = "memory",
    }
);

choice!(
    /// What a topic keeps while no limit says otherwise.
    KeepChoice {
        /// What some channel has not acked.
        Unacked = "unacked",
        /// All.
        All = "all",
    }
);

choice!(
    /// Where a channel begins that does not exist yet.
    StartChoice {
        /// With the oldest message that is kept.
        Earliest = "earliest",
        /// With the next message that comes.
        Latest = "latest",
    }
);

choice!(
    /// By what a node judges how fast the path of a QUIC connection takes what it sends.
    CongestionChoice {
        /// By how much arrives in how much time.
        Bbr = "bbr",
        /// By what is lost.
        Cubic = "cubic",
    }
);

choice!(
    /// How logs are written.
    LogFormat {
        /// Lines for people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
);

choice!(
    /// From which severity on something is logged.
    LogLevel {
        /// What went wrong.
        Error = "error",
        /// And what may.
        Warn = "warn",
        /// And what happens to the node as a whole.
        Info = "info",
        /// And what happens to each connection.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
);

impl From<DurabilityChoice> for ltq_core::Durability {
    fn from(choice: DurabilityChoice) -> Self {
        match choice {
            DurabilityChoice::Disk => Self::Disk,
            DurabilityChoice::Os => Self::Os,
            DurabilityChoice::Memory => Self::Memory,
        }
    }
}

impl From<KeepChoice> for ltq_core::Keep {
    fn from(choice: KeepChoice) -> Self {
        match choice {
            KeepChoice::Unacked => Self::Unacked,
            KeepChoice::All => Self::All,
        }
    }
}

#[cfg(feature = "quic")]
impl From<CongestionChoice> for ltq_transport::Congestion {
    fn from(choice: CongestionChoice) -> Self {
        match choice {
            CongestionChoice::Bbr => Self::Bbr,
            CongestionChoice::Cubic => Self::Cubic,
        }
    }
}

fn none_of(text: &str, words: &[&str]) -> String {
    let list = words.join(", ");
    match nearest(text, words.iter().copied()) {
        Some(word) => format!("{text:?} is none of {list}; the nearest is {word:?}"),
        None => format!("{text:?} is none of {list}"),
    }
}
