//! The programs of a cluster: each on a host of its own, and knowing nothing but where registries are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Backoff, Client, Cluster, ClusterError};
use ltq_discovery::registry::Registries;
use ltq_transport::{SimulatedNetwork, Transports};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{seen::Seen, simulation::Mistake};
use crate::{
    chance::Seeded,
    history::{History, What},
    plan::Part,
    simulation::Wrap,
};

/// What all programs have in common.
#[derive(Clone)]
pub(super) struct Programs {
    pub(super) network: SimulatedNetwork,
    pub(super) wrap: Wrap,
    pub(super) seed: u64,
    pub(super) history: History,
    /// The addresses of all registries.
    pub(super) registries: Vec<String>,
    /// What they want to hear, if anything.
    pub(super) token: Option<String>,
    /// How many clients were made.
    pub(super) made: Arc<AtomicU64>,
    /// How many watches.
    pub(super) watches: Arc<AtomicU64>,
    /// How many producers were opened.
    pub(super) lives: Arc<AtomicU64>,
    /// What nobody is to do but his work, and nobody crashes.
    pub(super) steady: watch::Receiver<bool>,
    pub(super) mistake: Option<Mistake>,
}

impl Programs {
    /// What a program on this host finds nodes by.
    #[expect(
        clippy::expect_used,
        reason = "a transport's scheme makes an address: that was seen when it was given"
    )]
    pub(super) fn discovery(&self, host: &str) -> Seen {
        let number = self.made.fetch_add(1, Relaxed);
        let mut registries = Registries::builder(self.transports(host))
            .connect_timeout(CONNECT_TIMEOUT)
            .patience(CONNECT_TIMEOUT)
            .entropy(self.chance(host, "registries", number));
        if let Some(token) = &self.token {
            registries = registries.token(token.clone());
        }
        for address in &self.registries {
            registries = registries.registry(address.clone());
        }
        Seen {
            registries: registries.build().expect("addresses"),
            host: host.to_owned(),
            history: self.history.clone(),
            watches: self.watches.clone(),
            misses_removals: self.mistake == Some(Mistake::MissesRemovals),
        }
    }

    /// A cluster as this host sees it.
    ///
    /// # Errors
    /// No registry says in time which nodes there are.
    pub(super) async fn cluster(&self, host: &str) -> Result<Cluster, ClusterError> {
        let number = self.made.fetch_add(1, Relaxed);
        let client = Client::builder()
            .transports(self.transports(host))
            .entropy(self.chance(host, "client", number))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(500)))
            .connect_timeout(CONNECT_TIMEOUT)
            .request_timeout(REQUEST_TIMEOUT);
        Cluster::builder().discovery(self.discovery(host)).client(client).connect().await
    }

    fn transports(&self, host: &str) -> Transports {
        Transports::new().with_arc((self.wrap)(self.network.host(host)))
    }

    fn chance(&self, host: &str, of: &str, number: u64) -> Arc<Seeded> {
        Arc::new(Seeded::of(self.seed, &format!("{of} {number} of {host}")))
    }

    /// Runs a program until it is done, or crashes with all that it has open, if it ever does.
    pub(super) async fn run(&self, part: &Part, program: impl Future<Output = ()>) {
        if self.is_steady() || !part.chance.one_in(3) {
            return program.await;
        }
        // Its system says goodbye for it, or its machine loses its power.
        let (after, silent) = (part.chance.millis(15_000), part.chance.one_in(2));
        let crash = async {
            sleep(after).await;
            if self.is_steady() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = crash => {
                self.network.cut(&part.name, silent);
                self.history.add(&part.name, What::Crashed);
            }
            () = program => {}
        }
    }

    pub(super) fn is_steady(&self) -> bool {
        *self.steady.borrow()
    }

    /// Closes a cluster as a program does that ends.
    pub(super) async fn close(&self, part: &Part, cluster: Cluster) {
        let closed = timeout(REQUEST_TIMEOUT * 2, cluster.close()).await;
        self.history.note(&part.name, format!("closes: {closed:?}"));
    }
}

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// By then what a client asks for is done, or is not.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
