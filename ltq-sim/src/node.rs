//! A node: a real broker on a real store, on a simulated disk and network.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_core::{
    Address, Broker, BrokerSettings, Environment, Store, Timestamp, Transport, WallClock as _,
    process::Process,
};
use ltq_store::{
    FileSystem,
    simulation::{DiskFailure, SimulatedDisk},
};
use ltq_transport::SimulatedNetwork;

use crate::{
    chance::{Clock, Seeded},
    counted::Counted,
    history::{History, What},
    points::{Looked, Point, Points},
    simulation::Wrap,
    stores::{Place, Stores},
};

/// The name of the only node that there is, and of its host.
pub(crate) const NODE: &str = "node";

/// A node that can be killed, on a disk that outlives it.
pub(crate) struct Node<S: Stores> {
    /// Its name, and that of its host.
    pub(crate) name: String,
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
    /// What the tasks of the one that there is belong to.
    pub(crate) process: Process,
    pub(crate) life: Life,
}

/// What belongs to one process, from its start to its end.
#[derive(Default)]
pub(crate) struct Life {
    points: Points,
    /// Whether it loses its power where it is struck.
    power: bool,
    /// Whether its disk failed it.
    failed: Arc<AtomicBool>,
}

/// What comes over a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doom {
    /// It is killed at the point behind so many others.
    Killed { after: u64, power: bool },
    /// Its disk stops at the change behind so many others.
    DiskStops { after: u64 },
}

/// Why a node is not there.
pub(crate) enum NotStarted {
    /// It was killed before.
    Killed,
    /// It gave up, in words.
    Failed(String),
}

impl<S: Stores> Node<S> {
    /// Starts it on what its disk has; its doom may come while it starts, or later.
    ///
    /// # Errors
    /// Why it does not start.
    pub(crate) async fn start(&mut self, doom: Option<Doom>) -> Result<(), NotStarted> {
        self.life = Life::default();
        self.process = Process::new();
        // A process that starts has those of its own.
        self.disk.set_descriptors(None, false);
        self.watch_disk();
        if let Some(doom) = doom {
            self.doom(doom);
        }
        let points = self.life.points.clone();
        let opened = tokio::select! {
            biased;
            opened = self.process.run(self.open()) => opened,
            () = points.struck() => Err(String::new()),
        };
        if points.has_struck() {
            self.running = opened.ok();
            self.bury(self.life.power);
            return Err(NotStarted::Killed);
        }
        let serving = match opened {
            Ok(broker) => self.serve(broker).await,
            Err(why) => Err(why),
        };
        serving.map_err(|why| {
            // Its process ends.
            self.bury(false);
            NotStarted::Failed(why)
        })
    }

    async fn open(&self) -> Result<Broker<S::Store>, String> {
        let place = Place { disk: self.disk.clone(), entropy: Arc::new(self.chance.fork()) };
        let store = self.stores.open(place).await.map_err(|error| error.to_string())?;
        let clock = Looked(self.clock.clone(), self.life.points.clone());
        let environment = Environment::new(Arc::new(clock), Arc::new(self.chance.fork()));
        let broker = Broker::start(store, self.settings.clone(), environment).await;
        broker.map_err(|error| error.to_string())
    }

    async fn serve(&mut self, broker: Broker<S::Store>) -> Result<(), String> {
        self.network.set_down(&self.name, false);
        let host = self.transport();
        let address = Address::new(host.scheme(), self.name.as_str());
        let listener = host.listen(&address).await.map_err(|error| error.to_string())?;
        let serving = broker.clone();
        tokio::spawn(self.process.run(async move { serving.serve(listener).await }));
        self.history.add(&self.name, What::Started);
        self.running = Some(broker);
        Ok(())
    }

