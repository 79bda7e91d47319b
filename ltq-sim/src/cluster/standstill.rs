//! Processes that are stopped for a while, as SIGSTOP does it: their sockets stay open and take in what is sent,
//! time goes on, and afterwards everything is there at once.

use ltq_core::process::Process;

use super::{
    history::Scene,
    world::{Mend, World},
};
use crate::{history::What, stores::Stores};

impl<S: Stores> World<S> {
    /// Stops the process on a host, if there is one that runs. Whether there was.
    pub(super) fn stand_still(&self, host: &str) -> bool {
        let process = self.process(host).filter(|process| !process.is_stopped());
        let Some(process) = process else { return false };
        self.history.add(host, What::Cluster(Scene::StandsStill));
        process.stop();
        true
    }

    /// Lets the process on a host go on, if it was stopped.
    pub(super) fn go_on(&self, host: &str) {
        if let Some(process) = self.process(host).filter(|process| process.is_stopped()) {
            self.history.add(host, What::Cluster(Scene::GoesOn));
            process.go_on();
        }
    }

    /// Lets all of them go on.
    pub(super) fn all_go_on(&mut self) {
        self.mends.retain(|mend| !matches!(mend.1, Mend::GoOn(_)));
        self.hosts().iter().for_each(|host| self.go_on(host));
    }

    /// What runs on a host; `None` while nothing does.
    fn process(&self, host: &str) -> Option<&Process> {
        let node = self.members.iter().find(|it| it.name() == host && it.is_up());
        let registry = self.registries.iter().find(|it| it.name == host && it.is_up());
        let node = node.map(|it| &it.node.process);
        node.or(registry.map(|it| &it.process)).or_else(|| self.programs.get(host))
    }
}
