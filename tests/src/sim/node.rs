//! A node: the real broker and the real file store, on a simulated disk and network.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    chance::{Clock, Seeded},
    history::{History, What},
};
use ltq_core::{Broker, BrokerError, BrokerSettings, Environment, Transport};
use ltq_store::{FileStore, FileStoreOptions, simulation::SimulatedDisk};
use ltq_transport::SimulatedNetwork;

/// A node that can be killed, on a disk that outlives it.
pub struct Node {
    name: String,
    /// What it has its files on.
    pub disk: SimulatedDisk,
    network: SimulatedNetwork,
    settings: BrokerSettings,
    clock: Clock,
    chance: Seeded,
    history: History,
    running: Option<Broker<FileStore>>,
}

impl Node {
    /// One that is not started yet, on an empty disk.
    #[must_use]
    pub fn new(
        name: &str,
        network: SimulatedNetwork,
        settings: BrokerSettings,
        clock: Clock,
        chance: Seeded,
        history: History,
    ) -> Self {
        let disk = SimulatedDisk::default();
        Self {
            name: name.to_owned(),
            disk,
            network,
            settings,
            clock,
            chance,
            history,
            running: None,
        }
    }

    /// Whether it is there.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The broker, while it is there.
    #[must_use]
    pub const fn broker(&self) -> Option<&Broker<FileStore>> {
        self.running.as_ref()
    }

    /// Starts it on what its disk has.
    ///
    /// # Errors
    /// Its own.
    pub async fn start(&mut self) -> Result<(), BrokerError> {
        let options = FileStoreOptions::new(Path::new("/data"))
            .tail_bytes(128 << 10)
            .journal_file_bytes(128 << 10)
            .journal_bytes_max(2 << 20)
            .segment_bytes(64 << 10)
            .reserve_bytes(64 << 10)
            .file_system(Arc::new(self.disk.clone()))
            .simulated(Arc::new(self.chance.fork()), Duration::from_millis(self.chance.below(20)));
        let store = FileStore::open(options).await?;
        let environment =
            Environment::new(Arc::new(self.clock.clone()), Arc::new(self.chance.fork()));
        let broker = Broker::start(store, self.settings.clone(), environment).await?;
        self.network.set_down(&self.name, false);
        let host = self.network.host(self.name.clone());
        let address = ltq_core::Address::new("sim", self.name.clone());
        match host.listen(&address).await {
            Ok(listener) => {
                let broker = broker.clone();
                tokio::spawn(async move { broker.serve(listener).await });
            }
            Err(error) => self.history.note(&self.name, format!("cannot listen: {error}")),
        }
        self.history.add(&self.name, What::Started);
        self.running = Some(broker);
        Ok(())
    }

    /// Kills its process, or cuts the power of its machine: from this moment on nothing of it
    /// reaches its disk or anybody else.
    pub fn kill(&mut self, power: bool) {
        let Some(broker) = self.running.take() else { return };
        self.history.add(&self.name, What::Killed { power });
        self.network.set_down(&self.name, true);
        self.network.cut(&self.name, power && self.chance.one_in(2));
        let old = self.disk.clone();
        let mut chance = self.chance.chance();
        self.disk = if power { old.after_power_cut(&mut chance) } else { old.after_kill() };
        old.crash_at(0);
        // What is left of it does no harm any more, and ends.
        tokio::spawn(async move { broker.stop(Duration::ZERO).await });
    }

    /// Stops it as an operator does.
    pub async fn stop(&mut self, deadline: Duration) {
        let Some(broker) = self.running.take() else { return };
        let stopped = broker.stop(deadline).await;
        self.network.set_down(&self.name, true);
        self.network.cut(&self.name, false);
        self.history.add(&self.name, What::Stopped(stopped.map_err(|error| error.to_string())));
        // The process ends, and what it had open with it.
        let old = self.disk.clone();
        self.disk = old.after_kill();
        old.crash_at(0);
    }
}
