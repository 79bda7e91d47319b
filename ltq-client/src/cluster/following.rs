//! Keeping sight of nodes, whatever becomes of what tells of them.

use std::{sync::Arc, time::Duration};

use ltq_discovery::{Discovery, DiscoveryError, Interest, NodeSet, Watch};
use tokio::time::sleep;
use tracing::{debug, warn};

/// What came of watching.
pub(super) enum Word {
    /// There are these nodes now.
    Nodes(NodeSet),
    /// They are out of sight. The last set stays in force.
    Trouble(DiscoveryError),
}

/// Watches the nodes that are of interest for ever, `told` of each word, with a pause of `wait` after so
/// many failures in a row.
pub(super) async fn follow(
    discovery: Arc<dyn Discovery>,
    interest: Interest,
    wait: impl Fn(u32) -> Duration + Send,
    mut told: impl FnMut(Word) + Send,
) {
    let mut failures = 0_u32;
    loop {
        match discovery.watch(&interest).await {
            Ok(mut watch) => {
                failures = 0;
                read(&interest, &mut *watch, &mut told).await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == 1 {
                    warn!(%error, %interest, "the nodes cannot be watched; trying again");
                }
                told(Word::Trouble(error));
            }
        }
        sleep(wait(failures)).await;
    }
}

/// Reads a watch for as long as it is of any use.
async fn read(interest: &Interest, watch: &mut dyn Watch, told: &mut (impl FnMut(Word) + Send)) {
    let mut errors = 0;
    while errors < ERRORS_MAX {
        match watch.changed().await {
            Ok(nodes) => {
                errors = 0;
                debug!(nodes = nodes.len(), %interest, "the nodes");
                told(Word::Nodes(nodes));
            }
            Err(error) => {
                errors += 1;
                if errors == 1 {
                    warn!(%error, %interest, "lost sight of the nodes; those known last stay in use");
                }
                told(Word::Trouble(error));
            }
        }
    }
}

/// A watch tells of each loss of sight once. One that says so again and again without a set between is
/// replaced by a new one.
const ERRORS_MAX: u32 = 16;
