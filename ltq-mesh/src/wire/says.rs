use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rules::ConnectionId;

/// The version that is spoken here. Another one is another language.
pub(crate) const PROTOCOL: u16 = 1;

/// The bytes that a hello begins with, so that nobody is taken for a member of a mesh who speaks
/// something else.
pub(crate) const MAGIC: [u8; 4] = *b"LTQM";

/// What either side says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Say {
    /// A message for the inbox; the body follows. Numbers count from 1 on each connection.
    Message { number: u64 },
    /// The first words of who dials.
    Hello {
        magic: [u8; 4],
        version: u16,
        mesh: String,
        from: String,
        to: String,
        id: ConnectionId,
        after: Option<ConnectionId>,
        token: Option<String>,
    },
    /// The first words of who is called.
    Welcome { instance: u64 },
    /// The last words of a stream.
    Goodbye { why: Farewell, detail: String },
    /// What the speaker's inbox is, how many messages of the other process it has stored, and what it takes.
    Resume {
        inbox: u64,
        stored: u64,
        messages_max: u64,
        bytes_max: u64,
        message_bytes_max: u32,
        patience_ms: u64,
    },
    /// All messages up to this one are stored, but for those of which it was said that they are not.
    Stored { through: u64 },
    /// This message is not stored.
    NotStored { number: u64, why: NotStored },
    /// The answer to that; nothing behind the message is stored before it.
    Heard { number: u64 },
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
}

/// Why nothing more is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Farewell {
    Version,
    /// Another mesh, or not who was wanted.
    WrongPlace,
    Unauthenticated,
    NameTaken,
    /// Two calls crossed, and the other one counts.
    Crossed,
    /// There is a connection already.
    Connected,
    Full,
    Protocol,
    Silent,
    /// The inbox cannot take anything.
    Inbox,
    Stopping,
}

/// Why a message is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NotStored {
    /// The handler did not want it.
    Rejected(String),
    /// There is no room.
    Full(String),
    /// The broker refused it for another reason.
    Refused(String),
}

/// Without the token: what is said ends up in logs.
impl fmt::Debug for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { number } => write!(f, "Message {number}"),
            Self::Hello { from, to, id, after, .. } => {
                write!(f, "Hello from {from} to {to}, {id:?} after {after:?}")
            }
            Self::Welcome { instance } => write!(f, "Welcome of {instance:x}"),
            Self::Goodbye { why, detail } => write!(f, "Goodbye, {why:?}: {detail}"),
            Self::Resume { inbox, stored, .. } => write!(f, "Resume {inbox:x} behind {stored}"),
            Self::Stored { through } => write!(f, "Stored {through}"),
            Self::NotStored { number, why } => write!(f, "NotStored {number}: {why:?}"),
            Self::Heard { number } => write!(f, "Heard {number}"),
            Self::Ping => f.write_str("Ping"),
            Self::Pong => f.write_str("Pong"),
        }
    }
}

/// Words that fit a frame beside the rest of it.
pub(crate) fn shortened(mut words: String) -> String {
    if words.len() > WORDS_BYTES_MAX {
        let end = (0..=WORDS_BYTES_MAX).rev().find(|at| words.is_char_boundary(*at));
        words.truncate(end.unwrap_or(0));
    }
    words
}

/// A quarter of what a frame may have that is no message.
const WORDS_BYTES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened(format!("x{}", "ä".repeat(WORDS_BYTES_MAX)));
        assert_eq!(long.len(), WORDS_BYTES_MAX - 1);
    }

    #[test]
    fn a_token_is_not_in_what_is_printed() {
        let hello = Say::Hello {
            magic: MAGIC,
            version: PROTOCOL,
            mesh: "m".to_owned(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            id: ConnectionId { dialer: 1, attempt: 1 },
            after: None,
            token: Some("s3cret".to_owned()),
        };
        assert!(!format!("{hello:?}").contains("s3cret"));
    }
}
