//! The registry: where nodes announce themselves by heartbeat, and whoever watches is told of them.
//!
//! [`Registry`] is its rules alone: a state machine without IO, clock and chance, which a server
//! drives, and a simulation too.
//!
//! A node that misses its beats is *suspected* first, and is told of as such, so that who has a choice
//! avoids it; it is forgotten when it misses many more. A watcher is told of the nodes of one topic, or
//! of all, first as they are and then of each that changes. What is owed to a watcher is a set of
//! nodes and not a list of changes: one that is slow is told of less, and costs no more memory than the
//! nodes that there are. How busy nodes are is told every three seconds at most, and a node that changes again and
//! again at a pace that the number of watchers sets.

mod change;
mod client;
mod link;
mod loads;
mod pace;
mod protocol;
mod refused;
mod server;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod watchers;
mod wire;

pub use change::NodeChange;
pub use client::{Registries, RegistriesBuilder, RegistriesError, ToldLimits};
#[cfg(feature = "etcd")]
pub(crate) use loads::LOADS_EVERY;
pub use protocol::{REGISTRY_FRAME_BYTES_MAX, REGISTRY_PROTOCOL, SILENT_BEATS};
pub use refused::{AnnounceError, NotAnnounced, TooManyWatchers, UpdateError};
pub use server::{RegistryFigures, RegistryServer, RegistryServerSettings};
pub use settings::{RegistrySettings, RegistrySettingsError};
pub use state::{Registry, RegistryCounts, SessionId};
pub use watchers::{Told, WatcherId};
