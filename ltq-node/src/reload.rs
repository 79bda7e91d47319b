//! Looking at the configuration file again while the node runs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::Signal,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use crate::{
    access::NodeAccess,
    config::{Config, ConfigError, ConfigSource, Settings, fixed_differences},
};

/// Takes over what may change while a node runs, and counts how that went.
#[derive(Debug)]
pub struct Reloader<S: Settings = Config> {
    /// What it runs with, but for tokens and identities.
    started: S,
    access: Arc<NodeAccess>,
    reloads: AtomicU64,
    failed: AtomicBool,
}

impl<S: Settings> Reloader<S> {
    /// For what was started with this configuration and access.
    #[must_use]
    pub const fn new(started: S, access: Arc<NodeAccess>) -> Self {
        let (reloads, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { started, access, reloads, failed }
    }

    /// Takes over the tokens and identities of a configuration that was read anew. One that cannot
    /// be, or that has neither where there were some, leaves everything as it is: a node never opens
    /// itself to everybody while it runs. What else is different in it is named in the log: it takes a
    /// restart.
    pub fn take(&self, read: Result<S, ConfigError>) {
        let config = match read {
            // A file that is being written may have no tokens yet, or be empty.
            Ok(config) if self.access.asks() && !config.as_node().authenticates() => {
                self.failed.store(true, Ordering::Relaxed);
                error!("the file has no tokens any more; to let everybody in takes a restart");
                return;
            }
            Ok(config) => config,
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                error!(%error, "the configuration cannot be read again; what was read before stays");
                return;
            }
        };
        let changes = self.access.change(&config.as_node());
        self.failed.store(false, Ordering::Relaxed);
        self.reloads.fetch_add(1, Ordering::Relaxed);
        info!(
            added = changes.added,
            revoked = changes.revoked,
            "tokens and identities were read again"
        );
        let fixed = fixed_differences(&self.started, &config);
        if !fixed.is_empty() {
            warn!(settings = fixed.join(", "), "these settings have changed; they take a restart");
        }
    }

    /// Whether peers have to say who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.access.asks()
    }

    /// How often a configuration was taken over.
    #[must_use]
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Whether the newest one could not be.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Reads the file again whenever it has changed or a signal comes; never ends. `source` is what
    /// the node was started by.
    pub(crate) async fn watch(self: Arc<Self>, source: ConfigSource<S>, mut hangup: Signal) {
        let file = source.file();
        // What was read last, and what was there at the last look: a file is read once it rests, as
        // one that is being written is not what anybody means.
        let mut read = look(file.as_deref()).await;
        let mut seen = read;
        let mut ticks = interval(LOOK_PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = tokio::select! {
                Some(()) = hangup.recv() => true,
                _ = ticks.tick(), if file.is_some() => false,
            };
            if file.is_none() {
                info!("told to read the configuration again; there is no file");
                continue;
            }
            let now = look(file.as_deref()).await;
            let rests = std::mem::replace(&mut seen, now) == now;
            if !told && (!rests || now == read) {
                continue;
            }
            read = now;
            let source = source.clone();
            match tokio::task::spawn_blocking(move || source.load()).await {
                Ok(read) => self.take(read),
                Err(error) => error!(%error, "reading the configuration failed"),
            }
        }
    }
}

/// What tells one state of a file from the next: when it was changed, its size, and which it is.
async fn look(file: Option<&Path>) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let file = file?.to_owned();
    let look = move || {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// How soon a changed file is noticed.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use ltq_core::{Access as _, Address, Grant, Peer};

    use super::*;

    fn config(token: &str) -> Config {
        Config { token: Some(token.into()), ..Config::default() }
    }

    #[test]
    fn what_cannot_be_taken_over_leaves_everything_as_it_is() {
        let access = Arc::new(NodeAccess::new(&config("old")));
        let reloader = Reloader::new(config("old"), access.clone());
        let peer = Peer { address: Address::new("tcp", "192.0.2.1:1"), identity: None };
        let admit = |token| access.admit(&peer, Some(token));
        let old: Grant = admit("old").unwrap();
        let broken = ConfigError::Syntax { origin: "f".to_owned(), error: "e".to_owned() };
        // Broken, and empty as a file is that an editor has just begun to write.
        for read in [Err(broken), Ok(Config::default())] {
            reloader.take(read);
            assert!(reloader.has_failed() && !old.is_revoked());
            assert!(admit("old").is_ok() && access.admit(&peer, None).is_err());
        }
        assert_eq!(reloader.reloads(), 0);
        reloader.take(Ok(config("new")));
        assert!(!reloader.has_failed() && old.is_revoked());
        assert!(admit("old").is_err() && admit("new").is_ok());
        assert_eq!(reloader.reloads(), 1);
    }
}
