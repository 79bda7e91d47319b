//! A node that is kept in etcd.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    Config,
    gateway::{Gateway, GatewayError},
    holding::{Holding, NotTaken},
    value,
};
use crate::{Announcement, DiscoveryError, NodeInfo, registry::NodeChange};

/// What there is to be told.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    current: Mutex<Arc<NodeInfo>>,
    /// Counts changes; [`WITHDRAWN`] once the node is.
    newest: watch::Sender<u64>,
}

impl Shared {
    /// The node as it is.
    pub(super) fn current(&self) -> Arc<NodeInfo> {
        Arc::clone(&self.current.lock())
    }
}

/// A node that is announced.
pub(super) struct Announcing {
    shared: Arc<Shared>,
    /// Ends when the node is withdrawn, as far as that went.
    task: JoinHandle<Result<(), GatewayError>>,
}

/// Why etcd does not have the node.
#[derive(Debug, Error)]
pub(super) enum End {
    #[error(transparent)]
    Lost(#[from] GatewayError),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

impl End {
    fn is_final(&self) -> bool {
        match self {
            Self::Lost(error) => error.is_final(),
            Self::NotTaken(_) => true,
        }
    }
}

impl Announcing {
    /// Begins, and waits until etcd has taken the node in, refused it, or did not answer for as long as
    /// patience lasts.
    pub(super) async fn start(config: Arc<Config>, node: NodeInfo) -> Result<Self, DiscoveryError> {
        let node = written(&config, node)?;
        let (current, newest) = (Mutex::new(Arc::new(node)), watch::Sender::new(0));
        let shared = Arc::new(Shared { config: Arc::clone(&config), current, newest });
        let (told, outcome) = oneshot::channel();
        let teller = Teller { holding: Holding::new(Arc::clone(&shared)), told: Some(told) };
        let newest = shared.newest.subscribe();
        let announcing = Self { shared, task: tokio::spawn(teller.run(newest)) };
        match timeout(config.patience, outcome).await {
            // Dropped, it takes back whatever was written.
            Ok(Ok(Err(why))) => Err(DiscoveryError::Refused { backend: backend(&config), why }),
            // What is not known yet may come.
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => Ok(announcing),
        }
    }
}

/// The node as it can be written down.
fn written(config: &Config, node: NodeInfo) -> Result<NodeInfo, DiscoveryError> {
    let node = checked(config, node)?;
    if let Err(why) = value::check_topics(&node) {
        error!(node = %node.id(), %why, "a part of the topics is too long for etcd: none are told");
        return Ok(node.without_topics());
    }
    Ok(node)
}

/// The node, of which all but the topics can be written down.
fn checked(config: &Config, node: NodeInfo) -> Result<NodeInfo, DiscoveryError> {
    match value::of_node(&node, node.load()) {
        Ok(_) => Ok(node),
        Err(why) => {
            let why = format!("node {} cannot be written down: {why}", node.id());
            Err(DiscoveryError::Refused { backend: backend(config), why })
        }
    }
}

fn backend(config: &Config) -> String {
    let endpoints: Vec<_> = config.endpoints.iter().map(ToString::to_string).collect();
    format!("etcd at {}", endpoints.join(", "))
}

#[async_trait]
impl Announcement for Announcing {
    async fn update(&mut self, node: NodeInfo) -> Result<(), DiscoveryError> {
        let before = self.shared.current();
        if node.id() != before.id() {
            let why = format!("node {} was announced, and not {}", before.id(), node.id());
            return Err(DiscoveryError::Refused { backend: "this announcement".to_owned(), why });
        }
        // Those that were looked at before are not again: that would cost as much as there are, at every load.
        let is_same = match (before.topics(), node.topics()) {
            (Some(before), Some(now)) => now.is_shared_with(before),
            _ => false,
        };
        let node = match is_same {
            true => checked(&self.shared.config, node)?,
            false => written(&self.shared.config, node)?,
        };
        let change = NodeChange::between(&before, &node);
        *self.shared.current.lock() = Arc::new(node);
        // The next beat tells of its load.
        if change != Some(NodeChange::default()) {
            self.shared.newest.send_modify(|number| *number = number.saturating_add(1));
        }
        Ok(())
    }

    async fn withdraw(mut self: Box<Self>) -> Result<(), DiscoveryError> {
        self.shared.newest.send_replace(WITHDRAWN);
        let config = &self.shared.config;
        let source = match timeout(config.patience, &mut self.task).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error.into(),
            Ok(Err(error)) => error.into(),
            Err(_) => "it did not answer the withdrawal in time".into(),
        };
        Err(DiscoveryError::Unreachable { backend: backend(config), source })
    }
}

impl Drop for Announcing {
    fn drop(&mut self) {
        // The task takes back what is written, and ends.
        self.shared.newest.send_replace(WITHDRAWN);
        self.shared.config.figures.is_announced.store(false, Ordering::Relaxed);
    }
}

/// Sees to it that etcd has the node.
struct Teller {
    holding: Holding,
    /// Whom to tell what the first attempt came to that was answered.
    told: Option<oneshot::Sender<Result<(), String>>>,
}

impl Teller {
    async fn run(mut self, newest: watch::Receiver<u64>) -> Result<(), GatewayError> {
        let mut withdrawn = newest.clone();
        tokio::select! {
            biased;
            _ = withdrawn.wait_for(|number| *number == WITHDRAWN) => {}
            () = self.tell(newest) => {}
        }
        self.holding.shared.config.figures.is_announced.store(false, Ordering::Relaxed);
        self.withdraw().await
    }

