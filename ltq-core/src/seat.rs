//! Which consumer of a channel, or producer of a name, somebody is, over all the connections that it has: [`Seat`].

use serde::{Deserialize, Serialize};

/// A consumer's seat in its channel: the same over all its connections.
///
/// A consumer that lost its connection subscribes again with the seat that it had, and takes it over: the
/// subscription that had it before is over, and all that it had in flight is given back, before the new one
/// gets anything. So what was on its way over the old connection comes ahead of everything new, and nobody
/// waits until the broker finds the old connection dead.
///
/// A seat is taken over only in the channel that it is in, and only by whom the broker let in under the name
/// ([`Grant::who`](crate::Grant::who)) of whoever sits there; under another name it is another seat.
///
/// A producer opens its name with a seat, too. There it is only what tells requests of one program apart that were
/// overtaken on their way: one that was left in a lost connection, and comes behind the one that was sent over the
/// next, takes nothing from that. Whoever opens the name with another seat, or without, takes it over as ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seat {
    /// Drawn by the program: random, so that no two have the same.
    pub number: [u8; 16],
    /// Counts the times that it was asked for. Who asks with a smaller one than whoever sits there
    /// was overtaken on its way, and is refused as [`Fenced`](crate::RefusalCode::Fenced).
    pub turn: u64,
}
