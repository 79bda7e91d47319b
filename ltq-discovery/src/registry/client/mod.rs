//! Registries as a way to find nodes: what a node announces itself by, and a client watches by.

mod announcing;
#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod bad_input_tests;
mod hearing;
#[cfg(test)]
mod lies_tests;
mod line;
mod lines;
#[cfg(test)]
mod lines_tests;
mod merged;
mod news;
mod nodes;
mod talk;
#[cfg(test)]
mod tests;
mod watching;
#[cfg(test)]
mod watching_tests;
#[cfg(test)]
mod withdrawn_tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Address, Entropy, SystemEntropy, Transport};
use thiserror::Error;

use crate::{Announced, Discovery, DiscoveryError, Interest, NodeInfo, Watch, backoff};
use announcing::Announcing;
use lines::Lines;
pub use nodes::ToldLimits;
use watching::Watching;

/// Finds nodes by any number of registries, which know nothing of each other: a node is announced to
/// all of them, and what they tell is merged. Cheap to clone.
///
/// A node that is gone from one registry's view is told of for as long as another one has it. What a
/// registry told that cannot be reached any more stays in force while none can, and for as long as it
/// would remember itself otherwise. What it told before it was started anew is suspected for ten seconds,
/// in which nodes come back to it, and gone then.
///
/// All watches of it and of its clones go over one connection to each registry, or over so few that none has more
/// than 1,024 of them.
///
/// It needs a tokio runtime with time, and whatever its transports need.
#[derive(Clone)]
pub struct Registries(Arc<Config>);

/// How registries are talked to.
pub(crate) struct Config {
    pub(crate) addresses: Vec<Address>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) token: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) retry: (Duration, Duration),
    pub(crate) patience: Duration,
    pub(crate) withdraw_timeout: Duration,
    pub(crate) told_limits: ToldLimits,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Registries that have the node, in the order of `addresses`.
    pub(crate) announced: Vec<AtomicBool>,
    /// The connections to each registry over which somebody watches, in the same order.
    lines: Vec<Lines>,
}

/// Sets [`Registries`] up.
#[derive(Clone)]
pub struct RegistriesBuilder {
    addresses: Vec<String>,
    transport: Arc<dyn Transport>,
    token: Option<String>,
    connect_timeout: Duration,
    retry: (Duration, Duration),
    patience: Duration,
    withdraw_timeout: Duration,
    told_limits: ToldLimits,
    entropy: Arc<dyn Entropy>,
}

/// Why there are no registries to be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegistriesError {
    /// None was named.
    #[error("no registry is named")]
    None,
    /// One is no address.
    #[error("{0:?} is no address of a registry; it looks like tcp://HOST:PORT")]
    Address(String),
    /// One is named twice.
    #[error("registry {0} is named twice")]
    Twice(Address),
}

impl Registries {
    /// Sets some up that are reached over this transport.
    #[must_use]
    pub fn builder(transport: impl Transport) -> RegistriesBuilder {
        RegistriesBuilder {
            addresses: Vec::new(),
            transport: Arc::new(transport),
            token: None,
            connect_timeout: Duration::from_secs(3),
            retry: (Duration::from_millis(100), Duration::from_secs(5)),
            patience: Duration::from_secs(5),
            withdraw_timeout: Duration::from_secs(5),
            told_limits: ToldLimits::default(),
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// The registries, and whether each has the node that was announced last, as far as is known.
    pub fn announced(&self) -> impl Iterator<Item = (&Address, bool)> {
        let has = self.0.announced.iter().map(|has| has.load(Ordering::Relaxed));
        self.0.addresses.iter().zip(has)
    }
}

impl RegistriesBuilder {
    /// One more registry.
    #[must_use]
    pub fn registry(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// What they are shown.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long one attempt to connect may take, the registry's welcome included. Default 3 s.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait before a registry is tried again: at first, and at most. Default 100 ms and
    /// 5 s.
    #[must_use]
    pub const fn retry(mut self, min: Duration, max: Duration) -> Self {
        self.retry = (min, max);
        self
    }

    /// How long a call waits until some registry has answered. Default 5 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long a withdrawal waits until all registries have answered it. Default 5 s.
    #[must_use]
    pub const fn withdraw_timeout(mut self, timeout: Duration) -> Self {
        self.withdraw_timeout = timeout;
        self
    }

    /// How much each registry may tell a watch. One that tells more is not listened to.
    #[must_use]
    pub const fn told_limits(mut self, limits: ToldLimits) -> Self {
        self.told_limits = limits;
        self
    }

    /// Where chance comes from: it spreads attempts over time.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Checks the addresses. Nobody is connected to before something is asked.
    ///
    /// # Errors
    /// [`RegistriesError`].
    pub fn build(self) -> Result<Registries, RegistriesError> {
        let mut addresses: Vec<Address> = Vec::new();
        for text in self.addresses {
            let Ok(address) = text.parse() else { return Err(RegistriesError::Address(text)) };
            if addresses.contains(&address) {
                return Err(RegistriesError::Twice(address));
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(RegistriesError::None);
        }
        Ok(Registries(Arc::new(Config {
            announced: addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            lines: addresses.iter().map(|_| Lines::default()).collect(),
            addresses,
            transport: self.transport,
            token: self.token,
            connect_timeout: self.connect_timeout,
            retry: self.retry,
            patience: self.patience,
            withdraw_timeout: self.withdraw_timeout,
            told_limits: self.told_limits,
            entropy: self.entropy,
        })))
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("addresses", &self.0.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegistriesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistriesBuilder")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// How long to wait after so many failures in a row.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        backoff::wait(self.retry, failures, &*self.entropy)
    }
}

#[async_trait]
impl Discovery for Registries {
    /// Waits until one registry has taken the node in, and goes on with the others. When none answers
    /// in time it goes on with all of them: a node may start before its registries.
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::Known(Box::new(Announcing::start(Arc::clone(&self.0), node).await?)))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        Ok(Box::new(Watching::start(Arc::clone(&self.0), interest.clone()).await?))
    }

    fn tells_topics(&self) -> bool {
        true
    }
}
