//! The clients of a simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Backoff, Client};
use ltq_core::Transport;
use ltq_transport::{SimulatedNetwork, Transports};
use tokio::time::timeout;

use crate::{chance::Seeded, counted::Counted, node::NODE, points::Points, simulation::Wrap};

/// Makes clients.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) network: SimulatedNetwork,
    pub(crate) wrap: Wrap,
    pub(crate) seed: u64,
    /// How many were made.
    pub(crate) made: Arc<AtomicU64>,
}

impl Clients {
    /// Cuts a host's connections.
    pub(crate) fn cut(&self, host: &str) {
        self.network.cut(host, false);
    }

    /// Runs a program with a client of its host until it is done, or crashes if it ever does: after some
    /// time, or at a point of what it and its client do. Says whether it crashed.
    pub(crate) async fn run<F: Future<Output = ()>>(
        &self,
        host: &str,
        crashes: Option<&Seeded>,
        program: impl FnOnce(Client) -> F,
    ) -> bool {
        let points = Points::default();
        let program = program(self.client_of(host, points.clone()));
        let Some(chance) = crashes else {
            program.await;
            return false;
        };
        if chance.one_in(2) {
            return timeout(chance.millis(10_000), program).await.is_err();
        }
        let (network, name) = (self.network.clone(), host.to_owned());
        // Its system says goodbye for it, or its machine loses its power.
        let silent = chance.one_in(2);
        let strike = move |_| network.cut(&name, silent);
        points.arm(chance.below(1 << (1 + chance.below(10))), strike);
        let crashed = points.count(program).await.is_none();
        // Its client says goodbye still; the next one is another program.
        points.disarm();
        crashed
    }

    /// One more client of a host. It connects in the background.
    pub(crate) fn client(&self, host: &str) -> Client {
        self.client_of(host, Points::default())
    }

    #[expect(
        clippy::expect_used,
        reason = "a transport's scheme makes an address: that was seen when it was given"
    )]
    fn client_of(&self, host: &str, points: Points) -> Client {
        let number = self.made.fetch_add(1, Relaxed);
        let transport = Counted::new((self.wrap)(self.network.host(host)), points);
        let transport: Arc<dyn Transport> = Arc::new(transport);
        Client::builder()
            .server(&format!("{}://{NODE}", transport.scheme()))
            .transports(Transports::new().with_arc(transport))
            .entropy(Arc::new(Seeded::of(self.seed, &format!("client {number} of {host}"))))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(500)))
            .connect_timeout(Duration::from_secs(2))
            .request_timeout(REQUEST_TIMEOUT)
            .connect_in_background()
            .expect("an address")
    }
}

/// By then what a client asks for is done, or is not.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
