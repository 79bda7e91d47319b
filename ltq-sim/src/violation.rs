//! What a play breaks.

use std::fmt;

/// Something that a play breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What is broken.
    pub rule: Rule,
    /// By what, for people to read.
    pub words: String,
}

/// What a play must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A promise by its number in `docs/promises.md`, or several where it cannot be told which of them: a
    /// message that never comes may not have been kept (1) or not delivered (2).
    Promises(&'static [u8]),
    /// What has to be done is done within two minutes without trouble, which is promise 16.
    Progress,
    /// A node starts on what it left, unless that was damaged.
    Start,
    /// A store fails when its disk does, and not when there is only no room: then it refuses.
    Store,
    /// A paused channel delivers nothing that is published meanwhile.
    Pause,
    /// Nothing panics.
    Panic,
    /// Where nothing is wrong, everybody who watches is soon told of every node that is there, and of no
    /// other.
    Sight,
    /// A message is stored once in a mode that stores once, and on the node that its receipt names.
    StoredOnce,
    /// A node that is gone is avoided after three heartbeats, where there are others.
    Avoided,
    /// Who sees no registry goes on with the nodes that he knows.
    Alone,
}

impl Rule {
    /// The numbers of the promises that it stands for; none where it is no promise's.
    #[must_use]
    pub const fn promises(self) -> &'static [u8] {
        match self {
            Self::Promises(numbers) => numbers,
            Self::Progress => &[16],
            Self::StoredOnce => &[6],
            Self::Start
            | Self::Store
            | Self::Pause
            | Self::Panic
            | Self::Sight
            | Self::Avoided
            | Self::Alone => &[],
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promises(numbers) => {
                f.write_str(if numbers.len() == 1 { "promise" } else { "promises" })?;
                for (at, number) in numbers.iter().enumerate() {
                    write!(f, "{} {number}", if at == 0 { "" } else { " and" })?;
                }
                Ok(())
            }
            Self::Progress => f.write_str("progress"),
            Self::Start => f.write_str("start"),
            Self::Store => f.write_str("store"),
            Self::Pause => f.write_str("pause"),
            Self::Panic => f.write_str("panic"),
            Self::Sight => f.write_str("sight"),
            Self::StoredOnce => f.write_str("stored once"),
            Self::Avoided => f.write_str("avoided"),
            Self::Alone => f.write_str("alone"),
        }
    }
}

impl fmt::Display for Violation {
    /// The rule before a colon, and the words behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.words)
    }
}

impl Violation {
    /// Of a rule.
    pub(crate) fn of(rule: Rule, words: impl Into<String>) -> Self {
        Self { rule, words: words.into() }
    }
}

/// One of promises.
pub(crate) fn breaks(promises: &'static [u8], words: String) -> Violation {
    Violation::of(Rule::Promises(promises), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_tell_their_rule_first() {
        assert_eq!(breaks(&[3], "twice".into()).to_string(), "promise 3: twice");
        assert_eq!(breaks(&[1, 2], "never".into()).to_string(), "promises 1 and 2: never");
        let late = Violation::of(Rule::Progress, "late");
        assert_eq!((late.to_string(), late.rule.promises()), ("progress: late".into(), &[16][..]));
    }
}
