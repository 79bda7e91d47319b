//! The ways in which messages are published and taken, each of which has its turn. What is the same for the nodes
//! does not matter here: these are the calls of the client.

use std::fmt;

/// How messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torment) enum Call {
    /// Each by itself, and its receipt is waited for; those without order several at a time.
    Send,
    /// Some in one go, and their receipts are waited for.
    Batch,
    /// Each by itself, and only its place in the window is waited for.
    Enqueue,
    /// Some in one go, and only their place in the window is waited for.
    EnqueueBatch,
}

/// How messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torment) enum Take {
    /// One by one.
    Next,
    /// What there is of one node, which is answered as a whole or one by one.
    Batch,
    /// By a handler.
    Handler,
    /// One by one from every node, whether it has the topic or not, while the credit changes.
    EveryNode,
    /// One by one by a consumer of each node, which gives up its place to another one with the same seat again and
    /// again.
    Seat,
}

impl Call {
    pub(in crate::torment) const ALL: [Self; 4] =
        [Self::Send, Self::Batch, Self::Enqueue, Self::EnqueueBatch];

    /// All, one after the other and around.
    pub(super) const fn nth(number: usize) -> Self {
        Self::ALL[number % Self::ALL.len()]
    }

    /// How many messages the call of this turn takes.
    pub(super) const fn size(self, turn: u64) -> u64 {
        match self {
            Self::Send | Self::Enqueue => 1,
            Self::Batch | Self::EnqueueBatch => 1 + turn % 7,
        }
    }
}

impl Take {
    pub(in crate::torment) const ALL: [Self; 5] =
        [Self::Next, Self::Batch, Self::Handler, Self::EveryNode, Self::Seat];

    /// All, one after the other and around.
    pub(super) const fn nth(number: usize) -> Self {
        Self::ALL[number % Self::ALL.len()]
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Batch => "send_batch",
            Self::Enqueue => "enqueue",
            Self::EnqueueBatch => "enqueue_batch",
        })
    }
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Next => "next",
            Self::Batch => "next_batch",
            Self::Handler => "for_each",
            Self::EveryNode => "every_node",
            Self::Seat => "seat",
        })
    }
}

/// All ways, as journals and accounts call them, of publishing in each order there is and of taking.
pub(in crate::torment) fn all() -> impl Iterator<Item = String> {
    let calls = Call::ALL.iter().map(ToString::to_string);
    calls.chain(Take::ALL.iter().map(ToString::to_string))
}
