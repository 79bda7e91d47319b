//! The clients of a simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_client::{Backoff, Client};
use ltq_transport::{SimulatedNetwork, Transports};

use crate::{chance::Seeded, node::NODE, simulation::Wrap};

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

    /// One more client of a host. It connects in the background.
    #[expect(
        clippy::expect_used,
        reason = "a transport's scheme makes an address: that was seen when it was given"
    )]
    pub(crate) fn client(&self, host: &str) -> Client {
        let number = self.made.fetch_add(1, Relaxed);
        let transport = (self.wrap)(self.network.host(host));
        Client::builder()
            .server(&format!("{}://{NODE}", transport.scheme()))
            .transports(Transports::new().with_arc(transport))
            .entropy(Arc::new(Seeded::of(self.seed, &format!("client {number} of {host}"))))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(500)))
            .connect_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(10))
            .connect_in_background()
            .expect("an address")
    }
}
