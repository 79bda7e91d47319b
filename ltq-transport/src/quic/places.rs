//! How many streams the peer of a connection may open.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use quinn::VarInt;

use super::windows::Share;

/// The streams of one connection that was accepted.
///
/// What comes on a stream is held from its first packet on, whoever may never accept it. So beside those that
/// are accepted a peer may have opened a few only, and gets more as those are accepted.
pub(super) struct Places {
    connection: quinn::Connection,
    /// At once.
    max: u32,
    state: Mutex<State>,
}

struct State {
    accepted: u32,
    /// Once the peer is welcomed.
    share: Option<Share>,
}

impl Places {
    pub(super) fn new(connection: quinn::Connection, max: u32) -> Arc<Self> {
        let state = Mutex::new(State { accepted: 0, share: None });
        Arc::new(Self { connection, max, state })
    }

    /// The peer is welcomed, and has this from now on.
    pub(super) fn welcome(&self, share: Share) {
        share.open(&self.connection);
        let mut state = self.state.lock();
        state.share = Some(share);
        self.change(&mut state, 0);
    }

    /// A stream is accepted, until what this returns is dropped.
    pub(super) fn accept(self: &Arc<Self>) -> Place {
        self.change(&mut self.state.lock(), 1);
        Place(Arc::clone(self))
    }

    fn change(&self, state: &mut State, more: i32) {
        state.accepted = state.accepted.saturating_add_signed(more);
        let State { accepted, share: Some(share) } = state else { return };
        share.count(*accepted);
        let max = accepted.saturating_add(share.streams()).min(self.max);
        self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(max));
    }
}

/// That of one stream.
pub(super) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(&mut self.0.state.lock(), -1);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}
