//! Programs that each embed a queue of their own, know each other by name, and put messages into each other's
//! inboxes: no broker process, one connection for each pair.
//!
//! [`Mesh`] has an example, [`MeshSettings`] what can be set, [`SendError`] what may go wrong.
//!
//! # How a message is stored once
//!
//! An inbox is a topic of the embedded broker. What comes from a peer is published there under the peer's
//! name and the instance of its process, and with it, in the same batch of the store, the broker counts
//! what it has stored of that. A connection begins with both sides saying that count, and which inbox it is
//! of. The way into the inbox is opened anew for each connection, which fences the one before, so that the
//! count is final. Messages are stored in the order in which they are sent, and nothing behind one that is
//! rejected before its sender has said that it knows. So what is stored of the messages that were on their
//! way is always the first so many of those that the sender still has, and the count says how many. Numbers
//! on the wire need not survive anything; neither does what a handler said.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod builder;
mod closing;
mod dial;
mod error;
mod finding;
mod guard;
mod handler;
#[cfg(test)]
mod hostile_tests;
mod inbox;
mod keeper;
mod lines;
mod listening;
mod mesh;
mod name;
mod peer;
mod room;
mod rules;
mod session;
mod settings;
mod shared;
mod states;
mod wire;

/// The page of documentation, whose code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/mesh.md")]
struct Page;

pub use builder::MeshBuilder;
pub use closing::{CloseReport, Undelivered};
pub use error::{DownCause, InboxError, SendError, StartError};
pub use handler::{Admission, InboxHandler};
pub use inbox::{Inbox, InboxMessage};
pub use mesh::Mesh;
pub use name::{MeshName, MeshNameError};
pub use settings::{MeshSettings, SettingsError};
pub use states::{ListenerState, MeshStates, PeerState, StateWatch};