    /// What its wall clock says.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What the process that there is talks through.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        let host = (self.wrap)(self.network.host(self.name.as_str()));
        Arc::new(Counted::new(host, self.life.points.clone()))
    }

    /// Each change of the disk is a point, and what fails is written down.
    fn watch_disk(&self) {
        let points = self.life.points.clone();
        self.disk.meanwhile(Some(Arc::new(move || points.pass(Point::Disk))));
        let (history, failed) = (self.history.clone(), self.life.failed.clone());
        let name = self.name.clone();
        self.disk.on_failure(Some(Arc::new(move |failure| {
            failed.store(true, Relaxed);
            let lost = match failure {
                // Nothing is wrong with what is there.
                DiskFailure::Open
                | DiskFailure::Read
                | DiskFailure::Write
                | DiskFailure::NoRoom => false,
                DiskFailure::Sync | DiskFailure::Name | DiskFailure::Stopped => true,
            };
            history.add(&name, What::DiskFailed { lost, failure });
        })));
    }

    /// Lets its doom come over it.
    pub(crate) fn doom(&mut self, doom: Doom) {
        match doom {
            Doom::Killed { after, power } => {
                self.life.power = power;
                let blow = self.blow(power);
                self.life.points.arm(after, blow);
            }
            Doom::DiskStops { after } => {
                self.disk.crash_at(self.disk.operations() + 1 + after);
            }
        }
    }

    /// Resolves when it is killed at a point.
    pub(crate) fn struck(&self) -> impl Future<Output = ()> + use<S> {
        let points = self.life.points.clone();
        async move { points.struck().await }
    }

    /// What kills it: from this moment on nothing of it reaches its disk or anybody else.
    fn blow(&self, power: bool) -> impl FnOnce(Point) + Send + use<S> {
        let (history, network) = (self.history.clone(), self.network.clone());
        let (disk, silent) = (self.disk.clone(), power && self.chance.one_in(2));
        let name = self.name.clone();
        move |point| {
            history.add(&name, What::Killed { power });
            network.set_down(&name, true);
            network.cut(&name, silent);
            disk.on_failure(None);
            // A write that it is at may be done in part.
            disk.crash_at(if point == Point::Disk { disk.operations() + 1 } else { 0 });
        }
    }

    /// Whether it is there and its store takes no commits any more.
    pub(crate) fn store_failed(&self) -> bool {
        let health = self.running.as_ref().map(|broker| broker.store().health());
        let Some(Err(why)) = health else { return false };
        self.history.add(&self.name, What::StoreFailed(why.to_string()));
        true
    }

    /// Whether its disk failed it since it was started, or has a limit, which it may know by itself.
    pub(crate) fn disk_failed(&self) -> bool {
        let full = self.disk.free_space(Path::new("/")).is_ok_and(|bytes| bytes < u64::MAX);
        self.life.failed.load(Relaxed) || self.disk.has_stopped() || full
    }

    /// Kills its process, or cuts the power of its machine, whether or not the node is there. One that
    /// was struck at a point is dead already: its machine is what is left to look after.
    pub(crate) fn kill(&mut self, power: bool) {
        if self.life.points.has_struck() {
            return self.bury(self.life.power);
        }
        if power || self.running.is_some() {
            self.blow(power)(Point::Other);
            self.bury(power);
        }
    }

    /// What is left: what its disk has, with all that is wrong with that.
    fn bury(&mut self, power: bool) {
        let old = self.disk.clone();
        let mut chance = self.chance.chance();
        self.disk = if power { old.after_power_cut(&mut chance) } else { old.after_kill() };
        self.disk.goes_wrong_as(&old);
        self.network.set_down(&self.name, true);
        old.on_failure(None);
        old.meanwhile(None);
        old.crash_at(0);
        // What is left of it ends.
        self.process.go_on();
        // It cannot die again.
        self.life.points.disarm();
        self.life.points = Points::default();
        if let Some(broker) = self.running.take() {
            // What is left of it does no harm any more, and ends.
            tokio::spawn(async move { broker.stop(Duration::ZERO).await });
        }
    }

    /// Stops it as an operator does. Its doom may come before that is done.
    pub(crate) async fn stop(&mut self, deadline: Duration) {
        let Some(broker) = self.running.clone() else { return };
        self.process.go_on();
        let stopped = tokio::select! {
            biased;
            stopped = broker.stop(deadline) => stopped,
            () = self.life.points.struck() => Ok(()),
        };
        if self.life.points.has_struck() {
            return self.bury(self.life.power);
        }
        self.running = None;
        self.network.set_down(&self.name, true);
        self.network.cut(&self.name, false);
        self.history.add(&self.name, What::Stopped(stopped.map_err(|error| error.to_string())));
        // The process ends, and what it had open with it.
        self.bury(false);
    }
}
