//! Programs that each embed a queue of their own, know each other by name, and put messages into each other's
//! inboxes: no broker process, one connection for each pair.
//!
//! See [`Mesh`] for an example, [`MeshSettings`] for what can be set, [`SendError`] for what may go wrong.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod builder;
mod dial;
mod error;
mod finding;
mod handler;
#[cfg(test)]
mod hostile_tests;
mod inbox;
mod keeper;
mod listening;
mod mesh;
mod name;
mod peer;
mod rules;
mod session;
mod settings;
mod shared;
mod states;
mod wire;

pub use builder::MeshBuilder;
pub use error::{DownCause, InboxError, SendError, StartError};
pub use handler::{Admission, InboxHandler};
pub use inbox::{Inbox, InboxMessage};
pub use mesh::Mesh;
pub use name::{MeshName, MeshNameError};
pub use settings::{MeshSettings, SettingsError};
pub use states::{ListenerState, MeshStates, PeerState, StateWatch};
