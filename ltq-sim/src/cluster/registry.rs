//! A registry that can be killed, and comes back knowing nobody.

use std::sync::Arc;

use ltq_core::Address;
use ltq_discovery::registry::{RegistryServer, RegistryServerSettings};
use ltq_transport::SimulatedNetwork;
use tokio::task::AbortHandle;

use crate::{
    chance::Seeded,
    history::{History, What},
    simulation::Wrap,
};

/// A registry, on a host of its own.
pub(super) struct Registry {
    pub(super) name: String,
    pub(super) network: SimulatedNetwork,
    pub(super) wrap: Wrap,
    pub(super) chance: Seeded,
    pub(super) history: History,
    /// The tasks of the process that there is.
    pub(super) running: Vec<AbortHandle>,
}

impl Registry {
    pub(super) fn is_up(&self) -> bool {
        !self.running.is_empty()
    }

    /// Starts it, if it is not there.
    ///
    /// # Errors
    /// Why it does not start, in words.
    pub(super) async fn start(&mut self) -> Result<(), String> {
        if self.is_up() {
            return Ok(());
        }
        self.network.set_down(&self.name, false);
        let transport = (self.wrap)(self.network.host(self.name.as_str()));
        let address = Address::new(transport.scheme(), self.name.as_str());
        let listener = transport.listen(&address).await.map_err(|error| error.to_string())?;
        let settings = RegistryServerSettings::default();
        let server = RegistryServer::new(settings, &self.chance.fork());
        let server = Arc::new(server.map_err(|error| error.to_string())?);
        let serving = Arc::clone(&server);
        let tasks = [
            tokio::spawn(async move { server.run().await }).abort_handle(),
            tokio::spawn(async move { drop(serving.serve(listener).await) }).abort_handle(),
        ];
        self.running = tasks.into();
        self.history.add(&self.name, What::Started);
        Ok(())
    }

    /// Kills it, and everybody who talked to it is told, or, when its machine loses its power, is not.
    ///
    /// Its sessions are cut off and end by themselves. The server is not stopped: that would wake them all
    /// at once, in an order that no seed says.
    pub(super) fn kill(&mut self, power: bool) {
        if !self.is_up() {
            return;
        }
        self.history.add(&self.name, What::Killed { power });
        self.network.set_down(&self.name, true);
        self.network.cut(&self.name, power);
        self.running.drain(..).for_each(|task| task.abort());
    }
}
