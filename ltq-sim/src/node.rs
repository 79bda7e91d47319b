//! A node: a real broker on a real store, on a simulated disk and network.

use std::{sync::Arc, time::Duration};

use ltq_core::{Address, Broker, BrokerSettings, Environment, Store};
use ltq_store::simulation::SimulatedDisk;
use ltq_transport::SimulatedNetwork;

use crate::{
    chance::{Clock, Seeded},
    history::{History, What},
    simulation::Wrap,
    stores::{Place, Stores},
};

/// The name of the node, and of its host.
pub(crate) const NODE: &str = "node";

/// A node that can be killed, on a disk that outlives it.
pub(crate) struct Node<S: Stores> {
    pub(crate) stores: Arc<S>,
    /// What it has its files on.
    pub(crate) disk: SimulatedDisk,
    pub(crate) network: SimulatedNetwork,
    pub(crate) wrap: Wrap,
    pub(crate) settings: BrokerSettings,
    pub(crate) clock: Clock,
    pub(crate) chance: Seeded,
    pub(crate) history: History,
    pub(crate) running: Option<Broker<S::Store>>,
}

impl<S: Stores> Node<S> {
    /// Starts it on what its disk has.
    ///
    /// # Errors
    /// Why it does not start.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        let place = Place {
            disk: self.disk.clone(),
            entropy: Arc::new(self.chance.fork()),
            latency_max: Duration::from_millis(self.chance.below(20)),
        };
        let store = self.stores.open(place).await.map_err(|error| error.to_string())?;
        let environment =
            Environment::new(Arc::new(self.clock.clone()), Arc::new(self.chance.fork()));
        let broker = Broker::start(store, self.settings.clone(), environment).await;
        let broker = broker.map_err(|error| error.to_string())?;
        self.network.set_down(NODE, false);
        let host = (self.wrap)(self.network.host(NODE));
        let address = Address::new(host.scheme(), NODE);
        let listener = host.listen(&address).await.map_err(|error| error.to_string())?;
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        self.history.add(NODE, What::Started);
        self.running = Some(broker);
        Ok(())
    }

    /// Whether it is there and its store takes no commits any more.
    pub(crate) fn store_failed(&self) -> bool {
        self.running.as_ref().is_some_and(|broker| broker.store().health().is_err())
    }

    /// Kills its process, or cuts the power of its machine: from this moment on nothing of it
    /// reaches its disk or anybody else.
    pub(crate) fn kill(&mut self, power: bool) {
        let Some(broker) = self.running.take() else { return };
        self.history.add(NODE, What::Killed { power });
        self.network.set_down(NODE, true);
        self.network.cut(NODE, power && self.chance.one_in(2));
        let old = self.disk.clone();
        let mut chance = self.chance.chance();
        self.disk = if power { old.after_power_cut(&mut chance) } else { old.after_kill() };
        old.crash_at(0);
        // What is left of it does no harm any more, and ends.
        tokio::spawn(async move { broker.stop(Duration::ZERO).await });
    }

    /// Stops it as an operator does.
    pub(crate) async fn stop(&mut self, deadline: Duration) {
        let Some(broker) = self.running.take() else { return };
        let stopped = broker.stop(deadline).await;
        self.network.set_down(NODE, true);
        self.network.cut(NODE, false);
        self.history.add(NODE, What::Stopped(stopped.map_err(|error| error.to_string())));
        // The process ends, and what it had open with it.
        let old = self.disk.clone();
        self.disk = old.after_kill();
        old.crash_at(0);
    }
}
