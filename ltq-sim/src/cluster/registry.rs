//! A registry that can be killed, and comes back knowing nobody.

use std::sync::Arc;

use ltq_core::{Address, SharedToken, process::Process};
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
    /// What whoever talks to it has to know, if anything.
    pub(super) token: Option<String>,
    /// What the tasks of the process that there is belong to.
    pub(super) process: Process,
    /// Those of them that it began with.
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
        let mut settings = RegistryServerSettings::default();
        if let Some(token) = &self.token {
            let token = SharedToken::new(token.as_str()).map_err(|error| error.to_string())?;
            settings.access = Arc::new(token);
        }
        let server = RegistryServer::new(settings, &self.chance.fork());
        let server = Arc::new(server.map_err(|error| error.to_string())?);
        let serving = Arc::clone(&server);
        self.process = Process::new();
        let run = self.process.run(async move { server.run().await });
        let serve = self.process.run(async move { drop(serving.serve(listener).await) });
        let tasks = [tokio::spawn(run).abort_handle(), tokio::spawn(serve).abort_handle()];
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
        // What is left of it ends.
        self.process.go_on();
    }
}
