//! Which connection of a pair is the one.
//!
//! Either side may dial. A connection carries nothing before the one who was called has said welcome, so
//! that it costs nothing to give up an attempt until then. Each side has one place for a connection to
//! the other, and decides alone, by what it knows, whether a call gets it:
//!
//! - Who is free, or has not said hello on a connection of its own yet, takes the call.
//! - When both have said hello, the one dialed by the smaller name wins: the smaller name refuses the other's
//!   call, and the larger one takes the smaller's and forgets its own.
//! - Who is connected takes a call only if it proves that the caller has lost that connection: because it
//!   is a later attempt of the same caller, or because it says that the connection was its last one.
//! - Another process under the name of one that is connected is refused. The newcomer does not silently take
//!   a name away from somebody who is well; the connection that is in its way is asked for a sign of life
//!   at once, and makes room when there is none.

use serde::{Deserialize, Serialize};

use crate::MeshName;

/// Which connection, or attempt at one: of which process, and its how many-th one to that peer, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionId {
    /// The process that dialed: its instance.
    pub(crate) dialer: u64,
    /// Counts up with each attempt of that process to reach that peer.
    pub(crate) attempt: u64,
}

/// What a caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: ConnectionId,
    /// The last connection that the caller had with the one whom it calls, and has no longer.
    pub(crate) after: Option<ConnectionId>,
}

/// What there is with the caller already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Free,
    /// It is being dialed.
    Dialing {
        /// The hello may be on its way, so that the other may take it.
        said_hello: bool,
    },
    /// There is a connection.
    Connected {
        /// Which one.
        id: ConnectionId,
        /// The process at the other end: its instance.
        peer: u64,
    },
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is taken, in the place of what there is.
    Take,
    /// It is not.
    Refuse(Objection),
}

/// Why a call is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objection {
    /// There is a call the other way, which counts.
    Crossed,
    /// There is a connection, which the caller did not know of when it called.
    Connected,
    /// Another process of this name is connected.
    NameTaken,
}

/// What becomes of a call of `theirs` to `ours`.
pub(crate) fn decide(
    ours: &MeshName,
    theirs: &MeshName,
    standing: Standing,
    call: Call,
) -> Decision {
    match standing {
        Standing::Free | Standing::Dialing { said_hello: false } => Decision::Take,
        Standing::Dialing { said_hello: true } if ours < theirs => {
            Decision::Refuse(Objection::Crossed)
        }
        Standing::Dialing { said_hello: true } => Decision::Take,
        Standing::Connected { peer, .. } if peer != call.id.dialer => {
            Decision::Refuse(Objection::NameTaken)
        }
        Standing::Connected { id, peer } => {
            let is_lost = match id.dialer == peer {
                true => call.id.attempt > id.attempt,
                false => call.after == Some(id),
            };
            if is_lost { Decision::Take } else { Decision::Refuse(Objection::Connected) }
        }
    }
}

#[cfg(test)]
#[path = "contest_tests.rs"]
mod tests;