    async fn tell(&mut self, mut newest: watch::Receiver<u64>) {
        let config = Arc::clone(&self.holding.shared.config);
        let (mut failures, mut rounds, mut short) = (0, 0, 0);
        for address in config.endpoints_from_any() {
            let began = Instant::now();
            let mut is_taken = false;
            let end = async {
                let mut gateway = Gateway::connect(&config, address).await?;
                loop {
                    self.holding.take(&mut gateway).await?;
                    (is_taken, failures) = (true, 0);
                    config.figures.is_announced.store(true, Ordering::Relaxed);
                    if let Some(told) = self.told.take() {
                        info!(endpoint = %address, "announced in etcd");
                        let _ = told.send(Ok(()));
                    }
                    let why = self.holding.keep(&mut gateway, &mut newest).await?;
                    config.figures.is_announced.store(false, Ordering::Relaxed);
                    warn!(endpoint = %address, why, "the node is announced anew");
                }
            };
            let Err(end): Result<std::convert::Infallible, End> = end.await;
            config.figures.is_announced.store(false, Ordering::Relaxed);
            if is_taken && began.elapsed() > STABLE {
                (rounds, short) = (0, 0);
            } else if is_taken {
                short += 1;
            }
            failures += 1;
            let is_final = end.is_final();
            if is_final {
                error!(endpoint = %address, error = %end, "the node is not announced");
                if let Some(told) = self.told.take() {
                    let _ = told.send(Err(end.to_string()));
                }
            } else {
                warn!(endpoint = %address, error = %end, "the node is not announced for now");
            }
            // What one member refuses, all do; and those that take it and are lost again at once are no better
            // than none.
            let members = config.endpoints.len();
            if is_final || failures >= members || short >= members {
                (failures, short) = (0, 0);
                sleep(if is_final { config.retry.1 } else { config.wait(rounds) }).await;
                rounds = rounds.saturating_add(1);
            }
        }
    }

    /// Takes back what is written, from whichever member answers, for as long as patience lasts.
    async fn withdraw(&mut self) -> Result<(), GatewayError> {
        let config = Arc::clone(&self.holding.shared.config);
        let began = Instant::now();
        let mut rounds = 0;
        let mut last = Ok(());
        for (tried, address) in config.endpoints_from_any().enumerate() {
            let withdrawing = async {
                let mut gateway = Gateway::connect(&config, address).await?;
                self.holding.withdraw(&mut gateway).await
            };
            let left = config.patience.saturating_sub(began.elapsed());
            // What fails at once comes before any timeout.
            if left.is_zero() {
                break;
            }
            match timeout(left, withdrawing).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = Err(error),
                Err(_) => break,
            }
            if (tried + 1).is_multiple_of(config.endpoints.len()) {
                sleep(config.wait(rounds).min(left)).await;
                rounds = rounds.saturating_add(1);
            }
        }
        let doing = "withdrawing";
        last.and(Err(GatewayError::Silent { doing, after: config.patience }))
    }
}

const WITHDRAWN: u64 = u64::MAX;
/// What was kept for so long is a success.
const STABLE: Duration = Duration::from_secs(5);
