//! A client that is told by registries which nodes there are.

use std::{mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::Address;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::{
    Config,
    lines::{Lines, WatchId},
    merged::Merged,
};
use crate::{DiscoveryError, Interest, NodeSet, Watch};

/// The nodes that are of interest.
pub(super) struct Watching {
    shared: Arc<Shared>,
    news: watch::Receiver<Standing>,
    given: Option<NodeSet>,
    /// Whether the caller knows that no registry is heard.
    is_loss_told: bool,
    /// What it is to each registry, in their order.
    ids: Vec<Option<WatchId>>,
}

/// What is shared with the lines to the registries.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) interest: Interest,
    merged: Mutex<Merged>,
    standing: watch::Sender<Standing>,
}

/// How it stands with the registries.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Counts what was told.
    news: u64,
    /// Which registries are heard, and which will not answer, however often they are asked.
    heard: Vec<bool>,
    refused: Vec<bool>,
    /// Why the last one that was asked could not be.
    why: Option<(Address, String)>,
}

impl Standing {
    fn is_heard(&self) -> bool {
        self.heard.contains(&true)
    }

    fn is_refused(&self) -> bool {
        !self.refused.contains(&false)
    }
}

impl Watching {
    /// Begins, and waits until one registry has told what it knows.
    pub(super) async fn start(
        config: Arc<Config>,
        interest: Interest,
    ) -> Result<Self, DiscoveryError> {
        let merged = Mutex::new(Merged::new(config.addresses.len()));
        let none = vec![false; config.addresses.len()];
        let standing = Standing { heard: none.clone(), refused: none, ..Standing::default() };
        let (standing, news) = watch::channel(standing);
        let shared = Arc::new(Shared { config: Arc::clone(&config), interest, merged, standing });
        let ids = vec![None; config.addresses.len()];
        let mut watching = Self { shared, news, given: None, is_loss_told: false, ids };
        watching.join();
        let known = |standing: &Standing| standing.news > 0 || standing.is_refused();
        let _ = timeout(config.patience, watching.news.wait_for(known)).await;
        let shared = &watching.shared;
        if !shared.merged.lock().is_known() {
            return Err(shared.lost_all());
        }
        Ok(watching)
    }

    /// Joins a line to each registry, but where it goes over one.
    fn join(&mut self) {
        let config = &self.shared.config;
        for (registry, (lines, id)) in config.lines.iter().zip(&mut self.ids).enumerate() {
            if id.is_none_or(|id| !lines.has(id)) {
                *id = Lines::join(config, registry, &self.shared);
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for (lines, id) in self.shared.config.lines.iter().zip(&self.ids) {
            if let Some(id) = id {
                lines.leave(*id);
            }
        }
    }
}

impl Shared {
    /// Why nothing is known, or no more is heard.
    fn lost_all(&self) -> DiscoveryError {
        let (why, is_refused) = {
            let standing = self.standing.borrow();
            (standing.why.clone(), standing.is_refused())
        };
        let nobody = || ("registries".to_owned(), "no answer yet".to_owned());
        let (backend, why) =
            why.map_or_else(nobody, |(address, why)| (format!("registry {address}"), why));
        match is_refused {
            true => DiscoveryError::Refused { backend, why },
            false => DiscoveryError::Unreachable { backend, source: why.into() },
        }
    }

    /// A registry has told all that there is.
    pub(super) fn heard(&self, registry: usize) {
        self.standing.send_modify(|standing| set(&mut standing.heard, registry, true));
    }

    /// A registry is not heard, or not any more, and what it told counts for so long beside others.
    pub(super) fn lost(
        &self,
        registry: usize,
        memory: Duration,
        why: (Address, String),
        refuses: bool,
    ) {
        let was_heard = self.standing.borrow().heard.get(registry).is_some_and(|it| *it);
        if was_heard {
            let now = Instant::now();
            self.merged.lock().lost(registry, now, now + memory);
        }
        self.standing.send_modify(|standing| {
            set(&mut standing.heard, registry, false);
            set(&mut standing.refused, registry, refuses);
            standing.why = Some(why);
        });
    }

    pub(super) fn tell(&self, registry: usize, tell: impl FnOnce(&mut Merged)) {
        tell(&mut self.merged.lock());
        self.standing.send_modify(|standing| standing.news += 1);
        debug!(registry, "told of nodes");
    }
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        loop {
            self.join();
            let is_heard = self.news.borrow_and_update().is_heard();
            // Before anything is given: it may be lost again before the next call.
            self.is_loss_told &= !is_heard;
            let (now, mut next) = (Instant::now(), None);
            {
                let merged = self.shared.merged.lock();
                if merged.is_known() {
                    next = merged.next_timeout(now);
                    let nodes = merged.nodes(now);
                    if self.given.as_ref() != Some(&nodes) {
                        self.given = Some(nodes.clone());
                        return Ok(nodes);
                    }
                }
            }
            if !is_heard && !mem::replace(&mut self.is_loss_told, true) {
                return Err(self.shared.lost_all());
            }
            let later = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.news.changed() => {}
                () = later => {}
            }
        }
    }
}

fn set(those: &mut [bool], registry: usize, is: bool) {
    if let Some(one) = those.get_mut(registry) {
        *one = is;
    }
}
