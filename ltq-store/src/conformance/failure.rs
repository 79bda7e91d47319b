//! What a broken promise looks like.

use std::fmt;

/// A clause of the contract of [`Store`](ltq_core::Store), to name the one that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clause {
    /// A batch takes effect whole or not at all.
    Atomic,
    /// Batches take effect in the order of their commits, and a crash keeps that order.
    Ordered,
    /// The store's word on durability is true.
    Honest,
    /// What was committed survives what its durability names.
    Durable,
    /// A batch shows once its commit has resolved, and not before it is durable.
    Visible,
    /// Any number of tasks may call at once.
    Concurrent,
    /// A dropped future leaves a whole batch or none.
    Cancellation,
    /// Creating and deleting logs.
    Logs,
    /// Appending at the end and nowhere else.
    Append,
    /// Records come back as they went in.
    Bytes,
    /// What a read returns.
    Read,
    /// What a read that does not wait returns.
    TryRead,
    /// What a log is said to hold.
    Bounds,
    /// Finding an offset by time.
    OffsetAt,
    /// Giving up records.
    Truncate,
    /// Giving up records in the middle of a log.
    Discard,
    /// Small named values.
    Values,
    /// What no store takes.
    Rules,
    /// Limits on space.
    Full,
    /// Closing.
    Close,
    /// The store's figures.
    Stats,
    /// Calls return, in time and without panicking, and the store opens.
    Runs,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Atomic => "Atomic (of a batch everything is there or nothing)",
            Self::Ordered => {
                "Ordered (batches take effect in the order in which their commits were first \
                 polled, and one that is there after a crash has those before it beside it)"
            }
            Self::Honest => "Honest (Committed names what has been done, not what was asked)",
            Self::Durable => "Durable (a batch survives what its durability names)",
            Self::Visible => {
                "Visible when committed (a batch shows once its commit has resolved, and never \
                 before it is as durable as asked)"
            }
            Self::Concurrent => "Concurrent (every method may be called from many tasks at once)",
            Self::Cancellation => {
                "Cancellation (a commit whose future is dropped takes effect whole or not at all)"
            }
            Self::Logs => "Logs (a log is made once, starts where it is told to, and goes whole)",
            Self::Append => "Append (records go to the end of a log, where the caller believes it)",
            Self::Bytes => "Bytes (records come back as they went in: bytes, checksums, times)",
            Self::Read => "Read (consecutive records from exactly the offset asked for, in limits)",
            Self::TryRead => "TryRead (it returns what a read would, or nothing)",
            Self::Bounds => "Bounds (the oldest record's offset, and the next record's)",
            Self::OffsetAt => "OffsetAt (the lowest offset whose time is the one asked or later)",
            Self::Truncate => "Truncate (what is given up never comes back, and nothing else goes)",
            Self::Discard => {
                "Discard (what is given up in the middle never comes back, nothing else goes, and \
                 a read is told where to go on)"
            }
            Self::Values => "Values (a key has the value put last, and listings are in order)",
            Self::Rules => "Rules (what is invalid whatever the state is refused as invalid)",
            Self::Full => {
                "Full (a limit is kept, typed, changes nothing, and ends when space does)"
            }
            Self::Close => "Close (a closed store says so, as often as it is asked)",
            Self::Stats => "Stats (figures are true or 0)",
            Self::Runs => "Runs (a store opens, and its calls return, in time and without panic)",
        })
    }
}

/// A clause that a store broke, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    clause: Clause,
    detail: String,
}

impl Failure {
    /// A broken clause, with what was done, expected and found.
    pub fn new(clause: Clause, detail: impl Into<String>) -> Self {
        Self { clause, detail: detail.into() }
    }

    /// The clause.
    #[must_use]
    pub const fn clause(&self) -> Clause {
        self.clause
    }

    /// The same failure, with the circumstances put before it.
    #[must_use]
    pub(super) fn during(mut self, what: impl fmt::Display) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}\n  {}", self.clause, self.detail)
    }
}

/// As [`Display`](fmt::Display): test runners print this one.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// Returns a [`Failure`] of the clause unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $clause:ident, $($detail:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(
                $crate::conformance::Clause::$clause,
                format!($($detail)+),
            ));
        }
    };
}
pub(super) use ensure;
