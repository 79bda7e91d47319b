//! What the tests of the whole broker share: a broker served over TCP, and a peer that speaks
//! frames, or bytes that are none.

#[cfg(target_os = "linux")]
pub mod attacker;
#[cfg(target_os = "linux")]
pub mod bad_network;
mod bridge_process;
pub mod bridged;
mod distant;
mod door;
mod etcd_process;
mod field;
mod folder;
mod gated;
mod in_order;
pub mod kill;
mod node_process;
mod process;
mod raw_peer;
mod registry_process;
mod served;
mod skipped;
mod stalls;
#[cfg(target_os = "linux")]
pub mod torment;

pub use bridge_process::{Bridge, BridgeProcess};
pub use distant::{Distant, FAR, HERE, OTHER, stream};
pub use door::{Door, Hinge};
pub use etcd_process::EtcdProcess;
pub use field::{Field, Stored, check_stored};
pub use folder::folder_in_memory;
pub use gated::Gated;
pub use in_order::{Consumed, consume_in_order};
pub use node_process::{Node, NodeProcess};
pub use process::{Listens, Process, ServesHttp, binary};
pub use raw_peer::{RawPeer, answers, answers_over, bytes_of};
pub use registry_process::{Registry, RegistryProcess};
pub use served::{Local, Served};
pub use skipped::{require, skipped};
pub use stalls::{Judged, Stall, Stalls};

use std::time::Duration;

/// Within this everything that a test waits for must happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future` until [`DEADLINE`].
///
/// # Panics
/// When the deadline passes: `what` did not happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}
